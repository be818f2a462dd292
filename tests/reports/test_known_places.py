"""Known false alarms on the page of a night: the same place again, and when it comes back to the front."""

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import score_in_process
from PIL import Image

from crackvae.config import ScoreConfig
from crackvae.images.synthetic import draw_concrete, draw_crack
from crackvae.model.inference import find_recorded_model
from crackvae.reports.night_page import night_page as module
from crackvae.reports.night_page.known import false_alarms
from crackvae.reports.night_page.night_page import night_page
from crackvae.reports.night_page.nights import read_night
from crackvae.reports.page import PageSettings, Rendered
from crackvae.scoring.verb import score
from crackvae.storage import tables
from crackvae.storage.tables.verdicts import AnyVerdict, Judgement, Subject, VerdictLog

pytestmark = pytest.mark.slow

SIDE = 256
PLACES = range(4)


def place(number: int) -> Image.Image:
    """A piece of wall, larger than a photograph of it."""
    return Image.fromarray(draw_concrete(np.random.default_rng(number), SIDE + 80, SIDE + 80))


def photographed(wall: Image.Image, *, again: bool) -> Image.Image:
    """Its middle; photographed again, moved by 10 px, turned by 3 degrees, and exposed for longer."""
    if not again:
        return wall.crop((40, 40, 40 + SIDE, 40 + SIDE))
    turned = wall.rotate(3, Image.Resampling.BILINEAR).crop((48, 46, 48 + SIDE, 46 + SIDE))
    return turned.point(lambda grey: min(255, round(1.15 * grey)))


def with_crack(wall: Image.Image) -> Image.Image:
    return Image.fromarray(draw_crack(np.random.default_rng(0), np.asarray(wall))[0])


@pytest.fixture(scope="module")
def two_nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scores of four places, and of a later night: three of them again, one of these with a crack, and a new one."""
    folder = tmp_path_factory.mktemp("nights")
    with pytest.MonkeyPatch.context() as monkeypatch:
        score_in_process(monkeypatch)
        for night in ("first", "second"):
            images = folder / night / "bridge"
            images.mkdir(parents=True)
            for number in PLACES if night == "first" else (0, 1, 9):
                photographed(place(number), again=night == "second").save(images / f"{night}-{number}.png")
            if night == "second":
                photographed(with_crack(place(2)), again=True).save(images / "second-2.png")
            score(ScoreConfig(images=(str(folder / night),), out=str(folder / "scores"), no_report=True, quiet=True))
    return folder / "scores"


@pytest.fixture(autouse=True)
def without_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without anomaly maps, which take longer than all that is tested here, and on which no queue depends."""
    monkeypatch.setattr(
        module, "find_recorded_model", lambda _, __, digest, threshold: find_recorded_model("", "", digest, threshold)
    )


@pytest.fixture
def scores(two_nights: Path, tmp_path: Path) -> Path:
    """A copy of these scores for one test, without a verdict."""
    return Path(shutil.copytree(two_nights, tmp_path / "scores"))


def image_of(scores: Path, name: str) -> dict[str, Any]:
    rows = tables.read_scores(str(scores), ["image", "model", "score"]).to_pylist()
    (row,) = (row for row in rows if row["image"].endswith(f"/{name}.png"))
    return row


def judge(scores: Path, name: str, verdict: AnyVerdict, reviewer: str = "anna", **changes: Any) -> None:
    row = image_of(scores, name) | changes
    judgement = Judgement(Subject(row["image"]), verdict, row["model"], row["score"])
    VerdictLog(str(scores)).append(f"{reviewer}-{name}-{verdict or 'withdrawn'}", reviewer, [judgement])


def page_of(scores: Path, run: str = "", **settings: Any) -> Rendered:
    few: dict[str, Any] = {"n_worst": 10, "n_unflagged": 0, "n_photographs": 0, "beside_scores": True}
    return night_page(read_night(str(scores), run), PageSettings(**few | settings))


def queue(rendered: Rendered) -> list[tuple[str, bool]]:
    """Name of each image of the queue, in order, and whether it is shown as a known false alarm."""
    cards = re.findall(r'<li class="card([^"]*)" id="[^"]*" tabindex="-1" data-row="([^"]*)"', rendered.html.decode())
    rows = [json.loads(html.unescape(data)) for _, data in cards]
    names = [Path(row["image"]).stem for row in rows]
    return [(name, "known" in classes) for name, (classes, _) in zip(names, cards, strict=True)]


