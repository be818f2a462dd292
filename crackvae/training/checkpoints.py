"""The folder of a training run, beside the model that it will write: its settings and its checkpoints.

Each checkpoint is a file, written whole; the best epoch and the last are kept. A file that cannot be written, because
the disk is full, harms no earlier one. A run that has finished leaves its model and no such folder, so it can never be
taken up again by mistake.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from crackvae.config import TrainConfig, flag
from crackvae.console import Told
from crackvae.errors import ConfigError, CrackvaeError, OutputExists, StorageError
from crackvae.storage import fileio, uris
from crackvae.storage.filesystems import s3_server
from crackvae.storage.uris import without_options

RUN_FILE = "run.json"


# Changes whenever an older run could be misread.
RUN_FORMAT = 1


# Settings that may change when a run goes on, because nothing that is learned depends on them.
FREE = ("quiet", "s3_endpoint", "address", "gpu", "workers", "max_failures", "resume", "manifest", "model")


# And those that a person may change on purpose, with --resume: what stops or saves a run that does not converge.
CHANGEABLE = ("learning_rate", "clip_norm", "patience")


_CHECKPOINT_NAME = re.compile(r"epoch-(\d{5,})\.pth")


def folder_of(model_dir: str) -> str:
    """Where the run that writes this model keeps its checkpoints."""
    place, options = without_options(uris.absolute(model_dir))
    return f"{place}.training{options}"


class Checkpoints:
    """The checkpoints in the folder of a run.

    Attributes:
        s3_endpoint: S3 server to talk to, whatever that of this process is.
    """

    def __init__(self, folder: str, s3_endpoint: str = "") -> None:
        self.folder, self.s3_endpoint = folder, s3_endpoint

    def place(self, epoch: int) -> str:
        """The file of an epoch."""
        return uris.join(self.folder, f"epoch-{epoch:05d}.pth")

    def epochs(self) -> list[int]:
        """The epochs whose checkpoints are there, in order."""
        with s3_server(self.s3_endpoint):
            matches = [_CHECKPOINT_NAME.fullmatch(name) for name in fileio.list_files(self.folder)]
        return sorted(int(match[1]) for match in matches if match)

    def read(self, epoch: int) -> bytes:
        """The checkpoint of an epoch."""
        with s3_server(self.s3_endpoint):
            return fileio.read_bytes(self.place(epoch))

    def last(self) -> bytes | None:
        """The checkpoint to go on from; None before the first."""
        epochs = self.epochs()
        return self.read(epochs[-1]) if epochs else None

    def keep(self, epoch: int, best: int, checkpoint: bytes) -> None:
        """Write the checkpoint of an epoch, and only then delete those that are neither this nor the best.

        Raises:
            StorageError: it cannot be written; all that was there still is.
        """
        with s3_server(self.s3_endpoint):
            fileio.write_bytes(self.place(epoch), checkpoint)
            for other in self.epochs():
                if other not in (epoch, best):
                    fileio.delete_file(self.place(other))


class CheckpointActor:
    """Between workers and driver, on the driver's node: writes the checkpoints there, and keeps what the workers tell.

    One thread serves all calls in turn, so what a worker wrote before its death is there before its successor asks.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints
        self.told: list[Told] = []
        self.error: CrackvaeError | None = None

    def last(self) -> bytes | None:
        """The checkpoint to go on from."""
        return self.checkpoints.last()

    def keep(self, epoch: dict[str, float], best: int, checkpoint: bytes) -> bool:
        """Write the checkpoint of an epoch, given as a row; whether that went well."""
        try:
            self.checkpoints.keep(int(epoch["epoch"]), best, checkpoint)
        except CrackvaeError as error:
            self.error = error
            return False
        self.told.append(epoch)
        return True

    def tell(self, event: Told) -> None:
        """Tiles trained on, or that the workers have started."""
        self.told.append(event)

    def fail(self, error: CrackvaeError) -> None:
        """A mistake that no new start would mend."""
        self.error = error

    def news(self) -> list[Told]:
        """What was told since the last call."""
        told, self.told = self.told, []
        return told

    def failure(self) -> CrackvaeError | None:
        """The mistake that ended the training, if one did."""
        return self.error


