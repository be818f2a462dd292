"""N images. Sets of images are drawn small (64 px): what is tested here is who stands where, not what is seen."""

import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from crackvae.config import PartitionConfig
from crackvae.errors import ArchiveError, CrackvaeError, LeakError, ManifestError, OutputExists, StorageError
from crackvae.images.groups import group_of
from crackvae.images.manifest import label_of, listing_of, load_manifest, partition
from crackvae.images.manifest.splits import SIDES, deal
from crackvae.images.synthetic import write_images
from crackvae.storage.listing import LISTING_SCHEMA
from crackvae.storage.tables import MANIFEST_SCHEMA

N_NON_CRACK, N_CRACK = 60, 30
# Large groups need large sides: with the published 80/10/10 none of them would fit into val.
EVEN_SPLIT = {"non_crack_split": (40, 30, 30), "crack_split": (50, 50)}
LABELS = {"non_crack": "non_crack", "crack": "crack"}
TRANSPOSED = {
    "mirrored": Image.Transpose.FLIP_LEFT_RIGHT,
    "rotated-90": Image.Transpose.ROTATE_90,
    "rotated-180": Image.Transpose.ROTATE_180,
    "rotated-270": Image.Transpose.ROTATE_270,
}
COPIES = ("identical", "re-encoded", *TRANSPOSED)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """60 non_crack and 30 crack images, all of them different; to be copied, never changed."""
    folder = tmp_path_factory.mktemp("drawn") / "images"
    write_images(folder, N_NON_CRACK, N_CRACK, seed=0, side_px=64, workers=1)
    return folder


@pytest.fixture
def images(drawn, tmp_path) -> Path:
    """A copy of the drawn images for one test to change."""
    return Path(shutil.copytree(drawn, tmp_path / "images"))


def copy_of(path: Path, how: str, to: Path) -> str:
    """Write a copy of one image; returns its name below the images."""
    if how == "identical":
        to.write_bytes(path.read_bytes())
        return to.name
    with Image.open(path) as image:
        turned = image.transpose(TRANSPOSED[how]) if how in TRANSPOSED else image
        turned.save(to, "JPEG", quality=80 if how == "re-encoded" else 95)
    return to.name


def plant(images: Path) -> list[tuple[str, str, str]]:
    """A copy of every kind of three sound images and one crack; (original, copy, kind) by name."""
    planted = []
    for kind, how in enumerate(COPIES):
        for label, number in [*(("non_crack", 1 + 3 * kind + n) for n in range(3)), ("crack", 1 + kind)]:
            original, copy = f"{label}/{number:05d}.jpg", f"{label}/copy-{number:05d}.jpg"
            copy_of(images / original, how, images / copy)
            planted.append((original, copy, how))
    return planted


def in_folders(images: Path, n_folders: int) -> None:
    """Move image K of a label into the folder bridge-(K mod n_folders) of that label."""
    for path in sorted(images.glob("*/*.jpg")):
        folder = path.parent / f"bridge-{int(path.stem[-5:]) % n_folders}"
        folder.mkdir(exist_ok=True)
        path.rename(folder / path.name)


def config_of(images: Path, **settings) -> PartitionConfig:
    return PartitionConfig(
        **{"images": str(images), "out": str(images.parent / "out"), "external": (10, 5), "quiet": True} | settings
    )


def rows_of(images: Path, **settings) -> pd.DataFrame:
    """The manifest of a partition, with a column `side` and the name below the images as its index."""
    config = config_of(images, **settings)
    place = partition(config).summary["manifest"]
    rows = load_manifest(place).table.to_pandas()
    rows["side"] = rows["split"].where(rows["set"] == "internal", "external")
    rows.index = [image.removeprefix(config.images).lstrip("!/") for image in rows["image"]]
    return rows


def assert_refused(error_class: type[CrackvaeError], match: str, config: PartitionConfig) -> None:
    """The error is one line that says how to fix it, and nothing was written."""
    before = sorted(Path(config.out).rglob("*")) if Path(config.out).exists() else []
    with pytest.raises(error_class, match=match) as caught:
        partition(config)
    message = str(caught.value)
    assert "\n" not in message and message.endswith((".", "?"))
    assert (sorted(Path(config.out).rglob("*")) if Path(config.out).exists() else []) == before


# ------------------------------------------------------------------------------------------------- the manifest


