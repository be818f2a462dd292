"""A Ray head in processes of its own, which tests connect to from this process and from others."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

HOUSE = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
# A head that has not started within this many seconds is a failure.
START_S = 200
# Ray gives its daemons 30 s to start, which is too short beside other work; then the head is started again.
TOO_SLOW = "timed out during startup"


@dataclass(frozen=True)
class Head:
    """A Ray head: its address, its process, and its temporary folder."""

    address: str
    process: subprocess.Popen[bytes]
    scratch: Path

    def workers(self, *names: str) -> list[psutil.Process]:
        """Its live workers, or those with one of the names; not its agents, which it does not outlive."""
        found = self.titled("ray::")
        return [one for title, one in found if "Agent" not in title and any(name in title for name in names or ("",))]

    def titled(self, start: str) -> list[tuple[str, psutil.Process]]:
        """Its processes whose title starts with the text, with their titles."""
        found = []
        with suppress(psutil.Error):  # it may end meanwhile
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
    """A Ray head with two CPUs, and a GPU in name only.

    Args:
        folder: for its log.
        more: flags of `ray start`.
        scratch: its temporary folder; a short path, as the paths of sockets in it may have 107 bytes at most.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    scratch = scratch or Path(f"/tmp/crackvae-chaos-{os.getpid()}-{port}")
    flags = ["--head", "--block", "--num-cpus=2", "--num-gpus=1", f"--port={port}", f"--temp-dir={scratch}", *more]
    log, end = folder / f"head-{port}.log", time.monotonic() + START_S
    process = _started(flags, log)
    try:
        while "Ray runtime started" not in log.read_text():
            assert time.monotonic() < end, log.read_text()
            if process.poll() is not None:
                assert TOO_SLOW in log.read_text(), log.read_text()
                process = _started(flags, log)
            time.sleep(0.2)
        yield Head(f"127.0.0.1:{port}", process, scratch)
    finally:
        end_all(process)
        if not os.path.ismount(scratch):  # a test that mounted a small disk here unmounts it
            subprocess.run(["rm", "-rf", scratch], check=True)


def _started(flags: list[str], log: Path) -> subprocess.Popen[bytes]:
    command: list[str | Path] = [BIN / "ray", "start", *flags, "--include-dashboard=false", "--disable-usage-stats"]
    with open(log, "wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env=environment(), start_new_session=True)


def environment(address: str = "") -> dict[str, str]:
    """The environment of a process that imports crackvae from the checkout and uses the Ray at this address."""
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {"PYTHONPATH": str(HOUSE)}
    return env | {"RAY_ADDRESS": address} if address else env


def end_all(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that we started, and its descendants."""
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
    process.kill()
    process.wait()
