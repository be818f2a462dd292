"""Hostile images: whatever lies in a folder, its sound images have the scores that they have alone."""

import os
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from conftest import read_rows
from files import is_pixels_or_refusal
from hostile import (
    CORPUS,
    EITHER,
    END,
    FLOOD,
    REFUSED,
    Hostile,
    chunk,
    files,
    many_scans,
    originals,
    pixels,
    plant,
    png,
    segment,
    with_segments,
)
from PIL import Image
from rounds import Played

from crackvae.config import ScoreConfig
from crackvae.errors import UnreadableImage
from crackvae.images import decoding
from crackvae.scoring import verb

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of some damage before it raises


# Images at the limit of pixels by their names, and their options.
LARGEST = {
    "RGB.jpg": {"progressive": True},
    "CMYK.jpg": {},
    "RGB.bmp": {},
    "RGB.tif": {"compression": "raw"},
    "RGB.png": {"compress_level": 1},
}


@pytest.fixture(scope="module")
def hostile() -> list[Hostile]:
    return files()


def sound_images(drawn: Path, folder: Path, n: int) -> Path:
    """`n` files with the drawn images as their content."""
    folder.mkdir(parents=True)
    images = sorted(drawn.rglob("*.jpg"))
    for number in range(n):
        shutil.copy(images[number % len(images)], folder / f"{number:04d}.jpg")
    return folder


def score(images: Path, model: Path, out: Path) -> dict[str, dict[str, object]]:
    """The rows by image, without what depends on the folder and the run."""
    settings = {"images": str(images), "model": str(model), "out": str(out), "max_unreadable": "100%"}
    verb.score(ScoreConfig(**settings, quiet=True, no_report=True))
    rows = read_rows(out).to_pylist()
    return {row.pop("image"): row for row in rows if row.pop("run") and row.pop("group") is not None}


def test_there_are_200_hostile_files_of_25_kinds(hostile: list[Hostile]) -> None:
    assert len(hostile) >= 200 and len({one.kind for one in hostile}) >= 25
    assert len({(one.kind, one.name) for one in hostile}) == len(hostile)


@pytest.mark.usefixtures("in_process")
def test_sound_images_among_hostile_files_have_the_scores_that_they_have_alone_and_each_hostile_file_is_a_row(
    drawn: Path, model_dir: Path, tmp_path: Path
) -> None:
    sound = sound_images(drawn, tmp_path / "alone", 300)  # each drawn image once; on Ray they are 1,000
    alone = score(sound, model_dir, tmp_path / "scores-alone")
    planted = plant(tmp_path / "night")
    os.rename(sound, tmp_path / "night" / "sound")
    rows = score(tmp_path / "night", model_dir, tmp_path / "scores")
    among = {image: rows.pop(image.replace("/alone/", "/night/sound/")) for image in alone}
    assert repr(among) == repr(alone)
    pages = [image for image in rows if "!/page=" in image]  # further pages of a TIFF are images of their own
    assert sorted(rows.keys() - pages) == sorted(path for _, path, _ in planted)
    assert {page.split("!/page=")[0] for page in pages} <= {path for _, path, _ in planted} and len(pages) < 100
    for kind, path, fate in planted:
        status, error = rows[path]["status"], str(rows[path]["error"])
        one_grey_level = fate != REFUSED and status == "no_surface"
        assert one_grey_level or (status in ("scored", "unreadable") if fate == EITHER else status == fate), (
            kind,
            path,
            error,
        )
        assert bool(error) == (status != "scored") and "\n" not in error


def refusal(data: bytes) -> str:
    with pytest.raises(UnreadableImage) as refused:
        decoding.decode(data)
    return str(refused.value)


