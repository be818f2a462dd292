"""[Ray Data] The verb `score`: list, subtract what is finished, score, write rows, sum up; then write the page."""

import hashlib
import math
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from crackvae.config import ScoreConfig, limit_of, shard_numbers, time_of, width_limits_of
from crackvae.console import progress, say
from crackvae.errors import LimitBroken, StorageError
from crackvae.images.decoding.video import with_frames
from crackvae.images.decoding.windows import with_windows
from crackvae.images.groups import with_groups
from crackvae.metrics import false_discovery_rates, fewest_discoveries
from crackvae.model.inference import Scorer, load_scorer
from crackvae.model.registry import model_folder
from crackvae.model.runtime import release_memory
from crackvae.model.screen import MAX_AGAIN
from crackvae.monitoring.histograms import load_reference
from crackvae.monitoring.telemetry import RunHistograms, RunMetrics
from crackvae.reports.night_page.nights import has_rows
from crackvae.results import Result
from crackvae.scoring.actors import score_rows, scoring_session, screens
from crackvae.scoring.compaction import finish_compaction
from crackvae.scoring.findings import Tracing
from crackvae.scoring.pages import page_path, write_page
from crackvae.scoring.run_table import RunTable, finished_rows, still_to_score, write_missing_csvs
from crackvae.scoring.summaries import (
    ROW_SETTINGS,
    ScoreSummary,
    changed_settings,
    images_with_a_valid_threshold,
    run_figures,
    share_scored_again,
    write_summary,
)
from crackvae.scoring.threshold_check import ENOUGH_IMAGES, ThresholdCheck
from crackvae.storage import fileio, filesystems, tables, uris
from crackvae.storage.listing import Listing, excerpts_of_prefix, list_paths
from crackvae.storage.lock import Lock, locked
from crackvae.storage.names.shards import Shard
from crackvae.storage.tables import new_run
from crackvae.tracing.scale import Scales, scales_from_csv


@filesystems.with_s3_endpoint
def score(config: ScoreConfig) -> Result:
    """Score every image at a path or URI that this model has not finished; add the rows to the table in `out`.

    Returns:
        Result with the table `most suspicious` of this run.

    Raises:
        LimitBroken: too many images were unreadable or unreachable; the table is complete all the same.
        FolderInUse: another run writes into `out`.
        StorageError, ArchiveError, ModelError, ManifestError, ClusterError: the message says how to fix it.
    """
    run = score_images(config)
    if run.summary.report:
        release_memory()  # the page of a million images needs as much memory as scoring them did
        why_not = write_page(run.summary, config)
        run = run.without_page(why_not) if why_not else run
    if run.broken_limit:
        raise LimitBroken(run.broken_limit, run.result())
    return run.result()


@dataclass(frozen=True)
class ScoredRun:
    """What one run of score has done; its rows and its summary are written.

    Attributes:
        summary: also in `_summary-<run>.json`.
        worst: the most suspicious images of this run.
        broken_limit: the message of a broken limit, or "".
    """

    summary: ScoreSummary
    worst: pd.DataFrame
    broken_limit: str

    def without_page(self, why_not: str) -> "ScoredRun":
        """This run where its page could not be written; its summary is written again to say so."""
        summary = self.summary.model_copy(update={"report": "", "page_error": why_not})
        write_summary(summary)
        return replace(self, summary=summary)

    def result(self) -> Result:
        """The summary and the table to print."""
        title = f"most suspicious{' (leaky model)' if self.summary.leaky else ''}"
        return Result(self.summary.as_json(), {title: self.worst})


def score_images(config: ScoreConfig, night: str = "") -> ScoredRun:
    """score() without the page, and without raising for a broken limit.

    Args:
        night: that the run belongs to, for nightly().
    """
    started = time.perf_counter()
    out, model_dir = uris.absolute(config.out), model_folder(config.model)
    scorer = load_scorer(model_dir)
    with ExitStack() as stack:
        config = _without_useless_screen(config, out, scorer)
        work = _start(config, out, scorer, stack)
        table, check = RunTable(out, work.run), ThresholdCheck(scorer.calibration, model_dir)
        if work.to_score:
            histograms = RunHistograms(out, work.run, load_reference(model_dir, scorer.model.digest), night)
            _write_rows(work, table, histograms, check, quiet=config.quiet)
        assert table.n == work.to_score, f"{work.to_score} images went in, {table.n} rows came out"
        csv = write_missing_csvs(out, work.run) if "csv" in config.format else []
        discoveries = _write_discoveries(out, work, scorer, config.max_false_discovery)
        of_model = scorer.model.digest, scorer.calibration.threshold
        changed = changed_settings(out, work.notes["settings"], *of_model) if work.to_score < work.listed else []
        valid_on = images_with_a_valid_threshold(out, *of_model)
        void = None if valid_on >= ENOUGH_IMAGES else check.result()  # later changes are what nightly looks for
        summary = ScoreSummary(
            **run_figures(table, scorer, model_dir, time.perf_counter() - started),
            **work.notes,
            **discoveries,
            threshold_void=void,
            listed=work.listed,
            finished_before=work.listed - work.to_score,
            unreadable_before=work.unreadable_before,
            threshold_images=valid_on if valid_on >= ENOUGH_IMAGES else check.images,
            screened=table.screened if table.screened["tiles"] else None,
            csv=csv,
            report=_page_of(config, out, work.run),
        )
        write_summary(summary)
    untold = "" if valid_on >= ENOUGH_IMAGES else check.untold(summary.scored)
    _say_outcome(summary, changed, void.reason if void else untold, config)
    # Files that an earlier run found unreadable and that are still listed: without them any second call would succeed.
    without_score = table.statuses + Counter(unreadable=work.unreadable_before)
    return ScoredRun(summary, table.worst, broken_limit(without_score, summary.listed, config, out))


