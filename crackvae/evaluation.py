"""The verb `evaluate`: score a labelled split, then compute metrics and write predictions."""

import itertools
import json
import time
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from crackvae import metrics
from crackvae.config import EvaluateConfig
from crackvae.console import progress, say
from crackvae.errors import CrackvaeError, ManifestError
from crackvae.images import pictures
from crackvae.images.decoding import masks
from crackvae.images.manifest import Manifest, listing_of, load_manifest
from crackvae.model import builtin
from crackvae.model.artifact import Model
from crackvae.model.heads import BASELINE, heads_of
from crackvae.model.image_scores import images_by_tiles
from crackvae.model.inference import Scorer, explain, load_scorer
from crackvae.reports.evaluation_files import METRICS_FILE, PAGE_FILE, TABLE_FILE
from crackvae.reports.matplotlib_folder import matplotlib_folder
from crackvae.results import Result
from crackvae.scoring.actors import require_scored, score_all
from crackvae.storage import fileio, filesystems, tables, uris
from crackvae.storage.listing import list_images
from crackvae.storage.tables.measures import MEASURES_SCHEMA

# Images of each label whose anomaly maps are compared with masks: 500 of METU's size are 100 MB of maps.
MAX_MAPS = 500

PREDICTIONS = {"non_crack": "non_cracked_concrete_predictions.csv", "crack": "cracked_concrete_predictions.csv"}


@filesystems.with_s3_endpoint
def evaluate(config: EvaluateConfig) -> Result:
    """Evaluate a model on a split of the internal set and, if the manifest has one, on the external set.

    Returns:
        Result with, for each set, the table of figures with 95 % intervals and the confusion matrix.

    Raises:
        OutputExists, ManifestError, ModelError, StorageError, ArchiveError, ClusterError: the message says how to fix
            it.
    """
    started = time.perf_counter()
    out = uris.absolute(config.out)
    fileio.require_new(out, "--out")
    manifest, scorer = load_manifest(config.manifest), load_scorer(config.model)
    images = _images(manifest, config)
    masks_of_set = _masks_of_sets(images, config.masks)  # before the work, not after it
    extra_heads = tuple(head for head in (*heads_of(scorer.model.spec), BASELINE) if head != scorer.model.spec.head)
    scored = score_all(listing_of(images), scorer, config, extra_heads).drop_columns(MEASURES_SCHEMA.names)
    require_scored(scored)
    for column in ("split", "set", "label"):
        scored = scored.add_column(len(tables.SCORES_SCHEMA), column, images[column])
    manifest.say_if_not_trained_on({config.model: scorer.model.spec.manifest})
    leaky = scorer.leaky or manifest.leaky
    sets: dict[str, Any] = {}
    shown: dict[str, pd.DataFrame] = {}
    for name, mask_of in masks_of_set.items():
        title = f"{_title(name, config)}{' (leaky)' if leaky else ''}"
        rows = scored.filter(pc.field("set") == name)
        sets[name], figures = _evaluate_set(rows, scorer, extra_heads, config)
        if mask_of:
            pixels = _evaluate_pixels(rows, mask_of, scorer.model, config.quiet)
            sets[name]["pixels"], figures["anomaly maps against the masks"] = pixels["value"].to_dict(), pixels
        shown |= {f"{title}: {what}": table for what, table in figures.items()}
    summary = {
        "verb": "evaluate",
        "out": out,
        "model": scorer.model.digest,
        "model_dir": builtin.name_of(config.model),
        "head": scorer.model.spec.head,
        "manifest": manifest.digest,
        "split": config.split,
        "leaky": leaky,
        "threshold": scorer.calibration.threshold,
        "level": scorer.calibration.level,
        "one_per_group": config.one_per_group,
        "sets": sets,
        "seconds": round(time.perf_counter() - started, 1),
    }
    fileio.write_folder(out, _page(scored, summary, config) | _files(scored, list(sets), summary))
    return Result(summary, shown)


