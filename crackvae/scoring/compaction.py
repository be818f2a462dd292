"""Merge the parts of many nights into a few, with the latest row of each image and model. Crash-safe.

1. Rows are distributed by image to buckets, which are temporary files: memory holds one bucket and not the table.
2. The latest rows of each bucket become a part beside the table, under a name that readers ignore.
3. A journal names these parts and those that they replace. From now on tables.list_parts() reads the new ones.
4. The parts get their names, the old ones are deleted, then the journal. The next run completes an interrupted step.
"""

import tempfile
import time
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import ExitStack
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from crackvae.config import CompactConfig
from crackvae.console import progress
from crackvae.errors import StorageError
from crackvae.results import Result
from crackvae.storage import fileio, tables, uris
from crackvae.storage.filesystems import with_s3_endpoint
from crackvae.storage.lock import Lock, locked
from crackvae.storage.names.run_files import csv_name, journal_name, part_name
from crackvae.storage.tables.parts_of_files import files_of, without_superseded
from crackvae.storage.uris import storage_errors

# Rows and bytes in memory of a part: what one step of a compaction, and one read, must hold.
PART_ROWS, PART_BYTES = 100_000, 64_000_000

# Buckets are open files; 200 of them make parts larger from 20 million rows on.
MAX_BUCKETS = 200

# Names that are sampled to find where buckets begin.
SAMPLE = 50_000


@with_s3_endpoint
def compact(config: CompactConfig) -> Result:
    """Merge the parts of a scores table, keeping the latest row of each image and model, and every other finding.

    A name that is used again stands for another photograph: an earlier row that is flagged stays, unless a later one
    is of the same content. A CSV of a run whose parts are merged is replaced as well.

    Returns:
        Result with the table `compacted`.

    Raises:
        FolderInUse: a run writes into the table.
        StorageError: no table there, an incomplete part, or storage fails; the table reads as before.
    """
    started = time.perf_counter()
    folder = uris.absolute(config.scores)
    found = tables.list_parts(folder)
    if not found:
        raise StorageError(f"{folder} holds no scores table: check --scores.")
    run = tables.new_run(found)
    with locked(folder, run, quiet=config.quiet) as lock:
        finish_compaction(folder)
        parts = tables.list_parts(folder)
        paths = [path for of_run in parts.values() for path in of_run]
        sizes = [tables.part_size(path) for path in paths]
        rows_before = sum(rows for rows, _ in sizes)
        wanted = _wanted_parts(rows_before, sum(n_bytes for _, n_bytes in sizes))
        rows, new = rows_before, len(paths)
        if len(parts) > 1 or len(paths) > wanted:
            rows, new = _merge(folder, run, paths, wanted, lock, quiet=config.quiet)
    summary: dict[str, Any] = {
        "verb": "compact",
        "scores": folder,
        "parts_before": len(paths),
        "parts": new,
        "rows_before": rows_before,
        "rows": rows,
        "superseded": rows_before - rows,
        "seconds": round(time.perf_counter() - started, 1),
    }
    shown = pd.DataFrame({"before": [len(paths), rows_before], "after": [new, rows]}, index=["parts", "rows"])
    return Result(summary, {"compacted": shown})


