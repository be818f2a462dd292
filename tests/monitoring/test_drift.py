"""Drift on synthetic nights: ordinary nights raise no alarm, and changes are named."""

import io
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageFilter

from crackvae.errors import ModelError
from crackvae.images.surface import measures
from crackvae.images.synthetic import draw_image
from crackvae.model.calibration import Calibration, percentile_threshold
from crackvae.monitoring import histograms
from crackvae.monitoring.comparisons import Limits, compare_histograms, compare_share
from crackvae.monitoring.drift import ALL, ROOT, TAIL, Drift, compare
from crackvae.monitoring.histograms import NightHistograms, count, reference_of

pytestmark = pytest.mark.slow

SIDE = 64
N_REFERENCE, N_POOL, N_CRACKS, N_NIGHT = 800, 1600, 150, 600
# Share of cracked images on an ordinary night.
CRACKS = 0.05


def grey(number: int, *, is_crack: bool) -> np.ndarray:
    pixels, _ = draw_image(3, number, is_crack, SIDE)
    return np.asarray(Image.fromarray(pixels).convert("L"))


def darkest_share(pixels_HW: np.ndarray) -> float:
    """Stands in for the network: the distance of the darkest 2 % from the median."""
    low, median = np.percentile(pixels_HW, [2, 50])
    return float((median - low) / 255)


def rows_of(images: list[np.ndarray], group: str = "", threshold: float = np.inf) -> pa.Table:
    """Scored rows of images, with the stand-ins for the network."""
    seen = [measures(pixels_HW) for pixels_HW in images]
    scores = np.array([darkest_share(pixels_HW) for pixels_HW in images], np.float32)
    return pa.table(
        {
            "group": [group] * len(images),
            "status": ["scored"] * len(images),
            "score": scores,
            "flagged": scores > np.float32(threshold),
            "brightness": pa.array([one.brightness for one in seen], pa.float32()),
            "contrast": pa.array([one.contrast for one in seen], pa.float32()),
            "sharpness": pa.array([one.sharpness for one in seen], pa.float32()),
            "latent_norm": pa.array([float(pixels_HW.std()) for pixels_HW in images], pa.float32()),
        }
    )


class Site:
    """Synthetic images of one site, its calibration, and nights composed of them."""

    def __init__(self) -> None:
        self.reference_images = [grey(number, is_crack=False) for number in range(N_REFERENCE)]
        self.sound = [grey(number, is_crack=False) for number in range(N_REFERENCE, N_REFERENCE + N_POOL)]
        self.cracked = [grey(number, is_crack=True) for number in range(N_CRACKS)]
        rows = rows_of(self.reference_images)
        scores = np.sort(rows["score"].to_numpy())
        threshold = percentile_threshold(scores, 95)
        self.calibration = Calibration(scores, 1, "made up", threshold, "model", leaky=False)
        self.reference = reference_of(rows, self.calibration)
        self.sound_rows = self.rows(self.sound)
        self.cracked_rows = self.rows(self.cracked)
        self.ordinary = [self.night(1000 + seed, CRACKS) for seed in range(7)]

    def rows(self, images: list[np.ndarray], group: str = "") -> pa.Table:
        return rows_of(images, group, self.calibration.threshold)

    def count(self, rows: pa.Table) -> NightHistograms:
        return count(rows, self.reference.edges, "model")

    def night(self, seed: int, cracks: float = 0.0) -> NightHistograms:
        rng = np.random.default_rng(seed)
        n_cracked = round(N_NIGHT * cracks)
        return self.count(
            pa.concat_tables(
                [
                    self.sound_rows.take(rng.choice(N_POOL, N_NIGHT - n_cracked, replace=False)),
                    self.cracked_rows.take(rng.choice(N_CRACKS, n_cracked, replace=False)),
                ]
            )
        )

    def drift(
        self, night: NightHistograms, limits: Limits | None = None, history: Sequence[NightHistograms] = ()
    ) -> Drift:
        return compare(night, self.reference, self.calibration, limits or Limits(), history)[ALL]


@pytest.fixture(scope="module")
def site() -> Site:
    return Site()


