"""Files that would break a careless reader of images: drawn pictures, damaged, faked and exaggerated on purpose.

`files()` makes the bytes, `plant()` puts them into a folder with what only a disk can hold: links, pipes, devices,
names. Each file says what must become of it: SCORED, REFUSED (unreadable, with a reason) or EITHER.
"""

import io
import os
import random
import socket
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from crackvae.images.synthetic import draw_image

SCORED, REFUSED, EITHER = "scored", "unreadable", "either"
CORPUS = Path(__file__).parent / "corpus"
SIDE_PX = 64
EXIF_IFD, ORIENTATION = 0x8769, 0x0112
# A header may claim it, and no camera makes it.
HUGE_PX, MOST_PX = 60_000, 65_535
# Empty parts of a file, each of which Pillow takes up in Python.
FLOOD = 20_000


@dataclass(frozen=True)
class Hostile:
    """One file.

    Attributes:
        kind: what is wrong with it; the same for its variations.
        name: of the file, with its ending.
        data: its bytes.
        fate: SCORED, REFUSED or EITHER.
    """

    kind: str
    name: str
    data: bytes
    fate: str


def picture(side_px: int = SIDE_PX) -> Image.Image:
    return Image.fromarray(draw_image(8, 1, True, side_px)[0])


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)  # type: ignore[arg-type]
    return file.getvalue()


def originals() -> dict[str, bytes]:
    """The drawn picture in every format, by the ending of its name."""
    image = picture()
    return {
        "jpg": encoded(image, "JPEG", quality=85),
        "progressive.jpg": encoded(image, "JPEG", quality=85, progressive=True),
        "png": encoded(image, "PNG"),
        "tif": encoded(image, "TIFF", compression="tiff_lzw"),
        "webp": encoded(image, "WEBP", quality=80),
        "bmp": encoded(image, "BMP"),
    }


# ------------------------------------------------------------------------------------- building blocks of files


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 0) -> bytes:
    """A PNG of some size whose further chunks are given."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks)


def pixels(width: int = SIDE_PX, height: int = SIDE_PX) -> bytes:
    """The chunk with the pixels of a grey PNG."""
    rows = np.asarray(picture(max(width, height)).convert("L"))[:height, :width]
    return chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))


END = chunk(b"IEND", b"")


def ifd(entries: list[tuple[int, int, int, bytes]], following: int = 0) -> bytes:
    """One directory of a little-endian TIFF, from (tag, type, count, four bytes of value or offset)."""
    packed = b"".join(struct.pack("<HHI4s", *entry) for entry in sorted(entries))
    return struct.pack("<H", len(entries)) + packed + struct.pack("<I", following)


def number(tag: int, value: int) -> tuple[int, int, int, bytes]:
    return tag, 4, 1, struct.pack("<I", value)


def tiff(width: int, height: int, strip: bytes = b"", more: tuple[tuple[int, int, int, bytes], ...] = (),
         following: int = 0, compression: int = 1) -> bytes:  # fmt: skip
    """A grey TIFF with one strip, which lies before its directory."""
    where = 8 + len(strip)
    entries = [number(256, width), number(257, height), number(258, 8), number(259, compression), number(262, 1)]
    entries += [number(273, 8), number(278, height), number(279, len(strip)), *more]
    return struct.pack("<2sHI", b"II", 42, where) + strip + ifd(entries, following)


def segment(marker: int, data: bytes) -> bytes:
    """One segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def with_segments(jpeg: bytes, *segments: bytes) -> bytes:
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def with_size(jpeg: bytes, width: int, height: int) -> bytes:
    """A JPEG whose header claims another size."""
    at = next(jpeg.index(marker) for marker in (b"\xff\xc0", b"\xff\xc2") if marker in jpeg) + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


def webp_of(width: int, height: int) -> bytes:
    """A lossless WebP whose header claims a size."""
    data = b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + bytes(20)
    data += b"\0" * (len(data) % 2)
    return b"RIFF" + struct.pack("<I", 12 + len(data)) + b"WEBPVP8L" + struct.pack("<I", len(data)) + data


def many_scans(width: int, height: int, scans: int) -> bytes:
    """A progressive JPEG that refines an even surface over and over: few bytes, and each scan visits every block."""
    jpeg = encoded(Image.new("L", (width, height), 128), "JPEG", progressive=True)
    start = jpeg.rindex(b"\xff\xda")
    return jpeg[:start] + jpeg[start:-2] * scans + jpeg[-2:]


