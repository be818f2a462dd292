"""[Ray Data] The actors that score images, and how the work is distributed over a cluster."""

import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from crackvae.config import SEGMENTER_HEADS, ScoringConfig
from crackvae.console import progress, say
from crackvae.cores import thread_count
from crackvae.errors import ManifestError
from crackvae.images.decoded import decode_images
from crackvae.model.heads import LATENT_NORM
from crackvae.model.inference import Scorer, crack_probabilities, score_tiles, threads
from crackvae.model.runtime import runtime_of
from crackvae.model.screen import BFLOAT16, FLOAT32, may_screen, screen_of
from crackvae.model.spec import ModelSpec
from crackvae.monitoring.telemetry import StageClock, StorageRetries, is_on_ray
from crackvae.scoring.findings import Tracing, with_findings
from crackvae.scoring.rows import score_decoded
from crackvae.storage import fileio
from crackvae.storage.archive import file_of
from crackvae.storage.tables import new_run

if TYPE_CHECKING:  # Ray takes a second to import, and a few images are scored without it
    import ray
    from ray.data import Dataset

# Images of one block, and about their bytes: seconds of work for one CPU, so that progress is visible, a worker that
# dies costs little, and all actors end together. A photograph of 20 megapixels is a block of its own.
BLOCK_IMAGES, BLOCK_BYTES = 128, 4_000_000

GPU_DEVICE = "cuda"

# Tiles of one forward pass: on a CPU more bring no speed and cost memory, a GPU needs many to be busy.
CPU_BATCH, GPU_BATCH = 8, 256

# Up to this many images, of no more bytes in total, are scored on threads of the driver: on a machine of a few cores
# Ray takes longer to start than it saves.
FEW_IMAGES, FEW_BYTES = 1_000, 128_000_000


@dataclass(frozen=True)
class ScoringSettings:
    """What turns decoded tiles into rows, apart from the model: sent to every actor.

    Attributes:
        run: name of the run.
        batch: tiles of one forward pass.
        precision: of ScoringConfig.
        extra_heads: heads beside the model's own, each an additional column.
        max_px: larger images are unreadable.
        device: cpu or cuda.
        tracing: how the cracks of flagged images are traced; None: not at all. A model without a segmenter traces none.
    """

    run: str
    batch: int
    precision: str
    extra_heads: tuple[str, ...]
    max_px: int
    device: str = "cpu"
    tracing: Tracing | None = None

    def row_function(self, scorer: Scorer) -> Callable[[pa.Table], pa.Table]:
        """score_decoded() with the network loaded, and tracing, for actors and for this process alike."""
        rows_of, traced = self.stages(scorer)
        return lambda decoded: traced(rows_of(decoded), decoded)

    def stages(self, scorer: Scorer) -> tuple[Callable[[pa.Table], pa.Table], Callable[[pa.Table, pa.Table], pa.Table]]:
        """The two halves of row_function(): rows of decoded images, and rows with findings of rows and images."""
        runtime = runtime_of(scorer.model, self.precision, self.batch, self.device)
        heads, screen = self.extra_heads, None
        if may_screen(scorer, self.precision, heads, self.device):
            screen = screen_of(scorer, self.batch, heads, runtime)
        score = partial(score_tiles, scorer.model, batch=self.batch, extra_heads=heads, runtime=runtime)
        rows_of = partial(
            score_decoded,
            scorer=scorer,
            run=self.run,
            score=score,
            extra_heads=heads,
            screen=screen,
            precision=BFLOAT16 if runtime.precision == "bf16" else FLOAT32,
        )
        tracing = self.tracing
        if not tracing or scorer.model.spec.head not in SEGMENTER_HEADS:
            return rows_of, lambda rows, decoded: rows
        maps = partial(crack_probabilities, scorer.model, batch=self.batch, runtime=runtime)

        def with_traces(rows: pa.Table, decoded: pa.Table) -> pa.Table:
            above = screen.level if screen else -math.inf
            return with_findings(rows, decoded, scorer.calibration, scorer.model.spec, maps, tracing, above)

        return rows_of, with_traces


class TileScorer:
    """Ray Data actor: score decoded tiles. On a GPU cluster, CPU tasks decode for it."""

    def __init__(self, scorer: "ray.ObjectRef[Scorer]", settings: ScoringSettings) -> None:
        import ray

        self.scorer: Scorer = ray.get(scorer)
        self.clock = StageClock()
        self.rows_of = settings.row_function(self.scorer)

    def __call__(self, decoded: pa.Table) -> pa.Table:
        with self.clock.stage("score"):
            return self.rows_of(decoded)


