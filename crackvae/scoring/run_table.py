"""The rows of one run: what is left to score, and the parts that are written."""

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from crackvae.images.decoding import OVER_SETTING
from crackvae.model.image_scores import images_by_tiles
from crackvae.storage import fileio, tables, uris
from crackvae.storage.content import changed
from crackvae.storage.names.excerpts import WINDOW_NAME
from crackvae.storage.names.run_files import csv_name
from crackvae.storage.names.shards import are_disjoint
from crackvae.storage.tables.findings import FINDINGS_COLUMN, FINDINGS_SCHEMA, folder_of, read_findings, rows_of

# A part is written when it has this many rows, this many bytes (photographs have many: one score per tile), or is this
# old [s]: a killed run loses at most a minute of work.
PART_ROWS, PART_BYTES, PART_AGE_S = 25_000, 64_000_000, 60.0

# Groups that are counted for the expected share flagged: more differ as little from their mean, and take memory.
COUNTED_GROUPS = 1_000

# Rows of the table of most suspicious images that is printed.
N_WORST = 10


class RunTable:
    """Collects the rows of one run and writes them as parts. Leaving the block writes the rest, after an error too.

    The findings of a part are written before it, so that no row is ever without its findings.
    """

    def __init__(self, out: str, run: str) -> None:
        self.out, self.run, self._runs = out, run, [run]
        self.screened = {"tiles": 0, "again": 0}
        self.n = self.flagged = self.parts = 0
        self._n_findings, self._has_windows = 0, False  # of windows, the rows are parts of findings
        self.statuses: Counter[str] = Counter()
        self.tiles: Counter[int] = Counter()  # number of scored images of each number of tiles
        self.groups: set[str] = set()  # of scored images, not many more than COUNTED_GROUPS
        self._worst = _with_longest_crack(tables.SCORES_SCHEMA.empty_table(), FINDINGS_SCHEMA.empty_table())
        self._waiting: list[pa.Table] = []
        self._findings: list[pa.Table] = []
        self._rows, self._bytes, self._since = 0, 0, time.monotonic()

    def __enter__(self) -> "RunTable":
        return self

    def __exit__(self, *_: object) -> None:
        self.write()

    def begin(self, run: str) -> None:
        """Go on as a further run: of two rows of an image that of the later run counts. Counts go on."""
        self.write()
        self.run, self.parts = run, 0
        self._runs.append(run)

    def add(self, rows: pa.Table) -> None:
        """Take rows of MEASURED_SCHEMA, perhaps with FINDINGS_COLUMN and others; those of SCORES_SCHEMA are written."""
        found = FINDINGS_SCHEMA.empty_table()
        if FINDINGS_COLUMN in rows.column_names:
            found = rows_of(rows[FINDINGS_COLUMN])
            self._n_findings += found.num_rows
            self._has_windows = (
                self._has_windows or pc.any(pc.match_substring_regex(found["image"], WINDOW_NAME)).as_py()
            )
            self._findings.append(found)
            self._bytes += found.nbytes
        self.screened["tiles"] += pc.sum(rows["screened"]).as_py()
        self.screened["again"] += pc.sum(rows["again"]).as_py()
        rows = rows.select(tables.SCORES_SCHEMA.names)
        self.n += rows.num_rows
        self.statuses.update({one["values"]: one["counts"] for one in rows["status"].value_counts().to_pylist()})
        self.flagged += pc.sum(rows["flagged"]).as_py()
        scored = rows.filter(pc.field("status") == "scored")
        self.tiles.update(images_by_tiles(scored))
        if len(self.groups) < COUNTED_GROUPS:
            self.groups.update(scored["group"].unique().to_pylist())
        self._worst = _most_suspicious(
            pa.concat_tables([self._worst, _with_longest_crack(_most_suspicious(scored), found)])
        )
        self._waiting.append(rows)
        self._rows += rows.num_rows
        self._bytes += rows.nbytes
        self.write_if_due()

    def write_if_due(self) -> None:
        """Write a part if it is large or old enough."""
        is_old = time.monotonic() - self._since > PART_AGE_S
        if self._rows >= PART_ROWS or self._bytes >= PART_BYTES or is_old:
            self.write()

    def count_findings(self) -> int:
        """Findings of these rows, as a reader of the written table counts them: windows join their traces."""
        if not self._has_windows:
            return self._n_findings
        return len(read_findings(self.out, ["finding"], self._runs))

    @property
    def worst(self) -> pd.DataFrame:
        """The most suspicious images of this run."""
        return pd.DataFrame(self._worst.to_pandas())

    def write(self) -> None:
        """Write the rows that are waiting as a part, if there are any; after an error, the same call goes on."""
        if any(found.num_rows for found in self._findings):
            tables.write_part(folder_of(self.out), pa.concat_tables(self._findings), self.run, self.parts)
        self._findings = []
        if self._waiting:
            tables.write_part(self.out, pa.concat_tables(self._waiting), self.run, self.parts)
            self.parts += 1
        self._waiting = []
        self._rows, self._bytes, self._since = 0, 0, time.monotonic()


def _most_suspicious(rows: pa.Table) -> pa.Table:
    """The N_WORST rows of the highest scores."""
    order = [("score", "descending"), ("image", "ascending")]
    return rows.take(pc.select_k_unstable(rows, N_WORST, sort_keys=order))


