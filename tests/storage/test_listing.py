"""What is listed: folders, buckets, globs and lists; each image once, by name."""

import contextlib
import os
import re
import socket
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from files import ODD_NAMES, errors, names, one_line, pack, put, unprivileged, upload
from hypothesis import settings
from PIL import Image

from crackvae.errors import ConfigError, StorageError, UnreadableImage
from crackvae.storage import archive, fileio, tables, uris
from crackvae.storage.archive import File
from crackvae.storage.content import changed
from crackvae.storage.fileio import read_image
from crackvae.storage.listing import LISTING_SCHEMA, excerpts_of_prefix, list_images, list_paths, lists
from crackvae.storage.listing.walk import AMBIGUOUS, local_file
from crackvae.storage.names.shards import Shard
from crackvae.storage.uris import common_folder, relative

few = settings(derandomize=True, deadline=None, max_examples=60)


def test_a_folder_lists_each_image_once_in_order_of_name(tmp_path):
    put(tmp_path, "b.JPG", "a/2.png", "a/1.tiff", "a/c/d.webp", "z.bmp")
    listing = list_images(str(tmp_path))
    assert names(listing) == ["a/1.tiff", "a/2.png", "a/c/d.webp", "b.JPG", "z.bmp"]
    assert listing.images.schema.equals(LISTING_SCHEMA)
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
    assert listing.images.num_rows == 0 and listing.images.schema.equals(LISTING_SCHEMA)


def test_a_single_image_is_a_list_of_one(tmp_path):
    put(tmp_path, "a.jpg", "b.jpg")
    assert names(list_images(str(tmp_path / "a.jpg"))) == ["a.jpg"]


@pytest.mark.parametrize("place", ["missing", "missing/deeper", "missing.jpg", "missing.zip"])
def test_a_place_that_is_not_there_is_named(tmp_path, place):
    with pytest.raises(StorageError, match=re.escape(str(tmp_path / place))) as caught:
        list_images(str(tmp_path / place))
    assert "Check the spelling" in one_line(caught.value)


