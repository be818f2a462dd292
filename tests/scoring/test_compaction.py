"""Compaction: the table reads the same before, after, and when it is killed at any moment between."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import read_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crackvae.config import CompactConfig
from crackvae.errors import FolderInUse, StorageError
from crackvae.exports.rows import latest_images
from crackvae.reports.night_page.nights import has_rows, read_night
from crackvae.reports.page import PageSettings
from crackvae.reviewing.nights import ServedNights
from crackvae.scoring import compaction
from crackvae.scoring.compaction import compact, finish_compaction
from crackvae.scoring.run_table import finished_rows, still_to_score
from crackvae.storage import fileio, tables
from crackvae.storage.lock import locked
from crackvae.storage.names.run_files import csv_name

COLUMNS = tables.SCORES_SCHEMA.names


def rows(run: str, images: dict[str, str], model: str = "m") -> pa.Table:
    """Rows of one run, from the status of each image; the score tells the runs apart."""
    blank = {"string": "", "bool": False}
    columns = {field.name: [blank.get(str(field.type), 0)] * len(images) for field in tables.SCORES_SCHEMA}
    columns |= {"image": list(images), "status": list(images.values()), "tile_scores": [[0.5, -0.5]] * len(images)}
    columns |= {"run": [run] * len(images), "model": [model] * len(images), "score": [float(run)] * len(images)}
    return pa.table({name: pa.array(column) for name, column in columns.items()}).cast(tables.SCORES_SCHEMA)


def write_nights(folder: Path, nights: list[dict[str, str]], per_part: int = 3) -> None:
    for number, images in enumerate(nights):
        table = rows(f"{number}", images)
        for part, start in enumerate(range(0, table.num_rows, per_part)):
            tables.write_part(str(folder), table.slice(start, per_part), f"2026112{number}T0", part)


NIGHTS = [
    {f"/night/{image:02d}.jpg": "unreachable" if image % 5 == 0 else "scored" for image in range(12)},
    {f"/night/{image:02d}.jpg": "scored" for image in range(0, 20, 5)},
    {f"/night/{image:02d}.jpg": "scored" for image in range(10, 20)},
]


def merged(folder: Path) -> CompactConfig:
    return CompactConfig(scores=str(folder), quiet=True)


def test_the_parts_of_many_nights_become_one_with_the_latest_row_of_each_image(tmp_path: Path) -> None:
    write_nights(tmp_path, NIGHTS)
    before = tables.read_scores(str(tmp_path), COLUMNS)
    summary = compact(merged(tmp_path)).summary
    assert (summary["parts_before"], summary["parts"]) == (10, 1)
    assert (summary["rows_before"], summary["rows"], summary["superseded"]) == (26, 20, 6)
    plain = pq.read_table(tmp_path)
    assert plain.equals(before) and plain["image"].to_pylist() == sorted({*NIGHTS[0], *NIGHTS[1], *NIGHTS[2]})
    assert set(plain["status"].to_pylist()) == {"scored"} and len(os.listdir(tmp_path)) == 1


def test_a_table_that_is_merged_already_is_left_alone(tmp_path: Path) -> None:
    write_nights(tmp_path, NIGHTS)
    compact(merged(tmp_path))
    (part,) = tmp_path.iterdir()
    before = part.stat()
    summary = compact(merged(tmp_path)).summary
    assert summary["superseded"] == 0 and part.stat().st_ino == before.st_ino


def test_every_model_keeps_its_own_latest_row(tmp_path: Path) -> None:
    for run, model in (("1", "a"), ("2", "b"), ("3", "a")):
        tables.write_part(str(tmp_path), rows(run, {"/1.jpg": "scored"}, model), run, 0)
    compact(merged(tmp_path))
    kept = pq.read_table(tmp_path).select(["model", "run"]).to_pylist()
    assert kept == [{"model": "a", "run": "3"}, {"model": "b", "run": "2"}]


def test_a_finding_under_a_name_that_was_used_again_stays(tmp_path: Path) -> None:
    """Run 1 flags a photograph; 2 is the same file synchronised again, 3 another photograph, 4 the next card."""
    versions = [("1", 100, 0.9, True), ("2", 100, 0.9, True), ("3", 120, 0.1, False), ("4", 120, 0.8, True)]
    for run, n_bytes, score, flagged in [*versions, ("5", 120, 0.2, False)]:
        row = rows(run, {"/card/DJI_0001.JPG": "scored"})
        for name, value in (("bytes", n_bytes), ("score", score), ("flagged", flagged)):
            number = row.schema.get_field_index(name)
            row = row.set_column(number, row.schema.field(name), pa.array([value], row.schema.field(name).type))
        tables.write_part(str(tmp_path), row, run, 0)
    for _ in range(2):
        compact(merged(tmp_path))
        kept = pq.read_table(tmp_path).select(["run", "flagged"]).to_pylist()
        assert [(row["run"], row["flagged"]) for row in kept] == [("2", True), ("4", True), ("5", False)]
        (latest,) = tables.read_scores(str(tmp_path), ["run"])["run"].to_pylist()
        assert latest == "5"


def test_a_finding_of_other_bytes_stays_though_size_and_score_are_the_same(tmp_path: Path) -> None:
    for run, content in (("1", "a"), ("2", "b"), ("3", "b")):
        row = rows("7", {"/card/DJI_0001.JPG": "scored"})
        for name, value in (("run", run), ("content", content), ("flagged", True)):
            number = row.schema.get_field_index(name)
            row = row.set_column(number, row.schema.field(name), pa.array([value], row.schema.field(name).type))
        tables.write_part(str(tmp_path), row, run, 0)
    compact(merged(tmp_path))
    assert pq.read_table(tmp_path)["run"].to_pylist() == ["1", "3"]


def of_file(run: str, names: list[str], n_bytes: int, model: str = "m", *, flagged: bool = False) -> pa.Table:
    """Rows of parts of a file of a size."""
    table = rows(run, dict.fromkeys(names, "scored"), model)
    for name, value in (("bytes", n_bytes), ("flagged", flagged)):
        at = table.schema.get_field_index(name)
        table = table.set_column(
            at, table.schema.field(at), pa.array([value] * len(names), table.schema.field(at).type)
        )
    return table


def test_pages_that_a_replaced_file_has_no_more_go_unless_they_are_flagged(tmp_path: Path, monkeypatch) -> None:
    pages = [f"/night/a.tif!/page={number}" for number in (1, 2, 3)]
    tables.write_part(str(tmp_path), of_file("1", pages[:2], 900), "1", 0)
    tables.write_part(str(tmp_path), of_file("1", pages[2:], 900, flagged=True), "1", 1)
    tables.write_part(str(tmp_path), of_file("2", pages[:1], 300), "2", 0)
    monkeypatch.setattr(compaction, "PART_ROWS", 1)  # a bucket for each row, but not of one file
    compact(merged(tmp_path))
    assert sorted(read_rows(tmp_path)["image"].to_pylist()) == [pages[0], pages[2]]
    assert tables.read_scores(str(tmp_path), ["image"])["image"].to_pylist() == pages[:1]


def test_of_windows_by_one_model_and_the_whole_by_another_the_later_count_where_any_model_does(tmp_path: Path) -> None:
    windows = [f"/night/a.tif!/x={x},y=0,w=9,h=9" for x in (0, 9)]
    tables.write_part(str(tmp_path), of_file("1", windows, 900, "old"), "1", 0)
    tables.write_part(str(tmp_path), of_file("2", ["/night/a.tif"], 900, "new"), "2", 0)
    assert tables.read_scores(str(tmp_path), ["image"]).num_rows == 3, "each model has its own"
    assert latest_images(str(tmp_path), ["image"])["image"].to_pylist() == ["/night/a.tif"]
    for columns in (tables.SCORES_SCHEMA.names, ["image", "run"]):
        found = tables.latest_of_each(tables.read_scores(str(tmp_path), columns))
        assert found["image"].to_pylist() == ["/night/a.tif"]


def test_a_replaced_image_is_finished_before_and_after_compaction(tmp_path: Path) -> None:
    for run, n_bytes, flagged in (("1", 100, True), ("2", 120, False)):
        row = rows(run, {"/night/a.jpg": "scored"})
        for name, value in (("bytes", n_bytes), ("flagged", flagged)):
            number = row.schema.get_field_index(name)
            row = row.set_column(number, row.schema.field(name), pa.array([value], row.schema.field(name).type))
        tables.write_part(str(tmp_path), row, run, 0)
    listed = row.select(["image", "bytes", "modified"])
    for _ in range(2):
        finished = finished_rows(str(tmp_path), listed["image"])
        todo = still_to_score(listed, finished, "m", 0.0).images
        assert todo.num_rows == 0
        compact(merged(tmp_path))
    assert pq.read_table(tmp_path).num_rows == 2


@settings(derandomize=True, deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.dictionaries(st.integers(0, 12).map("/night/{}.jpg".format), st.sampled_from(["scored", "unreachable"]),
             min_size=1), min_size=1, max_size=5),
    st.integers(1, 5), st.integers(1, 8),
)  # fmt: skip
def test_compaction_changes_no_latest_row_however_the_rows_lie(
    tmp_path: Path, nights: list[dict[str, str]], per_part: int, per_merged: int
) -> None:
    folder = tmp_path / "scores"
    shutil.rmtree(folder, ignore_errors=True)
    write_nights(folder, nights, per_part)
    latest = {image: (status, float(number)) for number, night in enumerate(nights) for image, status in night.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "PART_ROWS", per_merged)
        compact(merged(folder))
    table = pq.read_table(folder).to_pylist()
    assert {row["image"]: (row["status"], row["score"]) for row in table} == latest and len(table) == len(latest)
    if len(nights) > 1:
        assert max(pq.read_metadata(path).num_rows for path in folder.iterdir()) <= 2 * per_merged


@pytest.mark.slow
def test_a_kill_after_any_step_leaves_the_table_unchanged_and_the_next_run_cleans_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_nights(tmp_path / "0", NIGHTS)
    tables.write_csv(str(tmp_path / "0" / csv_name("20261120T0")), [], ["image"])
    wanted = tables.read_scores(str(tmp_path / "0"), COLUMNS)
    monkeypatch.setattr(compaction, "PART_ROWS", 6)
    steps = ("write_bytes", "move_file", "delete_file")
    real = {name: getattr(fileio, name) for name in steps}
    for survived in range(100):
        folder = tmp_path / f"{survived + 1}"
        shutil.copytree(tmp_path / "0", folder)
        left = [survived]

        def dies(name: str, left: list[int] = left) -> object:
            def step(*arguments: object) -> object:
                if left[0] == 0:
                    raise SystemExit("killed")
                left[0] -= 1
                return real[name](*arguments)

            return step

        with monkeypatch.context() as patch:
            for name in steps:
                patch.setattr(fileio, name, dies(name))
            patch.setattr(fileio, "write_bytes", dies("write_bytes"))
            try:
                compact(merged(folder))
                died = False
            except SystemExit:
                died = True
        assert tables.read_scores(str(folder), COLUMNS).equals(wanted), f"after {survived} steps"
        for path in folder.glob("_lock-*"):
            path.unlink()  # of a process that has died; here it is this one
        compact(merged(folder))
        assert pq.read_table(folder).sort_by("image").equals(wanted), f"after {survived} steps and a second run"
        assert not [path.name for path in folder.iterdir() if path.name.startswith(("_staged", "_compact", "_lock"))]
        if not died:
            break
    assert survived > 15 and not died


@pytest.mark.slow
def test_a_sigkill_at_a_random_moment_leaves_a_table_that_reads_the_same_and_no_scratch(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path, scratch = tmp_path_factory.mktemp("scores"), tmp_path_factory.mktemp("scratch")
    monkeypatch.setenv("TMPDIR", str(scratch))
    write_nights(tmp_path, NIGHTS, per_part=1)
    wanted = tables.read_scores(str(tmp_path), COLUMNS)
    code = (
        "import sys; from crackvae.scoring import compaction; from crackvae.config import CompactConfig\n"
        "compaction.PART_ROWS = 4; print(flush=True)\n"
        "compaction.compact(CompactConfig(scores=sys.argv[1], quiet=True))"
    )
    for delay_ms in (0, 10, 20, 40, 80):
        child = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE)
        assert child.stdout is not None and child.stdout.readline() == b"\n"
        try:
            child.wait(delay_ms / 1000)
        except subprocess.TimeoutExpired:
            child.kill()
        child.communicate()
        assert tables.read_scores(str(tmp_path), COLUMNS).equals(wanted)
        assert not list(scratch.iterdir())
    compact(merged(tmp_path))
    assert pq.read_table(tmp_path).sort_by("image").equals(wanted)


def test_a_compaction_waits_for_no_run_and_disturbs_none(tmp_path: Path) -> None:
    write_nights(tmp_path, NIGHTS)
    with locked(str(tmp_path), "0-tonight", quiet=True), pytest.raises(FolderInUse, match="run 0-tonight"):
        compact(merged(tmp_path))
    assert len(list(tmp_path.glob("*.parquet"))) == 10


def test_csv_files_of_merged_runs_become_one(tmp_path: Path) -> None:
    write_nights(tmp_path, NIGHTS)
    for run, parts in tables.list_parts(str(tmp_path)).items():
        tables.write_csv(str(tmp_path / csv_name(run)), parts, tables.CSV_COLUMNS)
    compact(merged(tmp_path))
    (csv,) = tmp_path.glob("_scores-*.csv")
    assert len(csv.read_text().splitlines()) == 21


def test_a_damaged_part_or_no_table_is_named_and_nothing_is_merged(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="holds no scores table"):
        compact(merged(tmp_path))
    write_nights(tmp_path, NIGHTS)
    part = sorted(tmp_path.glob("*.parquet"))[4]
    part.write_bytes(part.read_bytes()[:-7])
    with pytest.raises(StorageError, match=part.name):
        compact(merged(tmp_path))
    assert len(list(tmp_path.iterdir())) == 10
    finish_compaction(str(tmp_path))
    assert len(list(tmp_path.iterdir())) == 10


@pytest.mark.parametrize(("ended", "shown"), [("ab", "c"), ("a", "bc"), ("", "abc")])
def test_the_page_after_a_compaction_shows_its_run_and_those_that_were_killed_before_they_had_a_page(
    tmp_path: Path, ended: str, shown: str
) -> None:
    scores = str(tmp_path)
    for run, image in (("20261121T000000", "a"), ("20261122T000000", "b"), ("20991123T000000", "c")):
        table = rows("1", {f"/night/{image}.jpg": "scored"})
        number = table.schema.get_field_index("run")
        table = table.set_column(number, table.schema.field("run"), pa.array([run]))
        tables.write_part(scores, table, run, 0)
        if image in ended:
            (tmp_path / f"_summary-{run}.json").write_text("{}")
        if image == "b":
            compact(merged(tmp_path))
    assert has_rows(scores, "20991123T000000")
    night = read_night(scores, "20991123T000000")
    assert night.rows["image"].to_pylist() == [f"/night/{image}.jpg" for image in shown]
    assert night.interrupted == [{"a": "20261121T000000", "b": "20261122T000000"}[one] for one in shown[:-1]]


def test_after_a_compaction_every_run_and_every_round_of_shards_has_the_page_that_it_had(tmp_path: Path) -> None:
    scores, of_shard = str(tmp_path), "2026112{}T000000_{}.{}of2"
    runs = ["20261121T000000_0", *(of_shard.format(day, shard, shard) for day in (2, 3) for shard in (1, 2))]
    for run in runs:
        table = rows("1", {f"/night/{run}.jpg": "scored"})
        number = table.schema.get_field_index("run")
        tables.write_part(scores, table.set_column(number, table.schema.field("run"), pa.array([run])), run, 0)
        (tmp_path / f"_summary-{run}.json").write_text("{}")

    def shown() -> dict[str, list[str]]:
        return {run: sorted(read_night(scores, run).rows["image"].to_pylist()) for run in ("", *runs)}

    before = shown()
    assert before[""] == [f"/night/{run}.jpg" for run in runs[3:]] and len(before[runs[0]]) == 1
    compact(merged(tmp_path))
    assert shown() == before and read_night(scores, "").run == runs[-1]
    nights = ServedNights(scores, PageSettings())
    assert list(nights.runs()) == runs and list(nights.rows(runs[0])) == before[runs[0]]


def test_a_run_whose_rows_a_compaction_has_dropped_is_not_said_to_have_scored_nothing(tmp_path: Path) -> None:
    for run in ("20261121", "20261122"):
        tables.write_part(str(tmp_path), rows(run, {"/night/a.jpg": "scored"}), run, 0)
        (tmp_path / f"_summary-{run}.json").write_text("{}")
    compact(merged(tmp_path))
    with pytest.raises(StorageError, match=r"run 20261121 has no page.* a later run has scored the same images again"):
        read_night(str(tmp_path), "20261121")


def test_the_parts_of_a_compaction_are_looked_into_once_by_the_server_and_not_for_the_page_of_a_later_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, read, each_part = str(tmp_path), list[str](), tables.each_part

    def of_runs(paths: Iterable[str], columns: Sequence[str]) -> Iterator[pa.Table]:
        paths = list(paths)
        read.extend(paths if columns == ["run"] else [])
        return each_part(paths, columns)

    def ended(day: str, image: str) -> None:
        tables.write_part(scores, rows(day, {f"/night/{image}.jpg": "scored"}), day, 0)
        (tmp_path / f"_summary-{day}.json").write_text("{}")

    ended("20261121", "a")
    ended("20261122", "b")
    compact(merged(tmp_path))
    monkeypatch.setattr(tables, "each_part", of_runs)
    nights = ServedNights(scores, PageSettings())
    assert list(nights.runs()) == ["20261121", "20261122"] and len(read) == 1
    ended("20991123", "c")
    assert list(nights.runs()) == ["20261121", "20261122", "20991123"] and len(read) == 1
    ended("20991124", "d")
    assert read_night(scores, "").rows["image"].to_pylist() == ["/night/d.jpg"] and len(read) == 1


def test_a_page_of_all_runs_is_by_the_model_of_the_last_one_after_a_compaction_too(tmp_path: Path) -> None:
    for run, model in (("1", "z-old"), ("2", "a-new")):
        tables.write_part(str(tmp_path), rows(run, {"/night/a.jpg": "scored"}, model), run, 0)
    compact(merged(tmp_path))
    night = read_night(str(tmp_path), "all")
    assert night.rows["model"].to_pylist() == ["a-new"] and night.of_other_models == 1


def test_rows_of_a_killed_run_are_on_the_page_of_the_next_call_alone_though_it_had_nothing_to_score(
    tmp_path: Path,
) -> None:
    scores = str(tmp_path)
    tables.write_part(scores, rows("20261121", {"/night/a.jpg": "scored"}), "20261121", 0)
    assert has_rows(scores, "20261122") and read_night(scores, "20261121").rows.num_rows == 1
    (tmp_path / "_summary-20261122.json").write_text("{}")
    tables.write_part(scores, rows("20261123", {"/night/b.jpg": "scored"}), "20261123", 0)
    assert read_night(scores, "20261122").rows["image"].to_pylist() == ["/night/a.jpg"]
    assert read_night(scores, "20261123").rows["image"].to_pylist() == ["/night/b.jpg"]
