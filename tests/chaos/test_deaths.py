"""A process that dies after any of its calls to storage: what it leaves is whole, and the next run completes it.

A death is an exception that nothing in the verbs catches, after which every call to storage fails, as after SIGKILL.
"""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import IS_LONG, SMALL, read_rows, score_in_process, small_spec, write_model
from rounds import Played, compared

from crackvae.config import CalibrateConfig, CompactConfig, ReportConfig, ScoreConfig, TrainConfig
from crackvae.errors import FolderInUse, ModelError, OutputExists, StorageError
from crackvae.model.artifact import load_model
from crackvae.model.inference import load_scorer
from crackvae.monitoring.histograms import load_reference
from crackvae.reports.verb import report
from crackvae.results import Result
from crackvae.scoring import actors, compaction, run_table, verb
from crackvae.scoring.calibrate import calibrate
from crackvae.scoring.compaction import compact
from crackvae.storage import fileio, tables
from crackvae.training.driver import train

STEPS = ("write_bytes", "write_folder", "move_file", "delete_file", "delete_folder")


# The short round dies after some of the calls, the long one after each.
STRIDE = 1 if IS_LONG else 3


class Death(BaseException):
    """Not an Exception: nobody may catch it."""


def _counted(real: Callable[..., Any], steps: int, made: list[int], *arguments: Any) -> Any:
    if made[0] >= steps:
        raise Death
    made[0] += 1
    return real(*arguments)


@contextmanager
def dying_after(steps: int) -> Iterator[list[int]]:
    """Storage whose `steps`-th call from now is the last; the list says how many were made."""
    made = [0]
    with pytest.MonkeyPatch.context() as patch:
        for name in STEPS:
            step = partial(_counted, getattr(fileio, name), steps, made)
            for module in (fileio, tables):
                if hasattr(module, name):
                    patch.setattr(module, name, step)
        yield made


def survived(verb: Callable[[], Result], steps: int) -> bool:
    """Whether a verb came to its end with that many calls to storage."""
    with dying_after(steps):
        try:
            verb()
        except Death:
            return False
    return True


@pytest.fixture(scope="module")
def night(drawn: Path) -> Path:
    return drawn / "crack"


def training_config(manifest: Path, model: Path) -> TrainConfig:
    values = {"manifest": str(manifest), "model": str(model), "batch": 16, "epochs": 3, "tile_px": 64, "stride_px": 48}
    return TrainConfig(**values, **SMALL, precision="fp32", quiet=True)


def config(night: Path, model: Path, out: Path) -> ScoreConfig:
    return ScoreConfig(images=str(night), model=str(model), out=str(out), quiet=True, no_report=True)


@pytest.mark.usefixtures("in_process")
def test_a_night_killed_after_any_storage_call_is_completed_by_the_next(
    night: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, played: Played
) -> None:
    monkeypatch.setattr(actors, "BLOCK_IMAGES", 16)
    monkeypatch.setattr(run_table, "PART_ROWS", 16)
    verb.score(config(night, model_dir, tmp_path / "undisturbed"))
    wanted = read_rows(tmp_path / "undisturbed")
    for steps in range(0, 100, STRIDE):
        out = tmp_path / f"{steps}"
        ended = survived(lambda out=out: verb.score(config(night, model_dir, out)), steps)
        for lock in out.glob("_lock-*"):  # another process would see that its owner is gone; this one is its owner
            lock.unlink()
        started = time.monotonic()
        summary = verb.score(config(night, model_dir, out)).summary
        counts = compared(wanted, read_rows(out))
        played.require_clean("process", "process killed in score, after each storage call", counts, since=started)
        assert summary["listed"] == summary["finished_before"] + summary["scored"]
        if ended:
            break
    assert steps > 8


@pytest.mark.usefixtures("in_process")
def test_a_compaction_killed_after_any_storage_call_leaves_the_table_unchanged(
    night: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, played: Played
) -> None:
    monkeypatch.setattr(actors, "BLOCK_IMAGES", 16)
    monkeypatch.setattr(run_table, "PART_ROWS", 16)
    monkeypatch.setattr(compaction, "PART_ROWS", 40)
    for steps in range(0, 100, STRIDE):
        out = tmp_path / f"{steps}"
        verb.score(config(night, model_dir, out))
        wanted = tables.read_scores(str(out), tables.SCORES_SCHEMA.names)
        ended = survived(lambda out=out: compact(CompactConfig(scores=str(out), quiet=True)), steps)
        for lock in out.glob("_lock-*"):
            lock.unlink()
        counts = compared(wanted, tables.read_scores(str(out), tables.SCORES_SCHEMA.names))
        started = time.monotonic()
        compact(CompactConfig(scores=str(out), quiet=True))
        again = compared(wanted, tables.read_scores(str(out), tables.SCORES_SCHEMA.names))
        counts = {name: counts[name] + again[name] for name in counts}
        played.require_clean("process", "process killed in compact, after each storage call", counts, since=started)
        if ended:
            break
    assert steps > 4


