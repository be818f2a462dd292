"""The Ray session: what goes wrong in a cluster is one line that names the stage and the logs."""

import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import OutOfDiskError, RayTaskError

from crackvae import ray_environment, session
from crackvae.config import ClusterConfig
from crackvae.errors import ClusterError, ConfigError
from crackvae.session import dataset_of, log_folder, ray_session, tables_of, waits

pytestmark = pytest.mark.usefixtures("ray_session")
CONFIG = ClusterConfig(quiet=True)


def stage_class() -> type:
    """A class made in a function is sent to the workers whole; they cannot import the tests."""

    class Stage:
        """A stage that passes its rows on, hangs, or has a bug."""

        def __init__(self, kind: str) -> None:
            self.kind = kind

        def __call__(self, rows: pa.Table) -> pa.Table:
            if self.kind == "hangs":
                time.sleep(10)
            if self.kind == "has no memory":
                raise MemoryError("Unable to allocate 9 GiB")
            if self.kind == "has no disk":
                raise OutOfDiskError("the local disk is full")
            if self.kind == "has a bug":
                raise KeyError("a bug")
            return rows

    return Stage


def run(kind: str, actors: int = 1, num_cpus: int = 0) -> list[int]:
    # No CPU for an actor that fails: the traceback of its failure keeps it alive, and with it the CPU from other tests.
    rows = pa.table({"n": list(range(100))})
    stage = dataset_of(rows, 7).map_batches(
        stage_class(),
        fn_constructor_args=(kind,),
        compute=ActorPoolStrategy(size=actors),
        num_cpus=num_cpus,
        batch_size=None,
        batch_format="pyarrow",
    )
    with ray_session(CONFIG):
        return [n for table in tables_of(stage) for n in table["n"].to_pylist()]


def test_rows_come_out_once_and_in_order_with_every_cpu_in_the_pool() -> None:
    assert run("passes on", actors=2, num_cpus=1) == list(range(100))


def test_a_stage_that_hangs_is_reported_while_it_hangs_and_named_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session, "STALL_S", 4)
    monkeypatch.setattr(session, "SILENCE_S", 1.5)
    with pytest.raises(ClusterError, match=r"no block completed for 4 s, stuck at: .*Stage.*Logs: "):
        run("hangs")
    assert (
        "Ray Data: nothing has come from the workers for 1.5 s: a process, a node or storage" in capsys.readouterr().err
    )


def test_a_worker_without_memory_is_one_line() -> None:
    with pytest.raises(ClusterError, match=r"a worker ran out of memory \(.*9 GiB.*fewer --workers"):
        run("has no memory")


def test_a_full_disk_below_ray_is_one_line() -> None:
    with pytest.raises(
        ClusterError, match=r"object store and its disk are full \(OutOfDiskError.*free some space below /"
    ):
        run("has no disk")


def test_a_driver_that_ended_silently_leaves_a_message() -> None:
    run = "import os, sys\nfrom crackvae import session\nwith session._last_words():\n    {}"
    for end, words in (("os._exit(1)", session.LAST_WORDS), ("os.kill(os.getpid(), 9)", session.LAST_WORDS), ("1", "")):
        done = subprocess.run([sys.executable, "-c", run.format(end)], capture_output=True, text=True)
        assert done.stderr == words and not done.stdout


def test_what_daemons_of_ray_tell_all_drivers_is_not_printed(capfd: pytest.CaptureFixture[str]) -> None:
    worker = ray._private.worker
    with session._daemon_messages_to_file():
        told = {"lines": ["Traceback of a daemon", "line 2"], "pid": "raylet", "is_err": False}
        worker.print_to_stdstream(told, ignore_prefix=False)
    assert "Traceback of a daemon\nline 2" in (Path(log_folder()) / session.DRIVER_LOG).read_text()
    captured = capfd.readouterr()
    assert "daemon" not in captured.out + captured.err and worker.print_to_stdstream is not session._log


def test_a_dataset_has_settings_of_its_own_and_leaves_those_of_the_process_alone() -> None:
    before = repr(DataContext.get_current())
    made = dataset_of(pa.table({"n": [1, 2, 3]}), 2)
    assert made.context.execution_options.preserve_order and not made.context.enable_progress_bars
    assert [table.num_rows for table in tables_of(made)] == [2, 1]
    assert repr(DataContext.get_current()) == before


