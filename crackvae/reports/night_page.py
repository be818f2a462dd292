"""The page of a night: its counts, the most suspicious images, and a random sample of unflagged images."""

import hashlib
from collections import Counter
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crackvae.model.inference import RecordedModel, find_recorded_model
from crackvae.reports import charts, page, photographs, views
from crackvae.reports.nights import ALL_RUNS, NightResults, RunSummary, tile_scores, total
from crackvae.reports.page import PageSettings, Rendered, Thumbnails, full_size_links
from crackvae.reports.photographs import Photograph
from crackvae.reports.views import ImageView

# Rows of the tables of failures and of groups.
MAX_FAILED, MAX_GROUPS = 200, 20


# Runs in the trend.
MAX_RUNS = 30


# Number of worst tiles shown for each photograph.
WORST_TILES = 6


@dataclass(frozen=True)
class _Gallery:
    """The images on a page, as the template needs them.

    Attributes:
        queue, unflagged: cards of the most suspicious images and of the random sample of unflagged ones.
        photographs: whole photographs.
        image_views: views of queue and unflagged, in their order.
        vmax: upper end of the colour scale of all anomaly maps.
    """

    queue: list[dict[str, Any]]
    unflagged: list[dict[str, Any]]
    photographs: list[dict[str, Any]]
    image_views: list[ImageView]
    vmax: float


def night_page(night: NightResults, settings: PageSettings) -> Rendered:
    """The page of a night. Opens only the images that it shows.

    Raises:
        ModelError: settings.model_dir holds another model than that of the scores.
    """
    rows, summary = night.rows, night.summary
    scored = _scored(rows)
    digest, threshold = _digest_and_threshold(rows, summary)
    recorded = find_recorded_model(settings.model_dir, _recorded_model_dir(night, digest), digest, threshold)
    gallery = _gallery(night, scored, recorded, settings)
    expected = _expected(scored, recorded)
    failed = rows.filter(pc.field("status") != "scored").slice(0, MAX_FAILED).to_pylist()
    shown = [card["image"] for card in gallery.queue + gallery.unflagged]
    html = page.render(
        "night.html",
        title="All runs" if night.run == ALL_RUNS else f"Night of {page.when(night.run)}",
        page_id=f"{night.run}/{digest[:12]}",
        night=night,
        folder=page.shared_folder(shown + [row["image"] for row in failed]),
        counts=_counts(rows, summary),
        expected=expected,
        recorded=recorded,
        digest=digest,
        threshold=threshold,
        n_photographs=total(_is_photograph(scored)),
        gallery=gallery,
        queue_groups=sorted(Counter(card["group"] for card in gallery.queue).items()),
        failed=failed,
        reasons=_reasons(rows),
        groups=_groups(rows),
        histogram=_histogram(scored, threshold, recorded),
        trend=_trend(night.summaries, expected),
        colour_bar=page.colour_bar(gallery.vmax, recorded),
        drift=_drift(summary),
        mm_per_px=settings.mm_per_px,
    )
    figures = {
        "run": night.run,
        "images": rows.num_rows,
        "flagged": total(rows["flagged"]),
        **page.shown_figures(gallery.image_views, recorded),
    }
    return Rendered(html, figures, shown, recorded.model, gallery.vmax)


def _digest_and_threshold(rows: pa.Table, summary: RunSummary | None) -> tuple[str, float]:
    """Model digest and threshold of the last row, or those of the summary of a run without rows."""
    if rows.num_rows:
        return rows["model"][-1].as_py(), float(rows["threshold"][-1].as_py())
    return (summary.model, summary.threshold) if summary else ("", np.nan)


def _recorded_model_dir(night: NightResults, digest: str) -> str:
    """The model directory in the summary of the last run with this model, or ""; killed runs have no summary."""
    of_model = (one.model_dir for one in reversed(night.summaries) if one.model == digest)
    return next(of_model, night.summary.model_dir if night.summary else "")


