"""[Ray Data] list -> subtract -> read -> decode -> score -> write: all that Ray knows about scoring."""

import json
import time
from contextlib import closing
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from crackvae.config import Outcome, ReportConfig, ScoreConfig, limit_of, time_of
from crackvae.console import progress, say
from crackvae.errors import LimitBroken, StorageError
from crackvae.images.groups import with_groups
from crackvae.model.calibration import false_discovery_rates, fewest_discoveries
from crackvae.model.inference import Scorer, load_scorer
from crackvae.model.runtime import release_memory
from crackvae.monitoring.histograms import load_reference
from crackvae.monitoring.telemetry import RunHistograms, RunMetrics
from crackvae.scoring.actors import score_rows, scoring_session
from crackvae.scoring.compaction import finish_compaction
from crackvae.scoring.run_table import CountedThresholds, RunTable, still_to_score, write_missing_csvs
from crackvae.storage import fileio, tables, uris
from crackvae.storage.listing import list_images
from crackvae.storage.lock import locked
from crackvae.storage.tables import new_run


@uris.with_s3_endpoint
def score(config: ScoreConfig) -> Outcome:
    """Score every image below a place that this model has not finished, and add the rows to the table in `out`.

    Returns:
        Outcome with the table `most suspicious` of this run.

    Raises:
        LimitBroken: too many images were unreadable or unreachable; the table is complete all the same.
        FolderInUse: another run writes into `out`.
        StorageError, ArchiveError, ModelError, ManifestError, ClusterError: with the mend.
    """
    started = time.perf_counter()
    out = uris.absolute(config.out)
    scorer = load_scorer(config.model)
    found = list_images(config.images, time_of(config.since), config.prefix)
    listed = found.images.num_rows
    if not listed and not found.passed_over:
        raise StorageError(
            f"{found.place or found.root} holds no images ({found.skipped} other files): check --images."
        )
    fileio.require_writable(out)
    run = new_run(tables.list_parts(out))
    with locked(out, run, quiet=config.quiet) as lock:
        finish_compaction(out)
        counted = CountedThresholds(scorer)
        todo = with_groups(found, config.group_by)
        notes = {"images": found.place or found.root, "skipped_files": found.skipped, "passed_over": found.passed_over}
        names = found.images["image"] if config.max_false_discovery else None
        del found  # a million rows of it
        todo = still_to_score(todo, counted.finished(out), scorer.model.digest)
        n_todo = todo.num_rows
        say(f"{listed} images listed, {n_todo} to score", quiet=config.quiet)
        table = RunTable(out, run)
        if n_todo:
            histograms = RunHistograms(out, run, load_reference(uris.absolute(config.model), scorer.model.digest))
            with (
                scoring_session(todo, config),
                progress("score", n_todo, "images", quiet=config.quiet) as bar,
                histograms,
                table,
            ):
                metrics = RunMetrics(n_todo)
                scored = score_rows(todo, scorer, config, run)
                del todo
                with closing(scored):  # when interrupted too, while there is a Ray to tell
                    for rows in scored:
                        lock.check()
                        histograms.add(rows)
                        metrics.add(rows)
                        table.add(rows.select(tables.SCORES_SCHEMA.names))
                        bar.update(rows.num_rows)
        assert table.n == n_todo, f"{n_todo} images went in, {table.n} rows came out"
        csv = write_missing_csvs(out) if "csv" in config.format else []
        if names is not None:
            notes |= _write_discoveries(out, run, names, scorer, config.max_false_discovery or 0)
        summary = {
            "verb": "score",
            "run": run,
            "out": out,
            "listed": listed,
            "finished_before": listed - n_todo,
            **table.counts(),
            **notes,
            "rows_with_an_older_threshold": counted.older,
            **_model_notes(scorer),
            "promised_false_alarm_rate": scorer.calibration.promise(max(1, table.statuses["scored"])),
            "model_dir": uris.absolute(config.model),
            "csv": csv,
            "report": _page_place(out, run, config),
            **_rate(table.n, started),
        }
        fileio.write_bytes(uris.join(out, f"_summary-{run}.json"), json.dumps(summary, indent=1).encode())
    if not n_todo:
        say(f"nothing to score: this model has finished all {listed} images", quiet=config.quiet)
    if summary["report"]:
        release_memory()  # what scoring a million images held, before their page needs as much
        _write_page(summary["report"], out, run, config)
    outcome = Outcome(summary, {f"most suspicious{' (leaky model)' if scorer.model.spec.leaky else ''}": table.worst})
    _check_limits(config, table, listed, outcome)
    return outcome


def _check_limits(config: ScoreConfig, table: "RunTable", listed: int, outcome: Outcome) -> None:
    for status, limit in (("unreadable", config.max_unreadable), ("unreachable", config.max_unreachable)):
        if table.statuses[status] > limit_of(limit, listed):
            raise LimitBroken(
                f"{table.statuses[status]} of {listed} images are {status}, more than --max-{status} {limit}: "
                f"see the column error of {table.out}. All rows are written.",
                outcome,
            )


def _write_discoveries(out: str, run: str, names: pa.ChunkedArray, scorer: Scorer, level: float) -> dict[str, Any]:
    """Control the false discoveries of this night: all images listed now, in whatever run they were scored.

    Writes `_discoveries-<run>.csv`, most suspicious first. It is a last step over the finished table and changes
    none of its rows: what is flagged there goes by the threshold, one image at a time.
    """
    columns = ["image", "group", "score", "p_value", "worst_x", "worst_y", "status", "model"]
    rows = tables.read_scores(out, columns)
    is_tonight = pc.is_in(rows["image"], value_set=names.combine_chunks())
    ours = pc.and_(pc.equal(rows["model"], scorer.model.digest), pc.equal(rows["status"], "scored"))
    rows = rows.filter(pc.and_(is_tonight, ours))
    rates_N = false_discovery_rates(rows["p_value"].to_numpy())
    rows = rows.append_column("false_discovery_rate", pa.array(rates_N)).drop_columns(["status", "model"])
    found = rows.filter(pa.array(rates_N <= level)).sort_by([("p_value", "ascending"), ("score", "descending")])
    place = uris.join(out, f"_discoveries-{run}.csv")
    fileio.write_bytes(place, tables.csv_bytes(found))
    fewest = fewest_discoveries(rows.num_rows, len(scorer.calibration.scores_N), level)
    return {"discoveries": found.num_rows, "discoveries_file": place, "fewest_discoveries_possible": fewest}


def _page_place(out: str, run: str, config: ScoreConfig) -> str:
    """Where the page of this run belongs; "" where none is wanted or there is nothing to show."""
    from crackvae.reports import nights, verb

    is_wanted = not config.no_report and nights.has_rows(out, run)
    return uris.join(out, verb.page_name(run)) if is_wanted else ""


def _write_page(page: str, out: str, run: str, config: ScoreConfig) -> None:
    from crackvae.reports import verb

    with progress("report", 1, "page", quiet=config.quiet) as bar:
        verb.report(ReportConfig(scores=out, run=run, out=page, model=config.model, quiet=config.quiet))
        bar.update(1)


def _model_notes(scorer: Scorer) -> dict[str, Any]:
    return {
        "model": scorer.model.digest,
        "leaky": scorer.model.spec.leaky,
        "threshold": scorer.calibration.threshold,
        "level": scorer.calibration.level,
    }


def _rate(n: int, started: float) -> dict[str, float]:
    seconds = time.perf_counter() - started
    return {"seconds": round(seconds, 1), "images_per_s": round(n / seconds, 1)}