def _wanted_parts(rows: int, n_bytes: int) -> int:
    return min(MAX_BUCKETS, max(1, -(-rows // PART_ROWS), -(-n_bytes // PART_BYTES)))


def _merge(folder: str, run: str, paths: list[str], wanted: int, lock: Lock, *, quiet: bool) -> tuple[int, int]:
    """Rows and parts of the table after the merge."""
    n_rows, new = 0, list[str]()
    cuts = _cuts(paths, wanted)
    with ExitStack() as stack:
        # Files without a name: the system frees their space however this process ends.
        buckets = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(len(cuts) + 1)]
        _distribute(paths, cuts, buckets, quiet=quiet)
        for bucket in buckets:
            rows = kept_rows(pa.ipc.open_file(bucket).read_all())
            if rows.num_rows:
                new.append(part_name(run, len(new)))
                tables.write_table(uris.join(folder, tables.staged(new[-1])), rows)
                n_rows += rows.num_rows
            bucket.close()
    old = [uris.relative(path, folder) for path in paths]
    csv = set(fileio.list_files(folder)) & {csv_name(run) for run in tables.list_parts(folder)}
    lock.check()
    journal = tables.Journal(new=tuple(new), old=(*old, *sorted(csv)))
    fileio.write_bytes(uris.join(folder, journal_name(run)), journal.model_dump_json().encode())
    finish_compaction(folder)
    if csv:
        parts = tables.list_parts(folder)[run]
        tables.write_csv(uris.join(folder, csv_name(run)), parts, tables.CSV_COLUMNS)
    return n_rows, len(new)


def kept_rows(rows: pa.Table) -> pa.Table:
    """The row of each image and model that counts, and earlier ones that are flagged and of other content.

    What does not count is what tables.latest() leaves out, such as pages that the last version of a file has no more.
    Content is compared by its key, by the size of the file and by its score, which is the same to the last bit for the
    same bytes. Rows of earlier versions have no key and are compared by the other two.

    Returns:
        rows by image and model, the latest of each last, as still_to_score() needs them.
    """
    keys = [("image", "ascending"), ("model", "ascending"), ("run", "descending")]
    table = rows.take(pc.sort_indices(rows, sort_keys=keys))
    frame = table.select(["image", "model", "bytes", "score", "content", "flagged"]).to_pandas()
    is_latest_N = ~frame.duplicated(["image", "model"])
    number = pa.array(np.flatnonzero(is_latest_N))
    counting = without_superseded(table.take(number).append_column("number", number))["number"]
    is_counting = pd.Series(np.isin(np.arange(len(frame)), counting.to_numpy()))
    is_other_finding = frame["flagged"] & ~frame.duplicated(["image", "model", "bytes", "score", "content"])
    kept = table.filter(pa.array(is_counting | is_other_finding))
    return kept.take(pc.sort_indices(kept, sort_keys=[(name, "ascending") for name in ("image", "model", "run")]))


def _distribute(paths: list[str], cuts: list[str], buckets: Sequence[IO[bytes]], *, quiet: bool) -> None:
    """Write a range of names into each bucket, so that all rows of a file are in the same one."""
    where = f"{tempfile.gettempdir()} (set TMPDIR to a folder with room for the table)"
    with (
        storage_errors("write", where),
        ExitStack() as stack,
        progress("compact", len(paths), "parts", quiet=quiet) as bar,
    ):
        writers = [stack.enter_context(pa.ipc.new_file(bucket, tables.SCORES_SCHEMA)) for bucket in buckets]
        for rows in tables.each_part(paths, tables.SCORES_SCHEMA.names):
            bucket_N = np.array([bisect_right(cuts, image.as_py()) for image in files_of(rows["image"])], np.int32)
            for number in np.unique(bucket_N):
                writers[number].write_table(rows.filter(pa.array(bucket_N == number)))
            bar.update()


def _cuts(paths: list[str], n_buckets: int) -> list[str]:
    """First files of the second and later buckets, so that all hold about as many rows."""
    if n_buckets == 1:
        return []
    every = max(1, sum(tables.part_size(path)[0] for path in paths) // SAMPLE)
    sample = sorted(
        name
        for rows in tables.each_part(paths, ["image"])
        for name in files_of(rows["image"]).take(pa.array(range(0, rows.num_rows, every))).to_pylist()
    )
    return sorted({sample[len(sample) * number // n_buckets] for number in range(1, n_buckets)})


def finish_compaction(folder: str) -> None:
    """Complete a compaction that was interrupted after its journal was written; delete the files of an earlier stage.

    Only for the holder of the folder's lock.
    """
    for file, journal in tables.read_journals(folder, fileio.list_files(folder)).items():
        names = set(fileio.list_files(folder))
        for final in journal.new:
            if tables.staged(final) in names:
                fileio.move_file(uris.join(folder, tables.staged(final)), uris.join(folder, final))
        for name in journal.old:
            if name in names:
                fileio.delete_file(uris.join(folder, name))
        fileio.delete_file(uris.join(folder, file))
    for name in fileio.list_files(folder):
        if name.startswith(tables.STAGED):
            fileio.delete_file(uris.join(folder, name))
