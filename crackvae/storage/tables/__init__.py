"""The tables and their schemas: written atomically, and validated when they are read."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from crackvae.errors import StorageError
from crackvae.storage.fileio import exists, list_files, parse_file, read_bytes, write_bytes, writing
from crackvae.storage.names.run_files import journals, part_name, run_of_part
from crackvae.storage.names.shards import Shard, start_of
from crackvae.storage.records import read_record
from crackvae.storage.tables.parts_of_files import VERSION_OF_FILE, without_superseded
from crackvae.storage.uris import join, reason

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
        ("status", pa.string()),  # scored | no_surface | unreadable | unreachable
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
        ("brightness", pa.float32()),  # median grey level, 0 black to 255 white; NaN where an image is not decoded
        ("clipped", pa.float32()),  # share of the pixels that are black, white or transparent; NaN likewise
        ("p_kind", pa.string()),  # calibration.P_KINDS: what the p-value rests on
        ("content", pa.string()),  # content.content_key() of the file; "" where it was not read
        ("taken", pa.timestamp("us", tz="UTC")),  # null where unknown
        ("taken_is_local", pa.bool_()),  # the clock of the camera, whose time zone is unknown, as if it were UTC
        ("lat", pa.float64()),  # of the camera, WGS 84; NaN where unknown
        ("lon", pa.float64()),
        ("alt_m", pa.float32()),  # above sea level
        ("heading_deg", pa.float32()),  # of the camera, clockwise from north; NaN where it looked straight down
        ("camera", pa.string()),
        ("focal_mm", pa.float32()),
        ("precision", pa.string()),  # float32 or bfloat16: that of the score; "" without one
        ("untraced", pa.bool_()),  # flagged, and its cracks were not traced though the model could: --findings off
    ]
)

# Statuses of images that are not decoded.
FAILED = ("unreadable", "unreachable")

# Columns that tables of earlier versions lack, with the value that they are read with.
ADDED_COLUMNS = {
    "brightness": float("nan"),
    "clipped": float("nan"),
    "p_kind": "",
    "content": "",
    "taken": None,
    "taken_is_local": False,
    "lat": float("nan"),
    "lon": float("nan"),
    "alt_m": float("nan"),
    "heading_deg": float("nan"),
    "camera": "",
    "focal_mm": float("nan"),
    "precision": "",
    "untraced": False,
    "verdict": "",  # of the table of changes
}

RUN_TIME = "%Y%m%dT%H%M%S_%f"

# A table without its lists.
CSV_COLUMNS = tuple(name for name in SCORES_SCHEMA.names if name != "tile_scores")

# Rows with the same image and model are versions of one row: that of the latest run counts.
VERSION_KEY = ("image", "model", "run")


def read_table(path: str, schema: pa.Schema, *, keep_extra: bool = False) -> pa.Table:
    """A Parquet table that must have the columns of `schema`, with these types; schema metadata is kept.

    Further columns are dropped, or with `keep_extra` kept after them, unchanged.

    Raises:
        StorageError: missing, incomplete, or with other columns.
    """
    return parse_table(read_bytes(path), path, schema, keep_extra=keep_extra)


def parse_table(data: bytes, path: str, schema: pa.Schema, *, keep_extra: bool = False) -> pa.Table:
    """read_table() of bytes that were read before; `path` is named in the error."""
    try:
        table = pq.read_table(pa.BufferReader(data))
        if keep_extra:
            schema = pa.schema([*schema, *(field for field in table.schema if field.name not in schema.names)])
        table = _with_added_columns(table, schema.names)
        return table.select(schema.names).cast(schema.with_metadata(table.schema.metadata))
    except (pa.ArrowException, OSError, KeyError) as error:
        raise StorageError(
            f"{path} is not a whole table with the columns {', '.join(schema.names)} ({reason(error)}): "
            "make it again, or name another file."
        ) from error


def parquet_bytes(table: pa.Table) -> memoryview:
    """The content of a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return memoryview(sink.getvalue())


def write_table(path: str, table: pa.Table) -> None:
    """Write a Parquet file atomically."""
    write_bytes(path, parquet_bytes(table))


