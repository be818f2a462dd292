"""Traces of findings as arrays.

Shape letters: N points of a trace.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np


def trace_of(row: Mapping[str, Any]) -> np.ndarray:
    """The trace of a finding as points x, y, float (N, 2); NaN between two branches."""
    return np.stack([np.asarray(row["x_px"], float), np.asarray(row["y_px"], float)], axis=1)


def branches_of(trace_N2: np.ndarray) -> list[slice]:
    """The parts of a trace that are branches: its points between NaN."""
    ends = [-1, *np.flatnonzero(np.isnan(trace_N2[:, 0])).tolist(), len(trace_N2)]
    return [slice(before + 1, end) for before, end in pairwise(ends) if end > before + 1]
