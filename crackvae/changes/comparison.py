"""The table of changes: the findings of a pair of photographs before and after, one row per finding.

Shape letters: H, W rows and columns of an image; K points of a trace.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import ndimage

from crackvae.changes.matching import INTERVAL, Change, Trace, match
from crackvae.changes.registration import Registration, register

CHANGES_SCHEMA = pa.schema(
    [
        ("finding", pa.string()),  # at the later visit; "" where it is gone or not seen
        ("previous", pa.string()),  # the finding of the visit before, or ""
        ("history", pa.string()),  # the finding at the first visit that had it: the same over all visits
        ("image", pa.string()),
        ("previous_image", pa.string()),
        ("status", pa.string()),  # new | grown | static | gone | not seen | unmatched
        ("reason", pa.string()),  # why nothing is claimed, or ""
        ("length_change_px", pa.float32()),  # later minus earlier, in pixels of the later photograph; NaN without both
        ("length_change_low_px", pa.float32()),  # 90 % interval
        ("length_change_high_px", pa.float32()),
        ("width_change_px", pa.float32()),
        ("width_change_low_px", pa.float32()),
        ("width_change_high_px", pa.float32()),
        ("residual_px", pa.float32()),  # of the registration of the pair; NaN where it is unmatched
    ]
)

# Surroundings at most this dark, or at least this bright, show no crack [grey level].
BLACK, WHITE = 12, 250

# Side of these surroundings [px]: wider than a crack, which is dark itself.
AROUND_PX = 41

OTHER_MODEL = "the photographs were scored by different models: score the earlier one again with the later model"


def traces_of(findings: Sequence[dict[str, Any]]) -> list[Trace]:
    """Rows of FINDINGS_SCHEMA as traces; the gaps between branches, and rows without a trace, are left out."""
    traces = []
    for row in findings:
        points_K2 = np.c_[np.asarray(row["x_px"], float), np.asarray(row["y_px"], float)]
        is_point_K = np.isfinite(points_K2).all(1)
        if is_point_K.any():
            traces.append(
                Trace(
                    row["finding"],
                    points_K2[is_point_K],
                    np.asarray(row["widths_px"], float)[is_point_K],
                    row["length_px"],
                    row["length_sigma_px"],
                    row["width_mean_px"],
                    row["width_sigma_px"],
                )
            )
    return traces


def compare(
    before: Sequence[dict[str, Any]],
    after: Sequence[dict[str, Any]],
    images: tuple[str, str],
    pixels: tuple[np.ndarray, np.ndarray],
    history: dict[str, str],
) -> pa.Table:
    """Rows of CHANGES_SCHEMA for one pair of photographs.

    Args:
        before, after: their findings, rows of FINDINGS_SCHEMA.
        images: names of the earlier and the later photograph.
        pixels: both, grey, uint8 (H, W).
        history: `history` of earlier findings, from the table of the visit before; an id that is missing starts one.
    """
    if len({row["model"] for row in (*before, *after)}) > 1:
        return _rows(_unmatched(before, after, OTHER_MODEL), images, math.nan, history)
    registration = register(*pixels)
    if not registration.is_matched:
        return _rows(_unmatched(before, after, registration.reason), images, math.nan, history)
    changes = _matched(before, after, registration, pixels)
    return _rows(changes, images, registration.residual_px, history)


def _matched(
    before: Sequence[dict[str, Any]],
    after: Sequence[dict[str, Any]],
    registration: Registration,
    pixels: tuple[np.ndarray, np.ndarray],
) -> list[Change]:
    return match(traces_of(before), traces_of(after), registration, *map(_shown, pixels))


def _shown(pixels_HW: np.ndarray) -> np.ndarray:
    """Where a crack would be seen: not in the black or the white of a wrong exposure or a shadow, bool (H, W)."""
    around_HW = ndimage.uniform_filter(pixels_HW, AROUND_PX)
    return np.asarray((around_HW > BLACK) & (around_HW < WHITE))


def _unmatched(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]], reason: str) -> list[Change]:
    later = [Change("unmatched", row["finding"], "", reason=reason) for row in after]
    return later + [Change("unmatched", "", row["finding"], reason=reason) for row in before]


def _rows(changes: Sequence[Change], images: tuple[str, str], residual_px: float, history: dict[str, str]) -> pa.Table:
    rows = []
    for one in changes:
        first = history.get(one.before, one.before) if one.before else one.after
        row: dict[str, Any] = {"finding": one.after, "previous": one.before, "history": first, "status": one.status}
        row |= {"image": images[1], "previous_image": images[0], "reason": one.reason, "residual_px": residual_px}
        for name, value, sigma in (
            ("length", one.length_px, one.length_sigma_px),
            ("width", one.width_px, one.width_sigma_px),
        ):
            row[f"{name}_change_px"] = value
            row[f"{name}_change_low_px"] = value - INTERVAL * sigma
            row[f"{name}_change_high_px"] = value + INTERVAL * sigma
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=CHANGES_SCHEMA)
