"""Colours of findings by their kind, for pages and exports."""

# Okabe & Ito's palette, safe for colour-blind readers.
KIND_COLOURS = {"crack": "#d55e00", "joint": "#56b4e9", "unclear": "#e69f00"}