def looping_exif() -> bytes:
    """EXIF whose directories point at themselves and at each other."""
    first = ifd([number(ORIENTATION, 1), number(EXIF_IFD, 8), number(0x8825, 8), number(0xA005, 8)], following=8)
    return b"Exif\0\0II*\0\x08\0\0\0" + first


def crowded_exif(n_tags: int, size: int) -> bytes:
    """EXIF in which every tag claims the same bytes as its value."""
    entries = [(1000 + tag, 7, size, struct.pack("<I", 8)) for tag in range(n_tags)]
    return (b"Exif\0\0II*\0\x08\0\0\0" + ifd(entries)).ljust(size, b"\0")


# ------------------------------------------------------------------------------------------------------- files


def files() -> list[Hostile]:
    """All hostile files but those that only a disk can hold; the same in every call."""
    whole = originals()
    makers = (_damaged, _sizes, _pngs, _tiffs, _jpegs, _strangers, _odd_but_whole)
    return [Hostile(*one) for maker in makers for one in maker(whole)]


Made = Iterator[tuple[str, str, bytes, str]]


def _damaged(whole: dict[str, bytes]) -> Made:
    chance = random.Random(8)
    for form, data in whole.items():
        yield "empty", f"empty.{form}", b"", REFUSED
        yield "only zeros", f"zeros.{form}", bytes(len(data)), REFUSED
        yield "noise behind a header", f"noise.{form}", data[:24] + chance.randbytes(2000), REFUSED
        yield "another's header", f"swapped.{form}", data[:8] + whole["bmp" if form == "png" else "png"][8:], REFUSED
        for tenth in range(1, 10):
            yield "truncated", f"{tenth}0-percent.{form}", data[: len(data) * tenth // 10], REFUSED
        for flip in range(8):
            bent = bytearray(data)
            for _ in range(1 + flip):
                bent[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            yield "bits flipped", f"flipped-{flip}.{form}", bytes(bent), EITHER


def _sizes(whole: dict[str, bytes]) -> Made:
    for width, height in ((HUGE_PX, HUGE_PX), (MOST_PX, MOST_PX)):
        size = f"{width}x{height}"
        yield "bomb by header", f"{size}.png", png(width, height, chunk(b"IDAT", zlib.compress(bytes(9999)))), REFUSED
        yield "bomb by header", f"{size}.tif", tiff(width, height, bytes(99)), REFUSED
        yield "bomb by header", f"{size}.jpg", with_size(whole["jpg"], width, height), REFUSED
        yield "bomb by header", f"{size}.progressive.jpg", with_size(whole["progressive.jpg"], width, height), REFUSED
        yield "bomb by header", f"{size}.bmp", _bmp_of(whole["bmp"], width, height), REFUSED
    yield "bomb by header", "2147483647.png", png(2**31 - 1, 2**31 - 1), REFUSED
    yield "bomb by header", "4294967295.tif", tiff(2**32 - 1, 2**32 - 1), REFUSED
    yield "bomb by header", "16384.webp", webp_of(16_384, 16_384), REFUSED
    for width, height in ((0, 64), (64, 0), (0, 0)):
        size = f"{width}x{height}"
        yield "no side", f"{size}.png", png(width, height, pixels(), END), REFUSED
        yield "no side", f"{size}.tif", tiff(width, height, bytes(64)), REFUSED
        yield "no side", f"{size}.jpg", with_size(whole["jpg"], width, height), REFUSED
        yield "no side", f"{size}.bmp", _bmp_of(whole["bmp"], width, height), REFUSED
    yield "a side of 65,535 px", "sliver.png", encoded(Image.new("L", (MOST_PX, 16), 99), "PNG"), EITHER
    yield "a side of 65,535 px", "sliver.tif", encoded(Image.new("L", (16, MOST_PX), 99), "TIFF"), EITHER
    yield "a side of 65,535 px", "claims.jpg", with_size(whole["jpg"], MOST_PX, 16), REFUSED
    for side in (1, 2, 15):
        yield "too small", f"{side}.png", encoded(Image.new("RGB", (side, 400)), "PNG"), REFUSED


def _bmp_of(bmp: bytes, width: int, height: int) -> bytes:
    return bmp[:18] + struct.pack("<II", width, height) + bmp[26:]


def _pngs(whole: dict[str, bytes]) -> Made:
    grey = png(SIDE_PX, SIDE_PX)
    inflated = zlib.compress(bytes(50_000_000), 9)
    yield "text that inflates", "zTXt.png", grey + chunk(b"zTXt", b"k\0\0" + inflated) + pixels() + END, EITHER
    yield "text that inflates", "iTXt.png", grey + chunk(b"iTXt", b"k\0\1\0\0\0" + inflated) + pixels() + END, EITHER
    yield "text that inflates", "iCCP.png", grey + chunk(b"iCCP", b"k\0\0" + inflated) + pixels() + END, EITHER
    texts = chunk(b"tEXt", b"k\0" + bytes(900_000)) * 80
    yield "text that inflates", "80-texts.png", grey + texts + pixels() + END, EITHER
    yield "flood of chunks", "flood.png", grey + chunk(b"noOp", b"") * FLOOD + pixels() + END, EITHER
    yield "flood of chunks", "empty-idats.png", grey + chunk(b"IDAT", b"") * FLOOD + pixels() + END, EITHER
    yield "chunks out of order", "no-header.png", grey[:8] + pixels() + END, REFUSED
    yield "chunks out of order", "two-headers.png", grey + grey[8:] + pixels() + END, EITHER
    yield "chunks out of order", "no-pixels.png", grey + END, REFUSED
    yield "chunks out of order", "pixels-first.png", grey[:8] + pixels() + grey[8:] + END, REFUSED
    yield "wrong checksum", "header.png", grey[:-2] + b"xx" + pixels() + END, REFUSED
    yield "wrong checksum", "pixels.png", grey + pixels()[:-2] + b"xx" + END, EITHER
    yield "pixels that run out", "short.png", grey + chunk(b"IDAT", zlib.compress(bytes(65 * 30))) + END, EITHER
    yield "pixels that run over", "long.png", grey + chunk(b"IDAT", inflated) + END, EITHER
    yield "values of no meaning", "depth.png", png(64, 64, pixels(), END, depth=7), REFUSED
    yield "values of no meaning", "colour.png", png(64, 64, pixels(), END, colour=9), REFUSED
    yield "crowded EXIF", "exif.png", grey + chunk(b"eXIf", crowded_exif(5000, 400_000)[6:]) + pixels() + END, SCORED
    yield "EXIF that loops", "loop.png", grey + chunk(b"eXIf", looping_exif()[6:]) + pixels() + END, SCORED


def _tiffs(whole: dict[str, bytes]) -> Made:
    strip = np.asarray(picture().convert("L")).tobytes()
    after = 8 + len(strip)
    yield "directories that loop", "itself.tif", tiff(64, 64, strip, following=after), SCORED
    yield "directories that loop", "beyond.tif", tiff(64, 64, strip, following=2**31), SCORED
    chain = b"".join(ifd([number(256, 1)], 8 + 18 * (n + 1)) for n in range(20_000))
    deep = struct.pack("<2sHI", b"II", 42, 8) + chain + ifd([number(256, 1)])
    yield "deep directories", "20000.tif", deep, REFUSED
    sub = tuple(number(tag, after) for tag in (330, 34665, 34853))
    yield "directories that loop", "sub.tif", tiff(64, 64, strip, sub), SCORED
    crowd = tuple((40_000 + tag, 7, len(strip), struct.pack("<I", 8)) for tag in range(10_000))
    yield "tags that share their value", "crowd.tif", tiff(64, 64, strip, crowd), EITHER
    yield "tags that share their value", "claims.tif", tiff(64, 64, strip, ((40_000, 7, 2**31, b"\0\0\0\1"),)), EITHER
    yield "strips elsewhere", "outside.tif", tiff(64, 64, strip, compression=5)[:-70], REFUSED
    far = bytearray(tiff(64, 64, strip))
    where = far.index(struct.pack("<HHI", 273, 4, 1)) + 8
    far[where : where + 4] = b"\xff\xff\xff\x7f"
    yield "strips elsewhere", "far.tif", bytes(far), REFUSED
    for compression in (2, 3, 4, 6, 7, 34712, 34887, 34925, 50000, 50001, 65000):
        yield "compression of no meaning", f"{compression}.tif", tiff(64, 64, strip, compression=compression), REFUSED
    yield "values outside 8 and 16 bits", "float.tif", encoded(picture().convert("F"), "TIFF"), REFUSED
    large = Image.fromarray(np.full((64, 64), 70_000, np.int32))
    yield "values outside 8 and 16 bits", "large.tif", encoded(large, "TIFF"), REFUSED


def _jpegs(whole: dict[str, bytes]) -> Made:
    jpeg = whole["jpg"]
    yield "thousands of scans", "scans.jpg", many_scans(1000, 1000, 3000), REFUSED
    yield "thousands of scans", "large-scans.jpg", many_scans(4000, 4000, 500), REFUSED
    yield "EXIF that loops", "loop.jpg", with_segments(jpeg, segment(0xE1, looping_exif())), SCORED
    crowd = crowded_exif(5000, 65_000)
    yield "crowded EXIF", "exif.jpg", with_segments(jpeg, *[segment(0xE1, crowd)] * 20), SCORED
    yield "flood of segments", "comments.jpg", with_segments(jpeg, segment(0xFE, b"") * FLOOD), SCORED
    yield "flood of segments", "fill.jpg", jpeg[:2] + b"\xff" * 10 * FLOOD + jpeg[2:], EITHER
    tables = {"huffman": 0xC4, "quantisation": 0xDB, "frame": 0xC0, "scan": 0xDA}
    for name, marker in tables.items():
        fate = EITHER if name == "huffman" else REFUSED  # the format has usual ones, for films
        yield "a table is missing", f"no-{name}.jpg", _without(jpeg, marker), fate
    for marker in (0xC3, 0xC5, 0xC6, 0xC7, 0xC8, 0xCB, 0xCD):
        frame = jpeg.replace(b"\xff\xc0", bytes((0xFF, marker)), 1)
        yield "a frame of no meaning", f"{marker:x}.jpg", frame, REFUSED
    at = jpeg.index(b"\xff\xc0")
    yield "values of no meaning", "12-bit.jpg", jpeg[: at + 4] + b"\x0c" + jpeg[at + 5 :], EITHER
    yield "values of no meaning", "components.jpg", jpeg[: at + 9] + b"\xff" + jpeg[at + 10 :], REFUSED
    scan = jpeg.index(b"\xff\xda")
    yield "pixels that run out", "ended.jpg", jpeg[: scan + 40] + b"\xff\xd9", EITHER
    yield "pixels that run out", "ended-large.jpg", with_size(jpeg, 1500, 1500), EITHER


def _without(jpeg: bytes, marker: int) -> bytes:
    """A JPEG without its segments of one kind."""
    at, kept = 2, jpeg[:2]
    while jpeg[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        kept += b"" if jpeg[at + 1] == marker else jpeg[at:end]
        at = end
    return kept + (b"\xff\xd9" if marker == 0xDA else jpeg[at:])


def _strangers(whole: dict[str, bytes]) -> Made:
    image = picture()
    for form in ("GIF", "PPM", "TGA", "ICO", "PCX"):
        yield "another format", f"{form.lower()}.jpg", encoded(image, form), REFUSED
    texts = {
        "html": b"<html>404 Not Found</html>",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "pdf": b"%PDF-1.7\n1 0 obj\n<</Length 9>>",
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n(%pipe%id) (r) file\n",
        "xpm": b"/* XPM */ static char *x[] = {",
        "elf": b"\x7fELF\x02\x01\x01" + bytes(200),
        "php": b"<?php system($_GET['c']); ?>",
        "pickle": b"cos\nsystem\n(S'touch /tmp/owned'\ntR.",
    }
    for name, text in texts.items():
        yield "no image at all", f"{name}.png", text, REFUSED
    for brand in (b"heic", b"avif", b"mif1", b"hevc"):
        yield "a phone's format", f"{brand.decode()}.jpg", b"\0\0\0\x18ftyp" + brand + bytes(60), REFUSED
    raw = encoded(image, "TIFF", tiffinfo={50706: b"\x01\x04\0\0"})
    yield "camera raw", "dng.tif", raw, REFUSED


def _odd_but_whole(whole: dict[str, bytes]) -> Made:
    image = picture()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("payload.sh", "touch /tmp/owned")
    for form, data in whole.items():
        ending = "png" if form != "png" else "jpg"
        yield "wrong ending", f"{form}-as.{ending}", data, SCORED
        yield "polyglot", f"zip-behind.{form}", data + packed.getvalue(), SCORED
        yield "polyglot", f"html-behind.{form}", data + b"<script>alert(1)</script>" * 999, SCORED
    script = segment(0xFE, b"*/=1;alert(1)/*")
    yield "polyglot", "script-inside.jpg", with_segments(whole["jpg"], script), SCORED
    yield "progressive", "progressive.jpg", whole["progressive.jpg"], SCORED
    yield "arithmetic-coded", "arithmetic.jpg", (CORPUS / "arithmetic.jpg").read_bytes(), SCORED
    yield "CMYK", "cmyk.jpg", encoded(image.convert("CMYK"), "JPEG"), SCORED
    yield "CMYK", "cmyk.tif", encoded(image.convert("CMYK"), "TIFF"), SCORED
    sixteen = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    yield "16 bits", "16.png", encoded(sixteen, "PNG"), SCORED
    yield "16 bits", "16.tif", encoded(sixteen, "TIFF"), SCORED
    palette = image.convert("P")
    yield "palette with alpha", "palette.png", encoded(palette, "PNG", transparency=bytes(range(256))), SCORED
    yield "palette with alpha", "palette-1.png", encoded(palette, "PNG", transparency=3), SCORED
    for form, data in {"png": b"eXIf", "jpg": b"Exif"}.items():
        noise = data + b"\0\0not a TIFF" * 9
        notes = whole["png"][:33] + chunk(b"eXIf", noise) + whole["png"][33:]
        bad = notes if form == "png" else with_segments(whole["jpg"], segment(0xE1, noise))
        yield "damaged EXIF", f"bad.{form}", bad, SCORED
    yield "damaged EXIF", "bad.webp", encoded(image, "WEBP", exif=b"II*\0" + b"\xff" * 99), SCORED
    frames = [image.rotate(turn) for turn in (90, 180, 270)]
    for form, ending in (("PNG", "png"), ("WEBP", "webp"), ("TIFF", "tif")):
        moving = encoded(image, form, save_all=True, append_images=frames)
        yield "animated", f"moving.{ending}", moving, SCORED if form == "TIFF" else REFUSED  # pages, frames
    yield "crowded EXIF", "exif.webp", encoded(image, "WEBP", exif=crowded_exif(5000, 400_000)[6:]), SCORED
    yield "EXIF that loops", "loop.webp", encoded(image, "WEBP", exif=looping_exif()[6:]), SCORED


# ------------------------------------------------------------------------------------------------ on a disk


NAMES = (
    "line\nbreak.png",
    "turned\u202egnp.exe.png",
    "ß" * 125 + "x.png",
    "\u200f\u2066mark\u2069.png",
    "-rf.png",
    "$(touch owned).png",
    "`id`;'\".png",
    "%2e%2e%2f.png",
    "tab\there\x1b[31m.png",
    "e\u0301 and \u00e9.png",
    "😀.png",
    "<img src=x onerror=alert(1)>.png",
    "=1+1.png",
    " .png",
)
NOT_UTF8 = (b"\xff\xfe.png", b"caf\xe9.jpg", b"\xed\xa0\x80.png")


def plant(folder: Path) -> list[tuple[str, str, str]]:
    """Put all hostile files, and what only a disk can hold, into a folder.

    Returns:
        kind, path and fate (or `unreachable`) of each; a path that is not UTF-8 as the table shows it.
    """
    planted = []

    def put(kind: str, name: str, fate: str) -> Path:
        path = folder / kind.replace(" ", "-").replace(",", "").replace("'", "") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        planted.append((kind, os.fsencode(path).decode("utf-8", errors="backslashreplace"), fate))
        return path

    for one in files():
        put(one.kind, one.name, one.fate).write_bytes(one.data)
    sound = originals()["png"]
    for name in NAMES:
        put("odd names", name, SCORED).write_bytes(sound)
    for raw in NOT_UTF8:
        put("names that are not UTF-8", os.fsdecode(raw), REFUSED).write_bytes(sound)
    whole = put("links", "whole.png", SCORED)
    whole.write_bytes(sound)
    put("links", "to-whole.png", SCORED).symlink_to("whole.png")
    put("links", "dangling.png", REFUSED).symlink_to("nowhere.png")
    put("links", "itself.png", REFUSED).symlink_to("itself.png")
    put("links", "zero.png", REFUSED).symlink_to("/dev/zero")
    put("links", "random.png", REFUSED).symlink_to("/dev/random")
    put("links", "memory.png", "unreachable").symlink_to("/proc/self/mem")
    (whole.parent / "up").symlink_to(folder)
    os.mkfifo(put("pipes and sockets", "pipe.jpg", REFUSED))
    put("pipes and sockets", "to-pipe.jpg", REFUSED).symlink_to("pipe.jpg")
    with suppress(OSError), socket.socket(socket.AF_UNIX) as listening:  # the path of a socket has 107 bytes at most
        listening.bind(os.path.relpath(whole.parent.parent / "pipes-and-sockets" / "socket.jpg"))
        put("pipes and sockets", "socket.jpg", REFUSED)
    put("huge and empty", "terabyte.png", REFUSED).touch()
    os.truncate(planted[-1][1], 2**40)
    put("huge and empty", "gigabytes.jpg", REFUSED).write_bytes(originals()["jpg"])
    os.truncate(planted[-1][1], 3 * 2**30)
    return planted
