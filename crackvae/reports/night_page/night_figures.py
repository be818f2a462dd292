"""The numbers of the page of a night: counts by status, expected flags, groups, trend and drift."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crackvae.model.inference import RecordedModel
from crackvae.reports import charts, page
from crackvae.reports.night_page.nights import NightResults, total
from crackvae.reports.night_page.run_summary import COUNTS, RunSummary
from crackvae.storage.names.shards import shard_of
from crackvae.storage.tables import FAILED

# Rows of the table of groups, and runs in the trend.
MAX_GROUPS, MAX_RUNS = 20, 30

# Counts of a summary that the trend shows as shares.
TREND = ("flagged", "unreadable")


def scored_numbers(rows: pa.Table) -> pa.Table:
    """Numeric columns of the scored rows and their positions in `rows`; copying the paths would double the memory."""
    numbers = rows.select(["score", "p_value", "flagged", "rows", "cols", "tiles", "p_kind"])
    numbered = numbers.append_column("position", pa.array(np.arange(rows.num_rows)))
    return numbered.filter(pc.equal(rows["status"], "scored"))


def of_status(rows: pa.Table, *statuses: str) -> pa.Table:
    """The rows with one of these statuses."""
    return rows.filter(pc.is_in(rows["status"].cast(pa.string()), value_set=pa.array(statuses)))


def status_counts(rows: pa.Table, summary: RunSummary | None) -> dict[str, Any]:
    """Number of images by status; `reconciled` tells whether they add up to the images listed."""
    by_status = Counter({one["values"]: one["counts"] for one in pc.value_counts(rows["status"]).to_pylist()})
    counts: dict[str, Any] = {name: by_status[name] for name in ("scored", "no_surface", *FAILED)}
    of_run = {name: getattr(summary, name) for name in counts} if summary else dict(counts)
    earlier = summary.finished_before if summary else 0
    listed = summary.listed if summary else sum(counts.values())
    return counts | {
        "of_run": of_run,
        "earlier": earlier,
        "listed": listed,
        "reconciled": listed == earlier + sum(of_run.values()),
        "flagged": total(rows["flagged"]),
        "images_per_s": summary.images_per_s if summary else None,
        "seconds": summary.seconds if summary else None,
        "excluded": _excluded(summary) if summary else {},
        "passed_over": summary.passed_over if summary else 0,
    }


def shard_figures(night: NightResults) -> dict[str, Any]:
    """What the summary of `report` says of a round of shards: their counts together; nothing of other runs."""
    shard, summary = shard_of(night.run), night.summary
    if not shard:
        return {}
    counts = {name: getattr(summary, name) for name in COUNTS} if summary else {}
    return {"shards": shard.count, "shards_left": [one.number for one in night.shards_left], **counts}


def _excluded(summary: RunSummary) -> dict[str, int]:
    """Number of excluded files by kind; summaries of early versions have only the total."""
    return summary.excluded or ({"other files": summary.skipped_files} if summary.skipped_files else {})


def expected_flags(scored: pa.Table, n_groups: int, recorded: RecordedModel) -> dict[str, Any] | None:
    """Flagged images of one tile, and the number expected if all were sound; None without a calibration.

    Photographs are counted apart: the interval is for images with the same number of tiles that show a surface.
    """
    single = scored.filter(pc.field("tiles") == 1)
    n = single.num_rows
    if recorded.calibration is None or not n:
        return None
    shares = recorded.calibration.promise(n, 1, n_groups)
    counts = {name: round(share * n) for name, share in shares.items()}
    return {"rate": shares["expected"], "images": n, "flagged": total(single["flagged"]), **counts}


def expected_photographs(scored: pa.Table, recorded: RecordedModel) -> dict[str, Any] | None:
    """Flagged photographs, and the number expected if all were sound; None without a calibration or a p-value."""
    several = scored.filter(pc.field("tiles") > 1)
    kinds = set(several["p_kind"].to_pylist())
    if recorded.calibration is None or not several.num_rows or kinds & {"", "none"}:
        return None
    tiles, counts = np.unique(several["tiles"].to_numpy(), return_counts=True)
    shares = [
        recorded.calibration.promise(int(n), int(n_tiles))["expected"] for n_tiles, n in zip(tiles, counts, strict=True)
    ]
    expected = float(np.dot(shares, counts))
    return {"images": several.num_rows, "flagged": total(several["flagged"]), "expected": expected}


def failure_reasons(rows: pa.Table) -> list[tuple[str, str, int]]:
    """Number of failed images by status and reason, most frequent first."""
    failed = of_status(rows, *FAILED).select(["status", "error"])
    counted = Counter((row["status"], row["error"]) for row in failed.to_pylist())
    return [(status, error, n) for (status, error), n in counted.most_common(10)]


def worst_groups(rows: pa.Table) -> list[dict[str, Any]]:
    """Groups with the most flagged images first; empty if there is only one group."""
    flags = rows.select(["group", "flagged", "score"])
    table = flags.group_by("group").aggregate([("flagged", "count"), ("flagged", "sum"), ("score", "max")])
    if table.num_rows < 2:
        return []
    order = [("flagged_sum", "descending"), ("score_max", "descending")]
    return list(table.sort_by(order).slice(0, MAX_GROUPS).to_pylist())


def score_histogram(scored: pa.Table, threshold: float, recorded: RecordedModel) -> str:
    """Chart of the scores beside those of the calibration."""
    scores_N = scored["score"].to_numpy()
    usual_N = recorded.calibration.scores_N if recorded.calibration else None
    return charts.score_histogram({"scored": scores_N[np.isfinite(scores_N)]}, threshold, "scores", usual_N)


def trend_chart(summaries: list[RunSummary], expected: dict[str, Any] | None) -> str:
    """Chart of the latest runs with scored images; "" for a single run."""
    runs = [one for one in summaries if one.scored > 0][-MAX_RUNS:]
    if len(runs) < 2:
        return ""
    names = [page.when(one.run).removesuffix(" UTC")[5:] for one in runs]
    shares = {name: [getattr(one, name) / (one.scored + one.unreadable) for one in runs] for name in TREND}
    return charts.trend(names, shares, expected["rate"] if expected else None, "trend")


def drift_tables(summary: RunSummary | None) -> dict[str, Any] | None:
    """Drift of the night with its comparisons split into changed and unchanged ones; None if it was not measured."""
    drift = summary.drift if summary else None
    if drift is None:
        return None
    changed = [row for row in drift.rows if row.verdict != "ok"]
    unchanged = [row for row in drift.rows if row.verdict == "ok"]
    return {"verdict": drift.verdict, "causes": drift.causes, "where": drift.where} | {
        "changed": changed,
        "unchanged": unchanged,
    }
