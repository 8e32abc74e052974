"""Lightning callbacks of a training: best weights, averaged weights, random states, progress."""
