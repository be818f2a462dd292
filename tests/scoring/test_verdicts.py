"""Verdicts of reviewers: read back, and excluded from a calibration."""

from pathlib import Path

import pyarrow as pa
import pytest

from crackvae.errors import ManifestError, StorageError
from crackvae.scoring.verdicts import find_cracks, read_verdicts, without_cracks


def write(path: Path, text: str) -> str:
    path.write_bytes(text.encode())
    return str(path)


def test_verdicts_are_read_with_every_character_of_a_name(tmp_path: Path) -> None:
    names = ['/n/a,"b".jpg', "/n/line\nbreak.jpg", "/n/\u202egpj.exe", "/n/cr\rname.jpg"]
    quoted = ['"' + name.replace('"', '""') + '"' for name in names]
    lines = [f"{name},{verdict}" for name, verdict in zip(quoted, ("crack", "sound", "unsure", ""), strict=True)]
    place = write(tmp_path / "v.csv", "\ufeffimage,verdict\r\n" + "\r\n".join(lines))
    assert read_verdicts(place) == dict(zip(names[:3], ("crack", "sound", "unsure"), strict=True))
    assert find_cracks(pa.chunked_array([names]), place) == {names[0]}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("image;verdict\n/a.jpg;crack\n", "save it with commas"),
        ("path,verdict\n/a.jpg,crack\n", "lacks the columns image and verdict"),
        ("image,verdict\n/a.jpg,broken\n", "'broken' on /a.jpg is not one of crack, sound, unsure"),
        ("image,verdict\n/a.jpg,crack\n/a.jpg,sound\n", "is called crack and sound: keep one"),
        ("", "holds no verdicts"),
    ],
)
def test_what_is_no_file_of_verdicts_is_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ManifestError, match=why):
        read_verdicts(write(tmp_path / "v.csv", text))


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"v\.csv"):
        read_verdicts(str(tmp_path / "v.csv"))
    (tmp_path / "v.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError, match="not a CSV file in UTF-8"):
        read_verdicts(str(tmp_path / "v.csv"))


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