@pytest.mark.usefixtures("in_process")
def test_a_calibration_killed_after_any_storage_call_leaves_the_old_one_or_the_new(
    drawn: Path, tmp_path: Path, played: Played
) -> None:
    for steps in range(20):
        model = write_model(tmp_path / f"{steps}", small_spec())
        old = load_scorer(str(model)).calibration.digest
        settings = CalibrateConfig(model=str(model), images=str(drawn / "non_crack"), quiet=True)
        ended = survived(lambda settings=settings: calibrate(settings), steps)
        after = load_scorer(str(model))
        load_reference(str(model), after.model.digest)
        started = time.monotonic()
        new = calibrate(settings).summary
        now = load_scorer(str(model)).calibration
        is_one_of_both = after.calibration.digest in (old, now.digest)
        is_right = now.digest != old and is_one_of_both and now.threshold == new["threshold"]
        counts = {"lost": 0, "twice": 0, "wrong": int(not is_right)}
        played.require_clean("process", "process killed in calibrate, after each storage call", counts, since=started)
        if ended:
            break
    assert steps > 0


def test_a_killed_report_leaves_the_previous_page_or_the_new_one(
    scored_night: Path, tmp_path: Path, played: Played
) -> None:
    page = tmp_path / "page.html"
    page.write_text("the page before")
    settings = ReportConfig(scores=str(scored_night), out=str(page), quiet=True)
    assert not survived(lambda: report(settings), 0)
    assert page.read_text() == "the page before" and [one.name for one in tmp_path.iterdir()] == ["page.html"]
    started = time.monotonic()
    report(settings)
    is_whole = page.read_text().rstrip().endswith("</html>")
    counts = {"lost": 0, "twice": 0, "wrong": int(not is_whole)}
    played.require_clean("process", "process killed in report, before its only write", counts, since=started)


@pytest.mark.long
@pytest.mark.usefixtures("train_in_process")
def test_a_training_killed_after_any_storage_call_leaves_no_model_and_resumes_to_the_same_weights(
    manifest: Path, tmp_path: Path, played: Played
) -> None:
    train(training_config(manifest, tmp_path / "undisturbed"))
    wanted = load_model(str(tmp_path / "undisturbed")).digest
    for steps in range(100):
        settings = training_config(manifest, tmp_path / f"{steps}")
        ended = survived(lambda settings=settings: train(settings), steps)
        for lock in (tmp_path / f"{steps}.training").glob("_lock-*"):
            lock.unlink()
        started = time.monotonic()
        if (tmp_path / f"{steps}").exists():  # only its checkpoints were still to be deleted
            with pytest.raises(OutputExists):
                train(settings)
        else:
            train(settings)
        counts = {"lost": 0, "twice": 0, "wrong": int(load_model(settings.model).digest != wanted)}
        played.require_clean("process", "process killed in train, after each storage call", counts, since=started)
        if ended:
            break
    assert steps > 8


def test_sigkill_while_a_model_is_written_leaves_none_that_is_loaded_or_the_whole_one(
    tmp_path: Path, played: Played
) -> None:
    started = time.monotonic()
    wanted = load_model(str(write_model(tmp_path / "undisturbed", small_spec()))).digest
    usual_s = time.monotonic() - started
    for number in range(40 if IS_LONG else 5):
        model = tmp_path / f"{number}"
        pid = forked(lambda model=model: write_model(model, small_spec()))
        time.sleep(usual_s * random.Random(number).uniform(0, 1))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        started = time.monotonic()
        if not model.exists():
            with pytest.raises(ModelError):
                load_model(str(model))
            write_model(model, small_spec())
        counts = {"lost": 0, "twice": 0, "wrong": int(load_model(str(model)).digest != wanted)}
        played.require_clean("process", "SIGKILL while a model is being written", counts, since=started)


def test_sigkill_while_a_report_is_made_leaves_the_page_before_it_or_the_new_one(
    scored_night: Path, tmp_path: Path, played: Played
) -> None:
    def made(page: Path) -> float:
        started = time.monotonic()
        report(ReportConfig(scores=str(scored_night), out=str(page), quiet=True))
        return time.monotonic() - started

    usual_s = made(tmp_path / "undisturbed.html")
    wanted = (tmp_path / "undisturbed.html").read_bytes()
    for number in range(20 if IS_LONG else 1):
        page = tmp_path / f"{number}.html"
        page.write_text("the page before")
        pid = forked(lambda page=page: made(page))
        # Half of them in the last tenth, when the page is drawn and is written.
        time.sleep(usual_s * random.Random(number).uniform(0.9 if number % 2 else 0, 1.1))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert page.read_bytes() in (b"the page before", wanted)
        started = time.monotonic()
        made(page)
        counts = {"lost": 0, "twice": 0, "wrong": int(page.read_bytes() != wanted)}
        played.require_clean("process", "SIGKILL in report, at a random moment", counts, since=started)


