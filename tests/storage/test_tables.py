"""The tables: written whole, read only when they are what they should be; the CSV that no spreadsheet runs."""

import csv
import io
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crackvae.errors import StorageError
from crackvae.storage import tables

few = settings(derandomize=True, deadline=None, max_examples=60)


def scores(n: int, run: str = "run") -> pa.Table:
    """Rows of a scores table in which only the names mean something."""
    blank = {"string": "", "bool": False, "list<element: float>": [0.5, -0.5]}
    columns = {field.name: [blank.get(str(field.type), 0)] * n for field in tables.SCORES_SCHEMA}
    columns |= {"image": [f"/images/{i}.jpg" for i in range(n)], "tile_scores": [[0.5, -0.5]] * n, "run": [run] * n}
    return pa.table({name: pa.array(column) for name, column in columns.items()}).cast(tables.SCORES_SCHEMA)


def one_line(error: BaseException) -> str:
    message = str(error)
    assert message and "\n" not in message
    return message


# ---------------------------------------------------------------------------------------------------- tables


@few
@given(st.lists(st.text(max_size=3), max_size=12), st.text(max_size=3), st.text(max_size=3), st.integers(1, 4))
def test_row_groups_without_a_wanted_name_are_read_in_part(tmp_path_factory, names, low, high, group):
    place = tmp_path_factory.mktemp("parts") / "run-00000.parquet"
    rows = scores(len(names)).set_column(0, "image", pa.array(names, pa.string()))
    pq.write_table(rows, place, row_group_size=group)
    found = list(tables.each_part_between([str(place)], ["image", "model"], (low, high), ["model"]))
    whole = [part for part in found if "image" in part.column_names]
    assert sum(part.num_rows for part in found) == len(names)
    read = [name for part in whole for name in part["image"].to_pylist()]
    assert {name for name in names if low <= name <= high} <= set(read)
    assert len(read) == len(names) or all(part.column_names == ["model"] for part in found if part not in whole)


def test_the_rows_of_a_night_in_another_folder_are_not_read_whole(tmp_path):
    tables.write_part(str(tmp_path), scores(9), "run", 0)
    (part,) = tables.each_part_between(
        [str(tmp_path / "run-00000.parquet")], ["image"], ("/night/1", "/night/9"), ["run"]
    )
    assert part.column_names == ["run"] and part.num_rows == 9


def test_a_table_comes_back_with_its_types_and_its_metadata(tmp_path):
    place = str(tmp_path / "listing.parquet")
    table = pa.table({"n": pa.array([1, 2], pa.int64()), "more": ["x", "y"]}).replace_schema_metadata(
        {"groups": "none"}
    )
    tables.write_table(place, table)
    back = tables.read_table(place, pa.schema([("n", pa.int32())]))
    assert back.schema.names == ["n"] and back.schema.field("n").type == pa.int32()
    assert back["n"].to_pylist() == [1, 2] and back.schema.metadata[b"groups"] == b"none"


@pytest.mark.parametrize("table", [{"other": [1]}, {"n": ["not a number"]}, {"n": [2**40]}], ids=str)
def test_a_table_with_other_columns_is_refused_in_one_line(tmp_path, table):
    place = str(tmp_path / "listing.parquet")
    tables.write_table(place, pa.table(table))
    with pytest.raises(StorageError, match="not a whole table with the columns n") as caught:
        tables.read_table(place, pa.schema([("n", pa.int32())]))
    assert place in one_line(caught.value)


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
def test_a_table_that_was_copied_in_part_is_refused_in_one_line(tmp_path, kept):
    path = tmp_path / "scores.parquet"
    tables.write_table(str(path), scores(50))
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(StorageError, match="not a whole table") as caught:
        tables.read_table(str(path), tables.SCORES_SCHEMA)
    assert str(path) in one_line(caught.value)


def test_a_table_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"cannot read .*gone.parquet: No such file"):
        tables.read_table(str(tmp_path / "gone.parquet"), tables.MANIFEST_SCHEMA)


