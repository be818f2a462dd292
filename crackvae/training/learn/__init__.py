"""[Ray] The verb `learn`: a challenger from a model and the verdicts of reviewers.

Shape letters: T tiles, P side of a tile at the input [px].
"""

import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa

from crackvae.config import LearnConfig
from crackvae.console import say
from crackvae.errors import CalibrationError, ModelError
from crackvae.model.artifact import Model
from crackvae.model.inference import Scorer, load_scorer
from crackvae.model.spec import ModelSpec
from crackvae.results import Result
from crackvae.session import ray_session
from crackvae.storage import fileio, filesystems, uris
from crackvae.training.adapt.calibrating import calibrated_on_site, meaning_of, rule_from
from crackvae.training.adapt.site import some_images
from crackvae.training.adapt.threshold import tiles_needed
from crackvae.training.learn.held_out import HeldOutCracks, cross_validated
from crackvae.training.learn.judged import JudgedNights, read_nights, worst_tiles
from crackvae.training.learn.last_layer import cells_of, fitted_change
from crackvae.training.model_writer import TrainedModel, training_record, write_model
from crackvae.training.run import hardware, require_writable_beside
from crackvae.training.tile_loader import decoded_tiles
from crackvae.training.validation import some_tiles

# The tail of the sound tiles' scores is known above their median.
MAX_RATE = 0.5
# Tiles that set the threshold, and of these the ones that judged cracks are ranked among, at most.
MAX_CALIBRATION_TILES, MAX_OTHERS = 4_000, 400


@filesystems.with_s3_endpoint
def learn(config: LearnConfig) -> Result:
    """Fit the last layer of a model to the verdicts in some folders of scores, and set its threshold.

    Its weights stay those of the model unless judged cracks rank higher with weights that were learned without them.
    Whole groups of images either teach the network or set the threshold.

    Returns:
        Result with the table `verdicts`, and that of the validation on synthetic cracks.

    Raises:
        ManifestError: there are no verdicts, or images cannot be read.
        CalibrationError: too few images, with the number needed.
        OutputExists, StorageError, ModelError, ClusterError: with the way to fix it.
    """
    started = time.perf_counter()
    out = uris.absolute(config.out)
    fileio.require_new(out, "--out")
    require_writable_beside(out)
    champion = load_scorer(config.model)
    base, rate = champion.model, _rate(champion, config)
    rule = rule_from(champion.calibration, rate, config)
    nights = read_nights(config.scores, base.spec, config.group_by, config.seed)
    _require_enough(nights, tiles_needed(rate, config.max_cracked))
    with ray_session(config):
        tiles_TPP, images = _calibration_tiles(nights, base.spec, config)
        judged_images, _ = nights.chosen("train", "crack", "sound")
        judged_TPP, judged_images = worst_tiles(judged_images, "judged", base.spec, quiet=config.quiet)
        measured_on = hardware(gpu=False)
    spec = replace(base.spec, manifest=nights.digest, seed=config.seed)
    learned, held_out = learned_weights(base, spec, judged_TPP, judged_images, tiles_TPP, config.seed)
    judged = frozenset(nights.chosen("calibration", "sound")[0]["image"].to_pylist())
    calibrated, threshold, validation = calibrated_on_site(learned.model, tiles_TPP, images, rule, config, judged)
    counts = nights.counts()
    summary = {
        "verb": "learn",
        "model": out,
        "from": base.digest,
        "digest": calibrated.model.digest,
        "images": nights.table.num_rows,
        "trained_on_images": len(judged_TPP) if held_out.are_found_better else 0,
        "verdicts": counts,
        "threshold": threshold.threshold,
        "level": calibrated.calibration.level,
        "false_alarms": {"expected": rate, "low": threshold.low, "high": threshold.high},
        "meaning": meaning_of(threshold, calibrated.calibration.groups, rule),
        "held_out": held_out.summary(),
        "validation": validation.summary(),
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_model(out, learned, calibrated, training_record(summary, config, measured_on, learned))
    say(f"{held_out.in_words()} {summary['meaning']}", quiet=config.quiet)
    return Result(summary, {"verdicts": pd.DataFrame(counts).T} | validation.table())


def _rate(champion: Scorer, config: LearnConfig) -> float:
    """The false-alarm rate to promise.

    Raises:
        ModelError: the model does not learn from verdicts, or flags more than half of the sound images.
    """
    spec = champion.model.spec
    if spec.head != "evidence":
        raise ModelError(
            f"{config.model} does not score by a segmenter, which is what learns from verdicts: use another model."
        )
    rate = config.max_false_alarm or champion.calibration.rate
    if rate > MAX_RATE:
        raise ModelError(
            f"the threshold of {config.model} flags {100 * rate:.3g} % of the sound images, and no more than "
            f"{100 * MAX_RATE:g} % can be kept: give --max-false-alarm, such as 0.05, or calibrate the model again."
        )
    return rate


def _require_enough(nights: JudgedNights, needed: int) -> None:
    n = int(nights.chosen("calibration", "sound", "")[1].sum())
    if n < needed:
        raise CalibrationError(
            f"{n} tiles would set the threshold, and {needed} are needed: name more nights, judged or not, or allow a "
            "higher --max-false-alarm."
        )


def learned_weights(
    base: Model, spec: ModelSpec, judged_TPP: np.ndarray, images: pa.Table, others_TPP: np.ndarray, seed: int
) -> tuple[TrainedModel, HeldOutCracks]:
    """The model with the learned weights if these find more cracks of groups that are left out, else the model itself.

    Args:
        spec: of a model with the learned weights.
        judged_TPP: the tiles that reviewers were shown, of these images.
        others_TPP: tiles of other groups that nobody judged cracked.
    """
    # With its own facts too, so that the digest stays: images that were scored with these weights are not scored again.
    kept = TrainedModel(base.spec, base.network.state_dict(), [])
    is_crack_T = np.array([verdict == "crack" for verdict in images["verdict"].to_pylist()], bool)
    if not 0 < is_crack_T.sum() < len(is_crack_T):
        return kept, HeldOutCracks(int(is_crack_T.sum()))
    some = some_tiles(len(others_TPP), MAX_OTHERS)
    cells, others = cells_of(base, judged_TPP), cells_of(base, others_TPP[some])
    held_out = cross_validated(cells, is_crack_T, images["group"].to_numpy(), others, seed)
    if not held_out.are_found_better:
        return kept, held_out
    return TrainedModel(spec, fitted_change(cells, is_crack_T).applied_to(base), []), held_out


def _calibration_tiles(nights: JudgedNights, spec: ModelSpec, config: LearnConfig) -> tuple[np.ndarray, pa.Table]:
    """Tiles that nothing was learned from, judged cracks left out, uint8 (T, P, P), and their images as decoded."""
    images, tiles_N = nights.chosen("calibration", "sound", "")
    some = some_images(tiles_N, MAX_CALIBRATION_TILES, config.seed)
    return decoded_tiles(images.take(pa.array(some)), "calibration", spec, quiet=config.quiet)
