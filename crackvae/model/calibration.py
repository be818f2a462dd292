"""Threshold and p-values from the scores of sound images that the model was not trained on.

Shape letters: N calibration images, B scored images.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ValidationError

from crackvae.errors import CalibrationError, ModelError, StorageError
from crackvae.model import builtin
from crackvae.model.group_rates import share_interval
from crackvae.storage.fileio import read_bytes
from crackvae.storage.records import problems
from crackvae.storage.uris import join

if TYPE_CHECKING:
    from crackvae.model.tail import Tail

FILE = "calibration.json"

# Fewest calibration images: with fewer, the 95th percentile is one of the three largest scores.
MIN_IMAGES = 20

# What a p-value rests on, in the column p_kind: sound images of at least as many tiles, sound tiles with a fitted tail,
# sound tiles alone, or too few of them for any score to reach the level of the threshold.
P_KINDS = ("photographs", "tiles+tail", "tiles", "none")

# Tile scores kept with a calibration: 1 MB of JSON, or 80 photographs of 600 tiles.
MAX_TILE_SCORES = 50_000


@dataclass(frozen=True)
class Sample:
    """The tiles of the calibration images.

    Attributes:
        tiles_N: int32 (N,), number of tiles of each image, in the order of Calibration.scores_N.
        groups_N: int32 (N,), number of the group of each image, in the same order; empty in an earlier version's file.
        tile_scores_M: float32 (M,), scores of the tiles, at most about MAX_TILE_SCORES.
        tile_groups_M: int32 (M,), number of the group of each tile.
    """

    tiles_N: np.ndarray
    groups_N: np.ndarray
    tile_scores_M: np.ndarray
    tile_groups_M: np.ndarray

    @classmethod
    def of(cls, scores_N: np.ndarray, groups_N: np.ndarray, tile_scores: Sequence[np.ndarray]) -> "Sample":
        """The sample of images with these scores, groups and tile scores, all in the same order."""
        numbers_N = np.unique(groups_N, return_inverse=True)[1]
        tiles_N = np.array([len(scores) for scores in tile_scores], np.int32)
        # Whole images, spread evenly over all of them.
        step = max(1, -(-int(tiles_N.sum()) // MAX_TILE_SCORES))
        kept = range(0, len(tiles_N), step)
        order = np.argsort(scores_N, kind="stable")
        return cls(
            tiles_N[order],
            numbers_N[order].astype(np.int32),
            np.concatenate([tile_scores[k] for k in kept]).astype(np.float32),
            np.repeat(numbers_N[::step], tiles_N[::step]).astype(np.int32),
        )


@dataclass(frozen=True)
class Calibration:
    """Threshold of a model and the scores of sound images that it was set from.

    Attributes:
        scores_N: float32 (N,), ascending, of the sound images.
        groups: number of groups of these images; with fewer groups than images these are not independent.
        level: the rule that set the threshold, in words.
        threshold: an image is flagged only when its score is greater; see flags().
        model: digest of the model that computed the scores.
        leaky: whether copies of the sound images may be among the training images.
        sample: their tiles; None in a calibration of an earlier version, whose images count as one tile each.
    """

    scores_N: np.ndarray
    groups: int
    level: str
    threshold: float
    model: str
    leaky: bool
    sample: Sample | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of all attributes."""
        words = [self.groups, self.level, self.threshold, self.model, self.leaky]
        sha256 = hashlib.sha256(json.dumps(words).encode() + self.scores_N.astype("<f4").tobytes())
        if self.sample:  # a calibration of an earlier version has none
            for values in (self.sample.tiles_N, self.sample.groups_N, self.sample.tile_groups_M):
                sha256.update(values.astype("<i4").tobytes())
            sha256.update(self.sample.tile_scores_M.astype("<f4").tobytes())
        return sha256.hexdigest()

    @cached_property
    def rate(self) -> float:
        """Expected false-alarm rate of the threshold on images like those of the calibration."""
        n = len(self.scores_N)
        return (n + 1 - int(np.searchsorted(self.scores_N, np.float32(self.threshold), side="right"))) / (n + 1)

    @property
    def _highest_rate(self) -> float:
        """The rate with a tolerance for rounding, to compare with: (n + 1) * (1 / (n + 1)) is below 1 for some n."""
        return self.rate * (1 + 1e-9)

    @cached_property
    def _tail(self) -> "Tail | None":
        from crackvae.model.tail import fit_tail  # imported here: images of one tile need neither it nor scipy.stats

        if self.sample:
            return fit_tail(self.sample.tile_scores_M, self.sample.tile_groups_M)
        return fit_tail(self.scores_N, np.arange(len(self.scores_N)))

    def _comparable(self, n_tiles: int) -> np.ndarray:
        """Whether each calibration image has `n_tiles` tiles or more, bool (N,)."""
        if n_tiles <= 1:
            return np.ones(len(self.scores_N), bool)
        return self.sample.tiles_N >= n_tiles if self.sample else np.zeros(len(self.scores_N), bool)

    def kind(self, n_tiles: int) -> str:
        """What the p-value of an image of `n_tiles` tiles rests on: one of P_KINDS."""
        if n_tiles <= 1 or (int(self._comparable(n_tiles).sum()) + 1) * self._highest_rate >= 1:
            return "photographs"
        if self._tail:
            return "tiles+tail"
        return "tiles" if (len(self.scores_N) + 1) * self._highest_rate >= n_tiles else "none"

    def _compared(self, n_tiles: int) -> tuple[np.ndarray, int]:
        """Calibration images that an image is compared with, bool (N,), and how many chances to score high it has."""
        if self.kind(n_tiles) == "photographs":
            return self._comparable(n_tiles), 1
        return self._comparable(1), n_tiles

    def p_values(self, scores_B: np.ndarray, tiles_B: np.ndarray) -> np.ndarray:
        """Probability of a sound image of as many tiles scoring this high, for each image; see kind().

        `photographs`: conformal, among calibration images of at least as many tiles. `tiles+tail`: by the tail of the
        tile scores, Tail.p_values(). `tiles` and `none`: min(1, T p) with p of the worst tile (Bonferroni); with `none`
        no score reaches the level of the threshold.

        Args:
            scores_B: float (B,), NaN for an image without a score.
            tiles_B: int (B,), number of tiles of each image.

        Returns:
            float64 (B,) in (0, 1], NaN where the score is NaN.

        Source: Vovk, Gammerman & Shafer, Algorithmic Learning in a Random World (2005), split conformal prediction.
        """
        scores_B, tiles_B = np.asarray(scores_B, np.float32), np.asarray(tiles_B)
        p_B = np.full(len(scores_B), np.nan)
        for n_tiles in np.unique(tiles_B[~np.isnan(scores_B)]):
            chosen = (tiles_B == n_tiles) & ~np.isnan(scores_B)
            if self.kind(int(n_tiles)) == "tiles+tail":
                assert self._tail, "kind() found one"
                p_B[chosen] = self._tail.p_values(scores_B[chosen].astype(np.float64), tiles_B[chosen])
            else:
                is_used_N, chances = self._compared(int(n_tiles))
                sound_N = self.scores_N[is_used_N]
                as_high = len(sound_N) - np.searchsorted(sound_N, scores_B[chosen], side="left")
                p_B[chosen] = np.minimum(1.0, chances * (1 + as_high) / (len(sound_N) + 1))
        return p_B

    def flags(self, scores_B: np.ndarray, p_values_B: np.ndarray) -> np.ndarray:
        """Whether each image is flagged: its score is above the threshold and its p-value at most the threshold's rate.

        For an image of one tile the first implies the second.
        """
        with np.errstate(invalid="ignore"):
            return (scores_B > np.float32(self.threshold)) & (p_values_B <= self._highest_rate)

    def promise(self, n_images: int, n_tiles: int = 1, n_groups: int | None = None) -> dict[str, float]:
        """Expected share of `n_images` sound images of `n_tiles` tiles that will be flagged, and its 95 % interval.

        The new images must come from groups that are exchangeable with those of the calibration. The interval covers
        how much groups differ (group_rates.py), as far as the calibration knows: if all of its images are one group, or
        each its own, images count as independent. Then the rate above the k-th of N scores is Beta(N+1-k, k)
        distributed, whatever the model, and the share of a finite number of images beta-binomial.

        Args:
            n_groups: number of groups of the new images; as many as those of the calibration if not given.

        Source: Vovk, Conditional validity of inductive conformal predictors (2013), proposition 2a.
        """
        kind, n_groups = self.kind(n_tiles), n_groups or self.groups
        if kind == "tiles+tail":
            assert self._tail, "kind() found one"
            threshold = max(self.threshold, self._tail.threshold(n_tiles, self.rate))
            return self._tail.promise(threshold, n_images, n_tiles, n_groups)
        if kind == "none":
            return {"expected": 0.0, "low": 0.0, "high": 0.0}
        is_used_N, chances = self._compared(n_tiles)
        groups_N = self.sample.groups_N if self.sample and len(self.sample.groups_N) else np.arange(len(self.scores_N))
        sound_N, groups_N = self.scores_N[is_used_N], groups_N[is_used_N]
        n = len(sound_N)
        at_least = n + 1 - math.floor(self._highest_rate / chances * (n + 1))
        rank = max(at_least, int(np.searchsorted(sound_N, np.float32(self.threshold), side="right")))
        if rank == 0:
            return {"expected": 1.0, "low": 1.0, "high": 1.0}
        low, high = share_interval(np.arange(n) >= rank, groups_N, n_images, n_groups)
        return {"expected": (n + 1 - rank) / (n + 1), "low": low, "high": high}

    def promise_of(self, images_of: Mapping[int, int], n_groups: int) -> dict[str, float]:
        """promise() of images of several numbers of tiles, given by these numbers, and of so many groups.

        Its interval holds that of as many images of any one of these numbers: what differs between places raises or
        lowers the rates of them all together.
        """
        total = sum(images_of.values())
        promises = {n_tiles: self.promise(total, n_tiles, n_groups) for n_tiles in images_of}
        return {
            "expected": sum(n / total * promises[n_tiles]["expected"] for n_tiles, n in images_of.items()),
            "low": min(one["low"] for one in promises.values()),
            "high": max(one["high"] for one in promises.values()),
        }


