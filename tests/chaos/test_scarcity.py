"""Memory and disk that run out below Ray while a run scores: one line or a run that goes on, and the whole table."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import heads
import psutil
import pytest
from heads import STUCK_S, Scene, command
from ray_head import Head, ray_head

# Memory cgroups of Linux, version 2 and 1: where they lie, and the names of their limit and of their count of kills.
CGROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.events"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.oom_control"),
)
# What the actors may still take [bytes]: less than one block of images needs.
LEFT_BYTES = 1_000_000
# A store of Ray's least size, and a disk for its overflow with room for the logs of some runs.
STORE_BYTES, DISK_BYTES = 80_000_000, 60_000_000
# A job beside ours that holds the store and the disk behind it full until it is killed.
HOG = """
import sys, time
import numpy as np, ray
ray.init(address="auto", log_to_driver=False, logging_level="CRITICAL")
held = []
for _ in range(1000):
    try:
        held.append(ray.put(np.random.default_rng(len(held)).bytes(8_000_000)))
    except Exception as error:
        break
print("full", len(held), flush=True)
time.sleep(3600)
"""

# Fixtures: pytest takes those that it finds in a module.
night, wanted, scene = heads.night, heads.wanted, heads.scene
pytestmark = [pytest.mark.ray, pytest.mark.long]


def ended_with(process: "subprocess.Popen[bytes]", scene: Scene) -> int:
    """The exit code; fails where for a minute nothing is said and nothing ends."""
    before, heard = len(scene.said()), time.monotonic()
    while process.poll() is None:
        if len(scene.said()) > before:
            before, heard = len(scene.said()), time.monotonic()
        assert time.monotonic() < heard + 60, f"silent for a minute: {scene.said()}"
        time.sleep(0.1)
    return process.wait()


def test_an_actor_without_memory_ends_the_run_in_one_line(head: Head, scene: Scene) -> None:
    with scene.running(head.address) as process:
        scene.wait_for_a_part(process)
        actors = head.scorers()
        assert actors and process.poll() is None
        for actor in actors:
            with suppress(psutil.Error):
                actor.rlimit(psutil.RLIMIT_AS, (actor.memory_info().vms, actor.memory_info().vms))
        assert ended_with(process, scene) in (0, 2), scene.said()
    scene.require_same_table("memory of the actors limited (RLIMIT_AS)")


@contextmanager
def cgroup(limit_bytes: int) -> Iterator[tuple[Path, str]]:
    """A cgroup whose processes may take so much from now on, and the name of its file that counts kills."""
    name = f"crackvae-chaos-{os.getpid()}"
    for root, _, _ in CGROUPS:
        with suppress(OSError):
            (root / name).mkdir()
    usable = [(root / name, limit, events) for root, limit, events in CGROUPS if (root / name / limit).exists()]
    for root, limit, _ in CGROUPS:
        if not (root / name / limit).exists() and (root / name).is_dir():
            (root / name).rmdir()
    if not usable:
        pytest.skip("only root may limit memory, where /sys/fs/cgroup is writable and has the memory controller")
    folder, limit, events = usable[0]
    (folder / limit).write_text(str(limit_bytes))
    try:
        yield folder, events
    finally:
        while (folder / "cgroup.procs").read_text().strip():
            time.sleep(0.1)
        folder.rmdir()


def test_an_actor_killed_out_of_memory_is_replaced_and_the_run_continues(head: Head, scene: Scene) -> None:
    with cgroup(LEFT_BYTES) as (folder, events), scene.running(head.address) as process:
        scene.wait_for_a_part(process)
        actors = head.scorers()
        assert actors and process.poll() is None
        (folder / "cgroup.procs").write_text(str(actors[0].pid))
        code = ended_with(process, scene)
        counts = dict(line.split() for line in (folder / events).read_text().splitlines())
        print(f"exit {code}, killed by the kernel: {counts['oom_kill']}")
        assert int(counts["oom_kill"]) >= 1 and code in (0, 2), scene.said()
    scene.require_same_table("an actor killed by the kernel (out of memory)")


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of DISK_BYTES."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


@contextmanager
def full(head: Head, log: Path) -> Iterator[None]:
    """The store of a head and its disk are full, by a job beside ours, until the block ends."""
    with command([], log, head.address, HOG):
        end = time.monotonic() + STUCK_S
        while "full" not in log.read_text():
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        with suppress(OSError), open(head.scratch / "filler", "wb", buffering=0) as filler:
            while True:
                filler.write(bytes(100_000))
        try:
            yield
        finally:
            (head.scratch / "filler").unlink()


@pytest.mark.parametrize("when", ["from the start", "midway"])
def test_a_full_object_store_and_disk_of_ray_end_a_run_in_one_line_or_it_continues(
    when: str, scene: Scene, tmp_path: Path
) -> None:
    disk = Path(f"/tmp/crackvae-disk-{os.getpid()}")  # sockets lie in it, whose paths have 107 bytes at most
    flags = (f"--object-store-memory={STORE_BYTES}", f"--object-spilling-directory={disk}")
    with small_disk(disk), ray_head(tmp_path, *flags, scratch=disk) as head:
        if when == "midway":
            with scene.running(head.address) as process:
                scene.wait_for_a_part(process)
                actors = head.scorers()
                assert actors and process.poll() is None
                for actor in actors:  # the disk takes some seconds to fill, and the run no more
                    actor.suspend()
                with full(head, tmp_path / "hog.log"):
                    for actor in actors:
                        actor.resume()
                    code = ended_with(process, scene)
        else:
            with full(head, tmp_path / "hog.log"), scene.running(head.address) as process:
                code = ended_with(process, scene)
        print(f"{when}: exit {code}, {scene.said()[-600:]}")
        assert code in (0, 2), scene.said()
    scene.require_same_table(f"Ray's object store and its disk full {when}")
