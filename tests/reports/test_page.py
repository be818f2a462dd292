"""The page in a browser: no requests, no injected scripts, and the functions of the review queue."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import HOSTILE_NAMES

from crackvae.config import CalibrateConfig, ReportConfig
from crackvae.reports import page
from crackvae.reports.verb import report
from crackvae.scoring.calibrate import calibrate
from crackvae.storage.tables.verdict_csv import read_verdict_csv

MAX_PAGE_BYTES = 15_000_000


@pytest.fixture(scope="module")
def night_html(scored_night: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the night with its hostile names."""
    out = tmp_path_factory.mktemp("pages") / "night.html"
    report(ReportConfig(scores=str(scored_night), out=str(out), worst=70, passed=3, quiet=True))
    return out


class Visit:
    """An open page with its console messages and requests."""

    def __init__(self, tab: Any) -> None:
        self.tab, self.complaints, self.requests = tab, [], []
        tab.on("console", lambda message: self.complaints.append(message.text))
        tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        tab.on("dialog", lambda dialog: (self.complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
        tab.on("request", lambda request: self.requests.append(request.url))

    def shown(self) -> list[str]:
        """Images of the visible cards of the queue, in order."""
        script = (
            "[...document.querySelectorAll('#cards .card:not([hidden])')].map(c => JSON.parse(c.dataset.row).image)"
        )
        return list(self.tab.evaluate(script))

    def here(self) -> str:
        return str(self.tab.evaluate("JSON.parse(document.querySelector('.card.current').dataset.row).image"))

    def download(self, place: Path) -> Path:
        with self.tab.expect_download() as download:
            self.tab.click("#download")
        download.value.save_as(place)
        return place


@pytest.fixture
def visit(browser: Any, night_html: Path) -> Iterator[Visit]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    seen = Visit(context.new_page())
    seen.tab.goto(night_html.as_uri())
    yield seen
    assert seen.complaints == []
    assert [url for url in seen.requests if not url.startswith(("data:", "blob:"))] == [night_html.as_uri()]
    context.close()


def test_the_page_opens_from_disk_without_an_error_or_a_request_and_stays_small(visit: Visit, night_html: Path) -> None:
    assert visit.tab.title().startswith("Run of 20")
    assert night_html.stat().st_size < MAX_PAGE_BYTES
    broken = "[...document.images].filter(i => !i.complete || i.naturalWidth === 0).length"
    assert visit.tab.evaluate(broken) == 0 and visit.tab.evaluate("document.images.length") > 100


def test_the_policy_blocks_requests_and_injected_scripts(browser: Any, night_html: Path) -> None:
    tab = browser.new_page()
    tab.goto(night_html.as_uri())
    fetched = "fetch('http://127.0.0.1:9/').then(() => 'sent', error => String(error))"
    assert "Failed to fetch" in tab.evaluate(fetched)
    tab.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hit = 1\">')")
    tab.evaluate(
        "{const s = document.createElement('script'); s.textContent = 'window.hit = 1'; document.body.append(s)}"
    )
    tab.wait_for_timeout(100)
    assert tab.evaluate("window.hit") is None
    tab.close()


def test_hostile_names_are_shown_as_text(visit: Visit) -> None:
    text = visit.tab.inner_text("main")
    assert "<script>alert(1)</script>.jpg" in text and "<img src=x onerror=alert(2)>" in text
    assert "turned⟨U+202E⟩gpj.exe.jpg" in text and "line⟨U+000A⟩break.jpg" in text and "{{ 7*7 }}&amp;.jpg" in text
    assert "\u202e" not in visit.tab.content()
    assert visit.tab.evaluate("document.scripts.length") == 1
    assert len([name for name in visit.shown() if "/odd/" in name]) == len(HOSTILE_NAMES)


def test_the_queue_sorts_by_suspicion_path_and_group(visit: Visit) -> None:
    by_suspicion = visit.shown()
    visit.tab.select_option("#sort", "image")
    assert visit.shown() == sorted(by_suspicion)
    visit.tab.select_option("#sort", "-p")
    assert visit.shown() == by_suspicion[::-1]
    visit.tab.select_option("#sort", "group")
    groups = [Path(image).parent.name for image in visit.shown() if "/bridge-" in image]
    assert groups == sorted(groups)
    visit.tab.select_option("#sort", "p")
    assert visit.shown() == by_suspicion


def test_the_queue_filters_by_group_path_and_verdict(visit: Visit) -> None:
    everything = visit.shown()
    visit.tab.select_option("#group", "=bridge-1")
    assert visit.shown() == [image for image in everything if "/bridge-1/" in image] != []
    visit.tab.select_option("#group", "")
    visit.tab.fill("#text", "PHOTOGRAPH")
    assert len(visit.shown()) == 2 and visit.tab.inner_text("#progress").startswith("2 shown, 0 of 69 reviewed")
    visit.tab.fill("#text", "no such image")
    assert visit.shown() == [] and visit.tab.is_visible("#nothing")
    visit.tab.fill("#text", "")
    visit.tab.click("#cards .card:first-child [data-verdict=crack]")
    visit.tab.select_option("#state", "crack")
    assert visit.shown() == everything[:1]
    visit.tab.select_option("#state", "open")
    assert visit.shown() == everything[1:]


def test_the_keyboard_navigates_assigns_verdicts_and_enlarges(visit: Visit, tmp_path: Path) -> None:
    images = visit.shown()
    press = visit.tab.keyboard.press
    press("j")
    assert visit.here() == images[0]
    press("c")  # assigns a verdict and moves on
    assert visit.here() == images[1]
    press("s")
    press("u")
    press("k")
    assert visit.here() == images[2]
    press("x")
    press("z")
    assert visit.tab.is_visible("#zoom")
    press("j")
    assert visit.here() == images[3] and Path(images[3]).name[:5] in visit.tab.inner_text("#zoom")
    press("Escape")
    assert not visit.tab.is_visible("#zoom")
    assert read_verdict_csv(str(visit.download(tmp_path / "v.csv"))) == {images[0]: "crack", images[1]: "sound"}


def test_the_dense_view_shows_more_images_at_once_and_is_remembered(visit: Visit) -> None:
    count = "[...document.querySelectorAll('#cards .card')].filter(c => c.getBoundingClientRect().top < 900).length"
    large = visit.tab.evaluate(count)
    visit.tab.keyboard.press("v")
    assert visit.tab.evaluate(count) >= 4 * large and visit.tab.input_value("#view") == "dense"
    visit.tab.reload()
    visit.requests.pop()
    assert visit.tab.evaluate(count) >= 4 * large


def test_typing_in_the_search_field_assigns_no_verdict(visit: Visit) -> None:
    visit.tab.keyboard.press("j")
    visit.tab.keyboard.press("/")
    visit.tab.keyboard.type("csu")
    assert "0 of 69 reviewed" in visit.tab.inner_text("#progress")


def test_verdicts_round_trip_with_every_character_of_a_name(visit: Visit, tmp_path: Path) -> None:
    visit.tab.keyboard.press("j")
    for _ in visit.shown():
        visit.tab.keyboard.press("c")
    read = read_verdict_csv(str(visit.download(tmp_path / "verdicts.csv")))
    assert set(read) == set(visit.shown()) and set(read.values()) == {"crack"}
    assert {Path(image).name for image in read if "/odd/" in image} >= {name.split("/")[-1] for name in HOSTILE_NAMES}


def test_verdicts_survive_a_reload_and_can_be_loaded_elsewhere(visit: Visit, browser: Any, tmp_path: Path) -> None:
    first = visit.shown()[:3]
    for key in "jcsu":
        visit.tab.keyboard.press(key)
    visit.tab.reload()
    visit.requests.pop()  # the page itself, once more
    assert visit.tab.inner_text("#progress").startswith("3 of")
    saved = visit.download(tmp_path / "verdicts.csv")
    elsewhere = browser.new_context().new_page()
    elsewhere.goto(visit.tab.url)
    assert elsewhere.inner_text("#progress").startswith("0 of")
    elsewhere.set_input_files("#load", saved)
    elsewhere.wait_for_function("document.querySelector('#progress').textContent.startsWith('3 of')")
    assert "3 of 3 verdicts" in elsewhere.inner_text("#message")
    assert list(read_verdict_csv(str(saved))) == first
    elsewhere.context.close()


def test_an_image_of_the_queue_and_of_the_random_sample_has_one_verdict(visit: Visit, tmp_path: Path) -> None:
    sampled = visit.tab.locator("#unflagged .card").first
    image = sampled.evaluate("card => JSON.parse(card.dataset.row).image")
    again = visit.tab.locator(f"#cards .card:nth-child({visit.shown().index(image) + 1})")
    again.locator("[data-verdict=crack]").click()
    assert sampled.get_attribute("data-verdict") == "crack"
    sampled.locator(".verdict [data-verdict=sound]").click()
    assert again.get_attribute("data-verdict") == "sound"
    saved = visit.download(tmp_path / "v.csv")
    assert read_verdict_csv(str(saved)) == {image: "sound"} and len(saved.read_text().splitlines()) == 2
    ids = visit.tab.evaluate("[...document.querySelectorAll('[id]')].map(one => one.id)")
    assert len(ids) == len(set(ids))


def test_a_loaded_verdict_on_a_finding_is_none_on_its_image(visit: Visit, tmp_path: Path) -> None:
    first, second = visit.shown()[:2]
    (tmp_path / "v.csv").write_text(f"image,finding,verdict\n{first},f1,sound\n{second},,crack\n")
    visit.tab.set_input_files("#load", tmp_path / "v.csv")
    visit.tab.wait_for_selector("#message:not([hidden])")
    assert visit.tab.inner_text("#message").startswith("1 of 2 verdicts")
    assert read_verdict_csv(str(visit.download(tmp_path / "again.csv"))) == {second: "crack"}


@pytest.mark.usefixtures("in_process")
def test_calibrate_leaves_out_what_was_called_a_crack_on_the_page_and_says_what_changed(
    visit: Visit, scored_night: Path, tmp_path: Path
) -> None:
    from conftest import small_spec, write_model

    model = write_model(tmp_path / "model", small_spec())
    for key in "jcccs":
        visit.tab.keyboard.press(key)
    verdicts = visit.download(tmp_path / "verdicts.csv")
    images = str(scored_night.parent / "images")
    outcome = calibrate(CalibrateConfig(model=str(model), images=images, verdicts=str(verdicts), quiet=True))
    assert outcome.summary["n"] == 69 - 3 and outcome.summary["verdicts"]["dropped"] == 3
    assert outcome.summary["threshold"] < outcome.summary["verdicts"]["threshold_before"]
    assert "3 excluded: labelled crack by a reviewer" in outcome.summary["level"]
    assert "threshold with them" in outcome.tables["verdicts"].index


@pytest.mark.parametrize("width", [1280, 390, 320])
@pytest.mark.parametrize("which", ["night", "evaluation"])
def test_nothing_overflows_on_a_desk_or_a_phone(
    browser: Any, night_html: Path, evaluated: Path, which: str, width: int
) -> None:
    tab = browser.new_page(viewport={"width": width, "height": 844})
    tab.goto((night_html if which == "night" else evaluated).as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    outside = """width => [...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, svg, [hidden]')
        && e.getBoundingClientRect().right > width + 1).map(e => e.outerHTML.slice(0, 80))"""
    assert tab.evaluate(outside, width) == []
    tab.close()


@pytest.fixture
def evaluated(judged: Path) -> Path:
    """The page of an evaluation."""
    return judged / "report.html"


def test_the_evaluation_opens_without_an_error_or_a_request(browser: Any, evaluated: Path) -> None:
    seen = Visit(browser.new_page())
    seen.tab.goto(evaluated.as_uri())
    seen.tab.click(".gallery .frame >> nth=0")
    assert seen.tab.locator("#zoom img").count() == 3
    first = seen.tab.inner_text("#zoom .name")
    seen.tab.keyboard.press("j")
    assert seen.tab.inner_text("#zoom .name") == seen.tab.inner_text(".gallery .item >> nth=1 >> .name") != first
    assert seen.complaints == [] and [url for url in seen.requests if not url.startswith("data:")] == [seen.tab.url]
    seen.tab.close()


def test_light_and_dark_follow_the_system_and_the_button_and_charts_with_them(browser: Any, night_html: Path) -> None:
    for scheme in ("light", "dark"):
        tab = browser.new_page(color_scheme=scheme)
        tab.goto(night_html.as_uri())
        before = brightness(tab, "document.body", "backgroundColor")
        assert (before > 128) == (scheme == "light")
        assert (brightness(tab, "document.querySelector('.charts svg text')", "fill") > 128) == (scheme == "dark")
        tab.click("#theme")
        assert (brightness(tab, "document.body", "backgroundColor") > 128) != (scheme == "light")
        tab.close()


def brightness(tab: Any, element: str, property_name: str) -> float:
    channels = re.findall(r"[\d.]+", tab.evaluate(f"getComputedStyle({element}).{property_name}"))[:3]
    return sum(map(float, channels)) / 3


# ------------------------------------------------------------------------------------------- without a browser


def test_names_are_shown_below_the_folder_that_they_share() -> None:
    assert page.shared_folder(["/a/b/c/1.jpg", "/a/b/d/2.jpg"]) == "/a/b/"
    assert page.shared_folder(["/a/bc/1.jpg", "/a/bd/2.jpg"]) == "/a/"
    assert page.shared_folder(["/n.zip!/x.jpg"]) == "/n.zip!/" and page.shared_folder([]) == ""
    assert page.name_parts("/a/b/c/1.jpg", "/a/b/") == {"folder": "c/", "file": "1.jpg", "whole": "/a/b/c/1.jpg"}


def test_the_start_time_of_a_run_is_formatted() -> None:
    assert page.when("20261123T222229_314982") == "2026-11-23 22:22 UTC" and page.when("my run") == "my run"


def test_every_file_of_the_templates_is_in_the_package() -> None:
    import tomllib
    from fnmatch import fnmatch

    from conftest import HOUSE

    shipped = tomllib.loads((HOUSE / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][
        "crackvae.reports"
    ]
    package = HOUSE / "crackvae" / "reports"
    files = [path.relative_to(package) for path in (package / "templates").iterdir()]
    assert files and all(any(fnmatch(str(file), pattern) for pattern in shipped) for file in files)
