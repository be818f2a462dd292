"""The two data sets: tiles and labels, decoded once into a cache folder, and what a protocol trains on and evaluates.

SDNET2018: Maguire, Dorafshan & Thomas, doi 10.15142/T3TD19, CC BY 4.0; METU: C. F. Ozgenel, doi 10.17632/5y9wdsg2zt.2,
CC BY 4.0.

Shape letters: N tiles of a data set, P side of a tile [px], T tiles selected.
"""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

SURFACES = ("Decks", "Pavements", "Walls")
# Sides of the images [px].
SDNET_PX, METU_PX = 256, 227
N_FOLDS = 4
# A photograph of SDNET2018 is cut into rows of this many tiles, numbered from 1 (last number of the file name).
COLUMNS = 18
# Share of the METU groups that is trained on by the protocols that train on METU.
METU_TRAINED = 0.8
# Number of METU images evaluated by a network that has not seen METU: sound, cracked.
METU_UNSEEN = (1500, 500)
FILES = ("sdnet-dev.zip", "sdnet-dev.csv", "sdnet-visible.csv", "metu-internal.zip", "metu-groups.csv")


@dataclass(frozen=True)
class DataSet:
    """Decoded tiles and their labels.

    Attributes:
        tiles_NPP: uint8 (N, P, P), memory-mapped.
        labels: one row per tile; `image` and `is_crack`; of SDNET2018 also `photo`, `block`, `surface`, `fold` and
            `is_visible` (a crack is plainly visible), of METU `group`.
    """

    tiles_NPP: np.ndarray
    labels: pd.DataFrame


@dataclass(frozen=True)
class Split:
    """Row numbers of the sound tiles for training and of the tiles for evaluation, of both data sets."""

    sdnet_train_T: np.ndarray
    sdnet_test_T: np.ndarray
    metu_train_T: np.ndarray
    metu_test_T: np.ndarray


def missing_file(folder: Path) -> str:
    """Name of the first required file that the folder lacks, or an empty string."""
    return next((name for name in FILES if not (folder / name).is_file()), "")


def read_sdnet(folder: Path, cache: Path) -> DataSet:
    """The development part of SDNET2018."""
    labels = pd.read_csv(folder / "sdnet-dev.csv")
    verdicts = pd.read_csv(folder / "sdnet-visible.csv")[["image", "verdict"]]
    labels = labels.merge(verdicts, on="image", how="left")
    labels["is_crack"] = labels.image.str.startswith("crack/")
    labels["is_visible"] = labels.verdict == "visible"
    labels["fold"] = _folds(labels)
    return DataSet(_decoded(folder / "sdnet-dev.zip", labels.image, SDNET_PX, cache / "sdnet.npy"), labels)


def read_metu(folder: Path, cache: Path) -> DataSet:
    """The internal part of METU."""
    labels = pd.read_csv(folder / "metu-groups.csv").rename(columns={"leak_group": "group"})
    labels["is_crack"] = labels.image.str.startswith("Positive/")
    return DataSet(_decoded(folder / "metu-internal.zip", labels.image, METU_PX, cache / "metu.npy"), labels)


def _decoded(archive: Path, images: pd.Series, side_px: int, cached: Path) -> np.ndarray:
    """Grey tiles uint8 (N, P, P), decoded unless the cache has them."""
    if not cached.exists():
        unfinished = cached.with_suffix(".tmp")
        shape = (len(images), side_px, side_px)
        tiles_NPP = np.lib.format.open_memmap(unfinished, "w+", np.uint8, shape)
        with zipfile.ZipFile(archive) as members:
            names = {"/".join(name.split("/")[-2:]): name for name in members.namelist()}
            for number, image in enumerate(images):
                tiles_NPP[number] = np.asarray(Image.open(io.BytesIO(members.read(names[image]))).convert("L"))
        tiles_NPP.flush()
        unfinished.replace(cached)
    decoded: np.ndarray = np.load(cached, mmap_mode="r")
    return decoded


