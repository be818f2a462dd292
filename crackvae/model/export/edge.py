"""A folder that scores photographs with numpy, Pillow and ONNX Runtime alone, and flags what `score` flags."""

import json
from importlib.resources import files

import numpy as np

from crackvae.images.tiles import MIN_TILES_TO_CUT
from crackvae.model.calibration import Calibration
from crackvae.model.inference import Scorer

# Images of more tiles are refused on the device; 2,000 tiles of 256 px, every 192 px, are about 74 megapixels.
MAX_TILES = 2_000

# Above the threshold, a score that is not flagged here is never flagged.
LARGEST = 1e6


def edge_files(scorer: Scorer, graph: bytes) -> dict[str, bytes]:
    """The files of the folder by name: program, card and graph.

    Args:
        graph: export.onnx_file().
    """
    spec, calibration = scorer.model.spec, scorer.calibration
    card = {
        "digest": scorer.model.digest,
        "tile_px": spec.tile_px,
        "stride_px": spec.stride_px,
        "input_px": spec.input_px,
        "head": spec.head,
        "min_tiles_to_cut": MIN_TILES_TO_CUT,
        "threshold": calibration.threshold,
        "level": calibration.level,
        "calibration_images": len(calibration.scores_N),
        "lowest_flagged": lowest_flagged(calibration, MAX_TILES),
    }
    program = files("crackvae.model") / "templates" / "edge.py.txt"
    return {
        "edge.py": program.read_bytes(),
        "card.json": json.dumps(card, indent=1).encode(),
        "model.onnx": graph,
    }


def lowest_flagged(calibration: Calibration, max_tiles: int) -> list[float | None]:
    """Lowest score that is flagged of an image of 1, 2, ... tiles; None where no score is.

    A larger score never has a larger p-value, so halving finds it, among the bit patterns of float32: those of positive
    numbers have the order of the numbers.
    """
    tiles_B = np.arange(1, max_tiles + 1)

    def is_flagged(patterns_B: np.ndarray) -> np.ndarray:
        scores_B = patterns_B.view(np.float32)
        return calibration.flags(scores_B, calibration.p_values(scores_B, tiles_B))

    low_B = np.full(max_tiles, calibration.threshold, np.float32).view(np.int32)
    high_B = np.full(max_tiles, LARGEST, np.float32).view(np.int32)
    is_ever_B = is_flagged(high_B)
    while (high_B - low_B).max() > 1:
        middle_B = low_B + (high_B - low_B) // 2
        flagged_B = is_flagged(middle_B)
        high_B, low_B = np.where(flagged_B, middle_B, high_B), np.where(flagged_B, low_B, middle_B)
    lowest_B = high_B.view(np.float32).astype(float).tolist()
    return [score if ever else None for score, ever in zip(lowest_B, is_ever_B, strict=True)]
