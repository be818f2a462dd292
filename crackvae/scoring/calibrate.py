"""Calibrate a model on sound images that it was not trained on."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from crackvae import metrics
from crackvae.config import PUBLISHED_PERCENTILE, SEGMENTER_HEADS, CalibrateConfig
from crackvae.console import say
from crackvae.errors import ModelError, StorageError
from crackvae.images.groups import with_groups
from crackvae.images.manifest import listing_of, load_manifest
from crackvae.model import builtin, calibration
from crackvae.model.artifact import TRAINING_FILE, Model, assembled, load_model, model_files
from crackvae.model.calibration import Calibration, Sample, conformal_threshold, percentile_threshold
from crackvae.model.inference import Scorer
from crackvae.model.registry import is_registry, model_folder
from crackvae.monitoring import histograms
from crackvae.results import Result
from crackvae.scoring.actors import require_scored, score_all
from crackvae.scoring.verdicts import ExcludedCracks, find_cracks, without_cracks
from crackvae.storage import fileio, filesystems, uris
from crackvae.storage.listing import list_images

# Images that are named for a look at whether they are sound.
N_HIGHEST = 5


@filesystems.with_s3_endpoint
def calibrate(config: CalibrateConfig) -> Result:
    """Score sound images and set the model's threshold from them, in its directory or in a new one with its weights.

    Returns:
        Result with the tables `calibration` and `highest scores of sound images`: a few cracked images among them
        make the scores of cracks look usual in photographs, so they are worth a look (`verdicts` leaves them out).

    Raises:
        CalibrationError: too few images for the requested guarantee; calibration.json stays as it was.
        OutputExists, StorageError, ArchiveError, ManifestError, ModelError, ClusterError: the message says how to fix
            it.
    """
    source_dir = model_folder(config.model)
    model_dir = uris.absolute(config.out) if config.out else source_dir
    if config.out:
        fileio.require_new(model_dir, "--out")
    elif is_registry(uris.absolute(config.model)):
        raise ModelError(f"{config.model} is a registry, which keeps what was promoted: give --out, and promote that.")
    model = _with_mirrors(load_model(source_dir), config.mirrors)
    sound = _sound_images(config, model)
    calibration.require_enough(sound.images.num_rows)
    cracks = find_cracks(sound.images["image"], config.verdicts) if config.verdicts else set()
    blank = Calibration(np.zeros(1, np.float32), 1, "", float("inf"), model.digest, leaky=sound.leaky)
    scored, left_out = _scored(sound, Scorer(model, blank), config)
    source = f"{sound.source} (one per group)" if config.one_per_group else sound.source
    threshold_before, _ = _threshold(np.sort(_chosen(scored, config)["score"].to_numpy()), config, source)
    scored, excluded = without_cracks(scored, cracks, sound.images["image"])
    scored = _chosen(scored, config)
    scores_N = np.sort(scored["score"].to_numpy())
    threshold, level = _threshold(scores_N, config, source)
    if excluded.dropped:
        level += f", {excluded.dropped} excluded: labelled crack by a reviewer"
    if excluded.not_found:
        say(f"{excluded.not_found} images labelled crack are no calibration images", quiet=config.quiet)
    groups = len(set(scored["group"].to_pylist()))
    sample = Sample.of(scored["score"].to_numpy(), scored["group"].to_numpy(), _tile_scores(scored))
    made = replace(blank, scores_N=scores_N, groups=groups, level=level, threshold=threshold, sample=sample)
    _write(model_dir, model, made, histograms.reference_of(scored, made), config)
    summary = {
        "verb": "calibrate",
        "model": model_dir,
        "n": len(scores_N),
        "groups": groups,
        "level": level,
        "threshold": threshold,
        "left_out": left_out,
        "verdicts": excluded.counts() | {"threshold_before": threshold_before} if config.verdicts else {},
        "leaky": Scorer(model, made).leaky,
    }
    return Result(summary, _tables(made, excluded if config.verdicts else None, threshold_before) | _highest(scored))


def _with_mirrors(model: Model, mirrors: int | None) -> Model:
    """The model, or another one of its weights that looks at so many mirror images of a tile."""
    if mirrors is None or mirrors == model.spec.mirrors:
        return model
    if model.spec.head not in SEGMENTER_HEADS:
        raise ModelError(f"--mirrors has no effect on this model, whose head is {model.spec.head}: leave it out.")
    return assembled(replace(model.spec, mirrors=mirrors), model.network.state_dict())


def _write(
    model_dir: str, model: Model, made: Calibration, reference: histograms.NightHistograms, config: CalibrateConfig
) -> None:
    """Write the calibration, and with --out the files of the model beside it."""
    files = {
        # The reference first: no decision depends on it, should this process end between two writes.
        histograms.REFERENCE_FILE: histograms.histograms_file(reference),
        calibration.FILE: calibration.calibration_file(made),
    }
    if config.out:
        training = fileio.read_bytes(uris.join(builtin.folder_of(model_folder(config.model)), TRAINING_FILE))
        copy = model_files(model.spec, model.network.state_dict(), json.loads(training) | {"digest": model.digest})
        fileio.write_folder(model_dir, files | copy)
        return
    for name, data in files.items():
        fileio.write_bytes(uris.join(model_dir, name), data)


def _tables(made: Calibration, excluded: ExcludedCracks | None, threshold_before: float) -> dict[str, pd.DataFrame]:
    """The new calibration, and what verdicts have changed in it, for people."""
    values = {"n": len(made.scores_N), "groups": made.groups, "level": made.level, "threshold": made.threshold}
    shown = {"calibration": pd.DataFrame({"value": list(values.values())}, index=list(values))}
    if excluded:
        changed = {
            **excluded.counts(),
            "threshold with them": threshold_before,
            "threshold without them": made.threshold,
        }
        shown["verdicts"] = pd.DataFrame({"value": list(changed.values())}, index=list(changed))
    return shown


def _highest(scored: pa.Table) -> dict[str, pd.DataFrame]:
    """The images with the highest scores, for people to look at."""
    rows = scored.select(["image", "score"]).sort_by([("score", "descending"), ("image", "ascending")])
    return {"highest scores of sound images": rows.slice(0, N_HIGHEST).to_pandas().set_index("image")}


@dataclass(frozen=True)
class _SoundImages:
    """Images to calibrate on.

    Attributes:
        images: LISTING_SCHEMA and group.
        leaky: whether some may have copies among the training images.
        source: what they are, in words.
        all_needed: whether none may be missing.
    """

    images: pa.Table
    leaky: bool
    source: str
    all_needed: bool


def _sound_images(config: CalibrateConfig, model: Model) -> _SoundImages:
    """The sound validation images of a manifest, or all images of a folder, grouped by folder."""
    if config.manifest:
        manifest = load_manifest(config.manifest)
        manifest.say_if_not_trained_on({config.model: model.spec.manifest})
        return _SoundImages(listing_of(manifest.images("val", "non_crack")), manifest.leaky, "val non_crack", True)
    found = list_images(config.images, exclude=config.exclude)
    if not found.images.num_rows:
        raise StorageError(found.empty())
    return _SoundImages(with_groups(found, "parent"), False, "sound image", False)


def _scored(sound: _SoundImages, scorer: Scorer, config: CalibrateConfig) -> tuple[pa.Table, int]:
    """Rows of the images that could be scored, and the number of those that could not."""
    scored = score_all(sound.images, scorer, config)
    left_out = scored.filter(pc.field("status") != "scored").num_rows
    if sound.all_needed or left_out == scored.num_rows:
        require_scored(scored)
    return scored.filter(pc.field("status") == "scored"), left_out


def _chosen(scored: pa.Table, config: CalibrateConfig) -> pa.Table:
    """The rows, or one per group."""
    if config.one_per_group:
        scored = scored.take(metrics.one_per_group(scored["group"].to_numpy(), config.seed))
        calibration.require_enough(scored.num_rows)
    return scored


def _tile_scores(scored: pa.Table) -> list[np.ndarray]:
    """Scores of the tiles of each image, without those that show no surface."""
    per_image = (np.asarray(scores, np.float32) for scores in scored["tile_scores"].to_numpy())
    return [scores[~np.isnan(scores)] for scores in per_image]


def _threshold(scores_N: np.ndarray, config: CalibrateConfig, source: str) -> tuple[float, str]:
    """Threshold by the rule of the settings, and that rule in words."""
    if config.max_false_alarm is None:
        percentile = PUBLISHED_PERCENTILE if config.percentile is None else config.percentile
        level = f"{percentile:g}th percentile of {len(scores_N)} {source} scores"
        return percentile_threshold(scores_N, percentile), level
    confidence = f" with confidence {config.confidence:g}" if config.confidence else " on average"
    level = f"at most {config.max_false_alarm:g} false alarms{confidence}, from {len(scores_N)} {source} scores"
    return conformal_threshold(scores_N, config.max_false_alarm, config.confidence), level
