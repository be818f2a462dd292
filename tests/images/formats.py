"""One drawn image in every encoding that Pillow, tifffile and imagecodecs write, and what decoding makes of each.

Run as a script it prints the table of docs/formats.md, and how far the scores of the built-in model differ.
"""

import io
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pillow_heif
import tifffile
from PIL import Image

import crackvae
from crackvae.errors import UnreadableImage
from crackvae.images.decoding import decode_picture
from crackvae.images.synthetic import draw_image

COLOUR_HW3 = draw_image(0, 1, True, 128)[0]
GREY_HW = np.asarray(Image.fromarray(COLOUR_HW3).convert("L"))
# Odd sides: strips, tiles and subsampled planes do not end with the image.
COLOUR_HW3, GREY_HW = COLOUR_HW3[:101, :117], GREY_HW[:101, :117]


def by_pillow(pixels: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(stream, kind, **options)
    return stream.getvalue()


def by_tifffile(pixels: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, **options)
    return stream.getvalue()


def heic(pixels_HW3: np.ndarray, bits: int = 8) -> bytes:
    stream = io.BytesIO()
    height, width, _ = pixels_HW3.shape
    mode, levels = ("RGB", pixels_HW3) if bits == 8 else ("RGB;16", deeper(pixels_HW3, 16))
    pillow_heif.from_bytes(mode, (width, height), levels.tobytes()).save(stream, quality=95)
    return stream.getvalue()


def deeper(pixels: np.ndarray, bits: int) -> np.ndarray:
    """8-bit pixels by the full range of more bits."""
    levels = np.round(pixels.astype(np.float64) / 255 * (2**bits - 1))
    return levels.astype(np.uint16 if bits <= 16 else np.uint32 if bits <= 32 else np.uint64)


def _cmyk(colour: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(colour).convert("CMYK"))


def _lab() -> np.ndarray:
    """L*a*b* of D50 of the grey image: a and b are zero, so its luma is exact."""
    share = GREY_HW / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    lightness = np.where(linear > (6 / 29) ** 3, 116 * np.cbrt(linear) - 16, linear * (29 / 3) ** 3)
    return np.dstack([np.round(lightness * 2.55), np.zeros((*GREY_HW.shape, 2))]).astype(np.uint8)


def bitmap(pixels_HW3: np.ndarray) -> bytes:
    """A BMP of version 5 with a mask of the alpha channel, which is empty: many programs write such files."""
    pixels = np.dstack([pixels_HW3[::-1, :, ::-1], np.zeros(pixels_HW3.shape[:2], np.uint8)]).tobytes()
    height, width, _ = pixels_HW3.shape
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 124, width, height, 1, 32, 3, len(pixels), 0, 0, 0, 0) + masks.ljust(84, b"\0")
    return struct.pack("<2sIII", b"BM", 14 + len(header) + len(pixels), 0, 14 + len(header)) + header + pixels


def _with_margin(value: float) -> np.ndarray:
    """Grey levels 0..1, and a margin of ten rows without data."""
    shares_HW = (GREY_HW / 255).astype("f4")
    shares_HW[:10] = value
    return shares_HW