def test_a_manifest_has_the_columns_of_the_contract_and_a_row_an_image(drawn, tmp_path):
    place = partition(config_of(drawn, out=str(tmp_path))).summary["manifest"]
    table = pq.read_table(place)
    assert place == str(tmp_path / "manifest.parquet")
    assert table.schema.names == ["image", "label", "group", "set", "split", "sha256", "width", "height", "bytes"]
    assert table.schema.types == MANIFEST_SCHEMA.types
    assert sorted(table["image"].to_pylist()) == sorted(map(str, drawn.rglob("*.jpg")))


def test_a_row_describes_its_file(drawn, tmp_path):
    rows = rows_of(drawn, out=str(tmp_path))
    for name in ("crack/00007.jpg", "non_crack/00007.jpg"):
        row = rows.loc[name]
        assert (row["label"], row["width"], row["height"]) == (name.split("/")[0], 64, 64)
        assert row["bytes"] == (drawn / name).stat().st_size
        assert row["sha256"] == sha256_of(drawn / name)


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_only_sound_images_are_trained_on_and_the_external_set_is_a_test(drawn, tmp_path):
    rows = rows_of(drawn, out=str(tmp_path))
    assert set(rows.loc[rows["split"] == "train", "label"]) == {"non_crack"}
    assert set(rows.loc[rows["set"] == "external", "split"]) == {"test"}


def test_the_summary_is_json_and_counts_what_the_manifest_holds(drawn, tmp_path):
    outcome = partition(config_of(drawn, out=str(tmp_path)))
    summary = json.loads(json.dumps(outcome.summary, allow_nan=False))
    rows = load_manifest(summary["manifest"]).table.to_pandas()
    for side, counts in summary["counts"].items():
        image_set, split = side.split()
        chosen = rows[(rows["set"] == image_set) & (rows["split"] == split)]
        assert counts == {label: int((chosen["label"] == label).sum()) for label in ("non_crack", "crack")}
    assert sum(sum(counts.values()) for counts in summary["counts"].values()) == summary["images"] == len(rows) == 90
    assert summary["leaky"] is False and summary["leaking_images"] == 0


def test_the_default_external_sizes_are_refused_for_a_small_set_with_the_flag_that_fits(drawn, tmp_path):
    assert_refused(
        ManifestError,
        r"60 non_crack and 30 crack .* 5000 non_crack and 15000 crack\. Give --external 0,0",
        config_of(drawn, out=str(tmp_path / "out"), external=(5_000, 15_000)),
    )
    assert len(rows_of(drawn, out=str(tmp_path / "out"), external=(0, 0))) == 90


def test_a_zip_is_partitioned_like_its_folder(drawn, tmp_path):
    archive = tmp_path / "set.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in drawn.rglob("*.jpg"):
            packed.write(path, path.relative_to(drawn))
    from_zip = rows_of(archive, out=str(tmp_path / "zip"))
    from_folder = rows_of(drawn, out=str(tmp_path / "folder"))
    assert from_zip["image"].str.startswith(f"{archive}!/").all()
    columns = ["label", "group", "set", "split", "sha256", "bytes"]
    pd.testing.assert_frame_equal(from_zip[columns].sort_index(), from_folder[columns].sort_index())


def test_files_that_are_no_images_are_counted(images):
    (images / "non_crack" / "notes.txt").write_text("seen from below")
    (images / ".hidden.jpg").write_bytes(b"")
    assert partition(config_of(images)).summary["skipped_files"] == 2


def test_a_relative_and_an_absolute_path_give_the_same_rows(drawn, tmp_path, monkeypatch):
    absolute = rows_of(drawn, out=str(tmp_path / "absolute"))
    monkeypatch.chdir(drawn.parent)
    place = partition(config_of(Path(drawn.name), out=str(tmp_path / "relative"))).summary["manifest"]
    assert load_manifest(place).table["image"].to_pylist() == absolute["image"].tolist()


# ------------------------------------------------------------------------------------------- the published split


def test_none_meets_the_wanted_counts_exactly(drawn, tmp_path):
    rows = rows_of(drawn, out=str(tmp_path), group_by="none", non_crack_split=(60, 20, 20), crack_split=(20, 80))
    counts = rows.groupby(["side", "label"]).size().to_dict()
    assert counts == {
        ("external", "non_crack"): 10,
        ("external", "crack"): 5,
        ("train", "non_crack"): 30,
        ("val", "non_crack"): 10,
        ("test", "non_crack"): 10,
        ("val", "crack"): 5,
        ("test", "crack"): 20,
    }


def test_the_same_seed_is_the_same_split_and_another_seed_another(drawn, tmp_path):
    first, again, other = (
        rows_of(drawn, out=str(tmp_path / name), group_by="none", seed=seed)
        for name, seed in [("first", 1), ("again", 1), ("other", 2)]
    )
    pd.testing.assert_frame_equal(first, again)
    assert (first["side"] != other["side"]).sum() > 10


