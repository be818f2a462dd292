"""Names that look the same and are spelled differently: an umlaut as one character (NFC) or as two (NFD).

macOS and some network file systems store NFD, keyboards type NFC. Names are compared in NFC; files are opened by the
spelling that exists.
"""

import os
import unicodedata

from crackvae.storage.fileio import exists
from crackvae.storage.uris import is_local


def nfc(name: str) -> str:
    """The name in the form in which names are compared."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def existing_form(path: str) -> str:
    """The spelling of a path that exists; the path itself if it exists, or if no other spelling of it does."""
    if path.isascii() or exists(path):
        return path
    if not is_local(path):
        forms = (unicodedata.normalize(form, path) for form in ("NFC", "NFD"))
        return next((form for form in forms if exists(form)), path)
    found = "/"
    for part in path.strip("/").split("/"):
        found = os.path.join(found, part if os.path.lexists(os.path.join(found, part)) else _other_form(found, part))
    return found if os.path.lexists(found) else path


def _other_form(folder: str, name: str) -> str:
    try:
        names = os.listdir(folder)
    except OSError:  # what is wrong with it is reported when it is opened
        return name
    return next((one for one in sorted(names) if nfc(one) == nfc(name)), name)
