"""The verb `live`: receive, score, save what is flagged, write rows in parts, and show a status page. No Ray."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa

from crackvae.config import LiveConfig
from crackvae.console import say
from crackvae.errors import ConfigError
from crackvae.model.inference import Scorer, load_scorer
from crackvae.model.registry import model_folder
from crackvae.model.runtime import release_memory
from crackvae.reports.matplotlib_folder import matplotlib_folder
from crackvae.results import Result
from crackvae.scoring.compaction import finish_compaction
from crackvae.scoring.run_table import RunTable
from crackvae.scoring.summaries import ScoreSummary, run_figures, write_summary
from crackvae.storage import fileio, filesystems, tables, uris
from crackvae.storage.lock import Lock, locked
from crackvae.streaming.arrivals import Arrival
from crackvae.streaming.folder import Folder, is_inside
from crackvae.streaming.streams import Camera, require_camera


class LiveSummary(ScoreSummary):
    """What `live` prints last and writes as `_summary-<run>.json`.

    Attributes:
        received: frames or files that came.
        dropped: frames that a newer one replaced while another was scored, or that came too late to be decoded.
        damaged: packets or frames of the stream that could not be decoded.
        latency_ms, latency_max_ms: from arrival to score and saved frame, median and maximum of the last images.
    """

    verb: str = "live"
    received: int
    dropped: int
    reconnects: int
    damaged: int
    latency_ms: float | None
    latency_max_ms: float | None


@filesystems.with_s3_endpoint
def live(config: LiveConfig) -> Result:
    """Score a source until it is stopped or `seconds` have passed; every scored image has a row.

    Returns:
        Result with the table `most suspicious`.

    Raises:
        FolderInUse: another run writes into `out`.
        ConfigError, StorageError, ModelError: the message says how to fix it.
    """
    started = time.perf_counter()
    out, model_dir = uris.absolute(config.out), model_folder(config.model)
    scorer = load_scorer(model_dir)
    fileio.require_outside_table(out, "--out")
    fileio.require_writable(out)
    run = tables.new_run(tables.list_parts(out))
    with matplotlib_folder(out), locked(out, run, quiet=config.quiet) as lock:
        finish_compaction(out)
        work = LiveRun(_source(config, out, scorer), scorer, lock, run)
        work.serve(config)
        summary = work.summary(model_dir, time.perf_counter() - started)
        write_summary(summary)
    return Result(summary.as_json(), {"most suspicious": work.table.worst})


def _source(config: LiveConfig, out: str, scorer: Scorer) -> Camera | Folder:
    if "://" in config.source or config.source.startswith("/dev/"):
        require_camera(config.source)
        with uris.storage_errors("open", "the source"):
            return Camera(config.source, out, config.every or 0.0, quiet=config.quiet)
    source = uris.absolute(config.source)
    if not fileio.is_folder(source):
        raise ConfigError(f"source={source} is no folder, no /dev/videoN and no address such as rtsp://HOST/PATH.")
    if is_inside(out, source):
        raise ConfigError(f"--out {out} lies in the source, so its maps would arrive as images: choose another --out.")
    return Folder(source, out, scorer, quiet=config.quiet)


class LiveRun:
    """One run of live scoring.

    Attributes:
        table: the rows; from when a file is replaced by another of its name, as those of a further run.
    """

    def __init__(self, source: Camera | Folder, scorer: Scorer, lock: Lock, run: str) -> None:
        from crackvae.streaming.scorer import LiveScorer  # these two import Matplotlib
        from crackvae.streaming.status import Status

        calibration = scorer.calibration
        tiles = calibration.scores_N if calibration.sample is None else calibration.sample.tile_scores_M
        self.source, self.scorer, self.lock = source, scorer, lock
        self.out, self.stop = lock.folder, threading.Event()
        self.live_scorer = LiveScorer(scorer, run, self.out, source.shown)
        self.status = Status(source, float(np.median(tiles)), calibration.threshold)
        self.table = RunTable(self.out, run)

    def serve(self, config: LiveConfig) -> None:
        """Score in a thread, while the main thread waits for a signal; no image that was begun is left without a row.

        Raises:
            ConfigError: the port is in use.
            FolderInUse, StorageError: rows or pictures cannot be written.
        """
        from crackvae.streaming.status import served

        with served(self.status, config.port) as address, ThreadPoolExecutor(1) as pool:
            say(f"scoring {self.source.shown}; stop with Ctrl-C", quiet=config.quiet)
            say(f"status page: {address}", quiet=False)
            done = pool.submit(self._work)
            try:
                with suppress(KeyboardInterrupt):  # the ordinary end
                    wait([done], config.seconds)
            finally:
                self.stop.set()
            done.result()

    def _work(self) -> None:
        try:
            for arrival in self.source.arrivals(self.scorer.model.spec, self.stop):
                self.lock.check()
                if arrival:
                    self._score(arrival)
                self.table.write_if_due()
        finally:
            self.table.write()

    def _score(self, arrival: Arrival) -> None:
        if arrival.is_again:
            self.table.begin(tables.new_run([self.table.run]))
            self.live_scorer.begin(self.table.run)
        decoded = pa.concat_tables(arrival.decoded)
        rows = self.live_scorer.rows(decoded)
        (row,) = rows.select(tables.SCORES_SCHEMA.names).to_pylist()
        if row["flagged"]:
            self.live_scorer.save_frame(arrival)
        self.status.add(arrival, row)  # what follows delays no frame: the next one to be scored is the newest then
        self.table.add(self.live_scorer.traced(rows, decoded))
        if row["flagged"]:
            self.status.add_map(self.live_scorer.map_of(arrival, row))
            release_memory()  # the allocator kept up to 200 MB of the buffers of traces and maps

    def summary(self, model_dir: str, seconds: float) -> LiveSummary:
        """The summary of the run; its rows are written."""
        shown: dict[str, Any] = self.status.as_json()
        return LiveSummary(
            **run_figures(self.table, self.scorer, model_dir, seconds),
            **self.source.counts(),
            images=self.source.shown,
            listed=self.table.n,
            finished_before=0,
            skipped_files=0,
            latency_ms=shown["latency_ms"],
            latency_max_ms=shown["latency_max_ms"],
            rows_with_an_older_threshold=0,
            csv=[],
            report="",
        )
