"""The segmenter: which pixels of a tile are cracked.

Shape letters: B tiles of a batch, P side of a tile at the input [px], H half of it, C channels.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from crackvae.model.backbone import Backbone

# Number of channels of the segmenter's input, network.views().
VIEWS = 3
# Side of one cell of the segmenter's finest maps [px]; two stride-2 convolutions fold the pixels of a cell into
# channels.
FOLD = 4
# Initial logit of a pixel: about one in fifty is cracked.
INITIAL_LOGIT = -4.0


class Residual(nn.Module):
    """Two 3x3 convolutions with a skip connection; the first may be dilated, for context without downsampling.

    No batch normalisation: a score must not depend on the other tiles of its batch.

    Source: He et al., Deep Residual Learning (2016); Yu & Koltun, Multi-Scale Context Aggregation (2016).
    """

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(channels, channels, 3, 1, dilation, dilation)
        self.narrow = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps of the same shape."""
        return functional.relu(maps + self.narrow(functional.relu(self.wide(maps))))


class Context(NamedTuple):
    """What is added to the maps of the segmenter's middle and coarse branch, at 1/8 and 1/16 of the tile's side."""

    middle: Tensor
    coarse: Tensor

    def halved(self) -> "Context":
        """The same for the tile at half its side."""
        return Context(functional.avg_pool2d(self.middle, 2), functional.avg_pool2d(self.coarse, 2))


class BackboneContext(nn.Module):
    """What the pretrained backbone sees in a tile, in the channels of the segmenter's branches."""

    def __init__(self, middle: int, coarse: int) -> None:
        super().__init__()
        self.backbone = Backbone()
        outputs = (middle, coarse, coarse, coarse)
        self.projections = nn.ModuleList(map(_projection, Backbone.channels, outputs))

    def forward(self, half_B1HH: Tensor) -> Context:
        """From the tile at half its side."""
        with torch.no_grad():
            maps = self.backbone(half_B1HH)
        middle, *coarse = (project(one) for project, one in zip(self.projections, maps, strict=True))
        sixteenth, thirty_second, below = coarse
        for above in (thirty_second, sixteenth):
            below = above + functional.interpolate(below, scale_factor=2.0, mode="bilinear")
        return Context(middle, below)


class Segmenter(nn.Module):
    """A small U-Net over all pixels of the tile; the receptive field of its coarse branch is the whole tile.

    It is trained on synthetic cracks and sees, beside the tile itself, what the ConvVAE makes of it and, with a
    backbone, what a network that knows photographs of everything sees in it.

    Source: Ronneberger, Fischer & Brox, U-Net (2015); beside a reconstruction: Zavrtanik, Kristan & Skocaj, DRAEM
    (2021).
    """

    def __init__(self, channels: tuple[int, ...], *, backbone: bool = False) -> None:
        super().__init__()
        stem, fine, middle, coarse = channels
        self.stem = _halving(VIEWS, stem)
        self.fine = nn.Sequential(_halving(stem, fine), _same(fine, fine))
        self.middle = nn.Sequential(_halving(fine, middle), Residual(middle, 2))
        self.coarse = nn.Sequential(_halving(middle, coarse), Residual(coarse, 2), Residual(coarse, 4))
        self.to_middle, self.up_middle = nn.Conv2d(coarse, middle, 1), _same(middle, middle)
        self.to_fine, self.up_fine = nn.Conv2d(middle, fine, 1), _same(fine, fine)
        self.logits = nn.Conv2d(fine, FOLD**2, 1)
        self._initialise()
        self.context = BackboneContext(middle, coarse) if backbone else None

    def _initialise(self) -> None:
        """He initialisation: without normalisation layers the variance must be preserved from layer to layer.

        Source: He et al., Delving Deep into Rectifiers (2015), section 2.2.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        for residual in (module for module in self.modules() if isinstance(module, Residual)):
            nn.init.zeros_(residual.narrow.weight)  # starts as the identity
        nn.init.normal_(self.logits.weight, std=0.02)
        nn.init.constant_(self.logits.bias, INITIAL_LOGIT)  # type: ignore[arg-type]

    def forward(self, views_BCPP: Tensor, context: Context | None = None) -> Tensor:
        """Logit (B, 1, P, P) of each pixel being cracked, from views() and what the context says of them."""
        return self.after_stem(self.stem(views_BCPP.contiguous(memory_format=torch.channels_last)), context)

    def after_stem(self, stem_BCHH: Tensor, context: Context | None) -> Tensor:
        """forward() from the maps of the stem, at half of the side."""
        fine = self.fine(stem_BCHH)
        middle = self.middle(fine)
        if context:
            middle = middle + context.middle
        coarse = self.coarse[0](middle)
        if context:
            coarse = coarse + context.coarse
        coarse = self.coarse[1:](coarse)
        middle = self.up_middle(middle + functional.interpolate(self.to_middle(coarse), scale_factor=2.0))
        fine = self.up_fine(fine + functional.interpolate(self.to_fine(middle), scale_factor=2.0))
        return functional.pixel_shuffle(self.logits(fine), FOLD)


def _projection(inputs: int, outputs: int) -> nn.Module:
    """A 1x1 convolution from maps of the backbone, so small at first that it disturbs no branch."""
    projection = nn.Conv2d(inputs, outputs, 1)
    nn.init.normal_(projection.weight, std=0.5 / math.sqrt(inputs))
    nn.init.zeros_(projection.bias)  # type: ignore[arg-type]
    return projection


def _same(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 1, 1), nn.ReLU())


def _halving(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 4, 2, 1), nn.ReLU())
