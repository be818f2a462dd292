"""The page of an evaluation: missed cracks and false alarms, worst first, and all metrics."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from crackvae import metrics
from crackvae.model.heads import BASELINE
from crackvae.model.inference import find_recorded_model, threads
from crackvae.reports import charts, page, views
from crackvae.reports.charts import curves
from crackvae.reports.page import PageSettings, Rendered, Thumbnails, full_size_links
from crackvae.reports.photographs import is_photograph
from crackvae.reports.views import ImageView
from crackvae.storage import tables

# Number of images in each gallery of correct decisions.
N_CORRECT = 8

MAX_GROUPS = 15

# In the order of the page: name, cracked, flagged, heading, order in words, whether the highest scores come first.
GALLERIES = (
    ("missed", True, False, "Missed cracks (false negatives)", "lowest score first", False),
    ("alarms", False, True, "False alarms (false positives)", "highest score first", True),
    ("found", True, True, "Cracks found", "closest to the threshold first", False),
    ("sound", False, False, "Sound images not flagged", "closest to the threshold first", True),
)

FIGURE_KEYS = {"value", "low", "high"}


def evaluation_page(scored: pa.Table, summary: dict[str, Any], settings: PageSettings) -> Rendered:
    """The page of an evaluation.

    Args:
        scored: SCORES_SCHEMA (tile scores may be missing) with label and set; every further numeric column is the score
            of another method on the same images, and gets its own curves.
        summary: the content of metrics.json.
        settings: of which an evaluation uses model_dir, n_worst and full_size_folder.

    Raises:
        ModelError: settings.model_dir holds another model than that of the scores.
    """
    digest, threshold = str(summary["model"]), float(summary["threshold"])
    recorded = find_recorded_model(settings.model_dir, str(summary.get("model_dir", "")), digest, threshold)
    chosen = {name: _galleries(scored.filter(pc.field("set") == name), settings.n_worst) for name in summary["sets"]}
    rows = [row for galleries in chosen.values() for gallery in galleries for row in gallery["rows"]]
    with threads() as executor:
        image_views = list(executor.map(lambda row: views.view_image(row, recorded.model), rows))
    vmax = views.shared_vmax([one.closest for one in image_views if one.closest is not None])
    thumbnails = Thumbnails(3 * len(image_views), vmax)
    cards = iter(
        _card(row, one, thumbnails, full_size_links(settings.full_size_folder, number, one, recorded))
        for number, (row, one) in enumerate(zip(rows, image_views, strict=True), start=1)
    )
    html = page.render(
        "evaluation.html",
        title=f"Evaluation of {summary.get('model_dir', '').rstrip('/').rpartition('/')[-1] or digest[:12]}",
        page_id=f"evaluation/{digest[:12]}",
        summary=summary,
        folder=page.shared_folder([row["image"] for row in rows]),
        digest=digest,
        threshold=threshold,
        recorded=recorded,
        baseline=BASELINE,
        sets=[
            _set(name, scored.filter(pc.field("set") == name), summary, galleries, cards)
            for name, galleries in chosen.items()
        ],
        colour_bar=page.colour_bar(vmax, recorded),
    )
    figures = {"run": "", "images": scored.num_rows, **page.shown_figures(image_views, recorded)}
    return Rendered(html, figures, [row["image"] for row in rows], recorded.model, vmax)


def _galleries(rows: pa.Table, n_errors: int) -> list[dict[str, Any]]:
    """The rows of each gallery in their order, and the total number of images."""
    galleries = []
    for name, is_crack, flagged, title, order, highest_first in GALLERIES:
        label = "crack" if is_crack else "non_crack"
        of_it = rows.filter((pc.field("label") == label) & (pc.field("flagged") == flagged))
        n = n_errors if is_crack != flagged else min(n_errors, N_CORRECT)
        worst = of_it.sort_by([("score", "descending" if highest_first else "ascending"), ("image", "ascending")])
        galleries.append(
            {"id": name, "title": title, "order": order, "total": of_it.num_rows, "rows": worst.slice(0, n).to_pylist()}
        )
    return galleries


def _card(
    row: dict[str, Any], image_view: ImageView, thumbnails: Thumbnails, files: list[tuple[str, str]]
) -> dict[str, Any]:
    """One image of a gallery: original, reconstruction and anomaly map of its most anomalous region."""
    pictures = []
    view = image_view.closest
    if view is not None:
        original, *anomaly = thumbnails.pair(view, "original")
        pictures.append(original)
        if view.reconstruction_hw is not None:
            pictures.append(thumbnails.picture("reconstruction", view.reconstruction_hw))
        pictures += anomaly
    return row | {"thumbnails": pictures, "problem": image_view.problem, "files": files}


def _set(
    name: str, rows: pa.Table, summary: dict[str, Any], galleries: list[dict[str, Any]], cards: Iterator[dict[str, Any]]
) -> dict[str, Any]:
    """The template variables of one set of images."""
    threshold, head = float(summary["threshold"]), str(summary.get("head", "model"))
    is_crack_N = rows["label"].to_numpy() == "crack"
    scores_N = rows["score"].to_numpy()
    flagged_N = rows["flagged"].to_numpy(zero_copy_only=False)
    weights_N = np.ones(len(is_crack_N))
    scorers = {head: scores_N, **_further_scores(rows)}
    points = {
        page.scorer_name(label): metrics.operating_points(is_crack_N, values_N, weights_N)
        for label, values_N in scorers.items()
    }
    n_crack, n_sound = int(is_crack_N.sum()), int((~is_crack_N).sum())
    at = (float(flagged_N[~is_crack_N].mean()), float(flagged_N[is_crack_N].mean()))
    labelled = {"sound": scores_N[~is_crack_N], "crack": scores_N[is_crack_N]}
    return {
        "name": name,
        "title": f"{name} {summary.get('split', '') if name == 'internal' else 'set'}".strip(),
        "images": rows.num_rows,
        "cracks": n_crack,
        "found": int(flagged_N[is_crack_N].sum()),
        "sound": n_sound,
        "alarms": int(flagged_N[~is_crack_N].sum()),
        "expected": summary["sets"][name].get("promised_false_alarm_rate"),
        "has_photographs": pc.any(is_photograph(rows)).as_py(),
        "histogram": charts.score_histogram(labelled, threshold, f"{name}-scores"),
        "roc": curves.roc(points, at, n_sound, n_crack, f"{name}-roc"),
        "precision_recall": curves.precision_recall(
            points, metrics.PREVALENCE, at, n_crack, f"{name}-precision-recall"
        ),
        "confusion": metrics.confusion(is_crack_N, flagged_N).to_dict(orient="index"),
        "figures": _figures(summary["sets"][name], head),
        "galleries": [gallery | {"cards": [next(cards) for _ in gallery["rows"]]} for gallery in galleries],
        "groups": _worst_groups(rows),
    }


def _further_scores(rows: pa.Table) -> dict[str, np.ndarray]:
    """Complete score columns of other methods by name, the baseline first."""
    names = [
        name
        for name in rows.column_names
        if name not in tables.SCORES_SCHEMA.names and pa.types.is_floating(rows.schema.field(name).type)
    ]
    columns = {name.removeprefix("score_"): rows[name].to_numpy() for name in names}
    complete = {name: values for name, values in columns.items() if len(values) and np.isfinite(values).all()}
    return dict(sorted(complete.items(), key=lambda item: item[0] != BASELINE))


def _figures(entry: dict[str, Any], head: str) -> pd.DataFrame:
    """Table of metrics, one column per scorer (the model, the baseline, further heads), each cell with its interval.

    The metrics of the model are under `figures`; every other value of the same form belongs to another scorer.
    """
    by_scorer: dict[str, dict[str, Any]] = {}
    for key, value in entry.items():
        for name, table in {head if key == "figures" else key: value, **_inner(value)}.items():
            if _is_figures(table):
                by_scorer[name] = by_scorer.get(name, {}) | table  # `figures` has more metrics than `heads`
    by_scorer = dict(sorted(by_scorer.items(), key=lambda item: (item[0] != head, item[0] != BASELINE)))
    names = list(dict.fromkeys(name for table in by_scorer.values() for name in table))
    return pd.DataFrame(
        {scorer: [table.get(name) for name in names] for scorer, table in by_scorer.items()}, index=names, dtype=object
    )


def _inner(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) and not _is_figures(value) else {}


def _is_figures(value: object) -> bool:
    """Whether this is a dict of metrics, each with value, low and high."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(one, dict) and set(one) >= FIGURE_KEYS for one in value.values())
    )


def _worst_groups(rows: pa.Table) -> list[dict[str, Any]]:
    """Groups with the most errors; groups of one image are left out, because the galleries show them."""
    frame = pd.DataFrame({name: rows[name].to_numpy(zero_copy_only=False) for name in ("group", "label", "flagged")})
    is_crack = frame["label"] == "crack"
    frame = frame.assign(
        cracks=is_crack, missed=is_crack & ~frame["flagged"], sound=~is_crack, alarms=~is_crack & frame["flagged"]
    )
    sums = frame.groupby("group")[["cracks", "missed", "sound", "alarms"]].sum()
    sums = sums.assign(images=sums["cracks"] + sums["sound"], wrong=sums["missed"] + sums["alarms"])
    worst = sums[(sums["images"] > 1) & (sums["wrong"] > 0)].sort_values(["wrong", "missed"], ascending=False)
    counts_by_group: dict[str, dict[str, Any]] = worst.head(MAX_GROUPS).to_dict(orient="index")  # type: ignore[assignment]
    return [{"group": group, **counts} for group, counts in counts_by_group.items()]
