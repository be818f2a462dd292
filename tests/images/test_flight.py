"""Time and place of frames: the subtitles of drones, and the place that a video names."""

import math
from datetime import datetime
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_video import MAX_PX, drawn

from crackvae.images.decoding.flight import parsed, place_in, subtitle_at, subtitles_of
from crackvae.images.decoding.video import read_frame
from crackvae.storage.names.excerpts import Frame

MAVIC = """1
00:00:00,000 --> 00:00:00,033
<font size="28">FrameCnt: 1, DiffTime: 33ms
2026-11-29 10:12:13.123
[iso: 100] [shutter: 1/640.0] [latitude: 52.500100] [longitude: 13.400200] [rel_alt: 1.200 abs_alt: 80.300] </font>

2
00:00:01,000 --> 00:00:01,033
<font size="28">FrameCnt: 31, DiffTime: 33ms
2026-11-29 10:12:14.123
[iso: 100] [latitude: 52.500300] [longtitude: 13.400400] [altitude: 81.0] </font>
"""
PHANTOM = "1\n00:00:01,000 --> 00:00:02,000\nHOME(13.4002,52.5001) 2026.11.29 10:12:13\nGPS(13.4002,52.5001,19)\n"


def test_the_subtitles_of_drones_give_time_and_place():
    first, second = parsed(MAVIC)
    assert first == (0.0, datetime(2026, 11, 29, 10, 12, 13, 123_000), (52.5001, 13.4002, 80.3))
    assert second.start_s == 1.0 and second.place == (52.5003, 13.4004, 81.0)
    (old,) = parsed(PHANTOM)
    assert old.taken == datetime(2026, 11, 29, 10, 12, 13) and old.place[:2] == (52.5001, 13.4002)
    assert math.isnan(old.place[2])


@pytest.mark.parametrize(
    "line", ["[latitude: 0.0] [longitude: 0.0]", "[latitude: 91] [longitude: 1]", "latitude: 52.1"]
)
def test_an_absurd_place_is_none(line):
    (one,) = parsed(f"1\n00:00:00,000 --> 00:00:01,000\n2026-13-45 10:00:00\n{line}\n")
    assert np.isnan(one.place).all() and one.taken is None


@settings(derandomize=True, deadline=None)
@given(
    texts=st.lists(st.text("0123456789:,.->[] latude\nGPS()", max_size=100), min_size=1, max_size=5),
    times=st.lists(st.tuples(*[st.integers(0, 59)] * 3, st.integers(0, 999)), min_size=4, max_size=4),
)
def test_any_text_between_heads_of_subtitles_is_read(texts, times):
    heads = [f"\n{h:02}:{m:02}:{s:02},{ms:03} --> {h:02}:{m:02}:59,999\n" for h, m, s, ms in times]
    text = texts[0] + "".join(head + after for head, after in zip(heads, texts[1:], strict=False))
    found = parsed(text)
    starts_s = [one.start_s for one in found]
    assert starts_s == sorted(starts_s)
    for h, m, s, ms in times[: len(texts) - 1]:
        assert any(abs(start_s - (3600 * h + 60 * m + s + ms / 1000)) < 1e-6 for start_s in starts_s)
    for one in found:
        lat, lon, _ = one.place
        assert math.isnan(lat) == math.isnan(lon) and not abs(lat) > 90 and not abs(lon) > 180


def test_a_subtitle_holds_until_the_next_and_for_two_seconds_at_the_end():
    subtitles = parsed(MAVIC)
    assert [subtitle_at(subtitles, time_s) for time_s in (0, 0.5, 0.99, 2.9)] == [
        *[subtitles[0]] * 2,
        *[subtitles[1]] * 2,
    ]
    assert subtitle_at(subtitles, 3.5) is None and subtitle_at([], 0) is None
    assert subtitle_at(parsed(PHANTOM), 0.5) is None


@pytest.mark.parametrize("name", ["clip.SRT", "clip.srt"])
def test_a_frame_has_the_time_and_the_place_of_the_subtitle_beside_its_video(tmp_path, name):
    path = drawn(tmp_path / "clip.mp4", list(range(30)))
    assert subtitles_of(str(path)) == []
    (tmp_path / name).write_text(MAVIC)
    picture = read_frame(Frame(str(path), 1.0), MAX_PX)
    assert picture.place == (52.5003, 13.4004, 81.0) and picture.taken == datetime(2026, 11, 29, 10, 12, 14, 123_000)


def test_a_video_that_names_a_place_has_it_in_every_frame(tmp_path):
    assert place_in({"location": "+52.5001+013.4002+045.100/"}) == (52.5001, 13.4002, 45.1)
    assert np.isnan(place_in({"location": "here"})).all() and np.isnan(place_in({})).all()
    path: Path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        container.metadata["LOCATION"] = "+52.5001+013.4002/"
        stream = container.add_stream("libx264", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), 90, np.uint8), format="rgb24")))
        container.mux(stream.encode())
    assert read_frame(Frame(str(path), 0.0), MAX_PX).place[:2] == (52.5001, 13.4002)
