"""One writer of a scores table at a time: a lock file that its owner keeps young, and that a dead owner's outlives.

Object storage has no exclusive creation, so a run writes its own lock first and looks for others then: of two runs at
once at least one sees the other. Ages are differences of two times of the storage's clock, so hosts need not agree.
"""

import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from crackvae.console import say
from crackvae.errors import FolderInUse, StorageError
from crackvae.storage import fileio, uris

# A run renews its lock so often [s]; a lock that was not renewed for EXPIRY_S is that of a dead run.
HEARTBEAT_S, EXPIRY_S = 15.0, 60.0


# Pause between two looks at another run's lock [s], and how long the earlier of two runs that start at the same moment
# waits for the later one to give up.
POLL_S, SETTLE_S = 1.0, 5.0


_LOCK_NAME = re.compile(r"_lock-(?P<run>.+)\.json")


class Lock:
    """A lock that this run holds."""

    def __init__(self, folder: str, run: str, instead: str) -> None:
        self.folder, self.run, self.instead = folder, run, instead
        self.place = uris.join(folder, f"_lock-{run}.json")
        self.is_lost = False

    def check(self) -> None:
        """Raise FolderInUse where another run took this one for dead, and works in its place."""
        if self.is_lost:
            raise FolderInUse(
                f"{self.folder} was taken over by another run, because this one could not renew its lock for "
                f"{EXPIRY_S:g} s: what it wrote is kept. Run it again when the other has ended."
            )

    def write(self) -> None:
        """Write the lock, or make it young again."""
        owner = {"run": self.run, "user": os.environ.get("USER") or str(os.getuid()), "host": socket.gethostname()}
        fileio.write_bytes(self.place, json.dumps(owner | {"pid": os.getpid()} | _process(os.getpid())).encode())


@contextmanager
def locked(folder: str, run: str, *, quiet: bool, instead: str = "--out") -> Iterator[Lock]:
    """Be the only run that writes into a folder, for the time of the block.

    The lock of a run that died is taken over and said so: at once where its process is known to have gone (same
    machine), after EXPIRY_S without a sign of life elsewhere.

    Raises:
        FolderInUse: another run is at work; it is named.
        StorageError: the lock cannot be written.
    """
    lock = Lock(folder, run, instead)
    ended = threading.Event()
    thread = threading.Thread(target=_keep_young, args=(lock, ended), daemon=True)
    lock.write()
    try:
        _wait_for_others(lock, quiet=quiet)
        thread.start()
        yield lock
    finally:
        ended.set()
        if thread.is_alive():
            thread.join()
        if not lock.is_lost:
            fileio.delete_file(lock.place)


def _keep_young(lock: Lock, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT_S):
        with suppress(StorageError):  # storage that fails for a moment: the next beat comes before the lock expires
            if fileio.modified_us(lock.place) is None:
                lock.is_lost = True
                return
            lock.write()


def _wait_for_others(lock: Lock, *, quiet: bool) -> None:
    """Return when no other run is at work; take over the locks of dead ones."""
    started, first_seen = time.monotonic(), dict[str, int]()
    while others := _others(lock, quiet=quiet):
        for name, (modified, owner) in others.items():
            is_alive = _is_running(owner) or first_seen.setdefault(name, modified) != modified
            is_later = name > os.path.basename(lock.place)
            if is_alive and not (is_later and time.monotonic() - started < SETTLE_S):
                raise FolderInUse(
                    f"{lock.folder} is being written by run {owner['run']} of {owner['user']} on {owner['host']} "
                    f"(process {owner['pid']}): wait for it to end, or choose another {lock.instead}."
                )
        time.sleep(POLL_S)
        lock.write()


def _others(lock: Lock, *, quiet: bool) -> dict[str, tuple[int, dict[str, str]]]:
    """Time and owner of every other lock that may be alive, by name; the dead ones are deleted."""
    others = {}
    now = fileio.modified_us(lock.place)
    for name in fileio.list_files(lock.folder):
        place = uris.join(lock.folder, name)
        match = _LOCK_NAME.fullmatch(name)
        if not match or place == lock.place:
            continue
        modified = fileio.modified_us(place)
        if modified is None or now is None:  # it ended while we looked
            continue
        owner = _owner(place, match["run"])
        if _is_gone(owner) or now - modified > EXPIRY_S * 1e6:
            say(
                f"took over from run {owner['run']} of {owner['user']} on {owner['host']}, which died; "
                "what it finished is kept",
                quiet=quiet,
            )
            fileio.delete_file(place)
        else:
            others[name] = (modified, owner)
    return others


def _owner(place: str, run: str) -> dict[str, str]:
    unknown = dict.fromkeys(("user", "host", "pid", "space", "since"), "unknown")
    try:
        read = json.loads(fileio.read_bytes(place))
    except (StorageError, ValueError):  # it ended while we looked, or is no lock: its age decides
        read = {}
    return unknown | {"run": run} | {key: str(read[key]) for key in (*unknown, "run") if key in read}


def _process(pid: int) -> dict[str, str]:
    """Where a process is, and when it was started: a number of a process is given to another one later.

    Empty where the operating system does not tell, or there is no such process.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
        # The name of the program, in parentheses, may hold anything; its state and its start follow.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return {}
    is_dead = fields[0] in "ZX"  # killed, and its parent has not asked for its exit code yet
    return {} if is_dead else {"space": space, "since": fields[19]}


def _is_running(owner: dict[str, str]) -> bool:
    """Whether the owner is known to live, because it is a process of this machine."""
    here = _process(int(owner["pid"])) if owner["pid"].isdigit() else {}
    return bool(here) and here == {key: owner[key] for key in here}


def _is_gone(owner: dict[str, str]) -> bool:
    """Whether the owner is known to have gone, because it was a process of this machine."""
    here = _process(os.getpid())
    return bool(here) and owner["space"] == here["space"] and not _is_running(owner)
