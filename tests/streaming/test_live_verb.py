"""The verb `live`: its rows are those of `score`, flagged images are saved, and it ends when it is told to."""

import io
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from conftest import HOUSE, read_rows, small_spec, write_model
from pandas.testing import assert_frame_equal
from PIL import Image

import crackvae
from crackvae.errors import ConfigError
from crackvae.storage import tables

MEASURED = [name for name in tables.SCORES_SCHEMA.names if name not in ("run", "group")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("live") / "model", small_spec(head="mse"), paints=0.7)


@pytest.fixture
def source(drawn: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for label in ("crack", "non_crack"):
        for picture in sorted((drawn / label).iterdir())[:4]:
            shutil.copy(picture, folder / f"{label}-{picture.name}")
    (folder / "empty.jpg").write_bytes(b"")
    return folder


def start(*arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "crackvae", "live", *map(str, arguments)]
    return subprocess.Popen(command, cwd=HOUSE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def address_of(process: "subprocess.Popen[str]") -> str:
    assert process.stderr
    return next(line.split()[-1] for line in process.stderr if line.startswith("status page: "))


def state_of(address: str) -> dict[str, object]:
    with urlopen(f"{address}state") as answer:
        return dict(json.load(answer))


def wait_for(address: str, name: str, least: int) -> dict[str, object]:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        state = state_of(address)
        if int(str(state[name])) >= least:
            return state
        time.sleep(0.2)
    raise AssertionError(f"{name} never reached {least}: {state}")


@pytest.mark.slow
def test_rows_of_a_folder_are_those_of_score(source, model, tmp_path, in_process):
    crackvae.score(
        images=source, model=model, out=tmp_path / "scored", max_unreadable="50%", no_report=True, quiet=True
    )
    result = crackvae.live(source=source, model=model, out=tmp_path / "live", seconds=6, port=0, quiet=True)
    expected, found = read_rows(tmp_path / "scored"), read_rows(tmp_path / "live")
    assert_frame_equal(found.select(MEASURED).to_pandas(), expected.select(MEASURED).to_pandas(), check_exact=True)
    assert (result.received, result.scored, result.dropped) == (9, 8, 0)
    flagged = [row["image"] for row in found.to_pylist() if row["flagged"]]
    maps = {path.name for path in (tmp_path / "live" / "_maps").iterdir()}
    assert 0 < result.flagged == len(flagged) < 8 and maps == {f"{Path(name).name}.jpg" for name in flagged}
    with Image.open(tmp_path / "live" / "_maps" / sorted(maps)[0]) as shown:
        assert shown.size == (64, 64)


@pytest.mark.slow
def test_what_is_finished_is_not_scored_again_and_a_replaced_file_is(source, model, tmp_path):
    out = tmp_path / "live"
    crackvae.live(source=source, model=model, out=out, seconds=6, port=0, quiet=True)
    again = crackvae.live(source=source, model=model, out=out, seconds=3, port=0, quiet=True)
    assert again.received == 0
    first, second = sorted(source.glob("crack-*"))[:2]
    threading.Timer(4, shutil.copy, [second, first]).start()
    (source / "new.jpg").write_bytes(second.read_bytes())
    changed = crackvae.live(source=source, model=model, out=out, seconds=10, port=0, quiet=True)
    rows = crackvae.read_scores(out, ["image", "score", "run"]).to_pylist()
    scores = {Path(row["image"]).name: row["score"] for row in rows}
    assert changed.received == 2 and len(rows) == 10
    assert scores[first.name] == scores[second.name] == scores["new.jpg"]


@pytest.mark.slow
def test_sigterm_ends_it_with_every_row_and_a_half_written_file_is_left(source, model, tmp_path):
    out = tmp_path / "out"
    whole = (source / "empty.jpg").with_name("late.jpg")
    data = next(path for path in sorted(source.iterdir()) if path.stat().st_size).read_bytes()
    process = start(source, "--model", model, "--out", out, "--port", 0)
    try:
        address = address_of(process)
        wait_for(address, "received", 9)
        with open(whole, "wb") as file:
            for at in range(0, len(data), len(data) // 8 + 1):
                file.write(data[at : at + len(data) // 8 + 1])
                file.flush()
                time.sleep(0.7)
        state = wait_for(address, "scored", 9)
        assert state["received"] == 10
        process.send_signal(signal.SIGTERM)
        printed, told = process.communicate(timeout=60)
    finally:
        process.kill()
    summary = json.loads(printed.splitlines()[-1])
    rows = read_rows(out)
    assert process.returncode == 0 and "Traceback" not in told
    assert rows.num_rows == summary["received"] == 10 and summary["scored"] == 9
    assert not list(out.glob("_lock-*")) and (out / f"_summary-{summary['run']}.json").exists()


@pytest.mark.slow
def test_the_status_page_shows_pictures_and_refuses_other_hosts(source, model, tmp_path):
    process = start(source, "--model", model, "--out", tmp_path / "out", "--port", 0)
    try:
        address = address_of(process)
        with pytest.raises(HTTPError, match="404"):
            urlopen(f"{address}map")
        state = wait_for(address, "scored", 8)
        for path, kind in {
            "": "text/html",
            "status.js": "text/javascript",
            "picture": "image/jpeg",
            "map": "image/jpeg",
        }.items():
            with urlopen(address + path) as answer:
                assert answer.headers["content-type"].startswith(kind) and len(answer.read()) > 500
                assert "default-src 'none'" in answer.headers["content-security-policy"]
        with urlopen(f"{address}picture") as answer, Image.open(io.BytesIO(answer.read())) as shown:
            assert np.asarray(shown.convert("L")).std() > 3, "the colour hides the picture"
        with pytest.raises(HTTPError, match="400"):
            urlopen(Request(f"{address}state", headers={"host": "evil.example"}))
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert (state["source"], state["state"], state["scored"]) == (str(source), "waiting for files", 8)


def test_a_source_that_is_none_and_scores_inside_it_are_refused(source, model, tmp_path):
    with pytest.raises(ConfigError, match="is no folder, no /dev/videoN"):
        crackvae.live(source=tmp_path / "missing", model=model, out=tmp_path / "out")
    with pytest.raises(ConfigError, match="lies in the source"):
        crackvae.live(source=source, model=model, out=source / "scores")
