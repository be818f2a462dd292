"""The table of changes: several comparisons in one folder."""

from pathlib import Path

import pyarrow as pa

from crackvae.storage import tables
from crackvae.storage.tables import changes
from crackvae.storage.tables.findings import FINDINGS_SCHEMA
from crackvae.storage.tables.verdicts import Judgement, Subject, VerdictLog, standing_in


def found(run: str, image: str, finding: str, **values: object) -> dict[str, object]:
    row = {"finding": finding, "history": finding, "image": image, "previous_image": f"old {image}", "run": run}
    row["previous"] = ""
    return row | {"kind": "crack", "status": "new", "verdict": ""} | values


def write(folder: Path, run: str, *rows: dict[str, object]) -> str:
    pairs = pa.Table.from_pylist([{"image": row["image"], "run": run} for row in rows], schema=changes.PAIRS_SCHEMA)
    return changes.write_changes(str(folder), pa.Table.from_pylist(rows, schema=changes.CHANGES_SCHEMA), pairs, run)


def test_of_a_pair_that_was_compared_twice_the_last_comparison_counts(tmp_path: Path) -> None:
    write(tmp_path, "1", found("1", "a", "f1"), found("1", "b", "f2"))
    csv = write(tmp_path, "2", found("2", "a", "f3"))
    rows = changes.read_changes(str(tmp_path)).to_pylist()
    assert [(row["run"], row["finding"]) for row in rows] == [("1", "f2"), ("2", "f3")]
    assert Path(csv).read_text().splitlines()[0].startswith('"finding","previous","history"')
    assert tables.read_table(changes.pairs_path(str(tmp_path), "2"), changes.PAIRS_SCHEMA).num_rows == 1
    assert changes.read_changes(str(tmp_path / "missing")).num_rows == 0


def test_findings_have_the_status_of_the_last_comparison_by_their_model(tmp_path: Path) -> None:
    folder = Path(changes.folder_of(str(tmp_path)))
    write(folder, "1", found("1", "a", "f1", model="m"), found("1", "a", "", previous="f0", status="gone", model="m"))
    write(
        folder,
        "2",
        found("2", "b", "f2", previous="f1", status="grown", model="m"),
        found("2", "b", "f3", status="not seen", model="m"),
        found("2", "b", "", previous="f1", status="unmatched", model="m"),
        found("2", "b", "f4", model="another"),
    )
    rows = pa.Table.from_pylist(
        [{"finding": f"f{number}", "model": "m", "status": "", "previous": ""} for number in range(5)],
        schema=FINDINGS_SCHEMA,
    )
    read = changes.with_status(rows, str(tmp_path))
    assert read.schema.equals(FINDINGS_SCHEMA)
    assert read["status"].to_pylist() == ["gone", "new", "grown", "", ""]
    assert read["previous"].to_pylist() == ["", "", "f1", "", ""]


def test_histories_follow_a_finding_and_counts_leave_out_joints(tmp_path: Path) -> None:
    write(tmp_path, "1", found("1", "a", "f1"), found("1", "a", "", previous="f0", status="gone"))
    write(tmp_path, "2", found("2", "b", "f2", history="f1", status="grown"), found("2", "b", "f4", kind="joint"))
    rows = changes.read_changes(str(tmp_path))
    later = pa.Table.from_pylist(
        [found("3", "c", "f5", history="f2"), found("3", "c", "f6", history="f9")], changes.CHANGES_SCHEMA
    )
    assert changes.with_histories(later, rows)["history"].to_pylist() == ["f1", "f9"]
    assert changes.counts(rows) == {"new": 1, "grown": 1, "static": 0, "gone": 1, "not seen": 0, "unmatched": 0}


def test_a_verdict_on_the_later_finding_counts_before_one_on_the_earlier_one(tmp_path: Path) -> None:
    spring, autumn = str(tmp_path / "spring"), str(tmp_path / "autumn")

    def judge(scores: str, reviewer: str, verdicts: dict[tuple[str, str], str]) -> None:
        judged = [Judgement(Subject(*subject), verdict) for subject, verdict in verdicts.items()]  # type: ignore[arg-type]
        VerdictLog(scores).append(f"verdicts-of-{reviewer}", reviewer, judged)

    earlier = {("old a", f"e{n}"): "sound" for n in range(5)} | {("old b", ""): "joint", ("old c", ""): "sound"}
    judge(spring, "anna", earlier)
    judge(autumn, "anna", {("a", "f1"): "crack", ("a", "f2"): "crack", ("a", "f4"): "joint", ("c", ""): "crack"})
    judge(autumn, "ben", {("a", "f2"): "sound", ("b", ""): "sound"})
    statuses = ("grown", *["static"] * 4)
    rows = [found("1", "a", f"f{n}", previous=f"e{n}", status=status) for n, status in enumerate(statuses)]
    rows += [found("1", "b", "", previous="e5", status="gone"), found("1", "b", "f6"), found("1", "a", "f7")]
    rows += [found("1", "c", "f8", previous="e8"), found("1", "c", "f9", kind="joint")]
    table = pa.Table.from_pylist(rows, changes.CHANGES_SCHEMA)
    judged = changes.with_verdicts(table, standing_in(spring), standing_in(autumn))
    assert judged["verdict"].to_pylist() == [
        *("", "crack", "", "sound", "joint"),  # f0 has grown since; f2: reviewers disagree about it now
        *("joint", "sound", ""),  # what is gone is not on the later photograph, whose verdict says nothing about it
        *("", ""),  # f8: the later photograph, called cracked, was sound before
    ]
    assert {status: n for status, n in changes.counts(judged).items() if n} == {"grown": 1, "static": 2, "new": 2}
    assert changes.refuted(judged)["status"].to_pylist() == ["static", "static", "gone", "new"]


def test_changes_of_an_earlier_version_have_no_verdict(tmp_path: Path) -> None:
    write(tmp_path, "1", found("1", "a", "f1"))
    (part,) = tables.list_parts(str(tmp_path))["1"]
    tables.write_table(part, tables.read_table(part, changes.CHANGES_SCHEMA).drop_columns(["verdict"]))
    assert changes.read_changes(str(tmp_path))["verdict"].to_pylist() == [""]


def test_a_last_comparison_that_found_nothing_counts_too(tmp_path: Path) -> None:
    write(tmp_path, "1", found("1", "a", "f1"), found("1", "b", "f2"))
    pair = {"image": "a", "previous_image": "old a", "run": "2", "status": "nothing found"}
    pairs = pa.Table.from_pylist([pair], changes.PAIRS_SCHEMA)
    changes.write_changes(str(tmp_path), changes.CHANGES_SCHEMA.empty_table(), pairs, "2")
    assert changes.read_changes(str(tmp_path))["finding"].to_pylist() == ["f2"]
