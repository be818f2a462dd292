"""The Ray session of one verb: connect, keep Ray's chatter out of sight, say in one line what failed."""

import atexit
import logging
import os
import re
import signal
import socket
import subprocess  # nosec B404
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

import pyarrow as pa
import ray
import ray.data
from ray.data import DataContext, Dataset
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from crackvae.config import ClusterConfig
from crackvae.console import say
from crackvae.errors import ClusterError, ConfigError, CrackvaeError

# No block done for this long [s] means that the cluster is stuck; the slowest block, 128 photographs, takes minutes.
STALL_S = 1800
# Seconds that the head of a cluster may take to accept a connection.
CONNECT_S = 10
# And to let a driver go; the local cluster of a busy machine ends within 10.
DISCONNECT_S = 30.0
# After so long without a block the person who waits is told, and again whenever as long has passed [s].
SILENCE_S = 60.0
# Ray's own default, where no session says better; only shown, never opened.
LOGS = "/tmp/ray/session_latest/logs"  # nosec B108
# In that folder: what Ray itself says in the driver.
DRIVER_LOG = "crackvae-driver.err"
# What a client of HTTP/2, and so of gRPC, says first (RFC 9113, section 3.4); a server answers with its own settings.
HTTP2_SETTINGS = b"\0\0\0\x04\0\0\0\0\0"  # length (3 bytes), type, flags, stream (4 bytes)
HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HTTP2_SETTINGS
# The last line of a traceback for want of memory: numpy's and pyarrow's are kinds of MemoryError, torch has no type.
_OUT_OF_MEMORY = re.compile(r"(?m)^(\S*MemoryError\b.*|.*can't allocate memory.*)$")
# The same for want of disk, which Ray needs when its memory for objects is full.
_OUT_OF_DISK = re.compile(r"(?m)(OutOfDiskError|ObjectStoreFullError|No space left on device).*$")
# What is said of a driver that ended without a word of its own, and the process that says it: it outlives the driver.
LAST_WORDS = (
    "crackvae: ended on the spot, by a signal, for want of memory or by Ray because its node is gone. "
    "What is finished is written: run it again.\n"
)
WATCHER = "import sys; sys.stdin.read(1) or sys.stderr.write(sys.argv[1])"
# A session was left without a goodbye.
_head_hangs = threading.Event()
RAY_LOGGERS = ("ray", "ray.data", "ray.train", "ray.serve", "ray._private")


@contextmanager
def ray_session(config: ClusterConfig) -> Iterator[None]:
    """Connect to a Ray cluster for the time of the block.

    `address` of the settings, or RAY_ADDRESS, or a cluster of this machine's own that ends with the block. A session
    that the caller has started (a notebook, a test) is used and left running.

    Raises:
        ClusterError: no cluster at that address, a stage that is stuck, or Ray itself failed.
    """
    if ray.is_initialized():
        with _errors_in_a_line():
            yield
        return
    with _daemons_in_a_file():
        _connect(config)
        try:
            with _errors_in_a_line(), _last_words(), _core_log_in_a_file():
                yield
        finally:
            _disconnect(config)


def _disconnect(config: ClusterConfig) -> None:
    """Leave the cluster, or end the local one; where its head hangs Ray would wait for ever, and we go on without."""
    ending = threading.Thread(target=ray.shutdown, daemon=True)
    ending.start()
    ending.join(DISCONNECT_S)
    if ending.is_alive():
        atexit.unregister(ray.shutdown)  # which would wait for that thread
        _head_hangs.set()
        say(f"Ray's head has not answered for {DISCONNECT_S:g} s: left without a goodbye.", quiet=config.quiet)


def exit_if_head_hangs(code: int) -> None:
    """End the process on the spot where a session was left without a goodbye: its end would crash Ray's core."""
    if _head_hangs.is_set():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@contextmanager
