"""Scoring from and to a real S3 server on this machine: refusals, failures that pass, objects that vanish."""

import logging
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import tifffile
from conftest import read_rows
from s3_server import SECRET, Server, filesystem, upload

from crackvae.cli import main
from crackvae.config import CompactConfig, ScoreConfig
from crackvae.errors import ConfigError, StorageError
from crackvae.images.decoding import windows
from crackvae.scoring.compaction import compact
from crackvae.scoring.verb import score
from crackvae.storage import fileio, filesystems, listing, lock
from crackvae.storage.names.excerpts import Window, excerpt_of


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def server(running: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server with two empty buckets, and the credentials for it in the environment; its address is not."""
    for name in filesystems.ENDPOINT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tester-key-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(filesystems, "FIRST_PAUSE_S", 0.05)
    running.busy_every, running.vanishing = 0, set()
    client = filesystem(running)
    for bucket in ("nights", "readonly"):
        if client.get_file_info(bucket).type == pafs.FileType.Directory:
            client.delete_dir_contents(bucket) if bucket == "nights" else None
        elif bucket == "nights":
            client.create_dir(bucket)
    running.requests.clear()
    return running


@pytest.fixture
def night(server: Server, drawn: Path) -> list[str]:
    """24 drawn images in two folders of the bucket, and a text that is none."""
    client, keys = filesystem(server), []
    for number, image in enumerate(sorted((drawn / "crack").iterdir())[:24]):
        keys.append(f"2026-11-{22 + number % 2}/{number:03d}.jpg")
        upload(client, keys[-1], image.read_bytes())
    upload(client, "2026-11-22/notes.txt", b"no image")
    return sorted(keys)


def config(server: Server, model_dir: Path, out: str, **changes: Any) -> ScoreConfig:
    values = {"images": "s3://nights", "model": str(model_dir), "out": out, "quiet": True}
    return ScoreConfig(**values | {"s3_endpoint": server.endpoint} | changes)


def score_with(flags: dict[str, str]) -> None:
    score(ScoreConfig(**flags))


def rows_of(server: Server, out: str) -> dict[str, str]:
    """Status of every image in a table on the server, by its key."""
    dataset = pq.read_table(out.removeprefix("s3://"), filesystem=filesystem(server))
    assert len(set(dataset["image"].to_pylist())) == dataset.num_rows
    keys = (image.removeprefix("s3://nights/") for image in dataset["image"].to_pylist())
    return dict(zip(keys, dataset["status"].to_pylist(), strict=True))


@pytest.mark.usefixtures("ray_session")
def test_a_night_is_scored_from_a_bucket_into_a_bucket_and_a_rerun_continues(
    server: Server, night: list[str], drawn: Path, model_dir: Path, tmp_path: Path
) -> None:
    first = score(config(server, model_dir, "s3://nights/scores", prefix="2026-11-22/")).summary
    assert (first["listed"], first["scored"], first["skipped_files"]) == (12, 12, 1)
    second = score(config(server, model_dir, "s3://nights/scores", format=("parquet", "csv"))).summary
    assert (second["listed"], second["finished_before"], second["scored"]) == (24, 12, 12)
    assert rows_of(server, "s3://nights/scores") == dict.fromkeys(night, "scored")
    for number, image in enumerate(sorted((drawn / "crack").iterdir())[:24]):
        (tmp_path / "night" / f"2026-11-{22 + number % 2}").mkdir(parents=True, exist_ok=True)
        shutil.copy(image, tmp_path / "night" / f"2026-11-{22 + number % 2}" / f"{number:03d}.jpg")
    score(config(server, model_dir, str(tmp_path / "out"), images=str(tmp_path / "night")))
    remote = pq.read_table("nights/scores", filesystem=filesystem(server)).sort_by("image")
    assert remote["score"].equals(read_rows(tmp_path / "out").sort_by("image")["score"])
    assert set(remote["group"].to_pylist()) == {"2026-11-22", "2026-11-23"}


@pytest.mark.usefixtures("in_process")
def test_one_request_in_twenty_that_is_answered_503_changes_no_row(
    server: Server, night: list[str], model_dir: Path
) -> None:
    server.busy_every = 20
    summary = score(config(server, model_dir, "s3://nights/scores")).summary
    answered = len(server.requests)
    server.busy_every = 0
    assert answered > 40 and (summary["scored"], summary["unreachable"]) == (24, 0)
    assert rows_of(server, "s3://nights/scores") == dict.fromkeys(night, "scored")


@pytest.mark.usefixtures("in_process")
def test_an_object_that_is_deleted_after_it_was_listed_is_unreachable_and_taken_up_by_the_next_run(
    server: Server, night: list[str], model_dir: Path
) -> None:
    server.vanishing.add(f"/nights/{night[3]}")
    first = score(config(server, model_dir, "s3://nights/scores")).summary
    assert (first["scored"], first["unreachable"]) == (23, 1)
    server.vanishing.clear()
    second = score(config(server, model_dir, "s3://nights/scores")).summary
    assert (second["scored"], second["finished_before"]) == (1, 23)
    server_config = CompactConfig(scores="s3://nights/scores", s3_endpoint=server.endpoint, quiet=True)
    assert compact(server_config).summary["superseded"] == 1
    assert rows_of(server, "s3://nights/scores") == dict.fromkeys(night, "scored")


@pytest.mark.usefixtures("in_process", "night")
def test_a_bucket_for_reading_only_is_refused_before_the_work_and_asked_once(server: Server, model_dir: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot write s3://readonly/scores: .*Check the .*credentials") as refused:
        score(config(server, model_dir, "s3://readonly/scores"))
    assert "\n" not in str(refused.value)
    assert len([request for request in server.requests if re.match("(PUT|POST) /readonly", request)]) == 1


@pytest.mark.usefixtures("in_process")
def test_wildcards_prefixes_and_lists_name_parts_of_a_bucket(
    server: Server, night: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)

    def keys(place: str, **more: Any) -> list[str]:
        return [
            image.removeprefix("s3://nights/")
            for image in listing.list_paths([place], **more).images["image"].to_pylist()
        ]

    of_22 = [key for key in night if key.startswith("2026-11-22")]
    assert keys("s3://nights/2026-*/") == night
    assert keys("s3://nights/*-22/*.jpg") == keys("s3://nights", prefix="2026-11-22/") == of_22
    assert listing.list_images("s3://nights/2026-*/").root == "s3://nights"
    upload(
        filesystem(server), "lists/two.txt", f"../{night[0]}\ns3://nights/{night[1]}\ns3://nights/gone.jpg\n".encode()
    )
    (tmp_path / "list.txt").write_text("".join(f"s3://nights/{key}\n" for key in night[:3]))
    assert keys(f"@{tmp_path}/list.txt") == night[:3]
    with pytest.raises(StorageError, match="matches nothing"):
        keys("s3://nights/2027-*/")


def test_a_list_in_a_bucket_names_objects_that_may_be_gone(
    server: Server, night: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
    upload(filesystem(server), "list.txt", f"{night[0]}\ns3://nights/gone.jpg\n".encode())
    images = listing.list_images("@s3://nights/list.txt").images.to_pylist()
    assert [image["image"] for image in images] == [f"s3://nights/{night[0]}", "s3://nights/gone.jpg"]
    assert images[0]["bytes"] > 0 and images[1]["bytes"] == 0 and not images[1]["error"]


@pytest.mark.usefixtures("in_process", "night")
def test_a_second_run_into_a_bucket_is_refused_while_the_first_one_lives(
    server: Server, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
    with lock.locked("s3://nights/scores", "run-1", quiet=True), pytest.raises(StorageError, match="run run-1 of"):
        score(config(server, model_dir, "s3://nights/scores"))
    assert fileio.list_files("s3://nights/scores") == []
    assert score(config(server, model_dir, "s3://nights/scores")).summary["scored"] == 24


@pytest.mark.usefixtures("in_process", "night")
def test_no_credential_is_in_what_is_printed_or_written(
    server: Server, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model", str(model_dir), "--s3-endpoint", server.endpoint, "--format", "parquet,csv"]
    assert main(["score", "--images", "s3://nights", "--out", str(tmp_path / "out"), *flags]) == 0
    assert main(["score", "--images", "s3://nights", "--out", "s3://readonly/out", *flags]) == 2
    assert main(["score", "--images", "s3://no-such-bucket", "--out", str(tmp_path / "out"), *flags]) == 2
    output = capsys.readouterr()
    written = [output.out, output.err, *(file.read_bytes().decode("latin-1") for file in (tmp_path / "out").iterdir())]
    assert all(SECRET not in text and "tester-key-id" not in text for text in written)
    assert str(read_rows(tmp_path / "out")["image"][0]).startswith("s3://nights/2026-")


@pytest.mark.parametrize("endpoint", ["http://me:hunter2@host:9000", "host:9000", "http://host:port", "http://host/x"])
def test_an_endpoint_that_is_none_is_refused_without_its_password(
    endpoint: str, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("flag", "environment"):
        if name == "environment":
            monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        flags = {"images": str(tmp_path), "model": str(model_dir), "out": str(tmp_path / "out")}
        flags |= {"s3_endpoint": endpoint} if name == "flag" else {}
        with pytest.raises(ConfigError, match=r"endpoint") as refused:
            score_with(flags)
        assert "hunter2" not in str(refused.value)


def test_a_verb_leaves_the_environment_as_it_was_and_its_server_ends_with_it(
    server: Server, night: list[str], model_dir: Path
) -> None:
    before = dict(os.environ)
    score(config(server, model_dir, "s3://nights/scores", prefix="2026-11-22/"))
    assert dict(os.environ) == before and filesystems.s3_endpoint() == ""
    with pytest.raises(StorageError):
        score(config(server, model_dir, "s3://nights/scores", images="s3://nights/nowhere"))
    assert dict(os.environ) == before and filesystems.s3_endpoint() == ""


@pytest.mark.usefixtures("ray_session")
def test_workers_read_from_the_server_of_the_call_while_the_environment_names_none(
    server: Server, night: list[str], model_dir: Path
) -> None:
    before = dict(os.environ)
    summary = score(config(server, model_dir, "s3://nights/scores", workers=1)).summary
    assert (summary["scored"], summary["unreachable"]) == (24, 0) and dict(os.environ) == before


def test_every_thread_uses_the_server_of_the_call_and_a_second_server_at_once_is_refused() -> None:
    with filesystems.s3_server("http://one:9000"), ThreadPoolExecutor(1) as pool:
        with filesystems.s3_server("http://one:9000"), filesystems.s3_server(""):
            assert pool.submit(filesystems.s3_endpoint).result() == "http://one:9000"
        with pytest.raises(ConfigError, match="uses the S3 server http://one:9000, not http://two:9000"):
            pool.submit(filesystems.s3_server("http://two:9000").__enter__).result()
        assert filesystems.s3_endpoint() == "http://one:9000"
    with filesystems.s3_server("http://two:9000"):
        assert filesystems.s3_endpoint() == "http://two:9000"


def test_every_object_of_a_bucket_is_a_row_or_counted(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
    client = boto3.client("s3", endpoint_url=server.endpoint, region_name="us-east-1")
    photographs = ["n/a.jpg", "n/B.JPG", "n/[1]/c.jpg", "n/[1]/[2].jpg", "n/?d.jpg", "n/x?y=1.jpg", "n/Ge\u0308/e.jfif"]
    odd = ["n//f.jpg", "n/./g.jpg", "n/h//i.jpg"]
    other = {"n/.j.jpg": "hidden", "n/k.mp4": "video", "n/@eaDir/l.jpg": "system litter", "n/m.part": "system litter"}
    for key in (*photographs, *odd, *other):
        client.put_object(Bucket="nights", Key=key, Body=b"pixels")
    client.put_object(Bucket="nights", Key="n/folder/", Body=b"")
    found = listing.list_images("s3://nights/n")
    rows = {row["image"].removeprefix("s3://nights/"): row["error"] for row in found.images.to_pylist()}
    assert sorted(rows) == sorted([*photographs, *odd])
    assert all(bool(error) == (key in odd) for key, error in rows.items())
    assert found.excluded == {"hidden": 1, "system litter": 2, "video": 1}
    assert {fileio.read_image(f"s3://nights/{key}") for key in photographs} == {b"pixels"}
    assert listing.list_images("s3://nights/n/[1]/*.jpg").images.num_rows == 2
    of_pattern = listing.list_images("s3://nights/n/*")
    assert of_pattern.excluded["unreadable folder"] == 2, "n// and n/./"
    assert [row["error"] for row in of_pattern.images.to_pylist()].count("") == len(photographs)
    assert listing.list_images("s3://nights/n/**/*.jpg").excluded["unreadable folder"] == 3, "n/h// too"
    assert listing.list_images("s3://nights/n/[1]/[2].jpg").images.num_rows == 1
    assert listing.list_paths(["s3://nights/n"], prefix="G\u00eb").images.num_rows == 1
    assert listing.list_images("s3://nights/n/G\u00eb").images.num_rows == 1


def test_windows_of_a_large_tiff_fetch_little_more_than_they_show(server, tmp_path, monkeypatch):
    monkeypatch.setattr(windows, "MIN_BYTES", 1_000)
    monkeypatch.setattr(windows, "WINDOW_PX", 1024)
    monkeypatch.setattr(windows, "OVERLAP_PX", 128)
    pixels_HW = np.random.default_rng(0).integers(0, 256, (2600, 2100), np.uint8)
    tifffile.imwrite(tmp_path / "ortho.tif", pixels_HW, tile=(128, 128), compression="zlib")
    upload(filesystem(server), "ortho.tif", (tmp_path / "ortho.tif").read_bytes())
    server.sent = 0
    with filesystems.s3_server(server.endpoint):
        listed = windows.with_windows(listing.list_images("s3://nights/ortho.tif").images, 1_000_000)
        names = listed["image"].to_pylist()
        header, server.sent = server.sent, 0
        for window in map(excerpt_of, names):
            assert isinstance(window, Window)
            shown_HW = windows.read_window(window).pixels_HW
            assert (shown_HW == pixels_HW[window.y :, window.x :][: window.h, : window.w]).all()
    assert len(names) == 9 and header < 50_000
    assert server.sent < 1.1 * sum(1024 * 1024 for _ in names), "bytes of the windows, and one header each"
