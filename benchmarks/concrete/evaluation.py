"""Evaluation of the candidate network: metrics per surface, and false alarms of one threshold for all surfaces.

Shape letters: M metrics, N tiles evaluated, R resamples, S surfaces.
"""

from typing import Any

import numpy as np
import pandas as pd
import torch

from crackvae.metrics import INTERVAL, RANKING_NAMES, ranking, ranking_with_intervals

from .data import SDNET_PX, SURFACES, DataSet
from .heads import evidence, fit_normalization, texture
from .network import Network, to_input
from .training import resized

BATCH, RESAMPLES = 8, 1000
# False-alarm rate, in a mixture of equal parts of the surfaces, at which the rate of each surface is reported.
MIXTURE_RATE = 0.05
HEADS = ("evidence", "tile")


@torch.inference_mode()
def score(network: Network, data: DataSet, rows_N: np.ndarray) -> pd.DataFrame:
    """Labels of the rows with the columns `evidence`, `tile` (the learned head) and `texture`."""
    network.eval()
    columns: dict[str, list[np.ndarray]] = {name: [] for name in (*HEADS, "texture")}
    for start in range(0, len(rows_N), BATCH):
        tiles_BPP = torch.from_numpy(np.array(data.tiles_NPP[rows_N[start : start + BATCH]]))
        tiles_B1PP = to_input(tiles_BPP) if tiles_BPP.shape[-1] == SDNET_PX else resized(tiles_BPP) / 255
        output = network(tiles_B1PP)
        columns["evidence"].append(evidence(output.crack_B1PP))
        columns["tile"].append(output.tile_B.numpy())
        columns["texture"].append(texture(tiles_B1PP))
    scores = {name: np.concatenate(values).astype(float) for name, values in columns.items()}
    return data.labels.iloc[rows_N].reset_index(drop=True).assign(**scores)


def evaluate_sdnet(scored: pd.DataFrame, seed: int) -> dict[str, Any]:
    """For both heads: metrics per surface and their mean, of the visible cracks and of the raw labels."""
    figures: dict[str, Any] = {"tiles": _counts(scored)}
    for head in HEADS:
        figures[head] = {
            "visible": _per_surface(scored[scored.is_visible | ~scored.is_crack], head, seed),
            "raw_labels": _per_surface(scored, head, seed),
        }
    return figures


def evaluate_metu(scored: pd.DataFrame, seed: int) -> dict[str, Any]:
    """For both heads: metrics with intervals over groups."""
    is_crack_N = scored.is_crack.to_numpy()
    figures: dict[str, Any] = {"images": {"sound": int((~is_crack_N).sum()), "cracked": int(is_crack_N.sum())}}
    for head in HEADS:
        table = ranking_with_intervals(is_crack_N, scored[head].to_numpy(), scored.group.to_numpy(), RESAMPLES, seed)
        figures[head] = table.round(4).to_dict("index")
    return figures


def mixture_false_alarms(scored: pd.DataFrame) -> dict[str, Any]:
    """Share of the sound tiles of each surface above the threshold of MIXTURE_RATE, with and without normalization.

    The normalization is fitted on the sound tiles of one half of the blocks and applied to the other half.
    """
    raw_N, normalized_N = np.log(scored.evidence.to_numpy()), _normalized(scored)
    sound_N, weights_N = ~scored.is_crack.to_numpy(), _equal_weights(scored)
    shares: dict[str, Any] = {}
    for name, scores_N in (("evidence", raw_N), ("evidence, normalized by texture", normalized_N)):
        order = np.argsort(-scores_N)
        reached_N = np.cumsum(weights_N[order]) / weights_N.sum()
        flagged_N = scores_N > scores_N[order][np.searchsorted(reached_N, MIXTURE_RATE)]
        shares[name] = {
            surface: round(float(flagged_N[sound_N & (scored.surface == surface)].mean()), 4)
            for surface in scored.surface.unique()
        }
    return shares


def _normalized(scored: pd.DataFrame) -> np.ndarray:
    """Evidence normalized by texture, by the fit on the other half of the blocks."""
    ranks = scored.groupby("surface").block.rank("dense").to_numpy().astype(int)
    sound_N, weights_N = ~scored.is_crack.to_numpy(), _equal_weights(scored)
    evidence_N, texture_N = scored.evidence.to_numpy(), scored.texture.to_numpy()
    normalized_N = np.zeros(len(scored))
    for half in (0, 1):
        fitted_N, applied_N = sound_N & (ranks % 2 != half), ranks % 2 == half
        fit = fit_normalization(evidence_N[fitted_N], texture_N[fitted_N], weights_N[fitted_N])
        normalized_N[applied_N] = fit.normalize(evidence_N[applied_N], texture_N[applied_N])
    return normalized_N


def _equal_weights(scored: pd.DataFrame) -> np.ndarray:
    """Weight of each sound tile, with equal sums per surface; 0 of a cracked one."""
    sound = ~scored.is_crack
    weights: np.ndarray = (sound / sound.groupby(scored.surface).transform("sum")).to_numpy()
    return weights


def _per_surface(scored: pd.DataFrame, head: str, seed: int) -> dict[str, Any]:
    """Metrics with percentile intervals over blocks, for each surface and their mean."""
    surfaces = [name for name in SURFACES if name in set(scored.surface)]
    values, draws = zip(*(_resampled(scored[scored.surface == name], head, seed) for name in surfaces), strict=True)
    values_SM, draws_SRM = np.stack(values), np.stack(draws)
    figures = {name: _table(values_SM[n], draws_SRM[n]) for n, name in enumerate(surfaces)}
    return figures | {"mean": _table(values_SM.mean(0), draws_SRM.mean(0))}


def _resampled(scored: pd.DataFrame, head: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Metrics (M,) of one surface, and of resamples of its blocks, (R, M)."""
    rng = np.random.default_rng(seed)
    block_N = np.unique(scored.block, return_inverse=True)[1]
    is_crack_N, scores_N, n_blocks = scored.is_crack.to_numpy(), scored[head].to_numpy(), block_N.max() + 1
    draws: list[np.ndarray] = []
    while len(draws) < RESAMPLES:
        weights_N = rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks))[block_N].astype(float)
        if (weights_N * is_crack_N).any() and (weights_N * ~is_crack_N).any():
            draws.append(ranking(is_crack_N, scores_N, weights_N))
    return ranking(is_crack_N, scores_N, np.ones(len(scored))), np.stack(draws)


def _table(values_M: np.ndarray, draws_RM: np.ndarray) -> dict[str, dict[str, float]]:
    low_M, high_M = np.quantile(draws_RM, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2], axis=0)
    rows = zip(RANKING_NAMES, values_M, low_M, high_M, strict=True)
    return {name: {"value": round(v, 4), "low": round(a, 4), "high": round(b, 4)} for name, v, a, b in rows}


def _counts(scored: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Numbers of blocks and tiles of each surface."""
    return {
        str(name): {
            "blocks": int(tiles.block.nunique()),
            "sound": int((~tiles.is_crack).sum()),
            "cracked": int(tiles.is_crack.sum()),
            "visibly_cracked": int((tiles.is_crack & tiles.is_visible).sum()),
        }
        for name, tiles in scored.groupby("surface")
    }
