"""English that is left in a page in Chinese."""

import re

# Four English words in a row, beyond names of classes and columns, ids, papers and commands to type.
ENGLISH_SENTENCE = re.compile(r"(?:\b[A-Za-z][a-z'-]+\b[ ,;:.]+){3,}\b[a-z][a-z'-]+\b")