class ImageScorer:
    """Ray Data actor of a CPU cluster: read, decode and score, so that no pixel travels."""

    def __init__(
        self, scorer: "ray.ObjectRef[Scorer]", settings: ScoringSettings, read: Callable[[str], bytes]
    ) -> None:
        torch.set_num_threads(1)  # one actor per core
        self.tiles = TileScorer(scorer, settings)
        self.read, self.max_px, self.retries = read, settings.max_px, StorageRetries()

    def __call__(self, images: pa.Table) -> Iterator[pa.Table]:
        decoded_tables = decode_images(images, self.tiles.scorer.model.spec, self.read, self.max_px)
        for decoded in self.tiles.clock.each("decode", decoded_tables):
            rows = self.tiles(decoded)
            self.retries.emit()
            yield rows


def decode_on_cpu(images: pa.Table, spec: ModelSpec, read: Callable[[str], bytes], max_px: int) -> Iterator[pa.Table]:
    """Ray Data task that feeds a GPU actor: read and decode."""
    retries = StorageRetries()
    yield from decode_images(images, spec, read, max_px)
    retries.emit()


@dataclass(frozen=True)
class Plan:
    """How the work is distributed over a cluster. It changes how fast a table is written, never its content.

    Attributes:
        actors: scoring actors, one per CPU or one per GPU unless --workers says otherwise.
        cpus, gpus: what each of them reserves.
        batch: tiles of one forward pass.
        block_images: images of one task.
    """

    actors: int
    cpus: float
    gpus: int
    batch: int
    block_images: int

    def __str__(self) -> str:
        each = f"{self.gpus} GPU" if self.gpus else f"{self.cpus:g} CPU"
        feed = ", fed by decoding tasks of 1 CPU" if self.gpus else " that read, decode and score"
        sizes = f"batches of {self.batch} tiles, blocks of {self.block_images} images"
        return f"{self.actors} actor(s) of {each}{feed}; {sizes}"


