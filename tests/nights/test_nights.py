"""Which images a night is judged by: its own and the ordinary nights before it, whatever other nights there are."""

import json
import shutil
from collections import deque
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import reduce
from operator import add
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crackvae.model.calibration import Calibration
from crackvae.monitoring.comparisons import Limits
from crackvae.monitoring.histograms import CAMERA_EDGES, NightHistograms, Tally, histograms_file
from crackvae.nights.runs import Nights, default_night, nightly_name
from crackvae.nights.verdict import NOTHING, severity, verdict_on
from crackvae.storage.names.run_files import histograms_name
from crackvae.storage.tables import RUN_TIME

UTC_ZONE = ZoneInfo("UTC")
SCORES_N = np.linspace(0.01, 1, 100, dtype=np.float32)
CALIBRATION = Calibration(SCORES_N, 100, "made up", float(SCORES_N[94]), "model", leaky=False)
EDGES = CAMERA_EDGES | {"score": np.unique(np.append(SCORES_N[::5], SCORES_N[94]).astype(np.float64))}
LIMITS = Limits(min_images=20)
USUAL = {"brightness": 128.0, "contrast": 0.2, "sharpness": 0.7}


def images(n: int, brightness: float = 128.0, unreachable: int = 0) -> NightHistograms:
    """Histograms of n sound images of one brightness, with scores like those of the calibration."""
    counts = {}
    for name, value in (USUAL | {"brightness": brightness}).items():
        counts[name] = np.bincount([np.searchsorted(EDGES[name], value)] * n, minlength=len(EDGES[name]) + 1)
    score_N = SCORES_N[np.linspace(0, 90, n).astype(int)]
    counts["score"] = np.bincount(np.searchsorted(EDGES["score"], score_N), minlength=len(EDGES["score"]) + 1)
    whole = Tally({"scored": n, "unreachable": unreachable}, 0, counts)
    return NightHistograms("model", EDGES, whole, {"bridge": whole})


REFERENCE = images(200)
# What a call of nightly finds: nothing new, a few images, an ordinary night, or a camera that has gone dark.
KINDS = {"none": 0, "few": 5, "ok": 60, "dark": 60}


class Folder:
    """The files that calls of nightly and score leave beside a table, without a pass of the network."""

    def __init__(self, path: Path) -> None:
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        self.path, self.calls = path, 0

    def score(self, kind: str, night: str = "") -> None:
        """A run that has scored new images."""
        self.calls += 1
        if KINDS[kind]:
            run = f"2026{self.calls:04d}T000000_000000"
            made = images(KINDS[kind], 90.0 if kind == "dark" else 128.0)
            (self.path / histograms_name(run, night)).write_bytes(histograms_file(made, run))

    def verdict(self, night: str) -> dict:
        """The verdict on a night, written as nightly writes it."""
        nights = Nights(str(self.path), REFERENCE, UTC_ZONE)
        counted = nights.counted(night)
        verdict = verdict_on(counted.histograms, nights.ordinary_before(night), REFERENCE, CALIBRATION, LIMITS)
        runs = {"runs": counted.runs, "runs_of_another_calibration": counted.skipped}
        (self.path / nightly_name(night)).write_text(json.dumps({"drift": verdict, **runs}))
        return verdict


CALENDARS = st.lists(st.tuples(st.dates(), st.sampled_from(list(KINDS))), min_size=1, max_size=8)


