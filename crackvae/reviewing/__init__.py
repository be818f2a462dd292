"""Judging the images of a night together: the server of the page, and the log of verdicts behind it."""
