"""Object storage: which server, options and certificates; calls that are retried, and waits that can be ended."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pyarrow as pa
import pytest
from conftest import HOUSE
from files import one_line

from crackvae.errors import ConfigError
from crackvae.storage import filesystems
from crackvae.storage.filesystems import answered, retried


@pytest.mark.parametrize(
    "said",
    [
        "AWS Error ACCESS_DENIED during PutObject operation: Access Denied",
        "AWS Error NO_SUCH_BUCKET during ListObjectsV2 operation",
        "AWS Error UNKNOWN (HTTP status 403) during HeadObject operation: No response body.",
    ],
)
def test_what_a_server_refuses_is_not_asked_for_again(said, pauses):
    def refuse():
        raise OSError(said)

    with pytest.raises(OSError, match="AWS Error"):
        retried(refuse)
    assert pauses == []


def test_pauses_grow_and_differ(pauses):
    def fail():
        raise OSError("503")

    for _ in range(20):
        with pytest.raises(OSError, match="503"):
            retried(fail)
    n = filesystems.ATTEMPTS
    rounds = [pauses[start : start + n - 1] for start in range(0, len(pauses), n - 1)]
    assert len({round_[0] for round_ in rounds}) == 20 and sum(map(sum, rounds)) / 20 < 2 * 0.5 * 2**n


def test_another_s3_server_takes_its_region_from_the_environment(monkeypatch):
    for name in filesystems.REGION_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert (
        filesystems.endpoint_options("http://[::1]:9000/")
        == "scheme=http&endpoint_override=%5B%3A%3A1%5D%3A9000&region=us-east-1"
    )
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    assert filesystems.endpoint_options("https://minio.example").endswith("region=eu-central-1")
    assert filesystems.endpoint_options("") == ""


@pytest.mark.parametrize("uri", ["gs://photos/night", "gcs://photos/night"])
def test_both_names_of_google_storage_have_the_same_limit(monkeypatch, uri):
    options = []
    monkeypatch.setattr(filesystems, "_bucket", lambda *arguments: options.append(arguments[2]) or (None, "photos"))
    filesystems.filesystem(uri)
    assert options == [f"retry_limit_seconds={filesystems.GCS_RETRY_S}"]


def test_the_certificates_of_the_environment_are_used_for_every_s3_server(monkeypatch, tmp_path):
    options = []
    monkeypatch.setattr(filesystems, "_bucket", lambda *arguments: options.append(arguments[2]) or (None, "b"))
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    with pytest.raises(ConfigError, match=r"AWS_CA_BUNDLE=.*ca\.pem is not a file") as caught:
        filesystems.filesystem("s3://b/n")
    assert one_line(caught.value)
    (tmp_path / "ca.pem").write_bytes(b"")
    filesystems.filesystem("s3://b/n")
    filesystems.filesystem("s3://b/n", "https://minio:9000")
    file = str(tmp_path / "ca.pem").replace("/", "%2F")
    assert options[0] == f"tls_ca_file_path={file}" and options[1].endswith(f"&tls_ca_file_path={file}")
    monkeypatch.setenv("AWS_CA_BUNDLE", "")
    filesystems.filesystem("s3://b/n")
    assert options[2] == ""


def test_a_call_that_a_client_library_has_retried_for_long_is_not_repeated(monkeypatch, pauses):
    now = iter(range(0, 1000, int(filesystems.RETRY_LIMIT_S) + 1))
    monkeypatch.setattr(filesystems.time, "monotonic", lambda: next(now))

    def fail():
        raise OSError("Retry policy exhausted")

    with pytest.raises(OSError, match="exhausted"):
        retried(fail)
    assert pauses == []


def test_a_wait_says_what_it_waits_for_and_passes_the_answer_or_the_error_on(monkeypatch, capsys):
    monkeypatch.setattr(filesystems, "FIRST_NOTICE_S", 0.05)

    def slow(key):
        time.sleep(0.2)
        if key == "bucket/bug":
            raise AssertionError("a bug")
        if key == "bucket/gone":
            raise FileNotFoundError(key)
        return key

    assert answered(slow, "bucket/night") == "bucket/night"
    assert "waiting for bucket/night: no answer for" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError):
        answered(slow, "bucket/gone")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_a_call_ends_the_wait_too():
    def bug():
        raise AssertionError("a bug")

    with pytest.raises(AssertionError, match="a bug"):
        answered(bug)
    for thread in threading.enumerate():  # it ends with its traceback, here and not in the next test
        if thread.daemon and "_fulfil" in thread.name:
            thread.join()


@pytest.mark.slow
def test_sigterm_ends_a_process_whose_server_accepts_requests_and_never_answers(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        command = [sys.executable, "-m", "crackvae", "partition", "--images", "s3://photos/night", "--out", tmp_path]
        env = os.environ | {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "PYTHONPATH": str(HOUSE)}
        process = subprocess.Popen(
            [*map(str, command), "--s3-endpoint", endpoint], env=env, stderr=subprocess.PIPE, text=True
        )
        assert "waiting for photos/night" in process.stderr.readline()
        process.terminate()
        *_, last = process.communicate(timeout=20)[1].splitlines()  # the client itself waits for minutes
    assert process.returncode == 143 and last.startswith("crackvae partition: interrupted")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_wait_for_a_call_that_ignores_it(number):
    """As a call into C++ does; here the call itself goes on until its event comes."""
    event = threading.Event()

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(number, interrupt)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), number))
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            answered(event.wait)
    finally:
        event.set()
        timer.join()
        signal.signal(number, before)


def test_an_answer_of_arrow_that_means_a_wrong_name_is_final(pauses):
    def refuse():
        raise pa.ArrowInvalid("Empty path component in path bucket/a//b.jpg")

    with pytest.raises(pa.ArrowInvalid):
        answered(refuse)
    assert pauses == []
