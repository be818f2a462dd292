"""The specification of a model: everything that changes a score, apart from the weights."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import Field

from crackvae.config import SEGMENTER_COARSE, Backbone, Head, Recipe

# Axes along which a tile is mirrored, of its first, second, third and fourth look.
MIRRORS: tuple[tuple[int, ...], ...] = ((), (3,), (2,), (2, 3))

Count = Annotated[int, Field(gt=0)]


@dataclass(frozen=True)
class Yardstick:
    """What the evidence of a tile is divided by, as a function of its texture: a line between knots.

    Sound gravel has more evidence of a crack than a smooth sound wall. Scores are relative to it, so that one threshold
    has about the same false-alarm rate on both.

    Attributes:
        log_textures: of the knots, ascending.
        log_evidences: of the knots, natural logarithm of nats.
    """

    log_textures: tuple[float, ...]
    log_evidences: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Everything that changes a score, apart from the weights: the content of model.json.

    Attributes:
        input_px: side P of a tile at the network's input [px].
        channels: output channels of the ConvVAE's stride-2 convolutions.
        latent_dim: Z.
        segmenter: output channels of the segmenter at 1/2, 1/4, 1/8 and 1/16 of the tile's side; empty for a model
            without one.
        recipe: training recipe.
        tile_px, stride_px: side of a tile and distance between tile origins in the image [px].
        head: score head.
        beta: weight of the KL divergence in training [squared grey level per nat].
        seed: of the training.
        manifest: digest of the manifest of the training.
        leaky: whether that manifest allows copies of an image on both sides of its splits.
        darkness_weight: log-odds of a crack that a black pixel adds in a light tile, in the head `evidence`.
        yardstick: what the evidence of a tile is divided by; None for the evidence itself.
        mirrors: mirror images of a tile, itself among them, over which the segmenter's logits are averaged.
        backbone: pretrained network whose features the segmenter sees.
    """

    input_px: Count
    channels: tuple[Count, ...]
    latent_dim: Count
    segmenter: tuple[Count, ...]
    recipe: Recipe
    tile_px: Count
    stride_px: Count
    head: Head
    beta: int | float  # kept as written: a digest of 0 is not that of 0.0
    seed: int
    manifest: str
    leaky: bool
    darkness_weight: float = 1.0
    yardstick: Yardstick | None = None
    mirrors: Annotated[int, Field(gt=0, le=len(MIRRORS))] = 1
    backbone: Backbone = "none"

    def as_json(self) -> dict[str, Any]:
        """The fields, without those of newer versions where they change nothing: a model keeps the digest it had."""
        values = asdict(self)
        for name, unused in (("mirrors", 1), ("backbone", "none")):
            if values[name] == unused:
                del values[name]
        return values

    @property
    def vae_px(self) -> int:
        """Side Q of the ConvVAE's input [px]."""
        return self.input_px // SEGMENTER_COARSE if self.segmenter else self.input_px
