"""Ray heads, the commands that run on them, and the processes of both that tests kill and stop."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import HOUSE, score_in_process
from rounds import Played, compared

from crackvae.config import ScoreConfig
from crackvae.scoring import verb

BIN = Path(sys.executable).parent
# Small blocks and parts, so that a death meets a run with some parts written and some rows on their way.
RUN = """
import sys
from crackvae import session
from crackvae.cli import main
from crackvae.scoring import actors, run_table
actors.BLOCK_IMAGES, run_table.PART_ROWS, session.SILENCE_S, session.DISCONNECT_S = 8, 24, 4.0, 10.0
sys.exit(main(sys.argv[1:]))
"""
# A run that neither ends nor fails within this many seconds is stuck; within these a head has started.
STUCK_S, START_S = 500, 200


@dataclass(frozen=True)
class Head:
    """A Ray head: its address, and the process that ends with all of it."""

    address: str
    process: subprocess.Popen[bytes]
    scratch: Path

    def workers(self, *names: str) -> list[psutil.Process]:
        """Its workers that live, those with one of the names if any is given; not the agents, with which it ends."""
        found = self.titled("ray::")
        return [one for title, one in found if "Agent" not in title and any(name in title for name in names or ("",))]

    def titled(self, start: str) -> list[tuple[str, psutil.Process]]:
        """Its processes whose title begins so."""
        found = []
        with suppress(psutil.Error):  # it ended while we looked
            for child in psutil.Process(self.process.pid).children(recursive=True):
                title = " ".join(child.cmdline())
                if title.startswith(start):
                    found.append((title, child))
        return found

    def daemons(self, name: str) -> list[psutil.Process]:
        """Its processes of that name or title: raylet, gcs_server, ray::RuntimeEnvAgent."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if name in (child.name(), *child.cmdline()[:1])]

    def scorers(self) -> list[psutil.Process]:
        """The actors that score."""
        return self.workers("ImageScorer")


@contextmanager
def ray_head(folder: Path, *more: str, scratch: Path | None = None) -> Iterator[Head]:
    """A Ray head with two CPUs; and what ends with it.

    Args:
        folder: for its log.
        more: flags of `ray start`.
        scratch: its temporary folder; the paths of sockets in it limit its length.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    scratch = scratch or Path(f"/tmp/crackvae-chaos-{os.getpid()}-{port}")
    flags = ["--head", "--block", "--num-cpus=2", f"--port={port}", f"--temp-dir={scratch}", *more]
    log = folder / f"head-{port}.log"
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [BIN / "ray", "start", *flags, "--include-dashboard=false", "--disable-usage-stats"],
            stdout=file,
            stderr=file,
            env=_environment(),
            start_new_session=True,
        )
    try:
        end = time.monotonic() + START_S
        while "Ray runtime started" not in log.read_text():
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        yield Head(f"127.0.0.1:{port}", process, scratch)
    finally:
        end_all(process)
        if not os.path.ismount(scratch):  # a small disk goes with all that is on it
            subprocess.run(["rm", "-rf", scratch], check=True)


def _environment(address: str = "") -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {"PYTHONPATH": str(HOUSE)}
    return env | {"RAY_ADDRESS": address} if address else env


def end_all(process: subprocess.Popen[bytes]) -> None:
    """End a process that we started, and all that it started."""
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
    process.kill()
    process.wait()


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
            env=_environment(address),
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
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with ray_head(tmp_path_factory.mktemp("head")) as started:
        yield started


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