def _errors_in_a_line() -> Iterator[None]:
    """Turn what Ray raises into a ClusterError, but for a bug in our own code on a worker."""
    try:
        yield
    except RayTaskError as error:
        lack = _lack(error)
        if lack:
            raise lack from error
        raise  # with its traceback
    except ExecutionTimeoutError as error:
        stages = "; ".join(line.strip(" -") for line in str(error).splitlines() if line.startswith("  - "))
        raise ClusterError(f"no block was done for {STALL_S} s, stuck at: {stages}. Logs: {log_folder()}.") from error
    except RayError as error:
        failed = ClusterError(f"Ray failed: {_first_line(error)}. Its logs: {log_folder()}. Run it again.")
        raise _lack(error) or failed from error


def _lack(error: RayError) -> ClusterError | None:
    """What a node has run out of; Ray Data wraps what a stage raised, and keeps its text alone."""
    text = f"{type(error).__name__}: {error}"
    memory, disk = _OUT_OF_MEMORY.search(text), _OUT_OF_DISK.search(text)
    if disk:
        return ClusterError(
            f"Ray's memory for objects and the disk behind it are full ({disk[0].strip()[:200]}). What is finished is "
            f"written: free some space below {os.path.dirname(log_folder())} on each node, and run it again."
        )
    if memory:
        return ClusterError(
            f"a worker ran out of memory ({memory[0].strip()[:200]}). What is finished is written: run it again "
            "with fewer --workers, or give the nodes more memory."
        )
    return None


def _connect(config: ClusterConfig) -> None:
    # "auto" and addresses come from the user; an address file that a dead head left behind must not be picked up.
    address = config.address or os.environ.get("RAY_ADDRESS") or "local"
    dashboard = False if address == "local" else None
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its new default, which Ray else announces
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing about a night leaves the cluster
    sigterm = signal.getsignal(signal.SIGTERM)
    try:
        _require_listening(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=dashboard)
    except CrackvaeError:
        raise
    except Exception as error:  # Ray raises a bare Exception where a busy machine does not start a node in time
        raise ClusterError(
            f"no Ray cluster at {address}: {_first_line(error)}. Start one with ray start --head, "
            "or unset RAY_ADDRESS to use this machine alone."
        ) from error
    if threading.current_thread() is threading.main_thread() and sigterm is not None:
        signal.signal(signal.SIGTERM, sigterm)  # Ray's own handler ends the process before its rows are written
    for name in RAY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    say(f"Ray: {_resources()}; logs in {log_folder()}", quiet=config.quiet)


def _require_listening(address: str) -> None:
    """Raise OSError where no gRPC server listens at HOST:PORT; Ray would try for minutes and then end the process."""
    if address in ("local", "auto"):
        return
    match = re.fullmatch(r"(ray://)?\[?(?P<host>[^/\[\]]+)\]?:(?P<port>\d{1,5})", address)
    if not match:
        raise ConfigError(f"address={address} is not local, auto, HOST:PORT or ray://HOST:PORT (or see RAY_ADDRESS).")
    with socket.create_connection((match["host"], int(match["port"])), timeout=CONNECT_S) as connection:
        if os.environ.get("RAY_USE_TLS", "0") == "0":
            connection.sendall(HTTP2_HELLO)
            with connection.makefile("rb") as answer:
                if answer.read(len(HTTP2_SETTINGS))[3:4] != HTTP2_SETTINGS[3:4]:
                    raise ConnectionError("what listens there is no head of a Ray cluster (its usual port is 6379)")


