"""The page of a night: what was scored, the most suspicious images first, and what only a person can tell."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crackvae.config import ReportConfig
from crackvae.model.heads import HEADS
from crackvae.model.inference import RecordedModel, find_recorded_model
from crackvae.reports import charts, page, views
from crackvae.reports.nights import ALL_RUNS, Night, total
from crackvae.reports.page import Rendered, Thumbnails, full_size_links
from crackvae.reports.views import ImageView, Photograph

# Rows of the tables of failures and of groups.
MAX_FAILED, MAX_GROUPS = 200, 20


# Runs in the trend.
MAX_RUNS = 30


# Worst tiles of a photograph that are shown.
WORST_TILES = 6


@dataclass(frozen=True)
class _Seen:
    """The images that a page shows, as it shows them.

    Attributes:
        queue, passed: cards of the most suspicious images and of those that passed.
        photographs: large ones, whole.
        looks: of queue and passed, in their order.
        top: value with the brightest colour in every anomaly map.
    """

    queue: list[dict[str, Any]]
    passed: list[dict[str, Any]]
    photographs: list[dict[str, Any]]
    looks: list[ImageView]
    top: float


def night_page(night: Night, config: ReportConfig, folder: str = "") -> Rendered:
    """The page of a night; opens the pictures of the images that it shows, and of no other.

    Args:
        folder: of full-size pictures beside the page, or "".

    Raises:
        ModelError: --model names another model than that of the scores.
    """
    rows, summary = night.rows, night.summary
    scored = _scored(rows)
    digest = rows["model"][-1].as_py() if rows.num_rows else str(summary.get("model", ""))
    threshold = float(rows["threshold"][-1].as_py()) if rows.num_rows else float(summary.get("threshold", np.nan))
    judge = find_recorded_model(config.model, _recorded_model(night, digest), digest, threshold)
    seen = _seen(rows, scored, judge, config, night.run, folder)
    promise = _promise(scored, judge)
    failed = rows.filter(pc.field("status") != "scored").slice(0, MAX_FAILED).to_pylist()
    shown = [card["image"] for card in seen.queue + seen.passed]
    html = page.render(
        "night.html",
        title="All runs" if night.run == ALL_RUNS else f"Night of {page.when(night.run)}",
        page_id=f"{night.run}/{digest[:12]}",
        night=night,
        folder=page.shared_folder(shown + [row["image"] for row in failed]),
        counts=_counts(rows, summary),
        promise=promise,
        judge=judge,
        digest=digest,
        threshold=threshold,
        n_photographs=total(_is_photograph(scored)),
        seen=seen,
        queue_groups=sorted(Counter(card["group"] for card in seen.queue).items()),
        failed=failed,
        reasons=_reasons(rows),
        groups=_groups(rows),
        histogram=_histogram(scored, threshold, judge),
        trend=_trend(night.summaries, promise),
        colour_bar=charts.colour_bar(seen.top, HEADS[judge.model.spec.head].unit, "scale") if judge.model else "",
        drift=_drift(summary.get("drift")),
        mm_per_px=config.mm_per_px,
    )
    figures = {
        "run": night.run,
        "images": rows.num_rows,
        "flagged": total(rows["flagged"]),
        **page.shown_figures(seen.looks, judge),
    }
    return Rendered(html, figures, shown, judge.model, seen.top)


def _recorded_model(night: Night, digest: str) -> str:
    """The model directory that the last run with this model names, or "": a killed run names none."""
    named = (one for one in reversed(night.summaries) if one.get("model") == digest)
    return str(next(named, night.summary).get("model_dir", ""))


def _seen(rows: pa.Table, scored: pa.Table, judge: RecordedModel, config: ReportConfig, run: str, folder: str) -> _Seen:
    """Open and explain the images to show; photographs one after the other, so that one at a time is in memory."""
    worst, passed = _worst(scored, config.worst), _passed(scored, config.passed, run)
    shown = rows.take(pa.concat_arrays([worst, passed])).to_pylist()
    looks = [views.look(row, judge.model) for row in shown]
    suspicious = _worst(scored.filter(_is_photograph(scored)), config.photographs)
    wholes = _photographs(rows.take(suspicious).to_pylist(), judge)
    top = views.shared_top([one.closest for one in looks if one.closest is not None])
    small, large = (
        Thumbnails(3 * len(looks) + WORST_TILES * len(wholes), top),
        Thumbnails(2 * len(wholes), top, large=True),
    )
    cards = [
        _card(row, one, small, config.mm_per_px) | {"files": full_size_links(folder, number, one, judge)}
        for number, (row, one) in enumerate(zip(shown, looks, strict=True), start=1)
    ]
    highest = max((float(whole.tile_scores.max()) for _, whole in wholes), default=0.0)
    photographs = [
        _whole(row, whole, small, large, config.mm_per_px)
        | {"grid": charts.tile_grid(whole.tile_scores, row["threshold"], highest, f"tiles-{number}")}
        for number, (row, whole) in enumerate(wholes, start=1)
    ]
    return _Seen(cards[: len(worst)], cards[len(worst) :], photographs, looks, top)


def _promise(scored: pa.Table, judge: RecordedModel) -> dict[str, Any] | None:
    """How many images of one tile are flagged, and how many would be if all were sound; None where nobody knows.

    A photograph has as many chances to be flagged as it has tiles, so the rate of the calibration is not its own.
    """
    single = scored.filter(pc.invert(_is_photograph(scored)))
    n = single.num_rows
    if judge.calibration is None or not n:
        return None
    promised = judge.calibration.promise(n)
    counts = {name: round(share * n) for name, share in promised.items()}
    return {"rate": promised["expected"], "images": n, "flagged": total(single["flagged"]), **counts}


def _histogram(scored: pa.Table, threshold: float, judge: RecordedModel) -> str:
    scores_N = scored["score"].to_numpy()
    usual_N = judge.calibration.scores_N if judge.calibration else None
    return charts.score_histogram({"scored": scores_N[np.isfinite(scores_N)]}, threshold, "scores", usual_N)


def _is_photograph(rows: pa.Table) -> pa.ChunkedArray:
    """Whether each row is an image of several tiles."""
    return pc.greater(pc.multiply(rows["rows"], rows["cols"]), 1)


def _scored(rows: pa.Table) -> pa.Table:
    """Numbers of the scored rows and their positions in `rows`; a copy with the paths would double the memory."""
    numbers = rows.select(["score", "p_value", "flagged", "rows", "cols"])
    numbered = numbers.append_column("position", pa.array(np.arange(rows.num_rows)))
    return numbered.filter(pc.equal(rows["status"], "scored"))


def _worst(scored: pa.Table, n: int) -> pa.Array:
    """Positions of the lowest p-values; equal ones by score."""
    if not n:
        return pa.array([], pa.int64())
    order = pc.select_k_unstable(scored, n, [("p_value", "ascending"), ("score", "descending")])
    return scored["position"].take(order).combine_chunks()


def _passed(scored: pa.Table, n: int, salt: str) -> pa.Array:
    """Positions of some rows that passed, by chance: the same ones whenever the page of this run is made again."""
    flagged_N = scored["flagged"].to_numpy(zero_copy_only=False)
    passed = scored["position"].to_numpy()[~flagged_N]
    seed = int.from_bytes(hashlib.blake2b(salt.encode(), digest_size=8).digest(), "big")
    chosen = np.random.default_rng(seed).choice(passed, min(n, len(passed)), replace=False)
    return pa.array(np.sort(chosen), pa.int64())


def _counts(rows: pa.Table, summary: dict[str, Any]) -> dict[str, Any]:
    """Images by what happened to them; `listed` is their sum, or the page would say so."""
    by_status = Counter({one["values"]: one["counts"] for one in pc.value_counts(rows["status"]).to_pylist()})
    counts: dict[str, Any] = {name: by_status[name] for name in ("scored", "unreadable", "unreachable")}
    of_run = {name: int(summary.get(name, counts[name])) for name in counts}
    earlier = int(summary.get("finished_before", 0))
    listed = int(summary.get("listed", sum(counts.values())))
    return counts | {
        "of_run": of_run,
        "earlier": earlier,
        "listed": listed,
        "reconciled": listed == earlier + sum(of_run.values()),
        "flagged": total(rows["flagged"]),
        "images_per_s": summary.get("images_per_s"),
        "seconds": summary.get("seconds"),
        "skipped": int(summary.get("skipped_files", 0)),
    }


def _card(row: dict[str, Any], seen: ImageView, shots: Thumbnails, mm_per_px: float | None) -> dict[str, Any]:
    """One image of the page: its numbers, its pictures, and its row for the verdicts."""
    drawn = shots.pair(seen.whole, "picture") if seen.whole is not None else []
    drawn += shots.pair(seen.near, "around the worst tile") if seen.near is not None else []
    verdict_columns = ("image", "group", "score", "p_value", "flagged", "run", "model")
    return row | {
        "data": page.as_json({name: row[name] for name in verdict_columns}),
        "shots": drawn,
        "problem": seen.problem,
        "crack": page.crack_text(seen.crack, mm_per_px),
        "is_photograph": row["rows"] * row["cols"] > 1,
    }


def _photographs(rows: list[dict[str, Any]], judge: RecordedModel) -> list[tuple[dict[str, Any], Photograph]]:
    """Large photographs, explained whole."""
    if judge.model is None:
        return []
    explained = [(row, views.photograph(row, judge.model, WORST_TILES)) for row in rows]
    return [(row, whole) for row, whole in explained if whole is not None]


def _whole(
    row: dict[str, Any], whole: Photograph, small: Thumbnails, large: Thumbnails, mm_per_px: float | None
) -> dict[str, Any]:
    view = whole.view
    return row | {
        "shots": [
            large.shot("photograph, worst tile boxed", view.picture_hw, view.box),
            *large.anomaly(view, view.box, "anomaly map, stitched from the tiles"),
        ],
        "worst": [
            {"x": x, "y": y, "score": score, "shot": small.shot(f"tile at {x}, {y}", pixels_hw)}
            for x, y, score, pixels_hw in whole.worst
        ],
        "crack": page.crack_text(whole.crack, mm_per_px),
        "tiles_flagged": int((whole.tile_scores > row["threshold"]).sum()),
    }


def _reasons(rows: pa.Table) -> list[tuple[str, str, int]]:
    """How often images failed, by status and reason, most frequent first."""
    failed = rows.filter(pc.field("status") != "scored").select(["status", "error"])
    counted = Counter((row["status"], row["error"]) for row in failed.to_pylist())
    return [(status, error, n) for (status, error), n in counted.most_common(10)]


def _groups(rows: pa.Table) -> list[dict[str, Any]]:
    """Groups with the most flagged images first; where all images are in one, there is nothing to compare."""
    flags = rows.select(["group", "flagged", "score"])
    table = flags.group_by("group").aggregate([("flagged", "count"), ("flagged", "sum"), ("score", "max")])
    if table.num_rows < 2:
        return []
    order = [("flagged_sum", "descending"), ("score_max", "descending")]
    return list(table.sort_by(order).slice(0, MAX_GROUPS).to_pylist())


def _trend(summaries: list[dict[str, Any]], promise: dict[str, Any] | None) -> str:
    """Chart of the last runs that scored anything; one run is no trend."""
    runs = [one for one in summaries if int(one.get("scored", 0)) > 0][-MAX_RUNS:]
    if len(runs) < 2:
        return ""

    def share(name: str) -> list[float]:
        return [int(one.get(name, 0)) / (int(one["scored"]) + int(one.get("unreadable", 0))) for one in runs]

    names = [page.when(one["run"]).removesuffix(" UTC")[5:] for one in runs]
    shares = {name: share(name) for name in ("flagged", "unreadable")}
    return charts.trend(names, shares, promise["rate"] if promise else None, "trend")


def _drift(drift: object) -> dict[str, Any] | None:
    """What the run's summary says about drift, or None.

    A verdict, its likely causes, where it is worst, and rows with group, measure, value and verdict; what was usual
    stands in those of newer runs only.
    """
    if not isinstance(drift, dict) or "verdict" not in drift:
        return None
    rows = [row for row in drift.get("rows", []) if {"group", "measure", "value", "verdict"} <= set(row)]
    return {
        "verdict": str(drift["verdict"]),
        "causes": [str(cause) for cause in drift.get("causes", [])],
        "where": str(drift.get("where", "")),
        "moved": [row for row in rows if row["verdict"] != "ok"],
        "unmoved": [row for row in rows if row["verdict"] == "ok"],
    }
