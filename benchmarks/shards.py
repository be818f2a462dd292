"""Shards of a night on several Ray nodes, two of them killed and submitted again, beside one job: rows, page, seconds.

    python benchmarks/shards.py [--images 1000000] [--shards 8] [--nodes 4] [--at-once 4]

Images and network are those of benchmarks/scale.py: hard links to drawn images of 32 px, and a tiny network, so that
a million take minutes. The nodes are those of cluster/local.sh. The result is benchmarks/results/shards-DATE.json.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
from record import write_result
from scale import N_DRAWN, SIDE_PX, link, write_model

import crackvae
from crackvae.cores import usable_cores
from crackvae.images.synthetic import write_images
from crackvae.storage import tables

HOUSE = Path(__file__).parents[1]
SCRIPT = HOUSE / "cluster" / "local.sh"
POLL_S = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--at-once", type=int, default=4)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="crackvae-shards-") as scratch:
        folder = Path(scratch)
        write_images(folder / "drawn", N_DRAWN, 1, side_px=SIDE_PX, workers=usable_cores())
        night = link(sorted((folder / "drawn").rglob("*.jpg")), folder / "night", flags.images)
        command = ["score", str(night), "--model", str(write_model(folder / "model")), "--quiet"]
        env = os.environ | {"CRACKVAE_CLUSTER": "/tmp/crackvae-shards", "RAY": str(Path(sys.executable).parent / "ray")}
        try:
            subprocess.run([SCRIPT, "up", str(flags.nodes)], env=env, check=True)
            printed = subprocess.run([SCRIPT, "env"], env=env, capture_output=True, text=True, check=True).stdout
            env |= dict(line.removeprefix("export ").split("=", 1) for line in printed.splitlines())
            env |= {"PYTHONPATH": str(HOUSE)}
            started = time.perf_counter()
            whole = ended(job(command, folder / "whole", env, "--workers", str(flags.nodes), "--no-report"))
            seconds = {"one_job": time.perf_counter() - started}
            killed, shards = all_shards(command, folder / "shards", env, flags.shards, flags.at_once)
            seconds["shards"] = time.perf_counter() - started - seconds["one_job"]
        finally:
            subprocess.run([SCRIPT, "down"], env=env, check=True)
        pages = {
            name: crackvae.report(scores=folder / name, out=folder / f"{name}.html", quiet=True).summary
            for name in ("whole", "shards")
        }
        figures = {
            "settings": vars(flags),
            "seconds": {name: round(value, 1) for name, value in seconds.items()},
            "killed": killed,
            "scored_by_one_job": whole["scored"],
            "finished_before": [one["finished_before"] for one in shards if one["finished_before"]],
            "rows": ds.dataset(folder / "shards", exclude_invalid_files=True).count_rows(),
            "rows_are_those_of_one_job": rows_of(folder / "shards") == rows_of(folder / "whole"),
            "pages": {
                name: {key: page[key] for key in ("images", "flagged", "shards", "shards_left") if key in page}
                for name, page in pages.items()
            },
        }
    print(json.dumps(figures, indent=1))
    print(write_result("shards", figures))


def all_shards(
    command: list[str], out: Path, env: dict[str, str], n: int, at_once: int
) -> tuple[list[str], list[dict[str, Any]]]:
    """Run all shards, some at once, and kill the first two when they have written a part; then run these two again."""
    waiting = [f"{number}/{n}" for number in range(1, n + 1)]
    to_kill, killed, summaries = waiting[:2], [], []
    running: dict[str, subprocess.Popen[str]] = {}
    while waiting or running:
        while waiting and len(running) < at_once:
            shard = waiting.pop(0)
            running[shard] = job(command, out, env, "--workers", "1", "--shard", shard)
        for shard, process in list(running.items()):
            has_part = any(out.glob(f"*.{shard.replace('/', 'of')}-*.parquet"))
            if shard in to_kill and has_part:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                to_kill.remove(shard)
                killed.append(shard)
                waiting.append(shard)
                del running[shard]
            elif process.poll() is not None:
                summaries.append(ended(running.pop(shard)))
        time.sleep(POLL_S)
    assert len(killed) == 2, "the first two shards were to be killed"
    return killed, summaries


def job(command: list[str], out: Path, env: dict[str, str], *more: str) -> "subprocess.Popen[str]":
    words = [sys.executable, "-m", "crackvae", *command, "--out", str(out), "--address", env["CRACKVAE_HEAD"], *more]
    return subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """The summary of a job that has succeeded."""
    output, errors = process.communicate()
    assert process.returncode == 0, errors[-3000:]
    summary: dict[str, Any] = json.loads(output.splitlines()[-1])
    return summary


def rows_of(out: Path) -> bytes:
    """All rows of a table as one file, by image, without the names of their runs; NaN equals NaN."""
    rows = tables.read_scores(str(out), tables.SCORES_SCHEMA.names).drop_columns(["run"]).sort_by("image")
    return bytes(tables.parquet_bytes(rows.combine_chunks()))


if __name__ == "__main__":
    main()
