"""Threshold and p-values from the scores of sound images that the model was not trained on.

Shape letters: N calibration images, B images to judge.
"""

import hashlib
import json
import math
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ValidationError

from crackvae.errors import CalibrationError, ModelError, StorageError
from crackvae.storage.fileio import read_bytes
from crackvae.storage.records import problems
from crackvae.storage.uris import join

FILE = "calibration.json"


# With fewer sound scores a 95th percentile is one of the last three values.
MIN_IMAGES = 20


# Share of calibrations that keep their promise: the interval that is stated with a false-alarm rate.
PROMISE_INTERVAL = 0.95


@dataclass(frozen=True)
class Calibration:
    """What a score means, learned from sound images.

    Attributes:
        scores_N: float32 (N,), ascending: the scores of the sound images.
        groups: number of groups that they come from; fewer groups carry less than N independent images.
        level: the rule that set the threshold, in words.
        threshold: an image is flagged when its score is greater.
        model: digest of the model that gave the scores.
        leaky: whether the sound images may have copies among those trained on.
    """

    scores_N: np.ndarray
    groups: int
    level: str
    threshold: float
    model: str
    leaky: bool

    @property
    def digest(self) -> str:
        """Hash of all of it."""
        words = [self.groups, self.level, self.threshold, self.model, self.leaky]
        return hashlib.sha256(json.dumps(words).encode() + self.scores_N.astype("<f4").tobytes()).hexdigest()

    def promise(self, n_images: int) -> dict[str, float]:
        """Share of `n_images` sound images like these that will be flagged: on average, and its 95 % interval.

        Above the k-th of N scores the rate is Beta(N+1-k, k) distributed, whatever the model; of a finite number of
        images the share is beta-binomial. The interval is wide where N or `n_images` is small, and too narrow where
        images of one group fail together.

        Source: Vovk, Conditional validity of inductive conformal predictors (2013), proposition 2a.
        """
        from scipy.stats import betabinom  # here, because every scoring actor imports this module and needs none

        n = len(self.scores_N)
        rank = int(np.searchsorted(self.scores_N, np.float32(self.threshold), side="right"))
        if rank == 0:
            return {"expected": 1.0, "low": 1.0, "high": 1.0}
        low, high = betabinom.interval(PROMISE_INTERVAL, n_images, n + 1 - rank, rank)
        return {"expected": (n + 1 - rank) / (n + 1), "low": low / n_images, "high": high / n_images}

    def p_values(self, scores_B: np.ndarray, tiles_B: np.ndarray) -> np.ndarray:
        """Share of sound images that would score this high, for each image.

        An image of T tiles has T chances: its p-value is min(1, T p) (Bonferroni).

        Args:
            scores_B: float (B,), NaN where an image has no score.
            tiles_B: int (B,), number of tiles of each image.

        Returns:
            float64 (B,) in (0, 1], NaN where the score is NaN.

        Source: Vovk, Gammerman & Shafer, Algorithmic Learning in a Random World (2005), split conformal prediction.
        """
        n = len(self.scores_N)
        as_high = n - np.searchsorted(self.scores_N, scores_B.astype(np.float32), side="left")
        p_values = np.minimum(1.0, tiles_B * (1 + as_high) / (n + 1))
        return np.where(np.isnan(scores_B), np.nan, p_values)


def false_discovery_rates(p_values_N: np.ndarray) -> np.ndarray:
    """Smallest share of sound images among the flagged ones at which each image of a night is flagged, float (N,).

    Flag those at or below a level, and on average at most that share of them is sound, if the sound images of the night
    are exchangeable with those of the calibration.

    Source: Benjamini & Hochberg, Controlling the false discovery rate (1995); with conformal p-values, which depend on
    each other through their calibration: Bates et al., Testing for outliers with conformal p-values (2023).
    """
    from scipy.stats import false_discovery_control  # here, as in promise()

    return np.asarray(false_discovery_control(p_values_N)) if len(p_values_N) else p_values_N


def fewest_discoveries(n_images: int, n_calibration: int, max_false_discovery: float) -> int:
    """Fewest images that false_discovery_rates() can put at or below a level: p-values end at 1 / (n + 1)."""
    return math.ceil(n_images / (max_false_discovery * (n_calibration + 1)) - 1e-9)


def percentile_threshold(scores_N: np.ndarray, percentile: float) -> float:
    """The published rule: a percentile of the sound scores, interpolated; it promises no rate."""
    _check(scores_N)
    return float(np.float32(np.percentile(scores_N, percentile)))


def conformal_threshold(scores_N: np.ndarray, max_false_alarm: float, confidence: float | None) -> float:
    """Lowest of the scores above which at most `max_false_alarm` of images like these are flagged.

    Without `confidence` the rate holds on average over calibrations: rank ceil((N+1)(1-a)). With it, the rate of
    this very calibration is at most `a` with that probability: the rate above rank k is Beta(N+1-k, k) distributed.

    Args:
        scores_N: float (N,), finite, of exchangeable sound images.
        max_false_alarm: share of sound images that may be flagged, in (0, 1).
        confidence: in (0, 1), or None.

    Raises:
        CalibrationError: N cannot carry the promise; says how many images could.

    Source: Vovk, Conditional validity of inductive conformal predictors (2013), proposition 2a.
    """
    from scipy.stats import beta  # here, as in promise()

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
    """Raise CalibrationError where `n` sound images are too few for any threshold: before the work, not after it."""
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

    def calibration(self) -> Calibration:
        scores_N = np.asarray(self.scores, np.float32)
        return Calibration(scores_N, self.groups, self.level, self.threshold, self.model, self.leaky)


def load_calibration(model_dir: str, model_digest: str) -> Calibration:
    """The calibration of a model directory.

    Raises:
        ModelError: missing, damaged, altered, or made with other weights.
    """
    path = join(model_dir, FILE)
    again = f"Run crackvae calibrate --model {model_dir} again."
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
