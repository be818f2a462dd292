"""The CSV of verdicts that a page lets a reviewer download."""

import csv
import io
from typing import get_args

from crackvae.errors import ManifestError
from crackvae.storage import fileio
from crackvae.storage.tables.verdicts import WITHDRAWN, AnyVerdict, Subject, of_images

VERDICTS = tuple(verdict for verdict in get_args(AnyVerdict) if verdict != WITHDRAWN)


def read_verdict_csv(path: str) -> dict[str, str]:
    """The verdict on each image, one of VERDICTS; an image with a cracked finding is cracked.

    That one finding is none says nothing about the rest of its image.

    Raises:
        StorageError: the file does not exist.
        ManifestError: not a file of verdicts, an unknown verdict, or two verdicts on one image.
    """
    return of_images({subject_of(row): row["verdict"] for row in verdict_rows(path)})


def subject_of(row: dict[str, str]) -> Subject:
    """What a row is on; the column `finding` may be missing."""
    return Subject(row["image"], row.get("finding") or "")


def verdict_rows(path: str) -> list[dict[str, str]]:
    """The rows with a verdict, one per image or finding of an image; raises the same errors.

    Other columns than image and verdict may be missing and rows without a verdict are skipped, so the file may have
    been edited in a spreadsheet.
    """
    data = fileio.read_bytes(path)
    try:
        text = data.decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path} is not a CSV file in UTF-8 ({error}): download it from the page again.") from error
    if not rows and not text.startswith("image,"):
        raise ManifestError(f"{path} holds no verdicts: download verdicts.csv from a page of crackvae.")
    found: dict[Subject, dict[str, str]] = {}
    for number, row in enumerate(rows, start=1):
        if row.get("image") is None or row.get("verdict") is None:
            raise ManifestError(
                f"{path}: row {number} lacks the columns image and verdict: "
                "download verdicts.csv from a page of crackvae, or save it with commas."
            )
        image, verdict = row["image"], row["verdict"].strip()
        if verdict and verdict not in VERDICTS:
            raise ManifestError(
                f"{path}: {verdict!r} on {image} is not one of {', '.join(VERDICTS)}: correct the file."
            )
        before = found.setdefault(subject_of(row), row | {"verdict": verdict})["verdict"] if verdict else ""
        if verdict != before:
            raise ManifestError(f"{path}: {image} is called {before} and {verdict}: keep one of the two rows.")
    return list(found.values())
