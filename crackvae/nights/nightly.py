"""The verb `nightly`: score what is new, compare the night with the calibration, sum up, fail loudly."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd

from crackvae.config import NightlyConfig
from crackvae.console import say
from crackvae.errors import LimitBroken, ModelError
from crackvae.model import builtin
from crackvae.model.inference import Scorer, load_scorer
from crackvae.model.registry import model_folder
from crackvae.monitoring.comparisons import Limits
from crackvae.monitoring.drift import ALL
from crackvae.monitoring.histograms import NightHistograms, load_reference
from crackvae.monitoring.notifications import Mail, message_of, notify
from crackvae.monitoring.telemetry import emit_change_metrics, emit_drift_metrics, log_event
from crackvae.nights.changes import changes_of_night
from crackvae.nights.runs import Nights, default_night, nightly_name
from crackvae.nights.shadow import score_beside
from crackvae.nights.verdict import severity, verdict_on
from crackvae.results import Result
from crackvae.scoring.pages import write_page
from crackvae.scoring.summaries import write_summary
from crackvae.scoring.verb import ScoredRun, broken_limit, score_images
from crackvae.session import ray_session
from crackvae.storage import fileio, filesystems, uris
from crackvae.storage.tables import FAILED

LOGGED = ("listed", "scored", "unreadable", "unreachable", "flagged", "seconds", "images_per_s")


@filesystems.with_s3_endpoint
def nightly(config: NightlyConfig) -> Result:
    """Score what is new, then compare all images of this night, over all its runs, with the calibration.

    A second call for the same night scores what is left and gives a new verdict on the whole night. Images that no run
    of their night has scored belong to the next one. While another run holds `out`, score refuses, and so does this.

    Returns:
        Result with the tables of `score` and the table `drift`; also written as `_nightly-<night>.json`.

    Raises:
        LimitBroken: too many images have no score, too few were compared, or the drift is as bad as `fail_on`;
            everything is written all the same.
        CrackvaeError: as score does.
    """
    started = time.perf_counter()
    out, model_dir = uris.absolute(config.out), model_folder(config.model)
    config = replace(config, model=model_dir)  # of a registry the version that is current now, for the whole night
    begun = _begun(out, config)
    night, model = begun.night, begun.scorer.model.digest
    log_event("night started", night=night, images=list(config.images), out=out, model=model)
    with ray_session(config):  # one for all steps, so that Prometheus gets the verdict from the same process
        scored = score_images(config, night)
        run, counts = scored.summary.run, scored.summary.as_json()
        log_event("scored", run=run, night=night, **{name: counts[name] for name in LOGGED})
        tonight, late = _evaluated(begun, out, config)
        if scored.summary.report:
            scored = _with_page(scored, tonight.verdict, config)
        broken = _broken_limits(scored, tonight, late, config)
        changes = {} if config.no_changes else changes_of_night(out, tonight.all_runs, config)
        summary = _summary_of(scored, tonight, late, changes, broken)
        summary["seconds"] = round(time.perf_counter() - started, 1)
        for one in late:
            _write(out, one.night, one.as_json() | {"evaluated_with": night})
        _write(out, night, summary)
        shown = {name: tonight.verdict[name] for name in ("level", "where", "causes")}
        log_event("night ended", run=run, night=night, **shown, broken=broken, seconds=summary["seconds"])
        emit_change_metrics(changes)
        _emit(tonight)
        try:
            if begun.challenger:  # last, so that it takes nothing from the night
                runs = (*(one for one in tonight.runs if one != run), run)
                summary["shadow"] = score_beside(begun.challenger, model, runs, config).as_json()
                _write(out, night, summary)
                log_event("shadow scored", run=run, night=night, champion=model, **summary["shadow"])
        finally:  # also where the challenger was stopped
            _tell(summary, config)
        if config.linger:  # for a scrape by Prometheus: a process that has ended is not scraped
            say(f"wait {config.linger} s for Prometheus", quiet=config.quiet)
            time.sleep(config.linger)
    result = Result(summary, {**scored.result().tables, "drift": pd.DataFrame(tonight.verdict["findings"])})
    if broken:
        raise LimitBroken(f"{' '.join(broken)} All of {out} is written; docs/operate.md says what to do.", result)
    return result


@dataclass(frozen=True)
class _BegunNight:
    """A night before its images are scored.

    Attributes:
        night: its date.
        now: when this call began.
        reference: histograms of the calibration images.
        challenger: scores the night beside the model in use; None without --shadow-model.
    """

    night: str
    now: datetime
    scorer: Scorer
    reference: NightHistograms
    challenger: Scorer | None


def _begun(out: str, config: NightlyConfig) -> _BegunNight:
    """Load the models of a night and find its date.

    Raises:
        ModelError: a model is damaged, or has nothing to compare a night with.
    """
    now = datetime.now(ZoneInfo(config.time_zone))
    scorer = load_scorer(config.model)
    reference = load_reference(config.model, scorer.model.digest)
    if reference is None:
        raise ModelError(
            f"{config.model} has no histograms of its calibration images, as measured now, to compare a night with: "
            f"{builtin.calibrate_advice(config.model)}."
        )
    challenger = load_scorer(config.shadow_model) if config.shadow_model else None
    night = config.night or default_night(out, now)
    if not config.night and night != (today := now.date().isoformat()):
        why = (
            f"another night has the date {today}, more than 12 h away" if night > today else "it began before midnight"
        )
        say(f"{why}: this is the night of {night}", quiet=config.quiet)
    return _BegunNight(night, now, scorer, reference, challenger)


@dataclass(frozen=True)
class _EvaluatedNight:
    """A night and its verdict.

    Attributes:
        started: when the call that gave the verdict began.
        runs, skipped, not_compared: see runs.Counted.
        ordinary_before: number of ordinary nights that its share of flagged images was compared with.
        images, failed, compared: rows of its runs, those of each status in FAILED, and those with a score; an image
            without a score that several runs have tried counts once.
    """

    night: str
    started: datetime
    runs: tuple[str, ...]
    skipped: tuple[str, ...]
    not_compared: int
    ordinary_before: int
    images: int
    failed: dict[str, int]
    compared: int
    verdict: dict[str, Any]

    @property
    def all_runs(self) -> tuple[str, ...]:
        """Its runs, whatever calibration they were counted for."""
        return (*self.runs, *self.skipped)

    def as_json(self) -> dict[str, Any]:
        """The part of a `_nightly-<night>.json` that is about the verdict."""
        return {
            "verb": "nightly",
            "night": self.night,
            "started": self.started.isoformat(timespec="seconds"),
            "runs": list(self.runs),
            "runs_of_another_calibration": list(self.skipped),
            "images_of_another_calibration": self.not_compared,
            "ordinary_nights_before": self.ordinary_before,
            "images": self.images,
            "drift": self.verdict,
        }


def _summary_of(
    scored: ScoredRun,
    tonight: _EvaluatedNight,
    late: Sequence[_EvaluatedNight],
    changes: dict[str, Any],
    broken: list[str],
) -> dict[str, Any]:
    """The content of `_nightly-<night>.json`, apart from the duration and the scores of a challenger."""
    run, void = scored.summary, scored.summary.threshold_void
    return (
        ({"threshold_void": void.model_dump()} if void else {})
        | tonight.as_json()
        | {
            "report": run.report,
            "changes": changes,
            "out": run.out,
            "model": run.model,
            "nights_evaluated_late": [one.night for one in late],
            "score": run.model_copy(update={"drift": None}).as_json(),
            "broken": broken,
        }
    )


def _evaluated(begun: _BegunNight, out: str, config: NightlyConfig) -> tuple[_EvaluatedNight, list[_EvaluatedNight]]:
    """This night, and those that were scored before by a call that was killed."""
    nights = Nights(out, begun.reference, ZoneInfo(config.time_zone))
    late = [_evaluate(nights, one, begun, config) for one in nights.without_verdict() if one != begun.night]
    return _evaluate(nights, begun.night, begun, config), late


def _evaluate(nights: Nights, night: str, begun: _BegunNight, config: NightlyConfig) -> _EvaluatedNight:
    counted, history = nights.as_last_seen(nights.counted(night)), nights.ordinary_before(night)
    limits = Limits(
        psi=(config.drift_psi[0], config.drift_psi[1]),
        ks=(config.drift_ks[0], config.drift_ks[1]),
        unreadable=(config.drift_unreadable[0], config.drift_unreadable[1]),
        flagged=config.drift_flagged,
        min_images=config.drift_min_images,
    )
    compared_with = (history, begun.reference, begun.scorer.calibration, limits)
    verdict = verdict_on(counted.histograms, *compared_with, not_compared=counted.not_compared)
    if counted.not_compared:
        say(
            f"{counted.not_compared} images of the night of {night} were scored before the calibration of this model "
            "and are not compared: score them into another --out to judge them",
            quiet=False,
        )
    whole = counted.histograms.whole if counted.histograms else None
    failed = {name: whole.statuses.get(name, 0) if whole else 0 for name in FAILED}
    counts = (whole.images, failed, whole.scored) if whole else (0, failed, 0)
    runs = (counted.runs, counted.skipped, counted.not_compared)
    return _EvaluatedNight(night, begun.now, *runs, len(history), *counts, verdict)


def _broken_limits(
    scored: ScoredRun, tonight: _EvaluatedNight, late: Sequence[_EvaluatedNight], config: NightlyConfig
) -> list[str]:
    """What to say of each limit that is broken."""
    run, void = scored.summary, scored.summary.threshold_void
    lines = [void.reason if void else "", broken_limit(tonight.failed, tonight.images, config, run.out)]
    lines += [_broken_by_drift(one, tonight.night, config.fail_on) for one in (*late, tonight)]
    lines.append(_too_few(tonight, config.min_images))
    return [line for line in lines if line]


def _broken_by_drift(evaluated: _EvaluatedNight, tonight: str, fail_on: str) -> str:
    """What to say of a level that breaks the limit; "" where it does not."""
    level = evaluated.verdict["level"]
    if severity(level) < severity(fail_on):
        return ""
    causes = ", ".join(evaluated.verdict["causes"]) or "see the table drift"
    of_night = "" if evaluated.night == tonight else f" on the night of {evaluated.night}, evaluated late"
    return f"drift: {level} in {evaluated.verdict['where']}{of_night}: {causes}."


def _too_few(evaluated: _EvaluatedNight, min_images: int) -> str:
    """What to say of too few scored images; "" where there are enough."""
    if evaluated.compared >= min_images:
        return ""
    scored = f"{evaluated.compared} images were scored for the night of {evaluated.night}"
    return f"{scored}, fewer than --min-images {min_images}."


def _with_page(scored: ScoredRun, verdict: dict[str, Any], config: NightlyConfig) -> ScoredRun:
    """The run with the verdict in its summary, which is written, and with the page of both, if that can be written."""
    rows = [
        {"group": one["group"], "measure": one["what"], "value": one["tonight"], "usual": one["usual"]}
        | {"verdict": one["level"]}
        for one in verdict["findings"]
    ]
    drift = {"verdict": verdict["level"], "causes": verdict["causes"], "where": verdict["where"], "rows": rows}
    scored = replace(scored, summary=scored.summary.model_copy(update={"drift": drift}))
    write_summary(scored.summary)
    why_not = write_page(scored.summary, replace(config, quiet=True))
    return scored.without_page(why_not) if why_not else scored


def _write(out: str, night: str, summary: dict[str, Any]) -> None:
    fileio.write_bytes(uris.join(out, nightly_name(night)), json.dumps(summary, indent=1).encode())


def _tell(summary: dict[str, Any], config: NightlyConfig) -> None:
    """Send the outcome to people; that nobody could be told is said, and costs the night nothing."""
    mail = Mail(config.mail_server, config.mail_from, config.mail_to) if config.mail_to else None
    outcomes = notify(message_of(summary), webhook=config.webhook, mail=mail)
    for receiver, why_not in outcomes.items():
        log_event("told", night=summary["night"], receiver=receiver, failed=why_not)
        if why_not:
            say(f"{receiver}: the outcome of the night was not delivered: {why_not}", quiet=False)


def _emit(tonight: _EvaluatedNight) -> None:
    """Export the verdict, and the unreadable share of a night that is too small for one, to Prometheus."""
    whole = [one for one in tonight.verdict["findings"] if one["group"] == ALL]
    ks = {one["what"]: one["ks"] for one in whole if one["ks"] is not None}
    unreadable = tonight.failed["unreadable"] / max(1, tonight.images)
    emit_drift_metrics(severity(tonight.verdict["level"]), ks, unreadable)