def test_none_says_leaky_and_counts_each_planted_copy_where_it_stands(images, tmp_path):
    planted = plant(images)
    behind_of = [("val", "train"), ("test", "train"), ("test", "val")]
    behind_of += [("external", before) for before in ("train", "val", "test")]
    seen = set()
    for seed in range(4):
        outcome = partition(config_of(images, out=str(tmp_path / f"{seed}"), group_by="none", seed=seed))
        manifest = load_manifest(outcome.summary["manifest"])
        side_of = {
            str(Path(row["image"]).relative_to(images)): "external" if row["set"] == "external" else row["split"]
            for row in manifest.table.to_pylist()
        }
        pairs = [({side_of[original], side_of[copy]}, how) for original, copy, how in planted]
        leaks = outcome.tables["leaks (leaky: allowed by --group-by none)"]
        for behind, before in behind_of:
            apart = [how for sides, how in pairs if sides == {behind, before}]
            counted = leaks.loc[f"{behind} images with a copy in {before}"]
            assert counted.to_dict() == {"identical bytes": apart.count("identical"), "same picture": len(apart)}
            seen |= set(apart)
        assert outcome.summary["leaking_images"] == sum(len(sides) == 2 for sides, _ in pairs)
        assert outcome.summary["leaky"] and manifest.leaky
    assert seen == set(COPIES)


# ------------------------------------------------------------------------------------------------------- groups


def assert_on_one_side(rows: pd.DataFrame, planted: list[tuple[str, str, str]]) -> None:
    by_name = rows.assign(name=[f"{name.split('/')[0]}/{name.split('/')[-1]}" for name in rows.index])
    by_name = by_name.set_index("name")
    for original, copy, how in planted:
        assert by_name.loc[original, "side"] == by_name.loc[copy, "side"], f"{how} copy of {original}"
        assert by_name.loc[original, "group"] == by_name.loc[copy, "group"], f"{how} copy of {original}"


@pytest.mark.parametrize("seed", range(3))
def test_near_duplicate_keeps_every_planted_copy_on_the_side_of_its_original(images, seed):
    planted = plant(images)
    outcome = partition(config_of(images, seed=seed))
    assert outcome.tables["leaks (none allowed)"].to_numpy().sum() == 0
    assert outcome.summary["groups"] == 90 and outcome.summary["merged_groups"] == 0
    rows = rows_of(images, seed=seed, out=str(images.parent / "again"))
    assert_on_one_side(rows, planted)
    assert len(rows) == 90 + len(planted)


def test_parent_keeps_a_folder_on_one_side(images):
    in_folders(images, 20)
    rows = rows_of(images, group_by="parent")
    assert set(rows["group"]) == {f"bridge-{number}" for number in range(20)}
    assert (rows.groupby("group")["side"].nunique() == 1).all()
    assert rows["side"].nunique() == 4


def test_a_regular_expression_names_the_group_by_its_first_group_or_match():
    assert group_of("crack/bridge-7/1.jpg", "bridge-([0-9]+)") == "7"
    assert group_of("crack/bridge-7/1.jpg", "bridge-[0-9]+") == "bridge-7"
    assert group_of("crack/7.jpg", "bridge-([0-9]+)|7") == "7"


def test_a_regular_expression_keeps_its_groups_on_one_side(images):
    rows = rows_of(images, group_by=r"/\d{4}(\d)", **EVEN_SPLIT)
    assert set(rows["group"]) == set("0123456789")
    assert (rows.groupby("group")["side"].nunique() == 1).all()


def test_a_name_without_a_match_is_refused(drawn, tmp_path):
    assert_refused(
        ManifestError,
        "matches nothing in crack/00001.jpg",
        config_of(drawn, out=str(tmp_path / "out"), group_by="pier"),
    )


def test_groups_that_share_a_picture_are_merged(images):
    in_folders(images, 20)
    shared = images / "non_crack" / "bridge-3" / "00003.jpg"
    copy_of(shared, "rotated-90", images / "non_crack" / "bridge-4" / "copy.jpg")
    outcome = partition(config_of(images, group_by="parent"))
    rows = load_manifest(outcome.summary["manifest"]).table.to_pandas()
    group_of_bridge = {Path(row["image"]).parent.name: row["group"] for _, row in rows.iterrows()}
    assert group_of_bridge["bridge-3"] == group_of_bridge["bridge-4"] != group_of_bridge["bridge-5"]
    assert (outcome.summary["merged_groups"], outcome.summary["groups"]) == (1, 19)