def _without(tag: int, data: bytes) -> bytes:
    """A TIFF in which a tag is missing: it has a number that means nothing, the last one in the order of tags."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        at = file.pages[0].tags[tag].offset
        end = file.pages[0].tags[max(one.code for one in file.pages[0].tags)].offset + 12
    entry = (65_000).to_bytes(2, "little") + data[at + 2 : at + 12]
    return data[:at] + data[at + 12 : end] + entry + data[end:]


def _subsampled() -> bytes:
    """A TIFF of Y'CbCr 2x2 as it is, which tifffile does not write: its tags are corrected afterwards."""
    height, width = (side // 2 * 2 for side in GREY_HW.shape)
    blocks = GREY_HW[:height, :width].reshape(height // 2, 2, width // 2, 2).transpose(0, 2, 1, 3)
    units = np.concatenate([blocks.reshape(height // 2, -1, 4), np.full((height // 2, width // 2, 2), 128)], axis=2)
    pixels = units.astype(np.uint8).reshape(height, -1, 3)
    tag = (530, "H", 2, (2, 2), True)
    data = bytearray(by_tifffile(pixels, photometric="rgb", extratags=[tag]))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        at = file.pages[0].tags["PhotometricInterpretation"].valueoffset
    data[at : at + 2] = (6).to_bytes(2, "little")
    return bytes(data)


def _alpha(pixels: np.ndarray, opacity: int = 255) -> np.ndarray:
    return np.dstack([pixels, np.full(GREY_HW.shape, opacity, pixels.dtype)])


def _pages(*pages: np.ndarray) -> bytes:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        for page in pages:
            writer.write(page, photometric="minisblack", contiguous=False)
    return stream.getvalue()


def encodings() -> Iterator[tuple[str, Callable[[], bytes], int | None]]:
    """Name, the file, and the largest difference allowed [grey levels]; None where a refusal is right."""
    colour, grey = COLOUR_HW3, GREY_HW
    for kind in ("PNG", "BMP", "TIFF"):
        for mode in ("L", "RGB", "RGBA", "P") if kind != "BMP" else ("L", "RGB", "P"):
            image = Image.fromarray(grey if mode == "P" else colour).convert(mode)
            yield f"{kind} {mode}", lambda i=image, k=kind: by_pillow(i, k), 1
    yield "BMP of 32 bits, alpha empty", lambda: bitmap(colour), 0
    yield "PNG LA", lambda: by_pillow(Image.fromarray(grey).convert("LA"), "PNG"), 0
    yield "PNG 16 bits grey", lambda: by_pillow(deeper(grey, 16), "PNG"), 0
    yield "PNG 16 bits colour", lambda: imagecodecs.png_encode(deeper(colour, 16)), 1
    yield "PNG 16 bits grey with alpha", lambda: imagecodecs.png_encode(_alpha(deeper(grey, 16), 65_535)), 1
    yield (
        "APNG, 2 frames",
        lambda: by_pillow(Image.fromarray(grey), "PNG", save_all=True, append_images=[Image.fromarray(255 - grey)]),
        None,
    )
    yield "WebP lossless", lambda: by_pillow(colour, "WEBP", lossless=True), 1
    yield (
        "WebP, 2 frames",
        lambda: by_pillow(
            Image.fromarray(colour), "WEBP", lossless=True, save_all=True, append_images=[Image.fromarray(255 - colour)]
        ),
        None,
    )
    dark = Image.new("RGB", (GREY_HW.shape[1], GREY_HW.shape[0]))
    for subsampling in ("444", "422", "420", "411", "440"):
        yield f"JPEG {subsampling}", lambda s=subsampling: imagecodecs.jpeg_encode(colour, 98, subsampling=s), 6
    yield "JPEG grey", lambda: by_pillow(grey, "JPEG", quality=98), 6
    yield "JPEG progressive", lambda: by_pillow(colour, "JPEG", quality=98, progressive=True), 6
    yield "JPEG RGB", lambda: by_pillow(colour, "JPEG", quality=98, keep_rgb=True), 8
    yield "JPEG CMYK", lambda: by_pillow(Image.fromarray(colour).convert("CMYK"), "JPEG", quality=98), 12
    yield "JPEG 12 bits grey", lambda: imagecodecs.jpeg_encode(deeper(grey, 12), 98, bitspersample=12), 6
    yield "JPEG 12 bits colour", lambda: imagecodecs.jpeg_encode(deeper(colour, 12), 98, bitspersample=12), 6
    yield "JPEG lossless", lambda: imagecodecs.ljpeg_encode(grey), 0
    yield "JPEG, multi-picture", lambda: by_pillow(grey, "MPO", quality=98, append_images=[dark], save_all=True), 6
    yield "JPEG 2000", lambda: imagecodecs.jpeg2k_encode(grey), 0
    yield "JPEG 2000 colour", lambda: by_pillow(colour, "JPEG2000"), 1
    yield "JPEG 2000 16 bits", lambda: imagecodecs.jpeg2k_encode(deeper(grey, 16)), 1
    yield "AVIF", lambda: by_pillow(colour, "AVIF", quality=95), 12
    yield "AVIF, 2 frames", lambda: by_pillow(colour, "AVIF", save_all=True, append_images=[dark]), None
    yield "HEIC", lambda: heic(colour), 12
    yield "HEIC 10 bits", lambda: heic(colour, 10), 12
    yield "JPEG XL L", lambda: imagecodecs.jpegxl_encode(grey, lossless=True), 0
    yield "JPEG XL RGB", lambda: imagecodecs.jpegxl_encode(colour, lossless=True), 1
    yield "JPEG XL RGBA", lambda: imagecodecs.jpegxl_encode(_alpha(colour), lossless=True), 1
    yield "JPEG XL of 16 bits", lambda: imagecodecs.jpegxl_encode(deeper(grey, 16), lossless=True), 0
    yield "JPEG XL in floats", lambda: imagecodecs.jpegxl_encode((grey / 255).astype("f4"), lossless=True), 0
    yield "JPEG XL at distance 1", lambda: imagecodecs.jpegxl_encode(grey, distance=1), 16
    yield "JPEG XR", lambda: imagecodecs.jpegxr_encode(grey), None
    yield from _tiffs()


def _tiffs() -> Iterator[tuple[str, Callable[[], bytes], int | None]]:
    colour, grey = COLOUR_HW3, GREY_HW
    for order in "<>":
        for big in (False, True):
            name = f"TIFF {'big' if order == '>' else 'little'}-endian{' BigTIFF' if big else ''}"
            options: dict[str, Any] = {"byteorder": order, "bigtiff": big}
            yield f"{name} 8 bits", lambda o=options: by_tifffile(grey, **o), 0
            for bits in (16, 32):
                yield f"{name} {bits} bits", lambda b=bits, o=options: by_tifffile(deeper(grey, b), **o), 0
            yield f"{name} 16 bits colour", lambda o=options: by_tifffile(deeper(colour, 16), photometric="rgb", **o), 1
    for bits in (8, 16, 32):
        yield (
            f"TIFF white is zero {bits} bits",
            lambda b=bits: by_tifffile(
                (2**b - 1 - (grey if b == 8 else deeper(grey, b)).astype(np.int64)).astype(f"u{b // 8}"),
                photometric="miniswhite",
            ),
            0,
        )
    for kind in ("f2", "f4", "f8"):
        yield f"TIFF float {kind} 0..1", lambda k=kind: by_tifffile((grey / 255).astype(k)), 1
        yield f"TIFF float {kind} colour", lambda k=kind: by_tifffile((colour / 255).astype(k), photometric="rgb"), 1
    yield "TIFF float 0..255", lambda: by_tifffile(grey.astype("f4")), None
    for name, value in (("NaN", np.nan), ("-9999", -9999), ("3.4e38", 3.4e38)):
        nodata = (42_113, "s", 0, name, True)
        yield (
            f"TIFF float, no data: {name}",
            lambda v=value, n=nodata: by_tifffile(_with_margin(v), extratags=[n]),
            0,
        )
    yield "TIFF float, infinite", lambda: by_tifffile(_with_margin(np.inf)), 0
    yield "TIFF 64 bits", lambda: by_tifffile(deeper(grey, 48) << np.uint64(16)), 1
    yield "TIFF signed 16 bits", lambda: by_tifffile(deeper(grey, 15).astype(np.int16)), None
    yield "TIFF signed, negative", lambda: by_tifffile(grey.astype(np.int16) - 100), None
    yield "TIFF complex", lambda: by_tifffile(grey.astype(np.complex64)), None
    for compression in ("lzw", "zlib", "packbits", "zstd", "lzma", "jpeg", "webp", "png", "jpegxl", "jpeg2000"):
        lossless = compression not in ("jpeg", "webp")
        yield (
            f"TIFF {compression}",
            lambda c=compression: by_tifffile(colour, photometric="rgb", compression=c),
            1 if lossless else 20,
        )
        if compression in ("lzw", "zlib", "zstd"):
            yield (
                f"TIFF {compression} 16 bits predictor",
                lambda c=compression: by_tifffile(deeper(grey, 16), compression=c, predictor=True),
                0,
            )
            yield (
                f"TIFF {compression} float predictor",
                lambda c=compression: by_tifffile((grey / 255).astype("f4"), compression=c, predictor=True),
                1,
            )
    for pixels, name in ((colour, "8"), (deeper(colour, 16), "16")):
        planes = np.moveaxis(pixels, 2, 0)
        yield f"TIFF planar {name} bits", lambda p=planes: by_tifffile(p, photometric="rgb", planarconfig="separate"), 1
        yield f"TIFF tiled {name} bits", lambda p=pixels: by_tifffile(p, photometric="rgb", tile=(32, 48)), 1
        yield (
            f"TIFF planar tiled lzw {name} bits",
            lambda p=planes: by_tifffile(
                p, photometric="rgb", planarconfig="separate", tile=(32, 48), compression="lzw"
            ),
            1,
        )
        opaque = 255 if name == "8" else 65_535
        for extra in ("unassalpha", "assocalpha", "unspecified"):
            yield (
                f"TIFF {extra} {name} bits",
                lambda p=pixels, o=opaque, e=extra: by_tifffile(_alpha(p, o), photometric="rgb", extrasamples=[e]),
                1,
            )
        yield (
            f"TIFF strips of 7 rows {name} bits",
            lambda p=pixels: by_tifffile(p, photometric="rgb", rowsperstrip=7),
            1,
        )
    for extra in ("unassalpha", "assocalpha", "unspecified"):
        yield (
            f"TIFF grey, {extra}",
            lambda e=extra: by_tifffile(_alpha(grey), photometric="minisblack", extrasamples=[e]),
            0,
        )
    for name, pixels, photometric in (("", grey, "minisblack"), (" colour", colour, "rgb")):
        yield (
            f"TIFF without PhotometricInterpretation{name}",
            lambda p=pixels, k=photometric: _without(262, by_tifffile(p, photometric=k)),
            0,
        )
    for bits in (10, 12, 14):
        yield f"TIFF packed {bits} bits", lambda b=bits: _packed(b), 0
    yield "TIFF CMYK", lambda: by_tifffile(_cmyk(colour), photometric="separated"), 1
    yield "TIFF CMYK 16 bits", lambda: by_tifffile(deeper(_cmyk(colour), 16), photometric="separated"), 1
    yield "TIFF L*a*b*", lambda: by_tifffile(_lab(), photometric="cielab"), 1
    yield "TIFF ICC L*a*b*", lambda: by_tifffile(_lab(), photometric="icclab"), None
    palette = np.arange(256, dtype=np.uint16) * 257
    yield "TIFF palette", lambda: by_tifffile(grey, photometric="palette", colormap=np.stack([palette] * 3)), 1
    yield (
        "TIFF palette of 8-bit colours",
        lambda: by_tifffile(grey, photometric="palette", colormap=np.stack([palette // 257] * 3)),
        0,
    )
    yield "TIFF Y'CbCr 2x2 without compression", _subsampled, None
    for subsampling in ((1, 1), (2, 1), (2, 2)):
        yield (
            f"TIFF Y'CbCr {subsampling[0]}x{subsampling[1]}",
            lambda s=subsampling: by_tifffile(
                np.asarray(Image.fromarray(colour).convert("YCbCr")),
                photometric="ycbcr",
                subsampling=s,
                compression="jpeg",
                compressionargs={"level": 98},
            ),
            12,
        )
    yield "TIFF page 1 of 3", lambda: _pages(grey, 255 - grey, grey[::-1]), 0


def _packed(bits: int) -> bytes:
    """A TIFF of packed samples, which tifffile reads and does not write: its tags are corrected afterwards."""
    levels = deeper(GREY_HW, bits)
    is_set = (levels[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    data = np.packbits(is_set.reshape(len(levels), -1).astype(np.uint8), axis=1).tobytes()
    stream = bytearray(by_tifffile(np.zeros((GREY_HW.shape[0], len(data) // GREY_HW.shape[0]), np.uint8)))
    with tifffile.TiffFile(io.BytesIO(bytes(stream))) as file:
        page = file.pages[0]
        stream[page.dataoffsets[0] : page.dataoffsets[0] + len(data)] = data
        for tag, value in (("ImageWidth", GREY_HW.shape[1]), ("BitsPerSample", bits)):
            at = page.tags[tag].valueoffset
            stream[at : at + 2] = value.to_bytes(2, "little")
    return bytes(stream)


def outcome(encode: Callable[[], bytes]) -> int | str:
    """Largest difference of the visible pixels to the drawn image [grey levels], or the refusal."""
    try:
        picture = decode_picture(encode())
    except UnreadableImage as error:
        return str(error)
    assert picture.pixels_HW.shape == GREY_HW.shape
    difference_HW = np.abs(picture.pixels_HW.astype(int) - GREY_HW)
    return int(difference_HW.max() if picture.hidden_HW is None else difference_HW[~picture.hidden_HW].max())


def scores() -> tuple[dict[str, float], dict[str, float]]:
    """Scores by the built-in model of the encodings that are not refused, and of the image with other grey levels."""
    noise_HW, grey_HW = np.random.default_rng(0).integers(-1, 2, GREY_HW.shape), GREY_HW.astype(int)
    others = {"as it is": 0, "a level less": -1, "a level more": 1, "a level at random": noise_HW}
    files = {f"{name}.tif": encode() for name, encode, _ in encodings()}
    files |= {f"{name}.png": by_pillow((grey_HW + change).astype(np.uint8), "PNG") for name, change in others.items()}
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name.replace("/", "_")).write_bytes(data)
        crackvae.score(images=folder, out=f"{folder}/scores", no_report=True, quiet=True, max_unreadable="100%")
        table = crackvae.read_scores(f"{folder}/scores").to_pandas()
    scored = table[table["score"].notna() & ~table["image"].str.contains("!/page=")]
    found = {Path(image).stem: score for image, score in zip(scored["image"], scored["score"], strict=True)}
    return {name: found.pop(name) for name in others}, found


if __name__ == "__main__":
    print("| encoding | largest difference [grey levels], or refusal |\n|---|---|")
    for name, encode, _ in encodings():
        print(f"| {name} | {outcome(encode)} |")
    drawn, encoded = scores()
    as_it_is = drawn.pop("as it is")
    print(f"\nScore {as_it_is:.2f}; with", {name: round(score - as_it_is, 2) for name, score in drawn.items()})
    others = {name: round(score - as_it_is, 2) for name, score in encoded.items() if score != as_it_is}
    print(f"{len(encoded) - len(others)} of {len(encoded)} encodings have the same; the others: {others}")
