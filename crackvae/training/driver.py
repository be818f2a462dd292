"""[Ray] The verb `train`: train on the sound images of a manifest, calibrate, and write the model directory."""

import time
from dataclasses import asdict, fields, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from crackvae.config import TrainConfig
from crackvae.console import say
from crackvae.errors import ManifestError
from crackvae.images.manifest import Manifest, load_manifest
from crackvae.model import calibration
from crackvae.model.artifact import Model
from crackvae.model.spec import ModelSpec
from crackvae.results import Result
from crackvae.session import ray_session, require_resources
from crackvae.storage import fileio, filesystems, uris
from crackvae.training.checkpoints import Checkpoints, read_run, require_unfinished, run_folder, run_of
from crackvae.training.fit import FitJob, WorkerPlan, fit, is_completed
from crackvae.training.loop import DEFAULT_TILES, default_epochs
from crackvae.training.model_writer import (
    calibrated_on,
    fitted_to_site,
    trained_model,
    training_record,
    training_summary,
    write_model,
)
from crackvae.training.run import hardware, locked_run, require_writable_beside, resume_advice
from crackvae.training.starting import START_TILES, repeats, shown_tiles, starting_model
from crackvae.training.state import TrainSettings
from crackvae.training.synthetic_cracks import MAX_DRAWINGS
from crackvae.training.synthetic_cracks.drawings import draw
from crackvae.training.tile_loader import decoded_tiles, tile_counts, training_tiles
from crackvae.training.validation import validate_on_synthetic_cracks

# Fewest labelled cracked images of val that choose the weight of the darkness; one of fewer moves recall by over 1 %.
MIN_VAL_CRACKS = 100


@filesystems.with_s3_endpoint
def train(config: TrainConfig) -> Result:
    """Train a ConvVAE on the sound images of a manifest and write its model directory, whole or not at all.

    An interrupted run leaves its checkpoints in `<model>.training`, and the same call resumes it.

    Returns:
        Result with the tables `epochs` and that of the validation on synthetic cracks.

    Raises:
        OutputExists, ManifestError, LeakError, ModelError, CalibrationError, ClusterError, FolderInUse, ConfigError:
            with the way to fix it.
    """
    started = time.perf_counter()
    model_dir = uris.absolute(config.model)
    require_unfinished(model_dir, config.resume)
    require_writable_beside(model_dir)
    manifest = load_manifest(config.manifest)
    base = starting_model(config)
    if base:
        manifest.say_if_not_trained_on({config.from_: base.spec.manifest})
    spec = _spec(config, manifest, base)
    images, val = (manifest.images(split, "non_crack") for split in ("train", "val"))
    settings = _settings(config, _require_enough(images, val, spec, config))
    folder = uris.absolute(config.resume) if config.resume else run_folder(model_dir)
    start = {"from": base.digest} if base else {}
    with locked_run(folder, quiet=config.quiet) as checkpoints:
        done = run_of(config, folder, asdict(spec) | start).open()
        with ray_session(config):
            require_resources(config.workers[0], gpu=config.gpu)
            val_TPP, val_images = decoded_tiles(val, "val", spec, quiet=config.quiet)
            cracked = _cracked_tiles(manifest, spec, quiet=config.quiet)
            with resume_advice(checkpoints, f"go on with crackvae train --resume {folder}"):
                _fit(images, val_TPP, spec, settings, base, config, checkpoints)
            trained_on = hardware(gpu=config.gpu)
        trained = fitted_to_site(trained_model(spec, checkpoints), val_TPP, cracked)
        calibrated = calibrated_on(trained.model, val_TPP, val_images, config.percentile)
        validation = validate_on_synthetic_cracks(trained.model, val_TPP, calibrated.calibration.threshold)
        summary = {
            "verb": "train",
            "model": model_dir,
            **start,
            "images": images.num_rows,
            **training_summary(trained, calibrated),
            "darkness_weight": trained.spec.darkness_weight,
            "val_cracks": trained.val_cracks,
            "validation": validation.summary(),
            "resumed_after_epoch": done,
            "seconds": round(time.perf_counter() - started, 1),
        }
        training = training_record(summary, config, trained_on, trained) | {"changes": read_run(folder).changes}
        write_model(model_dir, trained, calibrated, training)
        fileio.delete_folder(folder)
    return Result(summary, {"epochs": trained.table} | validation.table())