def new_run(existing: Iterable[str] = (), shard: Shard | None = None) -> str:
    """Name of a run: its start time in UTC, to the microsecond, but always later than the existing runs; its shard.

    Of two rows of an image the later run counts, so a clock that was set back must not make a new run the earlier one.
    """
    now, last = datetime.now(UTC).strftime(RUN_TIME), max(map(start_of, existing), default="")
    if now <= last:
        with suppress(ValueError):  # not a run name
            now = (datetime.strptime(last, RUN_TIME) + timedelta(microseconds=1)).strftime(RUN_TIME)
    return f"{now}.{shard}" if shard else now


def write_part(folder: str, rows: pa.Table, run: str, number: int) -> None:
    """Write one numbered part of a table; `run` is unique, so no part is written twice."""
    path = join(folder, part_name(run, number))
    assert not exists(path), f"{path} would be overwritten: two jobs share the run name {run!r}"
    write_table(path, rows)


def list_parts(folder: str) -> dict[str, list[str]]:
    """Paths of the parts in a folder, by run; both in order of time.

    If a compaction was killed while it replaced parts, these are the new parts and not those that it merged.
    """
    names = set(list_files(folder))
    for journal in read_journals(folder, names).values():
        names -= set(journal.old)
        names |= {staged(final) for final in journal.new if final not in names}
    parts: dict[str, list[str]] = {}
    for name in sorted(names, key=lambda name: name.removeprefix(STAGED)):
        run = run_of_part(name.removeprefix(STAGED).removesuffix(STAGED_SUFFIX))
        if run and name.startswith(STAGED) == name.endswith(STAGED_SUFFIX):
            parts.setdefault(run, []).append(join(folder, name))
    return parts


# A part that is not in place yet: neither pyarrow, which skips names with `_`, nor the glob *.parquet reads it.
STAGED, STAGED_SUFFIX = "_staged-", ".tmp"


def staged(name: str) -> str:
    """Name of a part before it is in place."""
    return f"{STAGED}{name}{STAGED_SUFFIX}"


class Journal(BaseModel):
    """What an unfinished compaction replaces: file names in the folder of the table."""

    model_config = ConfigDict(frozen=True)

    new: tuple[str, ...]
    old: tuple[str, ...]


def read_journals(folder: str, names: Iterable[str]) -> dict[str, Journal]:
    """The journals of unfinished compactions, by file name.

    Raises:
        StorageError: not readable, or not a journal.
    """
    return {name: read_record(join(folder, name), Journal, "Restore it from a backup.") for name in journals(names)}


def read_parts(paths: Iterable[str], columns: Sequence[str]) -> pa.Table:
    """Some columns of SCORES_SCHEMA from some parts, concatenated.

    Raises:
        StorageError: a part is incomplete or has other columns.
    """
    found = list(each_part(paths, columns))
    return pa.concat_tables(found) if found else _score_columns(columns).empty_table()


def each_part(paths: Iterable[str], columns: Sequence[str]) -> Iterator[pa.Table]:
    """read_parts() part by part, for callers that must not hold a whole table in memory."""
    for path in paths:
        yield _parsed(path, lambda file: _read_columns(pq.ParquetFile(file), columns))


def each_part_between(
    paths: Iterable[str], columns: Sequence[str], names: tuple[str, str], elsewhere: Sequence[str]
) -> Iterator[pa.Table]:
    """each_part(), but only the columns `elsewhere` of row groups without an image between two names, both included.

    The rows of other nights are mostly such, where each night has a folder of its own.
    """

    def parse(file: pa.NativeFile) -> list[pa.Table]:
        part = pq.ParquetFile(file)
        every = range(part.num_row_groups)
        near = [number for number in every if _may_hold(part.metadata.row_group(number), names)]
        both = (columns, near), (elsewhere, [number for number in every if number not in near])
        return [_read_columns(part, wanted, groups) for wanted, groups in both if groups]

    for path in paths:
        yield from _parsed(path, parse)


def _may_hold(group: pq.RowGroupMetaData, names: tuple[str, str]) -> bool:
    """Whether a row group may have an image between two names; so may one that does not say what it has."""
    columns = (group.column(number) for number in range(group.num_columns))
    found = next((column.statistics for column in columns if column.path_in_schema == "image"), None)
    return found is None or not found.has_min_max or bool(found.min <= names[1] and found.max >= names[0])


def _parsed(path: str, parse: Callable[[pa.NativeFile], Any]) -> Any:
    try:
        return parse_file(path, parse)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StorageError(
            f"{path} is not a whole part of a scores table ({reason(error)}): move it away and run again."
        ) from error


