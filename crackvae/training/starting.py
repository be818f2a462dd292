"""[Ray] Training that starts from another model: what it takes over, and which tiles it shows more often.

Shape letters: T tiles, P side of a tile at the input [px].
"""

from typing import Any

import numpy as np
import ray

from crackvae.config import TrainConfig
from crackvae.config.settings import flag_text
from crackvae.console import progress
from crackvae.errors import ConfigError
from crackvae.model.artifact import Model, load_model
from crackvae.model.heads import TEXTURE
from crackvae.model.inference import score_tiles
from crackvae.model.registry import model_folder
from crackvae.storage.filesystems import s3_server
from crackvae.training.loop import VAL_BATCH

# The settings that a network has by its weights, and those that are the starting model's unless others are given.
NETWORK = ("channels", "latent_dim", "segmenter", "backbone", "input_px", "recipe")
TAKEN_OVER = (*NETWORK, "head", "tile_px", "stride_px", "beta", "mirrors")
# Peak of the learning rate: half of that from random weights, which would undo more than it adds.
LEARNING_RATE = 1e-3
# Without a number of epochs, about this many tiles are shown, a third of those that random weights need.
START_TILES = 40_000
# Share of the tiles that are hard, of each of so many equal parts by texture: among all tiles nearly all hard ones
# would be of the roughest surface.
HARD_SHARE, TEXTURES = 0.05, 8
# Tiles of one task that scores them.
TASK_TILES = 512


def with_start(values: dict[str, Any]) -> dict[str, Any]:
    """The given settings, completed by those of the model that `from_` names. Raises ModelError."""
    with s3_server(values.get("s3_endpoint", "")):
        spec = load_model(model_folder(values["from_"])).spec
    return {"learning_rate": LEARNING_RATE} | {name: getattr(spec, name) for name in TAKEN_OVER} | values


def starting_model(config: TrainConfig) -> Model | None:
    """The model that a training starts from; None for random weights.

    Raises:
        ModelError: there is none; ConfigError: its network has another shape than the settings say.
    """
    if not config.from_:
        return None
    model = load_model(model_folder(config.from_))
    for name in NETWORK:
        given, has = getattr(config, name), getattr(model.spec, name)
        if given != has:
            raise ConfigError(
                f"{name}={flag_text(given)} is not that of the model to start from, {flag_text(has)}: leave it out."
            )
    return model


def shown_tiles(n_tiles: int, hard: int) -> int:
    """Number of tiles that an epoch shows if hard ones are shown `hard` times."""
    return n_tiles + round(HARD_SHARE * n_tiles) * (hard - 1)


def repeats(model: Model, times: int, tiles: Any, n_tiles: int, *, quiet: bool) -> list[int]:
    """Numbers of the tiles in which a model sees most of a crack, each as often as an epoch shows it once more.

    Args:
        times: that an epoch shows a hard tile in all.
        tiles: reference to uint8 (T, P, P) in the object store.
    """
    # On a list, Ray does not fetch all tiles for each task.
    score, of_model = ray.remote(_scores_of_some), ray.put(model)
    tasks = [score.remote(of_model, [tiles], start) for start in range(0, n_tiles, TASK_TILES)]
    parts = []
    with progress("score train", n_tiles, "tiles", quiet=quiet) as bar:
        for task in tasks:
            parts.append(ray.get(task))
            bar.update(len(parts[-1]))
    return shown_again(*np.concatenate(parts).T, times=times)


def _scores_of_some(model: Model, tiles: list[Any], start: int) -> np.ndarray:
    some_TPP = ray.get(tiles[0])[start : start + TASK_TILES]
    return score_tiles(model, some_TPP, VAL_BATCH, extra_heads=(TEXTURE,))


def shown_again(scores_T: np.ndarray, texture_T: np.ndarray, *, times: int) -> list[int]:
    """Numbers of the hardest tiles, each as often as an epoch that shows it `times` times shows it once more."""
    return np.repeat(hardest(scores_T, texture_T), times - 1).tolist()


def hardest(scores_T: np.ndarray, texture_T: np.ndarray) -> np.ndarray:
    """Numbers, ascending, of the HARD_SHARE of the tiles of each texture that score highest."""
    parts = np.array_split(np.argsort(texture_T, kind="stable"), TEXTURES)
    hard = [
        part[np.argsort(scores_T[part], kind="stable")][len(part) - round(HARD_SHARE * len(part)) :] for part in parts
    ]
    return np.sort(np.concatenate(hard))
