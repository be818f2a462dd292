"""The page of a run. It is optional: no fault of it costs a run its rows, its summary or its exit code."""

from crackvae.config import ReportConfig, ScoreConfig
from crackvae.console import progress, say
from crackvae.errors import CrackvaeError
from crackvae.reports.verb import report
from crackvae.scoring.summaries import ScoreSummary
from crackvae.storage import uris
from crackvae.storage.names.run_files import page_name


def page_path(out: str, run: str) -> str:
    """Path of the page of a run, beside its table."""
    return uris.join(out, page_name(run))


def write_page(summary: ScoreSummary, config: ScoreConfig) -> str:
    """Write the page that a summary names; returns "", or the reason for having none, which is also printed."""
    settings = ReportConfig(
        scores=summary.out,
        run=summary.run,
        out=summary.report,
        model=config.model,
        gps_precision=config.gps_precision,
        quiet=config.quiet,
    )
    try:
        with progress("report", 1, "page", quiet=config.quiet) as bar:
            report(settings)
            bar.update(1)
    except (OSError, CrackvaeError) as error:
        why = uris.reason(error)
        say(f"no page: {why} Rows and summary are written: run crackvae report --scores {summary.out}.", quiet=False)
        return why
    return ""
