"""The nights of a scores table as the server needs them: rendered pages, and the rows that may be judged."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar

from crackvae.errors import StorageError
from crackvae.reports.night_page.known import false_alarms
from crackvae.reports.night_page.night_page import night_page
from crackvae.reports.night_page.nights import NightResults, read_night, runs_in, runs_with_rows
from crackvae.reports.page import PageSettings
from crackvae.storage import fileio
from crackvae.storage.tables.verdicts import standing_in, with_standing

# A page takes up to 15 MB, and the rows of a night of 100,000 images about as much.
KEPT_NIGHTS = 4

Made = TypeVar("Made")


@dataclass(frozen=True)
class Row:
    """The model and the score that a reviewer sees beside an image, and those of its findings by their id."""

    model: str
    score: float
    findings: dict[str, float]


class _Kept(OrderedDict[Any, Any]):
    """The latest results of an expensive function, each computed once."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def get_or_make(self, key: Any, make: Callable[[], Made]) -> Made:
        with self.lock:
            if key not in self:
                self[key] = make()
                if len(self) > KEPT_NIGHTS:
                    self.popitem(last=False)
            self.move_to_end(key)
            made: Made = self[key]
            return made


class ServedNights:
    """Pages and rows of the nights in one folder; a run that has grown since is read again.

    Args:
        scores: folder of a scores table.
        settings: what a page shows.
    """

    def __init__(self, scores: str, settings: PageSettings) -> None:
        self.scores, self.settings = scores, settings
        self._nights, self._pages, self._rows, self._runs = _Kept(), _Kept(), _Kept(), _Kept()
        self._look_into = cache(runs_in)  # not again into every part of a table when a file has come

    def runs(self) -> dict[str, list[str]]:
        """The runs with rows, in order of time, and the parts that hold them; looked for again when files have come.

        Raises:
            StorageError: the folder holds no scores.
        """
        names = tuple(sorted(fileio.list_files(self.scores)))
        runs = self._runs.get_or_make(names, lambda: runs_with_rows(self.scores, self._look_into))
        if not runs:
            raise StorageError(f"{self.scores} holds no scores: name the folder that crackvae score wrote as --out.")
        return runs

    def _key(self, run: str) -> tuple[str, tuple[str, ...]]:
        """The name of a run, "" for the latest, and its parts."""
        runs = self.runs()
        run = run or max(runs)
        if run not in runs:
            raise StorageError(f"{self.scores} holds no run {run}.")
        return run, tuple(runs[run])

    def _night(self, key: tuple[str, tuple[str, ...]]) -> NightResults:
        return self._nights.get_or_make(key, lambda: read_night(self.scores, key[0]))

    def page(self, run: str) -> bytes:
        """The page of a night; rendered again when other nights have given other false alarms to compare with, and when
        reviewers call a finding of it otherwise.
        """
        key = self._key(run)
        standing = standing_in(self.scores)
        night = self._night(key)
        night = replace(night, standing=standing, findings=with_standing(night.findings, standing))
        known = tuple(one.id for one in false_alarms(night))
        verdicts = tuple(night.findings["verdict"].to_pylist())
        return self._pages.get_or_make((key, known, verdicts), lambda: night_page(night, self.settings).html)

    def rows(self, run: str) -> dict[str, Row]:
        """The scored images of a night."""
        key = self._key(run)
        return self._rows.get_or_make(key, lambda: _scored_rows(self._night(key)))


def _scored_rows(night: NightResults) -> dict[str, Row]:
    columns = ("image", "status", "model", "score")
    values = zip(*(night.rows[name].to_pylist() for name in columns), strict=True)
    rows = {image: Row(model, score, {}) for image, status, model, score in values if status == "scored"}
    for one in night.findings.select(["image", "finding", "score"]).to_pylist():
        if one["image"] in rows:
            rows[one["image"]].findings[one["finding"]] = one["score"]
    return rows
