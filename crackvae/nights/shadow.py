"""A challenger that scores a night beside the model in use: its scores are kept, and nothing is decided by them."""

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from crackvae.config import NightlyConfig
from crackvae.console import progress, say
from crackvae.errors import CrackvaeError
from crackvae.model.inference import Scorer
from crackvae.scoring.actors import score_rows, scoring_session
from crackvae.scoring.run_table import RunTable
from crackvae.storage import tables, uris

# In the folder of scores; readers of the dataset skip names that begin with `_`.
FOLDER = "_shadow"

LISTED = ["image", "group", "bytes", "modified", "status"]


@dataclass
class ShadowScores:
    """What the challenger made of the images that the model in use has scored in one run.

    Attributes:
        model: digest of the challenger.
        out: folder of its scores, a scores table; the run has the same name there.
        flagged: number of images that the challenger would flag.
        flagged_by_both: number of those that the model in use has flagged as well.
        failed: why it has not scored all of them, or "".
    """

    model: str
    out: str
    scored: int = 0
    flagged: int = 0
    flagged_by_both: int = 0
    failed: str = ""
    _flagged_by_champion: pa.Array = field(default_factory=lambda: pa.array([], pa.string()), repr=False)

    def count(self, rows: pa.Table) -> None:
        """Add rows of the challenger."""
        flagged = rows.filter(rows["flagged"])["image"]
        self.scored += pc.sum(pc.equal(rows["status"], "scored")).as_py() or 0
        self.flagged += len(flagged)
        self.flagged_by_both += pc.sum(pc.is_in(flagged, value_set=self._flagged_by_champion)).as_py() or 0

    def as_json(self) -> dict[str, Any]:
        """For the summary of the night."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}


def score_beside(challenger: Scorer, run: str, config: NightlyConfig) -> ShadowScores:
    """Score what the model in use has scored in a run; an error is said, and costs the night nothing."""
    out = uris.absolute(config.out)
    rows = tables.read_parts(tables.list_parts(out).get(run, []), [*LISTED, "flagged"])
    rows = rows.filter(pc.equal(rows["status"], "scored"))
    flagged = rows.filter(rows["flagged"])["image"].combine_chunks()
    shadow = ShadowScores(challenger.model.digest, uris.join(out, FOLDER), _flagged_by_champion=flagged)
    images = rows.select(LISTED[:-1]).append_column("error", pa.array([""] * rows.num_rows, pa.string()))
    try:
        _score(images, challenger, shadow, run, config)
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