def _with_longest_crack(rows: pa.Table, findings: pa.Table) -> pa.Table:
    """Rows of SCORES_SCHEMA as they are printed, with length and greatest width of the longest crack of each."""
    cracks = findings.filter(pc.field("kind") != "joint").sort_by("length_px")
    sizes = {row["image"]: row for row in cracks.select(["image", "length_px", "width_max_px"]).to_pylist()}
    shown = rows.select(["image", "score", "p_value", "flagged"])
    for name, column in (("crack_length_px", "length_px"), ("crack_width_px", "width_max_px")):
        found = [sizes.get(image, {column: math.nan})[column] for image in rows["image"].to_pylist()]
        shown = shown.append_column(name, pa.array(found, pa.float32()))
    return shown


def write_missing_csvs(out: str, run: str) -> list[str]:
    """Write a CSV for every run that has parts but no CSV yet, such as one that was killed; returns their paths.

    Runs that are disjoint with `run` are left alone, because they may still be at work.
    """
    have = set(fileio.list_files(out))
    written = []
    for one, paths in tables.list_parts(out).items():
        if csv_name(one) not in have and not are_disjoint(one, run):
            written.append(uris.join(out, csv_name(one)))
            tables.write_csv(written[-1], paths, tables.CSV_COLUMNS)
    return written


# Columns of SCORES_SCHEMA that decide what is finished.
FINISHED_COLUMNS = ("image", "bytes", "modified", "model", "status", "error", "threshold", "content", "untraced")
# Those that are read of rows of other images: they say with which threshold a model has scored.
OTHER_COLUMNS = ("model", "threshold")

# Names that are converted to Python objects at a time.
HASH_ROWS = 100_000


class LeftToScore(NamedTuple):
    """What still_to_score() finds.

    Attributes:
        images: those that the model has not finished.
        older: how many of its rows have another threshold.
        unreadable: how many of the other images, which are finished, are unreadable.
    """

    images: pa.Table
    older: int
    unreadable: int


def finished_rows(out: str, images: pa.ChunkedArray, run: str = "") -> Iterator[pa.Table]:
    """What a scores table holds of the images that `run` lists, part by part, as still_to_score() takes it."""
    paths = [path for one, parts in tables.list_parts(out).items() if not are_disjoint(one, run) for path in parts]
    first_and_last = pc.min_max(images).as_py()
    names = (first_and_last["min"] or "", first_and_last["max"] or "")
    return tables.each_part_between(paths, FINISHED_COLUMNS, names, OTHER_COLUMNS)


def still_to_score(
    images: pa.Table,
    finished: Iterable[pa.Table],
    model: str,
    threshold: float,
    *,
    traces: bool = True,
    max_megapixels: int = 0,
) -> LeftToScore:
    """Images that this model has not finished, in their order.

    An image is finished if its latest row is scored or unreadable. An unreachable image is scored again, and so is one
    whose size, time or content has changed. Two names with the same 64-bit hash only mean that one of them is scored
    again.

    Args:
        images: LISTING_SCHEMA, each name once.
        finished: rows with FINISHED_COLUMNS, or with OTHER_COLUMNS alone, earlier runs first; read once.
        model: digest.
        threshold: that the model has now.
        traces: whether an image whose cracks were not traced is not finished.
        max_megapixels: an image that was refused for a lower limit is not finished.
    """
    hash_N = _hashes(images["image"])
    order_N = np.argsort(hash_N)
    hash_N = hash_N[order_N]
    finished_N, unreadable_N, older = np.zeros(images.num_rows, bool), np.zeros(images.num_rows, bool), 0
    for rows in finished:
        rows = rows.filter(pc.field("model") == model)
        older += pc.sum(pc.not_equal(rows["threshold"], np.float32(threshold))).as_py() or 0
        if not rows.num_rows or not images.num_rows or "image" not in rows.column_names:
            continue
        hash_R = _hashes(rows["image"])
        at_R = np.searchsorted(hash_N, hash_R).clip(max=len(hash_N) - 1)
        listed_R = hash_N[at_R] == hash_R
        rows, row_N = rows.filter(pa.array(listed_R)), order_N[at_R[listed_R]]
        found = images.select(["image", "bytes", "modified"]).take(pa.array(row_N))
        is_it = pc.equal(found["image"], rows["image"])
        is_same = pc.and_(pc.equal(found["bytes"], rows["bytes"]), pc.equal(found["modified"], rows["modified"]))
        is_finished = pc.and_(is_same, pc.not_equal(rows["status"], "unreachable"))
        if traces:
            is_finished = pc.and_(is_finished, pc.invert(rows["untraced"]))
        limit = pc.struct_field(pc.extract_regex(rows["error"], OVER_SETTING), "megapixels").cast(pa.int64())
        is_finished = pc.and_(is_finished, pc.fill_null(pc.greater_equal(limit, max_megapixels), True))
        rows, row_N = rows.filter(is_it), row_N[is_it.to_numpy()]
        finished_R = is_finished.filter(is_it).to_numpy().copy()
        perhaps = rows.filter(pa.array(finished_R))
        finished_R[finished_R] = ~changed(perhaps["image"].to_pylist(), perhaps["content"].to_pylist())
        finished_N[row_N] = finished_R
        unreadable_N[row_N] = pc.equal(rows["status"], "unreadable").to_numpy()
    return LeftToScore(images.filter(pa.array(~finished_N)), older, int((finished_N & unreadable_N).sum()))


def _hashes(names: pa.ChunkedArray) -> np.ndarray:
    """A 64-bit number of each name, the same in every process."""
    chunks = [names.slice(start, HASH_ROWS) for start in range(0, len(names), HASH_ROWS)]
    hashes = [pd.util.hash_array(chunk.to_numpy(), categorize=False) for chunk in chunks]
    return np.concatenate(hashes) if hashes else np.zeros(0, np.uint64)
