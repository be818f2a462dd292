"""Lines followed beyond their ends."""

import numpy as np

from crackvae.tracing.findings import trace_findings
from crackvae.tracing.following import followed


def test_a_line_in_a_dark_field_without_end_is_given_up() -> None:
    """Where everything ahead looks like the line, a path could go round in circles for ever."""
    pixels = np.full((400, 400), 180, np.uint8)
    ring = np.hypot(*(np.mgrid[:400, :400] - 200))
    pixels[np.abs(ring - 100) < 4] = 60
    angle = np.linspace(0, 0.8, 80)
    points = 200 + 100 * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    path = followed(pixels, np.zeros_like(pixels, bool), points, 7.0)
    assert 50 < len(path) <= 201


def test_a_hole_is_not_followed() -> None:
    pixels = np.full((400, 400), 180, np.uint8)
    y, x = np.mgrid[:400, :400]
    hole, joint = np.hypot((y - 150) / 50, (x - 150) / 36) < 1, (abs(x - 300) < 2) & (abs(y - 200) < 180)
    pixels[hole | joint] = 40
    pixels[150:, 135:166] = 40  # a dark run from the hole to the border
    (found,) = trace_findings(pixels, np.where(hole | joint, 255, 0).astype(np.uint8))
    assert 295 < found["left_px"] < 305
