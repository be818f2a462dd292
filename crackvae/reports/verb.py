"""The verb `report`: one self-contained HTML page of a night or of an evaluation. No Ray, no training."""

import json
import time
from typing import Any

import pandas as pd
import pyarrow as pa

from crackvae.config import ReportConfig
from crackvae.errors import StorageError
from crackvae.reports import views
from crackvae.reports.evaluation_page import evaluation_page
from crackvae.reports.night_page import night_page
from crackvae.reports.nights import has_rows, read_night
from crackvae.reports.page import FULL_SIZE_NAME, Rendered
from crackvae.results import Result
from crackvae.storage import fileio, filesystems, tables, uris

__all__ = ["has_rows", "report"]


# What `evaluate` writes into its folder; metrics.json is written last, so where it is the folder is whole.
METRICS_FILE, TABLE_FILE, PAGE_FILE = "metrics.json", "evaluation.parquet", "report.html"


EVALUATION_SCHEMA = pa.schema(
    [
        *(column for column in tables.SCORES_SCHEMA if column.name != "tile_scores"),
        ("label", pa.string()),
        ("set", pa.string()),
        ("split", pa.string()),
    ]
)


def page_name(run: str) -> str:
    """Name of the page of a run. The underscore keeps it out of the dataset that readers of the folder see."""
    return f"_report-{run}.html"


@filesystems.with_s3_endpoint
def report(config: ReportConfig) -> Result:
    """Write the page and, when asked for, PNGs of the shown images in full size beside it.

    Raises:
        StorageError: no scores or no evaluation there, or the page cannot be written.
        ModelError: --model names another model than that of the scores.
    """
    started = time.perf_counter()
    out = uris.absolute(config.out)
    folder = f"{out.rsplit('/', 1)[-1].removesuffix('.html')}_files" if config.full_size else ""
    if config.scores:
        rendered = night_page(read_night(uris.absolute(config.scores), config.run), config, folder)
    else:
        scored, summary = _read_evaluation(uris.absolute(config.evaluation))
        rendered = evaluation_page(scored, summary, config, folder)
    fileio.write_bytes(out, rendered.html)
    n_files = _write_full_size(out, folder, rendered) if folder else 0
    summary = {
        "verb": "report",
        "page": out,
        "bytes": len(rendered.html),
        "full_size_files": n_files,
        **rendered.figures,
        "seconds": round(time.perf_counter() - started, 1),
    }
    table = pd.DataFrame({"value": [out, *rendered.figures.values()]}, index=["page", *rendered.figures])
    return Result(summary, {"report": table})


def _read_evaluation(folder: str) -> tuple[pa.Table, dict[str, Any]]:
    """Table and summary of an evaluation."""
    place = uris.join(folder, METRICS_FILE)
    try:
        summary = json.loads(fileio.read_bytes(place))
        summary["sets"], summary["model"], summary["threshold"]
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{place} is damaged ({error}): run crackvae evaluate again.") from error
    return tables.read_table(uris.join(folder, TABLE_FILE), EVALUATION_SCHEMA, keep_extra=True), summary


def _write_full_size(out: str, folder: str, rendered: Rendered) -> int:
    """PNGs of every shown image; returns how many."""
    place = uris.join(out[: -len(out.rsplit("/", 1)[-1])].rstrip("/") or "/", folder)
    n = 0
    for number, image in enumerate(rendered.images, start=1):
        for kind, data in views.full_size(image, rendered.model, rendered.top):
            fileio.write_bytes(uris.join(place, FULL_SIZE_NAME.format(number=number, kind=kind)), data)
            n += 1
    return n
