"""The page of a comparison: what is new and has grown, before and after side by side, and what was not compared.

Shape letters: H, W rows and columns of an image; h, w of a crop; K points of a trace.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from crackvae.changes import curve
from crackvae.errors import UnreadableImage
from crackvae.images.registration import cut_out, transformed
from crackvae.model.inference import threads
from crackvae.reports import page, views
from crackvae.reports.page import Thumbnail, Thumbnails
from crackvae.storage.tables import changes as table
from crackvae.storage.tables.traces import branches_of, trace_of
from crackvae.storage.tables.verdicts import may_be_cracks

# Longest side of a picture [px].
PICTURE_PX = 520

# Surroundings of a trace on a picture: this share of its longer side, and at least so much [px].
MARGIN_SHARE, MARGIN_PX = 0.25, 60

# Photographs that are listed for one reason; a folder may have thousands.
MAX_LISTED = 100


@dataclass(frozen=True)
class Card:
    """A finding on the page.

    Attributes:
        row: of CHANGES_SCHEMA.
        pictures: before and after, registered; () where a photograph can no longer be read.
        view_box: size of both crops [px], for the traces.
        traces: polylines of the finding in them, as SVG has them.
        sizes: at all its visits.
        points: of the curve of its length.
    """

    row: dict[str, Any]
    pictures: tuple[Thumbnail, ...]
    view_box: tuple[int, int]
    traces: tuple[str, ...]
    sizes: list[curve.Size]
    points: list[tuple[float, float]]


@dataclass(frozen=True)
class _Crop:
    before_hw: np.ndarray
    after_hw: np.ndarray
    traces: tuple[str, ...]


def change_page(
    comparison: Mapping[str, Any],
    changes: pa.Table,
    pairs: pa.Table,
    earlier: pa.Table,
    findings: pa.Table,
    read_pixels: Callable[[str], np.ndarray],
) -> bytes:
    """The page of one comparison.

    Args:
        comparison: the summary of the verb, without the page; `shown` is the largest number of findings with pictures.
        changes, pairs: of this comparison, CHANGES_SCHEMA and PAIRS_SCHEMA.
        earlier: CHANGES_SCHEMA of all comparisons in the folder, for the histories.
        findings: FINDINGS_SCHEMA of both visits, for the traces.
        read_pixels: grey pixels of an image, uint8 (H, W); raises UnreadableImage or OSError.
    """
    chosen = _chosen(changes, comparison["shown"])
    crops = _crops(chosen, pairs, findings, read_pixels)
    histories = _histories(earlier, {row["history"] for row in chosen})
    thumbnails = Thumbnails(2 * len(chosen), 1.0)
    cards = [_card(row, crop, histories[row["history"]], thumbnails) for row, crop in zip(chosen, crops, strict=True)]
    names = [name for name in (*pairs["image"].to_pylist(), *pairs["previous_image"].to_pylist()) if name]
    return page.render(
        "change.html",
        script_name="change.js",
        title="Changes since the last visit",
        page_id=f"change-{comparison['run']}",
        summary=comparison,
        counts=table.counts(changes),
        refuted=Counter(table.refuted(changes)["status"].to_pylist()),
        cards={status: [card for card in cards if card.row["status"] == status] for status in ("new", "grown", "gone")},
        reasons=_reasons(pairs),
        folder=page.shared_folder(names),
        when=page.when,
    )


def _chosen(changes: pa.Table, shown: int) -> list[dict[str, Any]]:
    """The rows that get a picture: new ones, the longest first; grown ones, the most certain first; then gone ones."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in changes.filter(may_be_cracks(changes)).to_pylist():
        rows[row["status"]].append(row)
    new = sorted(rows["new"], key=lambda row: -row["length_px"])
    grown = sorted(rows["grown"], key=lambda row: -_certainty(row))
    gone = sorted(rows["gone"], key=lambda row: -row["previous_length_px"])
    n_new = max(shown - len(grown), shown // 2)
    chosen = [*new[:n_new], *grown[: shown - len(new[:n_new])]]
    return [*chosen, *gone[: shown - len(chosen)]]


def _certainty(row: Mapping[str, Any]) -> float:
    """Growth in units of its uncertainty."""
    ratios = [
        row[f"{name}_change_px"] / max(row[f"{name}_change_high_px"] - row[f"{name}_change_px"], 1e-9)
        for name in ("length", "width")
    ]
    return max((one for one in ratios if one == one), default=0.0)


def _crops(
    rows: Sequence[Mapping[str, Any]],
    pairs: pa.Table,
    findings: pa.Table,
    read_pixels: Callable[[str], np.ndarray],
) -> list[_Crop | None]:
    """Both photographs around each finding, registered; each pair of photographs is read once."""
    matrices = {
        (pair["image"], pair["previous_image"]): np.reshape(pair["homography"], (3, 3))
        for pair in pairs.to_pylist()
        if pair["homography"]
    }
    wanted: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        wanted[row["image"], row["previous_image"]].append(number)
    traces = _traces(findings, {row["finding"] or row["previous"] for row in rows})
    crops: list[_Crop | None] = [None] * len(rows)

    def cut(pair: tuple[str, str]) -> None:
        try:
            after_HW, before_HW = map(read_pixels, pair)
        except (UnreadableImage, OSError):
            return
        for number in wanted[pair]:
            finding = rows[number]["finding"]
            trace_K2 = traces[finding or rows[number]["previous"]]
            if not finding:  # an earlier one, in pixels of its own photograph
                trace_K2 = transformed(matrices[pair], trace_K2)
            crops[number] = _crop(before_HW, after_HW, matrices[pair], trace_K2)

    with threads() as executor:
        list(executor.map(cut, wanted))
    return crops


def _traces(findings: pa.Table, wanted: set[str]) -> dict[str, np.ndarray]:
    """Points (x, y) of findings by id, float (K, 2); NaN between branches."""
    columns = findings.select(["finding", "x_px", "y_px"])
    is_wanted = pa.array([name in wanted for name in columns["finding"].to_pylist()], pa.bool_())
    return {row["finding"]: trace_of(row) for row in columns.filter(is_wanted).to_pylist()}


def _crop(before_HW: np.ndarray, after_HW: np.ndarray, matrix_33: np.ndarray, trace_K2: np.ndarray) -> _Crop:
    low_2, high_2 = np.nanmin(trace_K2, 0), np.nanmax(trace_K2, 0)
    margin = max(MARGIN_PX, MARGIN_SHARE * float((high_2 - low_2).max()))
    limit_2 = np.array(after_HW.shape[::-1])
    left, top = np.clip(low_2 - margin, 0, limit_2 - 1).astype(int)
    right, bottom = np.clip(high_2 + margin, 1, limit_2).astype(int)
    box = (int(left), int(top), max(int(right), int(left) + 1), max(int(bottom), int(top) + 1))
    moved_K2 = trace_K2 - [left, top]
    traces = tuple(" ".join(f"{x:.0f},{y:.0f}" for x, y in moved_K2[part]) for part in branches_of(moved_K2))
    return _Crop(cut_out(before_HW, matrix_33, box), after_HW[box[1] : box[3], box[0] : box[2]], traces)


def _card(
    row: dict[str, Any], crop: _Crop | None, history: Sequence[Mapping[str, Any]], thumbnails: Thumbnails
) -> Card:
    sizes = curve.sizes_of(history)
    points = curve.points_of([one.length_px for one in sizes])
    if crop is None:
        return Card(row, (), (0, 0), (), sizes, points)
    pictures = tuple(
        thumbnails.picture(title, views.reduced(np.ascontiguousarray(pixels_hw), PICTURE_PX))
        for title, pixels_hw in (("before", crop.before_hw), ("after", crop.after_hw))
    )
    height, width = crop.after_hw.shape
    return Card(row, pictures, (width, height), tuple(one for one in crop.traces if one), sizes, points)


def _histories(changes: pa.Table, wanted: set[str]) -> dict[str, list[dict[str, Any]]]:
    is_wanted = pa.array([name in wanted for name in changes["history"].to_pylist()], pa.bool_())
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in changes.filter(is_wanted).to_pylist():
        rows[row["history"]].append(row)
    return rows


def _reasons(pairs: pa.Table) -> list[tuple[str, int, list[str]]]:
    """Why photographs were not compared: the reason, how many, and the first of them; the most frequent first."""
    images: dict[str, list[str]] = defaultdict(list)
    for row in pairs.select(["image", "previous_image", "status", "reason"]).to_pylist():
        if row["status"] in ("unmatched", "no partner"):
            images[row["reason"]].append(row["image"] or row["previous_image"])
    counted = Counter({reason: len(names) for reason, names in images.items()})
    return [(reason, n, images[reason][:MAX_LISTED]) for reason, n in counted.most_common()]
