"""Merge the parts of many nights into a few, with the latest row of each image and model. A death loses nothing.

1. Rows are dealt by image to buckets, which are temporary files, so that memory holds one bucket and not the table.
2. Of each bucket the latest rows become a part that waits beside the table under a name that no reader takes.
3. A journal names the parts that wait and those that they replace. From now on tables.list_parts() reads the new ones.
4. The parts get their names, the old ones are deleted, then the journal. The next run finishes what a death left here.
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

from crackvae.config import CompactConfig
from crackvae.console import progress
from crackvae.errors import StorageError
from crackvae.results import Result
from crackvae.storage import fileio, tables, uris
from crackvae.storage.filesystems import with_s3_endpoint
from crackvae.storage.lock import Lock, locked
from crackvae.storage.uris import storage_errors

# Rows and bytes in memory of a part: what one step of a compaction, and one read of a reader, has to hold.
PART_ROWS, PART_BYTES = 100_000, 64_000_000


# Buckets are open files; 200 of them make parts larger from 20 million rows on.
MAX_BUCKETS = 200


# Names that are looked at to find where buckets begin.
SAMPLE = 50_000


@with_s3_endpoint
def compact(config: CompactConfig) -> Result:
    """Merge the parts of a scores table; of each image and model the row of the latest run stays.

    A CSV of a run whose parts are merged is replaced by one of the merged parts.

    Returns:
        Result with the table `compacted`.

    Raises:
        FolderInUse: a run writes into the table.
        StorageError: no table there, a part that is not whole, or storage fails; the table reads as before.
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
        places = [place for of_run in parts.values() for place in of_run]
        sizes = [tables.part_size(place) for place in places]
        rows_before = sum(rows for rows, _ in sizes)
        wanted = _wanted_parts(rows_before, sum(n_bytes for _, n_bytes in sizes))
        rows, new = rows_before, len(places)
        if len(parts) > 1 or len(places) > wanted:
            rows, new = _merge(folder, run, places, wanted, lock, quiet=config.quiet)
    summary: dict[str, Any] = {
        "verb": "compact",
        "scores": folder,
        "parts_before": len(places),
        "parts": new,
        "rows_before": rows_before,
        "rows": rows,
        "superseded": rows_before - rows,
        "seconds": round(time.perf_counter() - started, 1),
    }
    shown = pd.DataFrame({"before": [len(places), rows_before], "after": [new, rows]}, index=["parts", "rows"])
    return Result(summary, {"compacted": shown})


def _wanted_parts(rows: int, n_bytes: int) -> int:
    return min(MAX_BUCKETS, max(1, -(-rows // PART_ROWS), -(-n_bytes // PART_BYTES)))


def _merge(folder: str, run: str, places: list[str], wanted: int, lock: Lock, *, quiet: bool) -> tuple[int, int]:
    """Rows and parts of the table after the merge."""
    n_rows, new = 0, list[str]()
    cuts = _cuts(places, wanted)
    with ExitStack() as stack:
        # Files without a name, whose room the system takes back after any death.
        buckets = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(len(cuts) + 1)]
        _deal(places, cuts, buckets, quiet=quiet)
        for bucket in buckets:
            rows = tables.latest(pa.ipc.open_file(bucket).read_all())
            if rows.num_rows:
                new.append(f"{run}-{len(new):05d}.parquet")
                tables.write_table(uris.join(folder, tables.staged(new[-1])), rows)
                n_rows += rows.num_rows
            del rows
            bucket.close()
    old = [uris.relative(place, folder) for place in places]
    csv = set(fileio.list_files(folder)) & {tables.csv_name(run) for run in tables.list_parts(folder)}
    lock.check()
    journal = tables.Journal(new=tuple(new), old=(*old, *sorted(csv)))
    fileio.write_bytes(uris.join(folder, f"_compact-{run}.json"), journal.model_dump_json().encode())
    finish_compaction(folder)
    if csv:
        parts = tables.list_parts(folder)[run]
        tables.write_csv(uris.join(folder, tables.csv_name(run)), parts, tables.CSV_COLUMNS)
    return n_rows, len(new)


def _deal(places: list[str], cuts: list[str], buckets: Sequence[IO[bytes]], *, quiet: bool) -> None:
    """Write the rows of one stretch of the alphabet into each bucket: all versions of an image meet in one of them."""
    where = f"{tempfile.gettempdir()} (set TMPDIR to a folder with room for the table)"
    with (
        storage_errors("write", where),
        ExitStack() as stack,
        progress("compact", len(places), "parts", quiet=quiet) as bar,
    ):
        writers = [stack.enter_context(pa.ipc.new_file(bucket, tables.SCORES_SCHEMA)) for bucket in buckets]
        for rows in tables.each_part(places, tables.SCORES_SCHEMA.names):
            bucket_N = np.array([bisect_right(cuts, image.as_py()) for image in rows["image"]], np.int32)
            for number in np.unique(bucket_N):
                writers[number].write_table(rows.filter(pa.array(bucket_N == number)))
            bar.update()


def _cuts(places: list[str], n_buckets: int) -> list[str]:
    """Names at which the second and later buckets begin, so that all hold about as many rows."""
    if n_buckets == 1:
        return []
    every = max(1, sum(tables.part_size(place)[0] for place in places) // SAMPLE)
    sample = sorted(
        name
        for rows in tables.each_part(places, ["image"])
        for name in rows["image"].take(pa.array(range(0, rows.num_rows, every))).to_pylist()
    )
    return sorted({sample[len(sample) * number // n_buckets] for number in range(1, n_buckets)})


def finish_compaction(folder: str) -> None:
    """Put the parts of a compaction in their places that a death left half done; throw away one that never got so far.

    Only for the holder of the folder's lock.
    """
    for journal_name, journal in tables.read_journals(folder, fileio.list_files(folder)).items():
        names = set(fileio.list_files(folder))
        for final in journal.new:
            if tables.staged(final) in names:
                fileio.move_file(uris.join(folder, tables.staged(final)), uris.join(folder, final))
        for name in journal.old:
            if name in names:
                fileio.delete_file(uris.join(folder, name))
        fileio.delete_file(uris.join(folder, journal_name))
    for name in fileio.list_files(folder):
        if name.startswith(tables.STAGED):
            fileio.delete_file(uris.join(folder, name))
