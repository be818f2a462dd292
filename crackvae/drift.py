"""Tonight against the calibration: did the camera, the surface, the files or the cracks change?

A verdict is by the size of a change, once chance is taken off; a large night makes no alarm out of a trifle.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.stats import beta, betabinom, binom, chi2

from crackvae.calibration import Calibration
from crackvae.errors import ModelError
from crackvae.histograms import CAMERA, MIN_GROUP_IMAGES, Night, Tally

# PSI is defined over about ten bins of equal weight in the reference.
PSI_BINS = 10
# Probability of a difference that we let pass as chance. 50 nights of five measures are 250 looks.
CHANCE = 0.001
LEVELS = ("ok", "watch", "alarm")
# Mean shift of a measure, as a share of its usual median, under which it is no alarm however sure it is: another JPEG
# quality moves the sharpness of drawn images by 2 to 4 %, a blur of 1.5 px by 12 % (docs/log.md, 2026-11-23).
SMALLEST_SHIFT = {"brightness": 0.05, "contrast": 0.15, "sharpness": 0.06}
# Names of the whole night, and of images that lie in no folder, in tables.
ALL, ROOT = "all images", "(no group)"
BULK, TAIL = "score below the threshold", "above all sound"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """From where on a difference is worth a look, and from where on an alarm: (watch, alarm).

    Attributes:
        psi: population stability index beyond chance; 0.1 and 0.25 are the usual ones.
        ks: Kolmogorov-Smirnov distance beyond chance.
        unreadable: share of images.
        usual_flagged: share of images flagged on an ordinary night, from the summaries of such nights; where it is
            no more than what the calibration promises of sound images, that counts.
        flagged: excess of flagged images, as a share, from which more than promised is an alarm.
        min_images: fewer scored images are not compared.
    """

    psi: tuple[float, float] = (0.1, 0.25)
    ks: tuple[float, float] = (0.1, 0.2)
    unreadable: tuple[float, float] = (0.01, 0.05)
    usual_flagged: float = 0.0
    flagged: float = 0.02
    min_images: int = MIN_GROUP_IMAGES


@dataclass(frozen=True)
class Finding:
    """One comparison.

    Attributes:
        what: a measure, or flagged, or unreadable.
        level: ok, watch or alarm.
        tonight, usual: medians of a measure, or shares of images.
        psi, ks: beyond chance, 0 or more; NaN for shares.
        low, high: the promised interval of a share; NaN for measures.
    """

    what: str
    level: str
    tonight: float
    usual: float
    psi: float = np.nan
    ks: float = np.nan
    low: float = np.nan
    high: float = np.nan


@dataclass(frozen=True)
class Drift:
    """What is to be said of one group, or of the whole night.

    Attributes:
        level: ok, watch or alarm: the worst of the findings; `few` where there are too few images to tell.
        causes: likely ones, the largest first: darker, brighter, blurred, new texture, more cracks, fewer flagged,
            unreadable files.
        images: of any status.
        own_reference: whether the calibration knows this group; else it was compared with all calibration images.
    """

    level: str
    causes: tuple[str, ...]
    images: int
    own_reference: bool
    findings: tuple[Finding, ...] = field(repr=False)


def compare(night: Night, reference: Night, calibration: Calibration, limits: Limits) -> dict[str, Drift]:
    """Judge the whole night (under the name ALL) and each of its groups.

    A group of which the calibration has MIN_GROUP_IMAGES images is compared with those, any other with all of them.

    Raises:
        ModelError: the night was counted for another model or calibration.
    """
    if not night.same_edges(reference):
        raise ModelError("the night was scored for another model or calibration: its histograms do not compare.")
    judged = {ALL: _judge(night.whole, reference.whole, reference, calibration, limits, own=True)}
    for name, tally in night.groups.items():
        own = name in reference.groups
        usual = reference.groups[name] if own else reference.whole
        judged[name or ROOT] = _judge(tally, usual, reference, calibration, limits, own=own)
    return judged


def worst_level(levels: Iterable[str]) -> str:
    """The worst of several levels; ok where there is none, or where there were too few images to tell."""
    return max((level for level in levels if level in LEVELS), key=LEVELS.index, default="ok")


def _judge(
    tally: Tally, usual: Tally, reference: Night, calibration: Calibration, limits: Limits, *, own: bool
) -> Drift:
    findings = [_unreadable(tally, limits)] if tally.images >= limits.min_images else []
    if tally.scored >= limits.min_images:
        edges = reference.edges
        threshold = int(np.searchsorted(edges["score"], np.float64(np.float32(calibration.threshold)), side="left"))
        found = {name: _moved(name, tally.counts[name], usual.counts[name], edges[name], limits) for name in edges}
        above = int(tally.counts["score"][-1])
        rank, n_usual = _rank(calibration), len(calibration.scores_N)
        cracks = max(0.0, limits.usual_flagged - (n_usual + 1 - rank) / (n_usual + 1))
        flagged = [
            _share("flagged", tally.flagged, tally.scored, (rank, n_usual), cracks, limits, measured=True),
            _share(TAIL, above, tally.scored, (n_usual, n_usual), cracks, limits),
        ]
        below = slice(0, threshold + 1)
        bulk = _moved(
            BULK,
            tally.counts["score"][below],
            usual.counts["score"][below],
            edges["score"][:threshold],
            limits,
        )
        found = _explained_by_cracks(found, bulk, flagged, limits)
        findings += [*found.values(), bulk, *flagged]
    if not findings:
        return Drift("few", (), tally.images, own, ())
    return Drift(worst_level(one.level for one in findings), _causes(findings), tally.images, own, tuple(findings))


def _moved(name: str, counts: np.ndarray, usual: np.ndarray, edges_K: np.ndarray, limits: Limits) -> Finding:
    """Compare two histograms; what is left of PSI and KS when chance is taken off."""
    n, n_usual = int(counts.sum()), int(usual.sum())
    if min(n, n_usual) < max(1, min(limits.min_images, n_usual)):
        return Finding(name, "ok", np.nan, np.nan)
    either = 1 / n + 1 / n_usual
    psi, bins = _psi(counts, usual)
    psi = max(0.0, psi - either * float(chi2.ppf(1 - CHANCE, max(1, bins - 1))))
    ks = float(np.abs(np.cumsum(counts) / n - np.cumsum(usual) / n_usual).max())
    ks = max(0.0, ks - float(np.sqrt(-np.log(CHANCE / 2) / 2 * either)))
    level = worst_level([_level(psi, limits.psi), _level(ks, limits.ks)])
    found = Finding(name, level, _median(counts, edges_K), _median(usual, edges_K), psi, ks)
    if level == "alarm" and name in SMALLEST_SHIFT:
        shift = _mean_shift(counts, usual, edges_K) / abs(found.usual)
        return found if shift >= SMALLEST_SHIFT[name] else replace(found, level="watch")
    return found


def _mean_shift(counts: np.ndarray, usual: np.ndarray, edges_K: np.ndarray) -> float:
    """Mean distance by which images have moved along a measure: the area between the two distribution functions."""
    gaps_K = np.abs(np.cumsum(counts) / counts.sum() - np.cumsum(usual) / usual.sum())[:-1]
    return float((gaps_K[:-1] * np.diff(edges_K)).sum())


def _psi(counts: np.ndarray, usual: np.ndarray) -> tuple[float, int]:
    """Population stability index over at most PSI_BINS bins of near equal weight in the reference, and their number.

    Half an image is added to each bin, so that an empty one does not make it infinite.

    Source: Yurdakul, Statistical Properties of Population Stability Index (2018): times 1 / (1/n + 1/m) it is
    chi-squared distributed with one degree of freedom less than bins where nothing has moved.
    """
    share = np.cumsum(usual) / usual.sum()
    bin_of = np.minimum((share - usual / usual.sum() / 2) * PSI_BINS, PSI_BINS - 1).astype(int)
    _, bin_of = np.unique(bin_of, return_inverse=True)
    bins = int(bin_of.max()) + 1
    shares = [(np.bincount(bin_of, one, bins) + 0.5) / (one.sum() + 0.5 * bins) for one in (counts, usual)]
    return float(((shares[0] - shares[1]) * np.log(shares[0] / shares[1])).sum()), bins


def _median(counts: np.ndarray, edges_K: np.ndarray) -> float:
    """Upper edge of the bin that the median lies in."""
    middle = int(np.searchsorted(np.cumsum(counts), counts.sum() / 2))
    return float(edges_K[min(middle, len(edges_K) - 1)])


def _level(value: float, limits: tuple[float, float]) -> str:
    return LEVELS[int(value >= limits[0]) + int(value >= limits[1])]


def _rank(calibration: Calibration) -> int:
    """How many of the calibration scores are not flagged; at least one, below which nothing is promised."""
    return max(1, int(np.searchsorted(calibration.scores_N, np.float32(calibration.threshold), side="right")))


def _share(
    what: str, found: int, n: int, rank: tuple[int, int], cracks: float, limits: Limits, *, measured: bool = False
) -> Finding:
    """Share of images above the calibration score of a rank (k of N), against what is promised of sound ones.

    Of n further sound images, the number above rank k of N is beta-binomially distributed with N+1-k and k: the
    uncertainty of a small calibration is in it. The ordinary share of flagged cracks is added with its binomial spread;
    where the sum itself was `measured` on ordinary nights, the calibration has no more part in it.

    Source: Vovk, Conditional validity of inductive conformal predictors (2013), proposition 2a.
    """
    k, n_usual = rank
    above = n_usual + 1 - k
    low, high = (float(betabinom.ppf(q, n, above, k)) / n for q in (CHANCE, 1 - CHANCE))
    share, sound = found / n, above / (n_usual + 1)
    usual = sound + cracks
    with_cracks = float(binom.ppf(1 - CHANCE, n, usual if measured else cracks)) / n
    if measured and cracks:
        high = with_cracks
    else:  # the spreads of two independent counts add up as squares
        high = min(1.0, usual + float(np.hypot(high - sound, with_cracks - cracks if cracks else 0.0)))
    level = "ok"
    if share > high:
        # Half as many cracks again, or more.
        level = "alarm" if share - usual >= max(cracks / 2, limits.flagged) else "watch"
    elif share < low:
        level = "watch"
    return Finding(what, level, share, usual, low=low, high=high)


def _unreadable(tally: Tally, limits: Limits) -> Finding:
    """The share of unreadable files, judged by what it is at least: the lower end of its Clopper-Pearson interval."""
    found, n = tally.statuses.get("unreadable", 0), tally.images
    at_least = float(beta.ppf(CHANCE, found, n - found + 1)) if found else 0.0
    return Finding(
        "unreadable", _level(at_least, limits.unreadable), found / n, 0.0, low=0.0, high=limits.unreadable[0]
    )


def _explained_by_cracks(
    found: dict[str, Finding], bulk: Finding, flagged: list[Finding], limits: Limits
) -> dict[str, Finding]:
    """Take back a measure that moved no further than the additional flagged images alone could have moved it.

    A share q of other images moves a distribution function by at most q. Only where most images are not flagged and
    their scores have stayed where they were is it the cracks; a new texture moves those too.
    """
    excess = max([0.0, *(one.tonight - one.usual for one in flagged if one.level == "alarm")])
    if not 0 < excess < 0.5 or bulk.level == "alarm":
        return found
    return {
        name: replace(one, level="ok" if name in CAMERA else "watch") if one.level != "ok" and one.ks <= excess else one
        for name, one in found.items()
    }


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
