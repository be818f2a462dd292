"""HEIC, AVIF, JPEG 2000, camera raw and thermal files: decoded, or refused by a reason, within the limits."""

import io
import shutil
import subprocess
import sys

import imagecodecs
import numpy as np
import pytest
from files import raw_file
from formats import COLOUR_HW3, GREY_HW, by_pillow, heic
from PIL import Image

from crackvae.errors import UnreadableImage
from crackvae.images import decoding
from crackvae.images.decoding import decode
from crackvae.images.decoding.jpegs import decode_jpegxl


def refusal(data: bytes) -> str:
    with pytest.raises(UnreadableImage) as caught:
        decode(data)
    return str(caught.value)


def stripes() -> np.ndarray:
    """Dark and bright columns, 16 px wide each."""
    return np.tile(np.repeat(np.array([40, 160], np.uint8), 16), (96, 4))


def test_a_raw_file_is_decoded_at_half_the_size_of_its_sensor():
    grey_HW = decode(raw_file(stripes()))
    assert grey_HW.shape == (48, 64)
    assert grey_HW[:, 2:6].max() < grey_HW[:, 10:14].min()  # columns of 8 px: dark, bright


def test_a_truncated_raw_file_is_refused_by_name():
    data = raw_file(stripes())
    assert "camera raw" in refusal(data[: len(data) // 2]) or "damaged" in refusal(data[: len(data) // 2])
    assert "camera raw" in refusal(b"FUJIFILMCCD-RAW" + bytes(500))


def is_installed(program: str) -> bool:
    """Whether a program is there, and for `convert`, a name that others have too, whether it is ImageMagick's."""
    if not shutil.which(program):
        return False
    if program != "convert":
        return True
    return b"ImageMagick" in subprocess.run([program, "-version"], capture_output=True, timeout=60).stdout


@pytest.mark.parametrize(
    ("command", "ending"),
    [
        (["heif-enc", "-q", "95", "IN", "-o", "OUT"], "heic"),
        (["heif-enc", "-q", "95", "IN", "-o", "OUT"], "heif"),
        (["heif-enc", "-A", "-q", "95", "IN", "-o", "OUT"], "avif"),
        (["opj_compress", "-i", "IN", "-o", "OUT"], "jp2"),
        (["ffmpeg", "-loglevel", "error", "-i", "IN", "OUT"], "jp2"),
        (["ffmpeg", "-loglevel", "error", "-i", "IN", "-distance", "0.1", "OUT"], "jxl"),
        (["ffmpeg", "-loglevel", "error", "-i", "IN", "-lossless", "1", "OUT"], "webp"),
        (["convert", "IN", "-quality", "98", "OUT"], "jpg"),
        (["convert", "IN", "-depth", "16", "-compress", "LZW", "OUT"], "tif"),
        (["convert", "IN", "-depth", "32", "-define", "quantum:format=floating-point", "OUT"], "tif"),
        (["gdal_translate", "-q", "-ot", "UInt16", "-scale", "0", "255", "0", "65535", "IN", "OUT"], "tif"),
        (["gdal_translate", "-q", "-ot", "Float32", "-scale", "0", "255", "0", "1", "IN", "OUT"], "tif"),
    ],
)
def test_files_of_other_programs_have_the_pixels_of_the_same_picture_as_png(command, ending, tmp_path):
    if not is_installed(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    source, made = tmp_path / "drawn.png", tmp_path / f"made.{ending}"
    even_HW3 = COLOUR_HW3[:100, :116]  # ffmpeg's chroma planes have half the size
    Image.fromarray(even_HW3).save(source)
    names = {"IN": str(source), "OUT": str(made)}
    subprocess.run([names.get(word, word) for word in command], check=True, capture_output=True, timeout=60)
    difference = np.abs(decode(made.read_bytes()).astype(int) - decode(source.read_bytes()))
    assert difference.mean() < 1


def jpegxl(*, boxed: bool = False) -> bytes:
    bare = bytes(imagecodecs.jpegxl_encode(COLOUR_HW3, distance=0.5))
    signature = b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0\0\0\x14ftypjxl \0\0\0\0jxl "
    return signature + (len(bare) + 8).to_bytes(4, "big") + b"jxlc" + bare if boxed else bare


@pytest.mark.parametrize(("height", "width"), [(16, 16), (101, 117), (256, 2000), (600, 20), (90, 120), (2048, 512)])
def test_the_size_of_a_jpeg_xl_is_read_from_its_header(height, width):
    pixels_HW = np.zeros((height, width), np.uint8)
    seen = []
    decode_jpegxl(imagecodecs.jpegxl_encode(pixels_HW), lambda *size: seen.append(size))
    assert seen == [(width, height)]


def test_a_jpeg_xl_in_boxes_is_the_one_without_and_damaged_ones_are_refused():
    assert np.array_equal(decode(jpegxl(boxed=True)), decode(jpegxl()))
    data = jpegxl(boxed=True)
    for cut in (12, 13, 35, 45, 60, len(data) // 2):
        assert "JPEG XL" in refusal(data[:cut])
    no_end = data[:12] + bytes(3) + b"\x01free" + bytes(200)
    assert "no picture in it" in refusal(no_end)


@pytest.mark.parametrize("kind", ["HEIC", "AVIF", "JPEG2000", "JPEG XL", "DNG"])
def test_the_limit_of_pixels_holds_before_decoding(kind, monkeypatch):
    others = {"HEIC": lambda: heic(COLOUR_HW3), "DNG": lambda: raw_file(stripes()), "JPEG XL": jpegxl}
    data = others.get(kind, lambda: by_pillow(COLOUR_HW3, kind))()
    with pytest.raises(UnreadableImage, match="over the limit"):
        decode(data, max_px=5_000)
    if kind != "DNG":
        monkeypatch.setattr(decoding, "MAX_HELD_PX", 5_000)
        assert "over the limit" in refusal(data)


@pytest.mark.parametrize("kind", ["HEIC", "AVIF", "JPEG2000"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_damaged_files_are_refused(kind, share):
    data = heic(COLOUR_HW3) if kind == "HEIC" else by_pillow(COLOUR_HW3, kind)
    try:
        pixels_HW = decode(data[: int(len(data) * share)])
    except UnreadableImage:
        return
    assert kind == "JPEG2000" and pixels_HW.shape == GREY_HW.shape  # it decodes the layers that there are


def test_the_orientation_of_heic_and_avif_is_applied_once():
    import pillow_heif

    tall = Image.fromarray(COLOUR_HW3).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show it
    stream = io.BytesIO()
    pillow_heif.from_pillow(tall).save(stream, quality=95, exif=exif.tobytes())
    for data in (stream.getvalue(), by_pillow(tall, "AVIF", exif=exif.tobytes(), quality=95)):
        pixels_HW = decode(data)
        assert pixels_HW.shape == GREY_HW.shape
        assert np.abs(pixels_HW.astype(int) - GREY_HW).mean() < 4


@pytest.mark.parametrize(("name", "data"), [("pillow_heif", heic(COLOUR_HW3)), ("rawpy", raw_file(stripes()))])
def test_a_missing_library_is_named_and_the_image_comes_again(name, data, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(OSError, match=rf"need {name}: pip install 'crackvae\[formats\]'"):
        decode(data)


@pytest.mark.parametrize("mark", [b"FLIR\0\x01\0\x01", b'<x drone-dji:ImageSource="InfraredCamera"/>'])
def test_thermal_pictures_are_left_out_with_a_reason(mark):
    jpeg = by_pillow(GREY_HW, "JPEG")
    segment = b"\xff\xe1" + (len(mark) + 2).to_bytes(2, "big") + mark
    assert "thermal" in refusal(jpeg[:2] + segment + jpeg[2:])
