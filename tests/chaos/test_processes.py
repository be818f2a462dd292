"""SIGKILL, SIGSTOP and Ctrl-C at random moments of a run on Ray, then a run that is left alone: the same table.

Drivers come and go on one Ray head; what ends a head, or all of Ray, plays on a head of its own.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
from conftest import HOUSE, IS_LONG, read_rows, score_in_process
from rounds import Played, compared

from crackvae import pipeline
from crackvae.config import ScoreConfig

BIN = Path(sys.executable).parent
# Small blocks and parts, so that a death meets a run with some parts written and some rows on their way.
RUN = """
import sys
from crackvae import pipeline, session
from crackvae.cli import main
pipeline.BLOCK_IMAGES, pipeline.PART_ROWS, session.SILENCE_S = 8, 24, 4.0
sys.exit(main(sys.argv[1:]))
"""
# A run that neither ends nor fails within this many seconds is stuck; within these a head has started.
STUCK_S, START_S = 500, 200
KILLED = ("driver", "actor", "worker")
ROUNDS = 15 if IS_LONG else 2

# The address of a Ray head, and the process that ends with all of it.
Head = tuple[str, subprocess.Popen[bytes]]

pytestmark = [pytest.mark.ray, pytest.mark.long]


@contextmanager
def ray_head(folder: Path) -> Iterator[Head]:
    """A Ray head with two CPUs; and what ends with it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    scratch = Path(f"/tmp/crackvae-chaos-{os.getpid()}-{port}")
    flags = [
        "--head",
        "--block",
        "--num-cpus=2",
        f"--port={port}",
        f"--temp-dir={scratch}",
        "--include-dashboard=false",
    ]
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with open(folder / f"head-{port}.log", "wb") as log:
        process = subprocess.Popen(
            [BIN / "ray", "start", *flags, "--disable-usage-stats"],
            stdout=log,
            stderr=log,
            env=env,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + START_S
        while "Ray runtime started" not in (folder / f"head-{port}.log").read_text():
            assert process.poll() is None and time.monotonic() < end, (folder / f"head-{port}.log").read_text()
            time.sleep(0.2)
        yield f"127.0.0.1:{port}", process
    finally:
        end_all(process)
        subprocess.run(["rm", "-rf", scratch], check=True)


def end_all(process: subprocess.Popen[bytes]) -> None:
    """End a process that we started, and all that it started."""
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with ray_head(tmp_path_factory.mktemp("head")) as started:
        yield started


@pytest.fixture(scope="module")
def night(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 images, so that scoring takes some seconds, and two broken files."""
    folder = tmp_path_factory.mktemp("processes") / "night"
    folder.mkdir()
    images = sorted(drawn.rglob("*.jpg"))
    for number in range(400):
        os.link(images[number % len(images)], folder / f"{number:04d}.jpg")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def wanted(night: Path, model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    out = tmp_path_factory.mktemp("undisturbed")
    finish(night, model_dir, out)
    return read_rows(out)


def finish(night: Path, model: Path, out: Path) -> None:
    """The run that is left alone: in this process, which gives the same scores and starts nothing."""
    with pytest.MonkeyPatch.context() as patch:
        score_in_process(patch)
        pipeline.score(ScoreConfig(images=str(night), model=str(model), out=str(out), quiet=True, no_report=True))


@dataclass(frozen=True)
class Scene:
    """What a round plays with, and where it keeps its result."""

    night: Path
    model: Path
    out: Path
    wanted: pa.Table
    played: Played

    def judge(self, fault: str) -> None:
        """Finish what was disturbed, and compare."""
        assert "Traceback" not in said(self.out), said(self.out)
        started = time.monotonic()
        finish(self.night, self.model, self.out)
        self.played.keep("process", fault, compared(self.wanted, read_rows(self.out)), since=started)


@pytest.fixture
def scene(night: Path, model_dir: Path, tmp_path: Path, wanted: pa.Table, played: Played) -> Scene:
    return Scene(night, model_dir, tmp_path / "out", wanted, played)


@contextmanager
def running(scene: Scene, address: str) -> Iterator[subprocess.Popen[bytes]]:
    """A run in a process group of its own; what it says is in OUT.log."""
    out = scene.out
    flags = ["score", "--images", scene.night, "--model", scene.model, "--out", out, "--no-report", "--workers", "2"]
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    env |= {"PYTHONPATH": str(HOUSE), "RAY_ADDRESS": address} if address else {"PYTHONPATH": str(HOUSE)}
    with open(out.with_suffix(".log"), "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, *map(str, flags)], stdout=log, stderr=log, env=env, start_new_session=True
        )
    try:
        yield process
    finally:
        end_all(process)


def wait_for_a_part(process: subprocess.Popen[bytes], out: Path) -> None:
    end = time.monotonic() + STUCK_S
    while process.poll() is None and not list(out.glob("*.parquet")):
        assert time.monotonic() < end, said(out)
        time.sleep(0.02)


def said(out: Path) -> str:
    return out.with_suffix(".log").read_text()


def scorers(head: subprocess.Popen[bytes], kind: str) -> list[psutil.Process]:
    """Processes of Ray below a head: actors that score, or any worker."""
    found = []
    with suppress(psutil.Error):
        for child in psutil.Process(head.pid).children(recursive=True):
            name = " ".join(child.cmdline())
            if name.startswith("ray::") and (kind == "worker" or "ImageScorer" in name):
                found.append(child)
    return found


@pytest.mark.parametrize("number", range(ROUNDS))
def test_after_a_kill_a_rerun_completes_the_table_of_an_undisturbed_run(number: int, head: Head, scene: Scene) -> None:
    chance, victim, out = random.Random(number), KILLED[number % len(KILLED)], scene.out
    with running(scene, head[0]) as process:
        wait_for_a_part(process, out)
        time.sleep(chance.uniform(0, 0.5))
        victims = scorers(head[1], victim) if victim != "driver" else [psutil.Process(process.pid)]
        if victims and process.poll() is None:
            chance.choice(victims).kill()
        if victim != "driver":
            process.wait(STUCK_S)
    scene.judge(f"SIGKILL of the {victim} while scoring")


@pytest.mark.parametrize("seconds", (10, 20) if IS_LONG else (10,))
def test_of_an_actor_that_is_stopped_the_person_who_waits_is_told_and_then_it_goes_on(
    seconds: int, head: Head, scene: Scene
) -> None:
    out = scene.out
    with running(scene, head[0]) as process:
        wait_for_a_part(process, out)
        stopped = scorers(head[1], "actor")
        for actor in stopped:
            actor.suspend()
        time.sleep(seconds)
        for actor in stopped:
            actor.resume()
        assert process.wait(STUCK_S) == 0, said(out)
    assert not stopped or "score: nothing has come from the workers for 4 s" in said(out), said(out)
    scene.judge("SIGSTOP of the actors while scoring")


@pytest.mark.parametrize("times", (1, 2, 3) if IS_LONG else (2,))
def test_ctrl_c_ends_a_run_in_one_line_without_orphans_and_it_can_be_gone_on_with(times: int, scene: Scene) -> None:
    out = scene.out
    with running(scene, "") as process:  # with a Ray of its own, as on a laptop
        wait_for_a_part(process, out)
        started = psutil.Process(process.pid).children(recursive=True)
        for _ in range(times):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.3)
        code = process.wait(60)
        _, orphans = psutil.wait_procs(started, timeout=30)
        assert code in (0, 130, -signal.SIGINT) and not orphans, (code, orphans, said(out))
    assert code != 130 or "interrupted. Run the same command again to go on." in said(out)
    scene.judge(f"Ctrl-C, {times} times")


@pytest.mark.long
@pytest.mark.parametrize("signalled", [signal.SIGKILL, signal.SIGSTOP], ids=["SIGKILL", "SIGSTOP"])
@pytest.mark.parametrize("victim", ["raylet", "gcs_server"])
def test_of_a_head_that_ends_or_stops_the_person_who_waits_is_told_within_a_minute(
    victim: str, signalled: signal.Signals, scene: Scene, tmp_path: Path
) -> None:
    out = scene.out
    with ray_head(tmp_path) as (address, head), running(scene, address) as process:
        wait_for_a_part(process, out)
        before = len(said(out))
        for child in psutil.Process(head.pid).children(recursive=True):
            if child.name() == victim:
                child.send_signal(signalled)
        end = time.monotonic() + 60
        while time.monotonic() < end and process.poll() is None and "nothing has come" not in said(out)[before:]:
            time.sleep(0.2)
        assert process.poll() is not None or "nothing has come" in said(out)[before:], said(out)
    scene.judge(f"{signalled.name} of the {victim} while scoring")


@pytest.mark.long
@pytest.mark.parametrize("number", range(3))
def test_of_two_runs_at_once_one_is_refused_in_one_line_or_finds_all_done(
    number: int, head: Head, scene: Scene
) -> None:
    out = scene.out
    with running(scene, head[0]) as one, running(scene, head[0]) as other:
        codes = sorted([one.wait(STUCK_S), other.wait(STUCK_S)])
    assert codes in ([0, 0], [0, 2]), said(out)
    assert codes == [0, 0] or "is being written by run" in said(out)
    scene.judge("two runs at once")


@pytest.mark.long
def test_an_actor_without_memory_ends_the_run_in_one_line(head: Head, scene: Scene) -> None:
    out = scene.out
    with running(scene, head[0]) as process:
        wait_for_a_part(process, out)
        for actor in scorers(head[1], "actor"):
            with suppress(psutil.Error):
                actor.rlimit(psutil.RLIMIT_AS, (actor.memory_info().vms, actor.memory_info().vms))
        assert process.wait(STUCK_S) in (0, 2), said(out)
    scene.judge("no more memory for the actors")
