"""Names of the entries of a .zip as text.

The standard knows two encodings, UTF-8 (marked by a flag) and code page 437. Windows writes the code page of its
language without saying so, and older programs on macOS and Linux write UTF-8 without the flag.
"""

import re
import struct
import zipfile
import zlib
from collections.abc import Sequence

UTF_8_FLAG, UNICODE_PATH = 0x800, 0x7075

# What zipfile has decoded the bytes of a name without the flag by, and what the Windows of western Europe means.
STATED, WESTERN, JAPANESE = "cp437", "cp850", "cp932"

# Kana and kanji, and with the punctuation and the full-width letters that are written beside them.
_HAS_JAPANESE = re.compile(r"[\u3005\u3041-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_IS_JAPANESE = re.compile(r"[\x00-\x7f\u2460-\u247f\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uff9f]*")

# Two characters of one or two bytes each in a row, not just one accented letter within a word of ASCII letters.
_LONG_RUN = re.compile(rb"[\x80-\xff]{3}|(?<![A-Za-z\x80-\xff])[\x80-\xff]{2}|[\x80-\xff]{2}(?![A-Za-z\x80-\xff])")


def decoded(entries: Sequence[zipfile.ZipInfo]) -> list[str]:
    """The name of each entry; for those that state no encoding the one in which all of them make sense."""
    stated = {number: name for number, entry in enumerate(entries) if (name := _stated_name(entry)) is not None}
    raw = {number: _raw_name(entry) for number, entry in enumerate(entries) if number not in stated}
    encoding = _encoding(list(raw.values()))
    return [
        stated[number] if number in stated else raw[number].decode(encoding, errors="replace")
        for number in range(len(entries))
    ]


def _raw_name(entry: zipfile.ZipInfo) -> bytes:
    return entry.orig_filename.partition("\0")[0].encode(STATED)


def _stated_name(entry: zipfile.ZipInfo) -> str | None:
    """The name of an entry that is marked as UTF-8, that is ASCII, or that has a Unicode name beside it."""
    if entry.flag_bits & UTF_8_FLAG or entry.filename.isascii():
        return entry.filename
    extra = entry.extra
    while len(extra) >= 4:
        tag, size = struct.unpack("<HH", extra[:4])
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        # Its version, and the checksum of the name that it replaces: a name that was changed later wins.
        if (
            tag == UNICODE_PATH
            and len(field) > 5
            and struct.unpack("<BL", field[:5]) == (1, zlib.crc32(_raw_name(entry)))
        ):
            return field[5:].decode("utf-8", errors="replace")
    return None


def _encoding(names: Sequence[bytes]) -> str:
    if all(_decodes(name, "utf-8") for name in names):
        return "utf-8"
    if not all(_decodes(name, JAPANESE) and _IS_JAPANESE.fullmatch(name.decode(JAPANESE)) for name in names):
        return WESTERN
    is_likely = any(_LONG_RUN.search(name) or not _is_western(name) for name in names)
    return JAPANESE if is_likely and any(_HAS_JAPANESE.search(name.decode(JAPANESE)) for name in names) else WESTERN


def _decodes(name: bytes, encoding: str) -> bool:
    try:
        name.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _is_western(name: bytes) -> bool:
    """Whether a name has only letters beyond ASCII in the western code page, no frames and symbols."""
    return all(letter.isascii() or letter.isalpha() for letter in name.decode(WESTERN))
