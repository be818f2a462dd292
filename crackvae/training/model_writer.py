"""Calibrates a trained network on its validation images and writes the model directory, whole or not at all."""

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from torch import Tensor

from crackvae.config import VerbConfig
from crackvae.console import say
from crackvae.images.decoded import surface_counts
from crackvae.metrics import RANKING_NAMES, ranking
from crackvae.model import calibration
from crackvae.model.artifact import Model, assembled, model_files
from crackvae.model.calibration import Calibration, Sample, percentile_threshold
from crackvae.model.heads import DARKNESS_WEIGHTS, LATENT_NORM, MAX_DARKNESS_RISE, TEXTURE, fit_yardstick
from crackvae.model.image_scores import ImageScores, image_scores
from crackvae.model.inference import evidence_by_weight, score_tiles
from crackvae.model.spec import ModelSpec
from crackvae.monitoring import histograms
from crackvae.reports.matplotlib_folder import matplotlib_folder
from crackvae.storage import fileio, uris
from crackvae.training.checkpoints import Checkpoints
from crackvae.training.loop import VAL_BATCH
from crackvae.training.state import Epoch, best_of, read_checkpoint
from crackvae.training.validation import some_tiles

CURVE_FILE = "loss.png"
# Sound tiles that the weight of the darkness is fitted on.
DARKNESS_TILES = 2_000
# Weights of the darkness whose figure is closer to the best than this share of a cracked image are alike. Of these the
# smallest is taken: smooth close-ups have no use for more, and on a rough surface every shadow would count.
ABOUT_BEST = 0.5
# Share of newly learned weights in those of a model that is trained on, the rest are those that it started from: what a
# few photographs or verdicts teach about others is uncertain.
LEARNED_SHARE = 0.5


@dataclass(frozen=True)
class TrainedModel:
    """A trained network and the history of its training.

    Attributes:
        weights: of the epoch with the lowest validation loss.
        epochs: all epochs; none if the weights are those of another model.
        val_cracks: labelled cracked images of val that chose the weight of the darkness.
    """

    spec: ModelSpec
    weights: dict[str, Tensor]
    epochs: list[Epoch]
    val_cracks: int = 0

    @property
    def model(self) -> Model:
        """The network, ready to score."""
        return assembled(self.spec, self.weights)

    @property
    def table(self) -> pd.DataFrame:
        """One row per epoch."""
        return pd.DataFrame([epoch.row() for epoch in self.epochs]).set_index("epoch")


def blended(base: Model, learned: TrainedModel) -> TrainedModel:
    """The learned model with weights between those of the model that it started from and its own.

    Source: Wortsman et al., Robust fine-tuning of zero-shot models (2022).
    """
    before = base.network.state_dict()
    weights = {name: before[name].lerp(after, LEARNED_SHARE) for name, after in learned.weights.items()}
    return replace(learned, weights=weights)


def trained_model(spec: ModelSpec, checkpoints: Checkpoints) -> TrainedModel:
    """The result of a run whose last epoch has its checkpoint."""
    _, epochs = read_checkpoint(checkpoints.read(checkpoints.epochs()[-1]))
    state, _ = read_checkpoint(checkpoints.read(best_of(epochs).epoch))
    return TrainedModel(spec, state["network"], epochs)


def fitted_to_site(
    trained: TrainedModel, sound_TPP: np.ndarray, cracked: tuple[np.ndarray, pa.Table] | None = None
) -> TrainedModel:
    """The model with the weight of the darkness and the yardstick of a site, if it has the head `evidence`.

    Args:
        sound_TPP: uint8 (T, P, P), not trained on; a few of them may show a crack.
        cracked: tiles and images of val that are labelled cracked, as decoded_tiles() returns them. They choose the
            weight of the darkness; without them the sound tiles do.
    """
    if trained.spec.head != "evidence":
        return trained
    plain = replace(trained, spec=replace(trained.spec, yardstick=None))
    some_NPP = sound_TPP[some_tiles(len(sound_TPP), DARKNESS_TILES)]
    sound_NW = evidence_by_weight(plain.model, some_NPP, (0.0, *DARKNESS_WEIGHTS), VAL_BATCH)
    if cracked:
        cracked_TW = evidence_by_weight(plain.model, cracked[0], DARKNESS_WEIGHTS, VAL_BATCH)
        cracked_NW = image_scores(cracked_TW, surface_counts(cracked[1])).max_NS
        weight, val_cracks = _weight_for_cracks(sound_NW[:, 1:], cracked_NW), len(cracked_NW)
    else:
        weight, val_cracks = _weight_for_sound(sound_NW), 0
    plain = replace(plain, spec=replace(plain.spec, darkness_weight=weight), val_cracks=val_cracks)
    evidence_T, texture_T = score_tiles(plain.model, sound_TPP, VAL_BATCH, extra_heads=(TEXTURE,)).T
    return replace(plain, spec=replace(plain.spec, yardstick=fit_yardstick(evidence_T, texture_T)))


