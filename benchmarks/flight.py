"""A drawn flight in 4K over concrete with one crack: found with time and place, and its cost against JPEG files.

`python benchmarks/flight.py` needs ffmpeg. A strip of drawn concrete passes below the camera at 600 px a second, and a
crack comes into view for four seconds. The film, a copy of variable rate and a truncated one are scored with the
built-in model in one process without Ray, and so are the same frames as JPEG files that ffmpeg wrote. Seconds are those
of the processor: other work on the machine does not count.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from record import write_result

import crackvae
from crackvae.images.decoding import MAX_IMAGE_PX, decode
from crackvae.images.decoding.video import frames_of, read_frame
from crackvae.images.synthetic import draw_concrete, draw_crack
from crackvae.storage.names.excerpts import excerpt_of

WIDTH, HEIGHT, FPS = 3840, 2160, 25

# Frame from which the copy of variable rate has 15 frames a second.
SLOW_FROM, SLOW_FPS = 125, 15

# Rows of the strip per frame; a crack of CRACK_HW px is in view for (HEIGHT + 240) / 600 = 4 s.
STEP_PX, CRACK_HW = 24, (240, 2400)

START, LAT, LON, DEGREES_PER_S = datetime(2026, 5, 4, 9, 0, tzinfo=UTC), 47.0, 8.0, 1e-5

SCORE = """
import sys, crackvae
from crackvae.scoring import actors
actors.needs_ray = lambda images, config: False
videos = {"every": float(sys.argv[3])} if float(sys.argv[3]) else {}
crackvae.score(images=sys.argv[1], out=sys.argv[2], no_report=True, max_unreadable="50%", **videos)
"""


def draw_strip(seconds: int) -> tuple[np.ndarray, int]:
    """What the camera passes over in grey levels, uint8 (height, WIDTH), and the top of the crack [px]."""
    height = HEIGHT + STEP_PX * FPS * seconds
    surface = np.asarray(Image.fromarray(draw_concrete(np.random.default_rng([7, 0]), HEIGHT, WIDTH)).convert("L"))
    blocks = [surface, surface[::-1]]  # mirrored, so that no edge shows
    strip = np.concatenate([blocks[k % 2] for k in range(-(-height // HEIGHT))])[:height]
    top, left = height // 2, (WIDTH - CRACK_HW[1]) // 2
    place = (slice(top, top + CRACK_HW[0]), slice(left, left + CRACK_HW[1]))
    coloured = np.asarray(Image.fromarray(strip[place]).convert("RGB"))
    cracked, _ = draw_crack(np.random.default_rng([7, 3]), coloured)
    strip[place] = np.asarray(Image.fromarray(cracked).convert("L"))
    return strip, top


def ffmpeg(*arguments: object, frames: Iterable[bytes] = ()) -> None:
    command = ["ffmpeg", "-y", "-loglevel", "error", *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.stdin
        for frame in frames:
            process.stdin.write(frame)
    assert process.returncode == 0, "ffmpeg failed"


def film(strip: np.ndarray, folder: Path, seconds: int) -> tuple[Path, Path, Path]:
    """The film with its subtitles, a copy whose rate falls, and one that breaks off."""
    whole, variable, broken = (folder / name / "flight.mp4" for name in ("whole", "variable", "broken"))
    for path in (whole, variable, broken):
        path.parent.mkdir()
    tops = range(0, STEP_PX * FPS * seconds, STEP_PX)
    raw = ("-f", "rawvideo", "-pix_fmt", "gray", "-s", f"{WIDTH}x{HEIGHT}", "-r", FPS, "-i", "-")
    encoder = ("-c:v", "libx264", "-preset", "ultrafast", "-crf", 20, "-g", FPS, "-pix_fmt", "yuv420p")
    ffmpeg(*raw, *encoder, "-movflags", "+faststart", whole, frames=(strip[y : y + HEIGHT].tobytes() for y in tops))
    slow = f"setts=ts='TS+max(0,N-{SLOW_FROM})*(1/{SLOW_FPS}-1/{FPS})/TB'"
    ffmpeg("-i", whole, "-c", "copy", "-bsf:v", slow, "-movflags", "+faststart", variable)
    data = whole.read_bytes()
    broken.write_bytes(data[: 6 * len(data) // 10])
    lines = []
    for second in range(seconds):
        taken = START + timedelta(seconds=second)
        begin, end = (f"00:{at // 60:02d}:{at % 60:02d},000" for at in (second, second + 1))
        lines.append(
            f"{second + 1}\n{begin} --> {end}\n{taken:%Y-%m-%d %H:%M:%S.000}\n"
            f"[latitude: {LAT + second * DEGREES_PER_S:.6f}] [longitude: {LON:.6f}] [abs_alt: 50.000]\n"
        )
    whole.with_suffix(".SRT").write_text("\n".join(lines))
    return whole, variable, broken


def as_jpeg(whole: Path, folder: Path, every: int) -> Path:
    """The frames that --every scores, as files of ffmpeg."""
    folder.mkdir()
    chosen = rf"select=not(mod(n\,{every * FPS}))"
    ffmpeg("-i", whole, "-vf", chosen, "-fps_mode", "passthrough", "-q:v", 2, folder / "%03d.jpg")
    return folder


def score(images: Path, out: Path, every: float) -> float:
    """Score in a process of its own; returns its processor time [s]."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-c", SCORE, str(images), str(out), str(every)], check=True, stdout=subprocess.DEVNULL
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def decoding_s(video: Path, jpegs: Path, every: int) -> tuple[float, float]:
    """Processor time of decoding alone: of the frames of the film, and of the JPEG files."""
    started = time.process_time()
    for name, _ in frames_of(str(video), every):
        frame = excerpt_of(name)
        read_frame(frame, MAX_IMAGE_PX)  # type: ignore[arg-type]
    between = time.process_time()
    for path in sorted(jpegs.iterdir()):
        decode(path.read_bytes())
    return between - started, time.process_time() - between


