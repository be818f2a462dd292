"""How fast drawn images are written: 20,000 JPEGs of 227 px on all cores.

python benchmarks/drawing.py
"""

import tempfile
import time
from pathlib import Path

from record import write_result

from crackvae.cores import usable_cores
from crackvae.images.synthetic import write_images

N_NON_CRACK, N_CRACK = 15_000, 5_000


def main() -> None:
    """Draw the published sizes into a temporary folder and write the rate."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        write_images(Path(folder, "images"), N_NON_CRACK, N_CRACK, workers=usable_cores())
        seconds = time.perf_counter() - started
        n_bytes = sum(path.stat().st_size for path in Path(folder).rglob("*.jpg"))
    n = N_NON_CRACK + N_CRACK
    figures = {"images": n, "seconds": round(seconds, 1), "images_per_s": round(n / seconds, 1), "bytes": n_bytes}
    print(write_result("drawing", figures))


if __name__ == "__main__":
    main()
