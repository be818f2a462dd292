"""What is handed to `ray job submit`, tried on a real head with the token that Ray asks for."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import HOUSE, read_rows

from crackvae.cli import main

BIN = Path(sys.executable).parent
# Seconds that a head may take to listen, on a busy machine of two cores.
START_S = 90


@pytest.mark.parametrize("job", sorted((HOUSE / "jobs").glob("*.py")), ids=lambda path: path.stem)
def test_a_job_is_the_verb_of_its_name(job: Path) -> None:
    done = subprocess.run([sys.executable, job, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"usage: crackvae {job.stem} ")


def free_ports(n: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A Ray head of its own beside the session of the other tests; the environment that reaches it."""
    folder = tmp_path_factory.mktemp("head")
    token = folder / "token"
    token.write_text("0123456789abcdef" * 4)
    gcs, dashboard, agent, client = free_ports(4)
    env = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ADDRESS": f"http://127.0.0.1:{dashboard}",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    # A short path: the sockets of Ray lie in it, and their names are limited to 107 bytes.
    scratch = Path(f"/tmp/crackvae-{os.getpid()}")
    ports = [f"--port={gcs}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    command = [BIN / "ray", "start", "--head", "--block", "--num-cpus=2", f"--temp-dir={scratch}", *ports]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [*command, f"--ray-client-server-port={client}", "--disable-usage-stats"],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={name: value for name, value in env.items() if name != "RAY_ADDRESS"},
            start_new_session=True,
        )
    try:
        wait_for_agent(env, process, folder / "log")
        yield env
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its own orderly end takes half a minute
        process.wait(timeout=60)
        shutil.rmtree(scratch, ignore_errors=True)


def wait_for_agent(env: dict[str, str], process: subprocess.Popen[bytes], log: Path) -> None:
    """Until the head takes jobs; its agent starts some seconds after its dashboard."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        done = subprocess.run([BIN / "ray", "job", "submit", "--", "true"], env=env, capture_output=True, text=True)
        if done.returncode == 0:
            return
        time.sleep(1)
    raise AssertionError(f"the head took no job within {START_S} s: {log.read_text()[-2000:]} {done.stderr[-2000:]}")


def submit(env: dict[str, str], *command: object) -> subprocess.CompletedProcess[str]:
    submit = [BIN / "ray", "job", "submit", "--working-dir", HOUSE, "--", "python"]
    return subprocess.run([*submit, *map(str, command)], env=env, capture_output=True, text=True)


@pytest.mark.usefixtures("in_process")
def test_a_submitted_job_scores_as_a_laptop_does(
    head: dict[str, str], drawn: Path, model_dir: Path, tmp_path: Path
) -> None:
    flags = ("--images", drawn / "crack", "--model", model_dir)
    done = submit(head, "jobs/score.py", *flags, "--out", tmp_path / "cluster")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = next(json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    assert summary["scored"] == 60
    assert main(["score", *map(str, flags), "--out", str(tmp_path / "laptop"), "--quiet"]) == 0
    cluster_rows, laptop_rows = (
        read_rows(tmp_path / name).drop_columns(["run"]).to_pylist() for name in ("cluster", "laptop")
    )
    assert cluster_rows == laptop_rows


def test_a_user_error_fails_the_job_with_its_one_line(head: dict[str, str], model_dir: Path, tmp_path: Path) -> None:
    done = submit(head, "jobs/score.py", "--images", tmp_path / "nowhere", "--model", model_dir, "--out", "scores")
    assert done.returncode != 0
    assert "crackvae score: --out scores is relative, and this job's folder is deleted with the job" in done.stdout


def test_without_the_token_nothing_is_accepted(head: dict[str, str]) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{head['RAY_ADDRESS']}/api/jobs/")
    assert refused.value.code == 401
    refused.value.close()
