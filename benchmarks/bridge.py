"""A drawn bridge for looking at: 40 photographs of three structures with time, place and camera, scored and reported.

    python benchmarks/bridge.py --work FOLDER

Writes FOLDER/photographs, FOLDER/scores with its page, and findings.pdf, .geojson, .kml and .csv beside them. Two
photographs of pier 1 show one crack from two places; one has no place, and one file is damaged.
"""

import argparse
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from record import write_result

from crackvae.config import FindingsConfig, ScoreConfig
from crackvae.exports.verb import findings
from crackvae.images.synthetic import draw_concrete, draw_crack
from crackvae.scoring.verb import score

HEIGHT, WIDTH = 1368, 2052
# Of 5472 px across, as its camera has them; the drawn ones are smaller, which the scale must allow for.
EXIF_WIDTH, EXIF_HEIGHT = 5472, 3648
DISTANCE_M = 1.2
STRUCTURES = {"Pier 1": 12, "Pier 2": 12, "Deck, underside": 16}
FIRST, START = (46.948, 7.4474), datetime(2026, 4, 21, 8, 12, tzinfo=UTC)
METRES_PER_DEGREE = 111_320.0
# The second photograph of the pair shows what the first shows, this much farther to the right [px].
PAIR, SHIFT_PX = ("Pier 1", 3), 600


class Shot(NamedTuple):
    """One photograph: pixels, and metres east and north of FIRST."""

    pixels_HW3: np.ndarray
    east_m: float
    north_m: float


def main() -> None:
    """Draw, score, export, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, type=Path)
    work = parser.parse_args().work
    photographs, scores = work / "photographs", work / "scores"
    if not photographs.exists():
        draw(photographs)
    started = time.process_time()
    settings = {"images": (str(photographs),), "out": str(scores), "model": "builtin", "distance": DISTANCE_M}
    scored = score(ScoreConfig(**settings))  # type: ignore[arg-type]
    figures = {"photographs": sum(STRUCTURES.values()), "score": scored.summary}
    for ending in ("pdf", "geojson", "kml", "csv"):
        started = time.process_time()
        settings = {"scores": str(scores), "out": str(work / f"findings.{ending}"), "title": "Drawn bridge, 2026"}
        summary = findings(FindingsConfig(**settings, views=ending == "pdf")).summary  # type: ignore[arg-type]
        used_s = round(time.process_time() - started, 1)
        figures[ending] = {"cpu_s": used_s, "bytes": summary["bytes"], "views": summary["views"]}
    print(json.dumps(figures, indent=1, default=str))
    print(write_result("bridge", {key: value for key, value in figures.items() if key != "score"}))


def draw(folder: Path) -> None:
    """Write the photographs, a folder for each structure."""
    number = 0
    for at, (structure, n) in enumerate(STRUCTURES.items()):
        (folder / structure).mkdir(parents=True)
        for shot_number, shot in enumerate(shots(at, structure, n)):
            number += 1
            path = folder / structure / f"DJI_{number:04}.JPG"
            exif = exif_of(shot, number, has_place=(structure, shot_number) != ("Pier 2", 7))
            Image.fromarray(shot.pixels_HW3).save(path, quality=92, exif=exif)
    damaged = folder / "Pier 2" / "DJI_0015.JPG"
    damaged.write_bytes(damaged.read_bytes()[:2000])


def shots(at: int, structure: str, n: int) -> list[Shot]:
    """The photographs of one structure, every second one with a crack."""
    made: list[Shot] = []
    second = np.zeros(0, np.uint8)
    for number in range(n):
        rng = np.random.default_rng([at, number])
        east_m, north_m = 45.0 * at + 1.5 * (number % 4), 2.0 * (number // 4) + rng.normal(0, 0.2)
        is_pair = (structure, number) == PAIR
        surface = draw_concrete(rng, HEIGHT, WIDTH + (SHIFT_PX if is_pair else 0))
        pixels = draw_crack(rng, surface)[0] if number % 2 else surface
        if (structure, number - 1) == PAIR:
            pixels = second
            east_m, north_m = made[-1].east_m + 0.8, made[-1].north_m
        if is_pair:
            second = np.ascontiguousarray(pixels[:, SHIFT_PX:])
            pixels = np.ascontiguousarray(pixels[:, :WIDTH])
        made.append(Shot(pixels, east_m, north_m))
    return made


def exif_of(shot: Shot, number: int, *, has_place: bool) -> bytes:
    """EXIF as a DJI FC6310 writes it."""
    taken = START + timedelta(seconds=40 * number)
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "DJI", "FC6310"
    exif[0x8769] = {
        0x9003: f"{taken:%Y:%m:%d %H:%M:%S}",
        0x9011: "+02:00",
        0x920A: 8.8,
        0xA405: 24,
        0xA002: EXIF_WIDTH,
        0xA003: EXIF_HEIGHT,
    }
    if has_place:
        lat = FIRST[0] + shot.north_m / METRES_PER_DEGREE
        lon = FIRST[1] + shot.east_m / METRES_PER_DEGREE / np.cos(np.radians(FIRST[0]))
        exif[0x8825] = {1: "N", 2: degrees(lat), 3: "E", 4: degrees(lon), 5: b"\0", 6: 512.0}
    return exif.tobytes()


def degrees(value: float) -> tuple[float, float, float]:
    """Degrees, minutes and seconds."""
    minutes = value % 1 * 60
    return float(int(value)), float(int(minutes)), minutes % 1 * 60


if __name__ == "__main__":
    main()
