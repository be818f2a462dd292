"""Pairs of photographs compared in this process, or by the workers of a Ray cluster."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pyarrow as pa

from crackvae.changes.comparison import COMPARED_SCHEMA, compared_rows
from crackvae.config import ScoringConfig
from crackvae.console import progress
from crackvae.images.pictures import read_pixels
from crackvae.images.registration import one_thread
from crackvae.scoring import actors
from crackvae.storage import fileio

# Largest number of pairs in one task: a pair of 20 Mpx takes some 5 s.
BLOCK_PAIRS = 8


def compare_pairs(pairs: pa.Table, config: ScoringConfig) -> pa.Table:
    """COMPARED_SCHEMA rows of TO_COMPARE_SCHEMA rows, in their order; the result does not depend on the workers.

    Ray is used where `score` would use it: where it is asked for or connected, or where there is much to read.
    """
    read: Callable[[str], Any] = partial(read_pixels, read=fileio.image_reader())
    found = [COMPARED_SCHEMA.empty_table()]
    with (
        actors.scoring_session(pairs, config),
        progress("compare", pairs.num_rows, "pairs of photographs", quiet=config.quiet) as bar,
    ):
        on_ray = actors.needs_ray(pairs, config) and pairs.num_rows
        for rows in _on_ray(pairs, read, config) if on_ray else _here(pairs, read):
            found.append(rows)
            bar.update(rows.num_rows)
    return pa.concat_tables(found)


def _here(pairs: pa.Table, read: Callable[[str], Any]) -> Iterator[pa.Table]:
    for number in range(pairs.num_rows):
        yield compared_rows(pairs.slice(number, 1), read)


def _on_ray(pairs: pa.Table, read: Callable[[str], Any], config: ScoringConfig) -> Iterator[pa.Table]:
    from crackvae.session import dataset_of, tables_of  # Ray takes a second to import

    per_block = max(1, min(BLOCK_PAIRS, pairs.num_rows // (4 * (config.workers or 1))))
    compare: Any = partial(_on_worker, read=read)
    blocks = dataset_of(pairs, per_block)
    compared = blocks.map_batches(
        compare, batch_size=None, batch_format="pyarrow", num_cpus=1, concurrency=config.workers
    )
    for rows in tables_of(compared, stage="compare", quiet=config.quiet):
        yield rows.cast(COMPARED_SCHEMA)


def _on_worker(pairs: pa.Table, read: Callable[[str], Any]) -> pa.Table:
    """Ray Data task with one CPU."""
    with one_thread():
        return compared_rows(pairs, read)
