"""What an image costs the driver beside its scoring: listing, subtracting, receiving, counting and writing its row.

    python benchmarks/driver.py [--images 200000] [--finished 1000000] [--inventory 10000000]

Seconds of this process's CPU, which other work on the machine does not change much; on a local disk, where waiting for
storage is none. Names are 50 letters long, in folders of 1,000. No Ray, and no image is read.

An inventory of `--inventory` objects, with sizes and times, is listed twice: one tenth of it by `--shard 1/10`, and all
of it with its groups and a subtraction, in a process whose peak of memory is that of a job with as many images.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from record import write_result

from crackvae.images.groups import with_groups
from crackvae.model.calibration import Calibration
from crackvae.monitoring.histograms import reference_of
from crackvae.monitoring.telemetry import RunHistograms
from crackvae.scoring import run_table
from crackvae.scoring.run_table import finished_rows, still_to_score
from crackvae.storage.listing import list_images, list_paths
from crackvae.storage.names.shards import Shard
from crackvae.storage.tables.measures import MEASURED_SCHEMA, MEASURES_SCHEMA

PER_FOLDER = 1_000


def main() -> None:
    """Measure each step and write microseconds per image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--finished", type=int, default=1_000_000)
    parser.add_argument("--inventory", type=int, default=10_000_000)
    parser.add_argument("--whole", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.whole:
        listed_whole(given.whole)
        return
    costs: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        night, out = link(Path(scratch, "night"), given.images), Path(scratch, "scores")
        with timed(costs, "t_list", given.images):
            images = with_groups(list_images(str(night)), "parent")
        table = run_table.RunTable(str(out), "run")
        blocks = [rows_of(images.slice(start, 128), start) for start in range(0, given.images, 128)]
        with timed(costs, "t_write", given.images), table:
            for rows in blocks:
                table.add(rows)
        reference = reference_of(pa.concat_tables(blocks[:50]), calibration())
        with timed(costs, "t_count", given.images), RunHistograms(str(out), "run", reference) as counted:
            for rows in blocks:
                counted.add(rows)
        passes = max(1, given.finished // given.images)
        with timed(costs, "t_subtract", passes * given.images):
            for _ in range(passes):
                left = still_to_score(images, finished_rows(str(out), images["image"]), "model", 0.95).images
        assert left.num_rows == 0
        others = with_groups(list_images(str(link(Path(scratch, "other"), PER_FOLDER))), "parent")
        with timed(costs, "t_subtract_elsewhere", passes * given.images):
            for _ in range(passes):
                left = still_to_score(others, finished_rows(str(out), others["image"]), "model", 0.95).images
        assert left.num_rows == PER_FOLDER
    memory = inventory_costs(costs, given.inventory)
    for name, value in costs.items():
        print(f"{name}: {value:g} us")
    print(write_result("driver", {"settings": vars(given), "microseconds_an_image": costs, "inventory": memory}))


def inventory_costs(costs: dict[str, float], n: int) -> dict[str, float]:
    """Costs of a name of one's own shard and of another's; returns the memory of a job that lists all n of them."""
    with tempfile.TemporaryDirectory() as scratch:
        path = f"{scratch}/inventory.parquet"
        write_inventory(path, n)
        elsewhere: dict[str, float] = {}
        with timed(elsewhere, "all", n):
            own = list_paths([f"@{path}"], shard=Shard(1, 10)).images.num_rows
        done = subprocess.run([sys.executable, __file__, "--whole", path], capture_output=True, text=True, check=True)
    whole: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    costs["t_own"] = round(1e6 * whole["list_s"] / n, 2)
    costs["t_elsewhere"] = round((elsewhere["all"] * n - costs["t_own"] * own) / (n - own), 2)
    return {"names": n, "own": own} | whole


def write_inventory(path: str, n: int) -> None:
    """n objects in row groups of a million, as an inventory of a store lists them."""
    schema = pa.schema([("uri", pa.string()), ("size", pa.int64()), ("last_modified", pa.timestamp("us", tz="UTC"))])
    with pq.ParquetWriter(path, schema) as file:
        for start in range(0, n, 1_000_000):
            numbers = range(start, min(n, start + 1_000_000))
            uris = [f"s3://site/2026/structure-{one // PER_FOLDER:06d}/camera-7-{one:09d}.jpg" for one in numbers]
            times = pa.array([1_700_000_000_000_000 + one for one in numbers], schema.field("last_modified").type)
            file.write_table(pa.table({"uri": uris, "size": [6_000] * len(uris), "last_modified": times}, schema))


def listed_whole(path: str) -> None:
    """List an inventory as the driver of a job does, subtract nothing, and print seconds and the peak of memory."""
    started = time.process_time()
    images = with_groups(list_paths([f"@{path}"]), "parent")
    listed = time.process_time()
    still_to_score(images, [], "model", 0.95)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(json.dumps({"list_s": listed - started, "subtract_nothing_s": time.process_time() - listed, "peak_gb": peak}))


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
    is_number = {field.name: not pa.types.is_string(field.type) for field in MEASURED_SCHEMA}
    rows = pd.DataFrame({name: np.ones(n) if is_number[name] else "" for name in MEASURED_SCHEMA.names})
    rows["status"], rows["model"], rows["run"] = "scored", "model", "run"
    rows["taken"], rows["taken_is_local"] = pd.NaT, False
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
