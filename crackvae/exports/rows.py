"""The findings that are exported: chosen, with what their images say, and with places as precise as wanted."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from crackvae.errors import StorageError
from crackvae.exports.georeferenced import LINES_SCHEMA, with_lines
from crackvae.images.metadata.places import coarsened
from crackvae.reports.overlaps import views_of
from crackvae.storage import tables, uris
from crackvae.storage.tables.changes import with_status
from crackvae.storage.tables.findings import FINDINGS_SCHEMA, read_findings, with_key
from crackvae.storage.tables.parts_of_files import VERSION_OF_FILE, without_superseded
from crackvae.storage.tables.verdicts import judged_kinds, with_verdicts

# What the scores table knows of the image of a finding.
OF_IMAGE = ("width", "height", "taken_is_local", "alt_m", "camera")

EXPORT_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        *FINDINGS_SCHEMA,
        *(tables.SCORES_SCHEMA.field(name) for name in OF_IMAGE),
        *LINES_SCHEMA,
        ("view_of", pa.string()),  # the finding that shows the same crack in another photograph, or ""
    ]
)

# Columns of a finding that one cell or one property can hold.
SCALARS = tuple(one.name for one in EXPORT_SCHEMA if not pa.types.is_list(one.type))


@dataclass(frozen=True)
class Choice:
    """Which findings are exported, and how precisely their places.

    Attributes:
        kinds: crack, joint, unclear.
        precision_m: side of the squares that places are rounded to [m]; 0 exact, infinity without places.
        views: whether to find out which findings show the same crack.
    """

    kinds: Collection[str]
    precision_m: float = 0.0
    views: bool = False


def rows_to_export(out: str, choice: Choice) -> pa.Table:
    """EXPORT_SCHEMA rows of a folder of scores. What reviewers agree to be no crack is left out unless it is a joint.

    Of each image only the findings of the latest run that scored it are among them, whatever the model.

    Raises:
        StorageError: no scores there, or a damaged part.
    """
    if not tables.list_parts(out):
        raise StorageError(f"{out} holds no scores table: check --scores.")
    images = latest_images(out, [*tables.VERSION_KEY, *OF_IMAGE])
    rows = with_key(with_status(read_findings(out), out), images.select(list(tables.VERSION_KEY)))
    rows = with_verdicts(rows, out)
    rows = _replaced(rows, "kind", judged_kinds(rows).to_pylist())
    rows = rows.filter(pc.is_in(rows["kind"], pa.array(list(choice.kinds))))
    same = views_of(rows).view_of if choice.views else [""] * rows.num_rows
    rows = rows.append_column("view_of", pa.array(same, pa.string()))
    rows = _coarsened(with_lines(rows), choice.precision_m)
    return _with_names(_with_image(rows, images)).select(EXPORT_SCHEMA.names)


def latest_images(out: str, columns: Sequence[str]) -> pa.Table:
    """Some columns of a scores table: for each image the row of the latest run that scored it, whatever the model.

    A run that found no surface has scored an image too; of an image that no run could read, the latest row counts.
    """
    needed = ("image", "run", "status", "model", *VERSION_OF_FILE)
    rows = tables.read_scores(out, [*columns, *(name for name in needed if name not in columns)])
    is_scored = pc.is_in(rows["status"], value_set=pa.array(["scored", "no_surface"]))
    ordered = rows.append_column("is_scored", is_scored.cast(pa.int8()))
    ordered = ordered.sort_by([("is_scored", "ascending"), ("run", "ascending"), ("image", "ascending")])
    return without_superseded(tables.last_of_each(ordered), of_any_model=True).select(list(columns))


def _replaced(rows: pa.Table, name: str, values: list[Any]) -> pa.Table:
    at = rows.schema.get_field_index(name)
    return rows.set_column(at, rows.schema.field(at), pa.array(values, rows.schema.field(at).type))


def _coarsened(rows: pa.Table, precision_m: float) -> pa.Table:
    """Rows with their places rounded, and without lines unless they are exact."""
    places = [
        coarsened(*one, precision_m) for one in zip(rows["lat"].to_pylist(), rows["lon"].to_pylist(), strict=True)
    ]
    rows = _replaced(_replaced(rows, "lat", [lat for lat, _ in places]), "lon", [lon for _, lon in places])
    if precision_m > 0:
        for name in ("lat_trace", "lon_trace"):
            rows = _replaced(rows, name, [[]] * rows.num_rows)
    return rows


def _with_image(rows: pa.Table, images: pa.Table) -> pa.Table:
    """Rows with OF_IMAGE; the height above sea level is as good as a place, so it goes where that is left out."""
    key = list(tables.VERSION_KEY)
    number = pa.array(range(rows.num_rows), pa.int64())
    asked = rows.select(key).append_column("number", number)
    found = asked.join(images, key).sort_by("number")
    for name in OF_IMAGE:
        rows = rows.append_column(tables.SCORES_SCHEMA.field(name), found[name])
    return _replaced(
        rows,
        "alt_m",
        [
            math.nan if math.isnan(lat) else alt
            for lat, alt in zip(rows["lat"].to_pylist(), rows["alt_m"].to_pylist(), strict=True)
        ],
    )


def _with_names(rows: pa.Table) -> pa.Table:
    """Rows with the name of their image below the folder that all images lie in."""
    images = rows["image"].to_pylist()
    unique = sorted(set(images))
    folder = uris.parent(unique[0]) if len(unique) == 1 else uris.common_folder(unique) if unique else ""
    return rows.append_column(
        "name", pa.array([uris.relative(image, folder) if folder else image for image in images], pa.string())
    )


def known(row: dict[str, Any], names: Collection[str] = SCALARS) -> dict[str, Any]:
    """Values of a row as JSON has them, without those that are unknown; numbers with seven digits."""
    found = {}
    for name in names:
        value = row[name]
        if value is None or value == "" or value != value:
            continue
        if name == "taken":
            value = taken_text(row)
        found[name] = float(f"{value:.{10 if name in ('lat', 'lon') else 7}g}") if isinstance(value, float) else value
    return found


def taken_text(row: dict[str, Any]) -> str:
    """The time of a photograph in ISO 8601, with Z where it is UTC; "" if unknown."""
    if row["taken"] is None:
        return ""
    text = row["taken"].replace(tzinfo=None).isoformat(timespec="seconds")
    return text if row["taken_is_local"] else f"{text}Z"


def cells(rows: pa.Table) -> pa.Table:
    """SCALARS as a spreadsheet takes them: empty where unknown, and times with Z where they are UTC."""
    columns: dict[str, Any] = {}
    for name in SCALARS:
        column = rows[name]
        if pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), None, column)
        columns[name] = column
    times = [taken_text(row) for row in rows.select(["taken", "taken_is_local"]).to_pylist()]
    columns["taken"] = pa.array(times, pa.string())
    return pa.table(columns)
