"""The box around the most anomalous region of a picture, and the middle of its worst tile."""

import numpy as np
from conftest import small_spec

from crackvae.reports.night_page.known import _middle_of_worst_tile
from crackvae.reports.views import View, _worst_region, box_of


def test_the_box_surrounds_a_thin_crack_and_not_a_wide_faint_stain() -> None:
    anomaly_HW = np.zeros((200, 200), np.float32)
    anomaly_HW[:90, :90] = 0.1
    anomaly_HW[150:152, 120:180] = 0.5
    box = _worst_region(anomaly_HW)
    assert box.left < 0.75 < box.left + box.width and box.top < 0.755 < box.top + box.height


def test_a_map_with_nothing_in_it_has_no_box() -> None:
    anomaly_hw = np.full((50, 50), 0.001, np.float32)
    view = View(np.zeros((50, 50), np.uint8), None, anomaly_hw, _worst_region(anomaly_hw))
    assert box_of(view, vmax=0.3) is None and box_of(view, vmax=0.002) == view.box


def test_the_middle_of_the_worst_tile_of_a_narrow_photograph_is_that_of_a_tile_as_wide_as_it() -> None:
    row = {"width": 40, "height": 300, "rows": 9, "cols": 1, "worst_x": 0, "worst_y": 90}
    assert _middle_of_worst_tile(row, small_spec()) == (20, 110)
    wide = {"width": 300, "height": 200, "rows": 4, "cols": 6, "worst_x": 48, "worst_y": 96}
    assert _middle_of_worst_tile(wide, small_spec()) == (80, 128)
    assert _middle_of_worst_tile(wide, None) == (48, 96), "the size of a tile is not known"
    whole = {"width": 90, "height": 60, "rows": 1, "cols": 1, "worst_x": 0, "worst_y": 0}
    assert _middle_of_worst_tile(whole, small_spec()) == _middle_of_worst_tile(whole, None) == (45, 30)