def test_a_judged_place_comes_last_when_it_is_photographed_again_and_first_with_a_crack_in_it(scores: Path) -> None:
    for number in PLACES:
        judge(scores, f"first-{number}", "sound" if number else "joint")
    rendered = page_of(scores)
    shown = queue(rendered)
    assert shown[0] == ("second-2", False), "the crack"
    assert shown[1] == ("second-9", False), "a new place"
    assert sorted(shown[2:]) == [("second-0", True), ("second-1", True)]
    assert rendered.figures["known_false_alarms"] == 2
    page = rendered.html.decode()
    assert "2 of them are known false alarms" in page and '<option value="known">' in page
    assert "<bdi>anna</bdi> judged this place joint on" in page


@pytest.mark.slow
def test_the_link_to_a_verdict_leads_to_the_judged_card_where_its_page_lies(scores: Path) -> None:
    judge(scores, "first-0", "sound")
    first, second = (page_of(scores, run).html.decode() for run in tables.list_parts(str(scores)))
    name, anchor = re.findall(r'href="\./_report-([^"]*)\.html#(image-[^"]*)"', second)[0]
    assert name == min(tables.list_parts(str(scores))) and f'id="{anchor}"' in first
    assert "_report-" not in page_of(scores, beside_scores=False).html.decode()


def test_a_place_comes_back_when_its_score_has_grown_or_the_model_is_another(scores: Path) -> None:
    score_then = image_of(scores, "second-0")["score"]
    judge(scores, "first-0", "sound", score=score_then / 2)
    judge(scores, "first-1", "sound", model="another")
    assert not any(known for _, known in queue(page_of(scores)))


def test_only_agreed_verdicts_of_other_nights_make_a_place_known(scores: Path) -> None:
    judge(scores, "first-0", "sound")
    judge(scores, "first-0", "crack", "ben")
    judge(scores, "first-1", "unsure")
    judge(scores, "second-0", "sound")  # on the very image of the page
    assert not false_alarms(read_night(str(scores), "")) and page_of(scores).figures["known_false_alarms"] == 0
    judge(scores, "first-0", "", "ben")
    assert ("second-0", True) in queue(page_of(scores))


def test_known_places_take_no_place_in_the_queue_from_others(scores: Path) -> None:
    for number in PLACES:
        judge(scores, f"first-{number}", "sound")
    worst = [name for name, _ in queue(page_of(scores))]
    shown = queue(page_of(scores, n_worst=3))
    assert [name for name, known in shown if not known] == ["second-2", "second-9"] and len(shown) == len(worst)


def test_a_verdict_on_an_image_that_the_table_does_not_have_makes_nothing_known(scores: Path) -> None:
    judge(scores, "first-0", "sound", image="/no/such/photograph.png")
    assert page_of(scores).figures["known_false_alarms"] == 0


def test_in_a_browser_known_places_stay_last_are_filtered_and_lead_to_their_verdict(browser: Any, scores: Path) -> None:
    for number in PLACES:
        judge(scores, f"first-{number}", "sound")
    for run in tables.list_parts(str(scores)):
        (scores / f"_report-{run}.html").write_bytes(page_of(scores, run).html)
    tab = browser.new_page()
    complaints: list[str] = []
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto((scores / f"_report-{max(tables.list_parts(str(scores)))}.html").as_uri())
    shown = "[...document.querySelectorAll('#cards .card:not([hidden])')].map(c => c.classList.contains('known'))"
    assert tab.evaluate(shown) == [False, False, True, True]
    tab.select_option("#sort", "-p")
    assert tab.evaluate(shown) == [False, False, True, True]
    tab.select_option("#state", "known")
    assert tab.evaluate(shown) == [True, True]
    tab.select_option("#state", "unknown")
    assert tab.evaluate(shown) == [False, False]
    tab.select_option("#state", "")
    tab.locator("a.judged").first.click()
    tab.wait_for_url("**/_report-*#image-*")
    assert tab.evaluate("location.hash.slice(1) === document.querySelector('.card.current').id") and not complaints
    tab.close()
