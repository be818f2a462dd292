"""Threshold and p-values from the scores of sound images that the model was not trained on.

Shape letters: N calibration images, B scored images.
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


# Fewest calibration images: with fewer, the 95th percentile is one of the three largest scores.
MIN_IMAGES = 20


# Coverage of the interval that is stated with a false-alarm rate.
PROMISE_INTERVAL = 0.95


@dataclass(frozen=True)
class Calibration:
    """Threshold of a model and the scores of sound images that it was set from.

    Attributes:
        scores_N: float32 (N,), ascending, of the sound images.
        groups: number of groups of these images; with fewer groups than images these are not independent.
        level: the rule that set the threshold, in words.
        threshold: an image is flagged when its score is greater.
        model: digest of the model that computed the scores.
        leaky: whether copies of the sound images may be among the training images.
    """

    scores_N: np.ndarray
    groups: int
    level: str
    threshold: float
    model: str
    leaky: bool

    @property
    def digest(self) -> str:
        """SHA-256 of all attributes."""
        words = [self.groups, self.level, self.threshold, self.model, self.leaky]
        return hashlib.sha256(json.dumps(words).encode() + self.scores_N.astype("<f4").tobytes()).hexdigest()

    def promise(self, n_images: int) -> dict[str, float]:
        """Expected share of `n_images` exchangeable sound images that will be flagged, and its 95 % interval.

        The rate above the k-th of N scores is Beta(N+1-k, k) distributed, whatever the model; the share of a finite
        number of images is beta-binomial. The interval is wide if N or `n_images` is small, and too narrow if images of
        one group are correlated.

        Source: Vovk, Conditional validity of inductive conformal predictors (2013), proposition 2a.
        """
        from scipy.stats import betabinom  # imported here: scoring actors import this module and do not need it

        n = len(self.scores_N)
        rank = int(np.searchsorted(self.scores_N, np.float32(self.threshold), side="right"))
        if rank == 0:
            return {"expected": 1.0, "low": 1.0, "high": 1.0}
        low, high = betabinom.interval(PROMISE_INTERVAL, n_images, n + 1 - rank, rank)
        return {"expected": (n + 1 - rank) / (n + 1), "low": low / n_images, "high": high / n_images}

    def p_values(self, scores_B: np.ndarray, tiles_B: np.ndarray) -> np.ndarray:
        """Probability of a sound image scoring this high, for each image.

        The p-value of an image of T tiles is min(1, T p), with p that of its worst tile (Bonferroni).

        Args:
            scores_B: float (B,), NaN for an image without a score.
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
    """Adjusted p-values of the images of a night that control the false discovery rate, float (N,).

    If the images at or below a level are flagged, at most that share of them is sound on average, provided that the
    sound images of the night are exchangeable with those of the calibration.

    Source: Benjamini & Hochberg, Controlling the false discovery rate (1995); for conformal p-values, which
    share a calibration: Bates et al., Testing for outliers with conformal p-values (2023).
    """
    from scipy.stats import false_discovery_control  # imported here as in promise()

    return np.asarray(false_discovery_control(p_values_N)) if len(p_values_N) else p_values_N


def fewest_discoveries(n_images: int, n_calibration: int, max_false_discovery: float) -> int:
    """Smallest number of images that false_discovery_rates() can put at or below a level: p is 1 / (n + 1) or more."""
    return math.ceil(n_images / (max_false_discovery * (n_calibration + 1)) - 1e-9)


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
    from scipy.stats import beta  # imported here as in promise()

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
