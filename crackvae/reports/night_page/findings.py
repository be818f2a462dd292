"""Findings on the page of a night: in words, as lines on a picture, as width profiles, and summed up by group.

Shape letters: h, w rows and columns of a picture.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, ImageDraw

from crackvae.images.metadata.places import coarsened
from crackvae.reports.charts.place_map import place_map
from crackvae.reports.colours import KIND_COLOURS
from crackvae.reports.night_page.nights import total
from crackvae.reports.page import as_json, number
from crackvae.storage.tables.findings import COVERS_90
from crackvae.storage.tables.traces import branches_of, trace_of
from crackvae.storage.tables.verdicts import NO_CRACK, may_be_cracks

# Findings of one photograph, and of the groups of a night, that are listed, the longest first.
MAX_LISTED, MAX_LISTED_BY_GROUP = 10, 100

# Pairs of photographs that a page compares, the nearest: about half a minute of processor time.
MAX_PAIRS = 60

# Width and height of a width profile, and its number of points.
PROFILE_PX, PROFILE_POINTS = (180, 36), 90

# Columns of the summary by group; a sum of millimetres is NaN where one of them is not known.
_GROUP_SUMS = [
    *((f"length_{unit}", sum_or_max) for unit in ("px", "mm") for sum_or_max in ("sum", "max")),
    ("width_max_px", "max"),
    ("width_max_mm", "max"),
    ("image", "count_distinct"),
    ("finding", "count"),
]


@dataclass(frozen=True)
class NightFindings:
    """The findings of a night.

    Attributes:
        table: FINDINGS_SCHEMA with verdicts, and view_of: the finding that shows the same crack in another photograph,
            or "".
        n_compared, n_near: pairs of photographs that were compared for it, of those taken near each other.
    """

    table: pa.Table
    n_compared: int
    n_near: int

    @cached_property
    def cracks(self) -> pa.Table:
        """Findings that are no joint, each crack once; where reviewers agree on one, their verdict counts instead."""
        return self.table.filter(pc.and_(self._is_crack, pc.equal(self.table["view_of"], "")))

    @property
    def n_joints(self) -> int:
        """Number of joints, but for those that are a crack, as reviewers agree."""
        return total(pc.and_not(self._is_traced_joint, self._is_crack))

    @property
    def n_refuted(self) -> int:
        """Number of findings that are no joint and no crack either, as reviewers agree."""
        return total(pc.invert(pc.or_(self._is_traced_joint, self._is_crack)))

    @property
    def _is_crack(self) -> pa.ChunkedArray:
        return may_be_cracks(self.table)

    @property
    def _is_traced_joint(self) -> pa.ChunkedArray:
        return pc.equal(self.table["kind"], "joint")

    @cached_property
    def also_on(self) -> dict[str, list[str]]:
        """By finding, the other photographs that show it."""
        found: dict[str, list[str]] = {}
        for main, image in zip(self.table["view_of"].to_pylist(), self.table["image"].to_pylist(), strict=True):
            if main and image not in found.setdefault(main, []):
                found[main].append(image)
        return found


def with_views(findings: pa.Table, each: Callable[..., Iterable[Any]]) -> NightFindings:
    """Find out which findings of a night show the same crack.

    Args:
        each: as map(), from an executor of threads.
    """
    if not findings.num_rows:
        return NightFindings(findings.append_column("view_of", pa.array([], pa.string())), 0, 0)
    from crackvae.reports.overlaps import views_of  # imported here: it takes 0.3 s, which a page without findings saves

    is_joint = pc.equal(findings["kind"], "joint")
    cracks, joints = findings.filter(pc.invert(is_joint)), findings.filter(is_joint)
    views = views_of(cracks, MAX_PAIRS, each)
    table = pa.concat_tables(
        [
            cracks.append_column("view_of", pa.array(views.view_of, pa.string())),
            joints.append_column("view_of", pa.array([""] * joints.num_rows, pa.string())),
        ]
    )
    return NightFindings(table, views.n_compared, views.n_near)


def by_image(findings: pa.Table, images: list[str]) -> dict[str, list[dict[str, Any]]]:
    """The findings of some images, joints last, the longest first; an image without one is missing."""
    found: dict[str, list[dict[str, Any]]] = {}
    chosen = findings.filter(pc.is_in(findings["image"], value_set=pa.array(images, pa.string()))).to_pylist()
    for one in sorted(chosen, key=lambda one: (one["kind"] == "joint", -one["length_px"])):
        found.setdefault(one["image"], []).append(one)
    return found


def in_words(findings: list[dict[str, Any]], mm_per_px: float | None) -> str:
    """What the findings of one image are, as reviewers agree, with the size of the longest crack; "" without any."""
    if not findings:
        return ""
    kinds = [one["verdict"] or one["kind"] for one in findings]
    counts = [(kind, kinds.count(kind)) for kind in KIND_COLOURS]
    names = [f"{n} {kind}{'s' if n > 1 and kind != 'unclear' else ''}" for kind, n in counts if n]
    if n := kinds.count("sound"):
        names.append(f"{n} that reviewers call sound")
    cracks = [one for one, kind in zip(findings, kinds, strict=True) if kind not in NO_CRACK]
    longest = max(cracks, key=lambda one: one["length_px"], default=None)
    size = f"; the longest: {size_in_words(longest, mm_per_px)}" if longest else ""
    return f"{', '.join(names)}{size}"


def size_in_words(one: dict[str, Any], mm_per_px: float | None) -> str:
    """Length and width of a finding with uncertainties that cover 90 %, in millimetres where the scale is known."""
    scale = one["mm_per_px"] if one["mm_per_px"] == one["mm_per_px"] else mm_per_px
    length = _with_uncertainty(one["length_px"], one["length_sigma_px"], 0, scale)
    if math.isnan(one["width_mean_px"]):
        return f"length {length}, width not measurable"
    mean = _with_uncertainty(one["width_mean_px"], one["width_sigma_px"], 1, scale)
    most = _with_uncertainty(one["width_max_px"], one["width_max_sigma_px"], 1, scale)
    return f"length {length}, width {mean} on average, {most} at most"


def _with_uncertainty(value: float, sigma: float, digits: int, mm_per_px: float | None) -> str:
    text = f"{value:,.{digits}f} ± {max(COVERS_90 * sigma, 10.0**-digits):.{digits}f} px"
    if mm_per_px is None:
        return text
    return f"{text} ({number(value * mm_per_px)} mm)"


def listed(
    findings: list[dict[str, Any]], also_on: dict[str, list[str]], mm_per_px: float | None
) -> list[dict[str, Any]]:
    """Rows of a table of findings.

    Args:
        also_on: by finding, the other photographs that show it.
    """
    return [
        {
            "id": one["finding"],
            "subject": as_json({name: one[name] for name in ("image", "finding")}),
            "image": one["image"],
            "also_on": also_on.get(one["finding"], []),
            "kind": one["kind"],
            "verdict": one["verdict"],
            "colour": KIND_COLOURS[one["kind"]],
            "size": size_in_words(one, mm_per_px),
            "width_class": one["width_class"],
            "place": f"{one['left_px']}, {one['top_px']} to {one['right_px']}, {one['bottom_px']}",
            "score": one["score"],
            "profile": width_profile(one["widths_px"]),
        }
        for one in findings
    ]


def width_profile(widths_px: list[float]) -> str:
    """Width along a trace as a small SVG chart; "" where no width is known. Branches follow one another."""
    widths_N = np.array(widths_px, float)
    known = np.flatnonzero(np.isfinite(widths_N))
    if len(known) < 2:
        return ""
    at = np.linspace(0, len(widths_N) - 1, PROFILE_POINTS)
    drawn_N = np.interp(at, known, widths_N[known])
    width, height = PROFILE_PX
    x_N, y_N = at / at[-1] * width, height - 2 - (height - 4) * drawn_N / max(drawn_N.max(), 1e-6)
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(x_N, y_N, strict=True))
    label = f"width along the trace, up to {drawn_N.max():.1f} px"
    return (
        f'<svg class="profile" role="img" aria-label="{label}" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}"><polyline points="{points}" fill="none" stroke="currentColor"/></svg>'
    )


def traced(picture_hw: np.ndarray, shape: tuple[int, int], findings: list[dict[str, Any]]) -> np.ndarray:
    """A reduced photograph with its findings as coloured lines, uint8 (h, w, 3).

    Args:
        shape: height and width of the photograph [px].
    """
    scale = picture_hw.shape[1] / shape[1]
    image = Image.fromarray(picture_hw).convert("RGB")
    draw = ImageDraw.Draw(image)
    for one in findings:
        for points in _branches(one, scale):
            draw.line(points, fill=KIND_COLOURS[one["kind"]], width=2)
    return np.asarray(image)


def _branches(one: dict[str, Any], scale: float) -> Iterator[list[tuple[float, float]]]:
    """The branches of a trace as points of the reduced picture."""
    at_N2 = trace_of(one) * scale
    for part in branches_of(at_N2):
        if len(at_N2[part]) > 1:
            yield [(x, y) for x, y in at_N2[part].tolist()]


def on_a_map(cracks: pa.Table, precision_m: float) -> str:
    """Findings at their places, as SVG; "" where fewer than two places are known."""
    columns = cracks.select(["lat", "lon", "length_px"]).to_pydict()
    places = [coarsened(lat, lon, precision_m) for lat, lon in zip(columns["lat"], columns["lon"], strict=True)]
    return place_map([lat for lat, _ in places], [lon for _, lon in places], columns["length_px"])


def by_group(cracks: pa.Table, also_on: dict[str, list[str]], mm_per_px: float | None = None) -> list[dict[str, Any]]:
    """Findings by group, the longest in total first: number, images, sizes with their unit, and the longest of all.

    Sizes are in millimetres in a group whose scales are all known, and so is the order if all scales are.

    Args:
        mm_per_px: scale of the photographs that have none of their own.
    """
    if not cracks.num_rows:
        return []
    for name in ("length", "width_max") if mm_per_px else ():
        own, given = cracks[f"{name}_mm"], pc.multiply(cracks[f"{name}_px"], mm_per_px)
        sizes = pc.if_else(pc.is_nan(own), given.cast(own.type), own)
        cracks = cracks.set_column(cracks.schema.get_field_index(f"{name}_mm"), f"{name}_mm", sizes)
    length = "length_px" if pc.any(pc.is_nan(cracks["length_mm"])).as_py() else "length_mm"
    longest = cracks.take(pc.sort_indices(cracks, [(length, "descending")])[:MAX_LISTED_BY_GROUP]).to_pylist()
    grouped = cracks.group_by("group").aggregate(_GROUP_SUMS).sort_by([(f"{length}_sum", "descending")])
    return [
        _with_unit(row)
        | {"listed": listed([one for one in longest if one["group"] == row["group"]], also_on, mm_per_px)}
        for row in grouped.to_pylist()
    ]


def _with_unit(row: dict[str, Any]) -> dict[str, Any]:
    unit = "px" if math.isnan(row["length_mm_sum"]) else "mm"
    lengths = {name: f"{row[f'length_{unit}_{name}']:,.0f} {unit}" for name in ("sum", "max")}
    width = row[f"width_max_{unit}_max"]
    widest = "–" if math.isnan(width) else f"{width:.{1 if unit == 'px' else 2}f} {unit}"
    return row | {"length": lengths["sum"], "longest": lengths["max"], "widest": widest}