def _say_outcome(summary: ScoreSummary, changed: list[str], threshold_warning: str, config: ScoreConfig) -> None:
    """Say what the figures of a run do not: settings that old rows lack, a doubtful threshold, and what is left."""
    if changed:
        say(
            f"{', '.join(changed)} changed since the last run, and {summary.finished_before} finished images "
            "keep their rows: choose another --out to apply it to them",
            quiet=config.quiet,
        )
    if threshold_warning:
        say(threshold_warning, quiet=False)
    if not summary.listed:
        say(f"nothing to score: no image belongs to shard {config.shard}", quiet=config.quiet)
    elif summary.finished_before == summary.listed:
        say(f"nothing to score: this model has finished all {summary.listed} images", quiet=config.quiet)
    if config.shard:
        say(
            f"shard {config.shard} has ended; after all of them: crackvae report --scores {summary.out} --out "
            "PAGE.html",
            quiet=config.quiet,
        )


def _without_useless_screen(config: ScoreConfig, out: str, scorer: Scorer) -> ScoreConfig:
    """The settings without a screen that left most tiles of the last night to float32, unless it is asked for."""
    if config.precision != "auto" or not screens(config, scorer):
        return config
    share = share_scored_again(out, scorer.model.digest, scorer.calibration.threshold)
    if share <= MAX_AGAIN:
        return config
    say(
        f"precision: {share:.0%} of the last run's tiles were scored twice: float32 scores all of them once now",
        quiet=config.quiet,
    )
    return replace(config, precision="onnx")


@dataclass(frozen=True)
class _Work:
    """A run that has started: it holds the lock of its folder, and its rows come when they are asked for.

    Attributes:
        listed, to_score, unreadable_before: numbers of images.
        connection: closes the Ray session, if there is one.
        rows: MEASURED_SCHEMA tables, together `to_score` rows.
        names: of all listed images, where false discoveries are to be controlled.
        notes: of the listing, for the summary.
    """

    run: str
    lock: Lock
    listed: int
    to_score: int
    unreadable_before: int
    connection: ExitStack
    rows: Iterator[pa.Table]
    names: pa.ChunkedArray | None
    notes: dict[str, Any]


def _start(config: ScoreConfig, out: str, scorer: Scorer, stack: ExitStack) -> _Work:
    """List, lock, subtract and connect. The listing of a million images is released when this function returns."""
    shard = Shard(*numbers) if (numbers := shard_numbers(config.shard)) else None
    scales = _scales(config)
    found = _listing(config, shard)
    listed = found.images.num_rows
    if found.excluded:
        say(f"excluded: {found.exclusions()}", quiet=config.quiet)
    fileio.require_outside_table(out, "--out")
    fileio.require_writable(out)
    run = new_run(tables.list_parts(out), shard)
    lock = stack.enter_context(locked(out, run, quiet=config.quiet))
    if not shard:  # a shard reads an interrupted compaction as it is, because other shards may read it now
        finish_compaction(out)
    model, threshold = scorer.model.digest, scorer.calibration.threshold
    images = with_groups(found, config.group_by)
    finished, traces = finished_rows(out, images["image"], run), config.findings == "on"
    todo, older, unreadable = still_to_score(
        images, finished, model, threshold, traces=traces, max_megapixels=config.max_megapixels
    )
    say(f"{listed} images listed, {todo.num_rows} to score", quiet=config.quiet)
    rows: Iterator[pa.Table] = iter(())
    connection = stack.enter_context(ExitStack())
    if todo.num_rows:
        connection.enter_context(scoring_session(todo, config))
        rows = connection.enter_context(closing(_scored_rows(todo, scorer, config, run, scales)))
        names_known = scales.of_name and not shard  # names of other shards are not listed here
        unused = scales.unused(images["image"].to_pylist(), images["group"].to_pylist()) if names_known else []
        if unused:
            n_names = f"{len(unused)} of its {len(scales.of_name)} names"
            say(f"--mm-table: {n_names} belong to no image or group, such as {unused[0]!r}", quiet=config.quiet)
    names = found.images["image"] if config.max_false_discovery else None
    notes: dict[str, Any] = {
        "images": found.source,
        "skipped_files": found.skipped,
        "excluded": found.excluded,
        "passed_over": found.passed_over,
    }
    notes |= {"rows_with_an_older_threshold": older, "settings": _row_settings(config, scales)}
    return _Work(run, lock, listed, todo.num_rows, unreadable, connection, rows, names, notes)


