"""Shape letters: H, W rows and columns of an image [px]; 3 = red, green, blue; T tiles; P side of a tile [px]."""

import io
import struct
import zlib

import numpy as np
import pytest
from files import is_pixels_or_refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageFilter, ImageOps

from crackvae.errors import UnreadableImage
from crackvae.images import decoding, surface
from crackvae.images.decoding import EXIF_ORIENTATION, MIN_SIDE_PX, decode

FORMATS = ["JPEG", "PNG", "TIFF", "BMP", "WEBP"]
LOSSLESS = {"PNG": {}, "TIFF": {}, "BMP": {}, "WEBP": {"lossless": True}}

# How a camera that was held in the way of each EXIF orientation stores an upright scene.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}

few = settings(derandomize=True, deadline=None, max_examples=100)
# Pillow warns of some damage before it raises.
damage_may_warn = pytest.mark.filterwarnings("ignore::UserWarning")


def scene(height: int = 48, width: int = 64) -> Image.Image:
    """Muted colours, as of concrete, without any symmetry, and a dark corner at the top left."""
    down_H1, right_W = np.linspace(0, 60, height)[:, None], np.linspace(0, 60, width)
    pixels_HW3 = np.stack(np.broadcast_arrays(90 + right_W, 100 + down_H1, 150 - down_H1 / 2 - right_W / 2), axis=2)
    pixels_HW3[:8, :8] = 20
    return Image.fromarray(pixels_HW3.astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def grey(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L")).astype(int)


def difference(data: bytes, image: Image.Image) -> int:
    """Largest difference between what is decoded and an image [grey levels]."""
    pixels_HW = decode(data)
    assert pixels_HW.dtype == np.uint8 and pixels_HW.shape == (image.height, image.width)
    return int(np.abs(pixels_HW - grey(image)).max())


def refusal(data: bytes) -> str:
    with pytest.raises(UnreadableImage) as caught:
        decode(data)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG with any header, over pixels that need not be there."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


# -------------------------------------------------------------------------------------------- what is decoded


@pytest.mark.parametrize("kind", LOSSLESS)
def test_colour_becomes_luma_in_every_lossless_format(kind):
    assert difference(encoded(scene(), kind, **LOSSLESS[kind]), scene()) == 0


@pytest.mark.parametrize("kind", FORMATS)
def test_a_format_is_known_by_its_bytes_and_a_lossy_one_stays_close(kind):
    assert np.abs(decode(encoded(scene(), kind)) - grey(scene())).mean() < 5


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 50}])
def test_a_jpeg_is_decoded_as_pillow_converts_it(options):
    data = encoded(scene(227, 227), "JPEG", **options)
    assert difference(data, Image.open(io.BytesIO(data))) <= 2


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}])
def test_a_plain_jpeg_is_decoded_without_pillow_to_the_same_pixels(options, monkeypatch):
    data = [encoded(image, "JPEG", **options) for image in (scene(227, 227), scene(301, 403).convert("L"))]
    monkeypatch.setattr(decoding, "_plain_jpeg", lambda data, max_px: None)
    by_pillow = [decode(one) for one in data]
    monkeypatch.undo()
    monkeypatch.setattr(decoding, "_open", None)
    assert all(np.array_equal(decode(one), pixels) for one, pixels in zip(data, by_pillow, strict=True))


def test_a_jpeg_that_claims_a_huge_picture_is_refused_before_it_is_decoded(monkeypatch):
    data = bytearray(encoded(scene(), "JPEG"))
    size = data.index(b"\xff\xc0") + 5
    data[size : size + 4] = struct.pack(">HH", 60_000, 60_000)
    monkeypatch.setattr(decoding.simplejpeg, "decode_jpeg", None)
    assert refusal(bytes(data)) == "60000x60000 px is over the limit of 160 Mpx"


def test_a_jpeg_that_stores_rgb_is_decoded_as_pillow_converts_it():
    data = encoded(scene(), "JPEG", keep_rgb=True)
    assert difference(data, Image.open(io.BytesIO(data))) <= 2