@pytest.fixture
def shared_folder():
    """A folder that every user may read, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def test_a_folder_that_may_not_be_read_is_counted_and_the_rest_is_listed(shared_folder):
    put(shared_folder / "closed", "a.jpg")
    put(shared_folder, "b.jpg")
    (shared_folder / "closed").chmod(0)
    try:
        with unprivileged():
            for path in (shared_folder, f"{shared_folder}/**", f"{shared_folder}/**/*.jpg"):
                listing = list_images(str(path))
                assert names(listing) == ["b.jpg"] and listing.excluded == {"unreadable folder": 1}, path
                assert listing.exclusions() == "1 unreadable folder (closed)"
            with pytest.raises(StorageError, match=r"cannot list .*closed: Permission denied"):
                list_images(str(shared_folder / "closed"))
    finally:
        (shared_folder / "closed").chmod(0o700)


def test_a_loop_of_links_ends_and_is_counted(tmp_path):
    put(tmp_path, "a/1.jpg")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "out").symlink_to("/")
    (tmp_path / "again").symlink_to(tmp_path / "a")
    for path in (tmp_path, f"{tmp_path}/**", f"{tmp_path}/**/*.jpg"):
        listing = list_images(str(path))
        assert names(listing) == ["a/1.jpg", "again/1.jpg"], path
        assert listing.excluded == {"link to a folder above it": 4}, path


def test_folders_with_one_inode_number_are_different_folders(tmp_path, monkeypatch):
    put(tmp_path, "2026-11-23/a.jpg", "2026-11-24/b.jpg", "2026-11-24/deeper/c.jpg")
    real = os.stat

    def same(path, *arguments, **named):
        status = real(path, *arguments, **named)
        return os.stat_result([status[0], 4_294_967_295, *status[2:]], {"st_mtime_ns": status.st_mtime_ns})

    monkeypatch.setattr(os, "stat", same)
    assert names(list_images(str(tmp_path))) == ["2026-11-23/a.jpg", "2026-11-24/b.jpg", "2026-11-24/deeper/c.jpg"]


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


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_is_no_regular_file_is_never_waited_for(tmp_path: Path, kind: str) -> None:
    """Pages of a TIFF, entries of a .zip and the content key are read while listing; opening a pipe would block."""
    put(tmp_path, "good.jpg")
    for name in ("1.tif", "2.zip", "3.mp4", "4.jpg"):
        with contextlib.chdir(tmp_path):  # the address of a socket is short
            if kind == "pipe":
                os.mkfifo(name)
            elif kind == "socket":
                with socket.socket(socket.AF_UNIX) as bound:
                    bound.bind(name)
            else:
                os.symlink("/dev/zero", name)
    found = list_images(str(tmp_path))
    assert errors(found) == {"1.tif": "not a regular file", "4.jpg": "not a regular file", "good.jpg": ""}
    assert list_images(str(tmp_path / "*.zip")).excluded == {"unreadable archive": 1}
    assert changed([str(tmp_path / "4.jpg")], ["0" * 16]).tolist() == [True]
    with pytest.raises(StorageError, match="not a regular file"):
        list_images(str(tmp_path / "2.zip"))


@pytest.mark.parametrize("name", ODD_NAMES)
def test_an_odd_name_survives_listing_and_reading(tmp_path, name):
    put(tmp_path, f"sub/{name}", data=name.encode())
    listing = list_images(str(tmp_path))
    assert names(listing) == [f"sub/{name}"]
    assert read_image(listing.images["image"][0].as_py()) == name.encode()


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
    place = uris.join("s3://bucket/images?region=x", "new.json")
    fileio.write_bytes(place, b"{}")
    assert place == "s3://bucket/images/new.json?region=x"
    assert fileio.list_files("s3://bucket/images?region=x") == ["1.jpg", "new.json"]


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


@pytest.mark.parametrize("uri", ["s3://", "s3:///folder", "gs://"])
def test_a_uri_without_a_bucket_is_refused(uri):
    with pytest.raises(ConfigError, match="names no bucket"):
        list_images(uri)


def test_an_unknown_scheme_is_refused_by_name():
    with pytest.raises(ConfigError, match="ftp2://host/folder: ftp2:// cannot be read") as caught:
        list_images("ftp2://host/folder")
    assert one_line(caught.value)


# ------------------------------------------------------------------------------------ wildcards, lists and filters


def nights(tmp_path):
    return put(
        tmp_path,
        "2026-11-22/1.jpg",
        "2026-11-22/a/2.JPG",
        "2026-11-23/3.jpg",
        "2026-11-23/notes.txt",
        "x/4.jpg",
        ".h/5.jpg",
    )


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("2026-*/", ["2026-11-22/1.jpg", "2026-11-22/a/2.JPG", "2026-11-23/3.jpg"]),
        ("2026-11-2[3-9]", ["2026-11-23/3.jpg"]),
        ("*/*.jpg", ["2026-11-22/1.jpg", "2026-11-23/3.jpg", "x/4.jpg"]),
        ("**/*.jpg", ["2026-11-22/1.jpg", "2026-11-23/3.jpg", "x/4.jpg"]),
        ("**", ["2026-11-22/1.jpg", "2026-11-22/a/2.JPG", "2026-11-23/3.jpg", "x/4.jpg"]),
        ("?/4.jpg", ["x/4.jpg"]),
    ],
)
def test_wildcards_stand_for_names(tmp_path, pattern, found):
    listing = list_images(f"{nights(tmp_path)}/{pattern}")
    assert names(listing) == found and listing.root == str(tmp_path)


def test_a_path_that_is_given_twice_counts_once(tmp_path: Path) -> None:
    put(tmp_path / "night", "1.jpg", "notes.txt")
    folder = str(tmp_path / "night")
    once = list_paths([folder])
    for paths in ([folder] * 3, [folder, f"{folder}/", f"{tmp_path}/./night"]):
        found = list_paths(paths)
        assert (found.excluded, found.source, found.images) == (once.excluded, once.source, once.images)


def test_a_name_that_holds_a_wildcard_is_meant_where_it_exists(tmp_path):
    put(tmp_path, "night [1]/1.jpg", "night 1/2.jpg")
    listing = list_images(str(tmp_path / "night [1]"))
    assert names(listing) == ["1.jpg"] and listing.root == str(tmp_path / "night [1]")
    assert names(list_images(str(tmp_path / "night [12]"))) == ["night 1/2.jpg"]


def test_wildcards_that_match_nothing_are_an_error(tmp_path):
    with pytest.raises(StorageError, match="matches nothing: check the wildcards"):
        list_images(f"{tmp_path}/*.jpg")


def test_wildcards_may_stand_for_archives(tmp_path):
    for name in ("a", "b"):
        pack(tmp_path / f"{name}.zip", {"1.jpg": name.encode()})
    listing = list_images(f"{tmp_path}/*.zip")
    assert names(listing) == ["a.zip!/1.jpg", "b.zip!/1.jpg"]
    assert [read_image(image) for image in listing.images["image"].to_pylist()] == [b"a", b"b"]


def test_a_list_of_entries_of_a_missing_or_broken_archive_is_rows_that_say_so(tmp_path):
    pack(tmp_path / "a.zip", {"1.jpg": b"one"})
    (tmp_path / "broken.zip").write_bytes(b"PK")
    (tmp_path / "list.txt").write_text("a.zip!/1.jpg\nbroken.zip!/1.jpg\ngone.zip!/1.jpg\n")
    listing = list_images(f"@{tmp_path}/list.txt")
    assert names(listing) == ["a.zip!/1.jpg", "broken.zip!/1.jpg", "gone.zip!/1.jpg"]
    with pytest.raises(UnreadableImage, match="not a whole"):
        read_image(f"{tmp_path}/broken.zip!/1.jpg")
    with pytest.raises(FileNotFoundError):
        read_image(f"{tmp_path}/gone.zip!/1.jpg")


def test_a_part_of_a_file_in_a_list_has_the_size_and_time_of_the_file_and_is_listed_once(tmp_path):
    page = Image.new("L", (32, 32))
    page.save(tmp_path / "scan.tif", save_all=True, append_images=[page])
    (tmp_path / "clip.mp4").write_bytes(b"video")
    parts = ["scan.tif!/page=2", "scan.tif", "scan.tif!/x=0,y=0,w=16,h=16", "clip.mp4!/t=0000.500"]
    (tmp_path / "list.txt").write_text("\n".join(parts))
    listing = list_images(f"@{tmp_path}/list.txt")
    assert names(listing) == sorted(parts)
    n_bytes = (tmp_path / "scan.tif").stat().st_size
    assert listing.images["bytes"].to_pylist() == [5, n_bytes, n_bytes, n_bytes]
    assert all(time.timestamp() > 0 for time in listing.images["modified"].to_pylist())


@pytest.mark.parametrize("name", ["a.zip!/1.jpg", "x/A.ZIP!/y/1.jpg"])
def test_a_file_that_reads_as_part_of_another_is_listed_with_a_reason(tmp_path, name):
    put(tmp_path, name, "other!/1.jpg")
    assert errors(list_images(str(tmp_path))) == {name: AMBIGUOUS, "other!/1.jpg": ""}


@pytest.mark.parametrize(("prefix", "kept"), [("scan.tif!/page=2", [2]), ("scan.tif!/", [2, 3]), ("scan", [1, 2, 3])])
def test_a_prefix_may_name_parts_of_a_file(tmp_path, prefix, kept):
    page = Image.new("L", (32, 32))
    page.save(tmp_path / "scan.tif", save_all=True, append_images=[page, page])
    page.save(tmp_path / "other.tif", save_all=True, append_images=[page, page])
    images = excerpts_of_prefix(list_paths([str(tmp_path)], prefix=prefix).images, prefix)
    assert [archive.page_of(name) for name in images["image"].to_pylist()] == kept
    with pytest.raises(StorageError, match="no page, window or frame"):
        excerpts_of_prefix(images, "scan.tif!/page=4")


@pytest.mark.parametrize("kind", ["txt", "csv", "tsv", "lines.csv", "parquet"])
def test_a_list_names_images_from_anywhere_each_once(tmp_path, kind):
    nights(tmp_path)
    archive_place = pack(tmp_path / "a.zip", {"1.jpg": b"one"})
    listed = [
        f"{tmp_path}/x/4.jpg",
        "2026-11-22/1.jpg",
        "2026-11-23/notes.txt",
        f"{archive_place}!/1.jpg",
        "gone.jpg",
        "x/4.jpg",
    ]
    if kind in ("txt", "lines.csv"):
        (tmp_path / f"list.{kind}").write_text("\ufeff" + "\r\n".join(listed) + "\n\n", encoding="utf-8")
    elif kind in ("csv", "tsv"):
        rows = [["Score", "Path"], *([str(number), name] for number, name in enumerate(listed))]
        lines = [(";" if kind == "csv" else "\t").join(f'"{cell}"' for cell in row) for row in rows]
        (tmp_path / f"list.{kind}").write_text("\ufeff" + "\r\n".join(lines) + "\r\n\r\n", encoding="utf-8")
    else:
        tables.write_table(str(tmp_path / "list.parquet"), pa.table({"n": range(6), "uri": listed}))
    listing = list_images(f"@{tmp_path}/list.{kind}")
    assert names(listing) == ["2026-11-22/1.jpg", "2026-11-23/notes.txt", "a.zip!/1.jpg", "gone.jpg", "x/4.jpg"]
    assert errors(listing)["gone.jpg"] == "" and listing.images["bytes"].to_pylist()[3] == 0
    assert listing.source == f"@{tmp_path}/list.{kind}"


def test_a_list_without_its_mark_and_a_part_of_a_file_are_told_how_to_be_named(tmp_path):
    put(tmp_path, "list.txt", "scan.tif", "clip.mp4")
    pack(tmp_path / "a.zip", {"1.jpg": b"one"})
    assert list_images(f"{tmp_path}/list.txt").empty().endswith(f"a list of images is named @{tmp_path}/list.txt.")
    for part in ("a.zip!/1.jpg", "scan.tif!/page=2", "clip.mp4!/t=0000.500"):
        file = part.partition("!/")[0]
        with pytest.raises(StorageError, match=rf"is a part of {tmp_path}/{file}: write its name into a list"):
            list_images(f"{tmp_path}/{part}")


def test_a_list_that_is_none_is_named(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe")
    tables.write_table(str(tmp_path / "list.parquet"), pa.table({"n": [1]}))
    (tmp_path / "list.csv").write_text("name,score\n1.jpg,2\n")
    (tmp_path / "secret.txt").write_text("s3://me:hunter2@bucket/1.jpg")
    for place, message in (
        ("list.txt", "not text in UTF-8"),
        ("list.parquet", "no text column image or uri"),
        ("list.csv", "no column image or uri"),
        ("gone.txt", "gone.txt"),
    ):
        with pytest.raises(StorageError, match=message):
            list_images(f"@{tmp_path}/{place}")
    with pytest.raises(ConfigError, match="password") as caught:
        list_images(f"@{tmp_path}/secret.txt")
    assert "hunter2" not in one_line(caught.value)


def test_an_inventory_with_sizes_and_times_is_taken_at_its_word_for_objects(tmp_path, monkeypatch):
    looked_at = []
    monkeypatch.setattr(lists, "remote_file", lambda uri: looked_at.append(uri) or File(uri, 7, 8))
    time = datetime(2026, 11, 29, 1, 2, 3, tzinfo=UTC)
    rows = {
        "uri": ["s3://bridges/a.jpg", "s3://bridges/b.jpg", "s3://bridges/c.jpg", None],
        "size": [5, None, 6, 7],
        "last_modified_date": pa.array([time, time, None, time], pa.timestamp("ns")),
    }
    pq.write_table(pa.table(rows), tmp_path / "list.parquet", row_group_size=2)
    images = list_images(f"@{tmp_path}/list.parquet").images.to_pylist()
    assert [(row["image"][-5:], row["bytes"]) for row in images] == [("a.jpg", 5), ("b.jpg", 7), ("c.jpg", 7)]
    assert images[0]["modified"] == time and sorted(looked_at) == ["s3://bridges/b.jpg", "s3://bridges/c.jpg"]


@pytest.mark.parametrize("kind", [pa.dictionary(pa.int32(), pa.string()), pa.large_string(), pa.string_view()], ids=str)
def test_an_inventory_may_hold_its_names_in_any_type_of_text(kind, tmp_path):
    put(tmp_path, "1.jpg")
    pq.write_table(pa.table({"image": pa.array(["1.jpg"]).cast(kind)}), tmp_path / "list.parquet")
    assert names(list_images(f"@{tmp_path}/list.parquet")) == ["1.jpg"]


def test_columns_of_an_inventory_of_another_type_are_left_alone(tmp_path):
    put(tmp_path, "1.jpg")
    pq.write_table(pa.table({"image": ["1.jpg"], "bytes": ["5"], "modified": ["today"]}), tmp_path / "list.parquet")
    (row,) = list_images(f"@{tmp_path}/list.parquet").images.to_pylist()
    assert row["bytes"] == 6 and row["modified"] > datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("kind", ["folder", "list"])
def test_a_shard_lists_and_looks_up_its_own_images_alone(tmp_path, monkeypatch, kind):
    put(tmp_path / "images", *(f"{number}.jpg" for number in range(40)))
    with Image.new("L", (8, 8)) as page:
        page.save(tmp_path / "images" / "scan.tif", save_all=True, append_images=[page] * 5)
    names_of = sorted(str(path) for path in (tmp_path / "images").iterdir())
    (tmp_path / "list.txt").write_text("\n".join(names_of))
    source = str(tmp_path / "images") if kind == "folder" else f"@{tmp_path}/list.txt"
    looked_at = []
    monkeypatch.setattr(lists, "local_file", lambda path: looked_at.append(path) or local_file(path))
    shards = [list_paths([source], shard=Shard(number, 3)) for number in (1, 2, 3)]
    found = [set(one.images["image"].to_pylist()) for one in shards]
    assert sum(map(len, found)) == len(set.union(*found)) == 40 + 6
    files = [len({image.partition("!/")[0] for image in of_shard}) for of_shard in found]
    assert [one.elsewhere + n for one, n in zip(shards, files, strict=True)] == [41] * 3
    assert sorted(looked_at) == (names_of if kind == "list" else [])


@pytest.mark.parametrize("filters", [{"since": datetime(2999, 1, 1, tzinfo=UTC)}, {"prefix": "brigde"}])
def test_filters_that_leave_nothing_are_told_to_every_shard(tmp_path, filters):
    put(tmp_path, *(f"bridge-{number}.jpg" for number in range(20)))
    for number in (1, 2):
        with pytest.raises(StorageError, match=r"--(since|prefix) .* matches no"):
            list_paths([str(tmp_path)], **filters, shard=Shard(number, 2))


@pytest.mark.parametrize("filters", [{"since": datetime(2999, 1, 1, tzinfo=UTC)}, {"prefix": "brigde"}])
def test_filters_that_leave_nothing_of_an_inventory_are_told_to_every_shard(tmp_path, filters):
    names = [f"s3://bucket/bridge-{number}.jpg" for number in range(20)]
    modified = pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * 20, pa.timestamp("us", tz="UTC"))
    pq.write_table(pa.table({"image": names, "bytes": [5] * 20, "modified": modified}), tmp_path / "list.parquet")
    for number in (1, 2):
        with pytest.raises(StorageError, match=r"--(since|prefix) .* matches no"):
            list_paths([f"@{tmp_path}/list.parquet"], **filters, shard=Shard(number, 2))
    assert list_paths([f"@{tmp_path}/list.parquet"], shard=Shard(1, 2)).elsewhere > 0


def test_a_shard_without_images_of_a_small_night_is_no_error(tmp_path):
    put(tmp_path, "1.jpg")
    found = [list_paths([str(tmp_path)], prefix="1", shard=Shard(number, 50)) for number in range(1, 51)]
    assert sorted((one.images.num_rows, one.elsewhere) for one in found) == [(0, 1)] * 49 + [(1, 0)]


def test_since_keeps_what_was_modified_then_or_later_and_what_has_no_time(tmp_path):
    put(tmp_path, "old.jpg", "edge.jpg", "new.jpg")
    for name, seconds in (("old", 99), ("edge", 100), ("new", 101)):
        os.utime(tmp_path / f"{name}.jpg", (seconds, seconds))
    (tmp_path / "link.jpg").symlink_to("gone")
    listing = list_paths([str(tmp_path)], since=datetime.fromtimestamp(100, UTC))
    assert names(listing) == ["edge.jpg", "link.jpg", "new.jpg"] and listing.passed_over == 1


@pytest.mark.parametrize("prefix", ["2026-11-2", "2026-11-22/", "2026-11-22/a/", "2026-11-22/1", ""])
def test_a_prefix_keeps_what_a_whole_listing_would_keep_of_it(tmp_path, prefix):
    whole = list_images(str(nights(tmp_path)))
    part = list_paths([str(tmp_path)], prefix=prefix)
    assert names(part) == [name for name in names(whole) if name.startswith(prefix)] and part.root == whole.root


@pytest.mark.parametrize(
    "filters", [{"prefix": "20261123"}, {"prefix": "none/"}, {"since": datetime(2062, 1, 1, tzinfo=UTC)}]
)
def test_a_filter_that_matches_nothing_is_an_error_that_names_it(tmp_path, filters):
    with pytest.raises(
        StorageError, match=r"--(prefix|since) .* matches no(ne of the 4 images found|) .*below"
    ) as caught:
        list_paths([str(nights(tmp_path))], **filters)
    assert one_line(caught.value)


def test_an_image_takes_less_than_200_bytes_of_a_listing(tmp_path):
    listing = list_images(str(put(tmp_path, *(f"bridge-{n % 7}/{n:07d}.jpg" for n in range(500)))))
    assert listing.images.nbytes / 500 < len(str(tmp_path)) + 100


def test_several_paths_are_one_listing_below_their_common_folder(tmp_path: Path) -> None:
    put(tmp_path, "a/1.jpg", "b/2.jpg", "b/notes.txt", "c.jpg")
    paths = [str(tmp_path / name) for name in ("a", "b", "c.jpg", "b/2.jpg")]
    found = list_paths(paths)
    listed = [relative(name, found.root) for name in found.images["image"].to_pylist()]
    assert listed == ["a/1.jpg", "b/2.jpg", "c.jpg"]
    assert (found.root, found.skipped) == (str(tmp_path), 1)
    assert found.source == f"{tmp_path / 'a'} and 3 more"
    assert list_paths(paths[:1]) == list_images(paths[0])
    with pytest.raises(StorageError, match="none: No such file"):
        list_paths([paths[0], str(tmp_path / "none")])


def test_a_prefix_applies_to_each_of_several_paths(tmp_path: Path) -> None:
    put(tmp_path, "a/x1.jpg", "b/x2.jpg", "b/y.jpg")
    found = list_paths([str(tmp_path / "a"), str(tmp_path / "b")], prefix="x")
    assert found.images.num_rows == 2 and found.passed_over == 1


@pytest.mark.parametrize(
    ("paths", "folder"),
    [
        (["/d/a", "/d/b/c.jpg"], "/d"),
        (["/d/a", "/d/a/b"], "/d/a"),
        (["/d/a", "/d/ab"], "/d"),
        (["/a", "/b"], "/"),
        (["s3://one/n/a", "s3://one/n/b"], "s3://one/n"),
        (["s3://one/a", "s3://one/b?region=eu"], "s3://one"),
        (["s3://one/a", "s3://two/a"], ""),
        (["s3://one/a", "/a"], ""),
        (["/a", "s3://one/a"], ""),
    ],
)
def test_the_common_folder_of_paths(paths: list[str], folder: str) -> None:
    assert common_folder(paths) == folder
