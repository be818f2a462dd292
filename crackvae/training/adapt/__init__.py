"""[Ray] The verb `adapt`: fit a model to the unlabelled photographs of a site, and set its threshold there.

Shape letters: N images, T tiles, P side of a tile at the input [px].
"""

import time
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
import pyarrow as pa

from crackvae.config import AdaptConfig
from crackvae.console import say
from crackvae.errors import CalibrationError
from crackvae.model.artifact import Model
from crackvae.model.heads import TEXTURE
from crackvae.model.inference import load_scorer
from crackvae.model.registry import model_folder
from crackvae.model.spec import ModelSpec
from crackvae.results import Result
from crackvae.session import ray_session, require_resources
from crackvae.storage import fileio, filesystems, uris
from crackvae.training.adapt import site
from crackvae.training.adapt.calibrating import calibrated_on_site, groups_of_tiles, meaning_of, rule_from, site_scores
from crackvae.training.adapt.choosing import choose, not_compared
from crackvae.training.adapt.threshold import tiles_needed
from crackvae.training.checkpoints import Checkpoints, RunFolder, run_folder
from crackvae.training.fit import FitJob, WorkerPlan, fit, is_completed
from crackvae.training.model_writer import TrainedModel, blended, trained_model, training_record, write_model
from crackvae.training.run import hardware, locked_run, require_writable_beside, resume_advice
from crackvae.training.starting import shown_again, shown_tiles
from crackvae.training.state import TrainSettings
from crackvae.training.synthetic_cracks import MAX_DRAWINGS
from crackvae.training.synthetic_cracks.drawings import draw
from crackvae.training.tile_loader import decoded_tiles, in_object_store

BATCH = 16
# Without a number of epochs, fine-tune on about this many tiles, five minutes of processor time. The few photographs of
# a small site would be learned by heart if they were shown more often than this.
DEFAULT_TILES, MAX_EPOCHS = 12_000, 6
# Times that an epoch shows a tile in which the starting model sees more of a crack than in others of its texture.
HARD = 8
MAX_VAL_TILES = 1_000


@dataclass(frozen=True)
class Site:
    """The images of a site and what each is used for.

    Attributes:
        table: as in SiteImages.
        sides_N: side of each image, as sides_of() deals them.
        tiles_N: number of tiles of each image.
    """

    table: pa.Table
    sides_N: np.ndarray
    tiles_N: np.ndarray

    def side(self, name: str) -> tuple[pa.Table, np.ndarray]:
        """Images of one side, and the number of tiles of each."""
        chosen = self.sides_N == name
        return self.table.filter(pa.array(chosen)), self.tiles_N[chosen]

    def training_tiles(self, max_cracked: float) -> int:
        """Expected number of tiles to train on, when the most crack-like ones are set aside."""
        n = min(site.MAX_TRAINING_TILES, int(self.side("train")[1].sum()))
        return round(n * (1 - max_cracked))


