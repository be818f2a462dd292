"""Frames of a video and windows of a large TIFF in the scores table: each one row, once, over several runs."""

from pathlib import Path

import av
import numpy as np
import tifffile

from crackvae.config import ScoreConfig
from crackvae.images.decoding import windows
from crackvae.images.synthetic import draw_image
from crackvae.scoring.verb import score_images
from crackvae.storage.tables import read_scores


def test_frames_and_windows_are_rows_that_a_rerun_does_not_repeat(model_dir: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(windows, "MIN_BYTES", 1_000)
    monkeypatch.setattr(windows, "WINDOW_PX", 700)
    monkeypatch.setattr(windows, "OVERLAP_PX", 100)
    folder, out = tmp_path / "images", tmp_path / "scores"
    folder.mkdir()
    pixels_HW3 = draw_image(0, 1, True, 256)[0]
    with av.open(str(folder / "clip.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 256, 256, "yuv420p"
        for _ in range(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels_HW3, format="rgb24")))
        container.mux(stream.encode())
    tifffile.imwrite(folder / "ortho.tif", np.tile(pixels_HW3[..., 0], (4, 5)), tile=(256, 256))
    config = ScoreConfig(
        images=(str(folder),), model=str(model_dir), out=str(out), every=1.0, max_megapixels=1, quiet=True
    )
    run = score_images(config)
    table = read_scores(str(out), ["image", "status", "width", "height"])
    assert sorted(name.rpartition("!/")[2] for name in table["image"].to_pylist()) == [
        *("t=0000.000", "t=0001.000"),
        *(f"x={x},y={y},w=700,h=700" for x in (0, 580) for y in (0, 324)),
    ]
    assert set(table["status"].to_pylist()) == {"scored"} and run.summary.listed == 6
    assert score_images(config).summary.finished_before == 6
