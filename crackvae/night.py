"""The page of a night: what was scored, the most suspicious images first, and what only a person can tell."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crackvae import charts, page, pictures, storage, tables
from crackvae.config import ReportConfig
from crackvae.errors import StorageError
from crackvae.judge import Judge, find_judge
from crackvae.page import Rendered, Shots, full_size_links
from crackvae.pictures import Look, Photograph
from crackvae.scoring import HEADS

# All that the page needs of a row; tile scores of a million photographs would not fit into memory.
COLUMNS = [
    *("image", "group", "status", "error", "width", "height", "score", "p_value", "threshold", "flagged"),
    *("rows", "cols", "worst_x", "worst_y", "model", "run"),
]
# Rows of the tables of failures and of groups.
MAX_FAILED, MAX_GROUPS = 200, 20
# Runs in the trend.
MAX_RUNS = 30
# Worst tiles of a photograph that are shown.
WORST_TILES = 6
ALL_RUNS = "all"


@dataclass(frozen=True)
class Night:
    """Rows of one night and what is known about it.

    Attributes:
        run: name of the run that ended the night.
        rows: COLUMNS, one row an image.
        interrupted: runs whose rows are here too, because they were killed before they could write a page.
        summary: of the run, or {} where it was killed.
        summaries: of all runs, oldest first.
        damaged: summaries that cannot be read.
        of_other_models: rows of other models than that of the last row; left out, their scores mean other things.
    """

    run: str
    rows: pa.Table
    interrupted: list[str]
    summary: dict[str, Any]
    summaries: list[dict[str, Any]]
    damaged: int
    of_other_models: int


def read_night(scores: str, run: str) -> Night:
    """Rows of one run, and of the runs directly before it that were interrupted.

    Args:
        run: name of a run, "" for the latest that has rows, or "all" for the latest row of every image.

    Raises:
        StorageError: no rows, no such run, or a part is damaged.
    """
    parts = tables.list_parts(scores)
    if not parts:
        raise StorageError(f"{scores} holds no scores: name the folder that crackvae score wrote as --out.")
    if run not in ("", ALL_RUNS) and f"_summary-{run}.json" not in storage.list_files(scores) and run not in parts:
        raise StorageError(
            f"{scores} holds no run {run}: it has {', '.join(list(parts)[-3:])} and {len(parts)} in all."
        )
    summaries, damaged = _summaries(scores)
    ended = {summary["run"] for summary in summaries}
    chosen = run or max(parts)
    shown = sorted(parts) if run == ALL_RUNS else _runs_of_night(parts, chosen, ended)
    chosen = max(parts) if run == ALL_RUNS else chosen
    rows = _compact([tables.read_parts([place], COLUMNS) for name in shown for place in parts[name]])
    others = 0
    if len(shown) > 1:
        of_model = pc.equal(rows["model"].cast(pa.string()), rows["model"][-1].as_py())
        others = rows.num_rows - _sum(of_model)
        rows = _latest(rows.filter(of_model))
    if run == ALL_RUNS:
        return Night(ALL_RUNS, rows, [], {}, summaries, damaged, others)
    summary = next((one for one in summaries if one["run"] == chosen), {})
    return Night(chosen, rows, [name for name in shown if name != chosen], summary, summaries, damaged, others)


def _compact(read: list[pa.Table]) -> pa.Table:
    """One table of all that was read; the digest and the run, the same in a million rows, are kept once."""
    for number, table in enumerate(read):
        for name in ("model", "run"):
            column = table.schema.get_field_index(name)
            table = table.set_column(column, name, table[name].dictionary_encode())
        read[number] = table
    return pa.concat_tables(read).unify_dictionaries()


def _runs_of_night(parts: Iterable[str], chosen: str, ended: set[str]) -> list[str]:
    """The chosen run and, before it, those directly before it that never ended: no page has shown their images."""
    earlier = [name for name in sorted(parts) if name < chosen]
    n_ended = max((number for number, name in enumerate(earlier, start=1) if name in ended), default=0)
    return [*earlier[n_ended:], *([chosen] if chosen in parts else [])]


def has_rows(scores: str, run: str) -> bool:
    """Whether the page of a run would show any image."""
    return bool(_runs_of_night(tables.list_parts(scores), run, {one["run"] for one in _summaries(scores)[0]}))


def _latest(rows: pa.Table) -> pa.Table:
    """The last of the rows of each image; rows come in order of time."""
    numbered = rows.select(["image"]).append_column("position", pa.array(np.arange(rows.num_rows)))
    last = numbered.group_by("image").aggregate([("position", "max")])["position_max"]
    return rows.take(pa.array(np.sort(last.to_numpy())))


def _summaries(scores: str) -> tuple[list[dict[str, Any]], int]:
    """Summaries of the last runs, oldest first, and how many are damaged."""
    names = [name for name in storage.list_files(scores) if name.startswith("_summary-") and name.endswith(".json")]
    found, damaged = [], 0
    for name in names:
        try:
            summary = json.loads(storage.read_bytes(storage.join(scores, name)))
            found.append(summary | {"run": str(summary["run"])})
        except (ValueError, KeyError, TypeError):
            damaged += 1
    return found, damaged


# ------------------------------------------------------------------------------------------------------- page


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
    judge = find_judge(config.model, str(summary.get("model_dir", "")), digest, threshold)
    worst, passed = _worst(scored, config.worst), _passed(scored, config.passed, night.run)
    n_worst, shown = len(worst), rows.take(pa.concat_arrays([worst, passed])).to_pylist()
    looks = [pictures.look(row, judge.model) for row in shown]
    suspicious = _worst(scored.filter(_is_photograph(scored)), config.photographs)
    wholes = _photographs(rows.take(suspicious).to_pylist(), judge)
    top = pictures.shared_top([one.closest for one in looks if one.closest is not None])
    small = Shots(3 * len(looks) + WORST_TILES * len(wholes), top)
    large = Shots(2 * len(wholes), top, large=True)
    cards = [
        _card(row, one, small, config.mm_per_px) | {"files": full_size_links(folder, number, one, judge)}
        for number, (row, one) in enumerate(zip(shown, looks, strict=True), start=1)
    ]
    failed = rows.filter(pc.field("status") != "scored").slice(0, MAX_FAILED).to_pylist()
    html = page.render(
        "night.html",
        title="All runs" if night.run == ALL_RUNS else f"Night of {page.when(night.run)}",
        page_id=f"{night.run}/{digest[:12]}",
        night=night,
        folder=page.shared_folder([row["image"] for row in shown + failed]),
        counts=_counts(rows, summary),
        judge=judge,
        digest=digest,
        threshold=threshold,
        n_photographs=_sum(_is_photograph(scored)),
        queue=cards[:n_worst],
        passed=cards[n_worst:],
        queue_groups=sorted({card["group"] for card in cards[:n_worst]}),
        photographs=[
            _whole(number, row, whole, threshold, small, large, config.mm_per_px)
            for number, (row, whole) in enumerate(wholes, start=1)
        ],
        failed=failed,
        reasons=_reasons(rows),
        groups=_groups(rows),
        histogram=charts.score_histogram({"scored": _finite(scored)}, threshold, "scores"),
        trend=_trend(night.summaries, judge.alarm_rate),
        colour_bar=charts.colour_bar(top, HEADS[judge.model.spec.head].unit, "scale") if judge.model else "",
        drift=_drift(summary.get("drift")),
        mm_per_px=config.mm_per_px,
    )
    figures = {
        "run": night.run,
        "images": rows.num_rows,
        "flagged": _sum(rows["flagged"]),
        **page.shown_figures(looks, judge),
    }
    return Rendered(html, figures, [row["image"] for row in shown], judge.model, top)


def _sum(column: pa.ChunkedArray) -> int:
    return int(pc.sum(column).as_py() or 0)


def _is_photograph(rows: pa.Table) -> pa.ChunkedArray:
    """Whether each row is an image of several tiles."""
    return pc.greater(pc.multiply(rows["rows"], rows["cols"]), 1)


def _finite(scored: pa.Table) -> np.ndarray:
    scores_N = scored["score"].to_numpy()
    return np.asarray(scores_N[np.isfinite(scores_N)])


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
        "flagged": _sum(rows["flagged"]),
        "images_per_s": summary.get("images_per_s"),
        "seconds": summary.get("seconds"),
        "skipped": int(summary.get("skipped_files", 0)),
    }


def _card(row: dict[str, Any], seen: Look, shots: Shots, mm_per_px: float | None) -> dict[str, Any]:
    """One image of the page: its numbers, its pictures, and its row for the verdicts."""
    drawn = []
    if seen.whole is not None:
        boxed_elsewhere = bool(seen.whole.anomaly_hw is not None)
        drawn.append(shots.shot("picture", seen.whole.picture_hw, seen.whole.box))
        drawn += shots.anomaly(seen.whole) if boxed_elsewhere else []
    if seen.near is not None:
        drawn.append(shots.shot("around the worst tile", seen.near.picture_hw, seen.near.box))
        drawn += shots.anomaly(seen.near)
    verdict_columns = ("image", "group", "score", "p_value", "flagged", "run", "model")
    return row | {
        "data": page.as_json({name: row[name] for name in verdict_columns}),
        "shots": drawn,
        "problem": seen.problem,
        "crack": page.crack_text(seen.crack, mm_per_px),
        "is_photograph": row["rows"] * row["cols"] > 1,
    }


def _photographs(rows: list[dict[str, Any]], judge: Judge) -> list[tuple[dict[str, Any], Photograph]]:
    """Large photographs, explained whole."""
    if judge.model is None:
        return []
    explained = [(row, pictures.photograph(row, judge.model, WORST_TILES)) for row in rows]
    return [(row, whole) for row, whole in explained if whole is not None]


def _whole(
    number: int,
    row: dict[str, Any],
    whole: Photograph,
    threshold: float,
    small: Shots,
    large: Shots,
    mm_per_px: float | None,
) -> dict[str, Any]:
    return row | {
        "shots": [
            large.shot("photograph, worst tile boxed", whole.view.picture_hw, whole.view.box),
            *large.anomaly(whole.view, "anomaly map, stitched from the tiles"),
        ],
        "grid": charts.tile_grid(whole.tile_scores, threshold, f"tiles-{number}"),
        "worst": [
            {"x": x, "y": y, "score": score, "shot": small.shot(f"tile at {x}, {y}", pixels_hw)}
            for x, y, score, pixels_hw in whole.worst
        ],
        "crack": page.crack_text(whole.crack, mm_per_px),
        "tiles_flagged": int((whole.tile_scores > threshold).sum()),
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


def _trend(summaries: list[dict[str, Any]], alarm_rate: float) -> str:
    """Chart of the last runs that scored anything; one run is no trend."""
    runs = [one for one in summaries if int(one.get("scored", 0)) > 0][-MAX_RUNS:]
    if len(runs) < 2:
        return ""

    def share(name: str) -> list[float]:
        return [int(one.get(name, 0)) / (int(one["scored"]) + int(one.get("unreadable", 0))) for one in runs]

    names = [page.when(one["run"]).removesuffix(" UTC")[5:] for one in runs]
    expected = None if np.isnan(alarm_rate) else alarm_rate
    return charts.trend(names, {name: share(name) for name in ("flagged", "unreadable")}, expected, "trend")


def _drift(drift: object) -> dict[str, Any] | None:
    """What the run's summary says about drift, or None: a verdict, and rows with group, measure, value and verdict."""
    if not isinstance(drift, dict) or "verdict" not in drift:
        return None
    rows = next((value for value in drift.values() if isinstance(value, list)), [])
    kept = [row for row in rows if isinstance(row, dict) and {"group", "measure", "value", "verdict"} <= set(row)]
    return {"verdict": str(drift["verdict"]), "rows": kept}
