"""One image in every encoding gives one set of grey levels, or a refusal that says what to do."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import tifffile
from files import is_pixels_or_refusal
from formats import COLOUR_HW3, GREY_HW, by_tifffile, deeper, encodings, outcome
from hypothesis import given, settings
from hypothesis import strategies as st

from crackvae.errors import UnreadableImage
from crackvae.images.decoding import decode, decode_picture

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
    with pytest.raises(UnreadableImage, match=r"damaged TIFF|the tags state"):
        decode(bytes(data))
