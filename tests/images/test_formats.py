"""One image in every encoding gives one set of grey levels, or a refusal that says what to do."""

import io
import struct
import zlib
from collections.abc import Callable

import imagecodecs
import numpy as np
import pytest
import tifffile
from files import is_pixels_or_refusal
from formats import COLOUR_HW3, GREY_HW, by_pillow, by_tifffile, deeper, encodings, outcome
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from crackvae.errors import UnreadableImage
from crackvae.images.decoding import decode, decode_picture
from crackvae.images.metadata import read_metadata

ALL = list(encodings())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("encode", "most"), [one[1:] for one in ALL], ids=[one[0] for one in ALL])
def test_an_encoding_gives_the_drawn_image_or_a_refusal(encode: Callable[[], bytes], most: int | None) -> None:
    found = outcome(encode)
    assert isinstance(found, str) if most is None else isinstance(found, int) and found <= most, found


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_stands_upright_by_either_decoder(orientation: int, bits: int) -> None:
    pixels = GREY_HW if bits == 8 else deeper(GREY_HW, 16)
    white = 255 if bits == 8 else 65_535
    tag = (274, "H", 1, orientation, True)
    both = [
        decode(by_tifffile(pixels, photometric="minisblack", extratags=[tag])),
        decode(by_tifffile(white - pixels, photometric="miniswhite", extratags=[tag])),
    ]
    assert np.array_equal(*both) and both[0].shape == (GREY_HW.shape if orientation < 5 else GREY_HW.shape[::-1])


@pytest.mark.parametrize("bits", [8, 16])
def test_transparent_pixels_are_known_in_every_depth(bits: int) -> None:
    opacity = np.full(GREY_HW.shape, 2**bits - 1, f"u{bits // 8}")
    opacity[:20] = 0
    colour = COLOUR_HW3 if bits == 8 else deeper(COLOUR_HW3, 16)
    picture = decode_picture(by_tifffile(np.dstack([colour, opacity]), photometric="rgb", extrasamples=["unassalpha"]))
    assert picture.hidden_HW is not None and np.array_equal(picture.hidden_HW, opacity == 0)


PNG_STORED = {1: (GREY_HW > 128) * 1, 2: GREY_HW >> 6, 4: GREY_HW >> 4, 8: GREY_HW, 16: deeper(GREY_HW, 16)}


def png(stored: np.ndarray, bits: int, level: int) -> bytes:
    """A PNG, grey or in colour, that calls one level of its stored samples transparent."""
    is_set = (stored[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    rows = np.packbits(is_set.reshape(len(stored), -1).astype(np.uint8), axis=1)
    height, width, samples = np.atleast_3d(stored).shape
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, bits, samples - 1, 0, 0, 0),
        b"tRNS": level.to_bytes(2, "big") * samples,
        b"IDAT": zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)),
        b"IEND": b"",
    }
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )


@pytest.mark.parametrize(
    ("bits", "is_colour"), [(1, False), (2, False), (4, False), (8, False), (16, False), (8, True), (16, True)]
)
def test_the_transparent_level_of_a_png_counts_in_its_own_number_of_bits(bits: int, is_colour: bool) -> None:
    stored_HW = PNG_STORED[bits].copy()
    level = 1_000 if bits == 16 else 1
    stored_HW[:20] = level
    stored = np.dstack([stored_HW] * 3) if is_colour else stored_HW
    hidden_HW = decode_picture(png(stored, bits, level)).hidden_HW
    is_level_HW = stored_HW >> 8 == level >> 8 if is_colour and bits == 16 else stored_HW == level
    assert hidden_HW is not None and np.array_equal(hidden_HW, is_level_HW) and hidden_HW[:20].all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_of_12_bits_stands_upright_and_its_thumbnail_is_not_taken_for_it(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x0110] = orientation, "A1"
    block = exif.tobytes() + by_pillow(GREY_HW[:32, :32], "JPEG")
    jpegs = [imagecodecs.jpeg_encode(deeper(GREY_HW, 12), 98, bitspersample=12), by_pillow(GREY_HW, "JPEG", quality=98)]
    twelve, eight = (jpeg[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + jpeg[2:] for jpeg in jpegs)
    upright_HW = decode(eight)
    assert upright_HW.shape == (GREY_HW.shape if orientation < 5 else GREY_HW.shape[::-1])
    assert np.abs(decode(twelve).astype(int) - upright_HW).max() <= 6
    assert read_metadata(twelve).camera == read_metadata(eight).camera == "A1"


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_tiff_that_leaves_parts_out_is_refused_by_name(compression: str | None) -> None:
    data = bytearray(by_tifffile(GREY_HW, tile=(32, 32), compression=compression))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        for name in ("TileOffsets", "TileByteCounts"):
            tag = file.pages[0].tags[name]
            data[tag.valueoffset : tag.valueoffset + 8] = bytes(8)
    with pytest.raises(UnreadableImage, match=r"damaged or sparse TIFF: \d of 16 parts missing"):
        decode(bytes(data))


def files() -> list[bytes]:
    deep = deeper(GREY_HW, 16)
    return [
        by_tifffile(deep, photometric="miniswhite", compression="zlib"),
        by_tifffile(deep, photometric="miniswhite", tile=(32, 32), compression="lzw"),
        by_tifffile((GREY_HW / 255).astype("f4"), rowsperstrip=8),
        by_tifffile(np.moveaxis(deeper(COLOUR_HW3, 16), 2, 0), photometric="rgb", planarconfig="separate"),
    ]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("data", files(), ids=["zlib", "tiled lzw", "float strips", "planar"])
def test_a_truncated_deep_tiff_is_refused_at_every_length(data: bytes) -> None:
    for length in {*range(1, len(data) - 1, 211), len(data) - 1}:
        try:
            pixels_HW = decode(data[:length])
        except UnreadableImage:
            continue
        assert np.array_equal(pixels_HW, decode(data))  # tags behind the pixels may be cut off without a loss


@pytest.mark.filterwarnings("ignore")
@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(0, 3), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 7)), min_size=1, max_size=6))
def test_damaged_bytes_of_a_deep_tiff_give_pixels_or_a_refusal(number: int, flips: list[tuple[float, int]]) -> None:
    damaged = bytearray(files()[number])
    for at, bit in flips:
        damaged[int(at * (len(damaged) - 1))] ^= 1 << bit
    assert is_pixels_or_refusal(bytes(damaged))


def test_tags_that_contradict_the_data_are_refused() -> None:
    data = bytearray(by_tifffile(deeper(GREY_HW, 16), photometric="miniswhite"))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        at = file.pages[0].tags["ImageLength"].valueoffset
    data[at : at + 2] = (GREY_HW.shape[0] * 2).to_bytes(2, "little")
    with pytest.raises(UnreadableImage, match=r"damaged|the tags state"):
        decode(bytes(data))
