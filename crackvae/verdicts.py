"""What a person decided on a page, read back from the CSV that the page gave."""

import csv
import io

from crackvae import storage
from crackvae.errors import ManifestError

VERDICTS = ("crack", "sound", "unsure")


def read_verdicts(place: str) -> dict[str, str]:
    """The verdict on each image: crack, sound or unsure.

    Columns other than image and verdict are not read, and rows without a verdict are skipped, so the file may have been
    through a spreadsheet.

    Raises:
        StorageError: not there.
        ManifestError: not such a file, a verdict of another name, or two verdicts on one image.
    """
    data = storage.read_bytes(place)
    try:
        text = data.decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{place} is no CSV in UTF-8 ({error}): download it from the page again.") from error
    if not rows and not text.startswith("image,"):
        raise ManifestError(f"{place} holds no verdicts: download verdicts.csv from a page of crackvae.")
    found: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        if row.get("image") is None or row.get("verdict") is None:
            raise ManifestError(
                f"{place}: row {number} lacks the columns image and verdict: "
                "download verdicts.csv from a page of crackvae, or save it with commas."
            )
        image, verdict = row["image"], row["verdict"].strip()
        if verdict and verdict not in VERDICTS:
            raise ManifestError(f"{place}: {verdict!r} on {image} is not one of {', '.join(VERDICTS)}: mend the file.")
        if verdict and found.setdefault(image, verdict) != verdict:
            raise ManifestError(f"{place}: {image} is called {found[image]} and {verdict}: keep one of the two rows.")
    return found


def read_cracks(place: str) -> set[str]:
    """The images that a person called cracks. Raises as read_verdicts() does."""
    return {image for image, verdict in read_verdicts(place).items() if verdict == "crack"}
