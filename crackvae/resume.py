"""What a rerun still has to score: resume is a subtraction, in memory that does not grow with the table."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

# Columns of SCORES_SCHEMA that say what is finished.
FINISHED_COLUMNS = ("image", "bytes", "modified", "model", "status", "threshold")
# Names that are Python objects at any time.
HASH_ROWS = 100_000


def still_to_score(images: pa.Table, done: Iterable[pa.Table], model: str) -> pa.Table:
    """Images that this model has not finished, in their order.

    Finished is an image whose latest row is scored or unreadable. An unreachable image comes again, and so does one of
    another size or time. Two names with the same 64-bit hash would only mean that one of them is scored again.

    Args:
        images: LISTING_SCHEMA, each name once.
        done: rows of SCORES_SCHEMA with at least FINISHED_COLUMNS less the threshold, earlier runs first.
        model: digest.
    """
    hash_N = _hashes(images["image"])
    order_N = np.argsort(hash_N)
    hash_N = hash_N[order_N]
    finished_N = np.zeros(images.num_rows, bool)
    for rows in done:
        rows = rows.filter(pc.field("model") == model)
        if not rows.num_rows or not images.num_rows:
            continue
        hash_R = _hashes(rows["image"])
        at_R = np.searchsorted(hash_N, hash_R).clip(max=len(hash_N) - 1)
        listed_R = hash_N[at_R] == hash_R
        rows, row_N = rows.filter(pa.array(listed_R)), order_N[at_R[listed_R]]
        found = images.select(["image", "bytes", "modified"]).take(pa.array(row_N))
        is_it = pc.equal(found["image"], rows["image"])
        is_same = pc.and_(pc.equal(found["bytes"], rows["bytes"]), pc.equal(found["modified"], rows["modified"]))
        is_finished = pc.and_(is_same, pc.not_equal(rows["status"], "unreachable"))
        is_it_R = is_it.to_numpy()
        finished_N[row_N[is_it_R]] = is_finished.to_numpy()[is_it_R]
    return images.filter(pa.array(~finished_N))


def _hashes(names: pa.ChunkedArray) -> np.ndarray:
    """A 64-bit number of each name, the same in every process."""
    chunks = [names.slice(start, HASH_ROWS) for start in range(0, len(names), HASH_ROWS)]
    hashes = [pd.util.hash_array(chunk.to_numpy(), categorize=False) for chunk in chunks]
    return np.concatenate(hashes) if hashes else np.zeros(0, np.uint64)
