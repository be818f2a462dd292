"""The log of verdicts: stored before it answers, once, with its history, on a disk and in object storage."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pytest
from conftest import HOUSE

import crackvae
from crackvae.errors import ConfigError, StorageError
from crackvae.storage.tables import SCORES_SCHEMA, write_part
from crackvae.storage.tables.verdicts import (
    VERDICTS_SCHEMA,
    Judgement,
    Subject,
    VerdictLog,
    agreed,
    logged_verdicts,
    standing_of,
)

A, B = Subject("/night/a.jpg"), Subject("s3://b/=1+1,\n\u202e.jpg")


def judge(log: VerdictLog, key: str, reviewer: str, subject: Subject, verdict: str) -> str:
    (made,) = log.append(key, reviewer, [Judgement(subject, verdict, model="d1", score=0.5)])
    return made.id


@pytest.mark.parametrize("folder", ["disk", "s3://bucket/scores"])
def test_what_was_appended_is_read_by_another_process_of_the_team(
    folder: str, tmp_path: Path, bucket: pafs.FileSystem
) -> None:
    scores = str(tmp_path) if folder == "disk" else folder
    bucket.create_dir("bucket/scores/_verdicts")
    ours, theirs = VerdictLog(scores), VerdictLog(scores)
    first = judge(ours, "anna-0001", "anna", A, "crack")
    judge(ours, "anna-0002", "anna", B, "joint")
    theirs.refresh()
    judge(theirs, "anna-0003", "anna", A, "sound")
    last = VerdictLog(scores).history()
    assert [one.verdict for one in last] == ["crack", "joint", "sound"] and last[2].replaces == first
    assert {(one.image, one.model, one.score) for one in last} == {(A.image, "d1", 0.5), (B.image, "d1", 0.5)}
    rows = crackvae.read_verdicts(scores)
    assert rows.schema == VERDICTS_SCHEMA and rows["verdict"].to_pylist() == ["joint", "sound"]
    assert crackvae.read_verdicts(scores, history=True).num_rows == 3


def test_a_verdict_that_is_sent_again_is_stored_once(tmp_path: Path) -> None:
    log = VerdictLog(str(tmp_path))
    judge(log, "same-key-1", "anna", A, "crack")
    judge(log, "same-key-1", "anna", A, "crack")
    judge(VerdictLog(str(tmp_path)), "same-key-1", "anna", A, "crack")
    assert len(VerdictLog(str(tmp_path)).history()) == 1


def test_a_verdict_that_is_taken_back_leaves_its_history(tmp_path: Path) -> None:
    log = VerdictLog(str(tmp_path))
    judge(log, "anna-0001", "anna", A, "crack")
    judge(log, "anna-0002", "anna", A, "")
    assert standing_of(log.history()) == {} and len(log.history()) == 2
    assert crackvae.read_verdicts(tmp_path).num_rows == 0


def test_reviewers_agree_where_none_of_them_is_sure_of_the_contrary(tmp_path: Path) -> None:
    log = VerdictLog(str(tmp_path))
    for number, (reviewer, subject, verdict) in enumerate(
        [
            ("anna", A, "sound"),
            ("ben", A, "joint"),
            ("cleo", A, "unsure"),
            ("anna", B, "crack"),
            ("ben", B, "sound"),
            ("cleo", Subject("c"), "unsure"),
        ]
    ):
        judge(log, f"number-{number}", reviewer, subject, verdict)
    assert agreed(standing_of(log.history())) == {A: "joint"}


def test_a_finding_speaks_for_its_image_only_when_it_is_a_crack(tmp_path: Path) -> None:
    log = VerdictLog(str(tmp_path))
    judged = [("a", "1", "sound"), ("b", "1", "crack"), ("b", "", "sound"), ("c", "1", "joint"), ("c", "", "crack")]
    for number, (image, finding, verdict) in enumerate(judged):
        judge(log, f"number-{number}", "anna", Subject(image, finding), verdict)
    assert logged_verdicts(str(tmp_path)) == {"b": "crack", "c": "crack"}


def test_verdicts_of_many_threads_are_all_stored_in_one_order(tmp_path: Path) -> None:
    log = VerdictLog(str(tmp_path))
    threads = [
        threading.Thread(target=judge, args=(log, f"thread-{n}", "anna", A, ("crack", "sound")[n % 2]))
        for n in range(16)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    history = log.history()
    assert len({one.time for one in history}) == 16
    assert [one.replaces for one in history] == ["", *(one.id for one in history[:-1])]


def test_the_folder_is_readable_without_this_package(tmp_path: Path) -> None:
    log = VerdictLog(str(tmp_path))
    judge(log, "anna-0001", "anna", A, "crack")
    judge(log, "ben-00001", "ben", B, "sound")
    assert set(pd.read_json(tmp_path / "_verdicts" / "anna-0001.json", lines=True).columns) == set(
        VERDICTS_SCHEMA.names
    )
    assert ds.dataset(str(tmp_path / "_verdicts"), format="json").to_table()["reviewer"].to_pylist() == ["anna", "ben"]


def test_a_verdict_is_on_disk_when_the_process_is_killed(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from crackvae.storage.tables.verdicts import *; log = VerdictLog(sys.argv[1])\n"
        "log.append('acknowledged', 'anna', [Judgement(Subject('a'), 'crack')])\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=HOUSE, check=False)
    assert done.returncode == -9 and [one.id for one in VerdictLog(str(tmp_path)).history()] == ["acknowledged.0"]


def test_half_written_and_foreign_files_are_no_verdicts_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    log = VerdictLog(str(tmp_path))
    judge(log, "anna-0001", "anna", A, "crack")
    folder = tmp_path / "_verdicts"
    (folder / ".anna-0002.json.77.tmp").write_bytes(b"{")
    (folder / "notes.txt").write_text("ours")
    assert len(VerdictLog(str(tmp_path)).history()) == 1
    line = json.loads((folder / "anna-0001.json").read_text()) | {"verdict": "broken"}
    (folder / "anna-0003.json").write_text(json.dumps(line))
    with pytest.raises(StorageError, match=r"anna-0003\.json is damaged \(verdict"):
        VerdictLog(str(tmp_path))


@pytest.mark.parametrize("key", ["", "short", "../../etc/passwd", "a" * 81, "with space"])
def test_a_key_that_is_no_file_name_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match="8 to 80 letters"):
        judge(VerdictLog(str(tmp_path)), key, "anna", A, "crack")
    assert not (tmp_path / "_verdicts").exists()


def test_scores_without_verdicts_are_an_empty_table(tmp_path: Path) -> None:
    write_part(str(tmp_path), SCORES_SCHEMA.empty_table(), "20260101T000000_000000", 0)
    assert crackvae.read_verdicts(tmp_path).equals(VERDICTS_SCHEMA.empty_table())


@pytest.mark.parametrize("read", [crackvae.read_verdicts, lambda scores: logged_verdicts(str(scores))])
def test_verdicts_on_no_scores_are_an_error_and_not_an_empty_table(tmp_path: Path, read: Any) -> None:
    with pytest.raises(StorageError, match="nosuch holds no scores: name the folder that crackvae score wrote"):
        read(tmp_path / "nosuch")


def test_a_time_without_a_zone_is_a_damaged_record(tmp_path: Path) -> None:
    judge(VerdictLog(str(tmp_path)), "verdict-1", "anna", A, "crack")
    (file,) = (tmp_path / "_verdicts").glob("*.json")
    record = json.loads(file.read_text())
    file.write_text(json.dumps(record | {"time": "2026-11-30T15:00:00"}))
    with pytest.raises(StorageError, match=r"verdict-1\.json is damaged"):
        VerdictLog(str(tmp_path)).history()
