"""What a comparison promises and says, with models that are not run."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import small_spec, write_model

from crackvae.config import CompareConfig
from crackvae.images.manifest import load_manifest
from crackvae.model.calibration import Calibration, Sample
from crackvae.model.inference import Scorer
from crackvae.reviewing import compare as comparing
from crackvae.reviewing.compare import compare, compared


def scorer(name: str, n_photographs: int, n_tiles: int) -> Scorer:
    """A model that was calibrated on photographs of so many tiles."""
    tiles = [np.linspace(0, 1, n_tiles) + number for number in range(n_photographs)]
    scores_N = np.array([one.max() for one in tiles], np.float32)
    sample = Sample.of(scores_N, np.arange(n_photographs), tiles)
    made = Calibration(scores_N, n_photographs, "made up", float(scores_N[-5]), name, leaky=False, sample=sample)
    return Scorer(SimpleNamespace(digest=name, spec=SimpleNamespace(manifest="another")), made)  # type: ignore[arg-type]


def test_the_promise_of_each_model_comes_from_the_tiles_that_it_cuts_itself(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion, challenger = scorer("champion", 40, 16), scorer("challenger", 30, 4)
    n_tiles = {"champion": 16, "challenger": 4}

    def scored(images: pa.Table, one: Scorer, *_: Any) -> pa.Table:
        n = images.num_rows
        tiles = [[*[0.5] * n_tiles[one.model.digest], np.nan]] * n  # the last tile shows no surface
        columns = {"image": images["image"], "error": images["error"], "status": ["scored"] * n}
        columns |= {"score": np.full(n, 0.5), "flagged": [False] * n, "rows": [1] * n, "cols": [len(tiles[0])] * n}
        return pa.table(columns | {"tile_scores": pa.array(tiles, pa.list_(pa.float32()))})

    monkeypatch.setattr(comparing, "score_all", scored)
    config = CompareConfig(champion="a", challenger="b", manifest=str(manifest), resamples=100, quiet=True)
    sound = load_manifest(str(manifest)).images("test", "non_crack")
    groups = len(sound["group"].unique())
    own = [one.calibration.promise(sound.num_rows, n_tiles[one.model.digest], groups) for one in (champion, challenger)]
    assert own[0] != own[1]
    for pair in ((champion, challenger), (challenger, champion)):
        assert compared(*pair, config).promise == min(own, key=lambda one: one["high"])


@pytest.mark.usefixtures("in_process")
def test_models_that_were_not_trained_with_the_manifest_are_named_in_one_line(
    manifest: Path, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = write_model(tmp_path / "own", small_spec(manifest=load_manifest(str(manifest)).digest))
    said = []
    for champion in (own, model_dir):
        values = {"manifest": str(manifest), "resamples": 100, "quiet": True}
        compare(CompareConfig(champion=str(champion), challenger=str(model_dir), **values))
        said.append(capsys.readouterr().err)
    rest = "not trained with this manifest: images that were trained on may be among those of val or test, and"
    rest += " would score too low"
    assert said == [f"the challenger was {rest}\n", f"the champion and the challenger were {rest}\n"]
