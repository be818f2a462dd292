"""The commands that run on a Ray head while tests of faults kill and stop processes."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import score_in_process
from ray_head import end_all, environment
from rounds import Played, compared

from crackvae.config import ScoreConfig
from crackvae.scoring import verb

# Small blocks and parts, so that a death meets a run with some parts written and some rows on their way.
RUN = """
import sys
from crackvae import session
from crackvae.cli import main
from crackvae.scoring import actors, run_table
actors.BLOCK_IMAGES, run_table.PART_ROWS, session.SILENCE_S, session.DISCONNECT_S = 8, 24, 4.0, 10.0
sys.exit(main(sys.argv[1:]))
"""
# A run that neither ends nor fails within this many seconds is stuck.
STUCK_S = 500


@contextmanager
def command(flags: Sequence[object], log: Path, address: str, run: str = RUN) -> Iterator[subprocess.Popen[bytes]]:
    """A command of crackvae in a process group of its own; what it says is added to its log.

    Args:
        flags: its verb and flags.
        log: where it writes.
        address: of a Ray head; "" for a Ray of its own, as on a laptop.
        run: the Python that starts it.
    """
    with open(log, "ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", run, *map(str, flags)],
            stdout=file,
            stderr=file,
            env=environment(address),
            start_new_session=True,
        )
    try:
        yield process
    finally:
        end_all(process)


@dataclass(frozen=True)
class Scene:
    """What a round of scoring plays with, and where it keeps its result."""

    night: Path
    model: Path
    out: Path
    wanted: pa.Table
    played: Played

    def running(self, address: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
        """The command that scores; the same whenever it is run again."""
        places = ["--images", self.night, "--model", self.model, "--out", self.out]
        return command(["score", *places, "--no-report", "--workers", 2], self.out.with_suffix(".log"), address)

    def said(self) -> str:
        """What all its runs have said."""
        return self.out.with_suffix(".log").read_text()

    def has_part(self) -> bool:
        """Whether some rows are written."""
        return bool(list(self.out.glob("*.parquet")))

    def wait_for_a_part(self, process: subprocess.Popen[bytes]) -> None:
        """Return when some rows are written and others on their way, or the run has ended."""
        end = time.monotonic() + STUCK_S
        while process.poll() is None and not self.has_part():
            assert time.monotonic() < end, self.said()
            time.sleep(0.02)

    def require_same_table(self, fault: str) -> None:
        """Finish what was disturbed, in this process, and compare."""
        self.require_no_traceback()
        started = time.monotonic()
        finish(self.night, self.model, self.out)
        self.played.require_clean("process", fault, compared(self.wanted, rows_of(self.out)), since=started)

    def require_no_traceback(self) -> None:
        """What is no bug of ours is said in a line."""
        assert "Traceback" not in self.said(), self.said()


def finish(night: Path, model: Path, out: Path) -> None:
    """The run that is left alone: in this process, which gives the same scores and starts nothing."""
    with pytest.MonkeyPatch.context() as patch:
        score_in_process(patch)
        verb.score(ScoreConfig(images=str(night), model=str(model), out=str(out), quiet=True, no_report=True))


def rows_of(out: Path) -> pa.Table:
    """The table as any reader of Parquet sees it."""
    return pq.read_table(out).sort_by("image")


def link_night(drawn: Path, folder: Path) -> Path:
    """400 images, so that scoring takes some seconds, and two broken files."""
    folder.mkdir()
    images = sorted(drawn.rglob("*.jpg"))
    for number in range(400):
        os.link(images[number % len(images)], folder / f"{number:04d}.jpg")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def night(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return link_night(drawn, tmp_path_factory.mktemp("disturbed") / "night")


@pytest.fixture(scope="module")
def wanted(night: Path, model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    out = tmp_path_factory.mktemp("undisturbed")
    finish(night, model_dir, out)
    return rows_of(out)


@pytest.fixture
def scene(night: Path, model_dir: Path, tmp_path: Path, wanted: pa.Table, played: Played) -> Scene:
    return Scene(night, model_dir, tmp_path / "out", wanted, played)
