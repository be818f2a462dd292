"""The verbs `promote` and `rollback`: which model of a registry is current."""

from typing import Any

import pandas as pd

from crackvae.config import PromoteConfig, RollbackConfig, user_name
from crackvae.errors import ModelError
from crackvae.model import registry
from crackvae.model.inference import load_scorer
from crackvae.results import Result
from crackvae.reviewing.compare import compared, shown
from crackvae.storage import filesystems, uris
from crackvae.storage.lock import locked
from crackvae.storage.tables import new_run


@filesystems.with_s3_endpoint
def promote(config: PromoteConfig) -> Result:
    """Make a model the current one of a registry.

    Raises:
        ModelError: it is worse than the current model, or was not compared with it, and no reason was given.
        FolderInUse: another promotion or rollback changes the registry.
    """
    folder, model_dir = uris.absolute(config.registry), registry.model_folder(config.model)
    challenger, figures, tables = load_scorer(model_dir), dict[str, Any](), dict[str, pd.DataFrame]()
    with locked(folder, new_run(), quiet=config.quiet, flag="--registry") as lock:
        if registry.is_registry(folder):
            why_not = "it was not compared with the current model: give --manifest or --scores"
            if config.manifest or config.scores:
                found = compared(load_scorer(folder), challenger, config)
                why_not, figures, tables = found.why_not(), found.as_json(), shown(found)
            if why_not and not config.why:
                raise ModelError(
                    f"{model_dir} is not promoted: {why_not}. To promote it all the same, say why (--why)."
                )
        lock.check()  # a comparison takes long, and it was with the model that is replaced
        change = registry.promote_model(folder, model_dir, config.who or user_name(), config.why, figures)
    return _result("promote", folder, change, tables)


@filesystems.with_s3_endpoint
def rollback(config: RollbackConfig) -> Result:
    """Go back to the model before the current one.

    Raises:
        ModelError: there is none.
        FolderInUse: another promotion or rollback changes the registry.
    """
    folder = uris.absolute(config.registry)
    registry.require_registry(folder)
    with locked(folder, new_run(), quiet=config.quiet, flag="--registry"):
        change = registry.roll_back(folder, config.who or user_name(), config.why)
    return _result("rollback", folder, change, {})


def _result(verb: str, folder: str, change: registry.Change, tables: dict[str, pd.DataFrame]) -> Result:
    summary = {"verb": verb, "registry": folder, **change.model_dump(mode="json", exclude={"action"})}
    facts = {name: summary[name] for name in ("registry", "model", "before", "who", "why")}
    return Result(summary, {**tables, verb: pd.DataFrame({"value": list(facts.values())}, index=list(facts))})
