"""A challenger that scores a night beside the model in use: its scores are kept, and nothing is decided by them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from crackvae.config import NightlyConfig
from crackvae.console import progress, say
from crackvae.errors import CrackvaeError
from crackvae.model.inference import Scorer
from crackvae.nights.runs import KEY, LISTED, latest_rows
from crackvae.scoring.actors import score_rows, scoring_session
from crackvae.scoring.run_table import RunTable
from crackvae.storage import uris

# In the folder of scores; readers of the dataset skip names that begin with `_`.
FOLDER = "_shadow"


@dataclass
class ShadowScores:
    """What the challenger made of the images that the model in use has scored in one night.

    Attributes:
        model: digest of the challenger.
        out: folder of its scores, a scores table.
        flagged: number of images that the challenger would flag.
        flagged_by_both: number of those that the model in use has flagged as well.
        failed: why it has not scored all of them, or "".
        flagged_by_champion: names of the images that the model in use has flagged; not in the summary.
    """

    model: str
    out: str
    scored: int = 0
    flagged: int = 0
    flagged_by_both: int = 0
    failed: str = ""
    flagged_by_champion: pa.Array = field(default_factory=lambda: pa.array([], pa.string()), repr=False)

    def count(self, rows: pa.Table) -> None:
        """Add rows of the challenger."""
        flagged = rows.filter(rows["flagged"])["image"]
        self.scored += pc.sum(pc.equal(rows["status"], "scored")).as_py() or 0
        self.flagged += len(flagged)
        self.flagged_by_both += pc.sum(pc.is_in(flagged, value_set=self.flagged_by_champion)).as_py() or 0

    def as_json(self) -> dict[str, Any]:
        """For the summary of the night."""
        return {name: value for name, value in vars(self).items() if name != "flagged_by_champion"}


def score_beside(challenger: Scorer, champion: str, runs: Sequence[str], config: NightlyConfig) -> ShadowScores:
    """Score what the model in use has scored in the runs of a night, but for what an earlier call for it has done.

    An error is said, and costs the night nothing.

    Args:
        champion: digest of the model in use.
        runs: of the night, the latest last; its name is that of the rows that are written.
    """
    out = uris.absolute(config.out)
    shadow = ShadowScores(challenger.model.digest, uris.join(out, FOLDER))
    try:
        ours = latest_rows(out, champion, min(runs))
        ours = ours.filter(pc.is_in(ours["run"], value_set=pa.array(runs)))
        ours = ours.filter(pc.equal(ours["status"], "scored"))
        shadow.flagged_by_champion = ours.filter(ours["flagged"])["image"].combine_chunks()
        finished = latest_rows(shadow.out, shadow.model, min(runs))
        finished = finished.filter(pc.not_equal(finished["status"], "unreachable"))
        shadow.count(finished.join(ours.select(KEY), KEY, join_type="left semi"))
        images = ours.select(LISTED).join(finished.select(KEY), KEY, join_type="left anti").sort_by("image")
        images = images.append_column("error", pa.array([""] * images.num_rows, pa.string()))
        _score(images, challenger, shadow, runs[-1], config)
    except CrackvaeError as error:
        shadow.failed = str(error)
        say(f"the shadow model has not scored the whole night: {error}", quiet=False)
    return shadow


def _score(images: pa.Table, challenger: Scorer, shadow: ShadowScores, run: str, config: NightlyConfig) -> None:
    """Write and count the rows of the challenger."""
    if not images.num_rows:
        return
    show = progress("shadow", images.num_rows, "images", quiet=config.quiet)
    with scoring_session(images, config), show as bar, RunTable(shadow.out, run) as table:
        for rows in score_rows(images, challenger, config, run):
            table.add(rows)
            shadow.count(rows)
            bar.update(rows.num_rows)