def csv_of(images: Path, text: str) -> str:
    place = images.parent / "groups.csv"
    place.write_text(text)
    return str(place)


def rows_for_csv(images: Path) -> list[tuple[str, str, str]]:
    """Image, wall (its number mod 12) and photograph (its number mod 15) of every image."""
    names = sorted(str(path.relative_to(images)) for path in images.rglob("*.jpg"))
    return [(name, f"wall-{int(name[-7:-4]) % 12}", f"photo-{int(name[-7:-4]) % 15}") for name in names]


def test_a_csv_names_the_groups_in_its_column_group(images):
    lines = [f"{wall},{name},{photo}" for name, wall, photo in rows_for_csv(images)]
    place = csv_of(images, "\n".join(["group,image,photo", *lines]))
    rows = rows_of(images, groups=place, **EVEN_SPLIT)
    assert rows["group"].to_dict().items() <= {name: wall for name, wall, _ in rows_for_csv(images)}.items()


@pytest.mark.parametrize("column", ["", "photo"])
def test_a_csv_without_a_column_group_gives_its_last_or_the_named_one(images, column):
    order = "wall,image,photo" if not column else "photo,image,wall"
    values = {"wall": 1, "image": 0, "photo": 2}
    lines = [",".join(row[values[name]] for name in order.split(",")) for row in rows_for_csv(images)]
    rows = rows_of(images, groups=csv_of(images, "\n".join([order, *lines])), group_column=column, **EVEN_SPLIT)
    assert set(rows["group"]) == {f"photo-{number}" for number in range(15)}
    assert (rows.groupby("group")["side"].nunique() == 1).all()


def test_a_csv_is_stronger_than_none_and_merges_groups_that_share_a_picture(images):
    planted = plant(images)
    names = sorted(str(path.relative_to(images)) for path in images.rglob("*.jpg"))
    place = csv_of(images, "\n".join(["image,group", *(f"{name},{name}" for name in names)]))
    outcome = partition(config_of(images, groups=place, group_by="none"))
    assert outcome.summary["leaky"] is False and outcome.summary["merged_groups"] == len(planted)
    assert outcome.summary["group_by"] == place
    assert_on_one_side(rows_of(images, groups=place, out=str(images.parent / "again")), planted)


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("image,group\ncrack/00001.jpg,a", "", "89 of 90 images have no group in .*, the first crack/00002.jpg"),
        ("image,group\ncrack/00001.jpg,", "", "90 of 90 images have no group"),
        ("name,group\na,b", "", "has the columns name, group: it needs image and group"),
        ("image,group\na,b", "photo", "it needs image and photo.*--group-column"),
        ("image\na", "", "it needs image and group"),
        ("", "", "is not a CSV table"),
        ("image,group\na,b\na,b,c", "", "is not a CSV table"),
        ("image,group\ncrack/00001.jpg,a\ncrack/00001.jpg,b", "", "gives crack/00001.jpg two groups"),
    ],
    ids=["images missing", "empty group", "no image", "no such column", "one column", "empty", "ragged", "two groups"],
)
def test_a_csv_that_does_not_name_every_group_once_is_refused(drawn, tmp_path, text, column, message):
    place = tmp_path / "groups.csv"
    place.write_text(text)
    config = config_of(drawn, out=str(tmp_path / "out"), groups=str(place), group_column=column)
    assert_refused(ManifestError, message, config)


def test_a_csv_that_is_a_picture_is_refused(drawn, tmp_path):
    config = config_of(drawn, out=str(tmp_path / "out"), groups=str(drawn / "crack" / "00001.jpg"))
    assert_refused(ManifestError, "is not a CSV table", config)


def test_a_missing_csv_is_refused(drawn, tmp_path):
    config = config_of(drawn, out=str(tmp_path / "out"), groups=str(tmp_path / "groups.csv"))
    assert_refused(StorageError, "cannot read .*groups.csv", config)


# ------------------------------------------------------------------------------------------- what is left out


def left_out(outcome) -> dict[str, str]:
    place = Path(outcome.summary["manifest"]).with_name("left_out.csv")
    return dict(pd.read_csv(place, keep_default_na=False).itertuples(index=False)) if place.exists() else {}


