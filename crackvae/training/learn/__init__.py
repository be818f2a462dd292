"""[Ray] The verb `learn`: a challenger from a model and the verdicts of reviewers.

Shape letters: T tiles, P side of a tile at the input [px].
"""

import time
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from crackvae.config import LearnConfig
from crackvae.console import say
from crackvae.errors import CalibrationError, ModelError
from crackvae.model.artifact import Model
from crackvae.model.inference import Scorer, load_scorer
from crackvae.model.network import ModelSpec
from crackvae.model.registry import model_folder
from crackvae.results import Result
from crackvae.session import ray_session, require_resources
from crackvae.storage import fileio, filesystems, uris
from crackvae.training.adapt.calibrating import calibrated_on_site, meaning_of, rule_from
from crackvae.training.adapt.site import some_images
from crackvae.training.adapt.threshold import tiles_needed
from crackvae.training.checkpoints import Checkpoints, RunFolder, run_folder
from crackvae.training.fit import FitJob, WorkerPlan, fit, is_completed
from crackvae.training.learn.held_out import MIN_CRACKS, HeldOutCracks, compared
from crackvae.training.learn.judged import JudgedNights, read_nights, worst_tiles
from crackvae.training.model_writer import TrainedModel, blended, trained_model, training_record, write_model
from crackvae.training.run import hardware, locked_run, require_writable_beside, resume_advice
from crackvae.training.state import TrainSettings
from crackvae.training.synthetic_cracks.drawings import draw
from crackvae.training.tile_loader import decoded_tiles, in_object_store

BATCH, LEARNING_RATE, DRAWINGS = 16, 3e-4, 500
# Train on about this many tiles: a minute on two cores. More moves the model away from what it knows (docs/log.md).
TRAINED_TILES = 1_600
# Tiles that nobody has judged, at most; and how often a judged false alarm appears beside them, at most.
MAX_OTHER_TILES, MAX_REPEATS = 1_500, 4
MAX_VAL_TILES, MAX_CALIBRATION_TILES = 200, 4_000


@filesystems.with_s3_endpoint
def learn(config: LearnConfig) -> Result:
    """Train a challenger on the verdicts in some folders of scores.

    Its weights stay those of the model unless judged cracks that were kept apart rank higher with the learned ones.
    Whole groups of images either train the network or set the threshold. An interrupted run leaves its checkpoints in
    `<out>.training`, and the same call resumes it.

    Returns:
        Result with the tables `verdicts`, that of the validation on synthetic cracks, and `epochs`.

    Raises:
        ManifestError: there are no verdicts, or images cannot be read.
        CalibrationError: too few images, with the number needed.
        OutputExists, StorageError, ModelError, ClusterError, FolderInUse, ConfigError: with the way to fix it.
    """
    started = time.perf_counter()
    out = uris.absolute(config.out)
    fileio.require_new(out, "--out")
    require_writable_beside(out)
    champion = load_scorer(config.model)
    base, rate = champion.model, _rate(champion, config)
    rule = rule_from(champion.calibration, rate, config)
    nights = read_nights(config.scores, base.spec, config.group_by, config.seed)
    needed = tiles_needed(rate, config.max_cracked)
    _require_enough(nights, needed)
    spec = replace(base.spec, manifest=nights.digest, seed=config.seed, leaky=False)
    with locked_run(run_folder(out), quiet=config.quiet, flag="--out") as checkpoints:
        done = _run_folder(config, checkpoints.folder, spec, base).open()
        with ray_session(config):
            require_resources(config.workers[0], gpu=config.gpu)
            tiles_TPP, images = _calibration_tiles(nights, spec, config)
            cracks_KPP = _held_out_cracks(nights, spec, config)
            kept, held_out = TrainedModel(spec, base.network.state_dict(), []), HeldOutCracks(len(cracks_KPP))
            if len(cracks_KPP) >= MIN_CRACKS:  # with fewer no training could show a gain
                with resume_advice(checkpoints, "run the same command again to resume"):
                    _train(base, nights, spec, config, checkpoints)
                # The yardstick stays that of the model: few nights have too few tiles to fit one for every surface.
                learned = blended(base, trained_model(spec, checkpoints))
                held_out = compared(base, learned.model, cracks_KPP, tiles_TPP, config.seed)
                kept = learned if held_out.are_found_better else kept
            measured_on = hardware(gpu=config.gpu)
        judged = frozenset(nights.chosen("calibration", "sound")[0]["image"].to_pylist())
        calibrated, threshold, validation = calibrated_on_site(kept.model, tiles_TPP, images, rule, config, judged)
        counts = nights.counts()
        summary = {
            "verb": "learn",
            "model": out,
            "from": base.digest,
            "digest": calibrated.model.digest,
            "images": nights.table.num_rows,
            "verdicts": counts,
            "threshold": threshold.threshold,
            "level": calibrated.calibration.level,
            "false_alarms": {"expected": rate, "low": threshold.low, "high": threshold.high},
            "meaning": meaning_of(threshold, calibrated.calibration.groups, rule),
            "held_out": held_out.summary(),
            "validation": validation.summary(),
            "resumed_after_epoch": done,
            "seconds": round(time.perf_counter() - started, 1),
        }
        write_model(out, kept, calibrated, training_record(summary, config, measured_on, kept))
        fileio.delete_folder(checkpoints.folder)
    say(f"{held_out.in_words()} {summary['meaning']}", quiet=config.quiet)
    shown = {"verdicts": pd.DataFrame(counts).T} | validation.table()
    return Result(summary, shown | ({"epochs": kept.table} if kept.epochs else {}))


