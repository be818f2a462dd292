"""Every verb once on drawn concrete: shows how it goes, and says nothing of real concrete."""

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

# Images of the demo's night: other seeds than those of training, one in ten cracked, and three that are broken.
NIGHT_SOUND, NIGHT_CRACKS = 90, 10
# Half of the usual batch: a few hundred images make few steps.
DEMO_BATCH = 32


def demo(config: DemoConfig) -> Result:
    """Run every verb once on drawn images, in a new folder.

    Returns:
        Result with the tables of evaluation and score, and the places of all that was written.
    """
    require_writable(absolute(config.out))
    folder = Path(absolute(config.out), new_run())
    labelled, night, data, model = folder / "images", folder / "night", folder / "data", folder / "model"
    say(f"draw {config.images} sound and {config.images // 3} cracked images", quiet=config.quiet)
    write_images(labelled, config.images, config.images // 3, seed=config.seed, workers=os.cpu_count() or 1)
    _draw_night(night, config.seed + 1)
    with ray_session(ClusterConfig(quiet=config.quiet)):
        quiet = config.quiet
        partition(PartitionConfig(images=str(labelled), out=str(data), external=(0, 0), quiet=quiet))
        manifest = str(data / "manifest.parquet")
        trained = train(
            TrainConfig(manifest=manifest, model=str(model), epochs=config.epochs, batch=DEMO_BATCH, quiet=quiet)
        )
        judged = evaluate(
            EvaluateConfig(manifest=manifest, model=str(model), out=str(folder / "evaluation"), quiet=quiet)
        )
        scored = score(
            ScoreConfig(
                images=str(night), model=str(model), out=str(folder / "scores"), format=("parquet", "csv"), quiet=quiet
            )
        )
    places = {
        "drawn images": labelled,
        "manifest": manifest,
        "model": model,
        "evaluation": folder / "evaluation",
        "images of one night": night,
        "scores of that night": folder / "scores",
    }
    where = pd.DataFrame({"place": [str(place) for place in places.values()]}, index=list(places))
    summary = {
        "verb": "demo",
        "folder": str(folder),
        "train": trained.summary,
        "evaluate": judged.summary,
        "score": scored.summary,
    }
    return Result(summary, {**judged.tables, **scored.tables, "written (drawn images, not concrete)": where})


def _draw_night(night: Path, seed: int) -> None:
    """New images as they come from a camera: mixed up, and some of them broken."""
    write_images(night, NIGHT_SOUND, NIGHT_CRACKS, seed=seed, workers=1)
    for label in ("non_crack", "crack"):
        for number, path in enumerate(sorted((night / label).iterdir()), start=1):
            path.rename(night / f"{label}-{number:03d}.jpg")
        (night / label).rmdir()
    whole = (night / "non_crack-001.jpg").read_bytes()
    (night / "empty.jpg").write_bytes(b"")
    (night / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (night / "text.jpg").write_text("not an image")
