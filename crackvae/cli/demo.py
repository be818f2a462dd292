"""Demonstration of the verbs on drawn concrete; its figures say nothing about real concrete."""

import os
from pathlib import Path

import pandas as pd

from crackvae.config import ClusterConfig, DemoConfig, EvaluateConfig, PartitionConfig, ScoreConfig, TrainConfig
from crackvae.console import say
from crackvae.evaluation import evaluate
from crackvae.images.manifest import partition
from crackvae.images.synthetic import write_images
from crackvae.results import Result
from crackvae.scoring.verb import score
from crackvae.session import ray_session
from crackvae.storage.fileio import require_writable
from crackvae.storage.tables import new_run
from crackvae.storage.uris import absolute
from crackvae.training.driver import train

# Images of the demo's night: other seeds than those of training, one in ten cracked, and three damaged.
NIGHT_SOUND, NIGHT_CRACKS = 90, 10
# Half of the default batch: a few hundred images give few steps.
DEMO_BATCH = 32


def demo(config: DemoConfig) -> Result:
    """Run partition, train, evaluate and score on drawn images, in a new folder.

    Returns:
        Result with the tables of evaluate and score, and the paths of everything written.
    """
    require_writable(absolute(config.out))
    folder = Path(absolute(config.out), new_run())
    labelled, night, data, model = folder / "images", folder / "night", folder / "data", folder / "model"
    evaluation, scores, manifest = folder / "evaluation", folder / "scores", str(data / "manifest.parquet")
    say(f"draw {config.images} sound and {config.images // 3} cracked images", quiet=config.quiet)
    write_images(labelled, config.images, config.images // 3, seed=config.seed, workers=os.cpu_count() or 1)
    _draw_night(night, config.seed + 1)
    quiet = config.quiet
    with ray_session(ClusterConfig(quiet=quiet)):
        partition(PartitionConfig(images=str(labelled), out=str(data), external=(0, 0), quiet=quiet))
        trained = train(
            TrainConfig(manifest=manifest, model=str(model), epochs=config.epochs, batch=DEMO_BATCH, quiet=quiet)
        )
        evaluated = evaluate(EvaluateConfig(manifest=manifest, model=str(model), out=str(evaluation), quiet=quiet))
        scored = score(
            ScoreConfig(images=(str(night),), model=str(model), out=str(scores), format=("parquet", "csv"), quiet=quiet)
        )
    paths = {
        "drawn images": labelled,
        "manifest": manifest,
        "model": model,
        "evaluation": evaluation,
        "images of one night": night,
        "scores of that night": scores,
    }
    written = pd.DataFrame({"path": [str(path) for path in paths.values()]}, index=list(paths))
    summary = {
        "verb": "demo",
        "folder": str(folder),
        "train": trained.summary,
        "evaluate": evaluated.summary,
        "score": scored.summary,
    }
    return Result(summary, {**evaluated.tables, **scored.tables, "written (drawn images, not concrete)": written})


def _draw_night(night: Path, seed: int) -> None:
    """New images in one folder, as they come from a camera; some of them are damaged."""
    write_images(night, NIGHT_SOUND, NIGHT_CRACKS, seed=seed, workers=1)
    for label in ("non_crack", "crack"):
        for number, path in enumerate(sorted((night / label).iterdir()), start=1):
            path.rename(night / f"{label}-{number:03d}.jpg")
        (night / label).rmdir()
    whole = (night / "non_crack-001.jpg").read_bytes()
    (night / "empty.jpg").write_bytes(b"")
    (night / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (night / "text.jpg").write_text("not an image")