def test_parts_are_listed_by_run_and_read_back_in_order(tmp_path):
    folder = str(tmp_path)
    for run, number in [("20260102", 1), ("20260101", 0), ("20260102", 0)]:
        tables.write_part(folder, scores(2, run), run, number)
    for name in ("_summary-20260101.json", "20260101-00001.tmp", "20260101.csv", "x.parquet"):
        (tmp_path / name).write_bytes(b"")
    parts = tables.list_parts(folder)
    assert {run: [os.path.basename(place) for place in places] for run, places in parts.items()} == {
        "20260101": ["20260101-00000.parquet"],
        "20260102": ["20260102-00000.parquet", "20260102-00001.parquet"],
    }
    assert list(parts) == ["20260101", "20260102"]
    rows = tables.read_parts([place for places in parts.values() for place in places], ["run", "tile_scores"])
    assert rows["run"].to_pylist() == ["20260101"] * 2 + ["20260102"] * 4
    assert rows["tile_scores"].to_pylist() == [[0.5, -0.5]] * 6


def test_a_part_keeps_every_column_in_its_type(tmp_path):
    tables.write_part(str(tmp_path), scores(3), "run", 7)
    [place] = tables.list_parts(str(tmp_path))["run"]
    assert tables.read_parts([place], tables.SCORES_SCHEMA.names).equals(scores(3))


def test_no_parts_are_a_table_without_rows(tmp_path):
    assert tables.list_parts(str(tmp_path / "none yet")) == {}
    assert tables.read_parts([], ["image", "score"]).schema.names == ["image", "score"]


def test_a_run_is_later_than_those_beside_it_even_where_the_clock_was_set_back():
    assert tables.new_run() < tables.new_run(["nightly", "20261123T220010_123456"])
    assert tables.new_run(["20991123T220010_123456", "20261123T220010_999999"]) == "20991123T220010_123457"
    assert tables.new_run(["20991231T235959_999999"]) == "21000101T000000_000000"
    assert tables.new_run(["zz: not a name of ours"]).startswith("20")


def test_a_part_is_never_written_twice(tmp_path):
    tables.write_part(str(tmp_path), scores(1), "run", 0)
    with pytest.raises(AssertionError, match="share the run name 'run'"):
        tables.write_part(str(tmp_path), scores(1), "run", 0)


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_part_that_is_not_whole_is_named(tmp_path, kept):
    tables.write_part(str(tmp_path), scores(50), "run", 0)
    path = tmp_path / "run-00000.parquet"
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(StorageError, match="move it away and run again") as caught:
        tables.read_parts([str(path)], ["image"])
    assert str(path) in one_line(caught.value)


def test_a_part_of_another_table_is_named(tmp_path):
    pq.write_table(pa.table({"image": ["a"]}), tmp_path / "run-00000.parquet")
    with pytest.raises(StorageError, match=r"run-00000.parquet is not a whole part") as caught:
        tables.read_parts([str(tmp_path / "run-00000.parquet")], ["image", "score"])
    assert one_line(caught.value)


# ------------------------------------------------------------------------------------------------------- CSV


def cells(rows: pa.Table) -> list[list[str]]:
    return list(csv.reader(io.StringIO(bytes(tables.csv_bytes(rows)).decode(), newline="")))


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1+1"])
def test_a_formula_in_a_name_gets_an_apostrophe(text):
    assert cells(pa.table({"image": [text]})) == [["image"], [f"'{text}"]]


@few
@given(st.lists(st.text(), min_size=1, max_size=5))
def test_no_cell_of_a_csv_starts_a_formula_and_every_text_survives(texts):
    header, *rows = cells(pa.table({"image": texts, "n": range(len(texts))}))
    assert header == ["image", "n"] and len(rows) == len(texts)
    for i, (row, text) in enumerate(zip(rows, texts, strict=True)):
        assert row[0] in (text, f"'{text}") and row[1] == str(i)
        assert not row[0].startswith(tuple("=+-@\t\r\n＝＋－＠"))


def test_commas_quotes_and_line_ends_stay_inside_their_cell():
    table = pa.table({"image": ['a,"b"\nc', '=HYPERLINK("x",1)\r\n=2'], "group": ["ü", ""]})
    assert cells(table)[1:] == [['a,"b"\nc', "ü"], ['\'=HYPERLINK("x",1)\r\n=2', ""]]


def test_a_csv_has_the_columns_of_the_scores_without_the_lists_and_numbers_as_they_are():
    rows = scores(2).set_column(8, "score", pa.array([-0.5, float("nan")], pa.float32()))
    header, first, second = cells(rows)
    assert header == [name for name in tables.SCORES_SCHEMA.names if name != "tile_scores"]
    assert (first[8], second[8]) == ("-0.5", "nan")


def test_a_table_without_rows_is_a_header():
    assert len(cells(tables.SCORES_SCHEMA.empty_table())) == 1
