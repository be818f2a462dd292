"""The web application: the token, other origins, verdicts, and what it refuses to read."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import findings_made
import pytest
from conftest import HOSTILE_NAMES
from starlette.types import ASGIApp

from crackvae.reports.page import PageSettings
from crackvae.reviewing.app import review_app
from crackvae.reviewing.nights import ServedNights
from crackvae.storage.tables.verdicts import Judgement, Subject, VerdictLog

TOKEN = "t" * 32
OWN = "http://127.0.0.1:8790"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(app: ASGIApp, method: str, target: str, body: bytes = b"", **headers: str) -> Answer:
    """One request as a server hands it to an application; underscores in the names of headers are dashes."""
    path, _, query = target.partition("?")
    sent = {"host": "127.0.0.1:8790", **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {
        "type": "http",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in sent.items()],
        "server": ("127.0.0.1", 8790),
        "client": ("127.0.0.1", 50_000),
        "http_version": "1.1",
    }
    messages: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        messages.append(message)

    with ThreadPoolExecutor(1) as thread:  # a browser test in this process leaves an event loop running
        thread.submit(asyncio.run, app(scope, receive, send)).result()
    start = messages[0]
    found = {name.decode(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], found, b"".join(one.get("body", b"") for one in messages[1:]))


def give(app: ASGIApp, image: str, verdict: str, key: str, reviewer: str = "anna", **headers: str) -> Answer:
    body = {"key": key, "reviewer": reviewer, "run": "", "image": image, "verdict": verdict}
    sent = {"x_crackvae_token": TOKEN, "content_type": "application/json", "origin": OWN} | headers
    return ask(app, "POST", "/verdicts", json.dumps(body).encode(), **sent)


@pytest.fixture
def log(tmp_path: Path) -> VerdictLog:
    """A log in a folder of its own, so that the scores are shared by tests."""
    return VerdictLog(str(tmp_path))


@pytest.fixture(scope="module")
def nights(scored_night: Path) -> ServedNights:
    return ServedNights(str(scored_night), PageSettings(n_worst=4, n_unflagged=0, n_photographs=0, served=True))


@pytest.fixture
def app(nights: ServedNights, log: VerdictLog) -> ASGIApp:
    return review_app(nights, log, token=TOKEN, reviewer="anna")


@pytest.mark.parametrize("given", ["", "?token=", "?token=wrong", f"?token={TOKEN}x", "?token=%FF%FE"])
def test_without_the_token_nothing_is_shown(app: ASGIApp, given: str) -> None:
    for method, path in (("GET", "/"), ("GET", "/state"), ("GET", "/picture"), ("POST", "/verdicts"), ("GET", "/x")):
        answer = ask(app, method, path + given)
        assert answer.status == 401 and b"token" in answer.body


def test_the_token_in_an_address_opens_the_page_alone(app: ASGIApp) -> None:
    answer = ask(app, "GET", f"/?token={TOKEN}")
    assert answer.status == 200 and b'data-served="yes"' in answer.body and TOKEN.encode() not in answer.body
    assert b"connect-src &#39;self&#39;" in answer.body
    assert (answer.headers["cache-control"], answer.headers["referrer-policy"]) == ("no-store", "no-referrer")
    assert "set-cookie" not in answer.headers
    assert ask(app, "GET", f"/state?token={TOKEN}").status == 401
    assert ask(app, "POST", f"/?token={TOKEN}").status == 401


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:9999", "https://127.0.0.1:8790", "null"])
def test_a_page_of_another_origin_cannot_judge_even_with_the_token(
    app: ASGIApp, nights: ServedNights, log: VerdictLog, origin: str
) -> None:
    image = next(iter(nights.rows("")))
    assert give(app, image, "crack", "key-00001", origin=origin).status == 403
    assert give(app, image, "crack", "key-00001", content_type="text/plain").status == 415  # what a form could send
    assert log.history() == []


def test_a_verdict_is_stored_with_the_model_and_score_that_were_shown(
    app: ASGIApp, nights: ServedNights, log: VerdictLog
) -> None:
    image = next(name for name in nights.rows("") if name.endswith(HOSTILE_NAMES[0].split("/")[-1]))
    first = give(app, image, "joint", "key-00001")
    assert first.status == 200 and (first.json["image"], first.json["verdict"]) == (image, "joint")
    assert give(app, image, "joint", "key-00001").json == first.json
    give(app, image, "crack", "key-00002", reviewer="ben <b>")
    give(app, image, "", "key-00003")
    kept = log.history()
    assert [(one.reviewer, one.verdict) for one in kept] == [("anna", "joint"), ("ben <b>", "crack"), ("anna", "")]
    row = nights.rows("")[image]
    assert {(one.model, one.score) for one in kept} == {(row.model, row.score)} and kept[2].replaces == kept[0].id
    state = ask(app, "GET", "/state", x_crackvae_token=TOKEN).json
    assert [(one["reviewer"], one["verdict"]) for one in state["verdicts"]] == [("ben <b>", "crack")]
    assert (state["version"], state["reviewer"], len(state["runs"])) == (3, "anna", 1)


def test_a_finding_is_judged_apart_from_its_image(app: ASGIApp, nights: ServedNights, log: VerdictLog) -> None:
    image = next(iter(nights.rows("")))
    nights.rows("")[image].findings["0a"] = 7.5
    for number, (finding, verdict) in enumerate([("", "crack"), ("0a", "sound"), ("0a", "joint")]):
        body = {"key": f"key-{number:05}", "reviewer": "anna", "run": "", "image": image}
        body |= {"finding": finding, "verdict": verdict}
        headers = {"x_crackvae_token": TOKEN, "content_type": "application/json", "origin": OWN}
        assert ask(app, "POST", "/verdicts", json.dumps(body).encode(), **headers).status == 200
    _, sound, joint = log.history()
    assert (sound.score, joint.replaces) == (7.5, sound.id)
    shown = ask(app, "GET", "/state", x_crackvae_token=TOKEN).json["verdicts"]
    assert {(one["finding"], one["verdict"]) for one in shown} == {("", "crack"), ("0a", "joint")}


def test_the_page_is_rendered_again_when_reviewers_call_a_finding_otherwise(tmp_path: Path) -> None:
    image = str(tmp_path / "a.jpg")
    found, images = [findings_made.finding("0a", image)], {image: {"group": "pier", "score": 7.5}}
    out = str(findings_made.write_scores(tmp_path / "out", found, images))
    nights, log = ServedNights(out, PageSettings(served=True)), VerdictLog(out)
    for verdict, is_said in (("sound", True), ("", False)):
        log.append(f"a-verdict-{verdict}", "anna", [Judgement(Subject(image, "0a"), verdict)])
        page = nights.page("")
        assert (b"1 that reviewers call sound" in page) is is_said
        assert nights.page("") is page


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"verdict": "broken"}, 400),
        ({"reviewer": ""}, 400),
        ({"key": "../../x"}, 400),
        ({"key": 7}, 400),
        ({"image": "/etc/passwd"}, 404),
        ({"finding": "no such finding"}, 404),
        ({"run": "no such run"}, 503),
        ({"image": "x" * 70_000}, 413),
    ],
)
def test_what_is_no_verdict_is_refused(
    app: ASGIApp, nights: ServedNights, log: VerdictLog, changes: dict[str, Any], status: int
) -> None:
    image = next(iter(nights.rows("")))
    sent = {"key": "key-00001", "reviewer": "anna", "run": "", "image": image, "verdict": "crack"} | changes
    headers = {"x_crackvae_token": TOKEN, "content_type": "application/json", "origin": OWN}
    assert ask(app, "POST", "/verdicts", json.dumps(sent).encode(), **headers).status == status
    assert log.history() == []


def test_only_images_of_the_night_are_sent_as_pictures(app: ASGIApp, nights: ServedNights, tmp_path: Path) -> None:
    image = next(name for name in nights.rows("") if "photograph" in name)
    answer = ask(app, "GET", f"/picture?image={quote(image)}", x_crackvae_token=TOKEN)
    assert answer.status == 200 and answer.headers["content-type"] == "image/png" and answer.body[1:4] == b"PNG"
    for other in ("/etc/passwd", str(tmp_path), image + "x", ""):
        assert ask(app, "GET", f"/picture?image={quote(other)}", x_crackvae_token=TOKEN).status == 404


def test_a_log_that_cannot_be_written_is_said_and_nothing_is_acknowledged(nights: ServedNights, tmp_path: Path) -> None:
    log = VerdictLog(str(tmp_path))
    app = review_app(nights, log, token=TOKEN, reviewer="anna")
    (tmp_path / "_verdicts").write_text("a file where the folder should be")
    image = next(iter(nights.rows("")))
    assert give(app, image, "crack", "key-00001").status == 503
    (tmp_path / "_verdicts").unlink()
    assert give(app, image, "crack", "key-00001").status == 200 and len(log.history()) == 1