def _images(manifest: Manifest, config: EvaluateConfig) -> pa.Table:
    """Rows of the manifest to evaluate: the internal split, then the external set if there is one.

    Raises:
        ManifestError: a set has no image of one of the labels, or none is left with one image of each group.
    """
    sets = [manifest.images(config.split), manifest.images("test", image_set="external")]
    images = chosen = pa.concat_tables(sets)
    if config.one_per_group:
        chosen = images.take(metrics.one_per_group(images["group"].to_numpy(), config.seed))
    for name, label in itertools.product(_sets_of(images) or ["internal"], PREDICTIONS):
        wanted = (pc.field("set") == name) & (pc.field("label") == label)
        if chosen.filter(wanted).num_rows:
            continue
        lacks, advice = f"has no {label} image", "add some, and partition again"
        if images.filter(wanted).num_rows:
            lacks += " left with --one-per-group"
            advice = "try another --seed, or evaluate without --one-per-group"
        raise ManifestError(
            f"{config.manifest}: {_title(name, config)} {lacks}, and an evaluation needs images of both "
            f"labels: {advice}."
        )
    return chosen


def _sets_of(images: pa.Table) -> list[str]:
    return list(dict.fromkeys(images["set"].to_pylist()))


def _title(name: str, config: EvaluateConfig) -> str:
    return f"{name} {config.split if name == 'internal' else 'set'}"


def _evaluate_set(
    rows: pa.Table, scorer: Scorer, extra_heads: tuple[str, ...], config: EvaluateConfig
) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """The entry of one set in metrics.json, and its tables for people."""
    figures, counts = _metrics(rows, config)
    sound = rows.filter(pc.field("label") == "non_crack")
    ranked = _heads(rows, scorer.model.spec.head, figures, extra_heads, config)
    result = {
        "images": rows.num_rows,
        "promised_false_alarm_rate": scorer.calibration.promise_of(
            images_by_tiles(sound), len(sound["group"].unique())
        ),
        "figures": figures.to_dict(orient="index"),
        "confusion": counts.to_dict(orient="index"),
        "heads": {head: table.to_dict(orient="index") for head, table in ranked.items()},
    }
    shown = {
        "figures with 95 % intervals": figures,
        "confusion matrix": counts,
        "each head, and one line of numpy": _side_by_side(ranked),
    }
    return result, shown


def _masks_of_sets(images: pa.Table, folder: str) -> dict[str, dict[str, str]]:
    """The masks of each set by cracked image, for up to MAX_MAPS images that have one; none without a folder.

    Raises:
        ManifestError: no image of any set has a mask, or one has another size than its image.
    """
    found: dict[str, dict[str, str]] = {name: {} for name in _sets_of(images)}
    if not folder:
        return found
    cracks = images.filter(pc.field("label") == "crack")
    mask_of = masks.masks_of(cracks["image"].to_pylist(), list_images(folder).images["image"].to_pylist())
    if not mask_of:
        raise ManifestError(f"--masks {folder} holds no mask named like a cracked image: check the folder.")
    for name, image in zip(cracks["set"].to_pylist(), cracks["image"].to_pylist(), strict=True):
        if image in mask_of and len(found[name]) < MAX_MAPS:
            masks.require_size(image, masks.read_mask(mask_of[image]), pictures.pixels_if_readable(image))
            found[name][image] = mask_of[image]
    return found


def _evaluate_pixels(rows: pa.Table, mask_of: dict[str, str], model: Model, quiet: bool) -> pd.DataFrame:
    """Pixel metrics of the cracked images that have a mask and of as many sound ones."""
    sound = rows.filter(pc.field("label") == "non_crack")["image"].to_pylist()
    chosen = [*mask_of, *sound[: len(mask_of)]]
    maps, truth = [], []
    with progress("maps", len(chosen), "images", quiet=quiet) as bar:
        for name in chosen:
            pixels_HW = pictures.read_pixels(name)
            mask_HW = masks.read_mask(mask_of[name]) if name in mask_of else np.zeros(pixels_HW.shape, bool)
            maps.append(explain(model, pixels_HW).anomaly_HW)
            truth.append(mask_HW)
            bar.update(1)
    return metrics.pixel_figures(maps, truth)


