"""The Ray session of one verb: connect, keep Ray's own output in its log files, report failures in one line."""

import atexit
import logging
import os
import re
import signal
import socket
import subprocess  # nosec B404
import sys
import tempfile
import threading
import time
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
from crackvae.console import SILENCE_S, say
from crackvae.errors import ClusterError, ConfigError, CrackvaeError
from crackvae.ray_environment import RAY_LOGGERS, log_levels, session_environment
from crackvae.session.waits import announced

# Without a finished block for this long [s] the cluster is stuck; the slowest block, 128 photographs, takes minutes.
STALL_S = 1800
# Time that the head of a cluster may take to accept a connection [s].
CONNECT_S = 10
# And to disconnect; the local cluster of a busy machine ends within 10 s.
DISCONNECT_S = 30.0
# And the threads of an interrupted dataset to end: one that calls Ray after it has disconnected ends the process.
DATASET_THREADS_S = 10.0
# Ray's own default, shown where no session is known; never opened.
LOGS = "/tmp/ray/session_latest/logs"  # nosec B108
# In the folder of logs: what Ray itself prints in the driver.
DRIVER_LOG = "crackvae-driver.err"
# What an HTTP/2 client, and so a gRPC client, sends first (RFC 9113, section 3.4); a server answers with its settings.
HTTP2_SETTINGS = b"\0\0\0\x04\0\0\0\0\0"  # length (3 bytes), type, flags, stream (4 bytes)
HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HTTP2_SETTINGS
# The last line of an out-of-memory traceback: numpy and pyarrow raise kinds of MemoryError, torch has no type for it.
_OUT_OF_MEMORY = re.compile(r"(?m)^(\S*MemoryError\b.*|.*can't allocate memory.*)$")
# The same for disk space, which Ray needs when its object store is full.
_OUT_OF_DISK = re.compile(r"(?m)(OutOfDiskError|ObjectStoreFullError|No space left on device).*$")
# Printed when the driver ended without a message of its own, by a process that outlives the driver.
LAST_WORDS = (
    "crackvae: killed: by a signal, out of memory, or by Ray because its node is lost. "
    "What is finished is written: run it again.\n"
)
WATCHER = "import sys; sys.stdin.read(1) or sys.stderr.write(sys.argv[1])"
# Set when a session was left without a clean shutdown.
_head_hangs = threading.Event()


@contextmanager
def ray_session(config: ClusterConfig) -> Iterator[None]:
    """Connect to a Ray cluster for the time of the block.

    `address` of the settings, or RAY_ADDRESS, or a local cluster that ends with the block. A session that the caller
    has started (a notebook, a test) is used and left running. Environment, log levels and signal handlers of the
    process are afterwards as they were.

    Raises:
        ClusterError: no cluster at that address, a stage that is stuck, or Ray itself failed.
    """
    if ray.is_initialized():
        with _one_line_errors():
            yield
        return
    address = config.address or os.environ.get("RAY_ADDRESS") or "local"
    with session_environment(address), log_levels(), _daemon_messages_to_file():
        _connect(address, quiet=config.quiet)
        try:
            with _one_line_errors(), _last_words(), _core_output_to_file():
                yield
        finally:
            _disconnect(config)


def _disconnect(config: ClusterConfig) -> None:
    """Leave the cluster, or end the local one; Ray would wait forever for a head that hangs, so this does not."""
    ending = threading.Thread(target=ray.shutdown, daemon=True)
    ending.start()
    with announced("Ray to disconnect", quiet=config.quiet):
        ending.join(DISCONNECT_S)
    if ending.is_alive():
        atexit.unregister(ray.shutdown)  # which would wait for that thread
        _head_hangs.set()
        say(
            f"Ray's head did not answer for {DISCONNECT_S:g} s: disconnected without a clean shutdown.",
            quiet=config.quiet,
        )


