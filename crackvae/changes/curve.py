"""The history of a finding over any number of visits: its sizes at one scale, as rows and as a curve."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

# Width and height of a curve [px], and its margin.
WIDTH_PX, HEIGHT_PX, MARGIN_PX = 180, 54, 6


@dataclass(frozen=True)
class Size:
    """A finding at one visit, in pixels of the photograph of the last visit."""

    taken: datetime | None
    length_px: float
    width_px: float


def sizes_of(rows: Sequence[Mapping[str, Any]]) -> list[Size]:
    """The sizes of a finding at all its visits, oldest first.

    Photographs have different scales: each comparison measures both of its visits in pixels of the later one, so that
    the visits before are converted by the ratio of what two comparisons say of the visit that they share.

    Args:
        rows: CHANGES_SCHEMA rows of one history, in order of their comparisons.
    """
    found: list[Size] = []
    length_px = width_px = math.nan
    for row in reversed([row for row in rows if row["finding"]]):
        if not found:
            length_px, width_px = row["length_px"], row["width_px"]
            found.append(Size(row["taken"], length_px, width_px))
        if not row["previous"]:
            break
        length_px *= row["previous_length_px"] / row["length_px"]
        width_px *= row["previous_width_px"] / row["width_px"]
        found.append(Size(row["previous_taken"], length_px, width_px))
    return found[::-1]


def points_of(values: Sequence[float]) -> list[tuple[float, float]]:
    """Places of the values of a curve [px], x to the right, y downwards, 0 at the bottom; none for fewer than three."""
    if len(values) < 3 or not all(map(math.isfinite, values)):
        return []
    highest = max(values) or 1.0
    step = (WIDTH_PX - 2 * MARGIN_PX) / (len(values) - 1)
    height = HEIGHT_PX - 2 * MARGIN_PX
    return [
        (round(MARGIN_PX + k * step, 1), round(HEIGHT_PX - MARGIN_PX - height * value / highest, 1))
        for k, value in enumerate(values)
    ]
