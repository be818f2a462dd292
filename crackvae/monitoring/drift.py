"""Drift of a night against the calibration and earlier nights: changes of camera, surface, files or number of cracks.

Measures of camera and surface are compared with the calibration, which stays fixed, so that slow changes are detected.
A calibration on sound concrete says nothing about how many cracks a site has: the share of flagged images is compared
with earlier ordinary nights.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from crackvae.errors import ModelError
from crackvae.images.decoded import CAMERA
from crackvae.model.calibration import Calibration
from crackvae.monitoring.comparisons import (
    MIN_NIGHTS,
    Comparison,
    Limits,
    compare_failed,
    compare_histograms,
    compare_share,
    worst_level,
)
from crackvae.monitoring.histograms import NightHistograms, Tally

# Names in tables for the whole night, and for images outside any group.
ALL, ROOT = "all images", "(no group)"

BULK, TAIL = "score below the threshold", "above all sound"

# Causes other than a change of camera or surface: a night with only these counts as ordinary for its site.
ORDINARY = frozenset({"more cracks", "fewer flagged", "unreadable files"})


@dataclass(frozen=True)
class Drift:
    """Drift of one group, or of the whole night.

    Attributes:
        level: ok, watch or alarm: the worst of the comparisons; `few` with too few images for any comparison.
        causes: likely causes, largest first: darker, brighter, blurred, new texture, more cracks, fewer flagged,
            images without a surface, unreadable files; before them, for the whole night, new camera.
        images: number of images of any status.
        own_reference: whether the calibration has images of this group; if not, all calibration images were used.
        comparisons: the comparisons behind the level.
    """

    level: str
    causes: tuple[str, ...]
    images: int
    own_reference: bool
    comparisons: tuple[Comparison, ...] = field(repr=False)


def compare(
    night: NightHistograms,
    reference: NightHistograms,
    calibration: Calibration,
    limits: Limits,
    history: Sequence[NightHistograms] = (),
) -> dict[str, Drift]:
    """Compare the whole night (under the name ALL) and each of its groups.

    A group with MIN_GROUP_IMAGES or more calibration images is compared with those, any other group with all
    calibration images. Likewise its flagged share is compared with its own earlier nights if there are MIN_NIGHTS of
    them, otherwise with those of all groups.

    Args:
        history: earlier ordinary nights.

    Raises:
        ModelError: a night was counted for another model or calibration.
    """
    if not all(one.same_edges(reference) for one in (night, *history)):
        raise ModelError("the night was scored for another model or calibration, so its histograms cannot be compared.")
    comparer = _GroupComparer(reference, calibration, limits)
    drifts = {ALL: comparer.compare(night.whole, reference.whole, [one.whole for one in history], own=True)}
    if drifts[ALL].causes and _has_new_camera(night, reference):
        drifts[ALL] = replace(drifts[ALL], causes=("new camera", *drifts[ALL].causes))
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
        drifts[name or ROOT] = comparer.compare(tally, usual, past, own=own)
    return drifts


def _has_new_camera(night: NightHistograms, reference: NightHistograms) -> bool:
    """Whether most images come from cameras that the calibration does not have, while it does have others."""
    new = sum(tally.scored for name, tally in night.cameras.items() if name not in reference.cameras)
    return bool(reference.cameras) and 2 * new > night.whole.scored


@dataclass(frozen=True)
class _GroupComparer:
    """Compares one group at a time with fixed reference, calibration and limits."""

    reference: NightHistograms
    calibration: Calibration
    limits: Limits

    def compare(self, tally: Tally, usual: Tally, past: Sequence[Tally], *, own: bool) -> Drift:
        comparisons = []
        if tally.images >= self.limits.min_images:
            comparisons += [
                compare_failed(name, tally.statuses.get(name, 0), tally.images, self.limits)
                for name in ("unreadable", "no_surface")
            ]
        if tally.scored >= self.limits.min_images:
            comparisons += self._compared(tally, usual, [one for one in past if one.scored])
        level = worst_level(one.level for one in comparisons)
        if level == "ok" and tally.scored < self.limits.min_images:
            level = "few"  # readable files are not sound images
        return Drift(level, _causes(comparisons), tally.images, own, tuple(comparisons))

    def _compared(self, tally: Tally, usual: Tally, past: Sequence[Tally]) -> list[Comparison]:
        edges, limits, scores_N = self.reference.edges, self.limits, self.calibration.scores_N
        measures = [
            compare_histograms(name, tally.counts[name], usual.counts[name], edges[name], limits) for name in edges
        ]
        threshold = np.float32(self.calibration.threshold)
        # Number of calibration scores that are not flagged; with none, no share could be expected.
        rank = max(1, int(np.searchsorted(scores_N, threshold, side="right")))
        edge = int(np.searchsorted(edges["score"], np.float64(threshold), side="left"))
        below = slice(0, edge + 1)
        bulk = compare_histograms(
            BULK, tally.counts["score"][below], usual.counts["score"][below], edges["score"][:edge], limits
        )
        n = len(scores_N)
        flagged_before = [(one.flagged, one.scored) for one in past]
        above_before = [(int(one.counts["score"][-1]), one.scored) for one in past]
        flagged = compare_share("flagged", tally.flagged, tally.scored, (rank, n), flagged_before, limits)
        above = compare_share(TAIL, int(tally.counts["score"][-1]), tally.scored, (n, n), above_before, limits)
        cracked = max(flagged.tonight - (n + 1 - rank) / (n + 1), above.tonight - 1 / (n + 1))
        return [*_without_effect_of_cracks(measures, bulk, cracked), bulk, flagged, above]


def _without_effect_of_cracks(measures: list[Comparison], bulk: Comparison, cracked: float) -> list[Comparison]:
    """Set measures to ok whose change the cracked images alone could explain.

    A share q of different images changes a distribution function by at most q. This explanation holds only if most
    images are not flagged and the scores below the threshold are unchanged; a new texture changes those too.
    """
    if not 0 < cracked < 0.5 or bulk.level == "alarm":
        return measures
    return [replace(one, level="ok") if one.ks <= cracked else one for one in measures]


def _causes(comparisons: list[Comparison]) -> tuple[str, ...]:
    """Likely causes of the comparisons at the worst level, largest first; none if that level is ok."""
    level = worst_level(one.level for one in comparisons)
    moved = {one.what: one for one in comparisons if one.level == level} if level != "ok" else {}
    causes: dict[str, float] = {}
    brightness, contrast, sharpness = (moved.get(name) for name in CAMERA)
    if brightness:
        causes["darker" if brightness.tonight < brightness.usual else "brighter"] = brightness.ks
    # Additive light also changes the contrast slightly; another surface changes it more than the brightness.
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
    if "no_surface" in moved:
        causes["images without a surface"] = 0.5
    if "unreadable" in moved:
        causes["unreadable files"] = 0.0
    return tuple(sorted(causes, key=lambda name: -causes[name]))