def _page(scored: pa.Table, summary: dict[str, Any], config: EvaluateConfig) -> dict[str, bytes | memoryview]:
    """The page of this evaluation, unless --no-report; it is optional, and needs a folder that Matplotlib can use."""
    if config.no_report:
        return {}
    try:
        with matplotlib_folder(uris.parent(summary["out"])), progress("report", 1, "page", quiet=config.quiet) as bar:
            from crackvae.reports.evaluation_page import evaluation_page  # imported here: it imports Matplotlib
            from crackvae.reports.page import PageSettings

            html = evaluation_page(scored, summary, PageSettings(model_dir=config.model)).html
            bar.update(1)
    except (OSError, CrackvaeError) as error:
        say(f"no page: {uris.reason(error)} Tables and figures of {summary['out']} are written.", quiet=False)
        return {}
    return {PAGE_FILE: html}


def _metrics(rows: pa.Table, config: EvaluateConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    scored = metrics.Scored(
        is_crack_N=rows["label"].to_numpy() == "crack",
        scores_N=rows["score"].to_numpy(),
        groups_N=rows["group"].to_numpy(),
        flagged_N=rows["flagged"].to_numpy(),
    )
    figures = metrics.with_intervals(scored, config.resamples, config.seed)
    return figures, metrics.confusion(scored.is_crack_N, scored.flagged_N)


def _heads(
    rows: pa.Table, own: str, figures: pd.DataFrame, extra_heads: tuple[str, ...], config: EvaluateConfig
) -> dict[str, pd.DataFrame]:
    """Ranking figures of the model's own head, of its other heads and of the baseline, on the same images."""
    is_crack_N, groups_N = rows["label"].to_numpy() == "crack", rows["group"].to_numpy()
    ranked = {own: figures.loc[list(metrics.RANKING_NAMES)]}
    for head in extra_heads:
        scores_N = rows[f"score_{head}"].to_numpy()
        ranked[head] = metrics.ranking_with_intervals(is_crack_N, scores_N, groups_N, config.resamples, config.seed)
    return ranked


def _side_by_side(ranked: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One column per head, each cell a value with its interval, for people."""
    return pd.DataFrame(
        {
            head: [f"{row.value:.4f} ({row.low:.4f}-{row.high:.4f})" for row in table.itertuples()]
            for head, table in ranked.items()
        },
        index=list(metrics.RANKING_NAMES),
    )


def _files(scored: pa.Table, sets: list[str], summary: dict[str, object]) -> dict[str, bytes | memoryview]:
    """Files of an evaluation. The predictions are those of the external set, or else of the internal split."""
    files: dict[str, bytes | memoryview] = {TABLE_FILE: tables.parquet_bytes(scored)}
    for name in sets:
        prefix = "internal_" if name == "internal" and len(sets) > 1 else ""
        for label, file in PREDICTIONS.items():
            wanted = (pc.field("set") == name) & (pc.field("label") == label)
            files[prefix + file] = tables.csv_bytes(_predictions(scored.filter(wanted)))
    return files | {METRICS_FILE: json.dumps(summary, indent=1).encode()}


def _predictions(rows: pa.Table) -> pa.Table:
    images = rows["image"].to_pylist()
    folders = [uris.parent(image) for image in images]
    return pa.table(
        {
            "folder": folders,
            "file_name": [uris.relative(image, folder) for image, folder in zip(images, folders, strict=True)],
            "prediction": pc.if_else(rows["flagged"], "crack", "non_crack"),
            "error": rows["score"],
            "p_value": rows["p_value"],
        }
    )