def _gallery(night: NightResults, scored: pa.Table, recorded: RecordedModel, settings: PageSettings) -> _Gallery:
    """Read and explain the images of the page."""
    rows, mm_per_px = night.rows, settings.mm_per_px
    worst = _worst(scored, settings.n_worst)
    unflagged = _random_unflagged(scored, settings.n_unflagged, night.run)
    shown = rows.take(pa.concat_arrays([worst, unflagged])).to_pylist()
    suspicious = rows.take(_worst(scored.filter(_is_photograph(scored)), settings.n_photographs)).to_pylist()
    with page.threads() as executor:
        image_views = list(executor.map(lambda row: views.view_image(row, recorded.model), shown))
        explained = _explained(suspicious, night, recorded, executor)
    vmax = views.shared_vmax([one.closest for one in image_views if one.closest is not None])
    small = Thumbnails(3 * len(image_views) + WORST_TILES * len(explained), vmax)
    large = Thumbnails(2 * len(explained), vmax, large=True)
    folder = settings.full_size_folder
    cards = [
        _card(row, view, small, mm_per_px) | {"files": full_size_links(folder, number, view, recorded)}
        for number, (row, view) in enumerate(zip(shown, image_views, strict=True), start=1)
    ]
    highest = max((float(one.tile_scores.max()) for _, one in explained), default=0.0)
    photograph_cards = [
        _photograph_card(row, one, small, large, mm_per_px)
        | {"grid": charts.tile_grid(one.tile_scores, row["threshold"], highest, f"tiles-{number}")}
        for number, (row, one) in enumerate(explained, start=1)
    ]
    return _Gallery(cards[: len(worst)], cards[len(worst) :], photograph_cards, image_views, vmax)


def _expected(scored: pa.Table, recorded: RecordedModel) -> dict[str, Any] | None:
    """Flagged images of one tile, and the number expected if all were sound; None without a calibration.

    Photographs are excluded: each of their tiles can be flagged, so the rate of single tiles does not apply to them.
    """
    single = scored.filter(pc.invert(_is_photograph(scored)))
    n = single.num_rows
    if recorded.calibration is None or not n:
        return None
    shares = recorded.calibration.promise(n)
    counts = {name: round(share * n) for name, share in shares.items()}
    return {"rate": shares["expected"], "images": n, "flagged": total(single["flagged"]), **counts}


def _histogram(scored: pa.Table, threshold: float, recorded: RecordedModel) -> str:
    scores_N = scored["score"].to_numpy()
    usual_N = recorded.calibration.scores_N if recorded.calibration else None
    return charts.score_histogram({"scored": scores_N[np.isfinite(scores_N)]}, threshold, "scores", usual_N)


def _is_photograph(rows: pa.Table) -> pa.ChunkedArray:
    """Whether each row is an image of several tiles."""
    return pc.greater(pc.multiply(rows["rows"], rows["cols"]), 1)


def _scored(rows: pa.Table) -> pa.Table:
    """Numeric columns of the scored rows and their positions in `rows`; copying the paths would double the memory."""
    numbers = rows.select(["score", "p_value", "flagged", "rows", "cols"])
    numbered = numbers.append_column("position", pa.array(np.arange(rows.num_rows)))
    return numbered.filter(pc.equal(rows["status"], "scored"))


def _worst(scored: pa.Table, n: int) -> pa.Array:
    """Positions of the lowest p-values; ties by score."""
    if not n:
        return pa.array([], pa.int64())
    order = pc.select_k_unstable(scored, n, [("p_value", "ascending"), ("score", "descending")])
    return scored["position"].take(order).combine_chunks()


def _random_unflagged(scored: pa.Table, n: int, salt: str) -> pa.Array:
    """Positions of a random sample of unflagged rows, the same for every page of this run."""
    flagged_N = scored["flagged"].to_numpy(zero_copy_only=False)
    unflagged = scored["position"].to_numpy()[~flagged_N]
    seed = int.from_bytes(hashlib.blake2b(salt.encode(), digest_size=8).digest(), "big")
    chosen = np.random.default_rng(seed).choice(unflagged, min(n, len(unflagged)), replace=False)
    return pa.array(np.sort(chosen), pa.int64())


def _counts(rows: pa.Table, summary: RunSummary | None) -> dict[str, Any]:
    """Number of images by status; `reconciled` tells whether they add up to the images listed."""
    by_status = Counter({one["values"]: one["counts"] for one in pc.value_counts(rows["status"]).to_pylist()})
    counts: dict[str, Any] = {name: by_status[name] for name in ("scored", "unreadable", "unreachable")}
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
        "skipped": summary.skipped_files if summary else 0,
    }


