"""The tables and their schemas: written whole, read only when they are what they should be."""

import re
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from crackvae.errors import StorageError
from crackvae.storage import exists, join, list_files, open_input, read_bytes, reason, write_bytes

MANIFEST_SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("label", pa.string()),  # non_crack | crack
        ("group", pa.string()),
        ("set", pa.string()),  # internal | external
        ("split", pa.string()),  # train | val | test
        ("sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("bytes", pa.int64()),
    ]
)
SCORES_SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("group", pa.string()),
        ("status", pa.string()),  # scored | unreadable | unreachable
        ("error", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("bytes", pa.int64()),
        ("modified", pa.timestamp("us", tz="UTC")),
        ("score", pa.float32()),
        ("p_value", pa.float64()),
        ("threshold", pa.float32()),
        ("flagged", pa.bool_()),
        ("rows", pa.int32()),
        ("cols", pa.int32()),
        ("tile_scores", pa.list_(pa.float32())),
        ("worst_x", pa.int32()),  # left edge of the worst tile in the upright image [px]
        ("worst_y", pa.int32()),
        ("model", pa.string()),  # digest
        ("run", pa.string()),
    ]
)


_PART_NAME = re.compile(r"(?P<run>.+)-\d{5}\.parquet")


def read_table(place: str, schema: pa.Schema, *, keep_others: bool = False) -> pa.Table:
    """A Parquet table that must have the columns of `schema`, in those types; schema metadata is kept.

    Further columns are dropped, or with `keep_others` stand behind them as they are.

    Raises:
        StorageError: not there, not whole, or with other columns.
    """
    return parse_table(read_bytes(place), place, schema, keep_others=keep_others)


def parse_table(data: bytes, place: str, schema: pa.Schema, *, keep_others: bool = False) -> pa.Table:
    """read_table() of bytes that are read already; `place` is named in the error."""
    try:
        table = pq.read_table(pa.BufferReader(data))
        if keep_others:
            schema = pa.schema([*schema, *(field for field in table.schema if field.name not in schema.names)])
        return table.select(schema.names).cast(schema.with_metadata(table.schema.metadata))
    except (pa.ArrowException, OSError, KeyError) as error:
        raise StorageError(
            f"{place} is not a whole table with the columns {', '.join(schema.names)} ({reason(error)}): "
            "make it again, or name another file."
        ) from error


def parquet_bytes(table: pa.Table) -> memoryview:
    """The content of a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return memoryview(sink.getvalue())


def write_table(place: str, table: pa.Table) -> None:
    """Write a Parquet file whole or not at all."""
    write_bytes(place, parquet_bytes(table))


def write_part(folder: str, rows: pa.Table, run: str, number: int) -> None:
    """Write one numbered part of a table; `run` is unique, so no part is written twice."""
    place = join(folder, f"{run}-{number:05d}.parquet")
    assert not exists(place), f"{place} would be overwritten: two jobs share the run name {run!r}"
    write_table(place, rows)


def list_parts(folder: str) -> dict[str, list[str]]:
    """Places of the parts in a folder, by run; both in order of time."""
    parts: dict[str, list[str]] = {}
    for name in list_files(folder):
        match = _PART_NAME.fullmatch(name)
        if match:
            parts.setdefault(match["run"], []).append(join(folder, name))
    return parts


def read_parts(places: Iterable[str], columns: list[str]) -> pa.Table:
    """Some columns of SCORES_SCHEMA of some parts, one after the other.

    Raises:
        StorageError: a part is not whole or has other columns.
    """
    schema = pa.schema([SCORES_SCHEMA.field(name) for name in columns])
    tables = []
    for place in places:
        try:
            with open_input(place) as file:
                tables.append(pq.read_table(file, columns=columns).cast(schema))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise StorageError(
                f"{place} is not a whole part of a scores table ({reason(error)}): move it away and run again."
            ) from error
    return pa.concat_tables(tables) if tables else schema.empty_table()


def csv_bytes(rows: pa.Table) -> memoryview:
    """CSV in UTF-8, without list columns, in which no cell is run by a spreadsheet: a formula gets an apostrophe."""
    columns = {}
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        if pa.types.is_string(column.type):
            is_formula = pc.match_substring_regex(column, r"^[=+\-@\t\r\n＝＋－＠]")
            column = pc.if_else(is_formula, pc.binary_join_element_wise("'", column, ""), column)
        if not pa.types.is_list(column.type):
            columns[name] = column
    sink = pa.BufferOutputStream()
    pacsv.write_csv(pa.table(columns), sink)
    return memoryview(sink.getvalue())
