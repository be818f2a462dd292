"""A rerun takes what this model has not finished, and nothing else."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from findings_made import blank
from hypothesis import given, settings
from hypothesis import strategies as st

from crackvae.errors import StorageError
from crackvae.scoring.run_table import RunTable, still_to_score
from crackvae.storage import tables
from crackvae.storage.content import content_key
from crackvae.storage.listing import LISTING_SCHEMA, list_images
from crackvae.storage.tables.findings import FINDINGS_SCHEMA


def listing(**columns) -> pa.Table:
    n = len(columns["image"])
    filled = {"bytes": [1] * n, "modified": [1] * n, "error": [""] * n} | columns
    return pa.table(filled).select(LISTING_SCHEMA.names).cast(LISTING_SCHEMA)


def finished(rows: list[tuple[str, int, int, str, str]]) -> pa.Table:
    """Image, bytes, modified, model and status of images in a scores table, all with the threshold 0.5."""
    names = ("image", "bytes", "modified", "model", "status")
    types = [*LISTING_SCHEMA.types[:3], pa.string(), pa.string()]
    columns = [[row[number] for row in rows] for number in range(5)]
    table = pa.table([pa.array(column, kind) for column, kind in zip(columns, types, strict=True)], names=names)
    table = table.append_column("error", pa.array([""] * len(rows), pa.string()))
    table = table.append_column("content", pa.array([""] * len(rows), pa.string()))
    table = table.append_column("untraced", pa.array([False] * len(rows), pa.bool_()))
    return table.append_column("threshold", pa.array([0.5] * len(rows), pa.float32()))


def left_of(images: pa.Table, done: list[pa.Table], model: str) -> pa.Table:
    return still_to_score(images, done, model, 0.5).images


def test_a_rerun_takes_what_this_model_has_not_finished():
    names = ["changed", "grown", "new", "other model", "scored", "unreachable", "unreadable"]
    images = listing(image=names, modified=[2, 1, 1, 1, 1, 1, 1], bytes=[1, 2, 1, 1, 1, 1, 1])
    done = finished(
        [
            ("changed", 1, 1, "new", "scored"),
            ("grown", 1, 1, "new", "scored"),
            ("other model", 1, 1, "old", "scored"),
            ("scored", 1, 1, "new", "scored"),
            ("unreachable", 1, 1, "new", "unreachable"),
            ("unreadable", 1, 1, "new", "unreadable"),
            ("deleted since", 1, 1, "new", "scored"),
        ]
    )
    todo = left_of(images, [done], "new")
    assert todo["image"].to_pylist() == ["changed", "grown", "new", "other model", "unreachable"]
    assert todo.schema.names == LISTING_SCHEMA.names


def test_the_latest_row_of_an_image_counts():
    lost = finished([("a", 1, 1, "m", "unreachable"), ("b", 1, 1, "m", "scored"), ("c", 1, 1, "m", "scored")])
    found = finished([("a", 1, 1, "m", "scored"), ("b", 2, 2, "m", "scored"), ("c", 1, 1, "m", "unreadable")])
    todo = left_of(listing(image=["a", "b", "c"]), [lost, found], "m")
    assert todo["image"].to_pylist() == ["b"]  # changed and changed back: its row is that of the other picture


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 1)), unique_by=lambda image: image[0]),
    st.lists(
        st.lists(
            st.tuples(
                st.integers(0, 6), st.integers(0, 1), st.sampled_from("mo"), st.sampled_from(["scored", "unreachable"])
            ),
            unique_by=lambda row: (row[0], row[2]),
        )
    ),
)
def test_what_is_left_is_what_a_dictionary_of_latest_rows_says(listed, parts):
    images = listing(image=[str(image) for image, _ in listed], modified=[modified for _, modified in listed])
    latest = {row[0]: row for part in parts for row in part if row[2] == "m"}
    left = [str(image) for image, modified in listed if latest.get(image, ())[1:] != (modified, "m", "scored")]
    done = [finished([(str(row[0]), 1, *row[1:]) for row in part]) for part in parts]
    assert left_of(images, done, "m")["image"].to_pylist() == left


def test_everything_is_to_do_in_its_order_where_nothing_is_done():
    todo = left_of(listing(image=["b", "c", "a"]), [], "m")
    assert todo["image"].to_pylist() == ["b", "c", "a"]


def test_a_listed_folder_with_groups_keeps_its_groups(drawn):
    images = list_images(str(drawn)).images
    with_group = images.append_column("group", pa.array(["bridge"] * images.num_rows))
    todo = left_of(with_group, [], "m")
    assert todo["image"].to_pylist() == images["image"].to_pylist() and set(todo["group"].to_pylist()) == {"bridge"}


def test_rows_of_this_model_with_another_threshold_are_counted():
    done = finished([("a", 1, 1, "m", "scored"), ("b", 1, 1, "m", "scored"), ("c", 1, 1, "other", "scored")])
    left = still_to_score(listing(image=["a", "d"]), [done, done.slice(0, 1)], "m", 0.25)
    assert left.images["image"].to_pylist() == ["d"] and left.older == 3
    elsewhere = done.select(["model", "threshold"])
    assert still_to_score(listing(image=["d"]), [elsewhere], "m", 0.25).older == 2
    assert still_to_score(listing(image=["a"]), [done], "m", 0.5).older == 0


def test_another_photograph_of_the_same_name_size_and_time_is_scored(tmp_path):
    names = [str(tmp_path / f"{number}.bmp") for number in range(4)]
    for number, name in enumerate(names):
        Path(name).write_bytes(bytes([number]) * 200_000)
    done = finished([(name, 1, 1, "m", "scored") for name in names])
    keys = [content_key(Path(name).read_bytes()) for name in names]
    done = done.set_column(done.schema.get_field_index("content"), "content", pa.array([*keys[:3], ""]))
    Path(names[1]).write_bytes(bytes([9]) * 200_000)
    Path(names[2]).unlink()
    Path(names[3]).write_bytes(bytes([9]) * 200_000)  # its row is of a version that kept no key
    assert left_of(listing(image=names), [done], "m")["image"].to_pylist() == names[1:3]


def test_rows_whose_write_failed_are_written_by_the_next_one_and_the_error_is_that_of_the_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_part, full = tables.write_part, [True]

    def no_space(folder: str, *rest: Any) -> None:
        if full and folder == str(tmp_path):
            raise StorageError("no space left")
        write_part(folder, *rest)

    monkeypatch.setattr(tables, "write_part", no_space)
    table = RunTable(str(tmp_path), "20261122T010000")
    table._findings, table._waiting = (
        [pa.Table.from_pylist([blank(schema)], schema)] for schema in (FINDINGS_SCHEMA, tables.SCORES_SCHEMA)
    )
    with pytest.raises(StorageError, match="no space left"), table:
        table.write()
    full.clear()
    table.write()
    assert len(list(tmp_path.rglob("*.parquet"))) == 2


def test_an_image_whose_cracks_were_not_traced_comes_again_where_they_are_to_be():
    done = finished([("a", 1, 1, "m", "scored"), ("b", 1, 1, "m", "scored")])
    done = done.set_column(done.schema.get_field_index("untraced"), "untraced", pa.array([True, False]))
    for traces, left in ((True, ["a"]), (False, [])):
        todo = still_to_score(listing(image=["a", "b"]), [done], "m", 0.5, traces=traces).images
        assert todo["image"].to_pylist() == left


def test_an_image_over_the_limit_of_pixels_comes_again_when_the_limit_is_raised():
    errors = ["4608x3328 px is over the limit of 5 Mpx", "9000x9000 px is over the limit of 50 Mpx of its format"]
    done = finished([("a", 1, 1, "m", "unreadable"), ("b", 1, 1, "m", "unreadable")])
    done = done.set_column(done.schema.get_field_index("error"), "error", pa.array(errors))
    for limit, left in ((4, []), (5, []), (160, ["a"])):
        todo = still_to_score(listing(image=["a", "b"]), [done], "m", 0.5, max_megapixels=limit).images
        assert todo["image"].to_pylist() == left
