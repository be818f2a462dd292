"""The verb `report`: one self-contained HTML page of a night or of an evaluation. Does not use Ray."""

from crackvae.config import ReportConfig
from crackvae.reports.matplotlib_folder import matplotlib_folder
from crackvae.results import Result
from crackvae.storage import filesystems, uris


@filesystems.with_s3_endpoint
def report(config: ReportConfig) -> Result:
    """Write the page and, with full_size, full-resolution PNGs of the images that it shows into a folder beside it.

    Raises:
        StorageError: there are no scores or no evaluation, the page cannot be written, or it would break the table.
        ModelError: --model names another model than that of the scores.
    """
    with matplotlib_folder(uris.parent(uris.absolute(config.out))):
        from crackvae.reports.write_report import write_report  # imported here: it imports Matplotlib

        return write_report(config)
