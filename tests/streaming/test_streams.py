"""Cameras and streams: connections that break, and addresses with passwords."""

import contextlib
import errno
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from crackvae.config import LiveConfig
from crackvae.errors import ConfigError
from crackvae.streaming import streams
from crackvae.streaming.streams import Camera, without_secrets


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("rtsp://anna:s3cret@camera:554/live/1?token=abc", "rtsp://camera:554/live/1"),
        ("rtsp://camera/live", "rtsp://camera/live"),
        ("/dev/video0", "/dev/video0"),
    ],
)
def test_an_address_is_shown_without_what_is_secret_in_it(source, shown):
    assert without_secrets(source) == shown


def test_pauses_grow_while_nothing_comes_and_start_again_after_a_frame(monkeypatch, capsys):
    camera, stop = Camera("rtsp://anna:s3cret@camera/live", "out", 0, quiet=False), threading.Event()
    answers, pauses = iter([0, 0, 0, 0, 0, 0, 0, 1, 0]), []

    def receive_once(_: threading.Event) -> str:
        for _number in range(next(answers)):
            camera.newest.put("frame")
        return "Connection refused"

    def wait(pause_s: float) -> None:
        pauses.append(pause_s)
        if len(pauses) == 9:
            stop.set()

    monkeypatch.setattr(camera, "_receive_once", receive_once)
    camera._receive(SimpleNamespace(is_set=stop.is_set, wait=wait))  # type: ignore[arg-type]
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 1, 2]
    told = capsys.readouterr().err
    assert "rtsp://camera/live: Connection refused; next attempt in 1 s" in told and "s3cret" not in told


@pytest.mark.parametrize(
    ("opened", "reconnects"), [([False] * 4, 0), ([True], 0), ([False, True], 0), ([True, False, False, True, True], 2)]
)
def test_only_connections_after_the_first_are_reconnects(monkeypatch, opened, reconnects):
    camera, answers = Camera("rtsp://camera/live", "out", 0, quiet=True), iter(opened)

    def connect(*_: object, **__: object) -> contextlib.AbstractContextManager[SimpleNamespace]:
        if next(answers):
            return contextlib.nullcontext(SimpleNamespace(streams=SimpleNamespace(video=[])))
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

    monkeypatch.setattr(streams.library(), "open", connect)
    for _ in opened:
        camera._receive_once(threading.Event())
    assert camera.reconnects == camera.counts()["reconnects"] == reconnects


def test_a_damaged_packet_is_counted_and_the_next_one_shown():
    camera = Camera("tcp://camera:1", "out", 0, quiet=True)
    frame = SimpleNamespace(width=64, height=64)
    huge = SimpleNamespace(width=100_000, height=100_000)

    def damaged() -> list[object]:
        raise streams.library().InvalidDataError(1, "lost")

    packets = [SimpleNamespace(decode=decode, size=0) for decode in (damaged, lambda: [huge], lambda: [frame])]
    camera._frames(SimpleNamespace(demux=lambda video: packets), SimpleNamespace(codec_context=None), threading.Event())
    assert camera.counts() == {"received": 1, "dropped": 0, "passed_over": 0, "reconnects": 0, "damaged": 2}


def test_a_dead_receiving_thread_is_no_silent_end(monkeypatch):
    camera = Camera("tcp://camera:1", "out", 0, quiet=True)
    monkeypatch.setattr(camera, "_receive", lambda stop: None)
    with pytest.raises(RuntimeError, match="receiving thread"):
        list(camera.arrivals(SimpleNamespace(), threading.Event()))  # type: ignore[arg-type]


def test_a_frame_becomes_a_row_with_its_time_as_its_name():
    av = streams.library()
    camera = Camera("tcp://camera:1", "/out", 0, quiet=True)
    grey_HW = np.random.default_rng(0).integers(60, 200, (64, 96), np.uint8)
    camera.newest.put(av.VideoFrame.from_ndarray(grey_HW, format="gray"))
    capture = camera.newest.take(0)
    assert capture
    arrival = camera._arrival(capture, SimpleNamespace(tile_px=64, stride_px=48, input_px=64))  # type: ignore[arg-type]
    (row,) = [row for table in arrival.decoded for row in table.to_pylist()]
    assert row["image"] == arrival.image == f"/out/_frames/{capture.taken:%Y%m%dT%H%M%S_%f}.png"
    assert (row["status"], row["group"], row["width"], row["height"]) == ("scored", "tcp://camera:1", 96, 64)
    assert row["modified"] == capture.taken and (arrival.pixels() == grey_HW).all()


def test_sources_that_cannot_be_opened_are_refused_with_what_there_is():
    with pytest.raises(ConfigError, match=r"source ftp:// is not known: give a folder, /dev/videoN or one of rtsp"):
        LiveConfig(source="ftp://host/live")
    with pytest.raises(ConfigError, match="--every is for cameras"):
        LiveConfig(source="folder", every=1)
    with pytest.raises(ConfigError, match=r"source /dev/video99 is no camera: connect it, or name another"):
        streams.require_camera("/dev/video99")
    streams.require_camera("/dev/null")
    streams.require_camera("rtsp://camera/live")
