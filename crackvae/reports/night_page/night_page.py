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

from crackvae.model.inference import RecordedModel, find_recorded_model, threads
from crackvae.reports import charts, page, photographs, views
from crackvae.reports.night_page import findings, night_figures
from crackvae.reports.night_page.findings import NightFindings
from crackvae.reports.night_page.known import KnownPlace, KnownPlaces
from crackvae.reports.night_page.nights import ALL_RUNS, NightResults, newest, tile_scores, total
from crackvae.reports.night_page.run_summary import RunSummary
from crackvae.reports.page import PageSettings, Rendered, Thumbnail, Thumbnails, full_size_links
from crackvae.reports.photographs import Photograph, is_photograph
from crackvae.reports.views import ImageView
from crackvae.storage.names.run_files import page_name
from crackvae.storage.tables import FAILED

# Rows of the tables of images without a score.
MAX_FAILED = 200

# Number of worst tiles shown for each photograph.
WORST_TILES = 6


@dataclass(frozen=True)
class _Gallery:
    """The images on a page, as the template needs them.

    Attributes:
        queue, unflagged: cards of the most suspicious images, known false alarms last, and of the random sample of
            unflagged ones.
        n_known: number of known false alarms.
        photographs: whole photographs.
        image_views: views of queue and unflagged, in their order.
        found: all findings of the night.
        vmax: upper end of the colour scale of all anomaly maps.
    """

    queue: list[dict[str, Any]]
    unflagged: list[dict[str, Any]]
    n_known: int
    photographs: list[dict[str, Any]]
    image_views: list[ImageView]
    found: NightFindings
    vmax: float


def night_page(night: NightResults, settings: PageSettings) -> Rendered:
    """The page of a night. Opens only the images that it shows.

    Raises:
        ModelError: settings.model_dir holds another model than that of the scores.
    """
    rows, summary = night.rows, night.summary
    scored = night_figures.scored_numbers(rows)
    digest, threshold = _digest_and_threshold(rows, summary)
    model_dir = _recorded_model_dir(night, digest)
    recorded = find_recorded_model(settings.model_dir, model_dir, digest, threshold)
    gallery = _gallery(night, scored, recorded, settings)
    expected = night_figures.expected_flags(scored, len(rows["group"].unique()), recorded)
    failed = night_figures.of_status(rows, *FAILED).slice(0, MAX_FAILED).to_pylist()
    no_surface = night_figures.of_status(rows, "no_surface").slice(0, MAX_FAILED).to_pylist()
    shown = [card["image"] for card in gallery.queue + gallery.unflagged]
    html = page.render(
        "night.html",
        served=settings.served,
        title="All runs" if night.run == ALL_RUNS else f"Run of {page.when(night.run)}",
        page_id=f"{night.run}/{digest[:12]}",
        night=night,
        folder=page.shared_folder(shown + [row["image"] for row in failed + no_surface]),
        counts=night_figures.status_counts(rows, summary),
        expected=expected,
        expected_photographs=night_figures.expected_photographs(scored, recorded),
        recorded=recorded,
        model_name=model_dir.rstrip("/").rpartition("/")[-1],
        digest=digest,
        threshold=threshold,
        n_photographs=total(is_photograph(scored)),
        gallery=gallery,
        queue_groups=sorted(Counter(card["group"] for card in gallery.queue).items()),
        failed=failed,
        no_surface=no_surface,
        reasons=night_figures.failure_reasons(rows),
        groups=night_figures.worst_groups(rows),
        findings=findings.by_group(gallery.found.cracks, gallery.found.also_on, settings.mm_per_px),
        anchors={image: _anchor(image) for image in shown},
        place_map=findings.on_a_map(gallery.found.cracks, settings.gps_precision_m),
        n_joints=gallery.found.n_joints,
        histogram=night_figures.score_histogram(scored, threshold, recorded),
        trend=night_figures.trend_chart(night.summaries, expected),
        colour_bar=page.colour_bar(gallery.vmax, recorded),
        drift=night_figures.drift_tables(summary),
        mm_per_px=settings.mm_per_px,
    )
    figures = {
        "run": night.run,
        "images": rows.num_rows,
        "flagged": total(rows["flagged"]),
        "known_false_alarms": gallery.n_known,
        **night_figures.shard_figures(night),
        **page.shown_figures(gallery.image_views, recorded),
    }
    return Rendered(html, figures, shown, recorded.model, gallery.vmax)


