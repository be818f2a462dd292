"""Videos: which frames are listed, and what their pixels are."""

import os
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageFilter

from crackvae.errors import UnreadableImage
from crackvae.images.decoding import video
from crackvae.images.decoding.video import frames_of, read_frame, with_frames
from crackvae.images.synthetic import draw_image
from crackvae.storage import archive
from crackvae.storage.listing import list_paths
from crackvae.storage.names.excerpts import Frame, Window, excerpt_of

MAX_PX = 10_000_000
FPS = 20
GREY_HW = np.asarray(Image.fromarray(draw_image(0, 1, True, 256)[0]).convert("L"))[:144, :192]


def level(number: int) -> int:
    """Grey level of the marked corner of a frame, which tells frames apart."""
    return 40 + 2 * number


def drawn(path: Path, numbers: list[int], blurred: tuple[int, ...] = (), codec: str = "libx264") -> Path:
    """A video whose frames have the times NUMBER / FPS."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options={"crf": "12", "g": "15"})
        stream.width, stream.height, stream.pix_fmt = 192, 144, "yuv420p"
        for number in numbers:
            pixels_HW = GREY_HW.copy()
            pixels_HW[:48, :48] = level(number)
            if number in blurred:
                pixels_HW = np.asarray(Image.fromarray(pixels_HW).filter(ImageFilter.GaussianBlur(4)))
            frame = av.VideoFrame.from_ndarray(np.dstack([pixels_HW] * 3), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def names(path: Path, every_s: float) -> list[str]:
    return [name.removeprefix(f"{path}!/") for name, _ in frames_of(str(path), every_s)]


def is_open(path: Path) -> bool:
    """Whether this process has the file open."""
    files = [Path("/proc/self/fd", number) for number in os.listdir("/proc/self/fd")]
    return any(os.path.realpath(file) == str(path.resolve()) for file in files)


def number_shown(pixels_HW: np.ndarray) -> int:
    return round((float(np.median(pixels_HW[8:40, 8:40])) - 40) / 2)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn(tmp_path_factory.mktemp("video") / "clip.mp4", list(range(60)))


def test_the_first_frame_of_each_interval_is_listed_by_its_own_time(clip):
    assert names(clip, 0.5) == [f"t={time_s:08.3f}" for time_s in (0, 0.5, 1, 1.5, 2, 2.5)]


def test_frames_of_a_variable_rate_keep_their_times(tmp_path):
    path = drawn(tmp_path / "clip.mkv", [0, 3, 4, 13, 14, 21, 50, 51, 52])
    assert names(path, 0.5) == ["t=0000.000", "t=0000.650", "t=0001.050", "t=0002.500"]
    assert number_shown(read_frame(Frame(str(path), 1.05), MAX_PX).pixels_HW) == 21


@pytest.mark.parametrize("order", [[0, 10, 20, 50], [50, 0, 33, 5], [33, 32, 31]])
def test_a_frame_is_the_same_in_whatever_order_frames_are_read(clip, order):
    for number in order:
        assert number_shown(read_frame(Frame(str(clip), number / FPS), MAX_PX).pixels_HW) == number


@pytest.mark.parametrize("ending", ["mpg", "m2ts", "ts"])
def test_every_frame_of_an_mpeg_stream_is_found_though_its_clock_does_not_start_at_zero(tmp_path, ending):
    path = drawn(tmp_path / f"clip.{ending}", list(range(40)), codec="mpeg2video")
    for number in (0, 1, 12, 30):
        assert number_shown(read_frame(Frame(str(path), number / FPS), MAX_PX).pixels_HW) == number


def test_a_video_of_a_frame_every_few_seconds_does_not_break_off(tmp_path):
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(1, 3))
        stream.width, stream.height, stream.pix_fmt = 192, 144, "yuv420p"
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.dstack([GREY_HW] * 3), format="rgb24")))
        container.mux(stream.encode())
    assert names(path, 1) == ["t=0000.000", "t=0003.000", "t=0006.000", "t=0009.000"]


def test_the_grey_levels_are_those_of_the_picture_that_was_encoded(clip):
    pixels_HW = read_frame(Frame(str(clip), 0.5), MAX_PX).pixels_HW
    assert np.abs(pixels_HW[:, 56:].astype(int) - GREY_HW[:, 56:]).mean() < 2


def test_a_frame_in_motion_is_passed_over_with_its_reason(tmp_path):
    path = drawn(tmp_path / "clip.mp4", list(range(40)), blurred=(10, 11))
    assert read_frame(Frame(str(path), 0.5), MAX_PX).problem.startswith("blurred: ")
    assert not read_frame(Frame(str(path), 1.0), MAX_PX).problem


@pytest.mark.parametrize("ending", ["mkv", "mp4"])
def test_a_truncated_video_gives_its_frames_and_a_row_where_it_breaks(tmp_path, ending):
    whole = drawn(tmp_path / f"whole.{ending}", list(range(100)))
    if ending == "mp4":
        moved = tmp_path / "moved.mp4"  # with its index first, as recorders for streaming write it
        with av.open(str(whole)) as old, av.open(str(moved), "w", options={"movflags": "faststart"}) as new:
            stream = new.add_stream_from_template(old.streams.video[0])
            for packet in old.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    new.mux(packet)
        whole = moved
    cut = tmp_path / f"cut.{ending}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    frames = list(frames_of(str(cut), 0.5))
    assert "breaks off at" in frames[-1][1] and "of 5.0 s" in frames[-1][1]
    assert 3 <= len(frames) < 10 and not any(problem for _, problem in frames[:-1])
    frame = excerpt_of(frames[1][0])
    assert isinstance(frame, Frame) and number_shown(read_frame(frame, MAX_PX).pixels_HW) == 10


def test_the_rotation_of_a_video_is_applied_as_ffmpeg_applies_it(clip, tmp_path):
    if not shutil.which("ffmpeg"):
        pytest.skip("ffmpeg is not installed")
    turned, shown = tmp_path / "turned.mp4", tmp_path / "shown.png"
    for arguments in (
        ["-i", str(clip), "-c", "copy", "-metadata:s:v", "rotate=90", str(turned)],
        ["-ss", "1", "-i", str(turned), "-frames:v", "1", "-pix_fmt", "gray", str(shown)],
    ):
        subprocess.run(["ffmpeg", "-loglevel", "error", *arguments], check=True, timeout=60)
    pixels_HW, expected_HW = read_frame(Frame(str(turned), 1.0), MAX_PX).pixels_HW, np.asarray(Image.open(shown))
    assert pixels_HW.shape == expected_HW.shape
    assert np.abs(pixels_HW.astype(int) - expected_HW).max() <= 1


def test_a_video_that_is_none_is_one_row_with_a_reason(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    (tmp_path / "b.mov").write_bytes(bytes(5000))
    images = with_frames(list_paths([str(tmp_path)], videos=True).images, 0.5)
    assert [Path(name).name for name in images["image"].to_pylist()] == ["a.mp4", "b.mov"]
    assert all(error.startswith("damaged video") for error in images["error"].to_pylist())


def test_videos_are_listed_only_when_asked_for(clip):
    assert list_paths([str(clip.parent)]).excluded == {"video": 1}
    images = with_frames(list_paths([str(clip.parent)], videos=True).images, 1.0)
    assert images["image"].to_pylist() == [f"{clip}!/t={time_s:08.3f}" for time_s in (0, 1, 2)]
    assert images["bytes"].to_pylist() == [clip.stat().st_size] * 3


def test_a_frame_over_the_limit_of_pixels_is_refused_before_decoding(clip):
    with pytest.raises(UnreadableImage, match="over the limit"):
        read_frame(Frame(str(clip), 0.0), 1_000)


def test_a_clip_that_is_refused_is_closed(clip):
    with pytest.raises(UnreadableImage, match="over the limit") as refused:
        read_frame(Frame(str(clip), 0.0), 1_000)
    assert refused.tb and not is_open(clip)  # the traceback still refers to what was opened


def test_a_clip_is_closed_when_another_takes_its_place(clip, tmp_path):
    other = drawn(tmp_path / "other.mp4", list(range(10)))
    first = video._clip(str(clip), 0, MAX_PX)
    assert first.at(0.0) and is_open(clip)
    read_frame(Frame(str(other), 0.0), MAX_PX)
    assert is_open(other) and not is_open(clip)


def test_a_clip_is_closed_when_a_frame_of_it_is_damaged(clip):
    read_frame(Frame(str(clip), 0.0), MAX_PX)
    with pytest.raises(UnreadableImage, match="no frame can be decoded"):
        read_frame(Frame(str(clip), 99.0), MAX_PX)
    assert not is_open(clip)


def test_frames_of_one_clip_open_it_once(clip, monkeypatch):
    opened, opens = video.opened, []
    monkeypatch.setattr(video, "opened", lambda file: (opens.append(file), opened(file))[1])
    video._close_clip()
    for number in (0, 10, 20):
        read_frame(Frame(str(clip), number / FPS), MAX_PX)
    assert opens == [str(clip)]


def test_a_missing_library_is_named(clip, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(OSError, match=r"pip install 'crackvae\[formats\]'"):
        with_frames(pa.table({"image": [str(clip)], "bytes": [1], "error": [""]}), 1.0)


def test_names_of_excerpts_are_read_as_they_are_written():
    for excerpt in (Frame("s3://b/clip.MP4?region=x", 12.5), Window("/a b/ortho.tif", 0, 4096, 4096, 1000)):
        assert excerpt_of(str(excerpt)) == excerpt and archive.file_of(str(excerpt)) == excerpt.file
    assert excerpt_of("/a/clip.mp4") is None and excerpt_of("/a/x.png!/t=0001.000") is None
