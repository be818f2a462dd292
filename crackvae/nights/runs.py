"""Which runs belong to which night, from the files beside a scores table. No Ray."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc

from crackvae.monitoring.drift import ORDINARY
from crackvae.monitoring.histograms import NightHistograms, load_histograms
from crackvae.scoring.summaries import NightSummary, read_night_summary
from crackvae.storage import fileio, tables, uris
from crackvae.storage.names.run_files import counted_runs, histograms_name
from crackvae.storage.names.shards import start_of
from crackvae.storage.tables import FAILED, RUN_TIME

# Ordinary nights whose share of flagged images is usual: two weeks have every weekday twice.
N_NIGHTS = 14
# A date whose verdict is this old is that of another night: a job at half past midnight has the same date
# in UTC twice where the clocks go forward.
SAME_NIGHT = timedelta(hours=12)
# What an image is known by, and what is listed of it.
KEY = ["image", "bytes", "modified"]
LISTED = [*KEY, "group"]
_NIGHT = re.compile(r"_nightly-(?P<night>.+)\.json")


def nightly_name(night: str) -> str:
    """Name of the file with the verdict on a night, beside the summaries of its runs."""
    return f"_nightly-{night}.json"


def default_night(out: str, now: datetime) -> str:
    """The date of `now`, or the next one that no call of `nightly` SAME_NIGHT or longer before or after `now` has.

    A call that was killed has left runs that carry the date, and no verdict: they are another night just the same.
    A night that began less than SAME_NIGHT ago, before midnight, goes on: with a date of its own, a second call in the
    morning would take that of the next night, and every later night would have the date of the day after it.
    """
    names = fileio.list_files(out)
    calls = _Calls(out, frozenset(names), counted_runs(names))
    date, before = now.date(), now.date() - timedelta(days=1)
    first = None if calls.last(date.isoformat()) else calls.first(before.isoformat())
    if first and first.astimezone(now.tzinfo).date() == before and now - first < SAME_NIGHT:
        return before.isoformat()
    while (last := calls.last(date.isoformat())) and abs(now - last) >= SAME_NIGHT:
        date += timedelta(days=1)
    return date.isoformat()


@dataclass(frozen=True)
class _Calls:
    """The calls of `nightly`, by the files of a folder of scores and the night of each of its runs."""

    out: str
    names: frozenset[str]
    night_of_run: Mapping[str, str]

    def first(self, night: str) -> datetime | None:
        """When the first call for a night started, as far as its runs and its verdict say."""
        return _start_of(min(self._runs(night), default="")) or self.last(night)

    def last(self, night: str) -> datetime | None:
        """When the last call for a night started; None if there was none, or its verdict does not say."""
        if nightly_name(night) in self.names:
            return read_night_summary(uris.join(self.out, nightly_name(night))).started
        return _start_of(max(self._runs(night), default=""))

    def _runs(self, night: str) -> list[str]:
        return [run for run, of_night in self.night_of_run.items() if of_night == night]


def _start_of(run: str) -> datetime | None:
    """When a run started; None if its name is not one of ours."""
    try:
        return datetime.strptime(start_of(run), RUN_TIME).replace(tzinfo=UTC)
    except ValueError:
        return None


@dataclass(frozen=True)
class Counted:
    """The histograms of a night.

    Attributes:
        histograms: of all its images; None where nothing was counted for this calibration.
        runs: those that they come from.
        skipped: its runs that were counted for another calibration, which cannot be compared.
        not_compared: number of their images that this model has scored, and will not score again.
    """

    histograms: NightHistograms | None
    runs: tuple[str, ...]
    skipped: tuple[str, ...]
    not_compared: int


class Nights:
    """The nights of a folder of scores. A night is a set of runs, whatever other nights there are.

    A run of `nightly` carries the name of its night in the name of its histograms. A run of `score` belongs to the
    night of the date on which it started, unless the verdict on another night names it.

    Args:
        reference: histograms of the calibration images.
        zone: of the date of a run of `score`.
    """

    def __init__(self, out: str, reference: NightHistograms, zone: ZoneInfo) -> None:
        self.out, self.reference, self.zone = out, reference, zone
        names = fileio.list_files(out)
        self.with_verdict = sorted(match["night"] for name in names if (match := _NIGHT.fullmatch(name)))
        self._night_of_run = counted_runs(names)

    def counted(self, night: str) -> Counted:
        """The histograms of all runs of a night."""
        return self._sum(self.runs_of(night))

    def runs_of(self, night: str) -> list[str]:
        """Names of the runs of a night that have counted images, earliest first."""
        named = self._read(night).all_runs() if night in self.with_verdict else set()
        stamped = {run for run, stamp in self._night_of_run.items() if stamp == night}
        dated = {run for run, stamp in self._night_of_run.items() if not stamp and self._date_of(run) == night}
        if dated - named:
            dated = dated.difference(*(self._read(other).all_runs() for other in self.with_verdict if other != night))
        return sorted((named | stamped | dated) & self._night_of_run.keys())

    def as_last_seen(self, counted: Counted) -> Counted:
        """A night in which an image without a score that a later run has tried again counts once, as that found it.

        Such an image has a row in the histograms of each run. It has no measures, so that only statuses change.
        """
        total = counted.histograms
        if total is None or len(counted.runs) < 2 or not any(total.whole.statuses.get(name) for name in FAILED):
            return counted
        rows = latest_rows(self.out, total.model, min(counted.runs))
        rows = rows.filter(pc.is_in(rows["run"], value_set=pa.array(counted.runs)))
        return replace(counted, histograms=total.with_failed(rows.select(["group", "status"])))

    def without_verdict(self) -> list[str]:
        """Nights of which `nightly` has scored images without coming to a verdict: it was killed."""
        return sorted({night for night in self._night_of_run.values() if night} - set(self.with_verdict))

    def ordinary_before(self, night: str) -> list[NightHistograms]:
        """The last earlier nights in which neither camera nor surface had changed, latest first."""
        ordinary: list[NightHistograms] = []
        for before in reversed([one for one in self.with_verdict if one < night]):
            if self._read(before).is_ordinary(ORDINARY):
                histograms = self.counted(before).histograms
                ordinary += [histograms] if histograms else []
            if len(ordinary) == N_NIGHTS:
                break
        return ordinary

    def _date_of(self, run: str) -> str:
        started = _start_of(run)
        return started.astimezone(self.zone).date().isoformat() if started else ""

    def _sum(self, runs: Iterable[str]) -> Counted:
        total, taken, skipped, not_compared = None, list[str](), list[str](), 0
        for run in runs:
            counted = load_histograms(uris.join(self.out, histograms_name(run, self._night_of_run[run])))
            if counted.same_edges(self.reference):
                total = total + counted if total else counted
                taken.append(run)
            else:
                skipped.append(run)
                not_compared += counted.whole.images if counted.model == self.reference.model else 0
        return Counted(total, tuple(taken), tuple(skipped), not_compared)

    def _read(self, night: str) -> NightSummary:
        return read_night_summary(uris.join(self.out, nightly_name(night)))


def latest_rows(folder: str, model: str, first: str) -> pa.Table:
    """The latest row by a model of each image, of the parts of a run and of later ones: a compaction is later."""
    paths = [path for run, parts in tables.list_parts(folder).items() if run >= first for path in parts]
    rows = tables.read_parts(paths, [*LISTED, "status", "model", "run", "flagged"])
    return tables.latest(rows.filter(pc.equal(rows["model"], model)))
