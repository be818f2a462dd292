"""Images in archives: read in place, and no archive is trusted."""

import os
import stat
import struct
import tempfile
import warnings
import zipfile
import zlib
from pathlib import Path

import pytest
from files import ODD_NAMES, errors, names, one_line, pack, put
from hypothesis import given, settings
from hypothesis import strategies as st

from crackvae.errors import ArchiveError, UnreadableImage
from crackvae.storage import uris
from crackvae.storage.fileio import read_image
from crackvae.storage.listing import list_images

few = settings(derandomize=True, deadline=None, max_examples=60)


def test_an_archive_is_read_in_place(tmp_path):
    place = pack(
        tmp_path / "metu.zip", {"Negative/1.jpg": b"n1", "Positive/a/2.png": b"p2", "readme.txt": b"", "x/": b""}
    )
    listing = list_images(place)
    assert listing.images["image"].to_pylist() == [f"{place}!/Negative/1.jpg", f"{place}!/Positive/a/2.png"]
    assert names(listing) == ["Negative/1.jpg", "Positive/a/2.png"] and listing.skipped == 1
    assert [read_image(image) for image in listing.images["image"].to_pylist()] == [b"n1", b"p2"]
    assert os.listdir(tmp_path) == ["metu.zip"]


def test_an_archive_skips_what_a_mac_and_a_hidden_file_leave_in_it(tmp_path):
    listing = list_images(pack(tmp_path / "a.zip", {"1.jpg": b"", "__MACOSX/._1.jpg": b"", ".2.jpg": b""}))
    assert names(listing) == ["1.jpg"] and listing.skipped == 2


def test_an_archive_with_its_ending_in_capitals_is_read_too(tmp_path):
    listing = list_images(pack(tmp_path / "METU.ZIP", {"1.jpg": b"one"}))
    assert read_image(listing.images["image"][0].as_py()) == b"one"


def test_a_folder_that_is_called_like_an_archive_is_a_folder(tmp_path):
    folder = put(tmp_path / "unpacked.zip", "1.jpg")
    assert names(list_images(str(folder))) == ["1.jpg"]


@pytest.mark.parametrize("name", [*ODD_NAMES, "IMG 12:30:01.jpg", "a://b.jpg", "b.zip!/c.jpg"])
def test_an_odd_name_survives_in_an_archive(tmp_path, name):
    listing = list_images(pack(tmp_path / "a.zip", {f"sub/{name}": name.encode()}))
    assert names(listing) == [f"sub/{name}"]
    assert read_image(listing.images["image"][0].as_py()) == name.encode()


