"""What a new model does with synthetic cracks on sound tiles: all that can be measured without a real crack.

Shape letters: T tiles, P side of a tile at the input [px].
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from crackvae import metrics
from crackvae.model.artifact import Model
from crackvae.model.inference import score_tiles
from crackvae.training.loop import VAL_BATCH
from crackvae.training.synthetic_cracks import add_cracks_only
from crackvae.training.synthetic_cracks.drawings import draw

# Number of tiles, each with a crack of its own: twice as many are scored, which takes seconds, not minutes.
MAX_TILES = 300
# Training draws with other seeds, so these cracks are new to the network.
SEED = 1_000_003
TITLE = "validation on synthetic cracks, drawn on sound tiles; no real crack was used"


@dataclass(frozen=True)
class SyntheticValidation:
    """Figures on synthetic cracks.

    Attributes:
        tiles: number of sound tiles, each scored as it is and with a synthetic crack.
        recall: share of the tiles with a synthetic crack that score above the threshold.
        roc_auc: of the tiles with a synthetic crack against the same tiles without it.
    """

    tiles: int
    recall: float
    roc_auc: float

    def summary(self) -> dict[str, Any]:
        """JSON values that say what they were measured on."""
        return {"cracks": "synthetic", **asdict(self)}

    def table(self) -> dict[str, pd.DataFrame]:
        """One table with its title."""
        return {TITLE: pd.DataFrame([asdict(self)], index=["synthetic cracks"])}


def validate_on_synthetic_cracks(model: Model, tiles_TPP: np.ndarray, threshold: float) -> SyntheticValidation:
    """Score sound tiles with and without a synthetic crack; the same cracks at every call.

    Args:
        tiles_TPP: uint8 (T, P, P), sound, not trained on.
        threshold: of the model; that of images, which is higher than one of single tiles if images have many.
    """
    sound_TPP = tiles_TPP[some_tiles(len(tiles_TPP))]
    both_TPP = with_and_without_cracks(sound_TPP, model.spec.input_px)
    cracked_T, clean_T = (score_tiles(model, tiles, VAL_BATCH)[:, 0] for tiles in both_TPP)
    is_crack = np.repeat([True, False], len(sound_TPP))
    ranking = metrics.ranking(is_crack, np.concatenate([cracked_T, clean_T]), np.ones(2 * len(sound_TPP)))
    roc_auc = dict(zip(metrics.RANKING_NAMES, ranking, strict=True))["roc_auc"]
    return SyntheticValidation(len(sound_TPP), float((cracked_T > threshold).mean()), float(roc_auc))


def some_tiles(n_tiles: int, most: int = MAX_TILES) -> np.ndarray:
    """Numbers of at most so many tiles, spread evenly."""
    return np.linspace(0, n_tiles - 1, min(most, n_tiles)).astype(int)


def with_and_without_cracks(sound_TPP: np.ndarray, input_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Each tile with a synthetic crack, and the same tile without it, both uint8 (T, P, P)."""
    drawings = draw(SEED, input_px, len(sound_TPP))
    generator, parts = torch.Generator().manual_seed(SEED), []
    for tiles_BPP in torch.from_numpy(sound_TPP).split(VAL_BATCH):
        batch = add_cracks_only(tiles_BPP, drawings, generator)
        parts += [batch.input_B1PP[:, 0], batch.clean_B1PP[:, 0]]
    cracked_TPP, clean_TPP = (
        (torch.cat(kind) * 255).round().to(torch.uint8).numpy() for kind in (parts[::2], parts[1::2])
    )
    return cracked_TPP, clean_TPP
