"""Names of images as text: spellings of Unicode, entries of archives, and pictures that are parts of a file."""