def test_a_flood_of_empty_chunks_ends_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_DECODE_S", 0.05)
    assert "took over 0.05 s" in refusal(png(64, 64, chunk(b"noOp", b"") * 9 * FLOOD, pixels(), END))
    jpeg = with_segments(originals()["jpg"], segment(0xE1, b"may hold a rotation, so Pillow reads it"))
    assert "took over 0.05 s" in refusal(jpeg[:2] + b"\xff" * 20 * FLOOD + jpeg[2:])


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded_and_what_lies_behind_it_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bomb = many_scans(1000, 1000, 30)
    whole = decoding.decode(bomb)
    monkeypatch.setattr(decoding, "MAX_SCANNED_PX", 20_000_000)
    assert refusal(bomb) == "over 20 scans of 1000000 px would take too long: save it again"
    hidden = bomb.replace(b"\xff\xda", b"\xff\xfe\x00\x04\xff\xd9\xff\xda", 5)  # an end that is a comment
    assert "scans" in refusal(hidden)
    film = many_scans(1000, 1000, 1) + b"\xff\xda" * 1000
    assert decoding.decode(film).shape == whole.shape


@pytest.mark.parametrize("path", sorted(CORPUS.iterdir()), ids=lambda path: path.name)
def test_what_fuzzing_found_gives_pixels_or_a_refusal(path: Path) -> None:
    assert is_pixels_or_refusal(path.read_bytes())


@pytest.mark.long
@pytest.mark.usefixtures("ray_session")
def test_on_ray_too_no_worker_crashes_or_takes_over_1500_megabytes(
    drawn: Path, model_dir: Path, tmp_path: Path, played: Played
) -> None:
    sound = sound_images(drawn, tmp_path / "alone", 1000)
    started = time.monotonic()
    alone = score(sound, model_dir, tmp_path / "scores-alone")
    between = time.monotonic()
    planted = plant(tmp_path / "night")
    (tmp_path / "night" / "large").mkdir()
    for name, options in LARGEST.items():
        Image.new(name.partition(".")[0], (10_000, 10_000), 90).save(tmp_path / "night" / "large" / name, **options)
    os.rename(sound, tmp_path / "night" / "sound")
    peak, pids, ended = [0], set[int](), threading.Event()
    of_the_run_before = {process.pid for process in psutil.Process().children(recursive=True)}

    def watch() -> None:
        while not ended.wait(0.05):
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    if process.pid not in of_the_run_before and "ImageScorer" in " ".join(process.cmdline()):
                        pids.add(process.pid)
                        peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    rows = score(tmp_path / "night", model_dir, tmp_path / "scores")
    ended.set()
    watcher.join()
    among = {image: rows.pop(image.replace("/alone/", "/night/sound/")) for image in alone}
    lost = len({path for _, path, _ in planted} - set(rows))
    counts = {"lost": lost, "twice": 0, "wrong": sum(repr(among[image]) != repr(alone[image]) for image in alone)}
    played.notes["hostile images through Ray"] = {
        "hostile": len(planted), "sound": len(alone), "largest": len(LARGEST), "workers_seen": len(pids),
        "peak_worker_mb": round(peak[0] / 1e6), "seconds": round(time.monotonic() - between, 1),
        "seconds_alone": round(between - started, 1),
    }  # fmt: skip
    played.require_clean("image", f"{len(planted)} hostile files among 1,000 images, on Ray", counts, since=between)
    assert peak[0] < 1_500_000_000 and len(pids) <= 2


@pytest.mark.long
def test_no_hostile_image_takes_30_seconds(hostile: list[Hostile], played: Played) -> None:
    flood = png(64, 64, chunk(b"noOp", b"") * 5_000_000, pixels(), END)
    scans = many_scans(10_000, 10_000, 19)
    slowest = []
    for one in [*hostile, Hostile("flood of chunks", "60-MB.png", flood, ""), Hostile("scans", "19.jpg", scans, "")]:
        started = time.thread_time()
        with suppress(UnreadableImage):
            decoding.decode(one.data)
        slowest.append((round(time.thread_time() - started, 2), one.kind, one.name))
    slowest.sort(reverse=True)
    played.notes["slowest hostile images [s of processor time]"] = slowest[:5]
    assert slowest[0][0] < 30
