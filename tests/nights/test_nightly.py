"""A night with nobody watching: scored, judged, summed up; run twice, after a missed one, and beside another."""

import json
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest
from conftest import read_rows, small_spec, write_model
from PIL import Image

from crackvae.cli import main
from crackvae.config import CalibrateConfig, CompactConfig, NightlyConfig
from crackvae.errors import LimitBroken, ModelError, StorageError
from crackvae.model import registry
from crackvae.model.artifact import load_model
from crackvae.monitoring.drift import ALL
from crackvae.monitoring.notifications import message_of
from crackvae.nights import nightly as module
from crackvae.nights import shadow
from crackvae.nights.nightly import nightly
from crackvae.results import Result
from crackvae.scoring import pages as scoring_pages
from crackvae.scoring.calibrate import calibrate
from crackvae.scoring.compaction import compact
from crackvae.storage.names.run_files import histograms_name

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def calibrated(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model calibrated on the first half of the drawn sound images."""
    folder = tmp_path_factory.mktemp("calibrated")
    model = write_model(folder / "model", small_spec(head="mse"))
    (folder / "sound").mkdir()
    for image in sorted((drawn / "non_crack").iterdir())[:120]:
        shutil.copy(image, folder / "sound")
    with pytest.MonkeyPatch.context() as patch:
        score_in_process(patch)
        calibrate(CalibrateConfig(model=str(model), images=str(folder / "sound"), quiet=True))
    return model


def score_in_process(patch: pytest.MonkeyPatch) -> None:
    """What the fixture in_process does, for a fixture of a whole module."""
    from conftest import in_process

    in_process.__wrapped__(patch)


def night_of(drawn: Path, folder: Path, start: int, stop: int, brightness: float = 1.0) -> Path:
    folder.mkdir(exist_ok=True)
    for path in sorted((drawn / "non_crack").iterdir())[start:stop]:
        Image.open(path).point(lambda level: int(level * brightness)).save(folder / path.name, quality=95)
    return folder


def raising(error: BaseException) -> Callable[..., NoReturn]:
    def fail(*_: object) -> NoReturn:
        raise error

    return fail


def config(images: Path, model: Path, out: Path, **changes: object) -> NightlyConfig:
    """Settings of a night, without its page where a test does not look at it."""
    values = {"images": str(images), "model": str(model), "out": str(out), "night": "2026-11-23", "quiet": True}
    return NightlyConfig(**values | {"no_report": True} | changes)


@pytest.mark.usefixtures("ray_session")
def test_a_night_on_ray_gives_the_verdict_of_a_night_in_process(
    drawn: Path, calibrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = night_of(drawn, tmp_path / "night", 120, 240)
    on_ray = nightly(config(images, calibrated, tmp_path / "ray")).summary
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    assert [event["event"] for event in events] == ["night started", "scored", "night ended"]
    assert {event["run"] for event in events[1:]} == set(on_ray["runs"])
    score_in_process(monkeypatch)
    here = nightly(config(images, calibrated, tmp_path / "here")).summary
    heard = [one for one in on_ray["drift"]["findings"] if one["what"] != "latent_norm"]
    assert heard == [one for one in here["drift"]["findings"] if one["what"] != "latent_norm"]
    (latent,) = [one for one in on_ray["drift"]["findings"] if one["what"] == "latent_norm" and one["group"] == ALL]
    assert latent["tonight"] > 0


@pytest.mark.usefixtures("in_process")
def test_a_sound_night_is_scored_judged_and_summed_up(drawn: Path, calibrated: Path, tmp_path: Path) -> None:
    images = night_of(drawn, tmp_path / "night", 120, 240)
    outcome = nightly(config(images, calibrated, tmp_path / "out", no_report=False))
    assert "</html>" in Path(outcome.summary["report"]).read_text()
    assert outcome.summary["drift"]["level"] in ("ok", "watch") and outcome.summary["broken"] == []
    assert outcome.summary["images"] == outcome.summary["score"]["scored"] == 120
    assert json.loads((tmp_path / "out" / "_nightly-2026-11-23.json").read_text()) == outcome.summary
    assert set(outcome.tables["drift"]["what"]) >= {"brightness", "contrast", "sharpness", "score", "flagged"}


@pytest.mark.usefixtures("in_process")
def test_a_darker_camera_breaks_the_limit_after_all_is_written(
    drawn: Path, calibrated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = night_of(drawn, tmp_path / "night", 120, 240, brightness=0.75)
    flags = ["--images", str(images), "--model", str(calibrated), "--out", str(tmp_path / "out"), "--quiet"]
    assert main(["nightly", *flags, "--night", "2026-11-23", "--no-report"]) == 2
    printed = capsys.readouterr()
    summary = json.loads(printed.out.splitlines()[-1])
    assert (summary["drift"]["level"], summary["drift"]["causes"][0]) == ("alarm", "darker")
    assert "drift: alarm in all images: darker" in printed.err
    assert "crackvae nightly: the threshold does not hold for these images" in printed.err, "it is the first night"
    assert next(iter(summary)) == "threshold_void"
    assert read_rows(tmp_path / "out").num_rows == 120


@pytest.mark.usefixtures("in_process")
def test_a_second_call_on_the_same_night_gives_the_same_verdict(drawn: Path, calibrated: Path, tmp_path: Path) -> None:
    images = night_of(drawn, tmp_path / "night", 120, 200, brightness=0.75)
    settings = config(images, calibrated, tmp_path / "out")
    verdicts = []
    for _ in range(2):
        with pytest.raises(LimitBroken) as broken:
            nightly(settings)
        verdicts.append(broken.value.outcome.summary)
    assert verdicts[0]["drift"] == verdicts[1]["drift"]
    assert verdicts[1]["score"]["scored"] == 0 and verdicts[1]["images"] == 80
    assert read_rows(tmp_path / "out").num_rows == 80


@pytest.mark.usefixtures("in_process")
def test_a_night_counts_what_an_interrupted_run_of_it_has_scored(drawn: Path, calibrated: Path, tmp_path: Path) -> None:
    images = night_of(drawn, tmp_path / "night", 120, 180)
    flags = ["--images", str(images), "--model", str(calibrated), "--out", str(tmp_path / "out"), "--no-report"]
    assert main(["score", *flags]) == 0
    night_of(drawn, images, 180, 240)
    today = datetime.now(UTC).date().isoformat()
    summary = nightly(config(images, calibrated, tmp_path / "out", night=today)).summary
    assert (summary["images"], summary["score"]["scored"], len(summary["runs"])) == (120, 60, 2)


@pytest.mark.usefixtures("in_process")
def test_each_night_is_judged_by_its_own_images_and_a_missed_one_by_the_next(
    drawn: Path, calibrated: Path, tmp_path: Path
) -> None:
    out, images = tmp_path / "out", night_of(drawn, tmp_path / "images", 120, 180)
    first = nightly(config(images, calibrated, out, night="2026-11-20")).summary
    night_of(drawn, images, 180, 210)
    night_of(drawn, images, 210, 240)  # the camera of the 21st was carried over; that night's job never ran
    second = nightly(config(images, calibrated, out, night="2026-11-22")).summary
    assert (first["images"], second["images"]) == (60, 60)
    assert set(first["runs"]).isdisjoint(second["runs"])
    late = nightly(config(images, calibrated, out, night="2026-11-20")).summary
    assert late["runs"] == first["runs"] and late["drift"] == first["drift"]


@pytest.mark.usefixtures("in_process")
def test_the_share_flagged_is_compared_with_the_ordinary_nights_before(
    drawn: Path, calibrated: Path, tmp_path: Path
) -> None:
    out, images = tmp_path / "out", tmp_path / "images"
    changes = {"drift_min_images": 20}
    shares = []
    for number, day in enumerate(("20", "21", "22", "23")):
        is_dark = day == "21"
        start = 120 + 30 * number
        night_of(drawn, images, start, start + 30, brightness=0.7 if is_dark else 1.0)
        settings = config(images, calibrated, out, night=f"2026-11-{day}", **changes)
        if is_dark:
            with pytest.raises(LimitBroken, match="darker"):
                nightly(settings)
        else:
            flagged = nightly(settings).summary["score"]["flagged"]
            shares.append(flagged / 30)
    for path in sorted((drawn / "crack").iterdir())[:30]:
        shutil.copy(path, images)
    summary = nightly(config(images, calibrated, out, night="2026-11-24", fail_on="alarm", **changes)).summary
    (found,) = [one for one in summary["drift"]["findings"] if (one["group"], one["what"]) == (ALL, "flagged")]
    assert summary["ordinary_nights_before"] == 3
    assert found["usual"] == pytest.approx(sorted(shares)[1], abs=1e-6)


@pytest.mark.usefixtures("in_process")
def test_while_another_run_holds_the_table_nothing_is_judged_or_written(
    drawn: Path, calibrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held(settings: object, night: str) -> Result:
        raise StorageError("is being written by another run")

    monkeypatch.setattr(module, "score_images", held)
    with pytest.raises(StorageError, match="another run"):
        nightly(config(drawn, calibrated, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("in_process")
def test_unreadable_files_break_both_limits_and_the_night_is_judged_all_the_same(
    drawn: Path, calibrated: Path, tmp_path: Path
) -> None:
    images = night_of(drawn, tmp_path / "night", 120, 240)
    for number in range(40):
        (images / f"broken-{number}.jpg").write_bytes(b"")
    with pytest.raises(LimitBroken, match=r"40 of 160 images are unreadable.*drift: alarm") as broken:
        nightly(config(images, calibrated, tmp_path / "out"))
    assert broken.value.outcome.summary["drift"]["causes"] == ["unreadable files"]
    assert broken.value.outcome.summary["drift"]["where"] == ALL


@pytest.mark.usefixtures("in_process")
def test_the_unreadable_share_of_a_night_too_small_for_a_verdict_is_exported(
    drawn: Path, calibrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, exported = night_of(drawn, tmp_path / "night", 120, 123), list[tuple[object, ...]]()
    (images / "broken.jpg").write_bytes(b"no image")
    monkeypatch.setattr(module, "emit_drift_metrics", lambda *values: exported.append(values))
    nightly(config(images, calibrated, tmp_path / "out", max_unreadable="100%"))
    assert exported == [(-1, {}, 0.25)]


@pytest.mark.usefixtures("in_process")
def test_unreadable_files_break_the_limit_of_a_night_until_they_can_be_read(
    drawn: Path, calibrated: Path, tmp_path: Path
) -> None:
    """Whether an earlier call has found them, and however many images of earlier nights lie beside them."""
    images, out = night_of(drawn, tmp_path / "images", 120, 160), tmp_path / "out"
    nightly(config(images, calibrated, out, night="2026-11-22"))
    files = [images / f"{number}.jpg" for number in range(2)]
    for file in files:
        file.write_bytes(b"an upload in progress")
    tonight = config(images, calibrated, out)
    for _ in range(2):  # the second call finds nothing to score
        with pytest.raises(LimitBroken, match="2 of 2 images are unreadable, more than --max-unreadable 10%") as broken:
            nightly(tonight)
        summary = broken.value.outcome.summary
        assert json.loads((out / "_nightly-2026-11-23.json").read_text()) == summary and len(summary["broken"]) == 1
    for file in files:
        shutil.copy(next(images.glob("*[!01].jpg")), file)
    summary = nightly(tonight).summary
    assert summary["score"]["scored"] == 2 and summary["broken"] == []


@pytest.mark.usefixtures("in_process")
def test_an_image_that_a_later_call_tries_again_counts_once(drawn: Path, calibrated: Path, tmp_path: Path) -> None:
    images, out = night_of(drawn, tmp_path / "night", 120, 200), tmp_path / "out"
    good = next(images.glob("*.jpg")).read_bytes()
    files = [images / f"{number}.jpg" for number in range(40)]
    for file in files:
        file.write_bytes(b"an upload in progress")
    settings = config(images, calibrated, out, no_report=True)
    with pytest.raises(LimitBroken, match=r"40 of 120 images are unreadable.*drift: alarm"):
        nightly(settings)
    for file in files[:39]:
        file.write_bytes(good)
    files[39].write_bytes(b"an upload that is damaged")
    compact(CompactConfig(scores=str(out), quiet=True))  # which may drop the rows of the first call
    summary = nightly(settings).summary
    assert (summary["images"], summary["score"]["scored"], summary["broken"]) == (120, 39, [])
    (whole,) = [one for one in summary["drift"]["findings"] if (one["what"], one["group"]) == ("unreadable", ALL)]
    assert whole["tonight"] == pytest.approx(1 / 120, abs=1e-6)
    assert {one["images"] for one in summary["drift"]["groups"] if one["group"] == ALL} == {120}


@pytest.mark.usefixtures("in_process")
def test_a_model_without_a_reference_is_refused_before_the_night(drawn: Path, model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="run crackvae calibrate"):
        nightly(config(drawn, model_dir, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("in_process")
def test_a_damaged_file_of_histograms_is_named(drawn: Path, calibrated: Path, tmp_path: Path) -> None:
    images = night_of(drawn, tmp_path / "night", 120, 180)
    run = nightly(config(images, calibrated, tmp_path / "out")).summary["runs"][0]
    (tmp_path / "out" / histograms_name(run, "2026-11-23")).write_text("{}")
    with pytest.raises(StorageError, match=histograms_name(run, "2026-11-23")):
        nightly(config(images, calibrated, tmp_path / "out"))


@pytest.mark.usefixtures("in_process")
def test_people_are_told_of_a_night_that_broke_a_limit_and_a_failure_to_tell_them_costs_nothing(
    drawn: Path, calibrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []

    def told_in_vain(text: str, *, webhook: bool, mail: object) -> dict[str, str]:
        told.append(text)
        return {"webhook": "Connection refused"} if webhook else {}

    monkeypatch.setattr(module, "notify", told_in_vain)
    images = night_of(drawn, tmp_path / "night", 120, 180)
    settings = config(images, calibrated, tmp_path / "out", webhook=True, min_images=1_000)
    with pytest.raises(LimitBroken, match="fewer than --min-images"):
        nightly(settings)
    assert told[0].startswith("crackvae, night of 2026-11-23: ") and "limit exceeded: 60 images were" in told[0]
    assert "webhook: the outcome of the night was not delivered: Connection refused" in capsys.readouterr().err


@pytest.mark.usefixtures("in_process")
def test_where_the_page_cannot_be_written_nothing_names_it_and_the_night_has_its_verdict(
    drawn: Path, calibrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_: object) -> None:
        raise ModelError("/models/site was altered.")

    monkeypatch.setattr(scoring_pages, "report", failing)
    images, out = night_of(drawn, tmp_path / "night", 120, 160), tmp_path / "out"
    summary = nightly(config(images, calibrated, out, no_report=False)).summary
    assert summary["report"] == summary["score"]["report"] == "" and "drift" not in summary["score"]
    assert json.loads((out / "_nightly-2026-11-23.json").read_text()) == summary
    (run,) = summary["runs"]
    of_run = json.loads((out / f"_summary-{run}.json").read_text())
    assert (of_run["report"], of_run["page_error"]) == ("", "/models/site was altered.")
    assert of_run["drift"]["verdict"] == summary["drift"]["level"]


@pytest.mark.usefixtures("in_process")
def test_a_shadow_model_scores_beside_and_the_flags_are_those_of_the_model_in_use(
    drawn: Path, calibrated: Path, tmp_path: Path
) -> None:
    images = night_of(drawn, tmp_path / "night", 120, 160)
    challenger = write_model(tmp_path / "challenger", small_spec(head="mse", seed=1), threshold=-1.0)
    plain = nightly(config(images, calibrated, tmp_path / "plain"))
    outcome = nightly(config(images, calibrated, tmp_path / "out", shadow_model=str(challenger)))
    shadow = outcome.summary["shadow"]
    assert outcome.summary["model"] != shadow["model"] and shadow["failed"] == ""
    assert shadow["scored"] == shadow["flagged"] == 40, "a threshold below every score"
    assert shadow["flagged_by_both"] == outcome.summary["score"]["flagged"] == plain.summary["score"]["flagged"]
    ours, theirs = read_rows(tmp_path / "out"), read_rows(tmp_path / "out" / "_shadow")
    for name in ("image", "score", "threshold", "flagged", "model"):
        assert ours[name].equals(read_rows(tmp_path / "plain")[name])
    assert set(theirs["model"].to_pylist()) == {shadow["model"]} and set(theirs["run"]) == set(ours["run"])
    assert theirs["image"].to_pylist() == ours["image"].to_pylist() and theirs["score"] != ours["score"]
    assert json.loads((tmp_path / "out" / "_nightly-2026-11-23.json").read_text()) == outcome.summary
    told = message_of(outcome.summary)
    assert outcome.summary["model"][:12] in told and f"{shadow['model'][:12]} would flag 40 of 40" in told


@pytest.mark.usefixtures("in_process")
def test_a_shadow_model_scores_the_whole_night_once_though_calls_were_killed_and_the_table_was_merged(
    drawn: Path, calibrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shadow_of(start: int, stop: int) -> dict[str, object]:
        images = night_of(drawn, tmp_path / "night", start, stop)
        summary = nightly(config(images, calibrated, tmp_path / "out", shadow_model=str(challenger))).summary
        assert json.loads((tmp_path / "out" / "_nightly-2026-11-23.json").read_text()) == summary
        return dict(summary["shadow"])

    challenger = write_model(tmp_path / "challenger", small_spec(head="mse", seed=1), threshold=-1.0)
    with monkeypatch.context() as patch:
        patch.setattr(module, "score_beside", raising(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            shadow_of(120, 130)
    first = shadow_of(130, 140)
    compact(CompactConfig(scores=str(tmp_path / "out"), quiet=True))
    assert (first["scored"], first["flagged"]) == (20, 20), "also the images of the killed call"
    assert shadow_of(140, 140) == first, "nothing was left to score"
    assert shadow_of(140, 150)["scored"] == 30
    scored = read_rows(tmp_path / "out" / "_shadow")["image"].to_pylist()
    assert len(scored) == len(set(scored)) == 30


@pytest.mark.usefixtures("in_process")
def test_a_failing_shadow_model_costs_the_night_nothing(
    drawn: Path, calibrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(shadow, "score_rows", broken)
    images = night_of(drawn, tmp_path / "night", 120, 160)
    outcome = nightly(config(images, calibrated, tmp_path / "out", shadow_model=str(calibrated)))
    assert outcome.summary["shadow"]["failed"] == "the disk is full" and outcome.summary["broken"] == []
    with pytest.raises(ModelError, match="nowhere"):
        nightly(config(images, calibrated, tmp_path / "out", shadow_model=str(tmp_path / "nowhere")))


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("stopped_in", ["score_beside", "time"])
def test_people_are_told_of_a_night_that_is_stopped_while_its_challenger_scores_or_prometheus_is_waited_for(
    drawn: Path,
    calibrated: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stopped_in: str,
) -> None:
    told: list[str] = []
    stop = raising(KeyboardInterrupt())
    monkeypatch.setattr(module, "notify", lambda text, **_: told.append(text) or {"webhook": ""})
    if stopped_in == "time":
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=time.perf_counter, sleep=stop))
    else:
        monkeypatch.setattr(module, stopped_in, stop)
    images = night_of(drawn, tmp_path / "night", 120, 140)
    settings = config(images, calibrated, tmp_path / "out", shadow_model=str(calibrated), webhook=True, linger=90)
    with pytest.raises(KeyboardInterrupt):
        nightly(settings)
    assert len(told) == 1 and "20 images scored" in told[0]
    assert '"event": "night ended"' in capsys.readouterr().err


@pytest.mark.usefixtures("in_process")
def test_a_night_keeps_the_model_that_was_current_when_it_began(
    drawn: Path, calibrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_model(tmp_path / "other", small_spec(head="mse", seed=9))
    site, real = str(tmp_path / "site"), module.score_images
    registry.promote_model(site, str(other), "anna", "first", {})
    registry.promote_model(site, str(calibrated), "anna", "better", {})

    def rolled_back(*arguments: object) -> object:
        registry.roll_back(site, "ben", "while the night starts")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "score_images", rolled_back)
    images = night_of(drawn, tmp_path / "night", 120, 240)
    summary = nightly(config(images, Path(site), tmp_path / "out")).summary
    assert summary["images"] == 120 and summary["model"] == load_model(str(calibrated)).digest
    assert set(read_rows(tmp_path / "out")["model"].to_pylist()) == {summary["model"]}
