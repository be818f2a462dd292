"""The findings table: which rows count, and how workers send them."""

from pathlib import Path

import pyarrow as pa

from crackvae.storage import tables
from crackvae.storage.tables import findings


def blank(schema: pa.Schema, **values: object) -> pa.Table:
    """One row of a schema; columns that are not given are null."""
    return pa.Table.from_pylist([values], schema=schema)


def found(image: str, run: str, length_px: float) -> pa.Table:
    return blank(findings.FINDINGS_SCHEMA, finding=run, image=image, model="m", run=run, length_px=length_px)


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


def test_a_table_without_findings_has_none(tmp_path: Path) -> None:
    tables.write_part(str(tmp_path), blank(tables.SCORES_SCHEMA, image="a", model="m", run="r"), "r", 0)
    assert findings.read_findings(str(tmp_path)).schema.equals(findings.FINDINGS_SCHEMA)


def test_findings_travel_as_one_column_of_scored_rows() -> None:
    one = found("a", "r", 3).to_pylist()
    column = pa.chunked_array(
        [pa.array([one, []], findings.FINDINGS_TYPE), pa.array([one * 2], findings.FINDINGS_TYPE)]
    )
    assert findings.rows_of(column).to_pylist() == one * 3
