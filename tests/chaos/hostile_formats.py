"""Hostile files of the formats of phones, cameras and videos: truncated, bent, mislabelled, and with absurd headers."""

import io
import random
import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import av
import imagecodecs
import numpy as np
from files import raw_file
from hostile import HUGE_PX, Hostile, encoded, picture

SIDE_PX, FRAMES, FPS = 128, 12, 10
VIDEOS = ("mp4", "mov", "mkv", "webm")

# Longest time that a header of 32 bits states, and the shortest unit of time.
FOREVER = 0xFFFFFFFF


def video(ending: str) -> bytes:
    """A second of drawn concrete."""
    file = io.BytesIO()
    codec = "libvpx" if ending == "webm" else "libx264"
    grey = np.asarray(picture(SIDE_PX).convert("L"))
    with av.open(file, "w", format={"mkv": "matroska"}.get(ending, ending)) as container:
        stream = container.add_stream(codec, rate=FPS, options={"g": "4"})
        stream.width = stream.height = SIDE_PX
        stream.pix_fmt = "yuv420p"
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(np.roll(grey, number, 1), format="gray")
            frame.pts = number
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode())
    return file.getvalue()


@cache
def originals() -> dict[str, bytes]:
    """The drawn picture in every format, by the ending of its name."""
    import pillow_heif

    image = picture(SIDE_PX)
    heic = io.BytesIO()
    pillow_heif.from_pillow(image).save(heic, quality=90)
    grey = np.asarray(image.convert("L"))
    return {
        "heic": heic.getvalue(),
        "avif": encoded(image, "AVIF", quality=90),
        "jp2": encoded(image, "JPEG2000"),
        "j2k": encoded(image, "JPEG2000", no_jp2=True),
        "jxl": bytes(imagecodecs.jpegxl_encode(grey, distance=1)),
        "dng": raw_file(grey),
        "mpo": encoded(image, "MPO", save_all=True, append_images=[image]),
        **{ending: video(ending) for ending in VIDEOS},
    }


def files() -> list[Hostile]:
    """All of them; the same bytes in each call."""
    return [*_truncated(), *_bent(), *_mislabelled(), *_huge(), *_endless(), *_counts()]


def write(folder: Path) -> dict[str, Hostile]:
    """Each file in the folder, by its path."""
    folder.mkdir(parents=True)
    paths = {str(folder / f"{number:03d}-{one.name}"): one for number, one in enumerate(files())}
    for path, one in paths.items():
        Path(path).write_bytes(one.data)
    return paths


def _truncated() -> Iterator[Hostile]:
    for ending, data in originals().items():
        for percent in (1, 30, 70, 97):
            yield Hostile("truncated", f"{percent}.{ending}", data[: len(data) * percent // 100], "")


def _bent() -> Iterator[Hostile]:
    for ending, data in originals().items():
        chosen = random.Random(ending)
        for n_bytes in (8, 60):
            bent = bytearray(data)
            for _ in range(n_bytes):
                bent[chosen.randrange(12, len(bent))] = chosen.randrange(256)
            yield Hostile("bent", f"{n_bytes}.{ending}", bytes(bent), "")


def _mislabelled() -> Iterator[Hostile]:
    whole = originals()
    for name in ("mp4.heic", "heic.mp4", "avif.mov", "jp2.mkv", "mkv.dng", "dng.mp4"):
        yield Hostile("mislabelled", name, whole[name.partition(".")[0]], "")


def _patched(data: bytes, box: bytes, offset: int, *values: int) -> bytes:
    """Numbers of 32 bits, big-endian, written at an offset behind each occurrence of the name of a box."""
    patched, at = bytearray(data), data.find(box)
    assert at >= 0, box
    while at >= 0:
        struct.pack_into(f">{len(values)}I", patched, at + 4 + offset, *values)
        at = data.find(box, at + 4)
    return bytes(patched)


def _huge() -> Iterator[Hostile]:
    """Sizes that a header claims."""
    whole = originals()
    for ending in ("heic", "avif"):
        for side in (HUGE_PX, 2**31 - 1, 0):
            yield Hostile("huge", f"{side}.{ending}", _patched(whole[ending], b"ispe", 4, side, side), "")
    for ending in ("jp2", "j2k"):
        at = whole[ending].index(b"\xff\x51") + 6  # SIZ: size of the image and of its tiles
        for side in (HUGE_PX, 2**31 - 1):
            data = bytearray(whole[ending])
            struct.pack_into(">II", data, at, side, side)
            yield Hostile("huge", f"{side}.{ending}", bytes(data), "")
            struct.pack_into(">II", data, at + 16, side, side)
            yield Hostile("huge", f"{side}-tile.{ending}", bytes(data), "")
    yield Hostile("huge", "box.jp2", _patched(whole["jp2"], b"ihdr", 0, HUGE_PX, HUGE_PX), "")
    for selector, n_bits in ((2, 18), (3, 30)):  # square, of 2^18 and 2^30 px
        header = (0 | selector << 1 | ((1 << n_bits) - 1) << 3 | 1 << (3 + n_bits)).to_bytes(8, "little")
        yield Hostile("huge", f"{n_bits}.jxl", whole["jxl"][:2] + header + whole["jxl"][10:], "")
    for tag in (256, 257):  # width, height
        entry = struct.pack("<HHI", tag, 4, 1)
        at = whole["dng"].index(entry) + len(entry)
        for side in (HUGE_PX, 2**31 - 1):
            data = whole["dng"][:at] + struct.pack("<I", side) + whole["dng"][at + 4 :]
            yield Hostile("huge", f"{tag}-{side}.dng", data, "")
    for ending in ("mp4", "mov"):
        data = bytearray(whole[ending])
        at = whole[ending].index(b"avc1") + 28
        struct.pack_into(">HH", data, at, 65_535, 65_535)
        yield Hostile("huge", f"65535.{ending}", bytes(data), "")


def _endless() -> Iterator[Hostile]:
    """Durations that a header claims, and units of time that are none."""
    whole = originals()
    for ending in ("mp4", "mov"):
        for name, values in {"forever": (1, FOREVER), "no-unit": (0, 1000), "tiny-unit": (FOREVER, FOREVER)}.items():
            yield Hostile("endless", f"{name}.{ending}", _patched(whole[ending], b"mvhd", 12, *values), "")
            yield Hostile("endless", f"{name}-track.{ending}", _patched(whole[ending], b"mdhd", 12, *values), "")
    for name, value in {"infinite": float("inf"), "nan": float("nan"), "negative": -1e300, "long": 1e300}.items():
        at = whole["mkv"].index(b"\x44\x89\x88") + 3  # Duration, a float of 8 bytes
        data = whole["mkv"][:at] + struct.pack(">d", value) + whole["mkv"][at + 8 :]
        yield Hostile("endless", f"{name}.mkv", data, "")


def _counts() -> Iterator[Hostile]:
    """Numbers of entries that a table claims, and steps of time between frames."""
    mp4 = originals()["mp4"]
    for box, offset in ((b"stts", 4), (b"stsz", 8), (b"stco", 4), (b"stsc", 4), (b"ctts", 4), (b"stss", 4)):
        if box in mp4:
            yield Hostile("counts", f"{box.decode()}.mp4", _patched(mp4, box, offset, FOREVER), "")
    yield Hostile("counts", "samples-of-an-entry.mp4", _patched(mp4, b"stts", 8, FOREVER, 1), "")
    yield Hostile("counts", "step.mp4", _patched(mp4, b"stts", 8, FRAMES, 2**31 - 1), "")