def test_a_cmyk_jpeg_is_decoded():
    data = encoded(scene().convert("CMYK"), "JPEG", quality=95)
    assert difference(data, Image.open(io.BytesIO(data))) == 0
    assert np.abs(decode(data) - grey(scene())).mean() < 3


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_of_more_rows_than_are_converted_at_once_is_as_pillow_converts_it_and_upright(kind: str):
    noise_HW4 = np.random.default_rng(0).integers(0, 256, (2 * decoding.ROWS_AT_ONCE + 7, 50, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[decoding.EXIF_ORIENTATION] = 6
    data = encoded(Image.fromarray(noise_HW4, "CMYK"), kind, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("L")
    assert expected.size == (135, 50) and np.array_equal(decode(data), np.asarray(expected))


def test_a_cmyk_jpeg_in_several_scans_is_refused_from_50_megapixels_on(monkeypatch: pytest.MonkeyPatch):
    plain, progressive = (encoded(scene().convert("CMYK"), "JPEG", progressive=how) for how in (False, True))
    assert decode(progressive).shape == decode(plain).shape
    monkeypatch.setattr(decoding, "MAX_SCANNED_CMYK_PX", 1000)
    assert decode(plain).size > 1000
    assert "is over the limit of 0 Mpx of its format" in refusal(progressive)


def test_of_a_jpeg_with_two_pictures_the_first_is_taken():
    data = encoded(scene(), "MPO", save_all=True, append_images=[Image.new("RGB", (64, 48), "white")])
    assert difference(data, Image.open(io.BytesIO(data))) <= 2


def test_a_jpeg_keeps_its_full_size():
    assert decode(encoded(scene(301, 403), "JPEG")).shape == (301, 403)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "1", "P"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_every_colour_mode_is_decoded(kind, mode):
    image = scene().convert(mode)
    assert difference(encoded(image, kind), image.convert("RGB")) == 0


@pytest.mark.parametrize(
    ("mode", "transparency"), [("L", 7), ("RGB", (0, 0, 0)), ("P", 3), ("P", b"\x00\x80\xff")], ids=str
)
def test_transparency_is_ignored_without_a_warning(mode, transparency):
    image = scene().convert(mode)
    assert difference(encoded(image, "PNG", transparency=transparency), image.convert("RGB")) == 0


def test_a_fully_transparent_picture_keeps_its_pixels():
    image = scene()
    image.putalpha(0)
    assert difference(encoded(image, "PNG"), scene()) == 0


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "packbits"])
def test_a_compressed_tiff_is_decoded(compression):
    assert difference(encoded(scene(), "TIFF", compression=compression), scene()) == 0


@pytest.mark.parametrize("order", ["<u2", ">u2"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_become_eight_by_their_full_range(kind, order):
    levels = np.arange(65_536).reshape(256, 256).astype(order)
    pixels_HW = decode(encoded(Image.fromarray(levels), kind)).ravel()
    assert (pixels_HW[0], pixels_HW[32_896], pixels_HW[65_535]) == (0, 128, 255)
    assert np.array_equal(pixels_HW, np.rint(np.arange(65_536) / 257))


def test_a_sixteen_bit_picture_stands_upright():
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    levels = np.zeros((40, 60), np.uint16)
    levels[0, 0] = 65_535
    pixels_HW = decode(encoded(Image.fromarray(levels), "PNG", exif=exif))
    assert pixels_HW.shape == (60, 40) and pixels_HW[0, -1] == 255


def test_a_signed_value_outside_sixteen_bits_is_refused():
    levels = np.zeros((40, 60), np.int32)
    levels[3, 4] = 70_000
    assert "signed pixel values 0..70000 have no known white" in refusal(encoded(Image.fromarray(levels), "TIFF"))


def test_floating_point_pixels_of_no_known_white_are_refused():
    assert "or in 8 or 16 bits" in refusal(encoded(scene().convert("F"), "TIFF"))


def test_of_several_pages_the_first_is_taken():
    other = Image.new("RGB", (64, 48), "white")
    assert difference(encoded(scene(), "TIFF", save_all=True, append_images=[other]), scene()) == 0


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_picture_stands_upright_however_the_camera_was_held(kind, orientation):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    stored = scene() if STORED[orientation] is None else scene().transpose(STORED[orientation])
    data = encoded(stored, kind, exif=exif, **LOSSLESS.get(kind, {"quality": 95}))
    assert difference(data, ImageOps.exif_transpose(Image.open(io.BytesIO(data)))) <= 2
    assert np.abs(decode(data) - grey(scene())).mean() < 2


def test_an_orientation_that_means_nothing_is_ignored():
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 99
    assert difference(encoded(scene(), "PNG", exif=exif), scene()) == 0


# --------------------------------------------------------------------------------------------- what is refused


def test_an_empty_file_is_refused():
    assert refusal(b"") == "empty file"


def test_a_text_is_refused_with_the_formats_that_are_read():
    assert ", ".join(FORMATS) in refusal(b"<html>404 Not Found</html>")


def test_a_format_outside_the_list_is_refused():
    assert refusal(encoded(scene(), "GIF")).startswith("not an image in one of the formats")


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1", b"hevc", b"avif"])
def test_a_phone_picture_without_content_is_refused(brand):
    assert "not an image in one of the formats" in refusal(b"\0\0\0\x18ftyp" + brand + bytes(40))


@pytest.mark.parametrize("tags", [{254: 1}, {50706: b"\x01\x04\x00\x00"}], ids=["reduced picture", "DNG"])
def test_the_thumbnail_of_a_camera_raw_file_is_not_scored_in_its_place(tags):
    assert "camera raw" in refusal(encoded(scene(), "TIFF", tiffinfo=tags))


@damage_may_warn
@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_that_was_copied_in_part_is_refused_at_every_length(kind):
    data = encoded(scene(), kind)
    # The last chunk of a PNG and the padding of a WebP hold no pixels, so they are not missed.
    lengths = {*range(1, min(200, len(data) - 60)), *range(1, len(data) - 60, 37), len(data) - 60}
    for length in lengths:
        assert refusal(data[:length]), length


def test_a_header_that_claims_a_huge_picture_is_refused_before_it_is_decoded(monkeypatch):
    decoded = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded.append)
    assert refusal(png(60_000, 60_000, zlib.compress(bytes(1000)))) == "60000x60000 px is over the limit of 160 Mpx"
    assert decoded == []


def test_a_picture_without_texture_to_judge_is_refused():
    for width, height in [(MIN_SIDE_PX - 1, 400), (400, MIN_SIDE_PX - 1), (1, 1)]:
        assert f"{width}x{height} px is too small" in refusal(encoded(Image.new("L", (width, height)), "PNG"))
    assert decode(encoded(Image.new("L", (MIN_SIDE_PX, MIN_SIDE_PX)), "PNG")).shape == (MIN_SIDE_PX, MIN_SIDE_PX)


def test_a_header_of_no_size_is_refused():
    assert refusal(png(0, 100))


@damage_may_warn
@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_bytes_give_pixels_or_a_refusal_and_nothing_else(kind):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    data = encoded(scene(24, 32), kind, **({} if kind == "BMP" else {"exif": exif}))

    @few
    @given(st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 7)), min_size=1, max_size=8))
    def flip(bits):
        damaged = bytearray(data)
        for offset, bit in bits:
            damaged[offset] ^= 1 << bit
        assert is_pixels_or_refusal(bytes(damaged))

    flip()


