"""Protocols of benchmarks/concrete.py: what is trained on, what sets the threshold, what is evaluated. No training."""

import io
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from conftest import HOUSE
from PIL import Image

from crackvae.metrics import RANKING_NAMES


@pytest.fixture(scope="module")
def concrete() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HOUSE / "benchmarks")
        import concrete
    return concrete


def write_data(folder: Path, tiles_per_block: int = 2, side_px: int = 32) -> Path:
    """The archives and tables of both data sets: five blocks a surface and 40 groups of METU, noise as images."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    sdnet = [
        {"image": f"{label}/{surface[0]}_{block}-{n}.jpg", "block": f"{surface[0]}{block}", "surface": surface}
        for surface in ("Decks", "Pavements", "Walls")
        for block in range(5)
        for label, count in (("crack", 1), ("non_crack", tiles_per_block + block))
        for n in range(count)
    ]
    metu = [
        {"image": f"{label}/{group:05}.jpg", "leak_group": group}
        for group in range(40)
        for label in ("Negative", "Positive")
    ]
    for name, rows in (("sdnet-dev", sdnet), ("metu-internal", metu)):
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            for row in rows:
                data = io.BytesIO()
                Image.fromarray(rng.integers(0, 255, (side_px, side_px), np.uint8)).save(data, "png")
                archive.writestr(f"{name}/{row['image']}", data.getvalue())
    pd.DataFrame(sdnet).to_csv(folder / "sdnet-dev.csv", index=False)
    pd.DataFrame(metu).to_csv(folder / "metu-groups.csv", index=False)
    cracks = [row["image"] for row in sdnet if row["image"].startswith("crack/")]
    pd.DataFrame({"image": cracks, "verdict": "visible"}).to_csv(folder / "sdnet-visible.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def rows(concrete: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("concrete")
    return concrete.all_images(write_data(folder / "data"), folder / "work")


def test_the_command_line_names_a_protocol_and_what_it_evaluates(concrete: ModuleType) -> None:
    assert concrete.parse(["own-site", "--folds", "0", "3", "--work", "w"]).folds == [0, 3]
    assert concrete.parse(["unseen-site", "--surface", "walls", "--work", "w"]).surface == "walls"
    assert concrete.parse(["metu", "--work", "w", "--epochs", "2"]).epochs == 2
    for wrong in (["own-site", "--work", "w"], ["own-site", "--folds", "4", "--work", "w"], ["metu"]):
        with pytest.raises(SystemExit):
            concrete.parse(wrong)


def test_every_tile_is_evaluated_once_over_the_folds(concrete: ModuleType, rows: pd.DataFrame) -> None:
    folds = [concrete.divided(rows, "own-site", fold=fold) for fold in range(concrete.N_FOLDS)]
    tests = pd.concat([one[one.split == "test"] for one in folds])
    assert sorted(tests.image) == sorted(rows.image[rows.part != "metu"])
    for one in folds:
        assert set(one.split) == {"train", "val", "test"}
        assert set(one.part) == {"decks", "pavements", "walls"}


@pytest.mark.parametrize("surface", ["decks", "pavements", "walls"])
def test_an_unseen_surface_is_evaluated_alone(concrete: ModuleType, rows: pd.DataFrame, surface: str) -> None:
    one = concrete.divided(rows, "unseen-site", surface=surface)
    assert set(one.part[one.split == "test"]) == {surface}
    assert set(one.part[one.split == "train"]) == {"metu", "decks", "pavements", "walls"} - {surface}


@pytest.mark.parametrize("choice", [("own-site", {"fold": 1}), ("unseen-site", {"surface": "walls"}), ("metu", {})])
def test_no_group_is_on_two_sides_and_no_crack_is_trained_on(
    concrete: ModuleType, rows: pd.DataFrame, choice: tuple[str, dict[str, object]]
) -> None:
    one = concrete.divided(rows, choice[0], **choice[1])
    assert (one.groupby("group").split.nunique() == 1).all()
    labelled = {"test", "val"} if choice[0] == "metu" else {"test"}  # of METU those of val choose a weight
    assert set(one.split[one.label == "crack"]) == labelled


def test_the_built_in_model_goes_on_with_a_third_of_what_the_model_of_metu_has_learned_from(
    concrete: ModuleType, rows: pd.DataFrame
) -> None:
    from builtin import METU_AGAIN, as_learned

    kept = as_learned(rows[rows.part == "metu"].assign(split="test"))
    start = concrete.divided(rows, "metu").set_index("image").split
    sound = kept[kept.label == "non_crack"].set_index("image").split
    assert (sound == start[sound.index]).all() and set(sound) == {"train", "val", "test"}
    of_start = concrete.divided(rows, "metu").query("split == 'train'").group.nunique()
    assert kept.group[kept.split == "train"].nunique() == -(-of_start // METU_AGAIN)
    assert (kept.split[kept.label == "crack"] == "test").all()


def test_one_threshold_flags_equal_surfaces_alike_and_a_rougher_one_more(concrete: ModuleType) -> None:
    rng = np.random.default_rng(4)
    surfaces = np.repeat(["decks", "pavements", "walls"], 1000)
    scores = rng.normal(size=3000) + (surfaces == "pavements")
    images = [f"{part[0]}_{n // 25}-{n}.jpg" for n, part in enumerate(surfaces)]
    scored = pd.DataFrame({"image": images, "label": "non_crack", "score": scores, "group": surfaces + "/1"})
    found = concrete.mixtures([scored])
    assert found["decks"]["flagged"] == pytest.approx(found["walls"]["flagged"], abs=0.02)
    assert found["decks"]["flagged"] < 0.05 < found["pavements"]["low"] < found["pavements"]["flagged"]


def test_the_mean_is_over_surfaces(concrete: ModuleType) -> None:
    def surface(value: float) -> dict[str, object]:
        return {kind: {name: {"value": value} for name in RANKING_NAMES} for kind in ("visible cracks", "labels")}

    mean = concrete.mean_of({"decks": surface(0.2), "walls": surface(0.6)})
    assert mean["visible cracks"]["roc_auc"] == pytest.approx(0.4)


def test_a_new_site_is_judged_on_sound_tiles_of_whole_photographs_and_visible_cracks(
    concrete: ModuleType, rows: pd.DataFrame
) -> None:
    visible = set(rows.image[(rows.label == "crack") & (rows.part == "walls")].str.split("/").str[-1])
    chosen = concrete.site_tiles(rows, visible)
    assert (chosen.groupby("part").label.value_counts()["walls"]["crack"], set(chosen.split)) == (5, {"test"})
    assert set(chosen.part[chosen.label == "crack"]) == {"walls"} and "metu" not in set(chosen.part)
    assert len(chosen[chosen.label == "non_crack"]) == (rows.part.ne("metu") & rows.label.eq("non_crack")).sum()


@pytest.mark.parametrize("variation", [0.0, 1.0])
def test_unlike_photographs_keep_the_promise_only_where_the_calibration_knows_them(
    concrete: ModuleType, variation: float
) -> None:
    rng = np.random.default_rng(3)
    scores = rng.normal(variation * rng.standard_normal((40, 1)), 1, (40, 50)).ravel()
    sound = pd.DataFrame({"image": [f"W_{n // 50}-{n}.jpg" for n in range(2000)], "label": "non_crack"})
    cracked = pd.DataFrame({"image": "W_1-9.jpg", "label": "crack", "score": [-9.0, 9.0]})
    kept = concrete.promises_kept(pd.concat([sound.assign(score=scores), cracked]), draws=30)
    assert all(0.02 < one["flagged"] < 0.1 and one["visible_cracks_found"] == 0.5 for one in kept.values())
    assert (
        kept["tiles at random"]["interval_holds"] >= 26 and kept["photographs, a folder each"]["interval_holds"] >= 26
    )
    if variation:
        assert kept["photographs, one folder"]["interval_holds"] < 25
