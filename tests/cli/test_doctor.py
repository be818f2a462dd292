"""`crackvae doctor`: what a machine has, and one line of advice for each thing that it lacks."""

import json
import os
import shutil
import tempfile
from collections import namedtuple
from pathlib import Path

import pytest

import crackvae
from crackvae.cli import doctor, main
from crackvae.config import DoctorConfig

Usage = namedtuple("Usage", "total used free")
GB = 10**9


@pytest.fixture(autouse=True)
def healthy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without credentials, with enough of everything, whatever machine the test runs on."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_", "AZURE_", "RAY_TMPDIR"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "_total_memory", lambda: 16.0 * GB)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100 * GB, 20 * GB, 80 * GB))
    monkeypatch.setattr(doctor, "_processor", lambda _: ("8 cores, avx2", ""))
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    monkeypatch.chdir(tmp_path)


def advice(name: str, **settings: object) -> str:
    return doctor.CHECKS[name](DoctorConfig(**settings))[1]


def test_a_machine_with_everything_is_ok(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    summary = json.loads(last)
    assert summary["advice"] == [] and summary["found"].keys() == doctor.CHECKS.keys()
    assert sum(line.endswith(" ok") for line in lines) == len(doctor.CHECKS)
    assert crackvae.doctor().found["memory"] == "16.0 GB"


def test_what_is_missing_is_one_line_of_advice_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_total_memory", lambda: 2.0 * GB)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key-of-a-test")
    assert main(["doctor"]) == 2
    captured = capsys.readouterr()
    assert len(json.loads(captured.out.splitlines()[-1])["advice"]) == 2
    (line,) = captured.err.splitlines()
    assert line.startswith("crackvae doctor: 2 of 11 checks need attention. memory: 2.0 GB is little: use --workers 1")
    assert "key-of-a-test" not in captured.out + captured.err


def test_the_disk_and_the_permissions_of_the_output_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert advice("output") == "" and advice("output", out="new/folder") == ""
    (tmp_path / "file").write_text("")
    assert "file" in advice("output", out="file/scores")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100 * GB, 99 * GB, 1 * GB))
    assert "free some space" in advice("output")


def test_the_folder_of_ray_is_short_and_on_a_disk_with_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert advice("temporary folder") == ""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100 * GB, 96 * GB, 4 * GB))
    assert "over 95% full" in advice("temporary folder")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("long" * 20)))
    assert "set RAY_TMPDIR to a short folder" in advice("temporary folder")
    monkeypatch.delenv("RAY_TMPDIR")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100 * GB, 1 * GB, 99 * GB))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("long" * 20)))
    assert advice("temporary folder") == "", "a session takes a short folder by itself"


def test_shared_memory_that_is_smaller_than_the_object_store_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(64 * 10**6, 0, 64 * 10**6))
    assert "--shm-size=5g" in advice("shared memory")


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "x"}, "set both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ({"GOOGLE_APPLICATION_CREDENTIALS": "/none.json"}, "GOOGLE_APPLICATION_CREDENTIALS does not exist"),
        ({"AWS_ENDPOINT_URL": "minio:9000"}, "minio:9000"),
        ({"AWS_PROFILE": "site", "AZURE_STORAGE_CONNECTION_STRING": "x"}, ""),
    ],
)
def test_incomplete_credentials_have_advice(
    variables: dict[str, str], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = advice("storage credentials")
    assert text in found and bool(found) == bool(text)


def test_a_package_that_is_missing_or_of_another_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version", lambda name: "1.0")
    monkeypatch.setattr(doctor, "requires", lambda name: ["torch>=2.6", "ray[data]>=2.50"])
    assert advice("PyTorch") == 'this package needs >=2.6: pip install "torch>=2.6".'
    assert advice("ONNX Runtime") == ""

    def missing(name: str) -> str:
        raise doctor.PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", missing)
    assert advice("Ray") == "install it: pip install ray."
