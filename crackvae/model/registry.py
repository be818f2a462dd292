"""A registry of the models of a site: versions, which of them is current, and who decided so.

`site/versions/<digest>-<calibration>/` are model directories: the same weights with another threshold are another
version. `site/current.json` is the promotion that made one of them current, and `site/history.jsonl` has all promotions
and rollbacks, oldest first. Files are replaced one at a time, each atomically. A process that is killed between two of
them leaves one of the two models current; what its history then lacks is the content of current.json, which the next
change adds. The caller holds the lock of the folder for a change: of two at once, one would go missing.
"""

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from crackvae.config import BUILTIN
from crackvae.errors import ModelError
from crackvae.model import builtin
from crackvae.model.artifact import MODEL_FILE, load_model
from crackvae.model.calibration import load_calibration
from crackvae.storage import fileio, uris
from crackvae.storage.records import read_lines, read_record, write_lines

Action = Literal["promote", "rollback"]
CURRENT_FILE, HISTORY_FILE, VERSIONS = "current.json", "history.jsonl", "versions"
# Digits of the calibration's digest in the name of a version: enough for no two calibrations of a model to share it.
CALIBRATION_DIGITS = 16


class Change(BaseModel):
    """One line of the history.

    Attributes:
        model, before: digest of the model that became current, and of the one that it replaced; "" for none.
        version, before_version: their folders in `versions`; "" in a registry of an earlier crackvae, where a folder is
            named by its digest.
        who, why: the person who decided, and the reason in words.
        figures: what the decision rests on; empty without a comparison.
    """

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    time: datetime
    action: Action
    model: str
    before: str
    who: str
    why: str
    figures: dict[str, Any] = {}
    version: str = ""
    before_version: str = ""

    @property
    def folder(self) -> str:
        """Name of the model directory in `versions`."""
        return self.version or self.model


def model_folder(path: str, digest: str = "") -> str:
    """A model directory as summaries name it: `builtin`, or its absolute path; of a registry, that of a version.

    Args:
        digest: of the model of the version, the latest of them; "" for the current one, which is also returned if there
            is no such version.
    """
    path = builtin.name_of(path)
    if path == BUILTIN or fileio.exists(uris.join(path, MODEL_FILE)) or not is_registry(path):
        return path
    now = current(path)
    of_digest = [one for one in history(path) if one.model == digest] if digest not in ("", now.model) else []
    return version_folder(path, (of_digest or [now])[-1].folder)


def is_registry(path: str) -> bool:
    """Whether there is a registry at an absolute path."""
    return fileio.exists(uris.join(path, CURRENT_FILE))


def require_registry(path: str) -> None:
    """Raise ModelError if there is no registry at an absolute path."""
    if not is_registry(path):
        raise ModelError(f"{path} is no registry of models: make one with crackvae promote.")


def version_folder(registry: str, version: str) -> str:
    """The model directory of a version."""
    return uris.join(uris.join(registry, VERSIONS), version)


def current(registry: str) -> Change:
    """The change that made the current version current.

    Raises:
        StorageError: there is none, or it is damaged.
    """
    return read_record(uris.join(registry, CURRENT_FILE), Change, "Restore it, or delete it and promote a model again.")


def history(registry: str) -> list[Change]:
    """All changes, oldest first; the last one is the current one."""
    path = uris.join(registry, HISTORY_FILE)
    changes = read_lines(path, Change, "Restore it from a backup.") if fileio.exists(path) else []
    last = [current(registry)] if is_registry(registry) else []
    return changes if changes[-1:] == last else changes + last


def promote_model(registry: str, model_dir: str, who: str, why: str, figures: dict[str, Any]) -> Change:
    """Copy a model directory into a registry, which is created if there is none, and make it current.

    Raises:
        ModelError: not a model directory, or it is current already.
    """
    digest = load_model(model_dir).digest
    version = f"{digest}-{load_calibration(model_dir, digest).digest[:CALIBRATION_DIGITS]}"
    now = current(registry) if is_registry(registry) else None
    if now and version == now.version:
        raise ModelError(f"{model_dir} is already the current model of {registry} (digest {digest[:12]}).")
    folder = version_folder(registry, version)
    if not fileio.exists(uris.join(folder, MODEL_FILE)):
        source = builtin.folder_of(model_dir)
        names = [name for name in fileio.list_files(source) if name != MODEL_FILE]
        files = {name: fileio.read_bytes(uris.join(source, name)) for name in (*names, MODEL_FILE)}
        fileio.write_folder(folder, files)
    return _make_current(registry, "promote", digest, version, who=who, why=why, figures=figures)


def roll_back(registry: str, who: str, why: str) -> Change:
    """Make the version current that the current one replaced; after a rollback, the one before that.

    Raises:
        ModelError: there is none.
    """
    require_registry(registry)
    now, versions = current(registry), _versions_in_use(history(registry))
    before = versions[-2] if len(versions) > 1 else ""
    if not before:
        raise ModelError(f"{registry} had no model before {now.model[:12]}: there is nothing to go back to.")
    digest = load_model(version_folder(registry, before)).digest
    return _make_current(registry, "rollback", digest, before, who=who, why=why)


def _versions_in_use(changes: list[Change]) -> list[str]:
    """Folders of the versions that rollbacks go through, the current one last.

    A promotion adds one, a rollback drops one. The first is "" unless the history lacks its beginning.
    """
    versions = [changes[0].before_version or changes[0].before]
    for one in changes:
        if one.action == "promote":
            versions.append(one.folder)
        else:
            versions[-2:] = [one.folder]
    return versions


def _make_current(registry: str, action: Action, model: str, version: str, **said: Any) -> Change:
    """Write the history without the change, then the change, then the history with it; returns the change."""
    earlier, now = history(registry), current(registry) if is_registry(registry) else None
    said |= {"before": now.model, "before_version": now.folder} if now else {"before": ""}
    change = Change(time=datetime.now(UTC), action=action, model=model, version=version, **said)
    if earlier:
        write_lines(uris.join(registry, HISTORY_FILE), earlier)
    fileio.write_bytes(uris.join(registry, CURRENT_FILE), change.model_dump_json(indent=1).encode())
    write_lines(uris.join(registry, HISTORY_FILE), [*earlier, change])
    return change