def _require_enough(images: pa.Table, val: pa.Table, spec: ModelSpec, config: TrainConfig) -> int:
    """Number of training tiles. Raises before any image is decoded if there are too few.

    Raises:
        ManifestError: no image, or fewer tiles than a batch; CalibrationError: too few images to calibrate.
    """
    for split, found in (("train", images), ("val", val)):
        if not found.num_rows:
            raise ManifestError(f"{config.manifest} has no non_crack image in {split}: partition again.")
    calibration.require_enough(val.num_rows)
    tiles = int(tile_counts(images, spec).sum())
    if tiles < config.batch:
        raise ManifestError(f"{tiles} training images are fewer than --batch {config.batch}: give a smaller batch.")
    return tiles


def _cracked_tiles(manifest: Manifest, spec: ModelSpec, *, quiet: bool) -> tuple[np.ndarray, pa.Table] | None:
    """The cracked images of val, if there are enough to choose a number of the score; they are not trained on."""
    cracked = manifest.images("val", "crack")
    enough = spec.head == "evidence" and cracked.num_rows >= MIN_VAL_CRACKS
    return decoded_tiles(cracked, "val", spec, quiet=quiet) if enough else None


def _spec(config: TrainConfig, manifest: Manifest, base: Model | None) -> ModelSpec:
    is_leaky = manifest.leaky or (base is not None and base.spec.leaky)
    values: dict[str, Any] = {"manifest": manifest.digest, "leaky": is_leaky}
    others = {"darkness_weight", "yardstick"}  # fitted after the training
    values |= {
        spec.name: getattr(config, spec.name) for spec in fields(ModelSpec) if spec.name not in others | values.keys()
    }
    return ModelSpec(**values)


def _settings(config: TrainConfig, n_tiles: int) -> TrainSettings:
    in_total = START_TILES if config.from_ else DEFAULT_TILES
    return TrainSettings(
        epochs=config.epochs or default_epochs(shown_tiles(n_tiles, config.hard), in_total),
        batch=config.batch,
        learning_rate=config.learning_rate,
        schedule=config.schedule == "cosine",
        beta=config.beta,
        precision=config.precision,
        seed=config.seed,
        augment=config.augment,
        clip_norm=config.clip_norm,
        patience=config.patience,
    )


def _fit(
    images: pa.Table,
    val_TPP: np.ndarray,
    spec: ModelSpec,
    settings: TrainSettings,
    base: Model | None,
    config: TrainConfig,
    checkpoints: Checkpoints,
) -> None:
    """Load the training tiles, draw the synthetic cracks, and train; nothing is left to do for a completed run."""
    if is_completed(checkpoints, settings, quiet=config.quiet):
        return
    repeated = partial(repeats, base, config.hard, quiet=config.quiet) if base and config.hard > 1 else None
    tiles = training_tiles(images, spec, settings.batch, settings.seed, repeated, quiet=config.quiet)
    n_tiles = shown_tiles(int(tile_counts(images, spec).sum()), config.hard)
    if config.recipe == "repair":
        say("drawing synthetic cracks", quiet=config.quiet)
        settings = replace(settings, drawings=draw(settings.seed, spec.input_px, min(MAX_DRAWINGS, n_tiles)))
    plan = WorkerPlan(config.workers[0], config.workers[-1], config.gpu, config.max_failures)
    initial = base.network.state_dict() if base else None
    fit(FitJob(spec, settings, tiles, n_tiles, val_TPP, initial), plan, checkpoints, quiet=config.quiet)
