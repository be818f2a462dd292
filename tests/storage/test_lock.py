"""One writer at a time: a second run is refused, and the lock of a dead one is taken over."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from crackvae.errors import FolderInUse
from crackvae.storage import fileio, lock
from crackvae.storage.lock import locked


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("HEARTBEAT_S", 0.1), ("EXPIRY_S", 1.0), ("POLL_S", 0.05), ("SETTLE_S", 0.3)):
        monkeypatch.setattr(lock, name, seconds)


def leave_lock(folder: Path, run: str, **owner: object) -> Path:
    """What a run of another machine leaves behind when it dies."""
    folder.mkdir(exist_ok=True)
    path = folder / f"_lock-{run}.json"
    path.write_text(json.dumps({"run": run, "user": "inspector", "host": "elsewhere", "pid": 7} | owner))
    return path


def test_a_second_run_is_refused_by_name_and_leaves_the_first_one_alone(tmp_path: Path) -> None:
    with locked(str(tmp_path), "run-1", quiet=True) as first:
        for run in ("run-0", "run-2"):
            with pytest.raises(FolderInUse, match=rf"run run-1 of .* \(process {os.getpid()}\): wait for it"):
                locked(str(tmp_path), run, quiet=True).__enter__()
        first.check()
        complete = [
            name for name in os.listdir(tmp_path) if not name.startswith(".")
        ]  # a heartbeat may be half-written
        assert complete == ["_lock-run-1.json"]
    assert os.listdir(tmp_path) == []


def test_the_lock_goes_when_a_run_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), locked(str(tmp_path), "run", quiet=True):
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_the_lock_of_a_killed_process_of_this_machine_is_taken_over_at_once_and_said_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "EXPIRY_S", 1e9)
    child = subprocess.Popen(
        [sys.executable, "-c", "from crackvae.storage import lock; import time\n"
        f"with lock.locked({str(tmp_path)!r}, 'old', quiet=True): print(flush=True); time.sleep(60)"],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None and child.stdout.readline() == b"\n"
    with pytest.raises(FolderInUse, match="run old"):
        locked(str(tmp_path), "new", quiet=False).__enter__()
    child.kill()  # and nobody has asked for its exit code yet
    with locked(str(tmp_path), "new", quiet=False):
        assert os.listdir(tmp_path) == ["_lock-new.json"]
    assert "took over from run old" in capsys.readouterr().err
    child.communicate()


def test_the_lock_of_another_machine_is_taken_over_when_it_has_expired(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leave_lock(tmp_path, "old")
    started = time.monotonic()
    with locked(str(tmp_path), "new", quiet=False):
        assert time.monotonic() - started > lock.EXPIRY_S / 2
    assert "took over from run old of inspector on elsewhere, which died" in capsys.readouterr().err


def test_the_lock_of_another_machine_that_beats_is_respected(tmp_path: Path) -> None:
    path = leave_lock(tmp_path, "old")
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.2):
            fileio.write_bytes(str(path), path.read_bytes())

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(FolderInUse, match="run old of inspector on elsewhere"):
            locked(str(tmp_path), "new", quiet=True).__enter__()
    finally:
        ended.set()
        thread.join()
    assert path.exists()


def test_a_process_that_only_has_the_number_of_the_dead_one_holds_nothing(tmp_path: Path) -> None:
    here = lock._process(os.getpid())
    assert here is not None
    leave_lock(tmp_path, "old", space=here[0], pid=os.getpid(), since="1")
    with locked(str(tmp_path), "new", quiet=True):
        assert os.listdir(tmp_path) == ["_lock-new.json"]


def test_a_run_whose_lock_was_taken_over_stops(tmp_path: Path) -> None:
    with locked(str(tmp_path), "run", quiet=True) as mine:
        os.unlink(mine.path)
        deadline = time.monotonic() + 10
        while not mine.is_lost and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(FolderInUse, match="taken over by another run"):
            mine.check()


def test_of_many_runs_that_start_together_never_two_are_at_work(tmp_path: Path) -> None:
    inside, most, done = [0], [0], [0]
    guard = threading.Lock()

    def run(number: int) -> None:
        try:
            with locked(str(tmp_path), f"run-{number}", quiet=True):
                with guard:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                time.sleep(0.05)
                with guard:
                    inside[0] -= 1
                    done[0] += 1
        except FolderInUse:
            pass

    for _ in range(3):
        threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most[0] == 1 and done[0] >= 1 and os.listdir(tmp_path) == []
