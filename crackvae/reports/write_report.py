"""Writing of the page of a night or of an evaluation, and of full-size pictures beside it."""

import time
from typing import Any

import pandas as pd
import pyarrow as pa

from crackvae.config import ReportConfig
from crackvae.config.settings import metres_of
from crackvae.errors import StorageError
from crackvae.reports import views
from crackvae.reports.evaluation_files import EVALUATION_SCHEMA, METRICS_FILE, TABLE_FILE, MetricsFile
from crackvae.reports.night_page.night_page import night_page
from crackvae.reports.night_page.nights import read_night
from crackvae.reports.page import FULL_SIZE_NAME, PageSettings, Rendered
from crackvae.results import Result
from crackvae.storage import fileio, tables, uris
from crackvae.storage.records import read_record


def write_report(config: ReportConfig) -> Result:
    """Write the page that `report` is asked for; raises the same errors."""
    started = time.perf_counter()
    out, scores = uris.absolute(config.out), uris.absolute(config.scores) if config.scores else ""
    fileio.require_outside_table(out, "--out", scores)
    folder = _full_size_folder(out) if config.full_size else ""
    if config.scores:
        rendered = night_page(read_night(scores, config.run), _settings(config, folder))
    else:
        from crackvae.reports.evaluation_page import evaluation_page  # imports scikit-learn, which takes 0.3 s

        scored, summary = _read_evaluation(uris.absolute(config.evaluation))
        rendered = evaluation_page(scored, summary, _settings(config, folder))
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


def _settings(config: ReportConfig, folder: str) -> PageSettings:
    return PageSettings(
        model_dir=config.model,
        n_worst=config.worst,
        n_unflagged=config.passed,
        n_photographs=config.photographs,
        mm_per_px=config.mm_per_px,
        gps_precision_m=metres_of(config.gps_precision),
        full_size_folder=folder,
        beside_scores=bool(config.scores) and uris.parent(uris.absolute(config.out)) == uris.absolute(config.scores),
    )


def _read_evaluation(folder: str) -> tuple[pa.Table, dict[str, Any]]:
    """Table and summary of an evaluation."""
    if not fileio.exists(uris.join(folder, METRICS_FILE)):
        raise StorageError(f"{folder} holds no evaluation: name the folder that crackvae evaluate wrote as --out.")
    metrics = read_record(uris.join(folder, METRICS_FILE), MetricsFile, "Run crackvae evaluate again.")
    scored = tables.read_table(uris.join(folder, TABLE_FILE), EVALUATION_SCHEMA, keep_extra=True)
    return scored, metrics.model_dump()


def _full_size_folder(out: str) -> str:
    """Name of the folder of the full-size pictures beside a page."""
    name = uris.without_options(out)[0].rpartition("/")[2]
    return f"{name.removesuffix('.html')}_files"


def _write_full_size(out: str, folder: str, rendered: Rendered) -> int:
    """Write the PNGs of every shown image; returns their number."""
    uri = uris.join(uris.parent(out), folder)
    n = 0
    for number, image in enumerate(rendered.images, start=1):
        for kind, data in views.full_size(image, rendered.model, rendered.vmax):
            fileio.write_bytes(uris.join(uri, FULL_SIZE_NAME.format(number=number, kind=kind)), data)
            n += 1
    return n
