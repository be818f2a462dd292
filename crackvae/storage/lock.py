"""One writer of a scores table at a time: a lock file with a heartbeat, which expires when its owner is gone.

The shards of one table are disjoint, so each has a lock of its own; a run of all images excludes them all.

pyarrow's file systems have no exclusive creation, so a run writes its own lock first and then looks for others: of two
simultaneous runs at least one sees the other. Ages are differences of two times of the storage's clock, so that the
clocks of hosts need not agree.
"""

import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from crackvae.console import say
from crackvae.errors import FolderInUse, StorageError
from crackvae.storage import fileio, uris
from crackvae.storage.names.shards import are_disjoint
from crackvae.storage.records import read_record

# A run renews its lock this often [s]; a lock that has not been renewed for EXPIRY_S belongs to a dead run.
HEARTBEAT_S, EXPIRY_S = 15.0, 60.0

# Pause between two looks at another run's lock [s], and how long the earlier of two runs that start at the same moment
# waits for the later one to give up.
POLL_S, SETTLE_S = 1.0, 5.0

_LOCK_NAME = re.compile(r"_lock-(?P<run>.+)\.json")


class Owner(BaseModel):
    """Content of a lock file: the run that holds the lock, and its process.

    Attributes:
        space: machine and process namespace in which `pid` counts; "" if the operating system does not tell.
        since: start time of the process, in the operating system's units, because process ids are reused.
    """

    model_config = ConfigDict(frozen=True)

    run: str
    user: str = "unknown"
    host: str = "unknown"
    pid: int | None = None
    space: str = ""
    since: str = ""

    def __str__(self) -> str:
        return f"run {self.run} of {self.user} on {self.host}"


class Lock:
    """A lock that this run holds."""

    def __init__(self, folder: str, run: str, flag: str) -> None:
        self.folder, self.run, self.flag = folder, run, flag
        self.path = uris.join(folder, f"_lock-{run}.json")
        self.is_lost = False

    def check(self) -> None:
        """Raise FolderInUse if another run considered this one dead and took over."""
        if self.is_lost:
            raise FolderInUse(
                f"{self.folder} was taken over by another run, because this one could not renew its lock for "
                f"{EXPIRY_S:g} s: what it wrote is kept. Run it again when the other one has ended."
            )

    def write(self) -> None:
        """Write the lock, or renew it."""
        pid = os.getpid()
        space, since = _process(pid) or ("", "")
        user = os.environ.get("USER") or str(os.getuid())
        owner = Owner(run=self.run, user=user, host=socket.gethostname(), pid=pid, space=space, since=since)
        fileio.write_bytes(self.path, owner.model_dump_json().encode())


@contextmanager
def locked(folder: str, run: str, *, quiet: bool, flag: str = "--out") -> Iterator[Lock]:
    """Be the only run that writes into a folder, apart from disjoint ones, for the duration of the block.

    The lock of a dead run is taken over, with a message: at once if its process is known to be gone (same machine),
    else after EXPIRY_S without a heartbeat.

    Args:
        flag: the setting that names the folder, for the error message.

    Raises:
        FolderInUse: another run is active; it is named.
        StorageError: the lock cannot be written.
    """
    lock = Lock(folder, run, flag)
    ended = threading.Event()
    thread = threading.Thread(target=_heartbeat, args=(lock, ended), daemon=True)
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
            fileio.delete_file(lock.path)


def _heartbeat(lock: Lock, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT_S):
        with suppress(StorageError):  # storage that fails briefly: the next heartbeat comes before the lock expires
            if fileio.modified_us(lock.path) is None:
                lock.is_lost = True
                return
            lock.write()


def _wait_for_others(lock: Lock, *, quiet: bool) -> None:
    """Return when no other run is active; take over the locks of dead ones."""
    started, first_seen = time.monotonic(), dict[str, int]()
    while others := _others(lock, quiet=quiet):
        for name, (modified, owner) in others.items():
            is_alive = _is_running(owner) or first_seen.setdefault(name, modified) != modified
            is_later = name > os.path.basename(lock.path)
            if is_alive and not (is_later and time.monotonic() - started < SETTLE_S):
                raise FolderInUse(
                    f"{lock.folder} is being written by {owner} (process {owner.pid or 'unknown'}): "
                    f"wait for it to end, or choose another {lock.flag}."
                )
        time.sleep(POLL_S)
        lock.write()


def _others(lock: Lock, *, quiet: bool) -> dict[str, tuple[int, Owner]]:
    """Modification time and owner of every other lock that may be alive, by name; the dead ones are deleted."""
    others = {}
    now = fileio.modified_us(lock.path)
    for name in fileio.list_files(lock.folder):
        path = uris.join(lock.folder, name)
        match = _LOCK_NAME.fullmatch(name)
        if not match or path == lock.path or are_disjoint(match["run"], lock.run):
            continue
        modified = fileio.modified_us(path)
        if modified is None or now is None:  # it ended in the meantime
            continue
        owner = _owner(path, match["run"])
        if _is_gone(owner) or now - modified > EXPIRY_S * 1e6:
            say(f"took over from {owner}, which died; what it finished is kept", quiet=quiet)
            fileio.delete_file(path)
        else:
            others[name] = (modified, owner)
    return others


def _owner(path: str, run: str) -> Owner:
    try:
        return read_record(path, Owner, "Delete it if no run is active.")
    except StorageError:  # it ended in the meantime, or is not a lock: its age decides
        return Owner(run=run)


def _process(pid: int) -> tuple[str, str] | None:
    """Namespace and start time of a live process; None if there is none, or the operating system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
        # The name of the program, in parentheses, may contain anything; its state and its start time follow.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    is_dead = fields[0] in "ZX"  # killed, and its parent has not collected its exit code yet
    return None if is_dead else (space, fields[19])


def _is_running(owner: Owner) -> bool:
    """Whether the owner is known to be alive, because it is a process of this machine."""
    here = _process(owner.pid) if owner.pid else None
    return here is not None and here == (owner.space, owner.since)


def _is_gone(owner: Owner) -> bool:
    """Whether the owner is known to be gone, because it was a process of this machine."""
    here = _process(os.getpid())
    return here is not None and owner.space == here[0] and not _is_running(owner)
