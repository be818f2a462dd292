"""Demonstration of the verbs on drawn concrete; its figures say nothing about real concrete."""

from pathlib import Path

import pandas as pd

from crackvae.config import ClusterConfig, DemoConfig, EvaluateConfig, PartitionConfig, ScoreConfig, TrainConfig
from crackvae.console import say
from crackvae.cores import usable_cores
from crackvae.images.drawing import SIDE_PX
from crackvae.images.synthetic import write_images
from crackvae.results import Result
from crackvae.scoring.verb import score
from crackvae.storage.fileio import require_writable
from crackvae.storage.filesystems import with_s3_endpoint
from crackvae.storage.tables import new_run
from crackvae.storage.uris import absolute

# Photographs of the short demo, and their side [px]: 4 megapixels, which two cores score in some seconds each.
SOUND_PHOTOGRAPHS, CRACKED_PHOTOGRAPHS, PHOTOGRAPH_PX = 2, 2, 2048
# Images of the night of the long demo: other seeds than those of training, one in ten cracked, and three damaged.
NIGHT_SOUND, NIGHT_CRACKS = 90, 10
# Half of the default batch of the published recipe: a few hundred images give few steps.
DEMO_BATCH = 32


@with_s3_endpoint
def demo(config: DemoConfig) -> Result:
    """Score drawn photographs with the built-in model, or with config.train run every verb, in a new folder.

    Returns:
        Result with the tables of the verbs, and the paths of everything written.
    """
    require_writable(absolute(config.out))
    folder = Path(absolute(config.out), new_run())
    return _every_verb(config, folder) if config.train else _score_photographs(config, folder)


def _score_photographs(config: DemoConfig, folder: Path) -> Result:
    n = SOUND_PHOTOGRAPHS + CRACKED_PHOTOGRAPHS
    say(f"draw {n} photographs of {PHOTOGRAPH_PX} x {PHOTOGRAPH_PX} px", quiet=config.quiet)
    photographs, scores = folder / "photographs", folder / "scores"
    _draw_flat(photographs, SOUND_PHOTOGRAPHS, CRACKED_PHOTOGRAPHS, config.seed, PHOTOGRAPH_PX)
    scored = score(ScoreConfig(images=(str(photographs),), model=config.model, out=str(scores), quiet=config.quiet))
    written = {"photographs": photographs, "scores": scores}
    return _result(folder, {"score": scored}, written)


def _result(folder: Path, results: dict[str, Result], written: dict[str, Path]) -> Result:
    tables = {title: table for one in results.values() for title, table in one.tables.items()}
    paths = pd.DataFrame({"path": [str(path) for path in written.values()]}, index=list(written))
    summary = {"verb": "demo", "folder": str(folder)} | {name: one.summary for name, one in results.items()}
    return Result(summary, tables | {"written (drawn images, not concrete)": paths})


def _every_verb(config: DemoConfig, folder: Path) -> Result:
    """Partition, train, evaluate and score."""
    from crackvae.evaluation import evaluate  # imported here: the short demo needs neither these nor Ray
    from crackvae.images.manifest import partition
    from crackvae.session import ray_session
    from crackvae.training.driver import train

    labelled, night, data, model = folder / "images", folder / "night", folder / "data", folder / "model"
    evaluation, scores, manifest = folder / "evaluation", folder / "scores", str(data / "manifest.parquet")
    say(f"draw {config.images} sound and {config.images // 3} cracked images", quiet=config.quiet)
    write_images(labelled, config.images, config.images // 3, seed=config.seed, workers=usable_cores())
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
    written = {
        "drawn images": labelled,
        "manifest": Path(manifest),
        "model": model,
        "evaluation": evaluation,
        "images of one night": night,
        "scores of that night": scores,
    }
    return _result(folder, {"train": trained, "evaluate": evaluated, "score": scored}, written)


def _draw_night(night: Path, seed: int) -> None:
    """New images in one folder, as they come from a camera; some of them are damaged."""
    _draw_flat(night, NIGHT_SOUND, NIGHT_CRACKS, seed)
    whole = (night / "non_crack-001.jpg").read_bytes()
    (night / "empty.jpg").write_bytes(b"")
    (night / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (night / "text.jpg").write_text("not an image")


def _draw_flat(folder: Path, sound: int, cracked: int, seed: int, side_px: int = SIDE_PX) -> None:
    """Images of both labels in one folder."""
    write_images(folder, sound, cracked, seed=seed, side_px=side_px, workers=1)
    for label in ("non_crack", "crack"):
        for number, path in enumerate(sorted((folder / label).iterdir()), start=1):
            path.rename(folder / f"{label}-{number:03d}.jpg")
        (folder / label).rmdir()