def _digest_and_threshold(rows: pa.Table, summary: RunSummary | None) -> tuple[str, float]:
    """Model digest and threshold of the latest run, or those of the summary of a run without rows."""
    if rows.num_rows:
        last = newest(rows)
        return rows["model"][last].as_py(), float(rows["threshold"][last].as_py())
    return (summary.model, summary.threshold) if summary else ("", np.nan)


def _recorded_model_dir(night: NightResults, digest: str) -> str:
    """The model directory in the summary of the last run with this model, or ""; killed runs have no summary."""
    of_model = (one.model_dir for one in reversed(night.summaries) if one.model == digest)
    return next(of_model, night.summary.model_dir if night.summary else "")


def _gallery(night: NightResults, scored: pa.Table, recorded: RecordedModel, settings: PageSettings) -> _Gallery:
    """Read and explain the images of the page."""
    rows, mm_per_px = night.rows, settings.mm_per_px
    with threads() as executor:
        queue = _queue(night, scored, recorded, settings.n_worst, executor)
        unflagged = rows.take(_random_unflagged(scored, settings.n_unflagged, night.run)).to_pylist()
        shown = [row for row, _ in queue] + unflagged
        image_views = list(executor.map(lambda row: views.view_image(row, recorded.model), shown))
        suspicious = rows.take(_worst(scored.filter(is_photograph(scored)), settings.n_photographs)).to_pylist()
        lines = findings.with_views(night.findings, executor.map)
        found = findings.by_image(lines.table, [row["image"] for row in shown + suspicious])
        explained = _explained(suspicious, night, recorded, found, executor)
    vmax = views.shared_vmax([one.closest for one in image_views if one.closest is not None])
    small = Thumbnails(3 * len(image_views) + WORST_TILES * len(explained), vmax)
    large = Thumbnails(2 * len(explained), vmax, large=True)
    folder = settings.full_size_folder
    known = [one for _, one in queue] + [None] * len(unflagged)
    with threads() as executor:
        pictures = executor.map(lambda view: _pictures(view, small), image_views)
        cards = [
            _card(row, view, thumbnails, found.get(row["image"], []), mm_per_px)
            | {"files": full_size_links(folder, number, view, recorded), "known": _known_card(one, settings)}
            for number, (row, view, thumbnails, one) in enumerate(
                zip(shown, image_views, pictures, known, strict=True), start=1
            )
        ]
    highest = max((float(np.nanmax(one.tile_scores)) for _, one in explained), default=0.0)
    photograph_cards = [
        _photograph_card(row, one, small, large, found.get(row["image"], []))
        | _listed(found.get(row["image"], []), lines.also_on, mm_per_px)
        | {"grid": charts.tile_grid(one.tile_scores, row["threshold"], highest, f"tiles-{number}")}
        for number, (row, one) in enumerate(explained, start=1)
    ]
    n, n_known = len(queue), sum(one is not None for _, one in queue)
    return _Gallery(cards[:n], cards[n:], n_known, photograph_cards, image_views, lines, vmax)


def _queue(
    night: NightResults, scored: pa.Table, recorded: RecordedModel, n: int, executor: Executor
) -> list[tuple[dict[str, Any], KnownPlace | None]]:
    """The `n` most suspicious images that are no known false alarms, as far as there are any among twice as many,
    and after them the known ones that are as suspicious.
    """
    rows = night.rows.take(_worst(scored, min(2 * n, scored.num_rows))).to_pylist()
    tiling = recorded.model.spec if recorded.model else None
    places = KnownPlaces(night, (row["group"] for row in rows), tiling, executor)
    known = places.of_all(rows[:n])
    n_more = sum(one is not None for one in known)
    known += places.of_all(rows[n : n + n_more])
    return sorted(zip(rows, known, strict=False), key=lambda pair: pair[1] is not None)


def _known_card(place: KnownPlace | None, settings: PageSettings) -> dict[str, Any] | None:
    """What a card says of the verdict that makes its place known, and where the judged photograph is."""
    if place is None:
        return None
    has_link = settings.served or settings.beside_scores
    return {
        "verdict": place.verdict,
        "run": place.run,
        "page": page_name(place.run) if has_link else "",
        "anchor": _anchor(place.verdict.image),
    }


