"""Scores of the tiles of a site, and the threshold that they set.

Shape letters: T tiles, P side of a tile at the input [px].
"""

import numpy as np
import pyarrow as pa

from crackvae.config import SiteConfig
from crackvae.console import progress
from crackvae.errors import CalibrationError
from crackvae.images.decoded import surface_counts
from crackvae.model.artifact import Model
from crackvae.model.calibration import Calibration, Sample
from crackvae.model.heads import LATENT_NORM
from crackvae.model.image_scores import image_scores
from crackvae.model.inference import score_tiles
from crackvae.training.adapt.threshold import (
    SiteThreshold,
    SoundTail,
    ThresholdRule,
    judged_threshold,
    site_threshold,
    tiles_needed,
)
from crackvae.training.loop import VAL_BATCH
from crackvae.training.model_writer import CalibratedModel, reference_on
from crackvae.training.validation import SyntheticValidation, validate_on_synthetic_cracks

# Tiles scored between two updates of the progress bar.
PROGRESS_TILES = 512


def calibrated_on_site(
    model: Model,
    tiles_TPP: np.ndarray,
    images: pa.Table,
    rule: ThresholdRule,
    config: SiteConfig,
    judged: frozenset[str] = frozenset(),
) -> tuple[CalibratedModel, SiteThreshold, SyntheticValidation]:
    """Set the threshold of a model on tiles of its site, and validate it on synthetic cracks.

    Args:
        tiles_TPP: uint8 (T, P, P), not trained on.
        images: the images of these tiles, as decoded_tiles() returns them.
        rule: of the threshold, as rule_from() makes it.
        judged: the images among them that reviewers have judged sound; those judged cracked are left out.

    Raises:
        CalibrationError: too few tiles show a surface.
    """
    scores_TS = site_scores(model, tiles_TPP, "score calibration", quiet=config.quiet)
    tiles_N, scores_T, groups_T = surface_counts(images), scores_TS[:, 0], groups_of_tiles(images)
    needed = tiles_needed(rule.max_false_alarm, rule.max_cracked)
    if len(scores_T) < needed:
        raise CalibrationError(f"{len(scores_T)} tiles show a surface, and {needed} are needed: add photographs.")
    is_judged_T = np.repeat(np.isin(images["image"].to_pylist(), list(judged)), tiles_N)
    found = judged_threshold(scores_T, groups_T, is_judged_T, rule.max_false_alarm)
    found = found or site_threshold(scores_T, groups_T, rule, config.seed)
    groups_N = np.unique(groups_T, return_inverse=True)[1][found.sound].astype(np.int32)
    calibration = Calibration(
        scores_N=found.sound_scores,
        groups=len(np.unique(groups_T)),
        level=f"about {rule.max_false_alarm:g} of sound tiles, estimated from {len(scores_T)} tiles of the site, "
        f"{is_judged_T.sum()} of them judged",
        threshold=found.threshold,
        model=model.digest,
        leaky=model.spec.leaky,
        sample=Sample(np.ones(len(found.sound), np.int32), groups_N, found.sound_scores, groups_N),
    )
    reference = reference_on(images, image_scores(scores_TS, tiles_N), calibration)
    validation = validate_on_synthetic_cracks(model, tiles_TPP[scores_T <= found.threshold], found.threshold)
    return CalibratedModel(model, calibration, reference), found, validation


def groups_of_tiles(images: pa.Table) -> np.ndarray:
    """The group of each tile, of images as decoded_tiles() returns them."""
    return np.repeat(images["group"].to_numpy(), surface_counts(images))


def rule_from(calibration: Calibration, max_false_alarm: float, config: SiteConfig) -> ThresholdRule:
    """The rule for a site, with the tail that sound tiles had when the starting model was calibrated."""
    sample = calibration.sample
    tail = SoundTail.of(sample.tile_scores_M if sample else calibration.scores_N)
    return ThresholdRule(tail, max_false_alarm, config.max_cracked)


def meaning_of(found: SiteThreshold, groups: int, rule: ThresholdRule) -> str:
    """What the threshold means and what it assumes, in two sentences."""
    return (
        f"About {rule.max_false_alarm:.3g} of the sound tiles of this site will exceed the threshold (95 % interval "
        f"{found.low:.2g} to {found.high:.2g}); of the given tiles {found.flagged:.2g} do. "
        f"This assumes that {found.assumes}, and that later photographs resemble the {groups} groups of images that "
        "set the threshold."
    )


def site_scores(
    model: Model, tiles_TPP: np.ndarray, what: str, other_head: str = LATENT_NORM, *, quiet: bool
) -> np.ndarray:
    """Scores of the tiles by the model's head and by another one, float32 (T, 2)."""
    parts = []
    with progress(what, len(tiles_TPP), "tiles", quiet=quiet) as bar:
        for start in range(0, len(tiles_TPP), PROGRESS_TILES):
            some_TPP = tiles_TPP[start : start + PROGRESS_TILES]
            parts.append(score_tiles(model, some_TPP, VAL_BATCH, extra_heads=(other_head,)))
            bar.update(len(some_TPP))
    return np.concatenate(parts)