def link(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


LEAVES = "its name leaves the folder of its archive: do not trust it"


@pytest.mark.parametrize(
    ("entry", "shown", "why"),
    [
        ("../x.jpg", "../x.jpg", LEAVES),
        ("a/../../x.jpg", "a/../../x.jpg", LEAVES),
        ("/etc/x.jpg", "etc/x.jpg", LEAVES),
        ("..\\x.jpg", "../x.jpg", LEAVES),
        ("a\\..\\..\\x.jpg", "a/../../x.jpg", LEAVES),
        ("\\\\host\\x.jpg", "host/x.jpg", LEAVES),
        ("C:\\x.jpg", "C:/x.jpg", LEAVES),
        (link("passwd.jpg"), "passwd.jpg", "a link in an archive: pack the file itself"),
        ("2.jpg", "2.jpg", "its archive contains 2 entries of this name: pack it again with one of them"),
    ],
)
def test_an_entry_that_must_not_be_read_is_a_row_that_says_so_and_the_others_are_read(tmp_path, entry, shown, why):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("1.jpg", "2.jpg") if entry == "2.jpg" else ("1.jpg",):
            archive.writestr(name, b"whole")
        archive.writestr(entry, b"target")
        archive.writestr("c:3.jpg", b"whole")
    listing = list_images(str(tmp_path / "a.zip"))
    assert errors(listing) == {"1.jpg": "", shown: why, "c:3.jpg": ""}
    read = [image for image, error in listing.images.select(["image", "error"]).to_pandas().to_numpy() if not error]
    assert [read_image(image) for image in read] == [b"whole", b"whole"]


def test_a_link_that_is_no_image_is_counted_as_what_its_name_says(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("1.jpg", b"whole")
        archive.writestr(link("Current"), b"Versions/A")
    listing = list_images(str(tmp_path / "a.zip"))
    assert names(listing) == ["1.jpg"] and listing.excluded == {"other file": 1}


@pytest.mark.parametrize("kept", [0.0, 0.2, 0.9])
def test_an_archive_that_was_copied_in_part_is_refused(tmp_path, kept):
    path = Path(pack(tmp_path / "a.zip", {f"{i}.jpg": os.urandom(99) for i in range(20)}))
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(ArchiveError, match="Copy it again") as caught:
        list_images(str(path))
    assert str(path) in one_line(caught.value)


def test_what_only_ends_like_an_archive_is_refused(tmp_path):
    put(tmp_path, "a.zip", data=b"<html>" * 100)
    with pytest.raises(ArchiveError, match=r"not a whole \.zip archive"):
        list_images(str(tmp_path / "a.zip"))


def test_an_encrypted_entry_is_a_row_that_says_so(tmp_path):
    path = Path(pack(tmp_path / "a.zip", {"1.jpg": b"one"}))
    data = bytearray(path.read_bytes())
    data[6] |= 1  # flags of the local header
    data[data.index(b"PK\x01\x02") + 8] |= 1  # and of the directory
    path.write_bytes(data)
    listing = list_images(str(path))
    assert errors(listing) == {"1.jpg": "encrypted in its archive"}
    with pytest.raises(UnreadableImage, match="encrypted"):
        read_image(listing.images["image"][0].as_py())


def test_an_entry_that_claims_far_more_than_it_holds_is_a_row_that_says_so(tmp_path):
    listing = list_images(pack(tmp_path / "a.zip", {"bomb.png": bytes(1_000_000), "good.png": os.urandom(1000)}))
    assert "a decompression bomb" in errors(listing)["bomb.png"] and errors(listing)["good.png"] == ""


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_an_entry_that_is_damaged_in_its_archive_is_unreadable(tmp_path, compression):
    path = Path(pack(tmp_path / "a.zip", {"1.jpg": b"concrete " * 99, "2.jpg": b"two"}, compression))
    data = path.read_bytes()
    start, end = 30 + len("1.jpg"), data.index(b"PK\x03\x04", 4)
    damaged = bytes(byte ^ 0xFF for byte in data[start + 10 : end])
    path.write_bytes(data[: start + 10] + damaged + data[end:])
    first, second = list_images(str(path)).images["image"].to_pylist()
    with pytest.raises(UnreadableImage, match="damaged in its archive") as caught:
        read_image(first)
    assert one_line(caught.value) and read_image(second) == b"two"


def test_damaged_archives_are_refused_or_listed_and_read_or_not_and_nothing_else(tmp_path):
    entries = {"a/1.jpg": b"concrete " * 20, "2.jpg": b"two", "=1.jpg": bytes(range(99))}
    data = Path(pack(tmp_path / "whole.zip", entries)).read_bytes()
    outcomes: list[str] = []

    def outcome(place: str) -> str:
        try:
            images = list_images(place).images.to_pylist()
        except ArchiveError as error:
            return one_line(error)
        for image in images:
            try:
                assert isinstance(read_image(image["image"]), bytes)
            except (UnreadableImage, OSError) as error:
                return uris.reason(error)
        return "read"

    @settings(derandomize=True, deadline=None, max_examples=200)
    @given(st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), min_size=1, max_size=3))
    def overwrite(patches):
        damaged = bytearray(data)
        for offset, byte in patches:
            damaged[offset] = byte
        place = tmp_path / f"{len(outcomes)}.zip"
        place.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcomes.append(outcome(str(place)))

    overwrite()
    assert len(set(outcomes)) > 5


