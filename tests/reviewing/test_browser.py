"""Reviewers in Chromium: verdicts survive a killed server, and nothing of a page or a name escapes."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pytest
import uvicorn
from conftest import HOSTILE_NAMES, HOUSE, free_ports, score_in_process, small_spec, write_model
from findings_made import finding

import crackvae
from crackvae.storage import tables
from crackvae.storage.tables.findings import FINDINGS_SCHEMA, folder_of

TOKEN = "t" * 32
RealServer = uvicorn.Server


@contextmanager
def serving(scores: Path, port: int, *more: str) -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own, from its first answer on."""
    settings = ["--scores", str(scores), "--port", str(port), "--token", TOKEN, "--reviewer", "guest", *more]
    command = [sys.executable, "-m", "crackvae", "review", *settings]
    with subprocess.Popen(command, cwd=HOUSE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr and any(line.startswith("open http") for line in server.stderr)
            yield server
        finally:
            server.kill()


@contextmanager
def serving_here(scores: Path, port: int, **settings: int) -> Iterator[None]:
    """The verb on a thread of this process, for tests that do not kill it: a process takes seconds to start."""
    servers: list[uvicorn.Server] = []
    review = partial(crackvae.review, scores=scores, port=port, token=TOKEN, reviewer="guest", quiet=True, **settings)
    with (
        patch.object(uvicorn, "Server", lambda config: servers.append(RealServer(config)) or servers[0]),
        ThreadPoolExecutor(1) as pool,
    ):
        answer = pool.submit(review)
        try:
            while not (answer.done() or (servers and servers[0].started)):
                time.sleep(0.01)
            yield
        finally:
            for server in servers:
                server.should_exit = True
        answer.result()


class Reviewer:
    """A tab of a reviewer, with the verdicts that the server has acknowledged to it."""

    def __init__(self, browser: Any, port: int, name: str) -> None:
        self.context = browser.new_context(viewport={"width": 1280, "height": 900})
        self.tab = self.context.new_page()
        self.acknowledged, self.requests, self.complaints = list[str](), list[str](), list[str]()
        self.tab.on("response", self._note)
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))
        self.address = f"http://127.0.0.1:{port}/"
        self.tab.goto(f"{self.address}?token={TOKEN}", timeout=240_000)
        self.tab.fill("#reviewer", name)
        self.tab.press("#reviewer", "Enter")
        self.tab.evaluate("document.activeElement.blur()")

    def _note(self, response: Any) -> None:
        if response.url.endswith("/verdicts") and response.status == 200:
            self.acknowledged.append(response.request.post_data_json["key"])

    def judge(self, keys: str) -> None:
        """Press keys, from the first card on."""
        self.tab.evaluate("goTo(null)")
        self.press("j" + keys)

    def press(self, keys: str) -> None:
        for key in keys:
            self.tab.keyboard.press(key)

    def wait_until_saved(self) -> None:
        self.wait_for("#saved", "all verdicts are saved")

    def wait_for(self, selector: str, text: str) -> None:
        from playwright.sync_api import expect

        expect(self.tab.locator(selector).first).to_contain_text(text, timeout=120_000)

    def shown(self) -> list[str]:
        cards = "[...document.querySelectorAll('#cards .card:not([hidden])')]"
        return list(self.tab.evaluate(f"{cards}.map(c => JSON.parse(c.dataset.row).image)"))


def judge_in_turns(anna: Reviewer, ben: Reviewer) -> None:
    """A hundred verdicts of each; they differ on every second image."""
    for _ in range(5):
        anna.press("cs" * 10)
        ben.press("cc" * 10)


