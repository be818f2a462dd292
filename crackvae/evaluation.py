"""Score a labelled split through the pipeline, then metrics and predictions; and calibrate a model on sound images."""

import json
import time
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from crackvae import calibration, histograms, imaging, metrics, storage, tables
from crackvae.calibration import Calibration, conformal_threshold, percentile_threshold
from crackvae.config import CalibrateConfig, EvaluateConfig, Outcome, ReportConfig, ScoringConfig
from crackvae.errors import ManifestError, StorageError
from crackvae.gallery import evaluation_page
from crackvae.groups import with_groups
from crackvae.listing import list_images
from crackvae.manifest import Manifest, listing_of, load_manifest
from crackvae.model import load_model
from crackvae.pipeline import new_run, score_rows, scoring_session
from crackvae.progress import progress
from crackvae.report import METRICS_FILE, PAGE_FILE, TABLE_FILE
from crackvae.scoring import BASELINE, Scorer, explain, heads_of, load_scorer
from crackvae.verdicts import read_cracks

# Images of each label whose maps are compared with masks: 500 of METU's size are 100 MB of map.
MAX_MAPS = 500
# Brighter pixels of a mask are cracked.
MASK_LEVEL = 127
PREDICTIONS = {"non_crack": "non_cracked_concrete_predictions.csv", "crack": "cracked_concrete_predictions.csv"}


