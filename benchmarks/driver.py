"""What an image costs the driver beside its scoring: listing, subtracting, receiving, counting and writing its row.

    python benchmarks/driver.py [--images 200000] [--finished 1000000]

Seconds of this process's CPU, which other work on the machine does not change much; on a local disk, where waiting for
storage is none. Names are 50 letters long, in folders of 1,000. No Ray, and no image is read.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from record import write_result

from crackvae.images.groups import with_groups
from crackvae.model.calibration import Calibration
from crackvae.monitoring.histograms import reference_of
from crackvae.monitoring.telemetry import RunHistograms
from crackvae.scoring import run_table
from crackvae.scoring.run_table import finished_rows, still_to_score
from crackvae.storage.listing import list_images
from crackvae.storage.tables import MEASURED_SCHEMA, MEASURES_SCHEMA, SCORES_SCHEMA

PER_FOLDER = 1_000


def main() -> None:
    """Measure each step and write microseconds per image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--finished", type=int, default=1_000_000)
    given = parser.parse_args()
    costs: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        night, out = link(Path(scratch, "night"), given.images), Path(scratch, "scores")
        with timed(costs, "t_list", given.images):
            images = with_groups(list_images(str(night)), "parent")
        table = run_table.RunTable(str(out), "run")
        blocks = [rows_of(images.slice(start, 128), start) for start in range(0, given.images, 128)]
        with timed(costs, "t_write", given.images), table:
            for rows in blocks:
                table.add(rows.select(SCORES_SCHEMA.names))
        reference = reference_of(pa.concat_tables(blocks[:50]), calibration())
        with timed(costs, "t_count", given.images), RunHistograms(str(out), "run", reference) as counted:
            for rows in blocks:
                counted.add(rows)
        passes = max(1, given.finished // given.images)
        with timed(costs, "t_subtract", passes * given.images):
            for _ in range(passes):
                left, _ = still_to_score(images, finished_rows(str(out)), "model", 0.95)
        assert left.num_rows == 0
    for name, value in costs.items():
        print(f"{name}: {value:g} us")
    print(write_result("driver", {"settings": vars(given), "microseconds_an_image": costs}))


@contextmanager
def timed(costs: dict[str, float], name: str, n: int) -> Iterator[None]:
    """Microseconds of CPU of the block for each of n images."""
    started = time.process_time()
    yield
    costs[name] = round(1e6 * (time.process_time() - started) / n, 2)


def link(folder: Path, n: int) -> Path:
    """A folder of n names, which share one file a folder: a file system allows no more links than some 65,000."""
    for number in range(n):
        below = folder / f"structure-{number // PER_FOLDER:06d}"
        first = below / f"2026-11-23-camera-7-{number - number % PER_FOLDER:09d}.jpg"
        if number % PER_FOLDER == 0:
            below.mkdir(parents=True)
            first.write_bytes(b"no image, and nobody looks")
        else:
            os.link(first, below / f"2026-11-23-camera-7-{number:09d}.jpg")
    return folder


def rows_of(images: pa.Table, seed: int) -> pa.Table:
    """What workers might say of listed images."""
    n = images.num_rows
    scores = np.random.default_rng(seed).random(n, np.float32)
    rows = pd.DataFrame({name: np.ones(n) for name in MEASURED_SCHEMA.names})
    rows["status"], rows["error"], rows["model"], rows["run"] = "scored", "", "model", "run"
    rows["score"], rows["flagged"], rows["tile_scores"] = scores, scores > 0.95, [[score] for score in scores]
    for name in MEASURES_SCHEMA.names:
        rows[name] = scores
    for name in ("image", "group", "bytes", "modified"):
        rows[name] = images[name].to_pandas()
    return pa.Table.from_pandas(rows, MEASURED_SCHEMA, preserve_index=False)


def calibration() -> Calibration:
    """One that flags 5 %."""
    return Calibration(np.linspace(0, 1, 999, dtype=np.float32), 99, "made up", 0.95, "model", False)


if __name__ == "__main__":
    main()
