"""User-facing errors.

CrackvaeError                 one line on the terminal, exit code 2
├── ConfigError               a flag or a setting has an invalid value
├── StorageError              a file or a bucket cannot be listed, read or written
│   ├── OutputExists          something would be overwritten
│   └── FolderInUse           another run is writing to the folder
├── ArchiveError              a .zip is damaged, or would extract outside its folder
├── UnreadableImage           an image is damaged; becomes a row of the scores table, never ends a job
├── ManifestError             a manifest, a label or a group is wrong
│   └── LeakError             the same image or group is on both sides of a split
├── ModelError                a model directory is missing, altered or of another version
├── CalibrationError          the sound images are too few for the requested guarantee
├── ClusterError              Ray or one of its nodes failed
└── LimitBroken               a job finished and exceeded one of its limits

Each message says what was found, where, and how to fix it. Any other exception is a bug and keeps its traceback
(exit code 1).
"""

from typing import Any


class CrackvaeError(Exception):
    """Base class of all user-facing errors."""


class ConfigError(CrackvaeError):
    """A flag or a setting has an invalid value."""


class StorageError(CrackvaeError):
    """A file or a bucket cannot be listed, read or written."""


class OutputExists(StorageError):
    """Something would be overwritten."""


class FolderInUse(StorageError):
    """Another run is writing to a folder that allows one at a time."""


class ArchiveError(CrackvaeError):
    """A .zip is damaged, or would extract outside its folder."""


class UnreadableImage(CrackvaeError):
    """An image is damaged; becomes a row of the scores table, never ends a job."""


class ManifestError(CrackvaeError):
    """A manifest, a label or a group is wrong."""


class LeakError(ManifestError):
    """The same image or group is on both sides of a split."""


class ModelError(CrackvaeError):
    """A model directory is missing, altered or of another version."""


class CalibrationError(CrackvaeError):
    """The sound images are too few for the requested guarantee."""


class ClusterError(CrackvaeError):
    """Ray or one of its nodes failed."""


class LimitBroken(CrackvaeError):
    """A job finished and exceeded one of its limits.

    Attributes:
        outcome: the result of the verb; all its work is done and written.
    """

    def __init__(self, message: str, outcome: Any) -> None:
        super().__init__(message)
        self.outcome = outcome
