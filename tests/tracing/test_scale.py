"""Millimetres of findings: sources in their order, uncertainties, classes of widths."""

import math
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crackvae.config import ScoreConfig, width_limits_of
from crackvae.errors import ConfigError
from crackvae.images.metadata import Metadata
from crackvae.images.metadata.optics import focal_in_px
from crackvae.tracing.scale import Scale, Scales, in_millimetres, scales_from_csv, width_class

NAN = math.nan
NOTHING = {"focal_px": NAN, "focal_sigma": NAN, "range_m": NAN, "height_m": NAN, "mm_per_px": NAN}
DRONE = {"focal_px": 3648.0, "focal_sigma": 0.003, "range_m": NAN, "height_m": 20.0, "mm_per_px": NAN}
FINDING = {"length_px": 400.0, "width_mean_px": 2.0, "width_max_px": 3.0, "width_sigma_px": 0.2}


@pytest.mark.parametrize(
    ("scales", "optics", "mm_per_px", "source"),
    [
        (Scales(), NOTHING, NAN, ""),
        (Scales(mm_per_px=0.3), DRONE, 0.3, "given for all photographs"),
        (Scales(mm_per_px=0.3, of_name={"pier/a.jpg": 0.2}), DRONE, 0.2, "table of scales"),
        (Scales(of_name={"a.jpg": 0.1, "pier/a.jpg": 0.2}), DRONE, 0.2, "table of scales"),
        (Scales(of_name={"bridge 7": 0.4, "b.jpg": 0.1}), DRONE, 0.4, "table of scales"),
        (Scales(distance_m=3.648), DRONE, 1.0, "focal length and a distance of 3.648 m"),
        (Scales(distance_m=3.648), NOTHING, NAN, ""),
        (Scales(), DRONE | {"range_m": 7.296}, 2.0, "focal length and laser, 7.3 m"),
        (Scales(), DRONE, 1000 * 20 / 3648, "focal length and height above the start, 20.0 m"),
        (Scales(), DRONE | {"focal_px": NAN}, NAN, ""),
        (Scales(), NOTHING | {"mm_per_px": 2.0}, 2.0, "geotransform"),
        (Scales(mm_per_px=0.3), NOTHING | {"mm_per_px": 2.0}, 0.3, "given for all photographs"),
        (Scales(), DRONE | {"height_m": NAN}, NAN, ""),
    ],
)
def test_the_closest_source_of_a_scale_counts(
    scales: Scales, optics: dict[str, float], mm_per_px: float, source: str
) -> None:
    found = scales.scale_of("/photographs/pier/a.jpg", "bridge 7", optics)
    assert (found.mm_per_px, found.source) == (pytest.approx(mm_per_px, nan_ok=True), source)


def test_uncertainty_grows_with_the_source() -> None:
    sources = [
        Scales(mm_per_px=0.3).scale_of("a", "", DRONE),
        Scales().scale_of("a", "", DRONE | {"range_m": 20.0}),
        Scales(distance_m=20).scale_of("a", "", DRONE),
        Scales().scale_of("a", "", DRONE),
    ]
    sigmas = [one.sigma for one in sources]
    assert sigmas == sorted(sigmas) and sigmas[0] == 0 and sigmas[-1] == pytest.approx(0.103, abs=0.001)


def test_a_finding_in_millimetres() -> None:
    found = in_millimetres(FINDING, Scale(0.1, "given", 0.05), (0.2, 0.3, 0.4))
    assert found["length_mm"] == pytest.approx(40) and found["width_mean_mm"] == pytest.approx(0.2)
    assert found["width_sigma_mm"] == pytest.approx(math.hypot(0.02, 0.2 * 0.05))
    assert (found["width_class"], found["mm_source"]) == ("0.2 to 0.3 mm", "given")
    assert in_millimetres(FINDING, Scale(), (0.2,)) == {}


@pytest.mark.parametrize(
    ("width", "name"),
    [(0.05, "up to 0.2 mm"), (0.2, "up to 0.2 mm"), (0.21, "0.2 to 0.3 mm"), (9.0, "over 0.4 mm"), (NAN, "")],
)
def test_a_class_is_a_range_of_widths(width: float, name: str) -> None:
    assert width_class(width, width_limits_of("EN-1992-1-1")) == name


@given(st.floats(0, 10))
def test_no_class_says_whether_a_crack_is_safe(width: float) -> None:
    text = width_class(width, width_limits_of("ACI-224R"))
    assert text.endswith(" mm") and text.split(" ")[0] in ("up", "over", "0.1", "0.15", "0.18", "0.3")


