"""A Parquet list of images, such as the inventory of a store."""

from collections.abc import Callable, Iterator
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from crackvae.errors import StorageError
from crackvae.storage.fileio import parse_file
from crackvae.storage.uris import reason

# Columns of an inventory that may hold the image, its size and its time; the first one found is used.
COLUMNS = {
    "image": ("image", "uri", "path", "file"),
    "bytes": ("bytes", "size"),
    "modified": ("modified", "last_modified", "last_modified_date"),
}


def _is_text(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.large_string(), pa.string_view())


# The type that a column is cast to, and whether it may have another one.
_TYPES: dict[str, tuple[pa.DataType, Callable[[pa.DataType], bool]]] = {
    "image": (pa.string(), lambda kind: _is_text(kind.value_type if pa.types.is_dictionary(kind) else kind)),
    "bytes": (pa.int64(), pa.types.is_integer),
    "modified": (pa.timestamp("us", tz="UTC"), pa.types.is_timestamp),
}


def read_inventory(path: str) -> Iterator[pa.Table]:
    """A Parquet list of images, row group by row group: 10^8 names are larger than the memory of a driver.

    Yields:
        the column `image`, and `bytes` and `modified` where the file has columns of these types.

    Raises:
        StorageError: not a Parquet file, or it has no column for `image`.
    """
    try:
        schema, groups = parse_file(path, lambda file: (pq.ParquetFile(file).schema_arrow, _row_groups(file)))
        columns = {name: found for name in COLUMNS if (found := _column_of(schema, name))}
        for group in range(groups if "image" in columns else 0):
            rows = parse_file(path, partial(_row_group, number=group, columns=[*columns.values()]))
            yield pa.table({name: rows[found].cast(_TYPES[name][0], safe=False) for name, found in columns.items()})
    except (pa.ArrowException, OSError) as error:
        raise StorageError(f"{path} is not a whole Parquet file ({reason(error)}): make it again.") from error
    if "image" not in columns:
        names = " or ".join(COLUMNS["image"])
        raise StorageError(f"{path} has no text column {names}: give one this name.")


def _row_groups(file: pa.NativeFile) -> int:
    return pq.ParquetFile(file).num_row_groups  # type: ignore[no-any-return]


def _row_group(file: pa.NativeFile, number: int, columns: list[str]) -> pa.Table:
    return pq.ParquetFile(file).read_row_group(number, columns)


def _column_of(schema: pa.Schema, name: str) -> str | None:
    is_right = _TYPES[name][1]
    found = (one for one in COLUMNS[name] if one in schema.names and is_right(schema.field(one).type))
    return next(found, None)