@damage_may_warn
@pytest.mark.parametrize("kind", FORMATS)
def test_a_damaged_header_gives_pixels_or_a_refusal_and_nothing_else(kind):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    data = encoded(scene(16, 16), kind, **({} if kind == "BMP" else {"exif": exif}))
    head = min(len(data), 200)

    @few
    @given(st.integers(0, head - 1), st.binary(min_size=1, max_size=4))
    def overwrite(offset, patch):
        damaged = data[:offset] + patch + data[offset + len(patch) :]
        assert is_pixels_or_refusal(damaged)

    overwrite()


def test_measures_tell_light_from_contrast_and_blur() -> None:
    wall = np.random.default_rng(0).normal(120, 12, (90, 130)).clip(0, 255).astype(np.uint8)
    usual = surface.measures(wall)
    darker = surface.measures((wall * 0.8).astype(np.uint8))
    blurred = surface.measures(np.asarray(Image.fromarray(wall).filter(ImageFilter.GaussianBlur(1.5))))
    assert usual.brightness == pytest.approx(120, abs=2) and darker.brightness == pytest.approx(96, abs=2)
    assert darker.contrast == pytest.approx(usual.contrast, rel=0.05)
    assert darker.sharpness == pytest.approx(usual.sharpness, rel=0.03)
    assert usual.sharpness == pytest.approx(1, abs=0.03) and blurred.sharpness < 0.4


@pytest.mark.parametrize("shape", [(16, 16), (16, 5000), (300, 17)])
@pytest.mark.parametrize("grey", [0, 200, 255])
def test_an_even_surface_has_no_contrast_and_no_blur(shape: tuple[int, int], grey: int) -> None:
    assert surface.measures(np.full(shape, grey, np.uint8)) == surface.Measures(grey, grey != 200, 0.0, 1.0)