@pytest.fixture
def two_hundred(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The scores of 200 drawn images."""
    pictures = [*sorted((drawn / "crack").iterdir()), *sorted((drawn / "non_crack").iterdir())][:200]
    (tmp_path / "images").mkdir()
    for picture in pictures:
        shutil.copy(picture, tmp_path / "images" / f"{picture.parent.name}-{picture.name}")
    model = write_model(tmp_path / "model", small_spec(head="mse"), paints=0.7)
    score_in_process(monkeypatch)
    crackvae.score(images=tmp_path / "images", model=model, out=tmp_path / "scores", no_report=True, quiet=True)
    return tmp_path / "scores"


@pytest.mark.slow
def test_two_reviewers_judge_200_images_while_the_server_is_killed_and_every_verdict_is_stored_once(
    browser: Any, two_hundred: Path
) -> None:
    (port,) = free_ports(1)
    more = ["--worst", "200", "--passed", "0"]
    with serving(two_hundred, port, *more) as server:
        anna, ben = (Reviewer(browser, port, name) for name in ("anna", "ben"))
        for reviewer in (anna, ben):
            reviewer.judge("")
        judge_in_turns(anna, ben)
        server.kill()
        server.wait()
        acknowledged = {*anna.acknowledged, *ben.acknowledged}
        stored = [one.partition(".")[0] for one in crackvae.read_verdicts(two_hundred, history=True)["id"].to_pylist()]
        assert acknowledged and acknowledged <= set(stored) and len(stored) == len(set(stored))
        judge_in_turns(anna, ben)  # while nobody answers
        assert "not saved yet" in anna.tab.inner_text("#saved")
    with serving(two_hundred, port, *more):
        for reviewer in (anna, ben):
            reviewer.wait_until_saved()
        anna.wait_for("#team", "all reviewers: 200 of 200, 100 disagreements")
        assert anna.tab.inner_text("#progress") == "200 of 200 reviewed, 100 cracks"
        history = crackvae.read_verdicts(two_hundred, history=True).to_pandas()
        assert len(history) == 400 and not history.duplicated(["reviewer", "image"]).any()
        assert (history["replaces"] == "").all()
        anna.tab.select_option("#state", "disagreement")
        disputed = history[(history["reviewer"] == "anna") & (history["verdict"] == "sound")]["image"]
        assert sorted(anna.shown()) == sorted(disputed)
        assert "ben: crack" in anna.tab.inner_text("#cards .card:not([hidden]) .others >> nth=0")
        anna.tab.keyboard.press("Control+z")
        anna.wait_until_saved()
        assert crackvae.read_verdicts(two_hundred).num_rows == 399
        assert anna.complaints == ben.complaints == []
        assert all(url.startswith((anna.address, "data:", "blob:")) for url in anna.requests + ben.requests)
        for reviewer in (anna, ben):
            reviewer.context.close()


def test_hostile_names_and_reviewers_are_text_and_pictures_open_at_full_size(
    browser: Any, scored_night: Path, tmp_path: Path
) -> None:
    scores = Path(shutil.copytree(scored_night, tmp_path / "scores"))
    (port,) = free_ports(1)
    with serving_here(scores, port, worst=70, passed=0):
        anna = Reviewer(browser, port, "anna <img src=x onerror=alert(3)>")
        n_judged = len(anna.shown())
        anna.judge("t" * n_judged)
        anna.wait_until_saved()
        ben = Reviewer(browser, port, "ben")
        ben.wait_for("#cards .others", "anna <img src=x onerror=alert(3)>: joint")
        ben.tab.fill("#text", "photograph-0")
        ben.tab.evaluate("document.activeElement.blur()")
        ben.judge("")
        ben.tab.keyboard.press("f")
        ben.tab.wait_for_selector("#zoom .whole")
        width = "p => p.decode().then(() => p.naturalWidth)"
        assert ben.tab.locator("#zoom .whole").evaluate(width) == 230
        assert anna.complaints == ben.complaints == [] and ben.tab.evaluate("document.scripts.length") == 1
        assert all(url.startswith((anna.address, "data:", "blob:")) for url in anna.requests + ben.requests)
        judged = crackvae.read_verdicts(scores)["image"].to_pylist()
        assert len(judged) == n_judged and len([one for one in judged if "/odd/" in one]) == len(HOSTILE_NAMES)
        for reviewer in (anna, ben):
            reviewer.context.close()


def test_a_finding_is_judged_in_its_row(browser: Any, scored_night: Path, tmp_path: Path) -> None:
    scores = Path(shutil.copytree(scored_night, tmp_path / "scores"))
    row = next(one for one in crackvae.read_scores(scores).to_pylist() if one["rows"] > 1)
    of_image = {name: row[name] for name in ("image", "group", "run", "model")}
    lines = [finding(name, **of_image, mm_source="") for name in ("0a", "0b")]
    tables.write_part(folder_of(str(scores)), pa.Table.from_pylist(lines, FINDINGS_SCHEMA), row["run"], 0)
    (port,) = free_ports(1)
    with serving_here(scores, port, worst=70, passed=0):
        anna, ben = (Reviewer(browser, port, name) for name in ("anna", "ben"))
        anna.tab.select_option('select[aria-label="verdict on finding 0b"]', "joint")
        anna.wait_until_saved()
        ben.tab.wait_for_selector('select[title="anna: joint"]', timeout=120_000)
        assert ben.tab.locator('select[title="anna: joint"]').input_value() == ""
        ben.tab.select_option('select[aria-label="verdict on finding 0b"]', "crack")
        anna.wait_for("#team", ", 1 disagreement")
        anna.tab.select_option("#state", "disagreement")
        assert anna.shown() == [row["image"]]
        anna.wait_for("#cards .card:not([hidden]) .others", "finding 0b: ben: crack · anna: joint")
        ben.tab.select_option('select[aria-label="verdict on finding 0b"]', "")
        anna.wait_for("#team", ", 0 disagreements")
        ben.wait_until_saved()
        assert ", 0 of " in anna.tab.inner_text("#progress"), "the image itself is not judged"
        (kept,) = crackvae.read_verdicts(scores).to_pylist()
        assert (kept["image"], kept["finding"], kept["verdict"]) == (row["image"], "0b", "joint")
        anna.tab.keyboard.press("Control+z")
        anna.wait_until_saved()
        assert crackvae.read_verdicts(scores).num_rows == 0, "the last verdict, though it is on a finding"
        assert anna.tab.input_value('select[aria-label="verdict on finding 0b"]') == ""
        assert anna.complaints == ben.complaints == []
        for reviewer in (anna, ben):
            reviewer.context.close()


def test_sound_and_joint_agree_that_there_is_no_crack_and_unsure_is_no_opinion(
    browser: Any, scored_night: Path, tmp_path: Path
) -> None:
    scores = Path(shutil.copytree(scored_night, tmp_path / "scores"))
    (port,) = free_ports(1)
    with serving_here(scores, port, worst=3, passed=0):
        for name, keys in (("anna", "scs"), ("ben", "tuc")):
            reviewer = Reviewer(browser, port, name)
            reviewer.judge(keys)
            reviewer.wait_until_saved()
        reviewer.wait_for("#team", "all reviewers: 3 of 3, 1 disagreement")
        assert crackvae.read_verdicts(scores).num_rows == 6 and not reviewer.complaints


@contextmanager
def other_server(folder: Path) -> Iterator[str]:
    """A page of another origin on this machine."""
    (folder / "evil.html").write_text("<!doctype html><link rel=icon href=data:,><p>hello")
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/evil.html"
        server.shutdown()


def test_a_page_of_another_origin_cannot_judge(browser: Any, scored_night: Path, tmp_path: Path) -> None:
    scores = Path(shutil.copytree(scored_night, tmp_path / "scores"))
    image = crackvae.read_scores(scores, ["image"])["image"][0].as_py()
    (port,) = free_ports(1)
    with serving_here(scores, port), other_server(tmp_path) as other:
        tab = browser.new_page()
        assert tab.goto(f"http://127.0.0.1:{port}/").status == 401, "without the token"
        tab.goto(other)
        verdict = {"key": "from-evil-1", "reviewer": "evil", "run": "", "image": image, "verdict": "sound"}
        with_token = {"X-Crackvae-Token": TOKEN, "Content-Type": "application/json"}
        for options in ({"mode": "no-cors"}, {"headers": with_token}):  # a form's request, and one that asks first
            send = "([a, o]) => fetch(a, o).then(r => r.type, error => String(error))"
            options |= {"method": "POST", "body": json.dumps(verdict)}
            sent = tab.evaluate(send, [f"http://127.0.0.1:{port}/verdicts", options])
            assert sent == "opaque" or "Failed to fetch" in sent
        assert crackvae.read_verdicts(scores, history=True).num_rows == 0
        tab.close()
