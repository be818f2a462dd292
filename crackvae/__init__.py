"""Find cracks in photographs of concrete: train on images of sound concrete only, then score whole archives on Ray.

Each command `crackvae VERB` is also a function that takes the flags as keyword arguments:

    >>> import crackvae
    >>> night = crackvae.score(images="photographs", model="model", out="scores")
    >>> night.flagged, night.page
    >>> rows = crackvae.read_scores(night.out).to_pandas()

Two modules are public as well: `crackvae.synthetic` draws concrete and cracks (`draw_concrete`, `draw_crack`,
`write_images`), and `crackvae.tables` reads the files of a scores table (`list_parts`, `read_parts`).

Only the names in `crackvae.__all__` are public, and only they are covered by semantic versioning; of the two modules,
only the functions named above. Every other submodule is private and may change in any release. Names are loaded when
they are first used, so that importing the package loads neither Ray, PyTorch nor pandas.
"""

from importlib import import_module
from typing import Any

_FUNCTIONS = (
    "adapt",
    "calibrate",
    "change",
    "compact",
    "compare",
    "demo",
    "doctor",
    "evaluate",
    "export",
    "findings",
    "info",
    "learn",
    "live",
    "nightly",
    "partition",
    "promote",
    "report",
    "review",
    "rollback",
    "score",
    "train",
)
_READERS = ("read_changes", "read_findings", "read_scores", "read_verdicts")
_RESULTS = tuple(f"{name.capitalize()}Result" for name in _FUNCTIONS)
_ERRORS = (
    "ArchiveError",
    "CalibrationError",
    "ClusterError",
    "ConfigError",
    "CrackvaeError",
    "FolderInUse",
    "LeakError",
    "LimitBroken",
    "ManifestError",
    "ModelError",
    "OutputExists",
    "StorageError",
)
_MODULES = {"synthetic": "crackvae.images.synthetic", "tables": "crackvae.storage.tables"}
__all__ = ["__version__", "Result", *_FUNCTIONS, *_READERS, *_RESULTS, *_ERRORS, *_MODULES]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used (PEP 562)."""
    if name == "__version__":
        value: Any = _version()
    elif name in _FUNCTIONS:
        from crackvae.api import function_of

        value = function_of(name)
    elif name in _READERS:
        from crackvae import readers

        value = getattr(readers, name)
    elif name == "Result" or name in _RESULTS:
        from crackvae import results

        value = getattr(results, name)
    elif name in _ERRORS:
        from crackvae import errors

        value = getattr(errors, name)
    elif name in _MODULES:
        value = import_module(_MODULES[name])
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("crackvae")
    except PackageNotFoundError:  # handed to `ray job submit` as a folder, with nothing installed
        return "0+unknown"
