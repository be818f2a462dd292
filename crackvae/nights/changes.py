"""What has changed on the structures of a night since they were photographed before."""

from collections.abc import Sequence
from typing import Any

from crackvae.changes.pairs import by_path
from crackvae.changes.visit_comparison import compare_visits, write_page
from crackvae.changes.visits import read_visit
from crackvae.config import NightlyConfig
from crackvae.console import say
from crackvae.errors import CrackvaeError
from crackvae.storage.tables import changes as table
from crackvae.storage.uris import reason

# Findings that the page shows with pictures.
SHOWN = 48


def changes_of_night(out: str, runs: Sequence[str], config: NightlyConfig) -> dict[str, Any]:
    """Compare the photographs of some runs with earlier ones of the same path without its dates.

    No fault of it costs a night its verdict.

    Returns:
        the summary of the comparison with the page, or the reason for having none; empty where nothing was seen before.
    """
    try:
        whole = read_visit(out)
        after, before = whole.of_runs(runs), whole.of_runs(runs, are_others=True)
        partners = by_path(before.images, after.images, same_root=True)
        if not partners:
            return {}
        visits = before.of_images(partners.values()), after.of_images(partners)
        folder = table.folder_of(out)
        compared = compare_visits(*visits, partners, folder, config, model_dir=config.model, unpaired=False)
        summary = {"before": out, "after": out, **compared.summary}
        page = "" if config.no_report else write_page(compared, summary, SHOWN)
    except (OSError, CrackvaeError) as error:
        say(f"no changes: {reason(error)} Run crackvae change --before {out} --after {out}.", quiet=False)
        return {"error": reason(error)}
    return {**compared.summary, "report": page}