def exit_if_it_hangs(code: int) -> None:
    """End the process at once after a session without a clean shutdown: a normal exit would crash Ray's core."""
    if _head_hangs.is_set():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Turn what Ray raises into a ClusterError, except for a bug in our own code on a worker."""
    try:
        yield
    except RayTaskError as error:
        shortage = _shortage(error)
        if shortage:
            raise shortage from error
        raise  # with its traceback
    except ExecutionTimeoutError as error:
        stages = "; ".join(line.strip(" -") for line in str(error).splitlines() if line.startswith("  - "))
        raise ClusterError(f"no block completed for {STALL_S} s, stuck at: {stages}. Logs: {log_folder()}.") from error
    except RayError as error:
        failed = ClusterError(f"Ray failed: {last_line(error)}. Its logs: {log_folder()}. Run it again.")
        raise _shortage(error) or failed from error


def _shortage(error: RayError) -> ClusterError | None:
    """What a node has run out of, if anything; Ray Data wraps what a stage raised and keeps only its text."""
    text = f"{type(error).__name__}: {error}"
    memory, disk = _OUT_OF_MEMORY.search(text), _OUT_OF_DISK.search(text)
    if disk:
        return ClusterError(
            f"Ray's object store and its disk are full ({disk[0].strip()[:200]}). What is finished is "
            f"written: free some space below {os.path.dirname(log_folder())} on each node, and run it again."
        )
    if memory:
        return ClusterError(
            f"a worker ran out of memory ({memory[0].strip()[:200]}). What is finished is written: run it again "
            "with fewer --workers, or give the nodes more memory."
        )
    return None


def _connect(address: str, *, quiet: bool) -> None:
    # "auto" and addresses come from the user; an address file left behind by a dead head must not be picked up.
    dashboard = False if address == "local" else None
    sigterm = signal.getsignal(signal.SIGTERM)
    try:
        _require_listening(address)
        what = "a local Ray cluster to start" if address == "local" else f"the Ray cluster at {address}"
        with announced(what, quiet=quiet):
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=dashboard)
    except CrackvaeError:
        raise
    except Exception as error:  # Ray raises a bare Exception where a busy machine does not start a node in time
        raise _not_connected(address, error) from error
    if threading.current_thread() is threading.main_thread() and sigterm is not None:
        signal.signal(signal.SIGTERM, sigterm)  # Ray's own handler ends the process before its rows are written
    for name in RAY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    say(f"Ray: {_resources()}; logs in {log_folder()}", quiet=quiet)


def _not_connected(address: str, error: Exception) -> ClusterError:
    """Why there is no cluster, and how to fix it."""
    if address != "local":
        return ClusterError(
            f"no Ray cluster at {address}: {last_line(error)}. Start one with ray start --head, "
            "or unset RAY_ADDRESS to use this machine alone."
        )
    folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if "AF_UNIX" in str(error):
        advice = f"set RAY_TMPDIR to a folder with a short path, such as /tmp/{os.getuid()} (now {folder})"
    else:
        advice = (
            f"check that {folder}/ray can be written (or set RAY_TMPDIR), that HOME can be written, and that this user "
            "may start enough processes (ulimit -u)"
        )
    return ClusterError(f"no local Ray cluster could be started: {last_line(error).rstrip('.')}. To fix it, {advice}.")


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
    """Print a line if the block never ends: Ray's core ends a driver whose node is lost with _exit()."""
    watcher = subprocess.Popen(  # nosec B603
        [sys.executable, "-I", "-S", "-c", WATCHER, LAST_WORDS], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        yield
    finally:
        watcher.communicate(b".")


@contextmanager
def _core_output_to_file() -> Iterator[None]:
    """Send what Ray's C++ core prints on the process's standard error to its log folder.

    The core's only setting for it would also empty the log files of a local cluster. Python's own standard error, with
    progress and tracebacks, is not redirected.
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
def _daemon_messages_to_file() -> Iterator[None]:
    """Send the messages of Ray's daemons to the same file: Ray prints them, tracebacks included, on standard output.

    Ray has no public setting for it (log_to_driver concerns the output of workers), so its private function is replaced
    for the time of the block; a version of Ray without that function is left as it is.
    """
    worker: Any = ray._private.worker
    before = getattr(worker, "print_to_stdstream", None)
    if before is None:
        yield
        return
    worker.print_to_stdstream = _log
    try:
        yield
    finally:
        worker.print_to_stdstream = before


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
    """Raise ClusterError for more workers than the cluster can hold: Ray would wait for them forever."""
    kind = "GPU" if gpu else "CPU"
    available = int(ray.cluster_resources().get(kind, 0))
    if workers > available:
        raise ClusterError(
            f"--workers {workers} needs as many {kind}s, and the cluster has {available}: "
            f"give --workers {max(1, available)}{'' if available else ', or leave out --gpu'}."
        )


def on_this_node() -> dict[str, Any]:
    """Options of an actor that lives as long as the driver, whatever nodes join or leave, and reserves no CPU."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return {"num_cpus": 0, "scheduling_strategy": here}


def dataset_of(images: pa.Table, per_block: int) -> Dataset:
    """A dataset of rows already in the object store, in blocks of `per_block`, that keeps their order.

    It needs no read task, which would wait forever for a CPU that the actors of a pool hold. Its settings are its own:
    those of the process, DataContext.get_current(), stay as they are.
    """
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    context.execution_no_progress_timeout_s = STALL_S
    with DataContext.current(context):
        return ray.data.from_arrow([images.slice(start, per_block) for start in range(0, images.num_rows, per_block)])


def tables_of(dataset: Dataset, *, stage: str = "Ray Data", quiet: bool = False) -> Generator[pa.Table]:
    """Run a dataset and yield its blocks as they come; prints a line when none has come for SILENCE_S."""
    heard, ended = threading.Event(), threading.Event()

    def watch() -> None:
        silence_s = 0.0
        while not ended.is_set():
            silence_s = 0.0 if heard.wait(SILENCE_S) else silence_s + SILENCE_S
            heard.clear()
            if silence_s and not ended.is_set():
                say(
                    f"{stage}: nothing has come from the workers for {silence_s:g} s: a process, a node or storage "
                    f"hangs, or Ray waits for CPUs. The run fails after {STALL_S} s. Logs: {log_folder()}",
                    quiet=quiet,
                )

    before = set(threading.enumerate())
    threading.Thread(target=watch, daemon=True).start()
    batches = iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow"))
    try:
        for rows in batches:
            heard.set()
            yield rows
    finally:
        ended.set()
        heard.set()
        del batches  # stops the execution of the dataset
        _wait_for_end(set(threading.enumerate()) - before)


def _wait_for_end(threads: set[threading.Thread]) -> None:
    """Wait for the threads of a dataset that was left early, but for Ray's prefetcher, which sleeps for ever."""
    deadline = time.monotonic() + DATASET_THREADS_S
    for thread in threads - {threading.current_thread()}:
        if thread.name != "Prefetcher":
            thread.join(max(0.0, deadline - time.monotonic()))


def log_folder() -> str:
    """Where Ray writes the logs of its workers, on the node of the driver."""
    if not ray.is_initialized() or ray.util.client.ray.is_connected():  # a client of ray:// has no logs of its own
        return LOGS
    session = ray.get_runtime_context()
    return os.path.join(session.get_temp_dir(), session.get_session_name(), "logs")


def last_line(error: BaseException) -> str:
    """The last line of a message of Ray, which says what went wrong; the type of the error where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
