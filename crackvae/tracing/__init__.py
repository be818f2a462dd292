"""Cracks and joints of a photograph as lines with a length and widths, from its map of crack probabilities."""