@pytest.mark.usefixtures("in_process")
def test_a_clock_that_was_set_back_brings_no_old_row_before_a_new_one(
    night: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, played: Played
) -> None:
    read, broken = fileio.read_image, {sorted(night.iterdir())[3].name}

    def read_image(image: str, endpoint: str | None = None) -> bytes:
        if Path(image).name in broken:
            raise OSError("storage is away")
        return read(image, endpoint)

    monkeypatch.setattr(fileio, "read_image", read_image)
    wanted_out, out = tmp_path / "undisturbed", tmp_path / "out"
    assert verb.score(config(night, model_dir, out)).summary["unreachable"] == 1
    broken.clear()

    class Yesterday(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2001, 1, 1, tzinfo=UTC)

    monkeypatch.setattr(tables, "datetime", Yesterday)
    started = time.monotonic()
    assert verb.score(config(night, model_dir, out)).summary["scored"] == 1
    assert verb.score(config(night, model_dir, out)).summary["scored"] == 0
    monkeypatch.undo()
    with pytest.MonkeyPatch.context() as patch:
        score_in_process(patch)
        verb.score(config(night, model_dir, wanted_out))
    latest = tables.read_scores(str(out), tables.SCORES_SCHEMA.names)
    played.require_clean("process", "clock set back by years", compared(read_rows(wanted_out), latest), since=started)


@pytest.mark.usefixtures("in_process")
def test_a_full_disk_ends_a_run_in_one_line_and_it_can_be_resumed(
    night: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, played: Played
) -> None:
    monkeypatch.setattr(actors, "BLOCK_IMAGES", 16)
    monkeypatch.setattr(run_table, "PART_ROWS", 16)
    monkeypatch.setattr(fileio, "PROBE_BYTES", 1000)
    verb.score(config(night, model_dir, tmp_path / "undisturbed"))
    wanted = read_rows(tmp_path / "undisturbed")
    disk = tmp_path / "disk"
    disk.mkdir()
    for kib in (12, 16, 20, 24) if IS_LONG else (16, 24):
        mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(disk)]
        if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("only root may mount a small disk")
        try:
            with pytest.raises(StorageError, match=r"No space left on device\. Free some space"):
                verb.score(config(night, model_dir, disk / "out"))
            assert not list(disk.rglob("*.tmp"))
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            started = time.monotonic()
            verb.score(config(night, model_dir, disk / "out"))
            counts = compared(wanted, read_rows(disk / "out"))
            played.require_clean("process", "the disk of --out is full", counts, since=started)
        finally:
            subprocess.run(["umount", str(disk)], check=True)


def forked(work: Callable[[], object]) -> int:
    """A process of its own that does some work and ends; returns its id."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("victim", ["score", "compact"])
def test_sigkill_at_any_moment_costs_no_row(
    victim: str, night: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, played: Played
) -> None:
    monkeypatch.setattr(actors, "BLOCK_IMAGES", 8)
    monkeypatch.setattr(run_table, "PART_ROWS", 8)
    monkeypatch.setattr(compaction, "PART_ROWS", 16)
    started = time.monotonic()
    verb.score(config(night, model_dir, tmp_path / "undisturbed"))
    usual_s, wanted = time.monotonic() - started, read_rows(tmp_path / "undisturbed")
    for number in range(20 if IS_LONG else 3):
        chance, out = random.Random(number), tmp_path / f"{number}"
        if victim == "compact":
            verb.score(config(night, model_dir, out))
            pid = forked(lambda out=out: compact(CompactConfig(scores=str(out), quiet=True)))
        else:
            pid = forked(lambda out=out: verb.score(config(night, model_dir, out)))
        time.sleep(chance.uniform(0, usual_s))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        started = time.monotonic()
        verb.score(config(night, model_dir, out))
        found = tables.read_scores(str(out), tables.SCORES_SCHEMA.names)
        assert not list(out.glob("_lock-*")), "the lock of the dead was taken over"
        played.require_clean(
            "process", f"SIGKILL in {victim}, at a random moment", compared(wanted, found), since=started
        )


@pytest.mark.usefixtures("in_process")
def test_a_suspended_run_keeps_its_table_and_continues_when_it_is_resumed(
    night: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, played: Played
) -> None:
    monkeypatch.setattr(actors, "BLOCK_IMAGES", 8)
    monkeypatch.setattr(run_table, "PART_ROWS", 8)
    verb.score(config(night, model_dir, tmp_path / "undisturbed"))
    wanted = read_rows(tmp_path / "undisturbed")
    for number in range(10 if IS_LONG else 1):
        out = tmp_path / f"{number}"
        pid = forked(lambda out=out: verb.score(config(night, model_dir, out)))
        while not list(out.glob("*.parquet")):
            time.sleep(0.01)
        os.kill(pid, signal.SIGSTOP)
        is_at_work = bool(list(out.glob("_lock-*")))
        if is_at_work:
            with pytest.raises(FolderInUse, match=f"process {pid}"):
                verb.score(config(night, model_dir, out))
        started = time.monotonic()
        os.kill(pid, signal.SIGCONT)
        assert os.waitpid(pid, 0)[1] == 0
        verb.score(config(night, model_dir, out))
        played.require_clean(
            "process", "SIGSTOP of a run while another one starts", compared(wanted, read_rows(out)), since=started
        )
