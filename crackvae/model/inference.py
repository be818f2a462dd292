"""Scores and explanations of tiles by a model. No Ray."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from crackvae.cores import thread_count
from crackvae.errors import ModelError
from crackvae.images.tiles import cut, stitch
from crackvae.model.artifact import Model, load_model
from crackvae.model.calibration import Calibration, load_calibration
from crackvae.model.heads import HEADS, evidence, mean_evidence, model_scores, scores_of
from crackvae.model.network import enlarged, to_input
from crackvae.model.registry import model_folder
from crackvae.model.runtime import Runtime, reference


@dataclass(frozen=True)
class RecordedModel:
    """The model of a table of scores, if it is available.

    Attributes:
        model: None if it is not available.
        why_not: the reason, or "".
        calibration: with the threshold of the scores; None without a model.
    """

    model: Model | None
    why_not: str
    calibration: Calibration | None


def find_recorded_model(named: str, recorded: str, digest: str, threshold: float) -> RecordedModel:
    """The model that computed the scores.

    Args:
        named: model directory given by the user, or "".
        recorded: model directory named in the summary, or "".
        digest, threshold: of the scores.

    Raises:
        ModelError: --model names another model than that of the scores, or a damaged one.
    """
    model_dir = model_folder(named, digest) if named else recorded
    if not model_dir:
        return RecordedModel(None, "these scores do not say which model directory they come from: give --model", None)
    try:
        model = load_model(model_dir)
        if model.digest == digest:
            return RecordedModel(model, "", replace(load_calibration(model_dir, digest), threshold=threshold))
    except ModelError as error:
        if named:
            raise
        return RecordedModel(None, str(error), None)
    if named:
        raise ModelError(
            f"{model_dir} is not the model of these scores (digest {model.digest[:12]}, scores {digest[:12]}): "
            "name the one that computed them."
        )
    return RecordedModel(None, f"{model_dir} now holds another model (digest {model.digest[:12]})", None)


# Tiles of one forward pass when an image is explained.
EXPLAIN_BATCH = 32


def _inputs(tiles: Iterable[np.ndarray], batch: int, device: str) -> Iterator[tuple[int, Tensor]]:
    """The inputs (B, 1, P, P) of the passes over some tiles, uint8 (P, P) each, and how many tiles each of them has.

    Every pass has exactly `batch` tiles, the last one padded with black ones: a convolution library may choose another
    order of summation for another shape, and a score must not depend on the other tiles of its pass.
    """
    left = iter(tiles)
    while some := list(islice(left, batch)):
        tiles_BPP = torch.from_numpy(np.stack(some))
        filled_BPP = functional.pad(tiles_BPP, (0, 0, 0, 0, 0, batch - len(some)))
        if device != "cpu":  # pinned memory, so that the copy overlaps with the computation
            filled_BPP = filled_BPP.pin_memory().to(device, non_blocking=True)
        yield len(some), to_input(filled_BPP)


@torch.inference_mode()
def score_tiles(
    model: Model, tiles_TPP: np.ndarray, batch: int, extra_heads: tuple[str, ...] = (), runtime: Runtime | None = None
) -> np.ndarray:
    """Score of each tile by the model's head and by other heads from the same forward pass; larger is more crack-like.

    Args:
        tiles_TPP: uint8 (T, P, P).
        extra_heads: names of HEADS, BASELINE, LATENT_NORM or TEXTURE.
        runtime: of the model and `batch`; the reference by default.

    Returns:
        float32 (T, 1 + number of extra heads).
    """
    runtime = runtime or reference(model)
    scores = [torch.empty(0, 1 + len(extra_heads))]
    for _, input_B1PP in _inputs(tiles_TPP, batch, runtime.device):
        output = runtime.forward(input_B1PP)
        own_B = model_scores(model.spec, input_B1PP, output)
        others = [scores_of(model.spec, head, input_B1PP, output) for head in extra_heads]
        scores.append(torch.stack([own_B, *others], dim=1))
    on_cpu = torch.cat([part.cpu() for part in scores])  # after the last pass was queued
    return on_cpu[: len(tiles_TPP)].numpy()


@torch.inference_mode()
def evidence_by_weight(model: Model, tiles_TPP: np.ndarray, weights: tuple[float, ...], batch: int) -> np.ndarray:
    """Score of each tile by the head `evidence` with each weight W of the darkness, float32 (T, W), from one pass.

    Args:
        tiles_TPP: uint8 (T, P, P).
    """
    runtime, specs = reference(model), [replace(model.spec, darkness_weight=weight) for weight in weights]
    scores = [np.empty((0, len(weights)), np.float32)]
    for n, input_B1PP in _inputs(tiles_TPP, batch, runtime.device):
        output = runtime.forward(input_B1PP)
        scores_BW = torch.stack([mean_evidence(spec, input_B1PP, output) for spec in specs], dim=1)
        scores.append(scores_BW[:n].numpy())
    return np.concatenate(scores)


@torch.inference_mode()
def crack_probabilities(
    model: Model, tiles: Iterable[np.ndarray], batch: int, runtime: Runtime
) -> Iterator[np.ndarray]:
    """Probability of each pixel of some tiles being cracked, by a model whose head is `evidence`.

    Tiles of several images share a pass: one that has a single tile would cost a whole one.

    Args:
        tiles: uint8 (P, P) each.
        runtime: of the model and `batch`.

    Yields:
        float32 (P, P) in [0, 1] of each tile.
    """
    for n, input_B1PP in _inputs(tiles, batch, runtime.device):
        evidence_B1PP = evidence(model.spec, input_B1PP, runtime.forward(input_B1PP))
        yield from -torch.expm1(-evidence_B1PP[:n, 0]).cpu().numpy()


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: on a busy machine two threads waited 30 times longer for each other than a tile took."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def threads() -> Iterator[ThreadPoolExecutor]:
    """An executor of thread_count() threads, in which torch uses one thread for each task."""
    with one_thread(), ThreadPoolExecutor(thread_count()) as executor:
        yield executor


@dataclass(frozen=True)
class Explanation:
    """Reconstruction and anomaly map of one image, at the image's own resolution.

    Attributes:
        reconstruction_HW: uint8 (H, W).
        anomaly_HW: float32 (H, W), the map of the model's head, in that head's unit.
        tile_scores: float32 (rows, cols), the score of each tile; equal to score_tiles() up to rounding, because
            passes are not padded here.
        xs, ys: left edges of the columns and top edges of the rows of tiles [px].
    """

    reconstruction_HW: np.ndarray
    anomaly_HW: np.ndarray
    tile_scores: np.ndarray
    xs: tuple[int, ...]
    ys: tuple[int, ...]


@torch.inference_mode()
def explain_tiles(model: Model, tiles_TPP: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reconstruct and score tiles.

    Args:
        tiles_TPP: uint8 (T, P, P).

    Returns:
        Reconstructions in [0, 1] and anomaly maps of the model's head, float32 (T, P, P), and scores, float32 (T,).
    """
    head = model.spec.head
    reconstructions_TPP = np.empty(tiles_TPP.shape, np.float32)
    maps_TPP = np.empty_like(reconstructions_TPP)
    scores_T = np.empty(len(tiles_TPP), np.float32)
    for start in range(0, len(tiles_TPP), EXPLAIN_BATCH):
        B = slice(start, start + EXPLAIN_BATCH)
        input_B1PP = to_input(torch.from_numpy(np.array(tiles_TPP[B])))
        output = model.network(input_B1PP)
        reconstructions_TPP[B] = enlarged(output.reconstruction_B1QQ, input_B1PP).squeeze(1).numpy()
        maps_TPP[B] = HEADS[head].anomaly_map(model.spec, input_B1PP, output).squeeze(1).numpy()
        scores_T[B] = model_scores(model.spec, input_B1PP, output).numpy()
    return reconstructions_TPP, maps_TPP, scores_T


