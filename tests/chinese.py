"""English left over on a Chinese page."""

import re

# Four English words in a row, beyond names of classes and columns, ids, papers and commands to type.
ENGLISH_SENTENCE = re.compile(r"(?:\b[A-Za-z][a-z'-]+\b[ ,;:.]+){3,}\b[a-z][a-z'-]+\b")

# In lower case only: no name of a person, a method or a file.
ENGLISH_WORD = re.compile(r"(?<![A-Za-z0-9_./-])[a-z]{4,}(?![A-Za-z0-9_./-])")
