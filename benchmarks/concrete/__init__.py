"""Candidate detector at the native scale of the photographs; the package `crackvae` does not use it."""