def test_crack_images_of_a_group_that_is_trained_on_are_left_out_and_listed(images):
    in_folders(images, 20)
    outcome = partition(config_of(images, group_by="parent"))
    rows = load_manifest(outcome.summary["manifest"]).table.to_pandas()
    trained = set(rows.loc[rows["split"] == "train", "group"])
    cracks = {str(path) for path in images.glob("crack/*/*.jpg") if path.parent.name in trained}
    assert cracks and not cracks & set(rows["image"])
    assert left_out(outcome) == dict.fromkeys(cracks, "a crack image of a group that is trained on")
    assert outcome.summary["left_out"] == len(cracks) == 90 - len(rows)


def test_unreadable_images_are_left_out_with_the_reason(images):
    broken = {
        "empty.jpg": b"",
        "text.png": b"not a picture",
        "cut.jpg": (images / "crack/00001.jpg").read_bytes()[:500],
    }
    for name, data in broken.items():
        (images / "crack" / name).write_bytes(data)
    outcome = partition(config_of(images))
    reasons = left_out(outcome)
    assert set(reasons) == {str(images / "crack" / name) for name in broken}
    assert "empty" in reasons[str(images / "crack" / "empty.jpg")] and all(reasons.values())
    assert (outcome.summary["images"], outcome.summary["left_out"]) == (90, 3)


def test_where_nothing_is_left_out_there_is_no_list_of_it(drawn, tmp_path):
    outcome = partition(config_of(drawn, out=str(tmp_path)))
    assert outcome.summary["left_out"] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.parquet"]


# --------------------------------------------------------------------------------------------- mistakes of users


def test_a_missing_folder_is_refused(tmp_path):
    assert_refused(StorageError, "cannot list .*nowhere", config_of(tmp_path / "nowhere"))


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "notes.txt").write_text("none")
    assert_refused(ManifestError, r"contains no images \(1 ", config_of(tmp_path / "images"))


def test_a_broken_zip_is_refused(tmp_path):
    (tmp_path / "set.zip").write_bytes(b"PK no archive")
    assert_refused(ArchiveError, "is not a whole .zip", config_of(tmp_path / "set.zip"))


def test_images_in_folders_that_are_no_labels_are_refused(images):
    (images / "crack").rename(images / "broken")
    assert_refused(ManifestError, r"broken/.* lies in broken, which is no label .*--labels FOLDER=", config_of(images))


def test_images_in_no_folder_are_refused(images):
    shutil.copy(images / "crack" / "00001.jpg", images)
    assert_refused(ManifestError, "00001.jpg lies in no folder, which is no label", config_of(images))


def test_an_image_in_the_folders_of_both_labels_is_refused(images):
    (images / "crack" / "non_crack").mkdir()
    shutil.move(images / "crack" / "00001.jpg", images / "crack" / "non_crack")
    assert_refused(ManifestError, "crack/non_crack/00001.jpg lies in the folders of both labels", config_of(images))


def test_an_existing_manifest_is_not_overwritten(images):
    rows = rows_of(images)
    assert_refused(OutputExists, "exists already: delete it, or choose another --out", config_of(images, seed=1))
    pd.testing.assert_frame_equal(rows, rows_of(images, out=str(images.parent / "again")))


def test_a_set_without_sound_images_is_refused(images):
    shutil.rmtree(images / "non_crack")
    assert_refused(ManifestError, "no image is labelled non_crack: check --images, and --labels", config_of(images))


def test_sound_images_alone_are_split_without_an_external_set(images):
    shutil.rmtree(images / "crack")
    rows = rows_of(images, external=(5_000, 15_000))
    assert rows["side"].value_counts().to_dict() == {"train": 48, "val": 6, "test": 6}
    rows = rows_of(images, out=str(images.parent / "again"), external=(10, 0), labels={"non_crack": "non_crack"})
    assert rows["side"].value_counts().to_dict() == {"train": 40, "external": 10, "val": 5, "test": 5}


def test_images_without_any_label_name_adapt(images):
    shutil.rmtree(images / "crack")
    (images / "non_crack").rename(images / "march")
    assert_refused(ManifestError, r"no folder with the name of a label .*crackvae adapt --images", config_of(images))


def test_too_few_images_for_the_splits_are_refused_with_what_could_be_changed(images):
    for path in [*images.glob("non_crack/*.jpg")][3:]:
        path.unlink()
    assert_refused(ManifestError, "leave no non_crack image for val: give more", config_of(images, external=(0, 0)))


def test_groups_too_coarse_for_the_splits_are_refused(images):
    assert_refused(
        ManifestError, r"1 groups of 90 images leave no .*finer groups", config_of(images, group_by="parent")
    )