def test_an_image_that_left_its_archive_is_unreachable(tmp_path):
    place = pack(tmp_path / "a.zip", {"1.jpg": b"one"})
    with pytest.raises(FileNotFoundError, match="no longer in its archive"):
        read_image(f"{place}!/2.jpg")
    os.unlink(place)
    with pytest.raises(FileNotFoundError):
        read_image(f"{place}!/1.jpg")


def test_an_archive_that_changes_while_a_job_runs_is_opened_again(tmp_path):
    place = pack(tmp_path / "a.zip", {"1.jpg": b"one"})
    assert read_image(f"{place}!/1.jpg") == b"one"
    pack(tmp_path / "a.zip", {"1.jpg": b"another"})
    os.utime(place, (0, 0))
    assert read_image(f"{place}!/1.jpg") == b"another"


# ------------------------------------------------------------------------------------- names written on Windows


def pack_bytes(path: Path, names_and_data: dict[bytes, bytes], flag: int = 0, extra: bytes = b"") -> str:
    """A stored .zip, byte by byte, so that names have any encoding and any extra field."""
    body, directory = b"", b""
    for name, data in names_and_data.items():
        common = struct.pack(
            "<HHHHHLLLHH", 20, flag, 0, 0, 0x5B77, zlib.crc32(data), len(data), len(data), len(name), len(extra)
        )
        directory += b"PK\x01\x02" + struct.pack("<H", 20) + common
        directory += struct.pack("<HHHLL", 0, 0, 0, 0, len(body)) + name + extra
        body += b"PK\x03\x04" + common + name + extra + data
    n = len(names_and_data)
    end = b"PK\x05\x06" + struct.pack("<HHHHLLH", 0, 0, n, n, len(directory), len(body), 0)
    path.write_bytes(body + directory + end)
    return str(path)


@pytest.mark.parametrize(
    ("encoding", "folders"),
    [
        ("utf-8", ["Brücke", "橋", "Мост", "naïve é"]),
        ("cp850", ["Brücke", "Größe", "Übergröße", "Ölberg", "création", "créé", "señor", "São João", "Ærø", "Ñandú"]),
        ("cp932", ["橋梁", "トンネル", "夜間", "表示", "ソーラー", "橋Ａ棟", "ひび割れ写真", "第３径間"]),
    ],
)
def test_a_name_without_a_stated_encoding_is_read_in_the_one_in_which_it_makes_sense(tmp_path, encoding, folders):
    for number, folder in enumerate(folders):
        name = f"{folder}\\1.jpg".encode(encoding)
        listing = list_images(pack_bytes(tmp_path / f"{number}.zip", {name: b"one", b"a\\2.jpg": b"two"}))
        assert sorted(names(listing)) == sorted([f"{folder}/1.jpg", "a/2.jpg"]), (encoding, folder)
        assert {read_image(image) for image in listing.images["image"].to_pylist()} == {b"one", b"two"}
    every = {f"{folder}/{number}.jpg".encode(encoding): b"x" for number, folder in enumerate(folders)}
    assert names(list_images(pack_bytes(tmp_path / "all.zip", every))) == sorted(
        f"{folder}/{number}.jpg" for number, folder in enumerate(folders)
    )


def test_a_unicode_name_beside_the_name_counts_while_it_belongs_to_it(tmp_path):
    raw = b"another name"
    for old, name in ((b"Br\x81cke.jpg", "Мост.jpg"), (b"Br\x81cke.jpg", None)):
        crc = zlib.crc32(old if name else raw)
        field = struct.pack("<BL", 1, crc) + "Мост.jpg".encode()
        extra = struct.pack("<HH", 0x7075, len(field)) + field
        listing = list_images(pack_bytes(tmp_path / "a.zip", {old: b"x"}, extra=extra))
        assert names(listing) == [name or "Brücke.jpg"]
        os.utime(tmp_path / "a.zip", (len(names(listing)), 0))


