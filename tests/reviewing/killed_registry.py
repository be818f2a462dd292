"""Run promotions and a rollback of a registry in processes that SIGKILL themselves before their n-th change on disk.

    python killed_registry.py FOLDER CHAMPION CHALLENGER

Each process starts from the same registry, of which the champion is current, in a folder of its own: FOLDER/ACTION-N.
Prints one line of JSON for each: the action, n, whether the process was killed, and the current model that is left.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from crackvae.model import registry
from crackvae.model.artifact import load_model
from crackvae.model.inference import load_scorer

CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link")
MOST = 200


def kill_before(number: int, folder: str) -> None:
    """End this process before its `number`-th change below a folder."""
    seen = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in CHANGES) and isinstance(arguments[0], str | Path) and folder in str(arguments[0]):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def act(action: str, site: str, challenger: str) -> None:
    """The change that is killed."""
    if action == "promote":
        registry.promote_model(site, challenger, "anna", "", {"recall": 1.0})
    else:
        registry.roll_back(site, "ben", "worse")


def killed(action: str, number: int, start: Path, site: Path, challenger: str) -> bool:
    """Run an action in a process that dies before its `number`-th change; whether it did."""
    shutil.copytree(start, site)
    child = os.fork()
    if child == 0:
        kill_before(number, str(site))
        act(action, str(site), challenger)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL, f"{action} {number}: status {status}"
    return status != 0


def main() -> None:
    """Kill each action before each of its changes, then once not at all."""
    folder, champion, challenger = (str(Path(one).absolute()) for one in sys.argv[1:])
    starts = {action: Path(folder, f"{action}-start") for action in ("promote", "rollback")}
    for action, start in starts.items():
        registry.promote_model(str(start), champion, "anna", "", {})
        if action == "rollback":
            registry.promote_model(str(start), challenger, "anna", "", {})
        for number in range(1, MOST):
            site = Path(folder, f"{action}-{number}")
            was_killed = killed(action, number, start, site, challenger)
            left = registry.current(str(site)).model
            assert load_scorer(str(site)).model.digest == left == registry.history(str(site))[-1].model
            # The next change works, and the history loses nothing.
            before = [one.model for one in registry.history(str(site))]
            if left == load_model(champion).digest:
                registry.promote_model(str(site), challenger, "anna", "", {})
            else:
                registry.roll_back(str(site), "ben", "worse")
            assert [one.model for one in registry.history(str(site))][:-1] == before
            print(json.dumps({"action": action, "number": number, "killed": was_killed, "model": left}), flush=True)
            if not was_killed:
                break


if __name__ == "__main__":
    main()