def _folds(labels: pd.DataFrame) -> np.ndarray:
    """Fold of each tile: the blocks of a surface, largest first, each to the fold with the fewest tiles."""
    fold_of: dict[str, int] = {}
    for _, tiles in labels.groupby("surface"):
        sizes = [0] * N_FOLDS
        for block, n_tiles in tiles.block.value_counts().sort_values(ascending=False, kind="stable").items():
            fold = int(np.argmin(sizes))
            fold_of[str(block)] = fold
            sizes[fold] += n_tiles
    folds: np.ndarray = labels.block.map(fold_of).to_numpy()
    return folds


def split(sdnet: DataSet, metu: DataSet, protocol: str, folds: list[int], holdout: str) -> Split:
    """What the protocol trains on and evaluates."""
    labels, none = sdnet.labels, np.zeros(0, int)
    unit_N = (metu.labels.group.to_numpy() * 2654435761 % 1000) / 1000
    trained_T = np.flatnonzero(~metu.labels.is_crack & (unit_N < METU_TRAINED))
    held_T = one_per_group(metu.labels, np.flatnonzero(unit_N >= METU_TRAINED))
    if protocol == "metu":
        return Split(none, none, trained_T, held_T)
    if protocol == "own-site":
        is_test_N = labels.fold.isin(folds)
        trained_T, held_T = none, _unseen(metu.labels)
    else:
        is_test_N = labels.surface == holdout
    return Split(np.flatnonzero(~labels.is_crack & ~is_test_N), np.flatnonzero(is_test_N), trained_T, held_T)


def one_per_group(labels: pd.DataFrame, rows_T: np.ndarray) -> np.ndarray:
    """One random row of each group, in random order."""
    rng = np.random.default_rng(1)
    rows_T = rng.permutation(rows_T)
    firsts_T = rows_T[np.unique(labels.group.to_numpy()[rows_T], return_index=True)[1]]
    return rng.permutation(firsts_T)


def _unseen(labels: pd.DataFrame) -> np.ndarray:
    """METU_UNSEEN rows, each of another group."""
    rows_T = one_per_group(labels, np.arange(len(labels)))
    is_crack_T = labels.is_crack.to_numpy()[rows_T]
    n_sound, n_cracked = METU_UNSEEN
    return np.concatenate([rows_T[~is_crack_T][:n_sound], rows_T[is_crack_T][:n_cracked]])


def limit_sound(labels: pd.DataFrame, rows_T: np.ndarray, limit: int) -> np.ndarray:
    """The cracked rows and a random sample of at most `limit` sound rows, per surface if the data set has surfaces."""
    rng = np.random.default_rng(0)
    is_crack_T = labels.is_crack.to_numpy()[rows_T]
    surface_T = labels.get("surface", pd.Series("", labels.index)).to_numpy()[rows_T]
    chosen = [rows_T[is_crack_T]]
    for surface in np.unique(surface_T):
        chosen.append(rng.permutation(rows_T[~is_crack_T & (surface_T == surface)])[:limit])
    return np.sort(np.concatenate(chosen))


def stitchable(labels: pd.DataFrame, rows_T: np.ndarray) -> np.ndarray:
    """Rows (Q, 4) of the 2 x 2 neighbours in one photograph that are all in `rows_T`."""
    # Names such as P_027-61_2.jpg have no known position.
    numbers = labels.image.str.extract(r"-(\d+)\.\w+$")[0].iloc[rows_T].dropna().astype(int)
    row_at = {(labels.photo[row], number): row for row, number in numbers.items()}
    quads = []
    for photo, number in row_at:
        quad = [row_at.get((photo, number + step)) for step in (0, 1, COLUMNS, COLUMNS + 1)]
        if number % COLUMNS and None not in quad:
            quads.append(quad)
    return np.array(quads, int).reshape(-1, 4)