def percentile_threshold(scores_N: np.ndarray, percentile: float) -> float:
    """The published rule: an interpolated percentile of the sound scores; it guarantees no false-alarm rate."""
    _check(scores_N)
    return float(np.float32(np.percentile(scores_N, percentile)))


def conformal_threshold(scores_N: np.ndarray, max_false_alarm: float, confidence: float | None) -> float:
    """Lowest of the scores with a false-alarm rate of at most `max_false_alarm` on exchangeable images.

    Without `confidence` the rate holds on average over calibrations: rank ceil((N+1)(1-a)). With it, the rate of this
    calibration is at most `a` with that probability: the rate above rank k is Beta(N+1-k, k) distributed.

    Args:
        scores_N: float (N,), finite, of exchangeable sound images.
        max_false_alarm: share of sound images that may be flagged, in (0, 1).
        confidence: in (0, 1), or None.

    Raises:
        CalibrationError: N is too small for that rate; the message says how many images are needed.

    Source: Vovk, Conditional validity of inductive conformal predictors (2013), proposition 2a.
    """
    from scipy.stats import beta  # imported here: it takes half a second, and scoring needs none of it

    _check(scores_N)
    n = len(scores_N)
    if confidence is None:
        needed = math.ceil(1 / max_false_alarm) - 1
        rank = math.ceil((n + 1) * (1 - max_false_alarm) - 1e-9)
    else:
        needed = math.ceil(math.log(1 - confidence) / math.log(1 - max_false_alarm))
        ranks = np.arange(1, n + 1)
        holds = np.asarray(beta.cdf(max_false_alarm, n + 1 - ranks, ranks)) >= confidence
        rank = int(ranks[holds][0]) if holds.any() else n + 1
    if rank > n:
        raise CalibrationError(
            f"a false-alarm rate of {max_false_alarm:g}{f' with confidence {confidence:g}' if confidence else ''} "
            f"needs {needed} sound images; got {n}. Add images, or ask for a higher rate."
        )
    return float(np.float32(np.sort(scores_N)[rank - 1]))


