"""The EXIF tags and XMP properties of an image file, as hostile input: what is damaged is missing.

EXIF is read with Pillow and converted tag by tag, so that one damaged value costs no other; XMP with defusedxml.
"""

import io
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from defusedxml import DefusedXmlException, ElementTree
from PIL import Image, TiffImagePlugin

from crackvae.images.decoding import DECODER_ERRORS, FORMATS, JPEG_APP1, JPEG_START, TIFF_STARTS, camera_formats, jpegs

# Bytes that are read of one EXIF block: tags may overlap, so a small block can demand gigabytes. What follows after a
# larger block of a program, such as the layers of a drawing, is not found.
MAX_EXIF_BYTES = 4_000_000

# Longest XMP packet that is parsed [bytes]; that of a drone has 5,000.
MAX_XMP_BYTES = 1_000_000

MAX_TEXT = 80

# Tags of the EXIF standard (CIPA DC-008) that lead to more tags.
_XMP, _CAMERA_DIRECTORY, _GPS_DIRECTORY = 0x02BC, 0x8769, 0x8825

_NO_TEXT = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029]+")

DAMAGED = (*DECODER_ERRORS, MemoryError, RecursionError, ArithmeticError)

# Values by tag, converted when they are looked up.
Directory = Mapping[int, Any]


@dataclass(frozen=True)
class Tags:
    """What an image file says about itself.

    Attributes:
        root, camera, gps: directories of its EXIF.
        xmp: simple properties of its XMP by their local name, whichever the namespace: makers use their own.
    """

    root: Directory = field(default_factory=dict)
    camera: Directory = field(default_factory=dict)
    gps: Directory = field(default_factory=dict)
    xmp: Mapping[str, str] = field(default_factory=dict)


def read_tags(data: bytes) -> Tags:
    """The tags of an image file in any format that is decoded; never raises for its content."""
    if data.startswith(JPEG_START) and JPEG_APP1 not in data:
        return Tags()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of what it passes over
        exif, xmp = _blocks(data)
        root, camera, gps = _directories(exif)
        try:
            properties = _properties(xmp or _as_bytes(first(root, _XMP)))
        except (*DAMAGED, DefusedXmlException):  # also raised for entities and document types
            properties = {}
    return Tags(root, camera, gps, properties)


def _blocks(data: bytes) -> tuple[bytes, bytes]:
    """The EXIF block of a file, without its mark, and its XMP packet."""
    if data[:4] in TIFF_STARTS:
        return data, b""
    formats: tuple[str, ...] = FORMATS
    try:
        if camera_formats.is_heic(data):
            camera_formats.enable_heic()
            formats = ("HEIF",)
        info = Image.open(io.BytesIO(jpegs.with_8_bits(data)), formats=formats).info
    except DAMAGED:
        return b"", b""
    exif = _as_bytes(info.get("exif"))
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    return exif, _as_bytes(info.get("xmp"))


def _as_bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode(errors="replace")
    return bytes(value) if isinstance(value, bytes | bytearray) else b""


class _Limited(io.BytesIO):
    """An EXIF block of which MAX_EXIF_BYTES are read; it seems to end there."""

    left = MAX_EXIF_BYTES

    def read(self, size: int | None = -1) -> bytes:
        if self.left <= 0:
            return b""
        block = super().read(size)
        self.left -= len(block)
        return block


def _directories(exif: bytes) -> tuple[Directory, Directory, Directory]:
    """The tags of an EXIF block: of the file, of the camera, and of the position."""
    block = _Limited(exif)
    head = block.read(8)

    def directory(at: Any, group: int | None = None) -> Directory:
        try:
            tags = TiffImagePlugin.ImageFileDirectory_v2(head, group=group)
            block.seek(tags.next if at is None else at)
            tags.load(block)
        except DAMAGED:
            return {}
        return tags

    root = directory(None)
    camera, gps = (
        directory(first(root, tag), tag) if tag in root else {} for tag in (_CAMERA_DIRECTORY, _GPS_DIRECTORY)
    )
    return root, camera, gps


def first(tags: Directory, tag: int) -> Any:
    """The first value of a tag; None if it is missing or damaged."""
    values = values_of(tags, tag)
    return values[0] if values else None


def values_of(tags: Directory, tag: int) -> tuple[Any, ...]:
    """The values of a tag; none if it is missing or damaged."""
    try:
        value = tags.get(tag)
    except DAMAGED:
        return ()
    return value if isinstance(value, tuple) else () if value is None else (value,)


def number(value: Any) -> float:
    """A finite number, or NaN."""
    try:
        converted = float(value)
    except DAMAGED:
        return math.nan
    return converted if math.isfinite(converted) else math.nan


def text(value: Any) -> str:
    """One line of printable text, up to MAX_TEXT characters."""
    decoded = value.decode("utf-8", "replace") if isinstance(value, bytes) else value if isinstance(value, str) else ""
    whole = decoded.encode("utf-8", "replace").decode()  # no lone surrogates, which no table can hold
    return _NO_TEXT.sub(" ", whole.partition("\0")[0]).strip()[:MAX_TEXT]


def _properties(xmp: bytes) -> dict[str, str]:
    """The simple properties of an XMP packet by their local name."""
    packet = xmp.strip(b"\0 \t\r\n")
    if not packet or len(packet) > MAX_XMP_BYTES:
        return {}
    properties: dict[str, str] = {}
    for element in ElementTree.fromstring(packet, forbid_dtd=True).iter():
        for name, value in ((element.tag, element.text), *element.attrib.items()):
            if value and value.strip():
                properties.setdefault(name.rpartition("}")[2], value.strip())
    return properties