@pytest.mark.slow
@settings(
    derandomize=True,
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(CALENDARS, st.randoms(use_true_random=False))
def test_a_verdict_is_that_of_the_images_of_its_night_and_the_ordinary_nights_before(
    tmp_path: Path, calls: list[tuple[object, str]], random: object
) -> None:
    """Nights in any order, missing, repeated, in the past and in the future, with runs of score and empty ones."""
    folder = Folder(tmp_path / "out")
    kinds: dict[str, list[str]] = {}
    judged: dict[str, dict] = {}
    for date, kind in [*calls, *random.sample(calls, len(calls) // 2)]:
        night = date.isoformat()
        folder.score(kind, night)
        kinds.setdefault(night, []).append(kind)
        before = {other: text.read_text() for other in judged if (text := folder.path / nightly_name(other)).exists()}
        verdict = folder.verdict(night)
        own = [images(KINDS[one], 90.0 if one == "dark" else 128.0) for one in kinds[night] if KINDS[one]]
        ordinary = [other for other in sorted(judged, reverse=True) if other < night and is_ordinary(judged[other])]
        history = [
            reduce(add, [images(KINDS[one], 90.0 if one == "dark" else 128.0) for one in kinds[other] if KINDS[one]])
            for other in ordinary[:14]
        ]
        wanted = verdict_on(reduce(add, own) if own else None, history, REFERENCE, CALIBRATION, LIMITS)
        assert verdict == wanted
        assert (verdict["level"] in ("none", "few")) == (sum(KINDS[one] for one in kinds[night]) < LIMITS.min_images)
        judged[night] = verdict
        for other, text in before.items():
            assert other == night or (folder.path / nightly_name(other)).read_text() == text


def is_ordinary(verdict: dict) -> bool:
    whole = verdict["groups"][:1]
    return bool(whole) and (whole[0]["level"] != "alarm" or set(whole[0]["causes"]) <= {"more cracks", "fewer flagged"})


def test_nothing_and_too_few_are_levels_below_ok() -> None:
    assert NOTHING["level"] == "none" and severity("none") < severity("few") < severity("ok") == 0
    assert verdict_on(images(19), [], REFERENCE, CALIBRATION, LIMITS)["level"] == "few"
    assert verdict_on(images(60), [], REFERENCE, CALIBRATION, LIMITS)["level"] == "ok"
    of_storage = verdict_on(images(5, unreachable=80), [], REFERENCE, CALIBRATION, LIMITS)
    assert of_storage["level"] == "few", "80 images that storage did not give were compared with nothing"


@pytest.mark.parametrize(("model", "level"), [("model", "few"), ("another", "ok")])
def test_images_that_were_scored_before_the_calibration_are_not_called_ok(
    tmp_path: Path, model: str, level: str
) -> None:
    """Those of another model are: this one has scored them again."""
    before = replace(images(60, 90.0), edges=EDGES | {"score": np.array([0.1, 0.2])}, model=model)
    counts = before.whole.counts | {"score": np.zeros(3, np.int64)}
    before = replace(before, whole=replace(before.whole, counts=counts), groups={})
    for run, made in (("1", before), ("2", images(60))):
        (tmp_path / histograms_name(run, "2026-11-01")).write_bytes(histograms_file(made, run))
    found = Nights(str(tmp_path), REFERENCE, UTC_ZONE).counted("2026-11-01")
    assert (found.runs, found.skipped, found.not_compared) == (("2",), ("1",), 60 if level == "few" else 0)
    judged = verdict_on(found.histograms, [], REFERENCE, CALIBRATION, LIMITS, found.not_compared)
    assert judged["level"] == level
    alone = verdict_on(None, [], REFERENCE, CALIBRATION, LIMITS, found.not_compared)
    assert alone["level"] == ("few" if level == "few" else "none")
    dark = verdict_on(images(60, 90.0), [], REFERENCE, CALIBRATION, LIMITS, found.not_compared)
    assert dark["level"] == "alarm"


def test_a_run_of_score_belongs_to_the_night_of_its_date_in_the_time_zone(tmp_path: Path) -> None:
    (tmp_path / histograms_name("20270328T233000_000000")).write_bytes(histograms_file(images(60), "run"))
    assert Nights(str(tmp_path), REFERENCE, UTC_ZONE).runs_of("2027-03-28") == ["20270328T233000_000000"]
    london = Nights(str(tmp_path), REFERENCE, ZoneInfo("Europe/London"))
    assert (london.runs_of("2027-03-28"), london.runs_of("2027-03-29")) == ([], ["20270328T233000_000000"])


def test_a_run_that_another_verdict_names_is_not_counted_twice(tmp_path: Path) -> None:
    """Files of earlier versions name the runs of a night in its verdict alone."""
    run = "20261102T010000_000000"
    (tmp_path / histograms_name(run)).write_bytes(histograms_file(images(60), run))
    content = {"runs": [run], "runs_of_another_calibration": [], "drift": {"groups": []}}
    (tmp_path / nightly_name("2026-11-01")).write_text(json.dumps(content))
    nights = Nights(str(tmp_path), REFERENCE, UTC_ZONE)
    assert nights.runs_of("2026-11-01") == [run] and nights.runs_of("2026-11-02") == []


def test_a_night_that_was_scored_and_never_judged_is_known(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "out")
    folder.score("ok", "2026-11-01")
    folder.score("ok")
    folder.score("dark", "2026-11-02")
    folder.verdict("2026-11-02")
    assert Nights(str(folder.path), REFERENCE, UTC_ZONE).without_verdict() == ["2026-11-01"]


@pytest.mark.parametrize("zone", ["UTC", "Europe/London", "Pacific/Auckland", "America/St_Johns"])
@pytest.mark.parametrize("local", ["00:00", "00:30", "06:00", "12:30", "23:30"])
def test_a_job_at_one_local_time_gets_a_night_of_its_own_each_day_of_two_years(
    tmp_path: Path, zone: str, local: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not the time zone is set: the clocks go forward and back, and in UTC a date comes twice or never.

    The folder holds the verdicts of the last two weeks.
    """
    for setting in (zone, "UTC"):
        started: dict[str, datetime] = {}
        kept: deque[str] = deque(maxlen=14)
        monkeypatch.setattr("crackvae.nights.runs.fileio.list_files", lambda out, k=kept: list(k))
        monkeypatch.setattr(
            "crackvae.nights.runs.read_night_summary",
            lambda path, s=started: type("Read", (), {"started": s[path[-15:-5]]}),
        )
        hour, minute = map(int, local.split(":"))
        for day in range(730):
            date = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=day)
            now = datetime(date.year, date.month, date.day, hour, minute, tzinfo=ZoneInfo(zone)).astimezone(
                ZoneInfo(setting)
            )
            night = default_night("out", now)
            assert night not in started and all(one < night for one in list(started)[-1:])
            started[night] = now
            kept.append(nightly_name(night))
            again = now + timedelta(hours=3)
            assert default_night("out", again) == night or again.date().isoformat() > night


@pytest.mark.parametrize(
    ("last", "night"),
    [
        (datetime(2027, 3, 28, 0, 30, tzinfo=UTC), "2027-03-29"),  # 23 h before: the clocks went forward
        (datetime(2027, 3, 28, 22, 0, tzinfo=UTC), "2027-03-28"),  # killed an hour and a half ago, and called again
        (datetime(2027, 3, 29, 20, 0, tzinfo=UTC), "2027-03-29"),  # the clock was set back since
    ],
)
@pytest.mark.parametrize("was_killed", [False, True])
def test_a_date_that_an_earlier_call_has_used_is_another_night_though_the_call_was_killed(
    tmp_path: Path, last: datetime, night: str, was_killed: bool
) -> None:
    run = last.strftime(RUN_TIME)
    (tmp_path / histograms_name(run, "2027-03-28")).write_bytes(histograms_file(images(24), run))
    if not was_killed:
        verdict = {"started": last.isoformat(), "runs": [run], "runs_of_another_calibration": []}
        (tmp_path / nightly_name("2027-03-28")).write_text(json.dumps(verdict | {"drift": NOTHING}))
    assert default_night(str(tmp_path), datetime(2027, 3, 28, 23, 30, tzinfo=UTC)) == night


@pytest.mark.parametrize("was_killed", [False, True])
def test_a_call_in_the_morning_goes_on_with_the_night_and_shifts_no_later_one(tmp_path: Path, was_killed: bool) -> None:
    def call(day: int, hour: int, *, is_killed: bool = False) -> str:
        now = datetime(2026, 11, day, hour, tzinfo=UTC)
        night, run = default_night(str(tmp_path), now), now.strftime(RUN_TIME)
        (tmp_path / histograms_name(run, night)).write_bytes(histograms_file(images(24), run))
        if not is_killed:
            verdict = {"started": now.isoformat(), "runs": [run], "runs_of_another_calibration": [], "drift": NOTHING}
            (tmp_path / nightly_name(night)).write_text(json.dumps(verdict))
        return night

    assert [call(20, 22), call(21, 22, is_killed=was_killed)] == ["2026-11-20", "2026-11-21"]
    assert [call(22, 6), call(22, 9)] == ["2026-11-21", "2026-11-21"], "the night that began at ten"
    assert [call(22, 22), call(23, 22)] == ["2026-11-22", "2026-11-23"]


def test_of_calls_in_every_hour_each_date_has_those_of_its_day(tmp_path: Path) -> None:
    for hour in range(48):
        now = datetime(2026, 11, 20, tzinfo=UTC) + timedelta(hours=hour)
        night = default_night(str(tmp_path), now)
        assert night == now.date().isoformat()
        (tmp_path / histograms_name(now.strftime(RUN_TIME), night)).write_bytes(b"")