def test_a_set_of_unreadable_images_is_refused(tmp_path):
    for label in LABELS:
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "images" / label / f"{number}.jpg").write_bytes(b"noise")
    assert_refused(ManifestError, "none of 6 images can be read", config_of(tmp_path / "images", external=(0, 0)))


# ------------------------------------------------------------------------------------------------------- labels


def test_labels_may_have_any_folder_names_above_or_below_other_folders():
    labels = {"heil": "non_crack", "Riss": "crack"}
    assert label_of("heil/bridge-7/1.jpg", labels) == "non_crack"
    assert label_of("bridge-7/Riss/1.jpg", labels) == "crack"
    assert label_of("Riss/Riss/1.jpg", labels) == "crack"


def test_a_file_named_like_a_label_has_no_label():
    with pytest.raises(ManifestError, match="which is no label"):
        label_of("walls/crack", LABELS)


def test_a_partition_reads_the_mapped_folders(images):
    (images / "crack").rename(images / "Riss")
    (images / "non_crack").rename(images / "heil")
    rows = rows_of(images, labels={"heil": "non_crack", "Riss": "crack"})
    assert {(name.split("/")[0], label) for name, label in rows["label"].items()} == {
        ("heil", "non_crack"),
        ("Riss", "crack"),
    }


def test_the_group_by_folder_does_not_tell_the_labels_apart():
    assert group_of("crack/bridge-7/1.jpg", "parent", LABELS) == "bridge-7"
    assert group_of("bridge-7/non_crack/1.jpg", "parent", LABELS) == "bridge-7"
    assert group_of("north/bridge-7/1.jpg", "parent", LABELS) == "north/bridge-7"


# ------------------------------------------------------------------------------------------------------ dealing


def needs_of(n_sound: int, n_crack: int, shares: tuple[float, float, float, float]) -> dict[str, list[int]]:
    """Wanted images of each side: shares of external, test and val sound images, and of val cracks; train the rest."""
    external = [int(n_sound * shares[0]), int(n_crack * shares[0])]
    test, val = int(n_sound * shares[1]), int(n_sound * shares[2])
    val_crack = int((n_crack - external[1]) * shares[3])
    return {
        "external": external,
        "test": [test, n_crack - external[1] - val_crack],
        "val": [val, val_crack],
        "train": [n_sound - external[0] - test - val, 0],
    }


shares = st.tuples(*[st.floats(0.05, 0.3)] * 4)