def _anchor(image: str) -> str:
    """The id of the card of an image, the same on every page."""
    return f"image-{hashlib.blake2b(image.encode(errors='surrogateescape'), digest_size=8).hexdigest()}"


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


def _card(
    row: dict[str, Any],
    view: ImageView,
    pictures: list[Thumbnail],
    found: list[dict[str, Any]],
    mm_per_px: float | None,
) -> dict[str, Any]:
    """One image of the page: its numbers, its pictures, and its row for the verdicts."""
    verdict_columns = ("image", "group", "score", "p_value", "flagged", "run", "model")
    return row | {
        "anchor": _anchor(row["image"]),
        "data": page.as_json({name: row[name] for name in verdict_columns}),
        "thumbnails": pictures,
        "problem": view.problem,
        "findings": findings.in_words(found, mm_per_px),
        "is_photograph": row["rows"] * row["cols"] > 1,
        "p_text": _p_text(row),
    }


def _pictures(view: ImageView, thumbnails: Thumbnails) -> list[Thumbnail]:
    """The image and, where it is larger than a tile, what is around its worst tile, each with its anomaly map."""
    pictures = thumbnails.pair(view.whole, "picture") if view.whole is not None else []
    return pictures + (thumbnails.pair(view.near, "around the worst tile") if view.near is not None else [])


def _p_text(row: dict[str, Any]) -> str:
    """The p-value of a row, or why there is none that agrees with its flag.

    Before p_kind, photographs were flagged by their worst tile alone.
    """
    n_tiles = row["tiles"]
    if row["p_kind"] == "none":
        return f"no p-value (too few calibration images for {n_tiles:,} tiles)"
    if not row["p_kind"] and n_tiles > 1:
        return "no p-value (table of an earlier version)"
    return f"p = {page.number(row['p_value'], 2)}"


def _explained(
    rows: list[dict[str, Any]],
    night: NightResults,
    recorded: RecordedModel,
    found: dict[str, list[dict[str, Any]]],
    executor: Executor,
) -> list[tuple[dict[str, Any], Photograph]]:
    """Whole photographs with their rows; empty without a model. One that has findings needs no anomaly map."""
    if recorded.model is None:
        return []
    scores = tile_scores(night, rows)
    explain = partial(photographs.view_photograph, model=recorded.model, n_worst=WORST_TILES)
    with threads() as tile_executor:  # another one: a task that waits for tasks of its own executor may block it
        with_map = [row["image"] not in found for row in rows]
        explained = list(executor.map(partial(explain, executor=tile_executor), rows, scores, with_map))
    return [(row, one) for row, one in zip(rows, explained, strict=True) if one is not None]


def _photograph_card(
    row: dict[str, Any],
    photograph: Photograph,
    small: Thumbnails,
    large: Thumbnails,
    found: list[dict[str, Any]],
) -> dict[str, Any]:
    view = photograph.view
    traces = findings.traced(view.picture_hw, (row["height"], row["width"]), found)
    return row | {
        "p_text": _p_text(row),
        "thumbnails": [
            large.picture("photograph, worst tile boxed", view.picture_hw, view.box),
            *([large.picture("findings", traces)] if found else large.anomaly(view, view.box, _map_title(photograph))),
        ],
        "worst": [
            {"x": x, "y": y, "score": score, "thumbnail": small.picture(f"tile at {x}, {y}", pixels_hw)}
            for x, y, score, pixels_hw in photograph.worst
        ],
        "tiles_flagged": photograph.n_flagged,
    }


def _listed(found: list[dict[str, Any]], also_on: dict[str, list[str]], mm_per_px: float | None) -> dict[str, Any]:
    """The table of a photograph's findings; a crack that another photograph shows longer is listed there."""
    own = [one for one in found if not one["view_of"]]
    return {
        "findings": findings.in_words(found, mm_per_px),
        "listed": findings.listed(own[: findings.MAX_LISTED], also_on, mm_per_px),
        "n_findings": len(own),
        "views_of": [one["view_of"] for one in found if one["view_of"]],
    }


def _map_title(photograph: Photograph) -> str:
    n, n_explained = photograph.tile_scores.size, photograph.n_explained
    return (
        "anomaly map" if n_explained == n else f"anomaly map of {n_explained} of {n} tiles, mainly the highest-scoring"
    )