def _rate(champion: Scorer, config: LearnConfig) -> float:
    """The false-alarm rate to promise."""
    spec = champion.model.spec
    if not spec.segmenter or spec.recipe != "repair":
        raise ModelError(
            f"{config.model} has no segmenter, which is what learns from verdicts: start from another model."
        )
    return config.max_false_alarm or champion.calibration.rate


def _require_enough(nights: JudgedNights, needed: int) -> None:
    n = int(nights.chosen("calibration", "sound", "")[1].sum())
    if n < needed or not len(nights.chosen("val", "sound", "")[1]):
        raise CalibrationError(
            f"{n} tiles would set the threshold, and {needed} are needed: name more nights, judged or not, or allow a "
            "higher --max-false-alarm."
        )


def _run_folder(config: LearnConfig, folder: str, spec: ModelSpec, base: Model) -> RunFolder:
    settings: dict[str, Any] = asdict(config) | {"scores": [uris.absolute(one) for one in config.scores]}
    settings |= {"model": model_folder(config.model), "out": uris.absolute(config.out)}
    return RunFolder(
        folder, settings, asdict(spec) | {"from": base.digest}, "give the same settings and verdicts again"
    )


# ----------------------------------------------------------------------------------------------------- training


def _train(base: Model, nights: JudgedNights, spec: ModelSpec, config: LearnConfig, checkpoints: Checkpoints) -> None:
    """Train on judged and unjudged tiles of the training side, from the weights of `base`."""
    sound, cracked = (nights.chosen("train", verdict)[0] for verdict in ("sound", "crack"))
    alarms_TPP = worst_tiles(sound, "judged sound", spec, quiet=config.quiet)
    cracks_TPP = worst_tiles(cracked, "judged cracks", spec, quiet=config.quiet)
    others_TPP = _sound(nights, "train", ("",), MAX_OTHER_TILES, spec, config)
    repeats = min(MAX_REPEATS, max(1, len(others_TPP) // max(1, 2 * len(alarms_TPP))))
    tiles_TPP = np.concatenate([others_TPP, *[alarms_TPP] * repeats])
    settings = TrainSettings(
        epochs=max(1, round(TRAINED_TILES / len(tiles_TPP))),
        batch=min(BATCH, len(tiles_TPP)),
        learning_rate=LEARNING_RATE,
        schedule=True,
        beta=spec.beta,
        precision="auto",
        seed=config.seed,
        drawings=draw(config.seed, spec.input_px, DRAWINGS),
        clip_norm=1.0,
        cracks_TPP=cracks_TPP if len(cracks_TPP) else None,
    )
    if is_completed(checkpoints, settings, quiet=config.quiet):
        return
    val_TPP = _sound(nights, "val", ("", "sound"), MAX_VAL_TILES, spec, config)
    plan = WorkerPlan(config.workers[0], config.workers[-1], config.gpu, config.max_failures)
    job = FitJob(spec, settings, in_object_store(tiles_TPP), len(tiles_TPP), val_TPP, base.network.state_dict())
    fit(job, plan, checkpoints, quiet=config.quiet)


def _sound(
    nights: JudgedNights, side: str, verdicts: tuple[str, ...], most: int, spec: ModelSpec, config: LearnConfig
) -> np.ndarray:
    """At most about `most` tiles of one side with these verdicts; of what nobody has judged not the most suspicious."""
    images, tiles_N = nights.chosen(side, *verdicts)
    is_judged_N = np.asarray(images["verdict"].to_pylist()) != ""
    order = np.argsort(images["score"].to_numpy(), kind="stable")
    unjudged = order[~is_judged_N[order]]
    kept = np.union1d(np.flatnonzero(is_judged_N), unjudged[: round(len(unjudged) * (1 - config.max_cracked))])
    if not len(kept):
        return np.empty((0, spec.input_px, spec.input_px), np.uint8)
    some = kept[some_images(tiles_N[kept], most, config.seed)]
    return decoded_tiles(images.take(pa.array(some)), side, spec, quiet=config.quiet)[0]


def _held_out_cracks(nights: JudgedNights, spec: ModelSpec, config: LearnConfig) -> np.ndarray:
    """The judged cracks of the groups that nothing was trained on, uint8 (K, P, P)."""
    images = pa.concat_tables([nights.chosen(side, "crack")[0] for side in ("val", "calibration")])
    return worst_tiles(images, "judged cracks that were kept apart", spec, quiet=config.quiet)


def _calibration_tiles(nights: JudgedNights, spec: ModelSpec, config: LearnConfig) -> tuple[np.ndarray, pa.Table]:
    """Tiles that nothing was trained on, judged cracks left out, uint8 (T, P, P), and their images as decoded."""
    images, tiles_N = nights.chosen("calibration", "sound", "")
    some = some_images(tiles_N, MAX_CALIBRATION_TILES, config.seed)
    return decoded_tiles(images.take(pa.array(some)), "calibration", spec, quiet=config.quiet)
