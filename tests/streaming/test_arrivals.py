"""The newest frame: what is handed over, and that every frame is accounted for."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from crackvae.streaming import arrivals
from crackvae.streaming.arrivals import Newest


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
