"""The folder of a training run, next to the model that it will write: its settings and its checkpoints.

Each checkpoint is one file, written whole; the best epoch and the last one are kept. A checkpoint that cannot be
written, for example because the disk is full, leaves the earlier ones intact. A finished run leaves its model and
deletes this folder, so it cannot be resumed by mistake.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from crackvae.config import TrainConfig, flag
from crackvae.console import TrainingEvent
from crackvae.errors import ConfigError, CrackvaeError, ModelError, OutputExists, StorageError
from crackvae.model.artifact import MODEL_FILE
from crackvae.storage import fileio, uris
from crackvae.storage.filesystems import s3_server
from crackvae.storage.records import problems
from crackvae.storage.uris import without_options

RUN_FILE = "run.json"
# Changes whenever an older run could be misread.
RUN_FORMAT: Final = 2
# Settings that may differ when a run is resumed, because no weight depends on them.
FREE_ON_RESUME = ("quiet", "s3_endpoint", "address", "gpu", "workers", "max_failures", "resume", "manifest", "model")
# Settings that the user may change with --resume, to rescue a run that does not converge.
CHANGEABLE_ON_RESUME = ("learning_rate", "clip_norm", "patience")

_CHECKPOINT_NAME = re.compile(r"epoch-(\d{5,})\.pth")


class DamagedCheckpoint(ModelError):
    """A checkpoint that no run can go on from; the message says what to delete."""


class RunRecord(BaseModel):
    """Content of run.json.

    Attributes:
        settings: of the verb, as JSON values.
        spec: of the model.
        changes: settings that were changed on resume, each with the number of epochs done by then.
    """

    model_config = ConfigDict(frozen=True)

    format: Literal[2]
    settings: dict[str, Any]
    spec: dict[str, Any]
    changes: list[dict[str, Any]] = []


def run_folder(model_dir: str) -> str:
    """The folder of the run that writes this model."""
    path, options = without_options(uris.absolute(model_dir))
    return f"{path}.training{options}"


class Checkpoints:
    """The checkpoints in the folder of a run.

    Attributes:
        s3_endpoint: S3 server to use, whatever the environment of this process says.
    """

    def __init__(self, folder: str, s3_endpoint: str = "") -> None:
        self.folder, self.s3_endpoint = folder, s3_endpoint

    def path(self, epoch: int) -> str:
        """The file of an epoch."""
        return uris.join(self.folder, f"epoch-{epoch:05d}.pth")

    def epochs(self) -> list[int]:
        """The epochs that have a checkpoint, in order."""
        with s3_server(self.s3_endpoint):
            matches = [_CHECKPOINT_NAME.fullmatch(name) for name in fileio.list_files(self.folder)]
        return sorted(int(match[1]) for match in matches if match)

    def read(self, epoch: int) -> bytes:
        """The checkpoint of an epoch."""
        with s3_server(self.s3_endpoint):
            return fileio.read_bytes(self.path(epoch))

    def last(self) -> bytes | None:
        """The checkpoint to resume from; None before the first."""
        epochs = self.epochs()
        return self.read(epochs[-1]) if epochs else None

    def save(self, epoch: int, best: int, checkpoint: bytes) -> None:
        """Write the checkpoint of an epoch, then delete those that are neither this nor the best.

        Raises:
            StorageError: it cannot be written; the earlier checkpoints are unchanged.
        """
        with s3_server(self.s3_endpoint):
            fileio.write_bytes(self.path(epoch), checkpoint)
            for other in self.epochs():
                if other not in (epoch, best):
                    fileio.delete_file(self.path(other))


class CheckpointActor:
    """Ray actor on the driver's node: writes the checkpoints and passes progress from the workers to the driver.

    Its calls run one at a time in order, so a checkpoint that a worker sent before it died is written before its
    replacement asks for the last one.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints
        self.events: list[TrainingEvent] = []
        self.error: CrackvaeError | None = None

    def last(self) -> bytes | None:
        """The checkpoint to resume from."""
        return self.checkpoints.last()

    def save(self, epoch: dict[str, float], best: int, checkpoint: bytes) -> bool:
        """Write the checkpoint of an epoch, given as a row; returns whether it was written."""
        try:
            self.checkpoints.save(int(epoch["epoch"]), best, checkpoint)
        except CrackvaeError as error:
            self.error = error
            return False
        self.events.append(epoch)
        return True

    def report(self, event: TrainingEvent) -> None:
        """Record a number of tiles trained on, or that the workers have started."""
        self.events.append(event)

    def fail(self, error: CrackvaeError) -> None:
        """Record an error that a restart of the workers would only repeat."""
        self.error = error

    def new_events(self) -> list[TrainingEvent]:
        """The events since the last call."""
        events, self.events = self.events, []
        return events

    def failure(self) -> CrackvaeError | None:
        """The error that ended the training, if there was one."""
        return self.error


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run and the settings that a run there must have.

    Attributes:
        settings, spec: of this call.
        advice: how to resume an interrupted run that has other settings.
        changeable: settings that may differ from those of an interrupted run, because the user asked to resume it.
    """

    folder: str
    settings: Mapping[str, Any]
    spec: Mapping[str, Any]
    advice: str
    changeable: Iterable[str] = ()

    def open(self) -> int:
        """Create the folder of a new run, or reopen that of the run that was interrupted there.

        With the same settings an interrupted run continues, because it ends with the same weights as a new one. Other
        settings are refused.

        Returns:
            the number of completed epochs.

        Raises:
            ConfigError: a run with other settings was interrupted there.
        """
        done = Checkpoints(self.folder).epochs()
        record = RunRecord.model_validate(
            _json_values({"format": RUN_FORMAT, "settings": self.settings, "spec": self.spec})
        )
        if done:
            earlier = read_run(self.folder)
            self._require_same(earlier, record, done[-1])
            now = {
                name: record.settings[name]
                for name in self.changeable
                if record.settings[name] != earlier.settings.get(name)
            }
            changes = [*earlier.changes, *([{"after_epoch": done[-1], **now}] if now else [])]
            record = record.model_copy(update={"changes": changes})
        fileio.write_bytes(uris.join(self.folder, RUN_FILE), record.model_dump_json(indent=1).encode())
        return done[-1] if done else 0

    def _require_same(self, earlier: RunRecord, record: RunRecord, epoch: int) -> None:
        changed = [
            f"{flag(name)} {earlier.settings.get(name)}, now {value}"
            for name, value in record.settings.items()
            if name not in (*FREE_ON_RESUME, *self.changeable) and earlier.settings.get(name) != value
        ]
        if earlier.spec != record.spec and not changed:
            is_other_start = earlier.spec.get("from") != record.spec.get("from")
            changed = ["another model to start from" if is_other_start else "another manifest"]
        if changed:
            raise ConfigError(
                f"a run with other settings was interrupted in {self.folder} after epoch {epoch} "
                f"({'; '.join(changed)}): {self.advice}, or delete that folder."
            )


def run_of(config: TrainConfig, folder: str, spec: Mapping[str, Any]) -> RunFolder:
    """The run of a training, with paths that are valid from any working directory."""
    paths = {"manifest": uris.absolute(config.manifest), "model": uris.absolute(config.model)}
    settings = {name: value for name, value in {**asdict(config), **paths}.items() if name != "resume"}
    changeable = CHANGEABLE_ON_RESUME if config.resume else ()
    return RunFolder(folder, settings, spec, f"go on with --resume {folder} alone", changeable)


def read_run(folder: str) -> RunRecord:
    """Settings of the run that was interrupted in a folder.

    Raises:
        ConfigError: there is none, or its record is damaged or has another format.
    """
    path = uris.join(folder, RUN_FILE)
    try:
        return RunRecord.model_validate_json(fileio.read_bytes(path))
    except StorageError as error:
        raise ConfigError(
            f"--resume {folder}: no interrupted run lies there ({error}) A run that has finished leaves its model only."
        ) from error
    except ValidationError as error:
        if any(one["loc"] == ("format",) for one in error.errors()):
            raise ConfigError(
                f"{path} is that of another version of crackvae: delete the folder, and train again."
            ) from error
        raise ConfigError(f"{path} is damaged: {problems(error)}. Delete the folder, and train again.") from error


def with_run(values: dict[str, Any]) -> dict[str, Any]:
    """The given settings, completed by those of the interrupted run that `resume` names.

    Raises:
        ConfigError: there is no such run, or it is not one of train.
    """
    with s3_server(values.get("s3_endpoint", "")):
        settings = read_run(uris.absolute(values["resume"])).settings
    if others := settings.keys() - {one.name for one in fields(TrainConfig)}:
        raise ConfigError(
            f"--resume {values['resume']}: that run has settings that train does not have "
            f"({', '.join(sorted(others))}): repeat the command that began it, such as crackvae adapt; or, if that was "
            "another version of crackvae, delete the folder and train again."
        )
    tuples = {name: tuple(value) for name, value in settings.items() if isinstance(value, list)}
    return {**settings, **tuples, **values}


def require_unfinished(model_dir: str, resume: str) -> None:
    """Refuse to overwrite a model, to resume a run that has finished, and to resume one that does not exist.

    Raises:
        OutputExists, ConfigError: with the way to fix it.
    """
    if resume and fileio.exists(uris.join(model_dir, MODEL_FILE)):
        raise OutputExists(
            f"the run {resume} has finished and written {model_dir}: delete {resume}, "
            "or train a new model under another --model."
        )
    fileio.require_new(model_dir, "--model")
    if resume:
        read_run(uris.absolute(resume))


def _json_values(values: Mapping[str, Any]) -> Any:
    """The values as they come back from a JSON file: tuples become lists."""
    return json.loads(json.dumps(values, default=dict))
