"""The CSV of verdicts: read back with every character, or refused."""

from pathlib import Path

import pytest

from crackvae.errors import ManifestError, StorageError
from crackvae.storage.tables.verdict_csv import read_verdict_csv


def write(path: Path, text: str) -> str:
    path.write_bytes(text.encode())
    return str(path)


def test_verdicts_are_read_with_every_character_of_a_name(tmp_path: Path) -> None:
    names = ['/n/a,"b".jpg', "/n/line\nbreak.jpg", "/n/\u202egpj.exe", "/n/cr\rname.jpg"]
    quoted = ['"' + name.replace('"', '""') + '"' for name in names]
    lines = [f"{name},{verdict}" for name, verdict in zip(quoted, ("crack", "sound", "unsure", ""), strict=True)]
    place = write(tmp_path / "v.csv", "\ufeffimage,verdict\r\n" + "\r\n".join(lines))
    assert read_verdict_csv(place) == dict(zip(names[:3], ("crack", "sound", "unsure"), strict=True))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("image;verdict\n/a.jpg;crack\n", "save it with commas"),
        ("path,verdict\n/a.jpg,crack\n", "lacks the columns image and verdict"),
        ("image,verdict\n/a.jpg,broken\n", "'broken' on /a.jpg is not one of crack, sound, joint, unsure"),
        ("image,verdict\n/a.jpg,crack\n/a.jpg,sound\n", "is called crack and sound: keep one"),
        ("", "holds no verdicts"),
    ],
)
def test_what_is_no_file_of_verdicts_is_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ManifestError, match=why):
        read_verdict_csv(write(tmp_path / "v.csv", text))


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"v\.csv"):
        read_verdict_csv(str(tmp_path / "v.csv"))
    (tmp_path / "v.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError, match="not a CSV file in UTF-8"):
        read_verdict_csv(str(tmp_path / "v.csv"))