SESSION_IN_A_NOTEBOOK = """
import json, logging, os, signal, sys
import pyarrow as pa
from ray.data import DataContext
from crackvae import ray_environment, session
from crackvae.config import ClusterConfig

def state():
    levels = {name: logging.getLogger(name).level for name in ray_environment.RAY_LOGGERS}
    handlers = [str(signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    return [dict(os.environ), levels, handlers, repr(DataContext.get_current()), id(sys.stdout), id(sys.stderr)]

os.environ.pop("RAY_USAGE_STATS_ENABLED", None)
before = state()
with session.ray_session(ClusterConfig(address="local", quiet=True)):
    inside = os.environ["RAY_USAGE_STATS_ENABLED"]
    rows = sum(table.num_rows for table in session.tables_of(session.dataset_of(pa.table({"n": [1, 2, 3]}), 2)))
after = state()
changed = [name for name in {*before[0], *after[0]} if before[0].get(name) != after[0].get(name)]
print(json.dumps([inside, rows, changed, [one == other for one, other in zip(before[1:], after[1:])]]))
"""


def test_after_a_session_the_process_is_as_it_was() -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run([sys.executable, "-c", SESSION_IN_A_NOTEBOOK], capture_output=True, text=True, env=env)
    assert json.loads(done.stdout) == ["0", 3, [], [True] * 5], done.stderr


def test_a_bug_on_a_worker_keeps_its_traceback() -> None:
    with pytest.raises(RayTaskError, match="KeyError"):
        run("has a bug")


@pytest.mark.parametrize("address", ["nonsense", "host:-5", "http://127.0.0.1:8265", "ray://", "host:port"])
def test_an_address_that_is_none_is_refused_before_ray_tries_it(address: str) -> None:
    with pytest.raises(ConfigError, match="is not local, auto, HOST:PORT"):
        session._require_listening(address)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "[::1]:9", "no-such-host.invalid:6379"])
def test_an_address_without_a_server_fails_immediately(address: str) -> None:
    with pytest.raises(OSError, match=r"refused|unreachable|not known|resolution|Cannot assign"):
        session._require_listening(address)


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-x\r\n", b"", None])
def test_an_address_where_something_else_listens_fails_at_once(
    greeting: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "CONNECT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                if greeting is None:  # never says anything
                    connection.recv(1)
                else:
                    connection.sendall(greeting)

        served = pool.submit(serve)
        with pytest.raises(OSError, match=r"no head of a Ray cluster|timed out"):
            session._require_listening(f"127.0.0.1:{server.getsockname()[1]}")
        served.result()


def test_the_head_of_a_ray_cluster_is_taken_for_one() -> None:
    session._require_listening(ray.get_runtime_context().gcs_address)


def test_a_user_without_a_home_gets_a_token_and_a_long_temporary_folder_a_short_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ray_environment.TOKEN_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "RAY_AUTH_TOKEN" not in ray_environment.local_environment()
    monkeypatch.setenv("HOME", str(tmp_path / "missing"))
    assert len(ray_environment.local_environment()["RAY_AUTH_TOKEN"]) == 64
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert "RAY_AUTH_TOKEN" not in ray_environment.local_environment()
    for folder, found in (("/scratch", None), ("/scratch/" + "of-the-batch-system" * 4, ray_environment.SHORT_FOLDER)):
        monkeypatch.setattr(ray_environment.tempfile, "gettempdir", lambda folder=folder: folder)
        assert ray_environment.local_environment().get("RAY_TMPDIR") == found


def test_of_a_local_cluster_that_does_not_start_the_cause_and_its_own_fix_are_named() -> None:
    long = session._not_connected("local", OSError("AF_UNIX path length cannot exceed 107 bytes"))
    other = session._not_connected("local", PermissionError("[Errno 13] Permission denied: '/.ray'"))
    far = session._not_connected("head:6379", OSError("refused"))
    assert "set RAY_TMPDIR to a folder with a short path" in str(long)
    assert "that HOME can be written" in str(other) and "RAY_ADDRESS" not in f"{long} {other}"
    assert "unset RAY_ADDRESS" in str(far)


def test_a_wait_says_what_it_is_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(waits, "ANNOUNCE_S", 0.05)
    with waits.announced("a local Ray cluster to start", quiet=False):
        time.sleep(0.5)
    assert capsys.readouterr().err == "waiting for a local Ray cluster to start for 0.05 s\n"
    with waits.announced("nothing", quiet=False):
        pass
    assert not capsys.readouterr().err


def test_without_a_gpu_the_advice_is_to_omit_the_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session.ray, "cluster_resources", lambda: {"CPU": 2.0})
    with pytest.raises(ClusterError, match="the cluster has 0: give --workers 1, or leave out --gpu"):
        session.require_resources(1, gpu=True)


def test_the_log_folder_is_there() -> None:
    assert Path(log_folder()).is_dir()
