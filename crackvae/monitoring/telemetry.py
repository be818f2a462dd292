"""Telemetry of a run: a file of histograms for drift and, on a cluster, Prometheus metrics and log lines."""

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

from crackvae.console import write
from crackvae.monitoring import histograms
from crackvae.monitoring.histograms import NightHistograms
from crackvae.storage import fileio, filesystems, uris
from crackvae.storage.names.run_files import histograms_name

T = TypeVar("T")

# Rows counted together: in blocks of 128, a row costs fifty times as much (docs/log.md, 2026-11-24).
COUNT_ROWS = 5_000

# What may have become of a finding; as in the summary of a comparison.
CHANGE_STATUSES = ("new", "grown", "static", "gone", "not_seen", "unmatched")

# Interval between writes of the histograms [s]: a killed run loses at most the counts of the last minute.
WRITE_AGE_S = 60.0


def is_on_ray() -> bool:
    """Whether this process is connected to Ray; one that has not imported it is not."""
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


class RunHistograms:
    """Counts the measures of a run and keeps its `_drift-` file up to date; also written on leaving the context."""

    def __init__(self, out: str, run: str, reference: NightHistograms | None, night: str = "") -> None:
        self.uri, self.run, self.reference = uris.join(out, histograms_name(run, night)), run, reference
        self._night: NightHistograms | None = None
        self._waiting: list[pa.Table] = []
        self._since = time.monotonic()

    def __enter__(self) -> "RunHistograms":
        return self

    def __exit__(self, *_: object) -> None:
        self._write()

    def add(self, rows: pa.Table) -> None:
        """Count MEASURED_SCHEMA rows; without a reference to compare with, nothing is counted."""
        if self.reference is None:
            return
        self._waiting.append(rows.select(["group", "camera", "status", "flagged", *self.reference.edges]))
        is_due = time.monotonic() - self._since > WRITE_AGE_S
        if is_due or sum(one.num_rows for one in self._waiting) >= COUNT_ROWS:
            self._count(self.reference)
        if is_due:
            self._write()

    def _count(self, reference: NightHistograms) -> None:
        counted = histograms.count(pa.concat_tables(self._waiting), reference.edges, reference.model)
        self._night = self._night + counted if self._night else counted
        self._waiting = []

    def _write(self) -> None:
        if self._waiting and self.reference:
            self._count(self.reference)
        if self._night:
            fileio.write_bytes(self.uri, histograms.histograms_file(self._night, run=self.run))
        self._since = time.monotonic()


class RunMetrics:
    """Prometheus metrics of a run, equal to the rows of its table. Ray prefixes the names with `ray_`.

    Metrics are exported only by a process that is connected to Ray; elsewhere calls have no effect.
    """

    def __init__(self, to_score: int) -> None:
        self._started = time.monotonic()
        self._n = 0
        self._to_score = to_score
        self._is_on = is_on_ray()
        if self._is_on:
            from ray.util.metrics import Counter, Gauge

            self._images = Counter("crackvae_images", "Images with a row in the table.", ("status",))
            self._flagged = Counter(
                "crackvae_flagged", "Flagged images: score above the threshold and p-value low enough."
            )
            self._bytes = Counter("crackvae_bytes", "Bytes of the image files.")
            self._left = Gauge("crackvae_images_left", "Images of this run without a row yet.")
            self._rate = Gauge("crackvae_images_per_second", "Images per second since the start of the run.")
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
            if n.as_py():  # Ray refuses increments of 0
                counter.inc(n.as_py())
        self._retries.emit()
        self._left.set(self._to_score - self._n)
        self._rate.set(self._n / max(1e-9, time.monotonic() - self._started))


class StorageRetries:
    """Exports how often this process retries calls to object storage, as `crackvae_storage_retries`."""

    def __init__(self) -> None:
        from ray.util.metrics import Counter

        self._counter = Counter("crackvae_storage_retries", "Retried calls to object storage.")
        self._reported = filesystems.retries()

    def emit(self) -> None:
        """Add the retries since the last call."""
        new = filesystems.retries() - self._reported
        if new:  # Ray refuses increments of 0
            self._counter.inc(new)
        self._reported += new


class StageClock:
    """Exports the seconds that an actor spends in each stage, as `crackvae_stage_seconds`."""

    def __init__(self) -> None:
        from ray.util.metrics import Counter

        self._seconds = Counter("crackvae_stage_seconds", "Seconds of all actors in a stage.", ("stage",))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the duration of the context."""
        started = time.monotonic()
        yield
        self._seconds.inc(max(1e-9, time.monotonic() - started), {"stage": name})

    def each(self, name: str, items: Iterator[T]) -> Iterator[T]:
        """Yield the items and add the time that producing them takes, without the time of their consumer."""
        while True:
            with self.stage(name):
                item = next(items, None)
            if item is None:
                return
            yield item


def emit_drift_metrics(level: int, ks: Mapping[str, float], unreadable: float) -> None:
    """Export the drift level of a night (-2 none to 2 alarm), distances by measure and the unreadable share."""
    if not is_on_ray():
        return
    from ray.util.metrics import Gauge

    Gauge("crackvae_drift_level", "Drift of the night: -2 no images, -1 too few, 0 ok, 1 watch, 2 alarm.").set(level)
    distance = Gauge("crackvae_drift_ks", "Kolmogorov-Smirnov distance from the calibration.", ("measure",))
    for measure, value in ks.items():
        distance.set(value, {"measure": measure})
    Gauge("crackvae_unreadable_share", "Share of unreadable images of the night.").set(unreadable)


def emit_change_metrics(changes: Mapping[str, Any]) -> None:
    """Export the findings of a night by what became of them since the visit before, as `crackvae_changes`.

    Args:
        changes: summary of the comparison; without one nothing is exported.
    """
    if not is_on_ray() or "new" not in changes:
        return
    from ray.util.metrics import Gauge

    findings = Gauge("crackvae_changes", "Findings of the night by change since the visit before.", ("status",))
    for status in CHANGE_STATUSES:
        findings.set(changes[status], {"status": status})


def log_event(event: str, **values: Any) -> None:
    """Write one line of JSON to standard error for log collectors: time, event and values such as the run."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    write(sys.stderr, json.dumps({"time": now, "event": event, **values}, default=str) + "\n")
