"""Assignment of labelled images to the sides of a split, by group, and the count of leaks between them."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from crackvae.config import PartitionConfig
from crackvae.errors import ManifestError

# The sides of a split, in the order in which groups are assigned to them. No image may be on two of them.
SIDES = ("external", "test", "val", "train")


def needs_of(is_crack: np.ndarray, external_size: Sequence[int], config: PartitionConfig) -> dict[str, list[int]]:
    """Requested number of non_crack and crack images of each side."""
    external = list(external_size)
    n_sound, n_crack = int((~is_crack).sum()) - external[0], int(is_crack.sum()) - external[1]
    val = [round(n_sound * config.non_crack_split[1] / 100), round(n_crack * config.crack_split[0] / 100)]
    test = [round(n_sound * config.non_crack_split[2] / 100), n_crack - val[1]]
    return {"external": external, "test": test, "val": val, "train": [n_sound - val[0] - test[0], 0]}


def deal(groups: np.ndarray, is_crack: np.ndarray, needs: dict[str, list[int]], salt: str) -> np.ndarray:
    """Assign whole groups to the sides of the split: each to the first of SIDES that still has room for all of it.

    Groups are ordered by a hash of their names, so the result is even, repeatable, and independent of the order of the
    files. With one image per group the requested numbers are met exactly, otherwise as closely as the groups allow: a
    group that fits nowhere goes to train. Crack images of a group in train are left out, because they can be neither
    trained on nor, with images of their group in train, tested on. To keep these few, groups with both labels come
    first and go to a side that still has room for some of either.

    Args:
        groups: names (N,).
        is_crack: bool (N,).
        needs: requested non_crack and crack images of each side.
        salt: changes the split.

    Returns:
        side of each image (N,), "" if it is left out.
    """
    names, group_N = np.unique(groups, return_inverse=True)
    counts = np.stack([np.bincount(group_N, ~is_crack, len(names)), np.bincount(group_N, is_crack, len(names))], 1)
    is_mixed: np.ndarray = np.all(counts > 0, axis=1)

    def turn(number: int) -> tuple[bool, bytes]:
        return not is_mixed[number], hashlib.sha256(f"{salt}/{names[number]}".encode()).digest()

    room = {side: np.array(needs[side]) for side in SIDES}
    side_of_group = np.empty(len(names), dtype=object)
    for number in sorted(range(len(names)), key=turn):
        least = np.ones(2) if is_mixed[number] else counts[number]
        fitting = (side for side in SIDES[:-1] if (least <= room[side]).all())
        side = next(fitting, "train" if counts[number][0] else max(("test", "val"), key=lambda name: room[name][1]))
        side_of_group[number] = side
        room[side] = room[side] - counts[number]
    sides = side_of_group[group_N].astype(str)
    _check_sides(sides, is_crack, len(names), needs["external"])
    return np.where(is_crack & (sides == "train"), "", sides)


def _check_sides(sides: np.ndarray, is_crack: np.ndarray, n_groups: int, external: list[int]) -> None:
    needed = [("train", False), ("val", False), ("test", False)] + [("test", True)] * bool(is_crack.any())
    needed += [("external", label) for label, wanted in zip((False, True), external, strict=True) if wanted]
    for side, label in needed:
        if not ((is_crack == label) & (sides == side)).any():
            raise ManifestError(
                f"{n_groups} groups of {len(sides)} images leave no {'crack' if label else 'non_crack'} image for "
                f"{side}: give more images or finer groups (--group-by), or other sizes (--external, "
                "--non-crack-split, --crack-split)."
            )


def leaks_of(sides: np.ndarray, sha256: np.ndarray, pictures: np.ndarray) -> tuple[pd.DataFrame, int]:
    """Number of images of each side with a duplicate on another side, and that of val, test and external in total."""
    rows, leaking = {}, np.zeros(len(sides), bool)
    for behind, before in (
        ("val", "train"), ("test", "train"), ("test", "val"),
        ("external", "train"), ("external", "val"), ("external", "test"),
    ):  # fmt: skip
        copies = [(sides == behind) & np.isin(key, key[sides == before]) for key in (sha256, pictures)]
        leaking |= copies[1]
        rows[f"{behind} images with a copy in {before}"] = [int(copy.sum()) for copy in copies]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["identical bytes", "same picture"])
    return table, int(leaking.sum())
