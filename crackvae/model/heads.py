"""Anomaly map and score heads; one row of the scores table from one image. No Ray.

Shape letters: T tiles, B tiles of one pass through the network, P side of a tile at the input [px], H, W rows and
columns of an image.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from crackvae.config import SEGMENTER_HEADS
from crackvae.model.network import ModelSpec, Output, contrast, darker_than, median_of, pooled

# Share of the pixels that the heads `dark`, `crack` and `evidence` average over: the best of 0.25 to 8 % on METU's val.
CRACK_SHARE = 0.02


@dataclass(frozen=True)
class Head:
    """A way from one pass through the network to a score.

    Attributes:
        anomaly_map: input (B, 1, P, P) and output of the network to the suspicion of every pixel, (B, 1, P, P), not
            negative.
        unit: of the map.
        power: of the map's values in the score.
        share: share of the pixels, the most suspicious ones, whose mean is the score.
    """

    anomaly_map: Callable[[Tensor, Output], Tensor]
    unit: str
    power: int
    share: float


def residual(input_B1PP: Tensor, output: Output) -> Tensor:
    """What the ConvVAE could not reconstruct."""
    return (input_B1PP - output.reconstruction_B1PP).abs()


def darkness(input_B1PP: Tensor, output: Output) -> Tensor:
    """How much darker than the tile's median, as a share of that; lighter is 0. Needs no network."""
    return contrast(input_B1PP).clamp(min=0)


def dark_crack(input_B1PP: Tensor, output: Output) -> Tensor:
    """Darkness that the segmenter takes for a crack: their product.

    Dark against the median, or against the reconstruction where that is lighter: with half of a tile in shadow a crack
    in the lit half is no darker than the median. The reconstruction alone would follow a wide crack.
    """
    assert output.crack_B1PP is not None, "settings give the head `crack` to no model without a segmenter"
    reference_B1PP = torch.maximum(output.reconstruction_B1PP, median_of(input_B1PP))
    return darker_than(reference_B1PP, input_B1PP).clamp(min=0) * torch.sigmoid(output.crack_B1PP)


def evidence(input_B1PP: Tensor, output: Output) -> Tensor:
    """How surely the segmenter takes a pixel for a crack, -log(1 - probability) [nats]; unlike that, it has no ceiling.

    Where the surface itself is full of dark gaps, how dark a crack is says less than that it is one.
    """
    assert output.crack_B1PP is not None, "settings give the head `evidence` to no model without a segmenter"
    return functional.softplus(output.crack_B1PP)


_RESIDUAL_UNIT = "residual [grey level, black 0 to white 1]"


HEADS = {
    "mse": Head(residual, _RESIDUAL_UNIT, power=2, share=1.0),  # the published score
    "top": Head(residual, _RESIDUAL_UNIT, power=2, share=0.01),
    "dark": Head(darkness, "darkness [share of the brightness]", power=1, share=CRACK_SHARE),
    "crack": Head(dark_crack, "darkness x probability of a crack", power=1, share=CRACK_SHARE),
    "evidence": Head(evidence, "evidence of a crack [nats]", power=1, share=CRACK_SHARE),
}


# The measure of any model: median minus 1st percentile of the pixels, one line of numpy.
BASELINE = "one_line"


# Length of the posterior mean: no score, but what tells a new texture from a known one.
LATENT_NORM = "latent_norm"


def one_line(input_B1PP: Tensor) -> Tensor:
    """The baseline's score of each tile, float (B,)."""
    pixels_BN = input_B1PP.flatten(1)
    return pixels_BN.quantile(0.5, dim=1) - pixels_BN.quantile(0.01, dim=1)


def scores_of(head: str, input_B1PP: Tensor, output: Output) -> Tensor:
    """Score of each tile by a head or by the baseline, or its latent norm, float (B,)."""
    if head == BASELINE:
        return one_line(input_B1PP)
    if head == LATENT_NORM:
        return output.mu_BZ.square().sum(dim=1).sqrt()
    chosen = HEADS[head]
    return pooled(chosen.anomaly_map(input_B1PP, output) ** chosen.power, chosen.share)


def heads_of(spec: ModelSpec) -> tuple[str, ...]:
    """The heads that a model can answer with: all but those that need a segmenter that it lacks."""
    return tuple(name for name in HEADS if spec.segmenter or name not in SEGMENTER_HEADS)
