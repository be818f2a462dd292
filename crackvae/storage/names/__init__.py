"""Names of images as text: spellings of Unicode, entries of archives, pages and excerpts of files."""