@pytest.mark.parametrize("text", ["", "ACI", "0.3,0.2", "0,1", "-1", "nan", "0.1,inf"])
def test_width_classes_must_be_a_table(text: str) -> None:
    with pytest.raises(ConfigError, match="width_classes"):
        ScoreConfig(images="a", width_classes=text)
    assert width_limits_of("0.1,0.5") == (0.1, 0.5)


def test_names_of_a_table_are_those_of_photographs_in_either_unicode_form_or_are_named_as_unused() -> None:
    written, stored = (unicodedata.normalize(form, "Brücke/é.jpg") for form in ("NFC", "NFD"))
    for one, other in ((written, stored), (stored, written)):
        found = scales_from_csv(f"image,mm_per_px\n{one},0.1\nb.jpg,0.2\n".encode(), "t.csv")
        assert Scales(of_name=found).scale_of(f"/data/{other}", "", DRONE).mm_per_px == 0.1
        assert Scales(of_name=found).unused([f"/data/{other}"], [""]) == ["b.jpg"]


def test_a_name_of_two_scales_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--mm-table t\.csv gives 'a' two scales"):
        scales_from_csv(b"image,mm_per_px\na,1\nb,2\na,3\n", "t.csv")


def test_a_table_of_scales() -> None:
    assert scales_from_csv(b"\xef\xbb\xbfimage,mm_per_px\na.jpg,0.1\npier/b.jpg,2\n", "t.csv") == {
        "a.jpg": 0.1,
        "pier/b.jpg": 2.0,
    }
    assert scales_from_csv(b"group,mm_per_px\nbridge 7,0.1\n", "t.csv") == {"bridge 7": 0.1}
    assert scales_from_csv(b"image,group,mm_per_px\n,bridge 7,0.1\na.jpg,,1\n", "t.csv")["a.jpg"] == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"image,mm\na,1\n", b"image,mm_per_px\na,x\n", b"image,mm_per_px\na,-1\n", b"image,mm_per_px\n,1\n", b"\xff"],
)
def test_another_table_is_an_error_of_one_line(content: bytes) -> None:
    with pytest.raises(ConfigError, match=r"--mm-table t\.csv"):
        scales_from_csv(content, "t.csv")


# ------------------------------------------------------------------------------------------------------ optics


@pytest.mark.parametrize(
    ("metadata", "size", "expected"),
    [
        # Phantom 4 Pro: a sensor of 13.2 mm and 5472 px behind 8.8 mm.
        ({"focal_mm": 8.8, "focal_35mm": 24, "exif_size": (5472, 3648)}, (5472, 3648), 8.8 / 13.2 * 5472),
        ({"focal_px": 3666.7, "exif_size": (5472, 3648)}, (5472, 3648), 3666.7),
        ({"focal_px": 3666.7, "exif_size": (5472, 3648)}, (1368, 912), 3666.7 / 4),
        # EOS 40D: 22.2 mm and 3888 px behind 135 mm, also turned upright.
        ({"focal_mm": 135, "pitch_mm": 25.4 / 4438.356, "exif_size": (3888, 2592)}, (2592, 3888), 135 / 22.2 * 3888),
        # iPhone 12: 4.2 mm as 26 mm; no size in the metadata.
        ({"focal_mm": 4.2, "focal_35mm": 26}, (4032, 3024), 26 / 43.267 * 5040),
        ({"focal_px": 3666.7, "exif_size": (5472, 3648)}, (3648, 3648), NAN),  # cropped
        ({"focal_mm": 135, "pitch_mm": 0.00572, "focal_35mm": 24, "exif_size": (3888, 2592)}, (3888, 2592), NAN),
        ({"focal_mm": 135}, (3888, 2592), NAN),
        ({}, (3888, 2592), NAN),
        ({}, (0, 0), NAN),
    ],
)
def test_the_focal_length_in_pixels(metadata: dict[str, Any], size: tuple[int, int], expected: float) -> None:
    focal_px, sigma = focal_in_px(Metadata(**metadata), *size)
    assert focal_px == pytest.approx(expected, rel=0.01, nan_ok=True)
    assert math.isnan(sigma) == math.isnan(focal_px)


def test_a_film_equivalent_is_less_sure_where_the_shape_of_the_sensor_is_unknown() -> None:
    known, other = (focal_in_px(Metadata(focal_35mm=24), 4000, height)[1] for height in (3000, 2250))
    assert known < 0.02 and other == pytest.approx(0.061, abs=0.001)
