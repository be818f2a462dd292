"""Thinned curves keep their shape, and tile grids share their colour scale."""

import base64
import io
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from crackvae.reports import charts
from crackvae.reports.charts import curves
from crackvae.reports.charts.place_map import place_map


def test_a_thinned_curve_keeps_both_ends_of_every_visible_step() -> None:
    rng = np.random.default_rng(0)
    alarms_K = np.maximum(np.sort(rng.random(20_000)), 1e-4)
    misses_K = np.maximum(np.round(1 - np.linspace(0, 1, 20_000), 2), 1e-4)
    x, y = curves._thinned(alarms_K, misses_K)
    assert len(x) < 2_000 and (x[0], y[0], x[-1], y[-1]) == (alarms_K[0], misses_K[0], alarms_K[-1], misses_K[-1])
    drawn = np.interp(np.log(alarms_K), np.log(x), y)
    assert np.abs(np.log10(drawn) - np.log10(misses_K)).max() < 1.5 / curves.POINTS_PER_DECADE


def test_the_recall_axis_magnifies_the_range_near_1() -> None:
    curve = (np.array([0, 0.01, 1]), np.array([0, 0.999, 1]))
    svg = curves.roc({"crack": curve}, (0.01, 0.999), n_sound=1000, n_crack=4000, name="roc")
    assert all(f">{recall}</text>" in svg for recall in ("0", "0.9", "0.99", "0.999", "1"))


def test_tile_grids_of_one_page_share_their_scale() -> None:
    def brightest(tile_scores: np.ndarray) -> int:
        svg = charts.tile_grid(tile_scores, threshold=0.5, highest=1.0, name="t")
        tiles = re.search(r'href="data:image/png;base64,([^"]*)"', svg)
        assert tiles
        return int(np.asarray(Image.open(io.BytesIO(base64.b64decode(tiles[1]))).convert("L")).max())

    scores = np.array([[0.05, 0.06], [0.04, 0.05]])
    assert brightest(scores) < 40 and brightest(scores * 15) > 150
    below_zero = np.array([[-1.0, 0.5], [0.1, 0.2]])
    with_blank = np.array([[-1.0, 0.5], [0.1, np.nan]])
    assert brightest(with_blank) == brightest(below_zero), "a tile without a surface leaves the scale as it is"


def test_a_map_has_clusters_a_scale_bar_and_a_north_arrow() -> None:
    lats, lons = [47.0, 47.0, 47.002, float("nan")], [8.0, 8.000001, 8.001, 8.0]
    svg = place_map(lats, lons, [100.0, 50.0, 300.0, 900.0])
    assert "map of 3 findings at 2 places" in svg and ">N<" in svg and re.search(r">\d+ m<", svg)
    assert ">2<" in svg


@pytest.mark.parametrize("places", [[], [(47.0, 8.0)], [(47.0, 8.0)] * 3, [(float("nan"), float("nan"))] * 2])
def test_fewer_than_two_places_make_no_map(places: list[tuple[float, float]]) -> None:
    assert place_map([lat for lat, _ in places], [lon for _, lon in places], [1.0] * len(places)) == ""


@given(
    st.lists(st.tuples(st.floats(-89, 89), st.floats(-180, 180)), min_size=2, max_size=12, unique=True),
)
@settings(max_examples=15, deadline=None)
def test_any_places_make_a_map(places: list[tuple[float, float]]) -> None:
    svg = place_map([lat for lat, _ in places], [lon for _, lon in places], [10.0] * len(places))
    assert svg.startswith("<svg ")
