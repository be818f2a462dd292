"""Hostile HEIC, AVIF, JPEG 2000, camera raw, multi-picture and video files: a row each, and no worker dies of one."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import hostile_formats
import pytest
from conftest import read_rows
from hostile_formats import VIDEOS
from test_hostile_images import score, sound_images

from crackvae.config import ScoreConfig
from crackvae.images.decoding import video
from crackvae.scoring import verb
from crackvae.storage import archive

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of some damage before it raises

# One worker may take this much memory and, for all files together, this much processor time.
MAX_BYTES, MAX_S = 1_500_000_000, 60

DECODE_ALL = """
import json, resource, sys
from contextlib import suppress
from crackvae.errors import UnreadableImage
from crackvae.images.decoding import decode, video
from crackvae.images.pictures import read_excerpt
from crackvae.storage.names.excerpts import excerpt_of

for path in json.load(sys.stdin):
    if path.endswith(%r):
        for name, problem in video.frames_of(path, 0.5):
            if not problem:
                with suppress(UnreadableImage):
                    read_excerpt(excerpt_of(name), 160_000_000)
    else:
        with suppress(UnreadableImage):
            decode(open(path, "rb").read())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1000)
"""


def test_there_are_more_than_60_files_of_each_format_and_kind() -> None:
    files = hostile_formats.files()
    endings = {one.name.rpartition(".")[2] for one in files}
    assert len(files) > 60 and endings == set(hostile_formats.originals())
    assert {one.kind for one in files} == {"truncated", "bent", "mislabelled", "huge", "endless", "counts"}
    assert len({(one.kind, one.name) for one in files}) == len(files)


@pytest.mark.usefixtures("in_process")
def test_each_hostile_file_is_a_row_and_sound_images_beside_it_keep_their_scores(
    drawn: Path, model_dir: Path, tmp_path: Path
) -> None:
    sound = sound_images(drawn, tmp_path / "night" / "sound", 20)
    alone = score(sound, model_dir, tmp_path / "alone")
    hostile = hostile_formats.write(tmp_path / "night" / "hostile")
    settings = {"images": str(tmp_path / "night"), "model": str(model_dir), "out": str(tmp_path / "scores")}
    verb.score(ScoreConfig(**settings, every=0.5, max_unreadable="100%", quiet=True, no_report=True))  # type: ignore[arg-type]
    rows = {row["image"]: row for row in read_rows(tmp_path / "scores").to_pylist()}
    for image, row in alone.items():
        among = rows.pop(image)
        assert among["score"] == row["score"] and among["status"] == row["status"]
    assert {archive.file_of(image) for image in rows} == set(hostile)
    for image, row in rows.items():
        assert row["status"] in ("scored", "no_surface", "unreadable"), (image, row["error"])
        assert bool(row["error"]) == (row["status"] != "scored") and "\n" not in row["error"]
        if hostile[archive.file_of(image)].kind == "huge":
            assert row["width"] * row["height"] < 100_000, image


def test_one_process_decodes_all_of_them_within_its_memory_and_time(tmp_path: Path) -> None:
    paths = json.dumps(list(hostile_formats.write(tmp_path / "files")))
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    command = [sys.executable, "-c", DECODE_ALL % (VIDEOS,)]
    ended = subprocess.run(command, input=paths, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert int(ended.stdout) < MAX_BYTES and resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < MAX_S


@pytest.mark.parametrize("ending", VIDEOS)
def test_the_videos_that_are_bent_are_sound_before(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"whole.{ending}"
    path.write_bytes(hostile_formats.originals()[ending])
    assert [problem for _, problem in video.frames_of(str(path), 0.5)] == ["", "", ""]
