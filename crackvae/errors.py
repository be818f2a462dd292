"""Every error that a user can mend.

CrackvaeError                 one line on the terminal, exit code 2
├── ConfigError               a flag or a setting has a value that means nothing
├── StorageError              a file or a bucket cannot be listed, read or written
│   ├── OutputExists          something would be overwritten
│   └── FolderInUse           another run writes into it
├── ArchiveError              a .zip that is broken, or that tries to leave its folder
├── UnreadableImage           the bytes of one image are bad; becomes a row, never ends a job
├── ManifestError             a manifest, a label or a group is wrong
│   └── LeakError             the same picture or group on both sides of a split
├── ModelError                a model directory is missing, altered or of another version
├── CalibrationError          the sound images cannot carry the promise that is asked for
├── ClusterError              Ray or one of its nodes failed
└── LimitBroken               a job ended and broke a limit of its own settings

The message of each says what was found, where, and what to do next. Anything else that is raised is a bug and
keeps its traceback (exit code 1).
"""

from typing import Any


class CrackvaeError(Exception):
    """Base of all errors that a user can mend."""


class ConfigError(CrackvaeError):
    """A flag or a setting has a value that means nothing."""


class StorageError(CrackvaeError):
    """A file or a bucket cannot be listed, read or written."""


class OutputExists(StorageError):
    """Something would be overwritten."""


class FolderInUse(StorageError):
    """Another run writes into a folder that takes one at a time."""


class ArchiveError(CrackvaeError):
    """A .zip that is broken, or that tries to leave its folder."""


class UnreadableImage(CrackvaeError):
    """The bytes of one image are bad; becomes a row of the scores table, never ends a job."""


class ManifestError(CrackvaeError):
    """A manifest, a label or a group is wrong."""


class LeakError(ManifestError):
    """The same picture or group on both sides of a split."""


class ModelError(CrackvaeError):
    """A model directory is missing, altered or of another version."""


class CalibrationError(CrackvaeError):
    """The sound images cannot carry the promise that is asked for."""


class ClusterError(CrackvaeError):
    """Ray or one of its nodes failed."""


class LimitBroken(CrackvaeError):
    """A job ended and broke a limit of its own settings.

    Attributes:
        outcome: what the job returns where it keeps its limits; its work is done and written.
    """

    def __init__(self, message: str, outcome: Any) -> None:
        super().__init__(message)
        self.outcome = outcome