def require_enough(n: int) -> None:
    """Raise CalibrationError if `n` sound images are too few for any threshold."""
    if n < MIN_IMAGES:
        raise CalibrationError(f"{n} sound images cannot set a threshold: give {MIN_IMAGES} or more.")


def _check(scores_N: np.ndarray) -> None:
    require_enough(len(scores_N))
    if not np.isfinite(scores_N).all():
        raise CalibrationError("some of the sound images have no finite score: the model is broken, train it again.")


def calibration_file(calibration: Calibration) -> bytes:
    """The content of calibration.json."""
    content = {
        "n": len(calibration.scores_N),
        "groups": calibration.groups,
        "level": calibration.level,
        "threshold": calibration.threshold,
        "scores": [float(score) for score in np.sort(calibration.scores_N)],
        "model": calibration.model,
        "leaky": calibration.leaky,
        "digest": calibration.digest,
    }
    if calibration.sample:
        content |= {
            "tiles": calibration.sample.tiles_N.tolist(),
            "tile_scores": [float(score) for score in calibration.sample.tile_scores_M],
            "tile_groups": calibration.sample.tile_groups_M.tolist(),
            "image_groups": calibration.sample.groups_N.tolist(),
        }
    return json.dumps(content).encode()


class _CalibrationFile(BaseModel):
    """The content of calibration.json."""

    groups: int
    level: str
    threshold: float
    scores: list[float]
    model: str
    leaky: bool
    digest: str | None = None
    tiles: list[int] | None = None
    tile_scores: list[float] = []
    tile_groups: list[int] = []
    image_groups: list[int] = []

    def calibration(self) -> Calibration:
        scores_N = np.asarray(self.scores, np.float32)
        sample = None
        if self.tiles is not None:
            numbers = (np.asarray(one, np.int32) for one in (self.tiles, self.image_groups, self.tile_groups))
            tiles_N, groups_N, tile_groups_M = numbers
            sample = Sample(tiles_N, groups_N, np.asarray(self.tile_scores, np.float32), tile_groups_M)
        return Calibration(scores_N, self.groups, self.level, self.threshold, self.model, self.leaky, sample)


def load_calibration(model_dir: str, model_digest: str) -> Calibration:
    """The calibration of a model directory.

    Raises:
        ModelError: missing, damaged, altered, or made with other weights.
    """
    path = join(builtin.folder_of(model_dir), FILE)
    again = builtin.advice(model_dir, f"Run crackvae calibrate --model {model_dir} again.")
    try:
        content = _CalibrationFile.model_validate_json(read_bytes(path))
    except ValidationError as error:
        raise ModelError(f"{path} is missing or damaged ({problems(error)}). {again}") from error
    except StorageError as error:
        raise ModelError(f"{path} is missing or damaged ({error}). {again}") from error
    calibration = content.calibration()
    if calibration.digest != content.digest:
        raise ModelError(f"{path} was altered: its digest does not match. {again}")
    if calibration.model != model_digest:
        raise ModelError(f"{path} was made with other weights than the model's. {again}")
    return calibration
