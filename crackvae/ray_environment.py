"""What a Ray session needs of the process around it, for the time of the session. Imports no Ray."""

import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

RAY_LOGGERS = ("ray", "ray.data", "ray.train", "ray.serve", "ray._private")
# Where Ray puts its sockets if the temporary folder of the user, such as that of a batch system, has too long a path.
SHORT_FOLDER = "/tmp"  # nosec B108
# Ray's environment for the time of a session, where the user has not set it.
ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's new default, which it announces where it is not set
    "RAY_USAGE_STATS_ENABLED": "0",  # no usage statistics leave the cluster
}
TOKEN_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
# Longest path of a Unix socket on Linux, and what Ray appends to its temporary folder for one.
MAX_SOCKET_PATH = 107
RAY_SOCKET = "/ray/session_2026-11-26_03-00-00_000000_0000000/sockets/plasma_store"


@contextmanager
def session_environment(address: str) -> Iterator[None]:
    """The environment that a session needs, for the time of the block: processes that Ray starts inherit it."""
    before = {name: value for name, value in os.environ.items() if name.startswith("RAY_")}
    os.environ.update({**ENVIRONMENT, **(local_environment() if address == "local" else {}), **before})
    try:
        yield
    finally:  # Ray sets variables of its own too, such as RAY_AUTH_MODE
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            del os.environ[name]
        os.environ.update(before)


def local_environment() -> dict[str, str]:
    """What a local cluster needs besides, on a machine without a home folder or with a long temporary folder."""
    needed = {}
    home = os.path.expanduser("~")  # stays "~" for a user without a name and without HOME
    is_home_writable = os.path.isdir(home) and os.access(home, os.W_OK | os.X_OK)
    if not is_home_writable and not any(name in os.environ for name in TOKEN_VARIABLES):
        needed["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # Ray would write one to ~/.ray/auth_token
    if is_too_long(tempfile.gettempdir()) and os.access(SHORT_FOLDER, os.W_OK | os.X_OK):
        needed["RAY_TMPDIR"] = SHORT_FOLDER
    return needed


def is_too_long(folder: str) -> bool:
    """Whether the path of a temporary folder leaves too little room for those of Ray's sockets."""
    return len(folder + RAY_SOCKET) > MAX_SOCKET_PATH


@contextmanager
def log_levels() -> Iterator[None]:
    """Restore the levels of Ray's loggers after the block, in which a session sets them to errors only."""
    before = {name: logging.getLogger(name).level for name in RAY_LOGGERS}
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
