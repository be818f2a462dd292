"""SIGKILL at random moments, then a rerun: the table is that of an undisturbed run, no row lost and none twice.

The number of rounds is CRACKVAE_KILL_ROUNDS; docs/log.md has the result of twenty.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import HOUSE

ROUNDS = int(os.environ.get("CRACKVAE_KILL_ROUNDS", "3"))
VICTIMS = ("driver", "actor", "worker")
# Small blocks and parts, so that a death meets a run with some parts written and some rows on their way.
RUN = """
import sys
from crackvae import pipeline
from crackvae.cli import main
pipeline.BLOCK_IMAGES, pipeline.PART_ROWS = 16, 100
sys.exit(main(sys.argv[1:]))
"""
# A run that neither ends nor fails within this many seconds is stuck.
STUCK_S = 900


@pytest.fixture(scope="module")
def night(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,200 images, so that scoring takes some seconds: four links to each of 300 drawn ones, and two broken files."""
    folder = tmp_path_factory.mktemp("kills") / "night"
    for copy in range(4):
        (folder / str(copy)).mkdir(parents=True)
        for image in sorted(drawn.rglob("*.jpg")):
            os.link(image, folder / str(copy) / f"{image.parent.name}-{image.name}")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("no image")
    return folder


@contextmanager
def running(night: Path, model: Path, out: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run in a process group of its own, with a local Ray cluster that dies with the group."""
    flags = ["score", "--images", night, "--model", model, "--out", out, "--workers", "2", "--quiet"]
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {"PYTHONPATH": str(HOUSE)}
    with open(out.with_suffix(".log"), "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, *map(str, flags)], stdout=log, stderr=log, env=env, start_new_session=True
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def finish(night: Path, model: Path, out: Path) -> None:
    with running(night, model, out) as process:
        assert process.wait(STUCK_S) == 0, out.with_suffix(".log").read_text()[-2000:]


def kill_one(process: subprocess.Popen[bytes], victim: str, chance: random.Random, out: Path) -> bool:
    """Kill at any moment, or at one when some rows are written and others on their way; False for too late."""
    if chance.random() < 0.3:
        time.sleep(chance.uniform(0, 15))  # before, in and after Ray's start
    else:
        while process.poll() is None and not list(out.glob("*.parquet")):
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 1.5))
    while process.poll() is None and victim != "driver" and not found(process, victim):
        time.sleep(0.05)
    victims = [process.pid] if victim == "driver" else found(process, victim)
    if process.poll() is not None or not victims:
        return False
    os.kill(chance.choice(victims), signal.SIGKILL)
    return True


def found(process: subprocess.Popen[bytes], victim: str) -> list[int]:
    """Processes of Ray below the driver: actors that score, or any worker; the agents of a node are among them."""
    pids = []
    with suppress(psutil.Error):  # it ended while we looked
        for child in psutil.Process(process.pid).children(recursive=True):
            name = " ".join(child.cmdline())
            if name.startswith("ray::") and (victim == "worker" or "ImageScorer" in name or "MapWorker" in name):
                pids.append(child.pid)
    return pids


def table(out: Path) -> pa.Table:
    """The table as any reader of Parquet sees it."""
    return pq.read_table(out).drop_columns(["run"]).sort_by("image")


@pytest.mark.ray
def test_after_a_kill_at_a_random_moment_a_rerun_completes_the_table_of_an_undisturbed_run(
    night: Path, model_dir: Path, tmp_path: Path
) -> None:
    finish(night, model_dir, tmp_path / "undisturbed")
    wanted = table(tmp_path / "undisturbed").to_pylist()
    assert Counter(row["status"] for row in wanted) == {"scored": 1200, "unreadable": 2}
    chance = random.Random(20261123)
    for number in range(ROUNDS):
        victim, out = VICTIMS[number % len(VICTIMS)], tmp_path / f"{number}"
        with running(night, model_dir, out) as process:
            killed = kill_one(process, victim, chance, out)
            if victim != "driver":
                process.wait(STUCK_S)
            code = process.poll()
        kept = table(out).num_rows if out.is_dir() and list(out.glob("*.parquet")) else 0
        finish(night, model_dir, out)
        print(f"round {number}: {victim} {'killed' if killed else 'ended before'}, exit {code}, {kept} rows kept")
        found_rows = table(out).to_pylist()
        assert [row["image"] for row in found_rows] == [row["image"] for row in wanted]
        assert repr(found_rows) == repr(wanted), f"round {number}: {victim}"
