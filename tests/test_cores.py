"""Cores that a process may use, and the threads for work on photographs."""

import os

import pytest

from crackvae.cores import MAX_THREADS, thread_count, usable_cores


@pytest.mark.parametrize(("allowed", "threads"), [(1, 1), (3, 3), (64, MAX_THREADS)])
def test_there_is_a_thread_for_each_usable_core_up_to_a_limit(
    allowed: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(allowed))
    monkeypatch.setattr(os, "cpu_count", lambda: 128)
    assert (usable_cores(), thread_count()) == (allowed, threads)


def test_without_affinities_every_core_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_cores() == 6