def begin(folder: str, config: TrainConfig, spec: Mapping[str, Any]) -> int:
    """Make the folder of a run, or take up the run that was interrupted there.

    The same command goes on by itself, because it ends in the same weights as a new start. With other settings it is
    refused, unless `--resume` says that they are meant.

    Returns:
        epochs that are done.

    Raises:
        ConfigError: another run was interrupted there.
    """
    done = Checkpoints(folder).epochs()
    place, settings = uris.join(folder, RUN_FILE), _settings(config)
    run = {"format": RUN_FORMAT, "settings": settings, "spec": dict(spec), "changes": []}
    if done:
        earlier = _read_run(folder)
        changed = [
            f"{flag(name)} {earlier['settings'].get(name)}, now {settings[name]}"
            for name in settings
            if name not in FREE
            and not (config.resume and name in CHANGEABLE)
            and earlier["settings"].get(name) != settings[name]
        ]
        if earlier["spec"] != json.loads(json.dumps(run["spec"])) and not changed:
            changed = ["another manifest"]
        if changed:
            raise ConfigError(
                f"a run with other settings was interrupted in {folder} after epoch {done[-1]} "
                f"({'; '.join(changed)}): go on with --resume {folder} alone, or delete that folder."
            )
        now = {name: settings[name] for name in CHANGEABLE if settings[name] != earlier["settings"].get(name)}
        run["changes"] = earlier["changes"] + ([{"after_epoch": done[-1], **now}] if now else [])
    fileio.write_bytes(place, json.dumps(run, indent=1).encode())
    return done[-1] if done else 0


def changes(folder: str) -> list[dict[str, Any]]:
    """Which settings were changed after which epoch."""
    found: list[dict[str, Any]] = _read_run(folder)["changes"]
    return found


def with_run(values: dict[str, Any]) -> dict[str, Any]:
    """The settings that were given, over those of the interrupted run that `resume` names.

    Raises:
        ConfigError: there is no such run; OutputExists: it has finished.
    """
    with s3_server(values.get("s3_endpoint", "")):
        run = _read_run(uris.absolute(values["resume"]))
    tuples = {name: tuple(value) for name, value in run["settings"].items() if isinstance(value, list)}
    return {**run["settings"], **tuples, **values}


def require_unfinished(config: TrainConfig, model_dir: str) -> None:
    """Refuse to train again what is finished, to overwrite a model, and to go on with a run that is not there.

    Raises:
        OutputExists, ConfigError: with the mend.
    """
    if config.resume and fileio.exists(model_dir):
        raise OutputExists(
            f"the run {config.resume} has finished and written {model_dir}: delete {config.resume}, "
            "or train a new model under another --model."
        )
    fileio.require_new(model_dir, "--model")
    if config.resume:
        _read_run(uris.absolute(config.resume))


def _settings(config: TrainConfig) -> dict[str, Any]:
    """The settings as JSON gives them back, with places that hold from anywhere."""
    places = {"manifest": uris.absolute(config.manifest), "model": uris.absolute(config.model)}
    settings: dict[str, Any] = json.loads(json.dumps({**asdict(config), **places}))
    return {name: value for name, value in settings.items() if name != "resume"}


def _read_run(folder: str) -> dict[str, Any]:
    place = uris.join(folder, RUN_FILE)
    try:
        run = json.loads(fileio.read_bytes(place))
    except StorageError as error:
        raise ConfigError(
            f"--resume {folder}: no interrupted run lies there ({error}) A run that has finished leaves its model only."
        ) from error
    except ValueError as error:
        raise ConfigError(f"{place} is damaged: {error}. Delete the folder, and train again.") from error
    if not isinstance(run, dict) or run.get("format") != RUN_FORMAT:
        raise ConfigError(f"{place} is that of another version of crackvae: delete the folder, and train again.")
    return run
