"""One night with nobody watching: score what is new, compare it with the calibration, sum it up, fail loudly."""

import json
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from crackvae.config import NightlyConfig, ReportConfig, ScoreConfig
from crackvae.console import say
from crackvae.errors import LimitBroken, ModelError, StorageError
from crackvae.model.calibration import Calibration
from crackvae.model.inference import load_scorer
from crackvae.monitoring.comparisons import LEVELS, Limits
from crackvae.monitoring.drift import ALL, ORDINARY, Drift, compare
from crackvae.monitoring.histograms import NightHistograms, load_histograms, load_reference
from crackvae.monitoring.telemetry import drift_name, emit_drift_metrics, log_event
from crackvae.reports import nights, verb
from crackvae.results import Result
from crackvae.scoring.verb import score
from crackvae.session import ray_session
from crackvae.storage import fileio, filesystems, uris

# Groups named in the summary; a night of a thousand bridges would bury the first of them.
N_GROUPS = 20
# Ordinary nights that the share flagged is compared with: two weeks have every weekday twice.
N_NIGHTS = 14
LOGGED = ("listed", "scored", "unreadable", "unreachable", "flagged", "seconds", "images_per_s")
_NIGHT = re.compile(r"_nightly-(?P<night>.+)\.json")
_RUN = re.compile(re.escape(drift_name("@")).replace("@", r"(?P<run>.+)"))


@filesystems.with_s3_endpoint
def nightly(config: NightlyConfig) -> Result:
    """Score what is new, then judge all that this night has scored, in however many runs.

    A second call on the same night scores what is left and gives the verdict on the whole night again; a missed night's
    images belong to the next one. While another run holds `out`, score refuses, and so does this.

    Returns:
        Result with the tables of `score` and the table `drift`; also written as `_nightly-<night>.json`.

    Raises:
        LimitBroken: too many images have no score, or the drift is as bad as `fail_on`; all is written all the same.
        CrackvaeError: as score does.
    """
    started = time.perf_counter()
    night = config.night or datetime.now(UTC).date().isoformat()
    out, model_dir = uris.absolute(config.out), uris.absolute(config.model)
    scorer = load_scorer(model_dir)
    reference = load_reference(model_dir, scorer.model.digest)
    if reference is None:
        raise ModelError(
            f"{model_dir} remembers no calibration images, measured as they are now, to compare a night with: "
            f"run crackvae calibrate --model {model_dir}."
        )
    log_event("night started", night=night, images=config.images, out=out, model=scorer.model.digest)
    with ray_session(config):  # one for all steps, so that Prometheus hears the verdict from the same process
        scored, broken = _scored(config)
        run = scored.summary["run"]
        log_event("scored", run=run, night=night, **{name: scored.summary[name] for name in LOGGED})
        nights = _Nights(out, reference)
        counted, runs, skipped = nights.counted(night, run)
        history = nights.ordinary_before(night)
        judged = _judged(counted, history, reference, scorer.calibration, config)
        if LEVELS.index(judged["level"]) >= LEVELS.index(config.fail_on):
            causes = ", ".join(judged["causes"]) or "see the table drift"
            broken.append(f"drift: {judged['level']} in {judged['where']}: {causes}.")
        summary = {
            "verb": "nightly",
            "night": night,
            "report": "" if config.no_report else _page(out, run, judged, config),
            "out": out,
            "model": scorer.model.digest,
            "runs": runs,
            "runs_of_another_calibration": skipped,
            "ordinary_nights_before": len(history),
            "images": counted.whole.images if counted else 0,
            "score": scored.summary,
            "drift": judged,
            "broken": broken,
            "seconds": round(time.perf_counter() - started, 1),
        }
        fileio.write_bytes(uris.join(out, nightly_name(night)), json.dumps(summary, indent=1).encode())
        verdict = {name: judged[name] for name in ("level", "where", "causes")}
        log_event("night ended", run=run, night=night, **verdict, broken=broken, seconds=summary["seconds"])
        _tell(judged, config)
    outcome = Result(summary, {**scored.tables, "drift": pd.DataFrame(judged["findings"])})
    if broken:
        raise LimitBroken(f"{' '.join(broken)} All of {out} is written; docs/operate.md says what to do.", outcome)
    return outcome


def _scored(config: NightlyConfig) -> tuple[Result, list[str]]:
    """What score returns, and the limits that it broke."""
    try:
        values = {part.name: getattr(config, part.name) for part in fields(ScoreConfig)}
        return score(ScoreConfig(**values | {"no_report": True})), []  # the page waits for the verdict on drift
    except LimitBroken as error:
        return error.outcome, [str(error)]


def _page(out: str, run: str, judged: dict[str, Any], config: NightlyConfig) -> str:
    """Add the verdict on drift to the run's summary and write its page; "" where the run has no row to show."""
    if not nights.has_rows(out, run):
        return ""
    place = uris.join(out, f"_summary-{run}.json")
    rows = [
        {"group": one["group"], "measure": one["what"], "value": one["tonight"], "usual": one["usual"]}
        | {"verdict": one["level"]}
        for one in judged["findings"]
    ]
    drift = {"verdict": judged["level"], "causes": judged["causes"], "where": judged["where"], "rows": rows}
    summary = json.loads(fileio.read_bytes(place)) | {"drift": drift}
    fileio.write_bytes(place, json.dumps(summary, indent=1).encode())
    page = uris.join(out, verb.page_name(run))
    verb.report(ReportConfig(scores=out, run=run, out=page, model=config.model, quiet=config.quiet))
    return page