def dimmed(pixels_HW: np.ndarray) -> np.ndarray:
    return (pixels_HW * 0.8).astype(np.uint8)


def less_exposed(pixels_HW: np.ndarray) -> np.ndarray:
    return np.clip(pixels_HW.astype(int) - 36, 0, 255).astype(np.uint8)


def brightened(pixels_HW: np.ndarray) -> np.ndarray:
    return np.clip(pixels_HW * 1.2, 0, 255).astype(np.uint8)


def blurred(pixels_HW: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels_HW).filter(ImageFilter.GaussianBlur(1.5)))


def bricks(pixels_HW: np.ndarray) -> np.ndarray:
    factors = np.ones(pixels_HW.shape)
    factors[::24] = factors[:, ::48] = 0.6
    return (pixels_HW * factors).astype(np.uint8)


def gravel(pixels_HW: np.ndarray) -> np.ndarray:
    stones = np.random.default_rng(0).normal(0, 30, (SIDE // 5 + 1,) * 2).astype(np.float32)
    relief = np.asarray(Image.fromarray(stones).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    return np.clip(pixels_HW + relief, 0, 255).astype(np.uint8)


def painted(pixels_HW: np.ndarray) -> np.ndarray:
    middle, noise = np.median(pixels_HW), np.random.default_rng(0).normal(0, 1, pixels_HW.shape)
    return np.clip(middle + 0.3 * (pixels_HW - middle) + noise, 0, 255).astype(np.uint8)


def test_fifty_sound_nights_raise_no_alarm(site: Site) -> None:
    levels = [site.drift(site.night(seed)).level for seed in range(50)]
    assert levels.count("alarm") == 0
    assert levels.count("watch") <= 2


def test_fifty_ordinary_nights_with_the_cracks_that_a_site_has_raise_no_alarm(site: Site) -> None:
    levels = [site.drift(site.night(seed, CRACKS), history=site.ordinary).level for seed in range(50)]
    assert levels.count("alarm") == 0
    assert levels.count("watch") <= 2


def test_three_times_as_many_cracks_are_an_alarm_with_their_cause(site: Site) -> None:
    found = [site.drift(site.night(seed, 3 * CRACKS), history=site.ordinary) for seed in range(50)]
    assert {(one.level, one.causes) for one in found} == {("alarm", ("more cracks",))}


@pytest.mark.parametrize("n_before", [0, 1, 2])
def test_before_three_nights_the_flagged_share_is_compared_with_that_expected_of_sound_images(
    site: Site, n_before: int
) -> None:
    assert site.drift(site.night(1), history=site.ordinary[:n_before]).level != "alarm"
    found = site.drift(site.night(1, 3 * CRACKS), history=site.ordinary[:n_before])
    assert (found.level, found.causes) == ("alarm", ("more cracks",))


def test_a_few_nights_full_of_cracks_do_not_become_usual(site: Site) -> None:
    burst = [site.night(2000 + seed, 4 * CRACKS) for seed in range(3)]
    found = site.drift(site.night(3, 3 * CRACKS), history=site.ordinary + burst)
    assert (found.level, found.causes) == ("alarm", ("more cracks",))
    assert site.drift(site.night(3, CRACKS), history=site.ordinary + burst).level != "alarm"


def test_overdispersed_nights_widen_the_prediction_interval() -> None:
    rng, alarms = np.random.default_rng(8), {"alike": 0, "apart": 0}
    for _ in range(300):
        for kind, images in (("alike", np.inf), ("apart", 60)):  # effective number of images of the drawn share
            shares = np.full(15, 0.1) if images == np.inf else rng.beta(0.1 * images, 0.9 * images, 15)
            *past, tonight = [(int(rng.binomial(600, share)), 600) for share in shares]
            alarms[kind] += compare_share("flagged", *tonight, (760, 800), past, Limits()).level == "alarm"
    # 0.3 of 300 are expected; the spread of 14 nights has a standard error of a quarter, which adds some.
    assert alarms["alike"] <= 3 and alarms["apart"] <= 9


def test_a_site_with_many_cracks_every_night_is_ordinary_there(site: Site) -> None:
    history = [site.night(3000 + seed, 5 * CRACKS) for seed in range(5)]
    assert site.drift(site.night(4, 5 * CRACKS), history=history).level == "ok"
    fewer = site.drift(site.night(4), history=history)
    assert (fewer.level, fewer.causes) == ("watch", ("fewer flagged",))


def test_a_group_is_compared_with_its_own_nights_and_a_new_one_with_those_of_all_groups(site: Site) -> None:
    def night(seed: int, **cracks: float) -> NightHistograms:
        parts = []
        for number, (name, share) in enumerate(cracks.items()):
            rng = np.random.default_rng((seed, number))
            rows = pa.concat_tables(
                [
                    site.sound_rows.take(rng.choice(N_POOL, round(200 * (1 - share)), replace=False)),
                    site.cracked_rows.take(rng.choice(N_CRACKS, round(200 * share), replace=False)),
                ]
            )
            place = rows.schema.get_field_index("group")
            parts.append(rows.set_column(place, "group", pa.array([name] * rows.num_rows)))
        return site.count(pa.concat_tables(parts))

    history = [night(seed, old=0.3, new=0.0) for seed in range(5)]
    tonight = night(9, old=0.3, new=0.3, unseen=0.3)
    found = compare(tonight, site.reference, site.calibration, Limits(), history)
    assert (found["old"].level, found["new"].causes, found["new"].level) == ("ok", ("more cracks",), "alarm")
    (share,) = [one for one in found["unseen"].comparisons if one.what == TAIL]
    before = [tally.counts["score"][-1] / tally.scored for one in history for tally in one.groups.values()]
    assert share.usual == pytest.approx(np.median(before))


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (dimmed, "darker"),
        (less_exposed, "darker"),
        (brightened, "brighter"),
        (blurred, "blurred"),
        (bricks, "new texture"),
        (gravel, "new texture"),
        (painted, "new texture"),
    ],
)
@pytest.mark.parametrize("share_cracked", [0.0, CRACKS])
def test_a_change_is_an_alarm_with_its_cause(
    site: Site, change: Callable[[np.ndarray], np.ndarray], cause: str, share_cracked: float
) -> None:
    n_cracked = round(share_cracked * N_NIGHT)
    images = [*site.sound[: N_NIGHT - n_cracked], *site.cracked[:n_cracked]]
    found = site.drift(site.count(site.rows([change(pixels_HW) for pixels_HW in images])))
    assert (found.level, found.causes[0]) == ("alarm", cause), found


def test_a_change_in_one_group_is_reported_for_that_group(site: Site) -> None:
    night = site.count(
        pa.concat_tables(
            [
                site.rows(site.sound[:300], "bridge-1"),
                site.rows([dimmed(pixels_HW) for pixels_HW in site.sound[300:400]], "bridge-2"),
                site.rows(site.sound[400:410], ""),
            ]
        )
    )
    found = compare(night, site.reference, site.calibration, Limits())
    assert (found["bridge-1"].level, found["bridge-2"].level, found[ROOT].level) == ("ok", "alarm", "few")
    assert found["bridge-2"].causes == ("darker",)


def test_a_group_that_the_calibration_knows_is_compared_with_its_own_images(site: Site) -> None:
    dark = site.rows([dimmed(pixels_HW) for pixels_HW in site.reference_images[:200]], "tunnel")
    both = pa.concat_tables([dark, site.rows(site.reference_images[200:], "bridge")])
    reference = reference_of(both, site.calibration)
    tonight = site.rows([dimmed(pixels_HW) for pixels_HW in site.sound[:200]], "tunnel")
    night = count(tonight, reference.edges, "model")
    found = compare(night, reference, site.calibration, Limits())["tunnel"]
    assert (found.level, found.own_reference) == ("ok", True)
    unknown = replace(reference, groups={})
    assert compare(night, unknown, site.calibration, Limits())["tunnel"].causes == ("darker",)


def test_unreadable_files_are_an_alarm_when_significantly_above_the_limit(site: Site) -> None:
    rows = site.rows(site.sound[:300])
    for n_unreadable, level in ((0, "ok"), (3, "ok"), (16, "watch"), (60, "alarm")):
        status = pa.array(["unreadable"] * n_unreadable + ["scored"] * (300 - n_unreadable))
        found = site.drift(site.count(rows.drop_columns(["status"]).append_column("status", status)))
        assert found.level == level, n_unreadable
    assert found.causes == ("unreadable files",)


def test_limits_are_settings(site: Site) -> None:
    dark = site.count(site.rows([dimmed(pixels_HW) for pixels_HW in site.sound[:200]]))
    loose = Limits(psi=(50.0, 99.0), ks=(0.9, 0.95))
    assert (site.drift(dark).level, site.drift(dark, loose).level) == ("alarm", "ok")
    assert site.drift(dark, Limits(min_images=201)).level == "few"


def test_a_night_counted_in_pieces_is_the_night_counted_whole(site: Site) -> None:
    rows = pa.concat_tables([site.rows(site.sound[:40], "a"), site.rows(site.sound[40:90], "b")])
    whole = site.count(rows)
    pieces = site.count(rows.slice(0, 30)) + site.count(rows.slice(30, 1)) + site.count(rows.slice(31))
    assert histograms.histograms_file(pieces) == histograms.histograms_file(whole)


def test_nights_of_different_calibrations_are_not_compared(site: Site) -> None:
    other = replace(site.night(1), model="another")
    with pytest.raises(ModelError, match="another model or calibration"):
        compare(other, site.reference, site.calibration, Limits())


def test_the_prediction_interval_has_its_nominal_coverage_over_calibrations() -> None:
    rng, outside = np.random.default_rng(5), 0
    for _ in range(2000):
        scores = np.sort(rng.random(200)).astype(np.float32)
        threshold = np.float32(percentile_threshold(scores, 95))  # 190 of the 200 are not above it
        flagged = int((rng.random(300).astype(np.float32) > threshold).sum())
        found = compare_share("flagged", flagged, 300, (190, 200), (), Limits())
        outside += found.level != "ok"
    # 1 in 1000 on either side: 4 of 2,000 are expected, and 14 or more have a probability of 1 in 20,000.
    assert outside < 14


def test_psi_of_equal_distributions_is_within_sampling_error() -> None:
    rng, beyond = np.random.default_rng(2), 0
    edges = np.linspace(-2, 2, 41)
    for _ in range(500):
        usual, tonight = (np.bincount(np.searchsorted(edges, rng.normal(size=n)), minlength=42) for n in (150, 100))
        beyond += compare_histograms("brightness", tonight, usual, edges, Limits()).psi > 0
    assert beyond <= 5


def test_another_jpeg_quality_is_no_alarm(site: Site) -> None:
    def encoded(pixels_HW: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(pixels_HW).save(file, "JPEG", quality=90)
        return np.asarray(Image.open(file))

    found = site.drift(site.count(site.rows([encoded(pixels_HW) for pixels_HW in site.sound[:600]])))
    assert found.level != "alarm", found


def test_a_new_camera_is_not_taken_for_a_new_site(site: Site) -> None:
    def taken_with(camera: str, rows: pa.Table) -> pa.Table:
        return rows.append_column("camera", pa.array([camera] * rows.num_rows))

    reference = reference_of(taken_with("known", rows_of(site.reference_images)), site.calibration)
    dark = site.rows([dimmed(pixels_HW) for pixels_HW in site.sound[:N_NIGHT]])
    causes = {}
    for camera in ("known", "other", ""):
        night = count(taken_with(camera, dark), reference.edges, "model")
        causes[camera] = compare(night, reference, site.calibration, Limits())[ALL].causes
    assert causes["known"] == causes[""] and "darker" in causes[""]
    assert causes["other"] == ("new camera", *causes["known"])
    unchanged = count(taken_with("other", site.sound_rows.slice(0, N_NIGHT)), reference.edges, "model")
    assert compare(unchanged, reference, site.calibration, Limits())[ALL].causes == ()
