"""One pair of photographs compared: the findings before and after, one row per finding.

Shape letters: H, W rows and columns of an image; K points of a trace.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from crackvae.changes.matching import Change, Trace, match, reach_of
from crackvae.changes.visible import shows_too
from crackvae.errors import UnreadableImage
from crackvae.images.registration import Registration, register, scale_at, transformed, unmatched
from crackvae.storage.tables.changes import CHANGES_COLUMN, CHANGES_TYPE, PAIRS_SCHEMA
from crackvae.storage.tables.findings import COVERS_90, FINDINGS_TYPE
from crackvae.storage.tables.traces import trace_of
from crackvae.storage.uris import reason

# A pair that is to be compared, as it travels to a worker.
TO_COMPARE_SCHEMA = pa.schema(
    [
        ("image", pa.string()),  # "" where an earlier photograph has no later one
        ("previous_image", pa.string()),
        ("group", pa.string()),
        ("reason", pa.string()),  # why it cannot be compared, where that is known beforehand, or ""
        ("before", FINDINGS_TYPE),
        ("after", FINDINGS_TYPE),
        ("run", pa.string()),
        ("bytes", pa.int64()),  # of both files
    ]
)
COMPARED_SCHEMA = PAIRS_SCHEMA.append(pa.field(CHANGES_COLUMN, CHANGES_TYPE))

# Surroundings at most this dark, or at least this bright, show no crack [grey level].
BLACK, WHITE = 12, 250

# Of a finding that is not new, or not gone, though it was traced at one visit only.
SHOWN_TOO = "the other photograph shows a line at its place, which was not traced there"

# Side of these surroundings [px]: wider than a crack, which is dark itself.
AROUND_PX = 41


def compared_rows(pairs: pa.Table, read_pixels: Callable[[str], np.ndarray]) -> pa.Table:
    """COMPARED_SCHEMA rows of TO_COMPARE_SCHEMA rows, in their order.

    Args:
        read_pixels: grey pixels of an image, uint8 (H, W); raises UnreadableImage or OSError.
    """
    return pa.Table.from_pylist([compare(pair, read_pixels) for pair in pairs.to_pylist()], schema=COMPARED_SCHEMA)


def compare(pair: Mapping[str, Any], read_pixels: Callable[[str], np.ndarray]) -> dict[str, Any]:
    """One row of COMPARED_SCHEMA: what became of each finding of a pair of photographs.

    A pair in which nothing was found at either visit is not registered: there is nothing to claim about it.
    """
    found = {name: pair[name] for name in ("image", "previous_image", "group", "run")}
    found |= {"residual_px": math.nan, "overlap": math.nan, "homography": [], "reason": pair["reason"]}
    if not (pair["image"] and pair["previous_image"]):
        is_later = bool(pair["image"])
        changes = [_unclaimed(row, "not seen", pair["reason"], is_later=is_later) for row in _findings(pair)]
        return found | {"status": "no partner", CHANGES_COLUMN: _rows(changes, pair, math.nan)}
    if not pair["reason"] and not _findings(pair):
        return found | {"status": "nothing found", CHANGES_COLUMN: []}
    pixels, why_not = _pixels(pair, read_pixels)
    registration = register(*pixels) if pixels else unmatched(why_not)
    if not (pixels and registration.is_matched):
        changes = [_unclaimed(row, "unmatched", registration.reason, is_later=True) for row in pair["after"]]
        changes += [_unclaimed(row, "unmatched", registration.reason, is_later=False) for row in pair["before"]]
        rows = _rows(changes, pair, math.nan)
        return found | {"status": "unmatched", "reason": registration.reason, CHANGES_COLUMN: rows}
    traces = traces_of(pair["before"]), traces_of(pair["after"])
    changes = _unless_shown(match(*traces, registration, *map(_shown, pixels)), traces, pixels, registration)
    return found | _registered(registration) | {CHANGES_COLUMN: _rows(changes, pair, registration.residual_px)}


def _findings(pair: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [*pair["after"], *pair["before"]]


def _pixels(
    pair: Mapping[str, Any], read_pixels: Callable[[str], np.ndarray]
) -> tuple[tuple[np.ndarray, np.ndarray] | None, str]:
    """Both photographs, the earlier one first, or why they cannot be had."""
    if pair["reason"]:
        return None, pair["reason"]
    try:
        return (read_pixels(pair["previous_image"]), read_pixels(pair["image"])), ""
    except UnreadableImage as error:
        return None, f"a photograph can no longer be read: {error}"
    except OSError as error:
        return None, f"a photograph can no longer be fetched: {reason(error)}"


def _registered(registration: Registration) -> dict[str, Any]:
    return {
        "status": "compared",
        "residual_px": registration.residual_px,
        "overlap": registration.overlap,
        "homography": registration.matrix_33.ravel().tolist(),
    }


def traces_of(findings: Sequence[Mapping[str, Any]]) -> list[Trace]:
    """Rows of FINDINGS_SCHEMA as traces; the gaps between branches, and rows without a trace, are left out."""
    traces = []
    for row in findings:
        points_K2 = trace_of(row)
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


def _shown(pixels_HW: np.ndarray) -> np.ndarray:
    """Where a crack would be seen: not in the black or the white of a wrong exposure or a shadow, bool (H, W)."""
    around_HW = cv2.blur(pixels_HW, (AROUND_PX, AROUND_PX))
    return np.asarray((around_HW > BLACK) & (around_HW < WHITE))


def _unless_shown(
    changes: Sequence[Change],
    traces: tuple[Sequence[Trace], Sequence[Trace]],
    pixels: tuple[np.ndarray, np.ndarray],
    registration: Registration,
) -> list[Change]:
    """A finding without a partner is static where the other photograph shows its line, though none was traced there."""
    forth_33 = registration.matrix_33
    back_33 = np.linalg.inv(forth_33)
    before, after = ({trace.finding: trace for trace in one} for one in traces)
    reach_px = reach_of(registration)

    def is_shown(change: Change) -> bool:
        is_new = change.status == "new"
        trace, to_other_33 = (after[change.after], back_33) if is_new else (before[change.before], forth_33)
        own_HW, other_HW = pixels[::-1] if is_new else pixels
        other_K2 = transformed(to_other_33, trace.points_K2)
        width_px = trace.width_px if math.isfinite(trace.width_px) else 1.0
        widths_px = width_px, width_px * float(scale_at(to_other_33, trace.points_K2).mean())
        return shows_too(own_HW, trace.points_K2, other_HW, other_K2, widths_px, reach_px)

    return [
        replace(change, status="static", reason=SHOWN_TOO)
        if change.status in ("new", "gone") and is_shown(change)
        else change
        for change in changes
    ]


def _unclaimed(row: Mapping[str, Any], status: str, why: str, *, is_later: bool) -> Change:
    after, before = (row["finding"], "") if is_later else ("", row["finding"])
    return Change(status, after, before, reason=why)


def _rows(changes: Sequence[Change], pair: Mapping[str, Any], residual_px: float) -> list[dict[str, Any]]:
    """Rows of CHANGES_SCHEMA."""
    before, after = ({row["finding"]: row for row in pair[visit]} for visit in ("before", "after"))
    rows = []
    for one in changes:
        later, earlier = after.get(one.after), before.get(one.before)
        known = later or earlier or {}
        mm_per_px = float(later["mm_per_px"] or math.nan) if later else math.nan
        row = {name: pair[name] for name in ("image", "previous_image", "group", "run")}
        row |= {"finding": one.after, "previous": one.before, "history": one.before or one.after}
        row |= {"kind": known["kind"], "status": one.status, "reason": one.reason, "residual_px": residual_px}
        row |= dict(zip(("length_px", "width_px", "previous_length_px", "previous_width_px"), one.sizes, strict=True))
        for name, value, sigma in (
            ("length", one.length_px, one.length_sigma_px),
            ("width", one.width_px, one.width_sigma_px),
        ):
            row[f"{name}_change_px"] = value
            row[f"{name}_change_low_px"] = value - COVERS_90 * sigma
            row[f"{name}_change_high_px"] = value + COVERS_90 * sigma
            row[f"{name}_change_mm"] = value * mm_per_px
        row |= {"mm_per_px": mm_per_px, "model": known["model"], "verdict": ""}
        row |= {"taken": later and later["taken"], "previous_taken": earlier and earlier["taken"]}
        rows.append(row)
    return rows