def _weight_for_sound(sound_NW: np.ndarray) -> float:
    """The largest of DARKNESS_WEIGHTS that raises the evidence of sound tiles by no more than MAX_DARKNESS_RISE.

    It needs no cracked tile: of smooth surfaces hardly a sound pixel is dark, and the weight becomes large.

    Args:
        sound_NW: evidence with the weight 0, then with each of DARKNESS_WEIGHTS.
    """
    none, *high = np.quantile(sound_NW, 0.95, axis=0)
    fitting = takewhile(lambda pair: pair[1] <= MAX_DARKNESS_RISE * none, zip(DARKNESS_WEIGHTS, high, strict=True))
    return max((weight for weight, _ in fitting), default=0.0)


def _weight_for_cracks(sound_NW: np.ndarray, cracked_NW: np.ndarray) -> float:
    """The smallest of DARKNESS_WEIGHTS whose mean of recall at 1 % and average precision is about the best."""
    is_crack_N = np.arange(len(sound_NW) + len(cracked_NW)) >= len(sound_NW)
    alike_N = np.ones(len(is_crack_N))
    figures_WK = [ranking(is_crack_N, scores_N, alike_N) for scores_N in np.r_[sound_NW, cracked_NW].T]
    judged = ["recall_at_1%_false_alarms", "average_precision_at_1%_prevalence"]
    mean_W = pd.DataFrame(figures_WK, columns=RANKING_NAMES)[judged].mean(axis=1)
    return DARKNESS_WEIGHTS[int((mean_W >= mean_W.max() - ABOUT_BEST / len(cracked_NW)).argmax())]


@dataclass(frozen=True)
class CalibratedModel:
    """A model with its calibration.

    Attributes:
        reference: statistics of the calibration images, to compare later images with.
    """

    model: Model
    calibration: Calibration
    reference: histograms.NightHistograms


def calibrated_on(model: Model, val_TPP: np.ndarray, val_images: pa.Table, percentile: float) -> CalibratedModel:
    """Set the threshold to a percentile of the scores of sound images.

    Args:
        val_TPP: uint8 (T, P, P), the tiles of all images in order.
        val_images: the decoded images, as decoded_tiles() returns them.
    """
    calibration.require_enough(val_images.num_rows)
    scores_TS = score_tiles(model, val_TPP, VAL_BATCH, extra_heads=(LATENT_NORM,))
    found = image_scores(scores_TS, surface_counts(val_images))
    scores_N = found.max_NS[:, 0]
    calibrated = Calibration(
        scores_N=np.sort(scores_N),
        groups=len(set(val_images["group"].to_pylist())),
        level=f"{percentile:g}th percentile of {len(scores_N)} val non_crack scores",
        threshold=percentile_threshold(scores_N, percentile),
        model=model.digest,
        leaky=model.spec.leaky,
        sample=Sample.of(scores_N, val_images["group"].to_numpy(), [scores[:, 0] for scores in found.tiles_TS]),
    )
    return CalibratedModel(model, calibrated, reference_on(val_images, found, calibrated))


def reference_on(images: pa.Table, found: ImageScores, calibrated: Calibration) -> histograms.NightHistograms:
    """Statistics of the calibration images.

    Args:
        images: as decoded_tiles() returns them.
        found: their scores by the model's head and by LATENT_NORM.
    """
    for name, values in (("score", found.max_NS[:, 0]), ("latent_norm", found.mean_NS[:, 1])):
        images = images.append_column(name, pa.array(values))
    return histograms.reference_of(images, calibrated)


def training_summary(trained: TrainedModel, calibrated: CalibratedModel) -> dict[str, Any]:
    """What a verb reports about a trained model."""
    best, spec = best_of(trained.epochs), trained.spec
    return {
        "digest": calibrated.model.digest,
        "leaky": spec.leaky,
        "head": spec.head,
        "best_epoch": best.epoch,
        "val_loss": best.val.loss,
        "threshold": calibrated.calibration.threshold,
        "level": calibrated.calibration.level,
        "images_per_s": round(float(np.mean([epoch.images_per_s for epoch in trained.epochs])), 1),
    }


def training_record(
    summary: dict[str, Any], config: VerbConfig, hardware: str, trained: TrainedModel
) -> dict[str, Any]:
    """What training.json holds: the summary of the verb, its settings, the hardware and each epoch."""
    return summary | {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": asdict(config),
        "hardware": hardware,
        "epochs": [epoch.row() for epoch in trained.epochs],
    }


def write_model(model_dir: str, trained: TrainedModel, calibrated: CalibratedModel, training: dict[str, Any]) -> None:
    """Write the model directory; `training` is the content of training.json."""
    files = {
        histograms.REFERENCE_FILE: histograms.histograms_file(calibrated.reference),
        calibration.FILE: calibration.calibration_file(calibrated.calibration),
        **(_loss_curve(trained, model_dir) if trained.epochs else {}),
        **model_files(trained.spec, trained.weights, training),
    }
    fileio.write_folder(model_dir, files)


def _loss_curve(trained: TrainedModel, model_dir: str) -> dict[str, bytes]:
    """The loss curve, which is optional: Matplotlib needs a folder that it can write to."""
    try:
        with matplotlib_folder(uris.parent(model_dir)):
            from crackvae.reports.charts.curves import loss_curve  # imported here: it imports Matplotlib

            return {CURVE_FILE: loss_curve(trained.table)}
    except OSError as error:
        say(f"no {CURVE_FILE}: {uris.reason(error)} All else of {model_dir} is written.", quiet=False)
        return {}
