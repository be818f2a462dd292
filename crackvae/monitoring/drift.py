"""Tonight against the calibration and the nights before: did the camera, the surface, the files or the cracks change?

Cameras and surfaces are compared with the calibration, which does not follow a slow change. How many cracks a site has
no calibration on sound concrete can know: the share flagged is compared with the ordinary nights before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from crackvae.errors import ModelError
from crackvae.model.calibration import Calibration
from crackvae.monitoring.comparisons import MIN_NIGHTS, Finding, Limits, moved, share_above, unreadable, worst_level
from crackvae.monitoring.histograms import CAMERA, Night, Tally

# Names of the whole night, and of images that lie in no folder, in tables.
ALL, ROOT = "all images", "(no group)"


BULK, TAIL = "score below the threshold", "above all sound"


# Causes that are no change of the camera or the surface: a night that has no other tells what is usual at its site.
ORDINARY = frozenset({"more cracks", "fewer flagged", "unreadable files"})


@dataclass(frozen=True)
class Drift:
    """What is to be said of one group, or of the whole night.

    Attributes:
        level: ok, watch or alarm: the worst of the findings; `few` where there are too few images to tell.
        causes: likely ones, the largest first: darker, brighter, blurred, new texture, more cracks, fewer flagged,
            unreadable files.
        images: of any status.
        own_reference: whether the calibration knows this group; else it was compared with all calibration images.
        findings: what it was judged by.
    """

    level: str
    causes: tuple[str, ...]
    images: int
    own_reference: bool
    findings: tuple[Finding, ...] = field(repr=False)


def compare(
    night: Night, reference: Night, calibration: Calibration, limits: Limits, history: Sequence[Night] = ()
) -> dict[str, Drift]:
    """RecordedModel the whole night (under the name ALL) and each of its groups.

    A group of which the calibration has MIN_GROUP_IMAGES images is compared with those, any other with all of them. In
    the same way its share flagged is compared with its own earlier nights where there are MIN_NIGHTS of them, else with
    those of all groups.

    Args:
        history: ordinary nights before this one.

    Raises:
        ModelError: a night was counted for another model or calibration.
    """
    if not all(one.same_edges(reference) for one in (night, *history)):
        raise ModelError("the night was scored for another model or calibration: its histograms do not compare.")
    against = _Judge(reference, calibration, limits)
    judged = {ALL: against.judge(night.whole, reference.whole, [one.whole for one in history], own=True)}
    groups = [(name, tally) for one in history for name, tally in one.groups.items()]
    groups = [(name, tally) for name, tally in groups if tally.scored >= limits.min_images]
    before: dict[str, list[Tally]] = {}
    for name, tally in groups:
        before.setdefault(name, []).append(tally)
    for name, tally in night.groups.items():
        own = name in reference.groups
        usual = reference.groups[name] if own else reference.whole
        past = before.get(name, [])
        past = past if len(past) >= MIN_NIGHTS else [earlier for _, earlier in groups]
        judged[name or ROOT] = against.judge(tally, usual, past, own=own)
    return judged


@dataclass(frozen=True)
class _Judge:
    """What every group of a night is judged by."""

    reference: Night
    calibration: Calibration
    limits: Limits

    def judge(self, tally: Tally, usual: Tally, past: Sequence[Tally], *, own: bool) -> Drift:
        findings = []
        if tally.images >= self.limits.min_images:
            findings += [unreadable(tally.statuses.get("unreadable", 0), tally.images, self.limits)]
        if tally.scored >= self.limits.min_images:
            findings += self._compared(tally, usual, [one for one in past if one.scored])
        if not findings:
            return Drift("few", (), tally.images, own, ())
        return Drift(worst_level(one.level for one in findings), _causes(findings), tally.images, own, tuple(findings))

    def _compared(self, tally: Tally, usual: Tally, past: Sequence[Tally]) -> list[Finding]:
        edges, limits, scores_N = self.reference.edges, self.limits, self.calibration.scores_N
        found = [moved(name, tally.counts[name], usual.counts[name], edges[name], limits) for name in edges]
        threshold = np.float32(self.calibration.threshold)
        # How many of the calibration scores are not flagged; at least one, below which nothing is promised.
        rank = max(1, int(np.searchsorted(scores_N, threshold, side="right")))
        edge = int(np.searchsorted(edges["score"], np.float64(threshold), side="left"))
        below = slice(0, edge + 1)
        bulk = moved(BULK, tally.counts["score"][below], usual.counts["score"][below], edges["score"][:edge], limits)
        n = len(scores_N)
        flagged_before = [(one.flagged, one.scored) for one in past]
        above_before = [(int(one.counts["score"][-1]), one.scored) for one in past]
        flagged = share_above("flagged", tally.flagged, tally.scored, (rank, n), flagged_before, limits)
        above = share_above(TAIL, int(tally.counts["score"][-1]), tally.scored, (n, n), above_before, limits)
        cracked = max(flagged.tonight - (n + 1 - rank) / (n + 1), above.tonight - 1 / (n + 1))
        return [*_explained_by_cracks(found, bulk, cracked), bulk, flagged, above]


def _explained_by_cracks(found: list[Finding], bulk: Finding, cracked: float) -> list[Finding]:
    """Take back a measure that moved no further than the images above what sound ones reach could have moved it alone.

    A share q of other images moves a distribution function by at most q. Only where most images are not flagged and
    their scores have stayed where they were is it the cracks; a new texture moves those too.
    """
    if not 0 < cracked < 0.5 or bulk.level == "alarm":
        return found
    return [replace(one, level="ok") if one.ks <= cracked else one for one in found]


def _causes(findings: list[Finding]) -> tuple[str, ...]:
    """Likely causes of what is in alarm, the largest first; of what is to be watched where nothing is."""
    level = worst_level(one.level for one in findings)
    moved = {one.what: one for one in findings if one.level == level} if level != "ok" else {}
    causes: dict[str, float] = {}
    brightness, contrast, sharpness = (moved.get(name) for name in CAMERA)
    if brightness:
        causes["darker" if brightness.tonight < brightness.usual else "brighter"] = brightness.ks
    # Another light moves the contrast a little where it adds to every pixel; another surface moves it more than that.
    by_light = brightness and contrast and contrast.ks < brightness.ks
    is_blurred = (
        sharpness and sharpness.tonight < sharpness.usual and not (contrast and contrast.tonight > contrast.usual)
    )
    if sharpness and is_blurred:
        causes["blurred"] = sharpness.ks
    elif sharpness or (contrast and not by_light):
        causes["new texture"] = max(one.ks for one in (contrast, sharpness) if one)
    shares = [moved[name] for name in ("flagged", TAIL) if name in moved]
    if not causes and any(one.tonight > one.high for one in shares) and BULK not in moved:
        causes["more cracks"] = 1.0
    elif not causes and any(name in moved for name in (BULK, "score", "latent_norm")):
        causes["new texture"] = 1.0
    elif not causes and shares:
        causes["fewer flagged"] = 1.0
    if "unreadable" in moved:
        causes["unreadable files"] = 0.0
    return tuple(sorted(causes, key=lambda name: -causes[name]))
