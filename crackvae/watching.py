"""What a run tells those who watch it: histograms for drift in a file, and (on a cluster) metrics and log lines."""

import json
import sys
import time
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from crackvae import histograms, storage
from crackvae.histograms import Night

# Histograms are written anew when the last ones are this old [s], so a killed run leaves those of all but a minute.
WRITE_AGE_S = 60.0


def drift_name(run: str) -> str:
    """Name of the file of histograms of a run, beside its summary."""
    return f"_drift-{run}.json"


class RunHistograms:
    """Counts what a run measures and keeps `_drift-<run>.json` up to date. Leaving the block writes what is there."""

    def __init__(self, out: str, run: str, reference: Night | None) -> None:
        self.place, self.run, self.reference = storage.join(out, drift_name(run)), run, reference
        self._night: Night | None = None
        self._since = time.monotonic()

    def __enter__(self) -> "RunHistograms":
        return self

    def __exit__(self, *_: object) -> None:
        self._write()

    def add(self, rows: pa.Table) -> None:
        """Count MEASURED_SCHEMA rows; nothing is counted for a model without a reference to compare with."""
        if self.reference is None:
            return
        counted = histograms.count(rows, self.reference.edges, self.reference.model)
        self._night = self._night + counted if self._night else counted
        if time.monotonic() - self._since > WRITE_AGE_S:
            self._write()

    def _write(self) -> None:
        if self._night:
            storage.write_bytes(self.place, histograms.night_file(self._night, run=self.run))
        self._since = time.monotonic()


def log_event(event: str, **values: Any) -> None:
    """One line of JSON on standard error: when, what, and what about it; for a log collector, with the run's name."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    print(json.dumps({"time": now, "event": event, **values}, default=str), file=sys.stderr, flush=True)
