"""A registry whose process is killed (SIGKILL) before any of its changes on disk, or that two processes change at once:
one of the two models is current.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from conftest import HOUSE, small_spec, write_model
from pydantic import BaseModel

import crackvae
from crackvae.errors import FolderInUse, ModelError
from crackvae.model import registry
from crackvae.model.artifact import load_model
from crackvae.storage import lock

SCRIPT = Path(__file__).with_name("killed_registry.py")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
def test_killed_before_any_change_on_disk_one_of_the_two_models_is_current_and_the_next_change_works(
    tmp_path: Path,
) -> None:
    models = [write_model(tmp_path / name, small_spec(head="mse", seed=seed)) for seed, name in enumerate("ab")]
    champion, challenger = (load_model(str(model)).digest for model in models)
    command = [sys.executable, str(SCRIPT), str(tmp_path), *map(str, models)]
    environment = os.environ | {"PYTHONPATH": str(HOUSE), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    left = [json.loads(line) for line in done.stdout.splitlines()]
    for action, first, last in (("promote", champion, challenger), ("rollback", challenger, champion)):
        of_action = [one for one in left if one["action"] == action]
        models_left = [one["model"] for one in of_action]
        assert len(of_action) > 5 and [one["killed"] for one in of_action] == [True] * (len(of_action) - 1) + [False]
        switch = models_left.index(last)
        assert models_left == [first] * switch + [last] * (len(models_left) - switch), "one switch, and never back"
        assert 0 < switch < len(models_left) - 1, "killed both before and after it"


def test_of_two_promotions_at_the_same_moment_one_is_refused_and_the_history_has_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (write_model(tmp_path / name, small_spec(seed=seed)) for seed, name in enumerate("abc"))
    site, write, refused = tmp_path / "site", registry.write_lines, []
    crackvae.promote(model=first, registry=site, quiet=True)

    def meanwhile(path: str, records: Iterable[BaseModel]) -> None:
        """Another promotion, and a rollback, when this one has read the history."""
        if not refused:
            for change in (
                lambda: crackvae.promote(model=third, registry=site, why="better", quiet=True),
                lambda: crackvae.rollback(registry=site, why="worse", quiet=True),
            ):
                with pytest.raises(FolderInUse, match="choose another --registry") as error:
                    change()
                refused.append(error)
        write(path, records)

    monkeypatch.setattr(registry, "write_lines", meanwhile)
    monkeypatch.setattr(lock, "SETTLE_S", 0.0)
    done = crackvae.promote(model=second, registry=site, why="better", quiet=True)
    assert len(refused) == 2 and [one.model for one in registry.history(str(site))] == [done.before, done.model]
    assert not list(site.glob("_lock*"))


def test_a_rollback_where_there_is_no_registry_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no registry of models"):
        crackvae.rollback(registry=tmp_path / "sight", why="worse", quiet=True)
    assert not list(tmp_path.iterdir())
