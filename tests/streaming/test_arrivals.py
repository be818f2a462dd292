"""The newest frame: what is handed over, and that every frame is accounted for."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from crackvae.streaming import arrivals
from crackvae.streaming.arrivals import Backlog, Newest


@given(steps=st.lists(st.booleans(), max_size=60))
def test_the_newest_frame_is_taken_and_every_frame_is_counted(steps):
    newest, taken, last = Newest(), [], None
    for number, is_put in enumerate(steps):
        if is_put:
            newest.put(number)
            last = number
        elif capture := newest.take(0):
            assert capture.frame == last
            taken.append(capture.frame)
    newest.drop_waiting()
    assert taken == sorted(set(taken))
    assert newest.received == sum(steps) == len(taken) + newest.dropped and not newest.passed_over


def test_frames_that_come_too_early_are_passed_over_and_not_dropped(monkeypatch):
    clock = iter([0.0, 0.4, 0.9, 1.0, 1.5])
    monkeypatch.setattr(arrivals.time, "monotonic", lambda: next(clock))
    newest, taken = Newest(every_s=1.0), []
    for number in range(5):
        newest.put(number)
        if capture := newest.take(-1):
            taken.append(capture.frame)
    assert taken == [0, 3] and (newest.received, newest.passed_over, newest.dropped) == (5, 3, 0)


def test_a_frame_wakes_the_thread_that_waits_for_it():
    newest = Newest()
    timer = threading.Timer(0.05, newest.put, ["frame"])
    timer.start()
    capture = newest.take(30)
    timer.join()
    assert capture is not None and capture.frame == "frame"


def skipped(packets: list[tuple[float, float]], key_every: int = 10) -> list[bool]:
    """What is left out of packets that come at (time of the frame, time of arrival) [s]."""
    backlog = Backlog()
    return [
        backlog.skips(frame_s, now_s, is_key=number % key_every == 0) for number, (frame_s, now_s) in enumerate(packets)
    ]


def test_a_stream_in_time_is_decoded_whole_also_when_its_clock_is_a_little_slow():
    assert not any(skipped([(k / 25, 100 + k / 25 * 1.0005 + 0.1 * (k % 3)) for k in range(100_000)]))


def test_a_late_stream_is_read_on_to_the_first_key_frame_in_time():
    in_time = [(k / 10, k / 10) for k in range(10)]
    queued = [(1 + k / 10, 5 + k / 1000) for k in range(40)]  # the reader stopped for four seconds
    after = [(5 + k / 10, 5.1 + k / 10) for k in range(30)]
    left_out = skipped(in_time + queued + after)
    assert not any(left_out[:10]) and all(left_out[10:50])
    assert left_out[50:] == [False] * 30, "the frame after the queue is a key frame"
    without_key = skipped(in_time + queued + after, key_every=35)
    assert without_key[50:] == [True] * 20 + [False] * 10


def test_a_camera_that_sets_its_clock_back_is_left_out_for_little_more_than_a_second():
    before, after = [(100 + k / 10, k / 10) for k in range(50)], [(k / 10, 5 + k / 10) for k in range(100)]
    left_out = skipped(before + after)
    assert left_out[50:].index(False) == 20 and not any(left_out[70:])


def test_packets_without_a_time_are_decoded():
    assert not Backlog().skips(None, 5.0, is_key=False)
