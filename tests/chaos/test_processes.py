"""SIGKILL, SIGSTOP and Ctrl-C at random moments of a run on Ray, then a run that is left alone: the same table.

Drivers come and go on one Ray head; what ends a head, or all of Ray, plays on a head of its own.
"""

import os
import random
import signal
import subprocess
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import heads
import psutil
import pytest
from conftest import IS_LONG
from heads import STUCK_S, Scene, rows_of
from ray_head import Head, ray_head
from rounds import compared

KILLED = ("driver", "actor", "worker")
ROUNDS = 20 if IS_LONG else 3
# A kill before the first part comes within so many seconds of the start: before, in and after the start of the actors.
EARLY_S = 10.0
# And any other at most so long after it, when most rows are still to come.
LATE_S = 0.5

# Fixtures: pytest takes those that it finds in a module.
night, wanted, scene = heads.night, heads.wanted, heads.scene
pytestmark = pytest.mark.ray


def kill_one(victim: str, process: subprocess.Popen[bytes], head: Head, scene: Scene, chance: random.Random) -> bool:
    """Kill at any moment before the first part, or soon after it; False where the run had ended before."""
    if chance.random() < 0.3:
        time.sleep(chance.uniform(0, EARLY_S))
    else:
        scene.wait_for_a_part(process)
        time.sleep(chance.uniform(0, LATE_S))
    find = {"driver": lambda: [psutil.Process(process.pid)], "actor": head.scorers, "worker": head.workers}[victim]
    while not (victims := find()) and process.poll() is None:
        time.sleep(0.02)
    if process.poll() is not None:
        return False
    chance.choice(victims).kill()
    return True


@pytest.mark.parametrize("number", range(ROUNDS))
def test_after_a_kill_a_rerun_completes_the_table_of_an_undisturbed_run(number: int, head: Head, scene: Scene) -> None:
    assert Counter(scene.wanted["status"].to_pylist()) == {"scored": 400, "unreadable": 2}
    victim = KILLED[number % len(KILLED)]
    with scene.running(head.address) as process:
        killed = kill_one(victim, process, head, scene, random.Random(number))
        code = process.wait(STUCK_S)
    kept = rows_of(scene.out).num_rows if scene.has_part() else 0
    print(f"round {number}: {victim} {'killed' if killed else 'ended before'}, exit {code}, {kept} rows kept")
    started = time.monotonic()
    with scene.running(head.address) as process:
        assert process.wait(STUCK_S) == 0, scene.said()
    scene.require_no_traceback()
    fault = f"SIGKILL of the {victim} while scoring" if killed else "none: the run was too quick"
    scene.played.require_clean("process", fault, compared(scene.wanted, rows_of(scene.out)), since=started)


@pytest.mark.long
@pytest.mark.parametrize("seconds", [10, 20])
def test_a_suspended_actor_is_reported_and_the_run_continues_when_it_is_resumed(
    seconds: int, head: Head, scene: Scene
) -> None:
    with scene.running(head.address) as process:
        scene.wait_for_a_part(process)
        before, stopped = len(scene.said()), head.scorers()
        for actor in stopped:
            actor.suspend()
        time.sleep(seconds)
        for actor in stopped:
            actor.resume()
        assert process.wait(STUCK_S) == 0, scene.said()
    assert stopped and "score: nothing has come from the workers for 4 s" in scene.said()[before:], scene.said()
    scene.require_same_table("SIGSTOP of the actors while scoring")


@pytest.mark.long
@pytest.mark.parametrize("times", [1, 2, 3])
def test_ctrl_c_ends_a_run_in_one_line_without_orphans_and_it_can_be_resumed(times: int, scene: Scene) -> None:
    with scene.running("") as process:  # with a Ray of its own, as on a laptop
        scene.wait_for_a_part(process)
        started = psutil.Process(process.pid).children(recursive=True)
        for _ in range(times):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.3)
        code = process.wait(60)
        # Where the head ends before them, Ray's agents look for it for a minute.
        _, orphans = psutil.wait_procs(started, timeout=30 if times < 3 else 90)
        assert code in (0, 130, -signal.SIGINT) and not orphans, (code, orphans, scene.said())
    assert code != 130 or "interrupted. Run the same command again to continue." in scene.said()
    scene.require_same_table(f"Ctrl-C, {times} times")


@pytest.mark.long
@pytest.mark.parametrize("signalled", [signal.SIGKILL, signal.SIGSTOP], ids=["SIGKILL", "SIGSTOP"])
@pytest.mark.parametrize("victim", ["raylet", "gcs_server", "ray::RuntimeEnvAgent"])
def test_a_head_that_ends_or_hangs_is_reported_within_a_minute(
    victim: str, signalled: signal.Signals, scene: Scene, tmp_path: Path
) -> None:
    with ray_head(tmp_path) as head, scene.running(head.address) as process:
        scene.wait_for_a_part(process)
        before = len(scene.said())
        victims = head.daemons(victim)
        assert victims and process.poll() is None, scene.said()
        for child in victims:
            child.send_signal(signalled)
        end = time.monotonic() + 60
        while process.poll() is None and "nothing has come" not in scene.said()[before:]:
            assert time.monotonic() < end, scene.said()
            time.sleep(0.2)
    told = any(words in scene.said()[before:] for words in ("nothing has come", "crackvae: killed", "crackvae score:"))
    assert told or process.returncode == 0, scene.said()
    scene.require_same_table(f"{signalled.name} of the {victim} while scoring")


@pytest.mark.long
def test_a_head_that_hangs_after_the_last_image_delays_the_end_only_briefly(scene: Scene, tmp_path: Path) -> None:
    with ray_head(tmp_path) as head, scene.running(head.address) as process:
        end = time.monotonic() + STUCK_S
        while "402/402" not in scene.said():
            assert process.poll() is None and time.monotonic() < end, scene.said()
            time.sleep(0.01)
        stopped = head.daemons("gcs_server")
        for child in stopped:
            child.suspend()
        assert stopped and process.wait(60) == 0, scene.said()
    assert '"scored": 400' in scene.said() and "without a clean shutdown" in scene.said(), scene.said()
    scene.require_same_table("SIGSTOP of the gcs_server after the last image")


@pytest.mark.long
@pytest.mark.parametrize("number", range(3))
def test_of_two_runs_at_once_one_is_refused_in_one_line_or_finds_all_done(
    number: int, head: Head, scene: Scene
) -> None:
    with scene.running(head.address) as one, scene.running(head.address) as other:
        codes = sorted([one.wait(STUCK_S), other.wait(STUCK_S)])
    assert codes in ([0, 0], [0, 2]), scene.said()
    assert codes == [0, 0] or "is being written by run" in scene.said()
    scene.require_same_table("two concurrent runs")
