"""Findings for other programs and for clients: one module a format."""
