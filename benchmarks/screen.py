"""What a screen in bfloat16 changes: every image scored with it, and by float32 alone.

    python benchmarks/screen.py --images FOLDER [--each 10000 6000] [--model builtin]

FOLDER holds one folder for each set. Of each set `--each` images, spread over all of them, are scored twice by
`crackvae score`, with `--precision screen` and `--precision onnx`; the rest of a set is left alone. Scores are
compared as shares of the threshold, near it where that of float32 is between 0.5 and 2 times the threshold.
The result is benchmarks/results/screen-DATE.json.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from record import write_result
from samples import every_nth

import crackvae
from crackvae.model import builtin, screen
from crackvae.model.inference import load_scorer
from crackvae.storage import tables

NEAR = (0.5, 2.0)
COLUMNS = ["image", "score", "p_value", "flagged", "precision", "tile_scores"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--each", type=int, nargs="+", default=[10_000, 6_000])
    parser.add_argument("--model", default=builtin.FOLDER)
    flags = parser.parse_args()
    scorer = load_scorer(flags.model)
    folders = sorted(path for path in flags.images.iterdir() if path.is_dir())
    threshold, level = scorer.calibration.threshold, screen.level_of(scorer.calibration)
    figures = {
        folder.name: compared(every_nth(folder, n), flags.model, threshold, level)
        for folder, n in zip(folders, flags.each, strict=True)
    }
    about = {"model": scorer.model.digest, "level": level / threshold}
    print(figures)
    print(write_result("screen", about | {"near": NEAR, "sets": figures}))


def compared(paths: list[str], model: str, threshold: float, level: float) -> dict[str, Any]:
    """Scores of some images with a screen beside those by float32 alone."""
    with_screen, alone = (scored(paths, model, precision) for precision in ("screen", "onnx"))
    error_N = (with_screen.score - alone.score).abs() / threshold
    tile_error = [
        np.abs(np.subtract(a, b)) / np.maximum(b, level)
        for a, b in zip(with_screen.tile_scores, alone.tile_scores, strict=True)
    ]
    near_N = alone.score.between(NEAR[0] * threshold, NEAR[1] * threshold)
    is_rough_N = with_screen.precision == screen.BFLOAT16
    return {
        "images": len(paths),
        "flags_that_differ": int((with_screen.flagged != alone.flagged).sum()),
        "flagged": int(alone.flagged.sum()),
        "near": int(near_N.sum()),
        "largest_error_near": float(error_N[near_N].max()),
        "largest_error": float(error_N.max()),
        "largest_error_of_what_may_be_off_by_a_tenth": float(np.concatenate(tile_error).max()),
        "scored_again": float(1 - is_rough_N.mean()),
        "sound_scored_again": float(1 - is_rough_N[~alone.flagged].mean()),
        "smallest_p_value_in_bfloat16": float(with_screen.p_value[is_rough_N].min()),
    }


def scored(paths: list[str], model: str, precision: str) -> pd.DataFrame:
    """The scores table of some images, by image."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "images.txt").write_text("\n".join(paths))
        out = f"{folder}/scores"
        crackvae.score(
            images=f"@{folder}/images.txt", model=model, out=out, precision=precision, no_report=True, findings="off",
            quiet=True,
        )  # fmt: skip
        return tables.read_scores(out, COLUMNS).sort_by("image").to_pandas()


if __name__ == "__main__":
    main()
