"""[Ray Data] The actors that score images, and how the work is spread over a cluster."""

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch
from ray.data import ActorPoolStrategy

from crackvae.config import ScoringConfig
from crackvae.console import progress, say
from crackvae.errors import ManifestError
from crackvae.images.decoded import decode_images
from crackvae.model.heads import LATENT_NORM
from crackvae.model.inference import Scorer, one_thread, score_tiles
from crackvae.model.network import ModelSpec
from crackvae.model.runtime import runtime_of
from crackvae.monitoring.telemetry import StageClock, StorageRetries
from crackvae.scoring.rows import score_decoded
from crackvae.session import dataset_of, ray_session, require_resources, tables_of
from crackvae.storage import fileio
from crackvae.storage.tables import new_run

# Images of one block: about a second of work of one CPU, so that progress moves and two actors end together.
BLOCK_IMAGES = 128


GPU_DEVICE = "cuda"


# Tiles of one pass: on a CPU more gain nothing and take memory, a GPU needs many to be busy.
CPU_BATCH, GPU_BATCH = 8, 256


# So few images, of no more bytes together, are scored by the driver on a machine of its own: Ray takes longer to start.
FEW_IMAGES, FEW_BYTES = 1_000, 32_000_000


def _scoring(
    scorer: Scorer, run: str, batch: int, precision: str, others: tuple[str, ...], device: str = "cpu"
) -> Callable[[pa.Table], pa.Table]:
    """score_decoded() with its network ready to run: the same for actors and for this process."""
    runtime = runtime_of(scorer.model, precision, batch, device)
    score = partial(score_tiles, scorer.model, batch=batch, others=others, runtime=runtime)
    return partial(score_decoded, scorer=scorer, run=run, score=score, others=others)


class ImageScorer:
    """Ray Data actor of a CPU cluster: read, decode and score, so that no pixel travels."""

    def __init__(
        self,
        scorer: "ray.ObjectRef[Scorer]",
        run: str,
        batch: int,
        precision: str,
        others: tuple[str, ...],
        read: Callable[[str], bytes],
    ) -> None:
        torch.set_num_threads(1)  # one actor a core
        self.clock, self.retries = StageClock(), StorageRetries()
        self.scorer: Scorer = ray.get(scorer)
        self.read = read
        self.score_decoded = _scoring(self.scorer, run, batch, precision, others)

    def __call__(self, images: pa.Table) -> Iterator[pa.Table]:
        for decoded in self.clock.each("decode", decode_images(images, self.scorer.model.spec, self.read)):
            with self.clock.stage("score"):
                rows = self.score_decoded(decoded)
            self.retries.emit()
            yield rows


def decode_on_cpu(images: pa.Table, spec: ModelSpec, read: Callable[[str], bytes]) -> Iterator[pa.Table]:
    """Ray Data task before a GPU: read and decode."""
    retries = StorageRetries()
    yield from decode_images(images, spec, read)
    retries.emit()


class TileScorer:
    """Ray Data actor with a GPU: score what CPU tasks have decoded."""

    def __init__(
        self,
        scorer: "ray.ObjectRef[Scorer]",
        run: str,
        batch: int,
        precision: str,
        others: tuple[str, ...],
        device: str,
    ) -> None:
        self.scorer: Scorer = ray.get(scorer)
        self.clock = StageClock()
        self.score_decoded = _scoring(self.scorer, run, batch, precision, others, device)

    def __call__(self, decoded: pa.Table) -> pa.Table:
        with self.clock.stage("score"):
            return self.score_decoded(decoded)


@dataclass(frozen=True)
class Plan:
    """How the work is laid over a cluster. It changes how fast a table is made, never what is in it.

    Attributes:
        actors: scoring actors, one a CPU or one a GPU unless --workers says otherwise.
        cpus, gpus: what each of them reserves.
        batch: tiles of one pass through the network.
        block_images: images of one task.
    """

    actors: int
    cpus: float
    gpus: int
    batch: int
    block_images: int

    def __str__(self) -> str:
        what = f"{self.gpus} GPU" if self.gpus else f"{self.cpus:g} CPU"
        feed = ", fed by decoding tasks of 1 CPU" if self.gpus else " that read, decode and score"
        sizes = f"batches of {self.batch} tiles, blocks of {self.block_images} images"
        return f"{self.actors} actor(s) of {what}{feed}; {sizes}"