def _tell(judged: dict[str, Any], config: NightlyConfig) -> None:
    """Give Prometheus the verdict, and the time to ask for it: a process that has gone is no longer asked."""
    whole = [one for one in judged["findings"] if one["group"] == ALL]
    ks = {one["what"]: one["ks"] for one in whole if one["ks"] is not None}
    unreadable = [one["tonight"] for one in whole if one["what"] == "unreadable"]
    emit_drift_metrics(LEVELS.index(judged["level"]), ks, unreadable[0] if unreadable else 0.0)
    if config.linger:
        say(f"wait {config.linger} s for Prometheus", quiet=config.quiet)
        time.sleep(config.linger)


def nightly_name(night: str) -> str:
    """Name of the summary of a night, beside those of its runs."""
    return f"_nightly-{night}.json"


class _Nights:
    """What the files in `out` tell of nights: which runs belong to one, and which were ordinary."""

    def __init__(self, out: str, reference: NightHistograms) -> None:
        self.out, self.reference = out, reference
        names = fileio.list_files(out)
        self.nights = sorted(match["night"] for name in names if (match := _NIGHT.fullmatch(name)))
        self.runs = sorted(match["run"] for name in names if (match := _RUN.fullmatch(name)))

    def counted(self, night: str, run: str) -> tuple[NightHistograms | None, list[str], list[str]]:
        """The histograms of all runs of a night up to `run`, their names, and those that another calibration counted.

        A night owns the runs after the last one of the night before it; once a later night is judged it takes no more.
        """
        before, later = self._before(night), any(one > night for one in self.nights)
        after = max(self._runs_of(before[-1]), default="") if before else ""
        if later:
            run = max(self._runs_of(night), default="") if night in self.nights else after
        return self._sum([one for one in self.runs if after < one <= run])

    def ordinary_before(self, night: str) -> list[NightHistograms]:
        """The last nights before this one in which neither camera nor surface had changed, latest first."""
        ordinary: list[NightHistograms] = []
        for before in reversed(self._before(night)):
            groups = self._read(before)["drift"]["groups"]
            is_ordinary = bool(groups) and (groups[0]["level"] != "alarm" or ORDINARY.issuperset(groups[0]["causes"]))
            total = self._sum([one for one in self._runs_of(before) if one in self.runs])[0] if is_ordinary else None
            ordinary += [total] if total else []
            if len(ordinary) == N_NIGHTS:
                break
        return ordinary

    def _before(self, night: str) -> list[str]:
        return [one for one in self.nights if one < night]

    def _sum(self, runs: Iterable[str]) -> tuple[NightHistograms | None, list[str], list[str]]:
        total, taken, skipped = None, [], []
        for run in runs:
            counted = load_histograms(uris.join(self.out, drift_name(run)))
            if counted.same_edges(self.reference):
                total = total + counted if total else counted
                taken.append(run)
            else:
                skipped.append(run)
        return total, taken, skipped

    def _runs_of(self, night: str) -> list[str]:
        content = self._read(night)
        return [str(run) for run in (*content["runs"], *content["runs_of_another_calibration"])]

    def _read(self, night: str) -> dict[str, Any]:
        place = uris.join(self.out, nightly_name(night))
        try:
            content: dict[str, Any] = json.loads(fileio.read_bytes(place))
            [*content["runs"], *content["runs_of_another_calibration"], *content["drift"]["groups"]]
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(f"{place} is damaged ({error}): move it away and run again.") from error
        return content


def _judged(
    counted: NightHistograms | None,
    history: Sequence[NightHistograms],
    reference: NightHistograms,
    calibration: Calibration,
    config: NightlyConfig,
) -> dict[str, Any]:
    """The verdict on a night as JSON values: its level, where it is worst, the causes there, and what was found."""
    if counted is None:
        return {"level": "ok", "where": ALL, "causes": [], "groups": [], "too_few": 0, "findings": []}
    judged = compare(counted, reference, calibration, limits_of(config), history)
    order = {name: (-_severity(one), -one.images) for name, one in judged.items() if name != ALL}
    groups = sorted(order, key=order.__getitem__)
    worst = max([ALL, *groups], key=lambda name: _severity(judged[name]))
    shown = [ALL, *[name for name in groups if _severity(judged[name]) > 0][:N_GROUPS]]
    return {
        "level": LEVELS[max(0, _severity(judged[worst]))],
        "where": worst,
        "causes": list(judged[worst].causes),
        "groups": [
            {"group": name, "level": judged[name].level, "causes": list(judged[name].causes)}
            | {"images": judged[name].images, "own_reference": judged[name].own_reference}
            for name in shown
        ],
        "too_few": sum(one.level == "few" for one in judged.values()),
        "findings": [
            {"group": name, **{key: _json_value(value) for key, value in vars(comparison).items()}}
            for name in shown
            for comparison in judged[name].comparisons
        ],
    }


def _severity(drift: Drift) -> int:
    """Worker in LEVELS; -1 where there were too few images to tell."""
    return LEVELS.index(drift.level) if drift.level in LEVELS else -1


def _json_value(value: float | str) -> float | str | None:
    """JSON has no NaN; what does not apply is null."""
    return value if isinstance(value, str) else None if value != value else round(float(value), 6)


def limits_of(config: NightlyConfig) -> Limits:
    """The limits of drift among the settings of a night."""
    return Limits(
        psi=(config.drift_psi[0], config.drift_psi[1]),
        ks=(config.drift_ks[0], config.drift_ks[1]),
        unreadable=(config.drift_unreadable[0], config.drift_unreadable[1]),
        flagged=config.drift_flagged,
        min_images=config.drift_min_images,
    )
