"""What watches a training: kept weights, averaged weights, random states, progress."""
