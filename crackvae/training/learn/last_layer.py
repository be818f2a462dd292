"""The last layer of the segmenter, fitted to the verdicts of reviewers.

The layer is linear in the features of a cell of FOLD x FOLD pixels, so a direction of the features that is added to all
of its rows raises the logits of the cells that lie along it. The direction is that of a logistic regression of the
verdicts on the logarithm of the score of a tile: joints and holes that were judged false alarms lower what resembles
them, judged cracks raise it. A penalty on its length keeps a few verdicts from changing much.

Shape letters: T judged tiles, F pixels of a cell, L cells of a tile, C features, P side of a tile at the input [px].
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from crackvae.model.artifact import Model
from crackvae.model.heads import CRACK_SHARE, EVIDENCE_OFFSET, crack_logits, log_typical
from crackvae.model.network import mean_of_scales, mirrored, to_input
from crackvae.model.segmenter import FOLD

# Of half the squared length of the direction, in standard deviations of the features. Chosen on one fold of SDNET2018
# (docs/log.md).
PENALTY = 100.0
MAX_STEPS, BATCH = 60, 32


@dataclass(frozen=True)
class Cells:
    """The cells of some tiles: what the last layer sees, and makes of it. A tile of 256 px takes 0.8 MB.

    Attributes:
        logits_TFL: of their pixels.
        features_TCL: input of the last layer, of both scales as their logits are weighted.
        log_typical_T: what the yardstick subtracts from the log score.
        n_pixels: number of pixels that the score is the mean of.
    """

    logits_TFL: Tensor
    features_TCL: Tensor
    log_typical_T: Tensor
    n_pixels: int

    def __getitem__(self, chosen_T: np.ndarray) -> "Cells":
        """Those of some tiles, by a mask."""
        mask = torch.from_numpy(chosen_T)
        parts = (self.logits_TFL[mask], self.features_TCL[mask], self.log_typical_T[mask])
        return Cells(*parts, self.n_pixels)

    @torch.no_grad()
    def log_scores(self, change: "Change | None" = None) -> np.ndarray:
        """Logarithm of the score of each tile, after a change of the layer, float (T,)."""
        parts = [part.differentiable_log_scores(change).numpy() for part in self.batches()]
        return np.concatenate(parts)

    def batches(self) -> list["Cells"]:
        """The same, a few tiles at a time: each computation takes several times the memory of its cells."""
        parts = (one.split(BATCH) for one in (self.logits_TFL, self.features_TCL, self.log_typical_T))
        return [
            Cells(logits, features, typical, self.n_pixels) for logits, features, typical in zip(*parts, strict=True)
        ]

    def differentiable_log_scores(self, change: "Change | None") -> Tensor:
        """The same, float (T,)."""
        pixels_TFL = self.logits_TFL
        if change:
            change_TL = torch.einsum("tcl,c->tl", self.features_TCL, change.direction_C) + change.shift
            pixels_TFL = pixels_TFL + change_TL.unsqueeze(1)
        pixels_TN = pixels_TFL.flatten(1)
        evidence_T = functional.softplus(pixels_TN.topk(self.n_pixels, dim=1).values).mean(dim=1)
        return (evidence_T + EVIDENCE_OFFSET).log() - self.log_typical_T


@torch.no_grad()
def cells_of(model: Model, tiles_TPP: np.ndarray) -> Cells:
    """The cells of each tile, uint8 (T, P, P)."""
    segmenter, inputs = model.network.segmenter, list[Tensor]()
    assert segmenter is not None, "callers refuse models without one"
    hook = segmenter.logits.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for tiles_BPP in torch.from_numpy(tiles_TPP).split(BATCH):
        inputs.clear()
        input_B1PP = to_input(tiles_BPP)
        logits_B1PP = crack_logits(model.spec, input_B1PP, model.network(input_B1PP))
        logits_BFL = functional.pixel_unshuffle(logits_B1PP, FOLD).flatten(2)
        looks = [
            mirrored(mean_of_scales(fine, coarse), axes)
            for fine, coarse, axes in zip(inputs[::2], inputs[1::2], model.network.mirrors, strict=True)
        ]
        features_BCL = torch.stack(looks).mean(dim=0).flatten(2)
        typical_B = torch.zeros(len(input_B1PP))
        if model.spec.yardstick:
            typical_B = log_typical(model.spec.yardstick, input_B1PP)
        parts.append((logits_BFL, features_BCL, typical_B))
    hook.remove()
    logits_TFL, features_TCL, log_typical_T = (torch.cat(part) for part in zip(*parts, strict=True))
    return Cells(logits_TFL, features_TCL, log_typical_T, max(1, round(CRACK_SHARE * tiles_TPP[0].size)))


@dataclass(frozen=True)
class Change:
    """What is added to all rows of the last layer, direction_C to the weights and shift to the bias."""

    direction_C: Tensor
    shift: Tensor

    def applied_to(self, model: Model) -> dict[str, Tensor]:
        """The changed weights of a model."""
        weights = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
        weights["segmenter.logits.weight"] += self.direction_C[None, :, None, None]
        weights["segmenter.logits.bias"] += self.shift
        return weights


def fitted_change(cells: Cells, is_crack_T: np.ndarray) -> Change:
    """The change by which the log score tells judged cracks from judged false alarms; both occur.

    Its shift leaves the logits of the typical judged tile as they are.
    """
    sign_T = torch.from_numpy(np.where(is_crack_T, 1.0, -1.0)).float()
    means_TC = cells.features_TCL.mean(dim=2)
    middle_C, spread_C = means_TC.mean(dim=0), means_TC.std(dim=0) + 1e-3
    relative_C = torch.zeros(len(middle_C), requires_grad=True)
    intercept = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([relative_C, intercept], max_iter=MAX_STEPS, line_search_fn="strong_wolfe")

    def change() -> Change:
        direction_C = relative_C / spread_C
        return Change(direction_C, -(direction_C @ middle_C))

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = 0.5 * PENALTY * relative_C.square().sum()
        value.backward()
        for part, sign_B in zip(cells.batches(), sign_T.split(BATCH), strict=True):
            margin_B = sign_B * (part.differentiable_log_scores(change()) + intercept)
            of_part = functional.softplus(-margin_B).sum()
            of_part.backward()
            value = value.detach() + of_part.detach()
        return value

    optimizer.step(loss)
    found = change()
    return Change(found.direction_C.detach(), found.shift.detach())