def plan(n_images: int, config: ScoringConfig, resources: dict[str, float]) -> Plan:
    """The plan for some images on a cluster.

    A pool never reserves every CPU: one actor a CPU would leave none for a task, of Ray's own or of another job, which
    then waits for ever. So all actors together leave one CPU free on paper; on the cores they share all of them.
    """
    cpus = max(1, int(resources.get("CPU", 1)))
    workers = config.workers or max(1, int(resources.get("GPU", 1)) if config.gpu else cpus)
    block_images = max(1, min(BLOCK_IMAGES, -(-n_images // (2 * workers))))
    actors = min(workers, -(-n_images // block_images))
    share = 1.0 if actors < cpus else max(0.5, int(1e4 * (cpus - 1) / cpus) / 1e4)  # Ray counts in steps of 0.0001
    batch = config.batch or (GPU_BATCH if config.gpu else CPU_BATCH)
    return Plan(actors, 0 if config.gpu else share, int(config.gpu), batch, block_images)


def needs_ray(images: pa.Table, config: ScoringConfig) -> bool:
    """Whether a cluster is asked for, or there is one, or the images are too many to be scored sooner without."""
    is_asked_for = config.address or config.workers or config.gpu or os.environ.get("RAY_ADDRESS")
    is_much = images.num_rows > FEW_IMAGES or (pc.sum(images["bytes"]).as_py() or 0) > FEW_BYTES
    return bool(is_asked_for or is_much or ray.is_initialized())


def scoring_session(images: pa.Table, config: ScoringConfig) -> AbstractContextManager[None]:
    """What score_rows() needs around it: a Ray session, or nothing for a few images on this machine alone."""
    return ray_session(config) if needs_ray(images, config) else nullcontext()


def _score_here(
    images: pa.Table, scorer: Scorer, config: ScoringConfig, run: str, others: tuple[str, ...]
) -> Iterator[pa.Table]:
    """As an actor scores, in this process; equal to the last bit."""
    say("plan: a few images, scored in this process without Ray", quiet=config.quiet)
    score = _scoring(scorer, run, config.batch or CPU_BATCH, config.precision, others)
    for start in range(0, images.num_rows, BLOCK_IMAGES):
        for decoded in decode_images(images.slice(start, BLOCK_IMAGES), scorer.model.spec, fileio.image_reader()):
            with one_thread():
                rows = score(decoded)
            yield rows


def score_rows(
    images: pa.Table, scorer: Scorer, config: ScoringConfig, run: str, others: tuple[str, ...] = ()
) -> Generator[pa.Table]:
    """Score images in their order, in a scoring_session().

    The result depends on the images and the model alone: not on workers, batch or the order in which they finish.

    Args:
        images: LISTING_SCHEMA and group.
        others: heads beside the model's own, each a column more.

    Yields:
        MEASURED_SCHEMA tables, and the columns of `others`; together one row an image.
    """
    others = (*others, LATENT_NORM)
    if not needs_ray(images, config):
        yield from _score_here(images, scorer, config, run, others)
        return
    how = plan(images.num_rows, config, ray.cluster_resources())
    require_resources(config.workers or how.actors, gpu=config.gpu)
    say(f"plan: {how}", quiet=config.quiet)
    dataset = dataset_of(images, how.block_images)
    del images
    read = fileio.image_reader()
    scorer_actor: Any = TileScorer if config.gpu else ImageScorer
    place: Any = GPU_DEVICE if config.gpu else read
    if config.gpu:
        decode: Any = partial(decode_on_cpu, spec=scorer.model.spec, read=read)
        dataset = dataset.map_batches(decode, batch_size=None, batch_format="pyarrow")
    yield from tables_of(
        dataset.map_batches(
            scorer_actor,
            fn_constructor_args=(ray.put(scorer), run, how.batch, config.precision, others, place),
            compute=ActorPoolStrategy(size=how.actors),
            num_cpus=how.cpus,
            num_gpus=how.gpus,
            batch_size=how.batch if config.gpu else None,  # Ray takes no None with GPUs
            batch_format="pyarrow",
        ),
        stage="score",
        quiet=config.quiet,
    )


def score_all(images: pa.Table, scorer: Scorer, config: ScoringConfig, others: tuple[str, ...] = ()) -> pa.Table:
    """MEASURED_SCHEMA rows of a listing, in its order, with a column for each of the other heads."""
    parts = []
    with scoring_session(images, config), progress("score", images.num_rows, "images", quiet=config.quiet) as bar:
        for rows in score_rows(images, scorer, config, new_run(), others):
            parts.append(rows)
            bar.update(rows.num_rows)
    scored = pa.concat_tables(parts)
    assert scored["image"].equals(images["image"]), "rows came out in another order than they went in"
    return scored


def require_scored(scored: pa.Table) -> None:
    """Raise ManifestError where an image has gone or changed: figures on the rest would mean something else."""
    failed = scored.filter(pc.field("status") != "scored").select(["image", "error"]).to_pylist()
    if failed:
        raise ManifestError(
            f"{len(failed)} of {scored.num_rows} images cannot be scored, the first {failed[0]['image']}: "
            f"{failed[0]['error']}. Bring them back, or partition again."
        )
