"""What a run tells those who watch it: histograms for drift in a file, and (on a cluster) metrics and log lines."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.util.metrics import Counter, Gauge

from crackvae.console import write
from crackvae.monitoring import histograms
from crackvae.monitoring.histograms import Night
from crackvae.storage import fileio, uris

T = TypeVar("T")


# Rows that are counted together: in blocks of 128 a row costs fifty times as much (docs/log.md, 2026-11-24).
COUNT_ROWS = 5_000


# Histograms are written anew when the last ones are this old [s], so a killed run leaves those of all but a minute.
WRITE_AGE_S = 60.0


def drift_name(run: str) -> str:
    """Name of the file of histograms of a run, beside its summary."""
    return f"_drift-{run}.json"


class RunHistograms:
    """Counts what a run measures and keeps `_drift-<run>.json` up to date. Leaving the block writes what is there."""

    def __init__(self, out: str, run: str, reference: Night | None) -> None:
        self.place, self.run, self.reference = uris.join(out, drift_name(run)), run, reference
        self._night: Night | None = None
        self._waiting: list[pa.Table] = []
        self._since = time.monotonic()

    def __enter__(self) -> "RunHistograms":
        return self

    def __exit__(self, *_: object) -> None:
        self._write()

    def add(self, rows: pa.Table) -> None:
        """Count MEASURED_SCHEMA rows; nothing is counted for a model without a reference to compare with."""
        if self.reference is None:
            return
        self._waiting.append(rows.select(["group", "status", "flagged", *self.reference.edges]))
        is_due = time.monotonic() - self._since > WRITE_AGE_S
        if is_due or sum(one.num_rows for one in self._waiting) >= COUNT_ROWS:
            self._count(self.reference)
        if is_due:
            self._write()

    def _count(self, reference: Night) -> None:
        counted = histograms.count(pa.concat_tables(self._waiting), reference.edges, reference.model)
        self._night = self._night + counted if self._night else counted
        self._waiting = []

    def _write(self) -> None:
        if self._waiting and self.reference:
            self._count(self.reference)
        if self._night:
            fileio.write_bytes(self.place, histograms.night_file(self._night, run=self.run))
        self._since = time.monotonic()


class RunMetrics:
    """What the driver tells Prometheus of a run: counts equal to the rows of the table. Ray puts `ray_` before names.

    Only a process that is connected to Ray has an agent to tell; elsewhere nothing happens.
    """

    def __init__(self, to_score: int) -> None:
        self._started = time.monotonic()
        self._n = 0
        self._to_score = to_score
        self._is_on = ray.is_initialized()
        if self._is_on:
            self._images = Counter("crackvae_images", "Images with a row in the table.", ("status",))
            self._flagged = Counter("crackvae_flagged", "Images over the threshold.")
            self._bytes = Counter("crackvae_bytes", "Bytes of the image files.")
            self._left = Gauge("crackvae_images_left", "Images of this run without a row yet.")
            self._rate = Gauge("crackvae_images_per_second", "Images a second since the run began.")
            self._left.set(to_score)
            self._retries = StorageRetries()

    def add(self, rows: pa.Table) -> None:
        """Count rows of the scores table."""
        if not self._is_on:
            return
        self._n += rows.num_rows
        for status, n in zip(*np.unique(rows["status"].to_numpy(), return_counts=True), strict=True):
            self._images.inc(int(n), {"status": str(status)})
        for counter, n in ((self._flagged, pc.sum(rows["flagged"])), (self._bytes, pc.sum(rows["bytes"]))):
            if n.as_py():  # Ray refuses to count nothing
                counter.inc(n.as_py())
        self._retries.tell()
        self._left.set(self._to_score - self._n)
        self._rate.set(self._n / max(1e-9, time.monotonic() - self._started))


class StorageRetries:
    """Tells Prometheus how often this process repeats calls to object storage, as `crackvae_storage_retries`."""

    def __init__(self) -> None:
        self._counter = Counter("crackvae_storage_retries", "Repeated calls to object storage.")
        self._told = uris.retries()

    def tell(self) -> None:
        """Add those since the last call."""
        new = uris.retries() - self._told
        if new:  # Ray refuses to count nothing
            self._counter.inc(new)
        self._told += new


class StageClock:
    """Seconds that an actor spends in each stage, as `crackvae_stage_seconds`."""

    def __init__(self) -> None:
        self._seconds = Counter("crackvae_stage_seconds", "Seconds of all actors in a stage.", ("stage",))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block."""
        started = time.monotonic()
        yield
        self._seconds.inc(max(1e-9, time.monotonic() - started), {"stage": name})

    def each(self, name: str, items: Iterator[T]) -> Iterator[T]:
        """Hand out items and add the time that making them takes, not the time that they are used."""
        while True:
            with self.stage(name):
                item = next(items, None)
            if item is None:
                return
            yield item


def tell_drift(level: int, ks: Mapping[str, float], unreadable: float) -> None:
    """Tell Prometheus the verdict on a night: 0 ok, 1 watch, 2 alarm; and what stands behind it."""
    if not ray.is_initialized():
        return
    Gauge("crackvae_drift_level", "Verdict on the night: 0 ok, 1 watch, 2 alarm.").set(level)
    distance = Gauge("crackvae_drift_ks", "Kolmogorov-Smirnov distance from the calibration.", ("measure",))
    for measure, value in ks.items():
        distance.set(value, {"measure": measure})
    Gauge("crackvae_unreadable_share", "Share of unreadable images of the night.").set(unreadable)


def log_event(event: str, **values: Any) -> None:
    """One line of JSON on standard error: when, what, and what about it; for a log collector, with the run's name."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    write(sys.stderr, json.dumps({"time": now, "event": event, **values}, default=str) + "\n")