def time_of(image: str) -> float:
    """Time of a frame by its name [s]."""
    return float(image.rpartition("t=")[2])


def shown(number: int, top: int) -> bool:
    """Whether at least half of the crack is in view of a frame."""
    middle = top + CRACK_HW[0] // 2
    return number * STEP_PX <= middle < number * STEP_PX + HEIGHT


def number_of(time_s: float, *, is_variable: bool) -> int:
    """Number of the frame at a time."""
    slow_s = SLOW_FROM / FPS
    is_slow = is_variable and time_s > slow_s
    return round(SLOW_FROM + (time_s - slow_s) * SLOW_FPS if is_slow else time_s * FPS)


def frames_found(out: Path, top: int, *, is_variable: bool = False) -> dict[str, Any]:
    """Which frames were flagged, and which show the crack."""
    rows = [row for row in crackvae.read_scores(out).to_pylist() if row["status"] == "scored"]
    times_s = {row["image"]: time_of(row["image"]) for row in rows}
    cracked = {name for name, time_s in times_s.items() if shown(number_of(time_s, is_variable=is_variable), top)}
    flagged = {row["image"] for row in rows if row["flagged"]}
    return {
        "frames": len(rows),
        "frames_that_show_the_crack": len(cracked),
        "of_these_flagged": len(cracked & flagged),
        "others_flagged": len(flagged - cracked),
        "seconds_flagged": sorted(times_s[name] for name in flagged),
    }


def places(out: Path) -> dict[str, Any]:
    """Whether each finding has the time and the place that the subtitles give its frame."""
    found = crackvae.read_findings(out).to_pylist()
    right = [
        one["taken"].replace(tzinfo=UTC) == START + timedelta(seconds=int(time_of(one["image"])))
        and abs(one["lat"] - LAT - int(time_of(one["image"])) * DEGREES_PER_S) < 1e-9
        and one["lon"] == LON
        for one in found
    ]
    return {"findings": len(found), "with_the_right_time_and_place": sum(right)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=180)
    parser.add_argument("--every", type=int, default=2, help="score one frame every so many seconds of the film")
    parser.add_argument("--every-copy", type=int, default=3, help="the same for the two copies")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        strip, top = draw_strip(arguments.seconds)
        whole, variable, broken = film(strip, folder, arguments.seconds)
        del strip
        jpegs = as_jpeg(whole, folder / "jpegs", arguments.every)
        video_s = score(whole.parent, folder / "out-whole", arguments.every)
        jpeg_s = score(jpegs, folder / "out-jpegs", 0)
        video_decoding_s, jpeg_decoding_s = decoding_s(whole, jpegs, arguments.every)
        score(variable.parent, folder / "out-variable", arguments.every_copy)
        score(broken.parent, folder / "out-broken", arguments.every_copy)
        rows = crackvae.read_scores(folder / "out-whole").to_pylist()
        jpeg_rows = crackvae.read_scores(folder / "out-jpegs").to_pylist()
        pairs = list(zip(rows, jpeg_rows, strict=True))
        ends = [row for row in crackvae.read_scores(folder / "out-broken").to_pylist() if row["status"] != "scored"]
        figures = {
            "film": f"{WIDTH}x{HEIGHT}, {FPS} frames/s, {arguments.seconds} s, {whole.stat().st_size} bytes",
            "every_s": {"whole_and_jpeg": arguments.every, "copies": arguments.every_copy},
            "crack_in_view_s": [
                round((top - HEIGHT) / STEP_PX / FPS, 1),
                round((top + CRACK_HW[0]) / STEP_PX / FPS, 1),
            ],
            "whole": frames_found(folder / "out-whole", top) | places(folder / "out-whole"),
            "variable_rate": frames_found(folder / "out-variable", top, is_variable=True),
            "truncated": frames_found(folder / "out-broken", top)
            | {"rows_that_say_so": [row["error"] for row in ends]},
            "processor_s": {
                "video": round(video_s, 1),
                "of_it_decoding": round(video_decoding_s, 1),
                "jpeg": round(jpeg_s, 1),
                "of_that_decoding": round(jpeg_decoding_s, 1),
            },
            "without_decoding_video_by_jpeg": round((video_s - video_decoding_s) / (jpeg_s - jpeg_decoding_s), 3),
            "flags_that_differ_from_jpeg": sum(one["flagged"] != other["flagged"] for one, other in pairs),
        }
    print(json.dumps(figures, indent=1))
    print(write_result("flight", figures))


if __name__ == "__main__":
    main()