@st.composite
def groups_and_labels(draw) -> tuple[np.ndarray, np.ndarray]:
    """Some groups of several images of either label, and single images enough to fill the sides."""
    sizes = draw(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
    groups, is_crack = [], []
    for number, (n_sound, n_crack) in enumerate([*sizes, *[(1, 0)] * 30, *[(0, 1)] * 30]):
        groups += [f"group-{number}"] * (n_sound + n_crack)
        is_crack += [False] * n_sound + [True] * n_crack
    return np.array(groups), np.array(is_crack)


def dealt(groups, is_crack, wanted, salt) -> np.ndarray:
    """Sides, where the drawn groups fill all of them; that others are refused is tested above."""
    try:
        return deal(groups, is_crack, needs_of(int((~is_crack).sum()), int(is_crack.sum()), wanted), salt)
    except ManifestError:
        assume(False)
        raise


@pytest.mark.slow
@settings(derandomize=True, deadline=None)
@given(groups_and_labels(), shares, st.text(max_size=3))
def test_a_group_never_stands_on_two_sides(drawn_groups, wanted, salt):
    groups, is_crack = drawn_groups
    sides = dealt(groups, is_crack, wanted, salt)
    assert set(sides) <= {*SIDES, ""}
    for group in set(groups):
        assert len(set(sides[groups == group]) - {""}) <= 1


@settings(derandomize=True, deadline=None)
@given(groups_and_labels(), shares, st.text(max_size=3))
def test_dealing_loses_no_image_but_cracks_of_a_trained_group(drawn_groups, wanted, salt):
    groups, is_crack = drawn_groups
    sides = dealt(groups, is_crack, wanted, salt)
    trained = np.isin(groups, groups[sides == "train"])
    assert np.array_equal(sides == "", is_crack & trained)
    assert not (is_crack & (sides == "train")).any()


@settings(derandomize=True, deadline=None)
@given(st.integers(25, 300), st.integers(25, 300), shares, st.text(max_size=3))
def test_single_images_meet_the_wanted_numbers_exactly(n_sound, n_crack, wanted, salt):
    is_crack = np.arange(n_sound + n_crack) >= n_sound
    needs = needs_of(n_sound, n_crack, wanted)
    sides = dealt(np.array([f"{number}.jpg" for number in range(len(is_crack))]), is_crack, wanted, salt)
    found = {
        side: [int((~is_crack & (sides == side)).sum()), int((is_crack & (sides == side)).sum())] for side in SIDES
    }
    assert found == needs


@settings(derandomize=True, deadline=None)
@given(groups_and_labels(), shares, st.randoms(use_true_random=False))
def test_dealing_does_not_depend_on_the_order_of_the_images(drawn_groups, wanted, chance):
    groups, is_crack = drawn_groups
    order = np.array(chance.sample(range(len(groups)), len(groups)))
    assert np.array_equal(
        dealt(groups, is_crack, wanted, "0")[order], dealt(groups[order], is_crack[order], wanted, "0")
    )


def test_a_side_never_gets_more_than_its_numbers_from_groups_with_sound_images():
    rng = np.random.default_rng(0)
    groups = np.array([f"bridge-{number}" for number in rng.integers(0, 40, 500)])
    is_crack = np.zeros(500, bool)
    is_crack[-30:], groups[-30:] = True, [f"crack-{number}" for number in range(30)]
    needs = needs_of(470, 30, (0.2, 0.2, 0.2, 0.2))
    sides = deal(groups, is_crack, needs, "0")
    for side in ("external", "test", "val"):
        assert 0 < (~is_crack & (sides == side)).sum() <= needs[side][0]


def test_photographs_that_show_cracks_and_sound_concrete_are_kept_to_judge_on():
    groups = np.repeat([f"photo-{number}" for number in range(24)], 50)
    is_crack = np.tile(np.arange(50) >= 25, 24) & (np.arange(24 * 50) >= 15 * 50)
    kept = np.arange(24 * 50) % 50 < 25
    groups, is_crack = groups[kept | is_crack], is_crack[kept | is_crack]
    for salt in "0123456789":
        sides = deal(groups, is_crack, needs_of(600, 225, (0, 0.1, 0.1, 0.1)), salt)
        assert {"val", "test"} <= set(sides[is_crack])
        assert (sides == "").sum() < 150  # of 225; in the order of the hash alone 200, or no split at all


# ------------------------------------------------------------------------------------------------------ loading


def manifest_rows() -> list[dict]:
    """Two sound images of train, and a sound and a cracked one of val, test and external; each its own group."""
    sides = [("internal", "train", "non_crack")] * 2
    sides += [(*side, label) for side in (("internal", "val"), ("internal", "test"), ("external", "test"))
              for label in ("non_crack", "crack")]  # fmt: skip
    return [
        {
            "image": f"/set/{number}.jpg",
            "label": label,
            "group": f"bridge-{number}",
            "set": image_set,
            "split": split,
            "sha256": f"{number:064x}",
            "width": 64,
            "height": 48,
            "bytes": 1000,
        }
        for number, (image_set, split, label) in enumerate(sides)
    ]


def save_manifest(place: Path, rows: list[dict], leaky: bool = False) -> str:
    metadata = {"crackvae": json.dumps({"leaky": leaky})}
    pq.write_table(pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA.with_metadata(metadata)), place)
    return str(place)


def test_a_loaded_manifest_gives_the_images_of_a_split_in_order(tmp_path):
    manifest = load_manifest(save_manifest(tmp_path / "m.parquet", manifest_rows()))
    assert manifest.images("train")["image"].to_pylist() == ["/set/0.jpg", "/set/1.jpg"]
    assert manifest.images("test")["image"].to_pylist() == ["/set/4.jpg", "/set/5.jpg"]
    assert manifest.images("test", "crack")["image"].to_pylist() == ["/set/5.jpg"]
    assert manifest.images("test", "crack", "external")["image"].to_pylist() == ["/set/7.jpg"]


def test_the_digest_is_that_of_the_file(tmp_path):
    place = save_manifest(tmp_path / "m.parquet", manifest_rows())
    assert load_manifest(place).digest == sha256_of(Path(place))


def test_a_manifest_of_other_columns_is_refused(tmp_path):
    table = pa.Table.from_pylist(manifest_rows(), schema=MANIFEST_SCHEMA)
    pq.write_table(table.drop_columns(["sha256"]), tmp_path / "m.parquet")
    with pytest.raises(StorageError, match="is not a whole table with the columns image, label"):
        load_manifest(str(tmp_path / "m.parquet"))


