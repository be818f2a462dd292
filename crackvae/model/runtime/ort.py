"""ONNX Runtime, imported with its telemetry off.

Its wheel asks for a host of its maker's from the moment it is imported, and leaves a device id in HOME, unless
ORT_DISABLE_TELEMETRY is set at that moment. Nothing about a run leaves the cluster, so it is imported here only. A
program that imports onnxruntime before crackvae has to set the switch itself: disable_telemetry_events() is too late.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

SWITCH = "ORT_DISABLE_TELEMETRY"


@contextmanager
def _telemetry_off() -> Iterator[None]:
    """Set the switch for the time of the import; the environment of the process is afterwards as it was."""
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SWITCH]
        else:
            os.environ[SWITCH] = before


with _telemetry_off():
    import onnxruntime

__all__ = ["onnxruntime"]
