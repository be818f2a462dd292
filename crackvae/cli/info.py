"""The verb `info`: in about ten lines, what a model, a scores table or a manifest is."""

import json
from collections import Counter
from typing import Any

import pandas as pd

from crackvae.config import BUILTIN, InfoConfig
from crackvae.errors import ModelError, StorageError
from crackvae.images.manifest import FILE as MANIFEST_FILE
from crackvae.images.manifest import METADATA_KEY, load_manifest
from crackvae.model import builtin
from crackvae.model.artifact import MODEL_FILE, TRAINING_FILE, load_model
from crackvae.model.calibration import load_calibration
from crackvae.model.inference import Scorer
from crackvae.model.registry import model_folder
from crackvae.results import Result
from crackvae.storage import fileio, tables, uris
from crackvae.storage.filesystems import with_s3_endpoint
from crackvae.storage.names.run_files import run_of_part

# Columns of the scores table that the overview needs.
COLUMNS = ("image", "group", "model", "run", "status", "flagged")


@with_s3_endpoint
def info(config: InfoConfig) -> Result:
    """Describe a model directory, the folder of a scores table, or a manifest; a damaged one is an error.

    Returns:
        Result with one table of about ten rows.

    Raises:
        StorageError: there is none of the three at the path.
        ModelError, ManifestError, LeakError: it is damaged or was altered.
    """
    path = model_folder(config.path)
    kind, facts = ("model", _model(path)) if path == BUILTIN else _facts(path)
    summary = {"verb": "info", "kind": kind, "path": path, **facts}
    shown = {name.replace("_", " "): value for name, value in {"path": path, **facts}.items()}
    return Result(summary, {kind: pd.DataFrame({"value": list(map(_text, shown.values()))}, index=list(shown))})


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count} {name}" for name, count in value.items()) or "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def _facts(path: str) -> tuple[str, dict[str, Any]]:
    """Kind of the thing at a path, and what there is to say about it."""
    if not fileio.is_folder(path):
        folder = uris.parent(path)
        if run_of_part(uris.relative(path, folder)):
            raise _a_part(path, folder)
        return "manifest", _manifest(path)
    if fileio.exists(uris.join(path, MODEL_FILE)):
        return "model", _model(path)
    if fileio.exists(uris.join(path, MANIFEST_FILE)):
        return "manifest", _manifest(uris.join(path, MANIFEST_FILE))
    parts = tables.list_parts(path)
    if parts:
        return "scores", _scores(path, parts)
    raise StorageError(f"{path} holds no model, no scores table and no manifest: check the path.")


def _model(path: str) -> dict[str, Any]:
    model = load_model(path)
    spec = model.spec
    try:
        training = json.loads(fileio.read_bytes(uris.join(builtin.folder_of(path), TRAINING_FILE)))
    except (StorageError, ValueError):  # only a record of the training; the model works without it
        training = {}
    facts = {
        "digest": model.digest,
        "head": spec.head,
        "tile": f"{spec.tile_px} px of the image, every {spec.stride_px} px, {spec.input_px} px at the network's input",
        "parameters": sum(weights.numel() for weights in model.network.parameters()),
        **_trained(training),
        "leaky": spec.leaky,
    }
    if spec.head == "evidence":
        facts["darkness_weight"] = _darkness(spec.darkness_weight, training)
    if spec.mirrors > 1:
        facts["mirrors"] = spec.mirrors
    if spec.backbone != "none":
        facts["backbone"] = spec.backbone
    try:
        calibration = load_calibration(path, model.digest)
    except ModelError as error:
        return facts | {"threshold": f"none: {error}"}
    return facts | {
        "leaky": Scorer(model, calibration).leaky,
        "threshold": calibration.threshold,
        "level": calibration.level,
        "calibration_images": len(calibration.scores_N),
        "calibration_groups": calibration.groups,
    }


def _trained(training: dict[str, Any]) -> dict[str, Any]:
    """When the weights were trained, and on how many images; images that only set the threshold are not among them."""
    finished, verb = training.get("finished", "unknown"), training.get("verb", "train")
    kept_by_adapt = training.get("quick") or (training.get("choice") or {}).get("kept") == "starting"
    if kept_by_adapt or (verb == "learn" and not training.get("held_out", {}).get("are_found_better")):
        before = "those of the model that it was made from, whose weights it has"
        return {"trained": f"before: only the threshold was set, {finished}", "trained_on_images": before}
    images = training.get("images" if verb == "train" else "trained_on_images", "unknown")
    if start := training.get("from"):
        images = f"{images}, after those of the model {start[:12]}"
    return {"trained": finished, "trained_on_images": images}


def _scores(path: str, parts: dict[str, list[str]]) -> dict[str, Any]:
    folder = uris.parent(path)
    if uris.relative(path, folder).startswith("_"):
        raise _a_part(path, folder)
    rows = tables.read_scores(path, COLUMNS)
    runs = sorted(parts)
    models = Counter(rows["model"].to_pylist())
    rows = tables.latest_of_each(rows)
    return {
        "images": rows.num_rows,
        "status": dict(Counter(rows["status"].to_pylist()).most_common()),
        "flagged": sum(rows["flagged"].to_pylist()),
        "groups": len(set(rows["group"].to_pylist())),
        "models": {digest[:12]: count for digest, count in models.most_common()},
        "runs": len(runs),
        "first_run": runs[0],
        "last_run": runs[-1],
        "parts": sum(map(len, parts.values())),
    }


def _a_part(path: str, folder: str) -> StorageError:
    return StorageError(f"{path} is a part of the scores in {folder}: name that folder.")


def _darkness(weight: float, training: dict[str, Any]) -> str:
    """The weight of the darkness, and which images of val chose it if the record of `train` says so."""
    if val_cracks := training.get("val_cracks", 0):
        return f"{weight:g}, chosen on {val_cracks} labelled cracked images of val, none of them trained on"
    return f"{weight:g}, chosen on sound tiles of val" if "darkness_weight" in training else f"{weight:g}"


def _manifest(path: str) -> dict[str, Any]:
    manifest = load_manifest(path)
    notes = json.loads((manifest.table.schema.metadata or {})[METADATA_KEY])
    rows = manifest.table.to_pandas()
    where = rows["set"].where(rows["set"] == "external", rows["split"]) + " " + rows["label"]
    return {
        "digest": manifest.digest,
        "images": manifest.table.num_rows,
        "split": {str(name): int(count) for name, count in where.value_counts().items()},
        "groups": int(rows["group"].nunique()),
        "group_by": notes.get("group_by", "unknown"),
        "source": notes.get("images", "unknown"),
        "seed": notes.get("seed", "unknown"),
        "leaky": manifest.leaky,
    }
