"""The only file-system code, on real folders, archives and a bucket in memory."""

import errno
import io
import os
import re
import stat
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from crackvae import storage, tables
from crackvae.errors import ArchiveError, ConfigError, OutputExists, StorageError, UnreadableImage
from crackvae.storage import list_images, read_image

ODD_NAMES = [
    "with space.jpg",
    "Brücke.jpg",
    "=1+1.jpg",
    "a#b.jpg",
    "100%25.jpg",
    "new\nline.jpg",
    "!first.jpg",
    "ä?b=c.jpg",
]

few = settings(derandomize=True, deadline=None, max_examples=60)


def put(folder: Path, *names: str, data: bytes = b"pixels") -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def pack(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> str:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return str(path)


def names(listing: storage.Listing) -> list[str]:
    return [storage.relative(image, listing.root) for image in listing.images["image"].to_pylist()]


def errors(listing: storage.Listing) -> dict[str, str]:
    return dict(zip(names(listing), listing.images["error"].to_pylist(), strict=True))


def one_line(error: BaseException) -> str:
    message = str(error)
    assert message and "\n" not in message
    return message


def scores(n: int, run: str = "run") -> pa.Table:
    """Rows of a scores table in which only the names mean something."""
    blank = {"string": "", "bool": False, "list<element: float>": [0.5, -0.5]}
    columns = {field.name: [blank.get(str(field.type), 0)] * n for field in tables.SCORES_SCHEMA}
    columns |= {"image": [f"/images/{i}.jpg" for i in range(n)], "tile_scores": [[0.5, -0.5]] * n, "run": [run] * n}
    return pa.table({name: pa.array(column) for name, column in columns.items()}).cast(tables.SCORES_SCHEMA)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may write everywhere; for a moment this process is nobody."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65_534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@pytest.fixture
def bucket(monkeypatch) -> pafs.FileSystem:
    """Object storage in memory; its one bucket answers to every address."""
    filesystem = pafs._MockFileSystem()
    filesystem.create_dir("bucket")
    monkeypatch.setattr(storage, "_bucket", lambda address, options: (filesystem, "bucket"))
    return filesystem


def upload(bucket: pafs.FileSystem, key: str, data: bytes = b"pixels") -> None:
    bucket.create_dir(f"bucket/{key}".rpartition("/")[0])
    with bucket.open_output_stream(f"bucket/{key}") as stream:
        stream.write(data)


class Flaky:
    """A file system that fails some times before it answers."""

    def __init__(self, *failures: BaseException) -> None:
        self.failures, self.attempts = list(failures), 0

    def open_input_stream(self, path: str) -> pa.NativeFile:
        self.attempts += 1
        if self.failures:
            raise self.failures.pop(0)
        return pa.BufferReader(b"pixels")


@pytest.fixture
def pauses(monkeypatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr(storage.time, "sleep", slept.append)
    return slept


def behind(monkeypatch, filesystem: Flaky) -> Flaky:
    monkeypatch.setattr(storage, "_filesystem", lambda uri: (filesystem, "bucket/key"))
    return filesystem


# ------------------------------------------------------------------------------------------- listing a folder


def test_a_folder_lists_each_image_once_in_order_of_name(tmp_path):
    put(tmp_path, "b.JPG", "a/2.png", "a/1.tiff", "a/c/d.webp", "z.bmp")
    listing = list_images(str(tmp_path))
    assert names(listing) == ["a/1.tiff", "a/2.png", "a/c/d.webp", "b.JPG", "z.bmp"]
    assert listing.images.schema.equals(storage.LISTING_SCHEMA)
    assert listing.images["bytes"].to_pylist() == [6] * 5 and set(errors(listing).values()) == {""}


def test_a_row_knows_when_its_image_was_changed(tmp_path):
    put(tmp_path, "a.jpg")
    os.utime(tmp_path / "a.jpg", ns=(0, 1_700_000_000_123_456_789))
    [modified] = list_images(str(tmp_path)).images["modified"].cast(pa.int64()).to_pylist()
    assert modified == 1_700_000_000_123_456


def test_what_is_hidden_or_no_image_is_skipped_and_counted(tmp_path):
    put(tmp_path, "a.jpg", ".b.jpg", ".cache/c.jpg", "__MACOSX/._a.jpg", "Thumbs.db", "readme.txt", "jpg")
    listing = list_images(str(tmp_path))
    assert names(listing) == ["a.jpg"] and listing.skipped == 6


def test_a_folder_inside_a_hidden_one_is_listed_when_it_is_asked_for(tmp_path):
    put(tmp_path / ".hidden", "a.jpg")
    assert names(list_images(str(tmp_path / ".hidden"))) == ["a.jpg"]


def test_phone_and_camera_raw_images_are_listed_so_that_each_becomes_a_row(tmp_path):
    put(tmp_path, "a.HEIC", "b.dng", "c.nef")
    assert names(list_images(str(tmp_path))) == ["a.HEIC", "b.dng", "c.nef"]


def test_an_empty_folder_is_a_list_of_none(tmp_path):
    listing = list_images(str(tmp_path))
    assert listing.images.num_rows == 0 and listing.images.schema.equals(storage.LISTING_SCHEMA)


def test_a_single_image_is_a_list_of_one(tmp_path):
    put(tmp_path, "a.jpg", "b.jpg")
    assert names(list_images(str(tmp_path / "a.jpg"))) == ["a.jpg"]


@pytest.mark.parametrize("place", ["missing", "missing/deeper", "missing.jpg", "missing.zip"])
def test_a_place_that_is_not_there_is_named(tmp_path, place):
    with pytest.raises(StorageError, match=re.escape(str(tmp_path / place))) as caught:
        list_images(str(tmp_path / place))
    assert "Check the spelling" in one_line(caught.value)


def test_a_folder_that_may_not_be_read_ends_the_listing_rather_than_vanish(tmp_path):
    closed = put(tmp_path / "closed", "a.jpg")
    closed.chmod(0)
    try:
        with unprivileged(), pytest.raises(StorageError, match="Give this user the right") as caught:
            list_images(str(tmp_path))
    finally:
        closed.chmod(0o700)
    assert "cannot list" in one_line(caught.value)


def test_a_loop_of_links_ends(tmp_path):
    put(tmp_path, "a/1.jpg")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "a")
    assert [name.rpartition("/")[2] for name in names(list_images(str(tmp_path)))] == ["1.jpg"]


def test_links_to_folders_and_files_elsewhere_are_followed(tmp_path):
    put(tmp_path / "elsewhere", "1.jpg", "2.jpg")
    images = put(tmp_path / "images", "own.jpg")
    (images / "linked").symlink_to(tmp_path / "elsewhere")
    (images / "one.jpg").symlink_to(tmp_path / "elsewhere" / "1.jpg")
    assert names(list_images(str(images))) == ["linked/1.jpg", "linked/2.jpg", "one.jpg", "own.jpg"]


def test_what_cannot_be_opened_is_a_row_that_says_why(tmp_path):
    put(tmp_path, "good.jpg")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "itself.jpg").symlink_to(tmp_path / "itself.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    with open(os.fsencode(tmp_path) + b"/latin\xfc.jpg", "wb"):
        pass
    found = errors(list_images(str(tmp_path)))
    assert found == {
        "dangling.jpg": "a link to a file that does not exist",
        "good.jpg": "",
        "itself.jpg": "Too many levels of symbolic links",
        "latin\\xfc.jpg": "the file's name is not UTF-8: rename it",
        "pipe.jpg": "not a regular file",
    }


@pytest.mark.parametrize("name", ODD_NAMES)
def test_an_odd_name_survives_listing_and_reading(tmp_path, name):
    put(tmp_path, f"sub/{name}", data=name.encode())
    listing = list_images(str(tmp_path))
    assert names(listing) == [f"sub/{name}"]
    assert read_image(listing.images["image"][0].as_py()) == name.encode()


def test_a_name_is_relative_to_what_was_listed(tmp_path):
    assert storage.relative("/data/Negative/1.jpg", "/data") == "Negative/1.jpg"
    assert storage.relative("/1.jpg", "/") == "1.jpg"
    assert storage.relative("/data/1.jpg", "/data/1.jpg") == "1.jpg"
    assert storage.relative("/data/a.zip!/Negative/1.jpg", "/data/a.zip") == "Negative/1.jpg"
    assert storage.relative("s3://bucket/k/1.jpg?region=x", "s3://bucket/k?region=x") == "1.jpg"


def test_a_place_has_one_form(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("a/../b/") == str(tmp_path / "b")
    assert storage.absolute(f"file://{tmp_path}/a%20b") == str(tmp_path / "a b")
    assert storage.absolute("s3://bucket/folder/") == "s3://bucket/folder"
    assert storage.absolute("s3://bucket/folder/?region=x") == "s3://bucket/folder?region=x"


def test_a_file_uri_that_is_no_uri_is_named():
    with pytest.raises(StorageError, match="cannot look at file:///a b"):
        storage.absolute("file:///a b")


# ------------------------------------------------------------------------------------------------- archives


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


@pytest.mark.parametrize(
    "name",
    [
        "../x.jpg",
        "a/../../x.jpg",
        "/etc/x.jpg",
        "..\\x.jpg",
        "a\\..\\..\\x.jpg",
        "\\\\host\\x.jpg",
        "C:\\x.jpg",
        "c:x.jpg",
    ],
)
def test_an_archive_that_leaves_its_folder_is_refused_whole(tmp_path, name):
    place = pack(tmp_path / "a.zip", {"good.jpg": b"", name: b""})
    with pytest.raises(ArchiveError, match="leaves its folder") as caught:
        list_images(place)
    assert place in one_line(caught.value)


def test_an_archive_with_a_link_is_refused_whole(tmp_path):
    link = zipfile.ZipInfo("passwd.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("good.jpg", b"")
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ArchiveError, match=r"holds the link 'passwd.jpg'"):
        list_images(str(tmp_path / "a.zip"))


def test_an_archive_with_two_entries_of_one_name_is_refused_whole(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("1.jpg", b"one")
        archive.writestr("1.jpg", b"two")
    with pytest.raises(ArchiveError, match=r"two entries named '1.jpg'"):
        list_images(str(tmp_path / "a.zip"))


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
    assert "a bomb" in errors(listing)["bomb.png"] and errors(listing)["good.png"] == ""


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
                return storage.reason(error)
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


# ------------------------------------------------------------------------------------------------- reading


def test_an_image_that_is_not_there_is_unreachable(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_image(str(tmp_path / "gone.jpg"))


@pytest.mark.parametrize("size", [100, 101])
def test_an_image_over_the_limit_of_bytes_is_unreadable(tmp_path, monkeypatch, size):
    monkeypatch.setattr(storage, "MAX_IMAGE_BYTES", 100)
    put(tmp_path, "a.jpg", data=bytes(size))
    if size == 100:
        assert read_image(str(tmp_path / "a.jpg")) == bytes(100)
        return
    with pytest.raises(UnreadableImage, match="larger than 100 bytes"):
        read_image(str(tmp_path / "a.jpg"))


@pytest.mark.parametrize("n_failures", range(storage.READ_ATTEMPTS))
def test_a_remote_read_survives_failures_that_pass(monkeypatch, pauses, n_failures):
    flaky = behind(monkeypatch, Flaky(*[OSError("503 Slow Down")] * n_failures))
    assert read_image("s3://bucket/key") == b"pixels"
    assert flaky.attempts == n_failures + 1 and pauses == [0.5, 1.0, 2.0][:n_failures]


def test_a_remote_read_gives_up_with_the_last_failure(monkeypatch, pauses):
    flaky = behind(monkeypatch, Flaky(OSError("first"), OSError("second"), pa.ArrowInvalid("third"), OSError("la\nst")))
    with pytest.raises(OSError, match=r"^la st$"):
        read_image("s3://bucket/key")
    assert flaky.attempts == storage.READ_ATTEMPTS and len(pauses) == storage.READ_ATTEMPTS - 1


def test_an_object_that_is_not_there_is_asked_for_once(monkeypatch, pauses):
    flaky = behind(monkeypatch, Flaky(*[FileNotFoundError(errno.ENOENT, "no such key")] * 9))
    with pytest.raises(FileNotFoundError):
        read_image("s3://bucket/key")
    assert flaky.attempts == 1 and pauses == []


def test_a_stream_that_breaks_off_is_read_again(monkeypatch, pauses):
    class Breaking(Flaky):
        def open_input_stream(self, path):
            stream = super().open_input_stream(path)
            if self.attempts == 1:
                stream = io.BytesIO()
                stream.read = lambda size: (_ for _ in ()).throw(ConnectionResetError(104, "reset"))
            return stream

    flaky = behind(monkeypatch, Breaking())
    assert read_image("s3://bucket/key") == b"pixels" and flaky.attempts == 2 and len(pauses) == 1


def test_a_remote_archive_is_tried_again_like_an_image(bucket, pauses, tmp_path, monkeypatch):
    upload(bucket, "a.zip", Path(pack(tmp_path / "a.zip", {"1.jpg": b"one"})).read_bytes())
    failures = [OSError("503"), OSError("503")]
    answer = storage._open_zip

    def open_zip(place):
        if failures:
            raise failures.pop()
        return answer(place)

    monkeypatch.setattr(storage, "_open_zip", open_zip)
    assert read_image("s3://bucket/a.zip!/1.jpg") == b"one" and len(pauses) == 2


# ------------------------------------------------------------------------------------------- object storage


def test_a_bucket_lists_like_a_folder_and_its_names_can_be_read(bucket):
    keys = sorted(f"images/sub/{name}" for name in ODD_NAMES if "?" not in name)
    for key in keys:
        upload(bucket, key, data=key.encode())
    upload(bucket, "images/.hidden.jpg")
    upload(bucket, "images/notes.txt")
    upload(bucket, "images-of-others/x.jpg")
    listing = list_images("s3://bucket/images/")
    assert listing.root == "s3://bucket/images" and listing.skipped == 2
    assert listing.images["image"].to_pylist() == [f"s3://bucket/{key}" for key in keys]
    assert names(listing) == [key.removeprefix("images/") for key in keys]
    assert [read_image(image) for image in listing.images["image"].to_pylist()] == [key.encode() for key in keys]


def test_the_options_of_a_uri_stay_with_each_image_and_each_file(bucket):
    upload(bucket, "images/1.jpg", b"one")
    listing = list_images("s3://bucket/images?region=x&scheme=http")
    assert listing.images["image"].to_pylist() == ["s3://bucket/images/1.jpg?region=x&scheme=http"]
    assert names(listing) == ["1.jpg"] and read_image(listing.images["image"][0].as_py()) == b"one"
    place = storage.join("s3://bucket/images?region=x", "new.json")
    storage.write_bytes(place, b"{}")
    assert place == "s3://bucket/images/new.json?region=x"
    assert storage.list_files("s3://bucket/images?region=x") == ["1.jpg", "new.json"]


def test_an_archive_in_a_bucket_is_read_in_place(bucket, tmp_path):
    upload(bucket, "a.zip", Path(pack(tmp_path / "a.zip", {"Negative/1.jpg": b"one"})).read_bytes())
    for options in ["", "?region=x"]:
        listing = list_images(f"s3://bucket/a.zip{options}")
        assert listing.images["image"].to_pylist() == [f"s3://bucket/a.zip!/Negative/1.jpg{options}"]
        assert names(listing) == ["Negative/1.jpg"]
        assert read_image(listing.images["image"][0].as_py()) == b"one"


def test_a_single_object_is_a_list_of_one(bucket):
    upload(bucket, "images/1.jpg")
    assert names(list_images("s3://bucket/images/1.jpg")) == ["1.jpg"]


@pytest.mark.parametrize("place", ["s3://bucket/missing", "s3://bucket/missing.zip"])
def test_a_prefix_that_is_not_there_is_named(bucket, place):
    with pytest.raises(StorageError, match=place) as caught:
        list_images(place)
    assert one_line(caught.value)


def test_a_prefix_that_is_taken_is_not_written_to(bucket):
    upload(bucket, "model/model.json", b"old")
    with pytest.raises(OutputExists, match="s3://bucket/model exists already"):
        storage.write_folder("s3://bucket/model", {"model.json": b"new"})
    assert storage.read_bytes("s3://bucket/model/model.json") == b"old"


def test_a_bucket_takes_files_folders_and_parts(bucket, monkeypatch):
    bucket.create_dir("bucket/out")  # the storage in memory has folders, a real bucket has none that could exist
    monkeypatch.setattr(storage, "require_new", lambda place, flag: None)
    storage.write_folder("s3://bucket/out", {"weights.pth": b"w", "model.json": b"{}"})
    assert storage.read_bytes("s3://bucket/out/weights.pth") == b"w" and storage.exists("s3://bucket/out/model.json")
    tables.write_part("s3://bucket/out", scores(2), "run", 0)
    [place] = tables.list_parts("s3://bucket/out")["run"]
    assert tables.read_parts([place], ["image"])["image"].to_pylist() == ["/images/0.jpg", "/images/1.jpg"]
    storage.require_writable("s3://bucket/out")
    assert storage.list_files("s3://bucket/out") == ["model.json", "run-00000.parquet", "weights.pth"]
    storage.delete_folder("s3://bucket/out")
    assert storage.list_files("s3://bucket/out") == [] and not storage.exists("s3://bucket/out")


@few
@given(st.text(min_size=1))
def test_a_key_is_taken_letter_by_letter(key):
    assume(not re.search(r"\?[a-z_]+=[^/?]*\Z", key))
    assert storage._split_uri(f"s3://bucket/{key}") == ("s3://bucket", key, "")
    assert storage._split_uri(f"s3://bucket/{key}?region=x") == ("s3://bucket", key, "?region=x")


@pytest.mark.parametrize("key", ["a%20b.jpg", "a#b.jpg", "a?b.jpg", "a b.jpg", "what?/a.jpg", "a:b@c.jpg", "deep/er"])
def test_a_key_is_not_decoded(key):
    assert storage._split_uri(f"gs://bucket/{key}") == ("gs://bucket", key, "")


@few
@given(st.text(st.characters(exclude_characters="?", exclude_categories=["Cs"]), min_size=1))
def test_a_name_joined_to_a_place_comes_back_out(name):
    assume(name.strip("/") == name)
    for root in ["/data", "s3://bucket", "s3://bucket/images?region=x"]:
        assert storage.relative(storage.join(root, name), root) == name


@pytest.mark.parametrize(
    "uri",
    [
        "s3://name:hunter2@bucket/folder",
        "S3://name:hunter2@bucket/folder",
        "s3://name:hun/hunter2@bucket/folder",
        "abfs://:hunter2@account/folder",
        "abfs://container@account/folder?client_secret=hunter2",
    ],
)
def test_a_password_in_a_uri_is_refused_without_being_shown(uri):
    for call in (list_images, storage.absolute, storage.exists, storage.read_bytes):
        with pytest.raises(ConfigError, match="put it into the environment") as caught:
            call(uri)
        assert "hunter2" not in str(caught.value)


def test_a_port_is_not_a_password():
    assert storage._split_uri("abfs://container@127.0.0.1:10000/a.jpg")[1] == "a.jpg"


@pytest.mark.parametrize("uri", ["s3://", "s3:///folder", "gs://"])
def test_a_uri_without_a_bucket_is_refused(uri):
    with pytest.raises(ConfigError, match="names no bucket"):
        list_images(uri)


def test_an_unknown_scheme_is_refused_by_name():
    with pytest.raises(StorageError, match="cannot list ftp2://host/folder") as caught:
        list_images("ftp2://host/folder")
    assert one_line(caught.value)


# ------------------------------------------------------------------------------------------- writing whole


def test_a_file_is_written_with_the_folders_above_it(tmp_path):
    storage.write_bytes(str(tmp_path / "a" / "b" / "c.json"), b"{}")
    assert (tmp_path / "a" / "b" / "c.json").read_bytes() == b"{}" and os.listdir(tmp_path / "a" / "b") == ["c.json"]


def full_disk_after(monkeypatch, n_files: int) -> None:
    """The disk takes some whole files, and half of the next."""
    written: list[str] = []

    def open_(path, mode):
        written.append(path)
        stream = open(path, mode)  # noqa: SIM115 - write_bytes() closes it
        if len(written) > n_files:
            stream.write(b"half")
            monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
        return stream

    monkeypatch.setattr(storage, "open", open_, raising=False)


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_full_disk_leaves_no_half_file_and_the_old_one_whole(tmp_path, monkeypatch, old):
    place = tmp_path / "summary.json"
    if old:
        place.write_bytes(old)
    full_disk_after(monkeypatch, 0)
    with pytest.raises(StorageError, match="Free some space") as caught:
        storage.write_bytes(str(place), b"new")
    assert str(place) in one_line(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == ({"summary.json": old} if old else {})


def test_a_stop_signal_while_writing_leaves_no_half_file(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        storage.write_bytes(str(tmp_path / "a.json"), b"{}")
    assert os.listdir(tmp_path) == []


def test_a_folder_appears_with_all_its_files(tmp_path):
    storage.write_folder(str(tmp_path / "model"), {"weights.pth": b"w", "figures/loss.png": b"l"})
    assert os.listdir(tmp_path) == ["model"]
    assert (tmp_path / "model" / "figures" / "loss.png").read_bytes() == b"l"


def test_a_full_disk_leaves_no_half_folder(tmp_path, monkeypatch):
    full_disk_after(monkeypatch, 1)
    with pytest.raises(StorageError, match="Free some space"):
        storage.write_folder(str(tmp_path / "model"), {"weights.pth": b"w", "model.json": b"{}"})
    assert os.listdir(tmp_path) == []


def test_what_a_killed_run_left_behind_gets_into_no_new_folder(tmp_path):
    put(tmp_path / f".model.{os.getpid()}.tmp", "stale.pth")
    storage.write_folder(str(tmp_path / "model"), {"model.json": b"{}"})
    assert os.listdir(tmp_path / "model") == ["model.json"] and os.listdir(tmp_path) == ["model"]


def test_nothing_is_overwritten(tmp_path):
    put(tmp_path / "model", "model.json", data=b"old")
    with pytest.raises(OutputExists, match="exists already: delete it, or choose another --model"):
        storage.require_new(str(tmp_path / "model"), "--model")
    with pytest.raises(OutputExists):
        storage.write_folder(str(tmp_path / "model"), {"model.json": b"new"})
    assert (tmp_path / "model" / "model.json").read_bytes() == b"old"


def test_a_link_to_nowhere_exists_and_a_free_name_is_new(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    assert storage.exists(str(tmp_path / "link"))
    storage.require_new(str(tmp_path / "free"), "--out")
    assert os.listdir(tmp_path) == ["link"]


def test_a_folder_that_takes_files_is_left_as_it_was(tmp_path):
    storage.require_writable(str(tmp_path / "out"))
    assert os.listdir(tmp_path / "out") == []


def test_a_folder_that_may_not_be_written_is_named_before_the_work(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with unprivileged(), pytest.raises(StorageError, match="Give this user the right to it") as caught:
            storage.require_writable(str(tmp_path))
    finally:
        tmp_path.chmod(0o700)
    assert str(tmp_path) in one_line(caught.value) and ".tmp" not in str(caught.value)


def test_a_folder_where_a_file_stands_is_refused(tmp_path):
    put(tmp_path, "out")
    with pytest.raises(StorageError, match="cannot write"):
        storage.require_writable(str(tmp_path / "out"))


def test_deleting_a_folder_that_is_not_there_does_nothing(tmp_path):
    put(tmp_path / "staging", "a", "b/c")
    for _ in range(2):
        storage.delete_folder(str(tmp_path / "staging"))
        assert os.listdir(tmp_path) == []
