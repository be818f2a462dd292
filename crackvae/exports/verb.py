"""The verb `findings`: the findings of a scores table as a file of another format. Does not use Ray."""

import time
from collections.abc import Callable
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from crackvae.config import FindingsConfig, metres_of
from crackvae.console import say
from crackvae.exports import geojson, kml
from crackvae.exports.annotations import coco, cvat, label_studio
from crackvae.exports.rows import Choice, cells, latest_images, rows_to_export
from crackvae.results import Result
from crackvae.storage import fileio, filesystems, tables, uris

# From rows and the prefix of image names to the content of the file.
WRITERS: dict[str, Callable[[pa.Table, str], bytes | memoryview]] = {
    "csv": lambda rows, _: tables.csv_bytes(cells(rows)),
    "geojson": lambda rows, _: geojson.geojson_bytes(rows),
    "kml": lambda rows, _: kml.kml_bytes(rows),
    "coco": coco.coco_bytes,
    "label-studio": label_studio.label_studio_bytes,
    "cvat": cvat.cvat_bytes,
}

# What becomes of findings of an unknown place in the formats of maps.
WITHOUT_PLACE = {"geojson": "in the GeoJSON they have no geometry", "kml": "the KML is without them"}


@filesystems.with_s3_endpoint
def findings(config: FindingsConfig) -> Result:
    """Export the findings of every image, those of the latest run that scored it.

    Returns:
        Result with the table `findings`: how many of which kind.

    Raises:
        StorageError: no scores there, a damaged part, or the file cannot be written.
    """
    started = time.perf_counter()
    folder, out = uris.absolute(config.scores), uris.absolute(config.out)
    fileio.require_outside_table(out, "--out", folder)
    rows = rows_to_export(folder, Choice(config.kind, metres_of(config.gps_precision), config.views))
    content = (
        _pdf(rows, folder, config) if config.format == "pdf" else WRITERS[config.format](rows, config.image_prefix)
    )
    fileio.write_bytes(out, content)
    summary: dict[str, Any] = {
        "verb": "findings",
        "scores": folder,
        "out": out,
        "format": config.format,
        "findings": rows.num_rows,
        "views": pc.sum(pc.not_equal(rows["view_of"], "")).as_py() or 0,
        "with_place": pc.sum(pc.is_finite(rows["lat"])).as_py() or 0,
        "images": pc.count_distinct(rows["image"]).as_py(),
        "bytes": len(content),
        "seconds": round(time.perf_counter() - started, 1),
    }
    unplaced = rows.num_rows - summary["with_place"]
    if unplaced and config.format in WITHOUT_PLACE:
        why = "left out with --gps-precision off" if config.gps_precision == "off" else "their photographs name none"
        line = f"{unplaced} of {rows.num_rows} findings have no place ({why}): {WITHOUT_PLACE[config.format]}"
        say(line, quiet=config.quiet)
    return Result(summary, {"findings": pd.DataFrame(_counts(rows))})


def _pdf(rows: pa.Table, folder: str, config: FindingsConfig) -> bytes:
    from crackvae.exports.pdf import pdf_bytes  # imported here: it imports reportlab

    images = latest_images(folder, ["group", "status", "flagged", "taken", "untraced"])
    return pdf_bytes(rows, images, config.title, config.gps_precision)


def _counts(rows: pa.Table) -> pd.DataFrame:
    """Number and longest of each kind."""
    frame = rows.select(["kind", "length_px"]).to_pandas()
    return pd.DataFrame(frame.groupby("kind")["length_px"].agg(["count", "max"]).round(1).reset_index())