def _scored_rows(todo: pa.Table, scorer: Scorer, config: ScoreConfig, run: str, scales: Scales) -> Generator[pa.Table]:
    tracing = Tracing(config.joints == "ignore", scales)
    return score_rows(todo, scorer, config, run, tracing=tracing if config.findings == "on" else None)


def _scales(config: ScoreConfig) -> Scales:
    table = config.mm_table and scales_from_csv(fileio.read_bytes(config.mm_table), config.mm_table)
    return Scales(
        math.nan if config.mm_per_px is None else config.mm_per_px,
        table or {},
        math.nan if config.distance is None else config.distance,
        width_limits_of(config.width_classes),
    )


def _row_settings(config: ScoreConfig, scales: Scales) -> dict[str, str]:
    """ROW_SETTINGS as text; "" for one that is not given."""
    given = {name: getattr(config, name) for name in ROW_SETTINGS}
    if scales.of_name:
        given["mm_table"] = hashlib.blake2b(repr(sorted(scales.of_name.items())).encode(), digest_size=8).hexdigest()
    return {name: "" if value is None else str(value) for name, value in given.items()}


def _listing(config: ScoreConfig, shard: Shard | None) -> Listing:
    """What is listed for a shard, with the frames of videos and the windows of very large TIFFs."""
    found = list_paths(
        config.images,
        time_of(config.since),
        config.prefix,
        config.exclude,
        videos=config.every is not None,
        shard=shard,
    )
    if not found.images.num_rows and not found.elsewhere:
        raise StorageError(found.empty())
    images = with_windows(found.images, config.max_megapixels * 1_000_000)
    if config.every is not None:
        with uris.storage_errors("read", found.source):
            images = with_frames(images, config.every)
    return replace(found, images=excerpts_of_prefix(images, config.prefix))


def _page_of(config: ScoreConfig, out: str, run: str) -> str:
    """Where the page of a run will be; "" for none. Shards have one together, which `report` writes."""
    if config.no_report or config.shard:
        return ""
    return page_path(out, run) if has_rows(out, run) else ""


def _write_rows(work: _Work, table: RunTable, histograms: RunHistograms, check: ThresholdCheck, *, quiet: bool) -> None:
    """Write, count and report every row as it comes; what has come is written after an error too."""
    metrics = RunMetrics(work.to_score)
    with work.connection, progress("score", work.to_score, "images", quiet=quiet) as bar, histograms, table:
        for rows in work.rows:
            work.lock.check()
            histograms.add(rows)
            metrics.add(rows)
            check.add(rows)
            table.add(rows)
            bar.update(rows.num_rows)


def broken_limit(without_score: Mapping[str, int], images: int, config: ScoreConfig, out: str) -> str:
    """What to say of the first limit on images without a score that is broken; "" where none is.

    Args:
        without_score: number of unreadable and of unreachable images, of so many `images` in all.
    """
    limits = {"unreadable": config.max_unreadable, "unreachable": config.max_unreachable}
    for status, limit in limits.items():
        n = without_score[status]
        if n > limit_of(limit, images):
            return (
                f"{n} of {images} images are {status}, more than --max-{status} {limit}: "
                f"see the column error of {out}. All rows are written."
            )
    return ""


def _write_discoveries(out: str, work: _Work, scorer: Scorer, level: float | None) -> dict[str, Any]:
    """Control the false discoveries of this night: all images listed now, in whatever run they were scored.

    Writes `_discoveries-<run>.csv`, most suspicious first. It is a last step over the finished table and changes
    none of its rows: what is flagged there is decided by the threshold, one image at a time.
    """
    if work.names is None or level is None:
        return {}
    columns = ["image", "group", "score", "p_value", "worst_x", "worst_y", "status", "model"]
    rows = tables.read_scores(out, columns)
    is_tonight = pc.is_in(rows["image"], value_set=work.names.combine_chunks())
    ours = pc.and_(pc.equal(rows["model"], scorer.model.digest), pc.equal(rows["status"], "scored"))
    rows = rows.filter(pc.and_(is_tonight, ours))
    rates_N = false_discovery_rates(rows["p_value"].to_numpy())
    rows = rows.append_column("false_discovery_rate", pa.array(rates_N)).drop_columns(["status", "model"])
    found = rows.filter(pa.array(rates_N <= level)).sort_by([("p_value", "ascending"), ("score", "descending")])
    file = uris.join(out, f"_discoveries-{work.run}.csv")
    fileio.write_bytes(file, tables.csv_bytes(found))
    fewest = fewest_discoveries(rows.num_rows, len(scorer.calibration.scores_N), level)
    return {"discoveries": found.num_rows, "discoveries_file": file, "fewest_discoveries_possible": fewest}