def _card(row: dict[str, Any], view: ImageView, thumbnails: Thumbnails, mm_per_px: float | None) -> dict[str, Any]:
    """One image of the page: its numbers, its pictures, and its row for the verdicts."""
    pictures = thumbnails.pair(view.whole, "picture") if view.whole is not None else []
    pictures += thumbnails.pair(view.near, "around the worst tile") if view.near is not None else []
    verdict_columns = ("image", "group", "score", "p_value", "flagged", "run", "model")
    return row | {
        "data": page.as_json({name: row[name] for name in verdict_columns}),
        "thumbnails": pictures,
        "problem": view.problem,
        "crack": page.crack_text(view.crack, mm_per_px),
        "is_photograph": row["rows"] * row["cols"] > 1,
    }


def _explained(
    rows: list[dict[str, Any]], night: NightResults, recorded: RecordedModel, executor: Executor
) -> list[tuple[dict[str, Any], Photograph]]:
    """Whole photographs with their rows; empty without a model."""
    if recorded.model is None:
        return []
    scores = tile_scores(night, rows)
    explain = partial(photographs.view_photograph, model=recorded.model, n_worst=WORST_TILES)
    with page.threads() as tile_executor:  # another one: a task that waits for tasks of its own executor may block it
        explained = list(executor.map(partial(explain, executor=tile_executor), rows, scores))
    return [(row, one) for row, one in zip(rows, explained, strict=True) if one is not None]


def _photograph_card(
    row: dict[str, Any], photograph: Photograph, small: Thumbnails, large: Thumbnails, mm_per_px: float | None
) -> dict[str, Any]:
    view = photograph.view
    return row | {
        "thumbnails": [
            large.picture("photograph, worst tile boxed", view.picture_hw, view.box),
            *large.anomaly(view, view.box, _map_title(photograph)),
        ],
        "worst": [
            {"x": x, "y": y, "score": score, "thumbnail": small.picture(f"tile at {x}, {y}", pixels_hw)}
            for x, y, score, pixels_hw in photograph.worst
        ],
        "crack": page.crack_text(photograph.crack, mm_per_px),
        "tiles_flagged": photograph.n_flagged,
        "tiles_measured": photograph.n_flagged_explained,
    }


def _map_title(photograph: Photograph) -> str:
    n, n_explained = photograph.tile_scores.size, photograph.n_explained
    return (
        "anomaly map" if n_explained == n else f"anomaly map of {n_explained} of {n} tiles, mainly the highest-scoring"
    )


def _reasons(rows: pa.Table) -> list[tuple[str, str, int]]:
    """Number of failed images by status and reason, most frequent first."""
    failed = rows.filter(pc.field("status") != "scored").select(["status", "error"])
    counted = Counter((row["status"], row["error"]) for row in failed.to_pylist())
    return [(status, error, n) for (status, error), n in counted.most_common(10)]


def _groups(rows: pa.Table) -> list[dict[str, Any]]:
    """Groups with the most flagged images first; empty if there is only one group."""
    flags = rows.select(["group", "flagged", "score"])
    table = flags.group_by("group").aggregate([("flagged", "count"), ("flagged", "sum"), ("score", "max")])
    if table.num_rows < 2:
        return []
    order = [("flagged_sum", "descending"), ("score_max", "descending")]
    return list(table.sort_by(order).slice(0, MAX_GROUPS).to_pylist())


def _trend(summaries: list[RunSummary], expected: dict[str, Any] | None) -> str:
    """Chart of the latest runs with scored images; "" for a single run."""
    runs = [one for one in summaries if one.scored > 0][-MAX_RUNS:]
    if len(runs) < 2:
        return ""
    names = [page.when(one.run).removesuffix(" UTC")[5:] for one in runs]
    shares = {name: [getattr(one, name) / (one.scored + one.unreadable) for one in runs] for name in TREND}
    return charts.trend(names, shares, expected["rate"] if expected else None, "trend")


# Counts of a summary that the trend shows as shares.
TREND = ("flagged", "unreadable")


def _drift(summary: RunSummary | None) -> dict[str, Any] | None:
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
