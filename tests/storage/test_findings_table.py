"""The findings table: which rows count, and how workers send them."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from crackvae.storage import tables
from crackvae.storage.tables import findings


def blank(schema: pa.Schema, **values: object) -> pa.Table:
    """One row of a schema; columns that are not given are null."""
    return pa.Table.from_pylist([values], schema=schema)


def found(image: str, run: str, length_px: float) -> pa.Table:
    trace = {"x_px": [1.0], "y_px": [1.0], "widths_px": [1.0], "width_mean_px": 1.0}
    return blank(findings.FINDINGS_SCHEMA, finding=run, image=image, model="m", run=run, length_px=length_px, **trace)


def test_findings_count_only_with_the_latest_row_of_their_image(tmp_path: Path) -> None:
    out = str(tmp_path)
    for run in ("20260101T000000_000000", "20260102T000000_000000"):
        tables.write_part(out, blank(tables.SCORES_SCHEMA, image="a", model="m", run=run), run, 0)
        both = pa.concat_tables([found("a", run, 5), found("a", run, 9), found("never scored", run, 1)])
        tables.write_part(findings.folder_of(out), both, run, 0)
    read = findings.read_findings(out, ["image", "run", "length_px"])
    assert read.to_pylist() == [
        {"image": "a", "run": "20260102T000000_000000", "length_px": length} for length in (9.0, 5.0)
    ]
    assert len(tables.list_parts(out)) == 2, "readers of the scores do not see the findings"


WHOLE, LEFT, RIGHT = "/o.TIF", "/o.TIF!/x=0,y=0,w=9,h=9", "/o.TIF!/x=5,y=0,w=9,h=9"


@pytest.mark.parametrize(
    ("runs", "counting"),
    [
        ([[LEFT, RIGHT], [WHOLE]], [WHOLE]),
        ([[WHOLE], [LEFT, RIGHT]], [LEFT, RIGHT]),
        ([[LEFT], [WHOLE], [RIGHT]], [LEFT, RIGHT]),  # the first of them was finished and is not scored again
        (
            [[WHOLE, "/o.tif!/page=2", "/p.tif"], ["/p.tif!/x=0,y=0,w=9,h=9"]],
            [WHOLE, "/o.tif!/page=2", "/p.tif!/x=0,y=0,w=9,h=9"],
        ),
    ],
)
def test_of_a_large_tiff_what_was_scored_later_counts_its_windows_or_the_whole(
    tmp_path: Path, runs: list[list[str]], counting: list[str]
) -> None:
    out = str(tmp_path)
    for number, images in enumerate(runs, start=1):
        run = f"2026010{number}T000000_000000"
        rows = [blank(tables.SCORES_SCHEMA, image=image, model="m", run=run) for image in images]
        tables.write_part(out, pa.concat_tables(rows), run, 0)
        with_findings = images if number == 1 else []  # of a later run no image has one
        traces = [findings.FINDINGS_SCHEMA.empty_table(), *(found(image, run, 9) for image in with_findings)]
        tables.write_part(findings.folder_of(out), pa.concat_tables(traces), run, 0)
    assert sorted(tables.read_scores(out, ["image"])["image"].to_pylist()) == sorted(counting)
    expected = sorted(set(counting) & set(runs[0]))
    assert sorted(findings.read_findings(out, ["image"])["image"].to_pylist()) == expected


SEEN = {
    "a": {"bytes": 1, "modified": datetime(2026, 1, 1, tzinfo=UTC)},
    "b": {"bytes": 2, "modified": datetime(2026, 1, 2, tzinfo=UTC)},
}
GONE = {"bytes": 0, "modified": datetime(1970, 1, 1, tzinfo=UTC)}


@pytest.mark.parametrize(
    ("runs", "counting"),
    [
        ([{"s.tif": "a", "s.tif!/page=2": "a", "1.jpg": "a"}, {"s.tif": "b"}], ["1.jpg", "s.tif"]),
        ([{"c.mp4!/t=0000.500": "a", "c.mp4!/t=0001.000": "a"}, {"c.mp4!/t=0000.520": "b"}], ["c.mp4!/t=0000.520"]),
        ([{"c.mp4": "a"}, {"c.mp4!/t=0000.520": "b"}], ["c.mp4!/t=0000.520"]),  # was damaged, and was copied again
        ([{"s.tif": "a", "s.tif!/page=2": "a"}, {"s.tif": ""}], ["s.tif", "s.tif!/page=2"]),  # not delivered
        ([{"s.tif": "a", "s.tif!/page=2": "a"}, {"s.tif": "a"}], ["s.tif", "s.tif!/page=2"]),
        ([{"o.tif!/x=0,y=0,w=9,h=9": "a"}, {"o.tif!/x=0,y=0,w=7,h=7": "b"}], ["o.tif!/x=0,y=0,w=7,h=7"]),
        ([{"z.zip!/1.jpg": "a", "z.zip!/s.tif!/page=2": "a"}, {"z.zip!/s.tif": "b"}], ["z.zip!/1.jpg", "z.zip!/s.tif"]),
    ],
)
def test_parts_of_an_earlier_version_of_a_file_do_not_count(
    tmp_path: Path, runs: list[dict[str, str]], counting: list[str]
) -> None:
    for number, images in enumerate(runs, start=1):
        run = f"2026010{number}T000000_000000"
        rows = [
            blank(tables.SCORES_SCHEMA, image=image, model="m", run=run, **SEEN.get(seen, GONE))
            for image, seen in images.items()
        ]
        tables.write_part(str(tmp_path), pa.concat_tables(rows), run, 0)
    assert tables.read_scores(str(tmp_path), ["image"])["image"].to_pylist() == counting


def test_a_table_without_findings_has_none(tmp_path: Path) -> None:
    tables.write_part(str(tmp_path), blank(tables.SCORES_SCHEMA, image="a", model="m", run="r"), "r", 0)
    assert findings.read_findings(str(tmp_path)).schema.equals(findings.FINDINGS_SCHEMA)


def test_findings_travel_as_one_column_of_scored_rows() -> None:
    one = found("a", "r", 3).to_pylist()
    column = pa.chunked_array(
        [pa.array([one, []], findings.FINDINGS_TYPE), pa.array([one * 2], findings.FINDINGS_TYPE)]
    )
    assert findings.rows_of(column).to_pylist() == one * 3