@filesystems.with_s3_endpoint
def adapt(config: AdaptConfig) -> Result:
    """Fit a model to unlabelled photographs or tiles of a site, of which a few per cent may show cracks.

    Photographs are cut into tiles, duplicates left out. Whole groups of images either train the network or set the
    threshold; there the fine-tuned model has to find more drawn cracks than the starting one, or the latter is kept.
    Where fewer groups than that comparison takes would be left for it, nothing is trained, as with `quick`. An
    interrupted run leaves its checkpoints in `<model>.training`, and the same call resumes it.

    Returns:
        Result with the tables `site`, that of the validation on synthetic cracks, and `epochs`.

    Raises:
        CalibrationError: too few images, with the number needed.
        ManifestError: --group-by matches nothing in a path, or an image cannot be read any more.
        OutputExists, StorageError, ModelError, ClusterError, FolderInUse, ConfigError: with the way to fix it.
    """
    started = time.perf_counter()
    model_dir = uris.absolute(config.model)
    fileio.require_new(model_dir, "--model")
    require_writable_beside(model_dir)
    start = load_scorer(config.from_)
    base, rule = start.model, rule_from(start.calibration, config.max_false_alarm, config)
    images = site.read_site(config.images, config.group_by, base.spec, quiet=config.quiet)
    groups = images.table["group"].to_pylist()
    sides_N = site.sides_of(groups, images.tiles_N, quick=config.quick, salt=str(config.seed))
    needed = tiles_needed(config.max_false_alarm, config.max_cracked)
    site.require_enough(groups, images.tiles_N, sides_N, needed, quick=config.quick)
    if not config.quick and (n_compared := len(set(np.array(groups)[sides_N == "calibration"]))) < site.MIN_GROUPS:
        say(not_compared(n_compared), quiet=config.quiet)
        config = replace(config, quick=True)
        sides_N = site.sides_of(groups, images.tiles_N, quick=True, salt="")
    chosen = Site(images.table, sides_N, images.tiles_N)
    spec = replace(base.spec, manifest=images.digest, seed=config.seed)
    with locked_run(run_folder(model_dir), quiet=config.quiet) as checkpoints:
        done = _run_folder(config, checkpoints.folder, spec, base).open()
        with ray_session(config):
            require_resources(config.workers[0], gpu=config.gpu)
            if not config.quick:
                with resume_advice(checkpoints, *_ways_on(checkpoints.folder)):
                    _fine_tune(base, chosen, spec, config, checkpoints)
            calibration_tiles = _calibration_tiles(chosen, spec, config)
            measured_on = hardware(gpu=config.gpu)
        kept, choice = TrainedModel(base.spec, base.network.state_dict(), []), None
        if not config.quick:
            tuned = blended(base, trained_model(spec, checkpoints))
            tiles_TPP, calibration_images = calibration_tiles
            groups_T = groups_of_tiles(calibration_images)
            choice = choose(base, tuned.model, tiles_TPP, groups_T, rule, quiet=config.quiet)
            kept = tuned if choice.is_fine_tuned else kept
        calibrated, threshold, validation = calibrated_on_site(kept.model, *calibration_tiles, rule, config)
        n_tiles = {side: int(chosen.side(side)[1].sum()) for side in ("train", "val", "calibration")}
        summary = {
            "verb": "adapt",
            "model": model_dir,
            "from": base.digest,
            "quick": config.quick,
            "choice": choice and choice.summary(),
            "images": images.table.num_rows,
            "trained_on_images": chosen.side("train")[0].num_rows if kept.epochs else 0,
            "duplicates": images.duplicates,
            "unreadable": images.unreadable,
            "groups": len(set(groups)),
            "tiles": n_tiles,
            "digest": calibrated.model.digest,
            "head": base.spec.head,
            "threshold": threshold.threshold,
            "level": calibrated.calibration.level,
            "false_alarms": {"expected": config.max_false_alarm, "low": threshold.low, "high": threshold.high},
            "flagged": threshold.flagged,
            "meaning": meaning_of(threshold, calibrated.calibration.groups, rule),
            "validation": validation.summary(),
            "resumed_after_epoch": done,
            "seconds": round(time.perf_counter() - started, 1),
        }
        write_model(model_dir, kept, calibrated, training_record(summary, config, measured_on, kept))
        fileio.delete_folder(checkpoints.folder)
    say(summary["meaning"], quiet=config.quiet)
    tables = {"site": pd.DataFrame([n_tiles], index=["tiles"])} | validation.table()
    return Result(summary, tables | ({"epochs": kept.table} if kept.epochs else {}))


def _run_folder(config: AdaptConfig, folder: str, spec: ModelSpec, base: Model) -> RunFolder:
    paths = {name: uris.absolute(getattr(config, name)) for name in ("images", "model")}
    paths["from_"] = model_folder(config.from_)
    settings = asdict(config) | paths
    return RunFolder(folder, settings, asdict(spec) | {"from": base.digest}, "give the same settings and images again")


def _ways_on(folder: str) -> tuple[str, str]:
    """How to resume an interrupted run, and what to do about one that has diverged."""
    begin_again = f"delete {folder} first, because a run is resumed with the settings that it was begun with"
    return "run the same command again to resume", begin_again