def plan(n_images: int, config: ScoringConfig, resources: dict[str, float], total_bytes: int = 0) -> Plan:
    """The plan for a number of images, of so many bytes together, on a cluster.

    A pool never reserves every CPU: that would leave none for a task of Ray or of another job, which would then wait
    forever. So all actors together leave one CPU unreserved, while the operating system still lets them use all cores.
    """
    cpus = max(1, int(resources.get("CPU", 1)))
    workers = config.workers or max(1, int(resources.get("GPU", 1)) if config.gpu else cpus)
    block_images = min(_block_limit(n_images, total_bytes), max(1, -(-n_images // (2 * workers))))
    actors = min(workers, -(-n_images // block_images))
    share = 1.0 if actors < cpus else max(0.5, int(1e4 * (cpus - 1) / cpus) / 1e4)  # Ray counts in steps of 0.0001
    batch = config.batch or (GPU_BATCH if config.gpu else CPU_BATCH)
    return Plan(actors, 0 if config.gpu else share, int(config.gpu), batch, block_images)


def _block_limit(n_images: int, total_bytes: int) -> int:
    """Most images of a block, given how many there are and their bytes together."""
    return max(1, min(BLOCK_IMAGES, BLOCK_BYTES * n_images // max(1, total_bytes)))


def _total_bytes(images: pa.Table) -> int:
    """Bytes of all files: the frames of a video, and the windows of a large TIFF, are of one."""
    is_inside = pc.match_substring(images["image"], "!/")
    inside = images.filter(is_inside).select(["image", "bytes"]).to_pydict()
    files = dict(zip(map(file_of, inside["image"]), inside["bytes"], strict=True))
    whole = pc.sum(images.filter(pc.invert(is_inside))["bytes"]).as_py() or 0
    return int(whole + sum(files.values()))


def needs_ray(images: pa.Table, config: ScoringConfig) -> bool:
    """Whether a cluster is requested or running, or the images are so many that starting one saves time."""
    is_requested = config.address or config.workers or config.gpu or os.environ.get("RAY_ADDRESS")
    is_large = images.num_rows > FEW_IMAGES or _total_bytes(images) > FEW_BYTES
    return bool(is_requested or is_large or is_on_ray())


def scoring_session(images: pa.Table, config: ScoringConfig) -> AbstractContextManager[None]:
    """The context that score_rows() runs in: a Ray session, or nothing for a few images on this machine."""
    if not needs_ray(images, config):
        return nullcontext()
    from crackvae.session import ray_session

    return ray_session(config)


def score_rows(
    images: pa.Table,
    scorer: Scorer,
    config: ScoringConfig,
    run: str,
    extra_heads: tuple[str, ...] = (),
    tracing: Tracing | None = None,
) -> Generator[pa.Table]:
    """Score images in their order, in a scoring_session(); on Ray, the driver keeps no copy of the listing.

    The result depends on the images and the model alone: not on workers, batch or the order in which actors finish.

    Args:
        images: LISTING_SCHEMA and group.
        extra_heads: heads beside the model's own, each an additional column.
        tracing: as in ScoringSettings; the findings are in FINDINGS_COLUMN.

    Returns:
        a generator of MEASURED_SCHEMA tables with the columns of `extra_heads`; together one row per image.
    """
    heads, max_px = (*extra_heads, LATENT_NORM), config.max_megapixels * 1_000_000
    if needs_ray(images, config):
        import ray

        from crackvae.session import dataset_of, require_resources, tables_of

        work = plan(images.num_rows, config, ray.cluster_resources(), _total_bytes(images))
        require_resources(config.workers or work.actors, gpu=config.gpu)
        say(f"plan: {work}; {_precision_of(scorer, config, heads)}", quiet=config.quiet)
        device = GPU_DEVICE if work.gpus else "cpu"
        settings = ScoringSettings(run, work.batch, config.precision, heads, max_px, device, tracing)
        scored = _score_on_ray(dataset_of(images, work.block_images), scorer, settings, work)
        return tables_of(scored, stage="score", quiet=config.quiet)
    precision = _precision_of(scorer, config, heads)
    say(f"plan: a few images, scored in this process without Ray; {precision}", quiet=config.quiet)
    settings = ScoringSettings(run, config.batch or CPU_BATCH, config.precision, heads, max_px, tracing=tracing)
    return _score_in_process(images, scorer, settings)


def screens(config: ScoringConfig, scorer: Scorer, extra_heads: tuple[str, ...] = ()) -> bool:
    """Whether bfloat16 screens for float32, on workers of this processor."""
    return may_screen(scorer, config.precision, extra_heads, GPU_DEVICE if config.gpu else "cpu")


def _precision_of(scorer: Scorer, config: ScoringConfig, heads: tuple[str, ...]) -> str:
    """The precision of the scores, in words; that of this processor, where workers may have others."""
    if screens(config, scorer, heads):
        return "bfloat16 screens, float32 decides"
    return BFLOAT16 if config.precision == "bf16" else FLOAT32


def _score_in_process(images: pa.Table, scorer: Scorer, settings: ScoringSettings) -> Generator[pa.Table]:
    """What actors do, on the threads of this process; equal to the last bit. This thread decodes."""
    rows_of, spec, read = settings.row_function(scorer), scorer.model.spec, fileio.image_reader()
    n_threads = thread_count()
    # Blocks of whole batches, because a pass is padded to one: enough of them that all threads end together.
    even = math.ceil(images.num_rows / (2 * n_threads * settings.batch)) * settings.batch
    size = min(max(1, even), _block_limit(images.num_rows, _total_bytes(images)))
    blocks = (images.slice(start, size) for start in range(0, images.num_rows, size))
    decoded = (some for block in blocks for some in decode_images(block, spec, read, settings.max_px))
    waiting: deque[Future[pa.Table]] = deque()
    with threads() as pool:
        try:
            for some in decoded:
                waiting.append(pool.submit(rows_of, some))
                if len(waiting) > n_threads:  # decoded images need memory
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _score_on_ray(images: "Dataset", scorer: Scorer, settings: ScoringSettings, work: Plan) -> "Dataset":
    """The stages of scoring, not yet run: one stage of CPU actors, or CPU tasks that feed GPU actors."""
    import ray
    from ray.data import ActorPoolStrategy

    reference, read = ray.put(scorer), fileio.image_reader()
    scorer_class: Any = ImageScorer
    arguments: tuple[Any, ...] = (reference, settings, read)
    if work.gpus:
        decode: Any = partial(decode_on_cpu, spec=scorer.model.spec, read=read, max_px=settings.max_px)
        images = images.map_batches(decode, batch_size=None, batch_format="pyarrow")
        scorer_class, arguments = TileScorer, (reference, settings)
    return images.map_batches(
        scorer_class,
        fn_constructor_args=arguments,
        compute=ActorPoolStrategy(size=work.actors),
        num_cpus=work.cpus,
        num_gpus=work.gpus,
        batch_size=work.block_images if work.gpus else None,  # images, not tiles; with GPUs, Ray accepts no None
        batch_format="pyarrow",
    )


def score_all(images: pa.Table, scorer: Scorer, config: ScoringConfig, extra_heads: tuple[str, ...] = ()) -> pa.Table:
    """MEASURED_SCHEMA rows of a listing, in its order, with a column for each extra head.

    All scores are in float32 unless another precision is asked for: what is made of them depends on every one.
    """
    if config.precision == "auto" and not config.gpu:
        config = replace(config, precision="onnx")
    parts = []
    with scoring_session(images, config), progress("score", images.num_rows, "images", quiet=config.quiet) as bar:
        for rows in score_rows(images, scorer, config, new_run(), extra_heads):
            parts.append(rows)
            bar.update(rows.num_rows)
    scored = pa.concat_tables(parts)
    assert scored["image"].equals(images["image"]), "rows came out in another order than they went in"
    return scored


def require_scored(scored: pa.Table) -> None:
    """Raise ManifestError where an image is missing or has changed: figures on the rest would mean something else."""
    failed = scored.filter(pc.field("status") != "scored").select(["image", "error"]).to_pylist()
    if failed:
        raise ManifestError(
            f"{len(failed)} of {scored.num_rows} images cannot be scored, the first {failed[0]['image']}: "
            f"{failed[0]['error']}. Restore them, or partition again."
        )
