"""The findings table of a folder of scores: one row per crack or joint, in the folder `_findings`.

Readers of the scores skip names that begin with `_`. A finding counts if the row of its image in the scores table is
the latest of its model and comes from the same run, so what a killed run wrote before its scores is never read. What
windows of one TIFF have traced of the same crack is one finding for the reader.
"""

from collections.abc import Collection, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from crackvae.storage import tables
from crackvae.storage.tables.across_windows import joined
from crackvae.storage.tables.parts_of_files import VERSION_OF_FILE, files_of
from crackvae.storage.uris import join

# What tracing and the metadata of an image say about one crack or joint.
FINDINGS_SCHEMA = pa.schema(
    [
        ("finding", pa.string()),  # the same image and place have the same id, in every run
        ("image", pa.string()),
        ("group", pa.string()),
        ("run", pa.string()),
        ("model", pa.string()),  # digest
        ("kind", pa.string()),  # crack | joint | unclear
        ("x_px", pa.list_(pa.float32())),  # trace, pixel centres at whole numbers; NaN between two branches
        ("y_px", pa.list_(pa.float32())),
        ("widths_px", pa.list_(pa.float32())),  # width at each point of the trace; NaN where it cannot be measured
        ("left_px", pa.int32()),  # box around the trace, right and bottom exclusive
        ("top_px", pa.int32()),
        ("right_px", pa.int32()),
        ("bottom_px", pa.int32()),
        ("length_px", pa.float32()),
        ("length_sigma_px", pa.float32()),  # standard uncertainty; COVERS_90 times it covers 90 %
        ("width_mean_px", pa.float32()),
        ("width_max_px", pa.float32()),
        ("width_sigma_px", pa.float32()),  # standard uncertainty of the mean width
        ("width_max_sigma_px", pa.float32()),
        ("straightness", pa.float32()),  # distance of the ends over length, of the main branch, 0 to 1
        ("waviness_px", pa.float32()),  # RMS distance of the main branch from a straight line
        ("roughness_deg", pa.float32()),  # spread of its directions around those of a parabola
        ("width_variation", pa.float32()),  # standard deviation of the width over its mean
        ("borders", pa.int32()),  # ends of the main branch at a border of the image, 0 to 2
        ("orientation_deg", pa.float32()),  # of the main branch: 0 horizontal, 90 vertical, in [0, 180)
        ("score", pa.float32()),  # highest score of the tiles that the trace crosses
        ("p_value", pa.float64()),  # of the image
        ("mm_per_px", pa.float32()),
        ("mm_source", pa.string()),  # "" where the scale is not known; all millimetres are NaN then
        ("length_mm", pa.float32()),
        ("width_mean_mm", pa.float32()),
        ("width_max_mm", pa.float32()),
        ("width_sigma_mm", pa.float32()),
        ("width_class", pa.string()),
        ("taken", pa.timestamp("us", tz="UTC")),
        ("lat", pa.float64()),
        ("lon", pa.float64()),
        ("status", pa.string()),  # new | grown | static | gone | "", from the table of changes
        ("previous", pa.string()),  # finding of the visit before, or ""
        ("verdict", pa.string()),
    ]
)

# 90 % of a normal distribution lie within this many standard uncertainties.
COVERS_90 = 1.645

# Column of scored rows in which workers send findings to the driver.
FINDINGS_COLUMN = "findings"
FINDINGS_TYPE = pa.list_(pa.struct(list(FINDINGS_SCHEMA)))


def folder_of(out: str) -> str:
    """The folder of the findings of a folder of scores."""
    return join(out, "_findings")


def rows_of(column: pa.ChunkedArray) -> pa.Table:
    """FINDINGS_SCHEMA rows from a column of FINDINGS_TYPE."""
    structs = pc.list_flatten(column).combine_chunks()
    return pa.Table.from_arrays(structs.flatten(), schema=FINDINGS_SCHEMA)


def read_findings(
    out: str, columns: Sequence[str] = (), runs: Collection[str] | None = None, images: pa.Array | None = None
) -> pa.Table:
    """Some columns of the findings that count, by default all; sorted by image, the longest of an image first.

    Args:
        runs: only findings of these runs.
        images: only findings on these images.

    Raises:
        StorageError: a part is incomplete or has other columns.
    """
    by_run = tables.list_parts(folder_of(out))
    paths = [path for run, parts in by_run.items() if runs is None or run in runs for path in parts]
    found = [tables.read_table(path, FINDINGS_SCHEMA) for path in paths]
    if images is not None:
        found = [rows.filter(pc.is_in(rows["image"], value_set=images)) for rows in found]
    rows = pa.concat_tables(found) if found else FINDINGS_SCHEMA.empty_table()
    if rows.num_rows:
        rows = joined(with_key(rows, _last_rows(out, rows["image"].unique())))
        rows = rows.sort_by([("image", "ascending"), ("length_px", "descending"), ("finding", "ascending")])
    return rows.select(list(columns or FINDINGS_SCHEMA.names))


def _last_rows(out: str, images: pa.Array) -> pa.Table:
    """VERSION_KEY of the rows of the scores table that count, of the files of these images: a table may hold years."""
    paths = [path for parts in tables.list_parts(out).values() for path in parts]
    parts = tables.each_part(paths, [*tables.VERSION_KEY, *VERSION_OF_FILE])
    of_files = files_of(pa.chunked_array([images])).combine_chunks()
    found = [part.filter(pc.is_in(files_of(part["image"]), value_set=of_files)) for part in parts]
    rows = tables.latest(pa.concat_tables(found)) if found else tables.read_parts([], tables.VERSION_KEY)
    return rows.select(list(tables.VERSION_KEY))


def with_key(rows: pa.Table, keys: pa.Table) -> pa.Table:
    """The rows whose VERSION_KEY is among `keys`."""
    number = pa.array(range(rows.num_rows), pa.int64())
    key = rows.select(list(tables.VERSION_KEY)).append_column("number", number)
    kept = key.join(keys, list(tables.VERSION_KEY), join_type="left semi")["number"]
    return rows.take(kept)