# -------------------------------------------------------------------------------------------------- fine-tuning


def _fine_tune(base: Model, chosen: Site, spec: ModelSpec, config: AdaptConfig, checkpoints: Checkpoints) -> None:
    """Train on the sound tiles of the site, from the weights of `base`; the most crack-like tiles are set aside.

    Of the others the hardest are shown more often, as `train --from MODEL --hard` does.
    """
    n_tiles = shown_tiles(chosen.training_tiles(config.max_cracked), HARD)
    settings = _settings(spec, n_tiles, config)
    if is_completed(checkpoints, settings, quiet=config.quiet):
        return
    tiles_TPP, scores_T2 = _least_crack_like(base, chosen, "train", site.MAX_TRAINING_TILES, config)
    val_TPP, _ = _least_crack_like(base, chosen, "val", MAX_VAL_TILES, config)
    if len(tiles_TPP) < settings.batch:
        raise CalibrationError(
            f"{len(tiles_TPP)} tiles to train on show a surface, fewer than a batch of {settings.batch}: "
            "add photographs."
        )
    if spec.recipe == "repair":
        say("drawing synthetic cracks", quiet=config.quiet)
        settings = replace(settings, drawings=draw(config.seed, spec.input_px, min(MAX_DRAWINGS, n_tiles)))
    plan = WorkerPlan(config.workers[0], config.workers[-1], config.gpu, config.max_failures)
    again = shown_again(*scores_T2.T, times=HARD)
    tiles = in_object_store(tiles_TPP, lambda *_: again)
    n_shown = shown_tiles(len(tiles_TPP), HARD)
    job = FitJob(spec, settings, tiles, n_shown, val_TPP, base.network.state_dict())
    fit(job, plan, checkpoints, quiet=config.quiet)


def _settings(spec: ModelSpec, n_tiles: int, config: AdaptConfig) -> TrainSettings:
    return TrainSettings(
        epochs=config.epochs or min(MAX_EPOCHS, max(1, round(DEFAULT_TILES / n_tiles))),
        batch=min(BATCH, n_tiles),
        learning_rate=config.learning_rate,
        schedule=True,
        beta=spec.beta,
        precision="auto",
        seed=config.seed,
        augment=spec.recipe == "plain",
        can_clip=False,
    )


def _least_crack_like(
    base: Model, chosen: Site, side: str, most: int, config: AdaptConfig
) -> tuple[np.ndarray, np.ndarray]:
    """At most `most` random tiles of one side, without the most crack-like by the starting model.

    Returns:
        the tiles, uint8 (T, P, P), and their scores by that model and by TEXTURE, float32 (T, 2).
    """
    images, tiles_N = chosen.side(side)
    some = site.some_images(tiles_N, 2 * most, config.seed)
    tiles_TPP, _ = decoded_tiles(images.take(pa.array(some)), side, base.spec, quiet=config.quiet)
    if len(tiles_TPP) > most:
        order = np.random.default_rng(config.seed).permutation(len(tiles_TPP))
        tiles_TPP = tiles_TPP[np.sort(order[:most])]
    scores_T2 = site_scores(base, tiles_TPP, f"score {side}", TEXTURE, quiet=config.quiet)
    n = max(1, round(len(tiles_TPP) * (1 - config.max_cracked)))
    kept = np.sort(np.argsort(scores_T2[:, 0], kind="stable")[:n])
    return tiles_TPP[kept], scores_T2[kept]


# -------------------------------------------------------------------------------------------------- calibration


def _calibration_tiles(chosen: Site, spec: ModelSpec, config: AdaptConfig) -> tuple[np.ndarray, pa.Table]:
    """The tiles of some images of the calibration side, uint8 (T, P, P), and these images as decoded."""
    images, tiles_N = chosen.side("calibration")
    some = site.some_images(tiles_N, site.MAX_CALIBRATION_TILES, config.seed)
    return decoded_tiles(images.take(pa.array(some)), "calibration", spec, quiet=config.quiet)