@storage.with_s3_endpoint
def evaluate(config: EvaluateConfig) -> Outcome:
    """Judge a model on a split of the internal set and, where the manifest has one, on the external set.

    Returns:
        Outcome with, for each set, the table of figures with 95 % intervals and the confusion matrix.

    Raises:
        OutputExists, ManifestError, ModelError, StorageError, ClusterError: with the mend.
    """
    started = time.perf_counter()
    out = storage.absolute(config.out)
    storage.require_new(out, "--out")
    manifest, scorer = load_manifest(config.manifest), load_scorer(config.model)
    images = _images(manifest, config)
    others = tuple(head for head in (*heads_of(scorer.model.spec), BASELINE) if head != scorer.model.spec.head)
    scored = _score_all(listing_of(images), scorer, config, others).drop_columns(tables.MEASURES_SCHEMA.names)
    _require_scored(scored)
    for column in ("split", "set", "label"):
        scored = scored.add_column(len(tables.SCORES_SCHEMA), column, images[column])
    leaky = scorer.model.spec.leaky or manifest.leaky
    sets: dict[str, Any] = {}
    shown: dict[str, pd.DataFrame] = {}
    for name in dict.fromkeys(images["set"].to_pylist()):
        title = f"{name} {config.split if name == 'internal' else 'set'}{' (leaky)' if leaky else ''}"
        sets[name], figures = _judge_set(scored.filter(pc.field("set") == name), scorer, others, config)
        shown |= {f"{title}: {what}": table for what, table in figures.items()}
    summary = {
        "verb": "evaluate",
        "out": out,
        "model": scorer.model.digest,
        "model_dir": storage.absolute(config.model),
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
    storage.write_folder(out, _page(scored, summary, config) | _files(scored, list(sets), summary))
    return Outcome(summary, shown)


def _images(manifest: Manifest, config: EvaluateConfig) -> pa.Table:
    """Rows of the manifest to judge: the internal split, then the external set if there is one."""
    sets = [manifest.images(config.split), manifest.images("test", image_set="external")]
    sets = [images for images in sets if images.num_rows]
    for images in sets:
        if len(set(images["label"].to_pylist())) < 2:
            name = f"{images['set'][0]} {config.split}"
            raise ManifestError(f"{config.manifest}: {name} lacks one of the labels: partition again.")
    images = pa.concat_tables(sets)
    if config.one_per_group:
        images = images.take(metrics.one_per_group(images["group"].to_numpy(), config.seed))
    return images


def _judge_set(
    rows: pa.Table, scorer: Scorer, others: tuple[str, ...], config: EvaluateConfig
) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """What metrics.json says of one set, and the tables for people."""
    figures, counts = _judge(rows, scorer.calibration.threshold, config)
    ranked = _rank(rows, scorer.model.spec.head, figures, others, config)
    result = {
        "images": rows.num_rows,
        "promised_false_alarm_rate": scorer.calibration.promise(pc.sum(pc.equal(rows["label"], "non_crack")).as_py()),
        "figures": figures.to_dict(orient="index"),
        "confusion": counts.to_dict(orient="index"),
        "heads": {head: table.to_dict(orient="index") for head, table in ranked.items()},
    }
    shown = {
        "figures with 95 % intervals": figures,
        "confusion matrix": counts,
        "each head, and one line of numpy": _side_by_side(ranked),
    }
    if config.masks:
        pixels = _judge_pixels(rows, scorer, config)
        result["pixels"] = pixels["value"].to_dict()
        shown["anomaly maps against the masks"] = pixels
    return result, shown


def _judge_pixels(rows: pa.Table, scorer: Scorer, config: EvaluateConfig) -> pd.DataFrame:
    """Pixel figures of the cracked images that have a mask and of as many sound ones, up to MAX_MAPS of each."""
    masks = {PurePosixPath(place).stem: place for place in list_images(config.masks).images["image"].to_pylist()}
    names = {label: rows.filter(pc.field("label") == label)["image"].to_pylist() for label in ("crack", "non_crack")}
    cracks = [name for name in names["crack"] if PurePosixPath(name).stem in masks][:MAX_MAPS]
    if not cracks:
        raise ManifestError(f"--masks {config.masks} holds no mask named like a cracked image: check the folder.")
    chosen = [*cracks, *names["non_crack"][: len(cracks)]]
    maps, truth = [], []
    with progress("maps", len(chosen), "images", quiet=config.quiet) as bar:
        for number, name in enumerate(chosen):
            pixels_HW = imaging.decode(storage.read_image(name))
            mask_HW = np.zeros(pixels_HW.shape, bool)
            if number < len(cracks):
                mask_HW = imaging.decode(storage.read_image(masks[PurePosixPath(name).stem])) > MASK_LEVEL
            if mask_HW.shape != pixels_HW.shape:
                raise ManifestError(f"the mask of {name} has another size than the image: bring the right one.")
            maps.append(explain(scorer.model, pixels_HW).anomaly_HW)
            truth.append(mask_HW)
            bar.update(1)
    return metrics.pixel_figures(maps, truth)


def _page(scored: pa.Table, summary: dict[str, Any], config: EvaluateConfig) -> dict[str, bytes | memoryview]:
    """The page of this evaluation, unless it is not wanted."""
    if config.no_report:
        return {}
    how = ReportConfig(evaluation=config.out, out=PAGE_FILE, model=config.model, quiet=config.quiet)
    with progress("report", 1, "page", quiet=config.quiet) as bar:
        html = evaluation_page(scored, summary, how).html
        bar.update(1)
    return {PAGE_FILE: html}


def _score_all(images: pa.Table, scorer: Scorer, config: ScoringConfig, others: tuple[str, ...] = ()) -> pa.Table:
    """MEASURED_SCHEMA rows of a listing, in its order, with a column for each of the other heads."""
    parts = []
    with scoring_session(images, config), progress("score", images.num_rows, "images", quiet=config.quiet) as bar:
        for rows in score_rows(images, scorer, config, new_run(), others):
            parts.append(rows)
            bar.update(rows.num_rows)
    scored = pa.concat_tables(parts)
    assert scored["image"].equals(images["image"]), "rows came out in another order than they went in"
    return scored


def _require_scored(scored: pa.Table) -> None:
    """Raise ManifestError where an image has gone or changed: figures on the rest would mean something else."""
    failed = scored.filter(pc.field("status") != "scored").select(["image", "error"]).to_pylist()
    if failed:
        raise ManifestError(
            f"{len(failed)} of {scored.num_rows} images cannot be scored, the first {failed[0]['image']}: "
            f"{failed[0]['error']}. Bring them back, or partition again."
        )


def _judge(rows: pa.Table, threshold: float, config: EvaluateConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    scored = metrics.Scored(
        is_crack_N=rows["label"].to_numpy() == "crack",
        scores_N=rows["score"].to_numpy(),
        groups_N=rows["group"].to_numpy(),
        threshold=threshold,
    )
    figures = metrics.judge(scored, config.resamples, config.seed)
    return figures, metrics.confusion(scored.is_crack_N, rows["flagged"].to_numpy())


def _rank(
    rows: pa.Table, own: str, figures: pd.DataFrame, others: tuple[str, ...], config: EvaluateConfig
) -> dict[str, pd.DataFrame]:
    """Ranking figures of the model's own head, of its other heads and of the baseline, on the same images."""
    is_crack_N, groups_N = rows["label"].to_numpy() == "crack", rows["group"].to_numpy()
    ranked = {own: figures.loc[list(metrics.RANKING_NAMES)]}
    for head in others:
        scores_N = rows[f"score_{head}"].to_numpy()
        ranked[head] = metrics.rank(is_crack_N, scores_N, groups_N, config.resamples, config.seed)
    return ranked


def _side_by_side(ranked: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One column a head, each cell a value with its interval, for people."""
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
    paths = [PurePosixPath(image) for image in rows["image"].to_pylist()]
    return pa.table(
        {
            "folder": [str(path.parent) for path in paths],
            "file_name": [path.name for path in paths],
            "prediction": pc.if_else(rows["flagged"], "crack", "non_crack"),
            "error": rows["score"],
            "p_value": rows["p_value"],
        }
    )


# ------------------------------------------------------------------------------------------------- calibrate


@storage.with_s3_endpoint
def calibrate(config: CalibrateConfig) -> Outcome:
    """Score sound images and set the model's threshold from them; replaces calibration.json.

    Returns:
        Outcome with the table `calibration`.

    Raises:
        CalibrationError: the images cannot carry the promise; calibration.json stays as it was.
        StorageError, ManifestError, ModelError, ClusterError: with the mend.
    """
    model_dir = storage.absolute(config.model)
    model = load_model(model_dir)
    if config.manifest:
        manifest = load_manifest(config.manifest)
        images, leaky, source = listing_of(manifest.images("val", "non_crack")), manifest.leaky, "val non_crack"
    else:
        images, leaky, source = _sound_images(config.images), False, "sound image"
    calibration.require_enough(images.num_rows)
    blank = Calibration(np.zeros(1, np.float32), 1, "", float("inf"), model.digest, leaky=leaky)
    scored = _score_all(images, Scorer(model, blank), config)
    left_out = scored.filter(pc.field("status") != "scored").num_rows
    if config.manifest or left_out == scored.num_rows:
        _require_scored(scored)
    scored = scored.filter(pc.field("status") == "scored")
    if config.one_per_group:
        scored = scored.take(metrics.one_per_group(scored["group"].to_numpy(), config.seed))
        source = f"{source} (one a group)"
        calibration.require_enough(scored.num_rows)
    every_threshold, _ = _threshold(np.sort(scored["score"].to_numpy()), config, source)
    scored, judged = _without_cracks(scored, config.verdicts)
    scores_N = np.sort(scored["score"].to_numpy())
    threshold, level = _threshold(scores_N, config, source)
    if judged["dropped"]:
        level += f", {judged['dropped']} that a person called cracks left out"
    groups = len(set(scored["group"].to_pylist()))
    made = replace(blank, scores_N=scores_N, groups=groups, level=level, threshold=threshold)
    # The reference first: between the two writes it is the one that nobody decides by.
    reference = histograms.night_file(histograms.reference_of(scored, made))
    storage.write_bytes(storage.join(model_dir, histograms.REFERENCE_FILE), reference)
    storage.write_bytes(storage.join(model_dir, calibration.FILE), calibration.calibration_file(made))
    summary = {
        "verb": "calibrate",
        "model": model_dir,
        "n": len(scores_N),
        "groups": groups,
        "level": level,
        "threshold": threshold,
        "left_out": left_out,
        "verdicts": judged | {"threshold_before": every_threshold} if config.verdicts else {},
        "leaky": leaky or model.spec.leaky,
    }
    table = pd.DataFrame(
        {"value": [len(scores_N), groups, level, threshold]}, index=["n", "groups", "level", "threshold"]
    )
    shown = {"calibration": table}
    if config.verdicts:
        changed = {**judged, "threshold with them": every_threshold, "threshold without them": threshold}
        shown |= {"verdicts": pd.DataFrame({"value": list(changed.values())}, index=list(changed))}
    return Outcome(summary, shown)


def _threshold(scores_N: np.ndarray, config: CalibrateConfig, source: str) -> tuple[float, str]:
    """Threshold by the rule of the settings, and that rule in words."""
    if config.max_false_alarm is None:
        level = f"{config.percentile:g}th percentile of {len(scores_N)} {source} scores"
        return percentile_threshold(scores_N, config.percentile), level
    sure = f" with confidence {config.confidence:g}" if config.confidence else " on average"
    level = f"at most {config.max_false_alarm:g} false alarms{sure}, from {len(scores_N)} {source} scores"
    return conformal_threshold(scores_N, config.max_false_alarm, config.confidence), level


def _without_cracks(scored: pa.Table, file: str) -> tuple[pa.Table, dict[str, int]]:
    """The rows without those that a person called cracks, and how many images the file calls so."""
    cracks = read_cracks(file) if file else set()
    is_crack = pc.is_in(scored["image"], pa.array(sorted(cracks), pa.string()))
    dropped = int(pc.sum(is_crack).as_py() or 0)
    return scored.filter(pc.invert(is_crack)), {"called_cracks": len(cracks), "dropped": dropped}


def _sound_images(place: str) -> pa.Table:
    """Listing of a place that holds sound concrete only, grouped by folder."""
    found = list_images(place)
    if not found.images.num_rows:
        raise StorageError(f"{found.place} holds no images ({found.skipped} other files): check --images.")
    return with_groups(found, "parent")
