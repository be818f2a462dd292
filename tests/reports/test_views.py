"""The box around the most anomalous region of a picture."""

import numpy as np

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
