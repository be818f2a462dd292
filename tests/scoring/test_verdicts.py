"""What verdicts change in a calibration."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import crackvae
from crackvae.errors import ManifestError, StorageError
from crackvae.scoring.verdicts import find_cracks, without_cracks
from crackvae.storage.tables import SCORES_SCHEMA, write_part
from crackvae.storage.tables.verdicts import Judgement, Subject, VerdictLog


def write(path: Path, text: str) -> str:
    path.write_bytes(text.encode())
    return str(path)


def test_verdicts_on_the_paths_of_another_machine_are_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "v.csv", "image,verdict\n/data/1.jpg,crack\n/data/2.jpg,sound\n")
    with pytest.raises(
        ManifestError, match=r"none of the 2 images .* names /data/1.jpg, and they are named like /mnt/"
    ):
        find_cracks(pa.chunked_array([["/mnt/1.jpg", "/mnt/2.jpg"]]), path)
    assert find_cracks(pa.chunked_array([["/mnt/1.jpg", "/data/2.jpg"]]), path) == {"/data/1.jpg"}
    assert find_cracks(pa.chunked_array([["/mnt/1.jpg"]]), write(tmp_path / "none.csv", "image,verdict\n")) == set()


def test_cracks_that_are_no_calibration_images_are_counted() -> None:
    images = pa.chunked_array([["a", "b", "c"]])
    kept, excluded = without_cracks(pa.table({"image": ["a", "b"]}), {"a", "c", "elsewhere"}, images)
    assert kept["image"].to_pylist() == ["b"]
    assert excluded.counts() == {"called_cracks": 3, "dropped": 1, "not_found": 1}


def test_a_log_excludes_what_its_reviewers_agree_is_cracked(tmp_path: Path) -> None:
    log = VerdictLog(str(tmp_path))
    verdicts = {Subject("a"): "crack", Subject("b"): "sound", Subject("c", "c-1"): "crack", Subject("c"): "sound"}
    log.append("by-anna-1", "anna", [Judgement(subject, verdict) for subject, verdict in verdicts.items()])
    log.append("by-ben-01", "ben", [Judgement(Subject("a"), "unsure"), Judgement(Subject("d"), "crack")])
    log.append("by-anna-2", "anna", [Judgement(Subject("d"), "sound")])
    assert find_cracks(pa.chunked_array([["a", "b", "c", "d"]]), str(tmp_path)) == {"a", "c"}


def test_scores_that_nobody_has_judged_exclude_nothing_and_a_folder_without_scores_is_refused(tmp_path: Path) -> None:
    images = pa.chunked_array([["a"]])
    with pytest.raises(StorageError, match="holds no scores: name the folder that crackvae score wrote as --out"):
        find_cracks(images, str(tmp_path))
    write_part(str(tmp_path), SCORES_SCHEMA.empty_table(), "20260101T000000_000000", 0)
    assert find_cracks(images, str(tmp_path)) == set()


@pytest.mark.usefixtures("in_process")
def test_a_group_keeps_its_sound_images_though_others_of_it_are_called_cracks(
    drawn: Path, model_dir: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(model_dir, tmp_path / "model")
    lines = ["image,verdict"]
    for number, image in enumerate(sorted((drawn / "non_crack").iterdir())[:90]):
        folder = tmp_path / "sound" / f"wall-{number // 3}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / image.name).symlink_to(image)
        lines += [f'"{folder / image.name}",crack'] if number % 3 else []
    (tmp_path / "v.csv").write_text("\n".join(lines))
    given: dict[str, Any] = {"model": model, "images": tmp_path / "sound", "one_per_group": True, "quiet": True}
    assert crackvae.calibrate(**given, verdicts=tmp_path / "v.csv").summary["n"] == 30
