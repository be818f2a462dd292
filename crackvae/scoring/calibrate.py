"""Calibrate a model on sound images that it was not trained on."""

import csv
import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from crackvae import metrics
from crackvae.config import CalibrateConfig
from crackvae.errors import ManifestError, StorageError
from crackvae.images.groups import with_groups
from crackvae.images.manifest import listing_of, load_manifest
from crackvae.model import calibration
from crackvae.model.artifact import load_model
from crackvae.model.calibration import Calibration, conformal_threshold, percentile_threshold
from crackvae.model.inference import Scorer
from crackvae.monitoring import histograms
from crackvae.results import Result
from crackvae.scoring.actors import require_scored, score_all
from crackvae.storage import fileio, filesystems, uris
from crackvae.storage.listing import list_images

# ------------------------------------------------------------------------------------------------- calibrate


@filesystems.with_s3_endpoint
def calibrate(config: CalibrateConfig) -> Result:
    """Score sound images and set the model's threshold from them; replaces calibration.json.

    Returns:
        Result with the table `calibration`.

    Raises:
        CalibrationError: the images cannot carry the promise; calibration.json stays as it was.
        StorageError, ManifestError, ModelError, ClusterError: with the mend.
    """
    model_dir = uris.absolute(config.model)
    model = load_model(model_dir)
    if config.manifest:
        manifest = load_manifest(config.manifest)
        images, leaky, source = listing_of(manifest.images("val", "non_crack")), manifest.leaky, "val non_crack"
    else:
        images, leaky, source = _sound_images(config.images), False, "sound image"
    calibration.require_enough(images.num_rows)
    blank = Calibration(np.zeros(1, np.float32), 1, "", float("inf"), model.digest, leaky=leaky)
    scored = score_all(images, Scorer(model, blank), config)
    left_out = scored.filter(pc.field("status") != "scored").num_rows
    if config.manifest or left_out == scored.num_rows:
        require_scored(scored)
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
    reference = histograms.histograms_file(histograms.reference_of(scored, made))
    fileio.write_bytes(uris.join(model_dir, histograms.REFERENCE_FILE), reference)
    fileio.write_bytes(uris.join(model_dir, calibration.FILE), calibration.calibration_file(made))
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
    return Result(summary, shown)


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
        raise StorageError(f"{found.source} holds no images ({found.skipped} other files): check --images.")
    return with_groups(found, "parent")


VERDICTS = ("crack", "sound", "unsure")


def read_verdicts(place: str) -> dict[str, str]:
    """The verdict on each image: crack, sound or unsure.

    Columns other than image and verdict are not read, and rows without a verdict are skipped, so the file may have been
    through a spreadsheet.

    Raises:
        StorageError: not there.
        ManifestError: not such a file, a verdict of another name, or two verdicts on one image.
    """
    data = fileio.read_bytes(place)
    try:
        text = data.decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{place} is no CSV in UTF-8 ({error}): download it from the page again.") from error
    if not rows and not text.startswith("image,"):
        raise ManifestError(f"{place} holds no verdicts: download verdicts.csv from a page of crackvae.")
    found: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        if row.get("image") is None or row.get("verdict") is None:
            raise ManifestError(
                f"{place}: row {number} lacks the columns image and verdict: "
                "download verdicts.csv from a page of crackvae, or save it with commas."
            )
        image, verdict = row["image"], row["verdict"].strip()
        if verdict and verdict not in VERDICTS:
            raise ManifestError(f"{place}: {verdict!r} on {image} is not one of {', '.join(VERDICTS)}: mend the file.")
        if verdict and found.setdefault(image, verdict) != verdict:
            raise ManifestError(f"{place}: {image} is called {found[image]} and {verdict}: keep one of the two rows.")
    return found


def read_cracks(place: str) -> set[str]:
    """The images that a person called cracks. Raises as read_verdicts() does."""
    return {image for image, verdict in read_verdicts(place).items() if verdict == "crack"}