@contextmanager
def _last_words() -> Iterator[None]:
    """Have a line said where the block never ends: Ray's core ends a driver whose node is gone with _exit()."""
    watcher = subprocess.Popen(  # nosec B603
        [sys.executable, "-I", "-S", "-c", WATCHER, LAST_WORDS], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        yield
    finally:
        watcher.communicate(b".")


@contextmanager
def _core_log_in_a_file() -> Iterator[None]:
    """Send what Ray's C++ core prints on the process's standard error to its log folder instead.

    The core has no setting for it that would not also empty the log files of a local cluster. Python's own standard
    error, with progress and tracebacks, stays where it was.
    """
    terminal = os.dup(2)
    python_stderr = sys.stderr
    try:
        with open(os.path.join(log_folder(), DRIVER_LOG), "ab") as log:
            os.dup2(log.fileno(), 2)
        if _is_descriptor_2(python_stderr):
            sys.stderr = open(terminal, "w", buffering=1, closefd=False)  # noqa: SIM115, closed below as `terminal`
        yield
    finally:
        sys.stderr = python_stderr
        os.dup2(terminal, 2)
        os.close(terminal)


@contextmanager
def _daemons_in_a_file() -> Iterator[None]:
    """Send what Ray's daemons tell all drivers there too: Ray prints it on standard output, its tracebacks with it."""
    before = ray._private.worker.print_to_stdstream
    ray._private.worker.print_to_stdstream = _log
    try:
        yield
    finally:
        ray._private.worker.print_to_stdstream = before


def _log(data: Any, ignore_prefix: bool) -> None:
    with suppress(OSError), open(os.path.join(log_folder(), DRIVER_LOG), "a") as log:  # a full disk may be the news
        log.writelines(f"{line}\n" for line in data["lines"])


def _is_descriptor_2(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 2
    except (OSError, ValueError):  # a notebook's stream, or a test's
        return False


def _resources() -> str:
    resources = ray.cluster_resources()
    return f"{resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs, {len(ray.nodes())} node(s)"


def require_resources(workers: int, *, gpu: bool) -> None:
    """Raise ClusterError for more workers than the cluster can hold: Ray would wait for them for ever."""
    kind = "GPU" if gpu else "CPU"
    available = int(ray.cluster_resources().get(kind, 0))
    if workers > available:
        raise ClusterError(
            f"--workers {workers} needs as many {kind}s, and the cluster has {available}: "
            f"give --workers {max(1, available)}{'' if available else ', or leave out --gpu'}."
        )


def on_this_node() -> dict[str, Any]:
    """Options of an actor that lives as long as the driver, whatever nodes come and go, and takes no CPU of theirs."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return {"num_cpus": 0, "scheduling_strategy": here}


def dataset_of(images: pa.Table, per_block: int) -> Dataset:
    """Rows that lie in the object store from the start, in blocks of `per_block`, and keep their order.

    No read task is needed, which would wait for ever for a CPU that the actors of a pool hold.
    """
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    context.execution_no_progress_timeout_s = STALL_S
    return ray.data.from_arrow([images.slice(start, per_block) for start in range(0, images.num_rows, per_block)])


def tables_of(dataset: Dataset, *, stage: str = "Ray Data", quiet: bool = False) -> Generator[pa.Table]:
    """Run a dataset and hand out its blocks as they come; says so where none comes for SILENCE_S."""
    heard, ended = threading.Event(), threading.Event()

    def watch() -> None:
        silence_s = 0.0
        while not ended.is_set():
            silence_s = 0.0 if heard.wait(SILENCE_S) else silence_s + SILENCE_S
            heard.clear()
            if silence_s and not ended.is_set():
                say(
                    f"{stage}: nothing has come from the workers for {silence_s:g} s: a process, a node or storage "
                    f"hangs, or Ray waits for CPUs. After {STALL_S} s it is given up. Logs: {log_folder()}",
                    quiet=quiet,
                )

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        for rows in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            heard.set()
            yield rows
    finally:
        ended.set()
        heard.set()
        watcher.join()


def log_folder() -> str:
    """Where Ray writes the logs of its workers, on the node of the driver."""
    if not ray.is_initialized():
        return LOGS
    node = ray._private.worker._global_node
    return str(node.get_logs_dir_path()) if node else LOGS


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
