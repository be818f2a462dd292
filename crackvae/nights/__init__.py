"""Nights: the verb `nightly`, which runs belong to a night, and the verdict on it."""
