"""Coverage-guided fuzzing of crackvae.imaging, over the parts of Pillow that are Python and over our own.

    python tests/chaos/fuzz_imaging.py WORK_FOLDER -max_total_time=3600

Needs `pip install -e '.[fuzz]'` (atheris, Linux). Seeds are the hostile files of this folder, none of them a
photograph. What is neither pixels nor a refusal, or takes over TOO_LONG_S or too much memory, is written to the current
folder as `crash-*`, `timeout-*` or `oom-*`. Made small (`-minimize_crash=1`) it belongs into `corpus/`, where
test_hostile_images.py takes it up.
"""

import sys
import time
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["PIL", "crackvae.images.decoding", "crackvae.images.tiles"]):
    from crackvae.errors import UnreadableImage
    from crackvae.images import decoding, surface, tiles

from hostile import files

MAX_BYTES = 4096
TOO_LONG_S = 10.0


def decode_and_cut(data: bytes) -> None:
    """One trial: any exception but UnreadableImage goes through and is a find."""
    started = time.thread_time()
    try:
        pixels_HW = decoding.decode(data)
        assert pixels_HW.dtype == "uint8" and pixels_HW.ndim == 2 and min(pixels_HW.shape) >= decoding.MIN_SIDE_PX
        surface.measures(pixels_HW)
        tiles.cut(pixels_HW, tile_px=227, stride_px=170, input_px=32)
    except UnreadableImage as error:
        reason = str(error)
        assert reason and "\n" not in reason
    assert time.thread_time() - started < TOO_LONG_S, "too slow"


def main() -> None:
    seeds = Path(sys.argv[1], "seeds")
    seeds.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(files()):
        if len(one.data) <= MAX_BYTES:
            (seeds / f"{number:03d}").write_bytes(one.data)
    found = Path(sys.argv[1], "found")
    found.mkdir(exist_ok=True)
    warnings.simplefilter("ignore")  # Pillow warns of damage before it raises
    limits = [f"-max_len={MAX_BYTES}", "-timeout=120", "-rss_limit_mb=1500"]
    atheris.Setup([sys.argv[0], *limits, *sys.argv[2:], str(found), str(seeds)], decode_and_cut)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