def test_backslashes_are_separators_where_no_entry_has_a_slash(tmp_path):
    night = {
        "n\\b7\\1.jpg": b"1",
        "n\\b8\\1.jpg": b"2",
        "__MACOSX\\n\\._1.jpg": b"",
        "n\\.t\\2.jpg": b"",
        "n\\b9\\": b"",
    }
    listing = list_images(pack_bytes(tmp_path / "w.zip", {name.encode(): data for name, data in night.items()}))
    assert names(listing) == ["n/b7/1.jpg", "n/b8/1.jpg"]
    assert listing.excluded == {"hidden": 1, "system litter": 1}


@pytest.mark.parametrize(("system", "second"), [(0, "a/2.jpg"), (3, "a\\2.jpg"), (10, "a/2.jpg")])
def test_backslashes_beside_slashes_are_separators_in_names_that_windows_has_written(tmp_path, system, second):
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as file:
        file.writestr("a/1.jpg", b"1")
        entry = zipfile.ZipInfo("2.jpg")
        entry.filename, entry.create_system = "a\\2.jpg", system
        file.writestr(entry, b"2")
    listing = list_images(str(tmp_path / "b.zip"))
    assert names(listing) == ["a/1.jpg", second]
    assert [read_image(image) for image in listing.images["image"].to_pylist()] == [b"1", b"2"]


@given(
    st.lists(
        st.text(st.characters(exclude_characters="/\\\0", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8),
        min_size=1,
        max_size=5,
        unique=True,
    ),
    st.booleans(),
)
@settings(derandomize=True, deadline=None, max_examples=150)
def test_whatever_the_names_are_each_entry_is_listed_once_and_read(folders, is_utf_8):
    with tempfile.TemporaryDirectory() as folder:
        raw = {f"in{name}/{n}.jpg".encode(): b"%d" % n for n, name in enumerate(folders)}
        listing = list_images(pack_bytes(Path(folder) / "a.zip", raw, flag=0x800 if is_utf_8 else 0))
        assert names(listing) == sorted(name.decode() for name in raw)
        assert {read_image(image) for image in listing.images["image"].to_pylist()} == set(raw.values())


# ------------------------------------------------------------------------------------ archives to which one adds


def identities(place: str) -> dict[str, tuple[int, int]]:
    images = list_images(place).images
    times = images["modified"].cast("int64").to_pylist()
    keys = zip(images["bytes"].to_pylist(), times, strict=True)
    return dict(zip(images["image"].to_pylist(), keys, strict=True))


def test_an_entry_keeps_its_identity_while_its_archive_grows_and_is_packed_again(tmp_path):
    put(tmp_path, "1.jpg", data=b"one")
    put(tmp_path, "2.jpg", data=b"two")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "1.jpg", "1.jpg")
    before = identities(str(tmp_path / "a.zip"))
    os.utime(tmp_path / "a.zip", (0, 0))
    assert identities(str(tmp_path / "a.zip")) == before
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.write(tmp_path / "2.jpg", "2.jpg")
    grown = identities(str(tmp_path / "a.zip"))
    assert len(grown) == 2 and before.items() <= grown.items()
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:  # with the second entry first
        archive.write(tmp_path / "2.jpg", "2.jpg")
        archive.write(tmp_path / "1.jpg", "1.jpg")
    assert identities(str(tmp_path / "a.zip")) == grown


@pytest.mark.parametrize("data", [b"two", b"three"])
def test_an_entry_of_another_content_is_another_image_even_with_the_same_time(tmp_path, data):
    [before] = identities(pack_bytes(tmp_path / "a.zip", {b"1.jpg": b"one"})).values()
    os.unlink(tmp_path / "a.zip")
    [after] = identities(pack_bytes(tmp_path / "b.zip", {b"1.jpg": data})).values()
    assert before != after