def _read_columns(part: pq.ParquetFile, columns: Sequence[str], groups: list[int] | None = None) -> pa.Table:
    schema = _score_columns(columns)
    missing = [name for name in schema.names if name not in part.schema_arrow.names and name not in ADDED_COLUMNS]
    if missing:
        raise ValueError(f"no column {missing[0]}")
    rows = part.read(schema.names) if groups is None else part.read_row_groups(groups, schema.names)
    return _with_added_columns(rows, schema.names).select(schema.names).cast(schema)


def _with_added_columns(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """A table of an earlier version with the columns that it lacks."""
    for name in names:
        if name in ADDED_COLUMNS and name not in table.column_names:
            table = table.append_column(name, pa.array([ADDED_COLUMNS[name]] * table.num_rows))
    return table


def _score_columns(columns: Sequence[str]) -> pa.Schema:
    return pa.schema([SCORES_SCHEMA.field(name) for name in columns])


def part_size(path: str) -> tuple[int, int]:
    """Rows of a part and its bytes in memory.

    Raises:
        StorageError: an incomplete part.
    """
    metadata = _parsed(path, pq.read_metadata)
    return metadata.num_rows, sum(metadata.row_group(k).total_byte_size for k in range(metadata.num_row_groups))


def read_scores(folder: str, columns: Sequence[str]) -> pa.Table:
    """Some columns of a scores table: for each image the latest row of each model, sorted by image.

    Raises:
        StorageError: a part is incomplete or has other columns.
    """
    paths = [path for parts in list_parts(folder).values() for path in parts]
    wanted = [name for name in SCORES_SCHEMA.names if name in {*columns, *VERSION_KEY, *VERSION_OF_FILE}]
    return latest(read_parts(paths, wanted)).select(list(columns))


def latest(rows: pa.Table) -> pa.Table:
    """For each image and model the row of the latest run, sorted by image and model.

    An image has a second row when it changed, or when storage did not deliver it the first time. Of a file those
    pages, windows and frames count that belong to its last version.
    """
    image, model, run = VERSION_KEY
    keys = pa.table({name: rows[name].cast(pa.string()) for name in VERSION_KEY})  # pyarrow sorts no dictionaries
    order = pc.sort_indices(keys, sort_keys=[(image, "ascending"), (model, "ascending"), (run, "descending")])
    rows, keys, n = rows.take(order), keys.take(order), rows.num_rows
    if n < 2:
        return rows
    is_older = pc.and_(*(pc.equal(keys[name].slice(1), keys[name].slice(0, n - 1)) for name in (image, model)))
    return without_superseded(rows.filter(pa.chunked_array([[True], *pc.invert(is_older).chunks])))


def latest_of_each(rows: pa.Table) -> pa.Table:
    """For each image the row of its latest run, whatever the model, in order of runs; of a file as in latest()."""
    last = last_of_each(rows.sort_by([("run", "ascending"), ("image", "ascending")]))
    return without_superseded(last, of_any_model=True)


def last_of_each(rows: pa.Table) -> pa.Table:
    """The last row of each image, in the order of the rows."""
    numbers = {name: number for number, name in enumerate(rows["image"].to_pylist())}.values()
    return rows.take(pa.array(sorted(numbers), pa.int64()))


def write_csv(path: str, parts: Sequence[str], columns: Sequence[str]) -> None:
    """Write some parts as a CSV, atomically; only one part at a time is in memory."""
    with writing(path) as file:
        for number, rows in enumerate(each_part(parts, columns)):
            file.write(csv_bytes(rows, header=number == 0))


def csv_bytes(rows: pa.Table, *, header: bool = True) -> memoryview:
    """CSV in UTF-8 without list columns. A cell that a spreadsheet would run as a formula gets an apostrophe."""
    columns = {}
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        if pa.types.is_string(column.type):
            is_formula = pc.match_substring_regex(column, r"^[=+\-@\t\r\n＝＋－＠]")
            column = pc.if_else(is_formula, pc.binary_join_element_wise("'", column, ""), column)
        if not pa.types.is_list(column.type):
            columns[name] = column
    sink = pa.BufferOutputStream()
    pacsv.write_csv(pa.table(columns), sink, pacsv.WriteOptions(include_header=header))
    return memoryview(sink.getvalue())
