"""A registry whose process is killed (SIGKILL) before any of its changes on disk: one of the two models is current."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HOUSE, small_spec, write_model

from crackvae.model.artifact import load_model

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
