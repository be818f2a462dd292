"""The verb `review`: a server that is stopped by a signal, and the import of a page's CSV."""

import json
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from conftest import HOUSE, free_ports

import crackvae
from crackvae.errors import ConfigError, ManifestError, StorageError
from crackvae.storage.tables.verdict_csv import read_verdict_csv
from crackvae.storage.tables.verdicts import Judgement, Subject, VerdictLog


def csv_of(path: Path, images: list[str], verdict: str = "crack") -> str:
    path.write_text("image,score,verdict,model\n" + "".join(f'"{one}",0.5,{verdict},d1\n' for one in images))
    return str(path)


@pytest.fixture
def scores(scored_night: Path, tmp_path: Path) -> Path:
    """A copy of the scores of a night, with a log of its own."""
    return Path(shutil.copytree(scored_night, tmp_path / "scores"))


def test_the_csv_of_a_page_is_imported_once(scores: Path, tmp_path: Path) -> None:
    images = crackvae.read_scores(scores, ["image"])["image"].to_pylist()[:3]
    path = csv_of(tmp_path / "v.csv", [*images, "/elsewhere.jpg"])
    counts = [
        (one.given, one.not_found, one.verdicts)
        for one in (crackvae.review(scores=scores, import_=path, reviewer="anna") for _ in range(2))
    ]
    assert counts == [(3, 1, 3), (0, 1, 3)]
    kept = crackvae.read_verdicts(scores).to_pylist()
    assert [(one["image"], one["reviewer"], one["verdict"], one["score"], one["model"]) for one in kept] == [
        (image, "anna", "crack", 0.5, "d1") for image in images
    ]
    corrected = csv_of(tmp_path / "v.csv", images[:1], "joint")
    assert crackvae.review(scores=scores, import_=corrected, reviewer="anna").given == 1
    assert crackvae.read_verdicts(scores)["verdict"].to_pylist() == ["crack", "crack", "joint"]


def test_verdicts_on_other_images_and_other_folders_are_refused(scores: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"none of the 1 images .* names /elsewhere\.jpg"):
        crackvae.review(scores=scores, import_=csv_of(tmp_path / "v.csv", ["/elsewhere.jpg"]))
    with pytest.raises(StorageError, match="holds no scores"):
        crackvae.review(scores=tmp_path / "nothing", port=0)
    assert not (scores / "_verdicts").exists() and not (tmp_path / "nothing").exists()


def test_settings_that_would_fail_later_are_refused(scores: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="belong together"):
        crackvae.review(scores=scores, certificate="cert.pem")
    with pytest.raises(ConfigError, match="16 characters or more"):
        crackvae.review(scores=scores, token="short")
    (tmp_path / "cert.pem").write_text("not a certificate")
    with pytest.raises(ConfigError, match=r"certificate=.*cert\.pem and key="):
        crackvae.review(scores=scores, certificate=tmp_path / "cert.pem", key=tmp_path / "cert.pem", port=0)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="choose another --host or"):
        crackvae.review(scores=scores, port=taken.getsockname()[1])


@pytest.mark.slow
def test_the_command_prints_its_address_and_ends_with_a_summary(scores: Path) -> None:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "crackvae", "review", "--scores", str(scores), "--port", str(port), "--worst", "4"]
    with subprocess.Popen(command, cwd=HOUSE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        lines = iter(server.stderr)
        address = next(line.split()[1] for line in lines if line.startswith("open "))
        with urlopen(address) as answer:
            assert b"Review queue" in answer.read()
        with pytest.raises(HTTPError, match="401"):
            urlopen(address.partition("?")[0])
        server.send_signal(signal.SIGINT)
        out, rest = server.communicate(timeout=60)
    assert server.returncode == 0 and "Traceback" not in rest
    summary = json.loads(out.splitlines()[-1])
    assert (summary["verb"], summary["given"], summary["address"]) == ("review", 0, f"http://127.0.0.1:{port}")


def test_a_verdict_on_a_finding_stays_one_when_it_is_exported_and_imported(scores: Path, tmp_path: Path) -> None:
    first, second = crackvae.read_scores(scores, ["image"])["image"].to_pylist()[:2]
    judged = [Judgement(Subject(first, "f1"), "sound"), Judgement(Subject(first), "crack")]
    judged += [Judgement(Subject(second, "f2"), "crack"), Judgement(Subject(second, "f3"), "joint")]
    other = shutil.copytree(scores, tmp_path / "other")
    VerdictLog(str(other)).append("abcdefgh1", "anna", judged)
    crackvae.read_verdicts(other).to_pandas().to_csv(tmp_path / "v.csv", index=False)
    assert crackvae.review(scores=scores, import_=tmp_path / "v.csv", reviewer="ben").given == 4
    kept = {(one["image"], one["finding"]): one["verdict"] for one in crackvae.read_verdicts(scores).to_pylist()}
    assert kept == {(first, "f1"): "sound", (first, ""): "crack", (second, "f2"): "crack", (second, "f3"): "joint"}
    assert read_verdict_csv(str(tmp_path / "v.csv")) == {first: "crack", second: "crack"}
