"""Known false alarms: places that reviewers have judged sound or joint, and that are in the queue again.

A place is known if its structure (group) has a judged photograph that shows it, and if the same model gives it hardly
a higher score than at that time. Nothing is hidden: known places are shown last, with the verdict.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crackvae.images import pictures
from crackvae.images.places import outline, shows_again
from crackvae.images.tiles import Tiling, grid_of
from crackvae.reports.night_page.nights import NightResults
from crackvae.storage import tables
from crackvae.storage.tables.verdicts import Verdict, agreed

# A place comes back when its score has grown by this factor: photographed again with a shift of 10 px, 3 degrees and
# another exposure, nine of ten false alarms stay below it (docs/log.md).
GROWTH = 1.5

# The latest judged photographs of a structure that are compared, and how many of the most similar in full.
MAX_JUDGED, MAX_COMPARED = 200, 3


@dataclass(frozen=True)
class KnownPlace:
    """The verdict that makes a place known, and the run in which it was judged."""

    verdict: Verdict
    run: str


@dataclass(frozen=True)
class _Judged:
    """A photograph that reviewers agree shows no crack, with its perceptual hash."""

    verdict: Verdict
    run: str
    outline_K: np.ndarray


class KnownPlaces:
    """The false alarms in the log of a folder of scores, for the structures of one page.

    Args:
        night: verdicts on the very rows of the night make nothing known.
        groups: structures of the images that the page may show.
        tiling: of the model of the night; None if it is not available.
        executor: for reading photographs.
    """

    def __init__(self, night: NightResults, groups: Iterable[str], tiling: Tiling | None, executor: Executor) -> None:
        self._tiling, self._executor = tiling, executor
        self._by_group: dict[str, list[_Judged]] = {}
        alarms = false_alarms(night)
        rows = _judged_rows(night.folder, alarms) if alarms else {}
        for group in set(groups) if rows else ():
            of_group = [one for one in alarms if one.image in rows and rows[one.image][0] == group][-MAX_JUDGED:]
            outlines = executor.map(_outline_of, [one.image for one in of_group])
            self._by_group[group] = [
                _Judged(one, rows[one.image][1], outline_K)
                for one, outline_K in zip(of_group, outlines, strict=True)
                if outline_K is not None
            ]

    def of_all(self, rows: Sequence[dict[str, Any]]) -> list[KnownPlace | None]:
        """of() for several rows, in their order."""
        return list(self._executor.map(self.of, rows)) if self._by_group else [None] * len(rows)

    def of(self, row: dict[str, Any]) -> KnownPlace | None:
        """The verdict on the place where an image of the night has its worst tile; None if it is not known.

        Args:
            row: of the scores table.
        """
        judged = [
            one
            for one in self._by_group.get(row["group"], ())
            if one.verdict.model == row["model"] and row["score"] <= GROWTH * (one.verdict.score or 0)
        ]
        pixels_HW = pictures.pixels_if_readable(row["image"]) if judged else None
        if pixels_HW is None:
            return None
        outline_K = outline(pixels_HW)
        judged.sort(key=lambda one: -float(one.outline_K @ outline_K))
        point_2 = _middle_of_worst_tile(row, self._tiling)
        for one in judged[:MAX_COMPARED]:
            before_HW = pictures.pixels_if_readable(one.verdict.image)
            if before_HW is not None and shows_again(before_HW, pixels_HW, point_2):
                return KnownPlace(one.verdict, one.run)
        return None


def false_alarms(night: NightResults) -> list[Verdict]:
    """The latest verdict on each image on which reviewers agree that it shows no crack, oldest first.

    Verdicts on the rows of the night themselves are left out: these images have been judged, and are not there again.
    """
    verdicts = agreed(night.standing)
    cracked = {subject.image for subject, verdict in verdicts.items() if verdict == "crack"}
    rows = night.rows.select(["image", "score"]).to_pydict() if verdicts else {"image": [], "score": []}
    own = set(zip(rows["image"], rows["score"], strict=True))
    found = [
        max((one for one in night.standing[subject].values() if one.verdict != "unsure"), key=lambda one: one.time)
        for subject, verdict in verdicts.items()
        if verdict != "crack" and not subject.finding and subject.image not in cracked
    ]
    return sorted((one for one in found if (one.image, one.score) not in own), key=lambda one: one.time)


def _judged_rows(scores: str, alarms: list[Verdict]) -> dict[str, tuple[str, str]]:
    """Group of each judged image, and the run with the score that was judged."""
    wanted = {(one.image, one.model, one.score) for one in alarms}
    names = pa.array({one.image for one in alarms}, pa.string())
    paths = [path for parts in tables.list_parts(scores).values() for path in parts]
    rows: dict[str, tuple[str, str]] = {}
    for part in tables.each_part(paths, ["image", "group", "model", "score", "run"]):
        for row in part.filter(pc.is_in(part["image"], value_set=names)).to_pylist():
            if (row["image"], row["model"], row["score"]) in wanted:
                rows[row["image"]] = row["group"], row["run"]
    return rows


def _outline_of(image: str) -> np.ndarray | None:
    pixels_HW = pictures.pixels_if_readable(image)
    return None if pixels_HW is None else outline(pixels_HW)


def _middle_of_worst_tile(row: dict[str, Any], tiling: Tiling | None) -> tuple[float, float]:
    """(x, y) of the middle of the worst tile [px]; without a tiling its corner, as the size of a tile is not known."""
    if row["rows"] * row["cols"] == 1:
        return row["width"] / 2, row["height"] / 2
    if tiling is None:
        return row["worst_x"], row["worst_y"]
    grid = grid_of(row["height"], row["width"], tiling.tile_px, tiling.stride_px)
    return row["worst_x"] + grid.tile_w / 2, row["worst_y"] + grid.tile_h / 2
