"""Progress on a terminal, in a log file, and when there is none."""

import threading

import pytest
from tqdm import tqdm

from crackvae.console import LOG_INTERVAL_S, progress, say


class Clock:
    """A clock [s] that a test advances."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch) -> Clock:
    stopped = Clock()
    monkeypatch.setattr("tqdm.std.time", stopped)
    return stopped


def test_a_log_file_gets_a_line_per_interval_and_one_at_the_end(clock, capsys):
    with progress("read", 100, "images", quiet=False) as bar:
        first = capsys.readouterr().err
        for _ in range(100):
            clock.now_s += LOG_INTERVAL_S / 10 + 1e-6
            bar.update()
        lines = capsys.readouterr().err.splitlines()
    last = capsys.readouterr().err
    assert "0/100" in first and first.count("\n") == 1
    assert len(lines) == 10 and all(line.startswith("read:") and "images" in line for line in lines)
    assert [line.split("/100")[0].split()[-1] for line in lines] == [str(n) for n in range(10, 101, 10)]
    assert last.count("\n") <= 1


def test_short_work_gets_a_line_at_its_start_and_one_at_its_end(clock, capsys):
    with progress("read", 1000, "images", quiet=False) as bar:
        for _ in range(1000):
            bar.update()
    written = capsys.readouterr()
    lines = written.err.splitlines()
    assert len(lines) == 2 and "1000/1000" in lines[-1] and written.out == ""
    assert "\r" not in written.err


def test_a_line_shows_the_rate_and_the_time_left(clock, capsys):
    with progress("score", 300, "images", quiet=False) as bar:
        clock.now_s += 20
        bar.update(100)
        line = capsys.readouterr().err.splitlines()[-1]
    assert "33%" in line and "100/300" in line and "5.00 images/s" in line and "00:40" in line


def test_quiet_writes_nothing(capsys):
    with progress("read", 3, "images", quiet=True) as bar:
        bar.update(3)
    say("3 images", quiet=True)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_one_line_that_is_updated(clock, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress("read", 10, "images", quiet=False) as bar:
        for _ in range(10):
            clock.now_s += 1
            bar.update()
    written = capsys.readouterr().err
    assert written.count("\r") >= 10 and written.count("\n") == 1


def test_progress_leaves_no_thread_behind(monkeypatch):
    monkeypatch.setattr(tqdm, "monitor", None)
    monkeypatch.setattr(tqdm, "monitor_interval", 10)
    before = set(threading.enumerate())
    with progress("read", 1, "images", quiet=False) as bar:
        bar.update()
        assert set(threading.enumerate()) == before


def test_work_that_fails_keeps_its_error_and_its_progress(clock, capsys):
    def work() -> None:
        with progress("read", 10, "images", quiet=False) as bar:
            bar.update(2)
            raise ValueError("third image")

    with pytest.raises(ValueError, match="third image"):
        work()
    assert "2/10" in capsys.readouterr().err.splitlines()[-1]


def test_a_line_to_the_user_goes_to_standard_error(capsys):
    say("90 images", quiet=False)
    assert capsys.readouterr() == ("", "90 images\n")