def explain(model: Model, pixels_HW: np.ndarray) -> Explanation:
    """Reconstruction and anomaly map of one image, stitched from its tiles.

    Args:
        pixels_HW: uint8 (H, W), as decode() returns it.

    Raises:
        UnreadableImage: more tiles than cut() allows.
    """
    spec = model.spec
    tiles = cut(pixels_HW, spec.tile_px, spec.stride_px, spec.input_px)
    with one_thread():
        reconstructions_TPP, maps_TPP, scores_T = explain_tiles(model, tiles.pixels_TPP)
    height, width = pixels_HW.shape
    grey_HW = stitch(reconstructions_TPP, tiles, height, width) * 255
    anomaly_HW = stitch(maps_TPP, tiles, height, width)
    scores = scores_T.reshape(tiles.rows, tiles.cols)
    return Explanation(grey_HW.round().clip(0, 255).astype(np.uint8), anomaly_HW, scores, tiles.xs, tiles.ys)


@dataclass(frozen=True)
class Scorer:
    """A model and its calibration: everything of a model directory that scoring needs."""

    model: Model
    calibration: Calibration

    @property
    def leaky(self) -> bool:
        """Whether copies of images that it was trained on may be among those of val that its figures rest on."""
        return self.model.spec.leaky or self.calibration.leaky


def load_scorer(model_dir: str) -> Scorer:
    """Load model and calibration of a model directory, or of a registry's current version. Raises ModelError."""
    model_dir = model_folder(model_dir)
    model = load_model(model_dir)
    return Scorer(model, load_calibration(model_dir, model.digest))
