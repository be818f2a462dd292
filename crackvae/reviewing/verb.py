"""The verb `review`: serve the page of any night and store verdicts as they are given. Does not use Ray."""

from crackvae.config import ReviewConfig
from crackvae.reports.matplotlib_folder import matplotlib_folder
from crackvae.results import Result
from crackvae.reviewing.csv_import import import_verdicts
from crackvae.storage import filesystems, uris


@filesystems.with_s3_endpoint
def review(config: ReviewConfig) -> Result:
    """Serve until interrupted; or, with `import_`, add the verdicts of a CSV to the log and return.

    Raises:
        StorageError: there are no scores, or the log cannot be read or written.
        ConfigError: the port is in use, or the certificate is not valid.
        ManifestError: the CSV holds no verdicts, or names no image of the scores.
    """
    scores = uris.absolute(config.scores)
    if config.import_:
        return import_verdicts(scores, config.import_, config.reviewer)
    with matplotlib_folder(scores):
        from crackvae.reviewing.server import serve  # imported here: it imports Matplotlib

        return serve(scores, config)