def test_a_column_of_another_type_is_refused(tmp_path):
    table = pa.Table.from_pylist(manifest_rows(), schema=MANIFEST_SCHEMA)
    words = pa.array(["wide"] * table.num_rows)
    pq.write_table(table.set_column(table.schema.get_field_index("width"), "width", words), tmp_path / "m.parquet")
    with pytest.raises(StorageError, match="is not a whole table"):
        load_manifest(str(tmp_path / "m.parquet"))


@pytest.mark.parametrize("keep", [0, 3, 0.5, 0.99])
def test_a_truncated_manifest_is_refused(tmp_path, keep):
    place = Path(save_manifest(tmp_path / "m.parquet", manifest_rows()))
    data = place.read_bytes()
    place.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(StorageError, match="is not a whole table"):
        load_manifest(str(place))


def test_a_missing_manifest_is_refused(tmp_path):
    with pytest.raises(StorageError, match=r"cannot read .*m\.parquet"):
        load_manifest(str(tmp_path / "m.parquet"))


@pytest.mark.parametrize("metadata", [None, {"crackvae": "{"}, {"crackvae": "{}"}, {"crackvae": "[]"}])
def test_a_table_that_partition_did_not_write_is_refused(tmp_path, metadata):
    table = pa.Table.from_pylist(manifest_rows(), schema=MANIFEST_SCHEMA.with_metadata(metadata))
    pq.write_table(table, tmp_path / "m.parquet")
    with pytest.raises(ManifestError, match="was not written by crackvae partition: run it again"):
        load_manifest(str(tmp_path / "m.parquet"))


@pytest.mark.parametrize(
    ("row", "column", "value", "message"),
    [
        (3, "label", "Positive", "has the label 'Positive'"),
        (3, "label", None, "has the label "),
        (2, "split", "validation", "has the split 'validation'"),
        (2, "set", "", "has the set ''"),
        (1, "image", "/set/0.jpg", "names /set/0.jpg twice"),
        (1, "label", "crack", "trains on the crack image /set/1.jpg"),
    ],
)
def test_a_manifest_with_rows_that_mean_nothing_is_refused(tmp_path, row, column, value, message):
    rows = manifest_rows()
    rows[row][column] = value
    with pytest.raises(ManifestError, match=message):
        load_manifest(save_manifest(tmp_path / "m.parquet", rows))


@pytest.mark.parametrize("key", ["group", "sha256"])
@pytest.mark.parametrize(("one", "other"), [(0, 2), (0, 4), (2, 4), (0, 6), (4, 6)])
def test_a_group_or_file_on_two_sides_is_a_leak_unless_the_manifest_says_leaky(tmp_path, key, one, other):
    rows = manifest_rows()
    rows[other][key] = rows[one][key]
    with pytest.raises(LeakError, match=f"has the {key} {rows[one][key]} on both sides"):
        load_manifest(save_manifest(tmp_path / "m.parquet", rows))
    assert load_manifest(save_manifest(tmp_path / "leaky.parquet", rows, leaky=True)).leaky


@pytest.mark.parametrize("key", ["group", "sha256"])
def test_a_group_or_file_twice_on_one_side_is_no_leak(tmp_path, key):
    rows = manifest_rows()
    rows[1][key], rows[3][key] = rows[0][key], rows[2][key]
    assert load_manifest(save_manifest(tmp_path / "m.parquet", rows)).table.num_rows == len(rows)


def test_rows_of_a_manifest_are_listed_like_a_folder_with_their_groups(tmp_path):
    manifest = load_manifest(save_manifest(tmp_path / "m.parquet", manifest_rows()))
    listing = listing_of(manifest.images("val"))
    assert {*listing.schema.names} == {*LISTING_SCHEMA.names, "group", "sha256"}
    assert all(listing.schema.field(name).type == LISTING_SCHEMA.field(name).type for name in LISTING_SCHEMA.names)
    assert listing["image"].to_pylist() == ["/set/2.jpg", "/set/3.jpg"] and set(listing["error"].to_pylist()) == {""}


def test_a_manifest_with_a_cell_without_a_value_or_without_rows_is_refused(tmp_path):
    table = pa.Table.from_pylist(
        manifest_rows(), schema=MANIFEST_SCHEMA.with_metadata({b"crackvae": b'{"leaky": false}'})
    )
    blank = table.set_column(2, "group", pa.array([None, *table["group"].to_pylist()[1:]], pa.string()))
    for number, broken in enumerate((blank, table.slice(0, 0))):
        place = str(tmp_path / f"{number}.parquet")
        pq.write_table(broken, place)
        with pytest.raises(ManifestError, match="no rows, or cells without a value"):
            load_manifest(place)
