"""Files on real folders and in a bucket in memory: read with retry, written whole."""

import errno
import os
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
from files import (
    Flaky,
    behind,
    one_line,
    pack,
    put,
    scores,
    unprivileged,
    upload,
)
from hypothesis import settings

from crackvae.errors import OutputExists, StorageError, UnreadableImage
from crackvae.storage import archive, fileio, filesystems, prefetch, tables
from crackvae.storage.fileio import read_bytes, read_image

few = settings(derandomize=True, deadline=None, max_examples=60)


def test_an_image_that_is_not_there_is_unreachable(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_image(str(tmp_path / "gone.jpg"))


@pytest.mark.parametrize("size", [100, 101])
def test_an_image_over_the_limit_of_bytes_is_unreadable(tmp_path, monkeypatch, size):
    monkeypatch.setattr(fileio, "MAX_IMAGE_BYTES", 100)
    put(tmp_path, "a.jpg", data=bytes(size))
    if size == 100:
        assert read_image(str(tmp_path / "a.jpg")) == bytes(100)
        return
    with pytest.raises(UnreadableImage, match="larger than 100 bytes"):
        read_image(str(tmp_path / "a.jpg"))


@pytest.mark.parametrize("n_failures", range(filesystems.ATTEMPTS))
def test_a_remote_read_survives_failures_that_pass(monkeypatch, pauses, n_failures):
    flaky = behind(monkeypatch, Flaky(*[OSError("503 Slow Down")] * n_failures))
    assert read_image("s3://bucket/key") == b"pixels"
    assert flaky.attempts == n_failures + 1 and len(pauses) == n_failures
    assert all(0.5 <= pause / (0.5 * 2**n) <= 1.5 for n, pause in enumerate(pauses))


def test_a_remote_read_gives_up_with_the_last_failure(monkeypatch, pauses):
    flaky = behind(monkeypatch, Flaky(*[OSError("first")] * (filesystems.ATTEMPTS - 1), pa.ArrowInvalid("la\nst")))
    with pytest.raises(OSError, match=r"^la st$"):
        read_image("s3://bucket/key")
    assert flaky.attempts == filesystems.ATTEMPTS and len(pauses) == filesystems.ATTEMPTS - 1


def test_an_object_that_is_not_there_is_asked_for_once(monkeypatch, pauses):
    flaky = behind(monkeypatch, Flaky(*[FileNotFoundError(errno.ENOENT, "no such key")] * 9))
    with pytest.raises(FileNotFoundError):
        read_image("s3://bucket/key")
    assert flaky.attempts == 1 and pauses == []


def test_an_answer_that_breaks_off_or_ends_early_is_asked_for_again(monkeypatch, pauses):
    class Breaking(Flaky):
        def open_input_file(self, path):
            super().open_input_file(path)
            return Answer(self.attempts)

    class Answer:
        """What pyarrow gives; of the first answers one breaks off, and one ends early and is taken for whole."""

        def __init__(self, attempt):
            self.attempt = attempt

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def size(self):
            return len(pixels)

        def readinto(self, data):
            if self.attempt == 1:
                raise ConnectionResetError(104, "reset")
            n_bytes = 10 if self.attempt == 2 else len(pixels)
            data[:n_bytes] = pixels[:n_bytes]
            return len(pixels)

    pixels = b"pixels of a file that is longer than the mark at its end"
    flaky = behind(monkeypatch, Breaking())
    assert read_image("s3://bucket/key") == pixels and flaky.attempts == 3 and len(pauses) == 2


def test_a_remote_archive_is_tried_again_like_an_image(bucket, pauses, tmp_path, monkeypatch):
    upload(bucket, "a.zip", Path(pack(tmp_path / "a.zip", {"1.jpg": b"one"})).read_bytes())
    failures = [OSError("503"), OSError("503")]
    answer = archive.open_archive

    def open_zip(place, endpoint=None):
        if failures:
            raise failures.pop()
        return answer(place)

    monkeypatch.setattr(archive, "open_archive", open_zip)
    assert read_image("s3://bucket/a.zip!/1.jpg") == b"one" and len(pauses) == 2


def test_jobs_of_the_same_process_id_that_start_together_find_a_shared_folder_writable(tmp_path: Path) -> None:
    """As in containers; on threads, which have one id."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(fileio.require_writable, [str(tmp_path)] * 100))
    assert not list(tmp_path.iterdir())


def test_a_prefix_that_is_taken_is_not_written_to(bucket):
    upload(bucket, "model/model.json", b"old")
    with pytest.raises(OutputExists, match=r"s3://bucket/model/model\.json exists already"):
        fileio.write_folder("s3://bucket/model", {"weights.pth": b"new", "model.json": b"new"})
    assert fileio.list_files("s3://bucket/model") == ["model.json"]
    assert fileio.read_bytes("s3://bucket/model/model.json") == b"old"


def test_a_prefix_that_a_killed_process_has_left_incomplete_is_completed(bucket):
    upload(bucket, "model/weights.pth", b"half of a mod")
    fileio.write_folder("s3://bucket/model", {"weights.pth": b"new", "model.json": b"{}"})
    assert fileio.read_bytes("s3://bucket/model/weights.pth") == b"new"
    assert fileio.list_files("s3://bucket/model") == ["model.json", "weights.pth"]


def test_a_bucket_takes_files_folders_and_parts(bucket, monkeypatch):
    bucket.create_dir("bucket/out")  # the storage in memory has folders, a real bucket has none that could exist
    monkeypatch.setattr(fileio, "require_new", lambda place, flag: None)
    fileio.write_folder("s3://bucket/out", {"weights.pth": b"w", "model.json": b"{}"})
    assert fileio.read_bytes("s3://bucket/out/weights.pth") == b"w" and fileio.exists("s3://bucket/out/model.json")
    tables.write_part("s3://bucket/out", scores(2), "run", 0)
    [place] = tables.list_parts("s3://bucket/out")["run"]
    assert tables.read_parts([place], ["image"])["image"].to_pylist() == ["/images/0.jpg", "/images/1.jpg"]
    fileio.require_writable("s3://bucket/out")
    assert fileio.list_files("s3://bucket/out") == ["model.json", "run-00000.parquet", "weights.pth"]
    fileio.delete_folder("s3://bucket/out")
    assert fileio.list_files("s3://bucket/out") == [] and not fileio.exists("s3://bucket/out")


def test_a_file_is_written_with_the_folders_above_it(tmp_path):
    fileio.write_bytes(str(tmp_path / "a" / "b" / "c.json"), b"{}")
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

    monkeypatch.setattr(fileio, "open", open_, raising=False)


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_full_disk_leaves_no_half_file_and_the_old_one_whole(tmp_path, monkeypatch, old):
    place = tmp_path / "summary.json"
    if old:
        place.write_bytes(old)
    full_disk_after(monkeypatch, 0)
    with pytest.raises(StorageError, match="Free some space") as caught:
        fileio.write_bytes(str(place), b"new")
    assert str(place) in one_line(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == ({"summary.json": old} if old else {})


def test_a_stop_signal_while_writing_leaves_no_half_file(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        fileio.write_bytes(str(tmp_path / "a.json"), b"{}")
    assert os.listdir(tmp_path) == []


def test_a_folder_appears_with_all_its_files(tmp_path):
    fileio.write_folder(str(tmp_path / "model"), {"weights.pth": b"w", "figures/loss.png": b"l"})
    assert os.listdir(tmp_path) == ["model"]
    assert (tmp_path / "model" / "figures" / "loss.png").read_bytes() == b"l"


def test_a_full_disk_leaves_no_half_folder(tmp_path, monkeypatch):
    full_disk_after(monkeypatch, 1)
    with pytest.raises(StorageError, match="Free some space"):
        fileio.write_folder(str(tmp_path / "model"), {"weights.pth": b"w", "model.json": b"{}"})
    assert os.listdir(tmp_path) == []


def test_what_a_killed_run_left_behind_gets_into_no_new_folder(tmp_path):
    put(tmp_path / f".model.{os.getpid()}.tmp", "stale.pth")
    fileio.write_folder(str(tmp_path / "model"), {"model.json": b"{}"})
    assert os.listdir(tmp_path / "model") == ["model.json"] and os.listdir(tmp_path) == ["model"]


def test_nothing_is_overwritten(tmp_path):
    put(tmp_path / "model", "model.json", data=b"old")
    with pytest.raises(OutputExists, match="exists already: delete it, or choose another --model"):
        fileio.require_new(str(tmp_path / "model"), "--model")
    with pytest.raises(OutputExists):
        fileio.write_folder(str(tmp_path / "model"), {"model.json": b"new"})
    assert (tmp_path / "model" / "model.json").read_bytes() == b"old"


def test_a_link_to_nowhere_exists_and_a_free_name_is_new(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    assert fileio.exists(str(tmp_path / "link"))
    fileio.require_new(str(tmp_path / "free"), "--out")
    assert os.listdir(tmp_path) == ["link"]


def test_a_folder_that_takes_files_is_left_as_it_was(tmp_path):
    fileio.require_writable(str(tmp_path / "out"))
    assert os.listdir(tmp_path / "out") == []


def test_a_folder_that_may_not_be_written_is_named_before_the_work(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with unprivileged(), pytest.raises(StorageError, match="Give this user the right to it") as caught:
            fileio.require_writable(str(tmp_path))
    finally:
        tmp_path.chmod(0o700)
    assert str(tmp_path) in one_line(caught.value) and ".tmp" not in str(caught.value)


def test_a_folder_where_a_file_stands_is_refused(tmp_path):
    put(tmp_path, "out")
    with pytest.raises(StorageError, match="cannot write"):
        fileio.require_writable(str(tmp_path / "out"))


def test_deleting_a_folder_that_is_not_there_does_nothing(tmp_path):
    put(tmp_path / "staging", "a", "b/c")
    for _ in range(2):
        fileio.delete_folder(str(tmp_path / "staging"))
        assert os.listdir(tmp_path) == []


def test_a_disk_that_takes_names_but_no_bytes_is_found_full(tmp_path, monkeypatch):
    full_disk_after(monkeypatch, 0)
    with pytest.raises(StorageError, match="Free some space"):
        fileio.require_writable(str(tmp_path))
    assert fileio.PROBE_BYTES >= 1_000_000 and os.listdir(tmp_path) == []


def test_an_error_while_a_folder_is_written_names_the_folder_that_was_meant(tmp_path):
    with pytest.raises(StorageError, match=f"cannot write {tmp_path}/model/{'x' * 300}") as caught:
        fileio.write_folder(str(tmp_path / "model"), {"x" * 300: b""})
    assert ".tmp" not in one_line(caught.value) and os.listdir(tmp_path) == []


def test_what_is_written_piece_by_piece_appears_whole_or_not_at_all(tmp_path, bucket):
    bucket.create_dir("bucket/out")
    for place in (str(tmp_path / "rows.csv"), "s3://bucket/out/rows.csv"):
        with pytest.raises(TypeError), fileio.writing(place) as file:
            file.writelines([b"half", None])
        assert not fileio.exists(place)
        with fileio.writing(place) as file:
            file.write(b"one,")
            file.write(b"two")
        assert fileio.read_bytes(place) == b"one,two"
        fileio.move_file(place, place + ".old")
        assert not fileio.exists(place) and fileio.modified_us(place) is None
        assert fileio.modified_us(place + ".old") is not None
        fileio.delete_file(place + ".old")
        fileio.delete_file(place + ".old")
        assert not fileio.exists(place + ".old")


def test_remote_images_are_fetched_before_their_turn_and_come_in_order():
    asked, together, most = [], 0, 0
    guard = threading.Lock()

    def read(image):
        nonlocal together, most
        with guard:
            together += 1
            most = max(most, together)
        time.sleep(0.01)
        with guard:
            together -= 1
            asked.append(image)
        if image.endswith("7"):
            raise OSError("gone")
        return image.encode()

    images = [(f"s3://bucket/{number}", len(f"s3://bucket/{number}")) for number in range(50)]
    got = []
    with prefetch.read_ahead(images, read) as next_bytes:
        for image, _ in images:
            try:
                got.append(next_bytes(image).decode())
            except OSError:
                got.append("gone")
    assert got == ["gone" if image.endswith("7") else image for image, _ in images]
    assert 1 < most <= prefetch.READ_THREADS and len(asked) == 50


def test_images_that_wait_for_their_turn_stay_within_their_bytes(monkeypatch):
    monkeypatch.setattr(prefetch, "READ_AHEAD_BYTES", 25)
    waiting = []
    images = [(f"s3://bucket/{number}", 10) for number in range(9)] + [("s3://bucket/large", 1000)]

    def read(image):
        waiting.append(image)
        return bytes(dict(images)[image])

    with prefetch.read_ahead(images, read) as next_bytes:
        for number, (image, _) in enumerate(images):
            next_bytes(image)
            assert len(waiting) <= number + 2
    assert len(waiting) == 10


def test_a_remote_image_that_comes_cut_off_is_asked_for_again_and_never_taken_for_a_whole_one():
    asked = []

    def read(image):
        asked.append(image)
        return b"whole" if len(asked) == 2 else b"who"

    with prefetch.read_ahead([("s3://bucket/1", 5), ("s3://bucket/2", 6)], read) as next_bytes:
        assert next_bytes("s3://bucket/1") == b"whole"
        with pytest.raises(OSError, match="3 of 6 bytes"):
            next_bytes("s3://bucket/2")


def test_a_remote_image_that_stalls_is_abandoned_and_the_next_is_read(monkeypatch):
    monkeypatch.setattr(prefetch, "FETCH_S", 0.05)
    ended = threading.Event()

    def read(image):
        if image.endswith("slow"):
            ended.wait(60)
        return b"whole"

    with prefetch.read_ahead([("s3://bucket/slow", 5), ("s3://bucket/2", 5)], read) as next_bytes:
        with pytest.raises(OSError, match=r"did not deliver it within 0\.05 s"):
            next_bytes("s3://bucket/slow")
        assert next_bytes("s3://bucket/2") == b"whole"
        ended.set()


def test_a_pipe_that_takes_the_place_of_a_listed_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "1.jpg")
    with pytest.raises(UnreadableImage, match="not a regular file"):
        read_image(str(tmp_path / "1.jpg"))


def test_a_wait_for_what_a_pipe_brings_is_announced(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(filesystems, "FIRST_NOTICE_S", 0.05)
    os.mkfifo(tmp_path / "list")
    writer = threading.Timer(0.3, (tmp_path / "list").write_bytes, [b"1.jpg"])
    writer.start()
    assert read_bytes(str(tmp_path / "list")) == b"1.jpg"
    assert capsys.readouterr().err.startswith(f"waiting for {tmp_path}/list: no answer for 0 s")
    writer.join()


def test_local_images_are_read_in_their_turn_without_threads(tmp_path):
    put(tmp_path, "1.jpg", data=b"one")
    with prefetch.read_ahead([(str(tmp_path / "1.jpg"), 3)], read_image) as next_bytes:
        assert next_bytes is read_image


def test_a_reader_for_other_machines_takes_the_server_along_and_no_credential(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    packed = pickle.dumps(fileio.image_reader())
    assert b"http://127.0.0.1:1" in packed and b"hunter2" not in packed


@pytest.mark.parametrize("name", ["page.html", "pages/page.html", "pages/of/today/page.html", "model"])
def test_an_output_that_would_break_a_table_of_scores_is_refused(tmp_path, name):
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "20260101T000000_000000-00000.parquet").write_bytes(b"")
    with pytest.raises(
        StorageError, match=r"would break the table of scores in .*/scores, .*begins with an underscore"
    ):
        fileio.require_outside_table(str(tmp_path / "scores" / name), "--out")
    fileio.require_outside_table(str(tmp_path / "scores" / f"_{name}"), "--out")
    fileio.require_outside_table(str(tmp_path / name), "--out")


def test_in_a_bucket_only_the_table_that_is_named_is_protected():
    with pytest.raises(StorageError, match="would break the table of scores in s3://bucket/scores"):
        fileio.require_outside_table("s3://bucket/scores/a/page.html", "--out", "s3://bucket/scores")
    fileio.require_outside_table("s3://bucket/scores/_page.html", "--out", "s3://bucket/scores")
    fileio.require_outside_table("s3://bucket/page.html", "--out", "s3://bucket/scores")
