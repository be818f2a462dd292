"""[Ray Data] list -> subtract -> read -> decode -> score -> write: all that Ray knows about scoring."""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch
from ray.data import ActorPoolStrategy

from crackvae import storage, tables
from crackvae.calibration import false_discovery_rates, fewest_discoveries
from crackvae.compaction import finish_compaction
from crackvae.config import Outcome, ReportConfig, ScoreConfig, ScoringConfig, limit_of, time_of
from crackvae.errors import LimitBroken, StorageError
from crackvae.groups import with_groups
from crackvae.histograms import load_reference
from crackvae.listing import list_images
from crackvae.lock import locked
from crackvae.memory import give_back
from crackvae.model import ModelSpec
from crackvae.progress import progress, say
from crackvae.resume import FINISHED_COLUMNS, still_to_score
from crackvae.runtime import runtime_of
from crackvae.scoring import LATENT_NORM, Scorer, decode_images, load_scorer, one_thread, score_decoded, score_tiles
from crackvae.session import dataset_of, ray_session, require_resources, tables_of
from crackvae.tables import new_run as new_run
from crackvae.watching import RunHistograms, RunMetrics, StageClock, StorageRetries

# Images of one block: about a second of work of one CPU, so that progress moves and two actors end together.
BLOCK_IMAGES = 128
# A part is written when it has this many rows, this many bytes (those of photographs are many: a score a tile), or is
# this old [s]: a killed run loses a minute of work at most.
PART_ROWS, PART_BYTES, PART_AGE_S = 25_000, 64_000_000, 60.0
GPU_DEVICE = "cuda"
# Tiles of one pass: on a CPU more gain nothing and take memory, a GPU needs many to be busy.
CPU_BATCH, GPU_BATCH = 8, 256
# So few images, of no more bytes together, are scored by the driver on a machine of its own: Ray takes longer to start.
FEW_IMAGES, FEW_BYTES = 1_000, 32_000_000
# Rows of the table of most suspicious images that is printed.
N_WORST = 10


@storage.with_s3_endpoint
def score(config: ScoreConfig) -> Outcome:
    """Score every image below a place that this model has not finished, and add the rows to the table in `out`.

    Returns:
        Outcome with the table `most suspicious` of this run.

    Raises:
        LimitBroken: too many images were unreadable or unreachable; the table is complete all the same.
        FolderInUse: another run writes into `out`.
        StorageError, ArchiveError, ModelError, ManifestError, ClusterError: with the mend.
    """
    started = time.perf_counter()
    out = storage.absolute(config.out)
    scorer = load_scorer(config.model)
    found = list_images(config.images, time_of(config.since), config.prefix)
    listed = found.images.num_rows
    if not listed and not found.passed_over:
        raise StorageError(
            f"{found.place or found.root} holds no images ({found.skipped} other files): check --images."
        )
    storage.require_writable(out)
    run = new_run(tables.list_parts(out))
    with locked(out, run, quiet=config.quiet) as lock:
        finish_compaction(out)
        counted = _CountedThresholds(scorer)
        todo = with_groups(found, config.group_by)
        notes = {"images": found.place or found.root, "skipped_files": found.skipped, "passed_over": found.passed_over}
        names = found.images["image"] if config.max_false_discovery else None
        del found  # a million rows of it
        todo = still_to_score(todo, counted.finished(out), scorer.model.digest)
        n_todo = todo.num_rows
        say(f"{listed} images listed, {n_todo} to score", quiet=config.quiet)
        table = _RunTable(out, run)
        if n_todo:
            histograms = RunHistograms(out, run, load_reference(storage.absolute(config.model), scorer.model.digest))
            with (
                scoring_session(todo, config),
                progress("score", n_todo, "images", quiet=config.quiet) as bar,
                histograms,
                table,
            ):
                metrics = RunMetrics(n_todo)
                scored = score_rows(todo, scorer, config, run)
                del todo
                with closing(scored):  # when interrupted too, while there is a Ray to tell
                    for rows in scored:
                        lock.check()
                        histograms.add(rows)
                        metrics.add(rows)
                        table.add(rows.select(tables.SCORES_SCHEMA.names))
                        bar.update(rows.num_rows)
        assert table.n == n_todo, f"{n_todo} images went in, {table.n} rows came out"
        csv = _write_csv(out) if "csv" in config.format else []
        if names is not None:
            notes |= _write_discoveries(out, run, names, scorer, config.max_false_discovery or 0)
        summary = {
            "verb": "score",
            "run": run,
            "out": out,
            "listed": listed,
            "finished_before": listed - n_todo,
            **table.counts(),
            **notes,
            "rows_with_an_older_threshold": counted.older,
            **_model_notes(scorer),
            "promised_false_alarm_rate": scorer.calibration.promise(max(1, table.statuses["scored"])),
            "model_dir": storage.absolute(config.model),
            "csv": csv,
            "report": _page_place(out, run, config),
            **_rate(table.n, started),
        }
        storage.write_bytes(storage.join(out, f"_summary-{run}.json"), json.dumps(summary, indent=1).encode())
    if not n_todo:
        say(f"nothing to score: this model has finished all {listed} images", quiet=config.quiet)
    if summary["report"]:
        give_back()  # what scoring a million images held, before their page needs as much
        _write_page(summary["report"], out, run, config)
    outcome = Outcome(summary, {f"most suspicious{' (leaky model)' if scorer.model.spec.leaky else ''}": table.worst})
    _check_limits(config, table, listed, outcome)
    return outcome


def _check_limits(config: ScoreConfig, table: "_RunTable", listed: int, outcome: Outcome) -> None:
    for status, limit in (("unreadable", config.max_unreadable), ("unreachable", config.max_unreachable)):
        if table.statuses[status] > limit_of(limit, listed):
            raise LimitBroken(
                f"{table.statuses[status]} of {listed} images are {status}, more than --max-{status} {limit}: "
                f"see the column error of {table.out}. All rows are written.",
                outcome,
            )


def _write_discoveries(out: str, run: str, names: pa.ChunkedArray, scorer: Scorer, level: float) -> dict[str, Any]:
    """Control the false discoveries of this night: all images listed now, in whatever run they were scored.

    Writes `_discoveries-<run>.csv`, most suspicious first. It is a last step over the finished table and changes
    none of its rows: what is flagged there goes by the threshold, one image at a time.
    """
    columns = ["image", "group", "score", "p_value", "worst_x", "worst_y", "status", "model"]
    rows = tables.read_scores(out, columns)
    is_tonight = pc.is_in(rows["image"], value_set=names.combine_chunks())
    ours = pc.and_(pc.equal(rows["model"], scorer.model.digest), pc.equal(rows["status"], "scored"))
    rows = rows.filter(pc.and_(is_tonight, ours))
    rates_N = false_discovery_rates(rows["p_value"].to_numpy())
    rows = rows.append_column("false_discovery_rate", pa.array(rates_N)).drop_columns(["status", "model"])
    found = rows.filter(pa.array(rates_N <= level)).sort_by([("p_value", "ascending"), ("score", "descending")])
    place = storage.join(out, f"_discoveries-{run}.csv")
    storage.write_bytes(place, tables.csv_bytes(found))
    fewest = fewest_discoveries(rows.num_rows, len(scorer.calibration.scores_N), level)
    return {"discoveries": found.num_rows, "discoveries_file": place, "fewest_discoveries_possible": fewest}


def _page_place(out: str, run: str, config: ScoreConfig) -> str:
    """Where the page of this run belongs; "" where none is wanted or there is nothing to show."""
    from crackvae import report  # here, because workers import this module and draw no charts

    is_wanted = not config.no_report and report.has_rows(out, run)
    return storage.join(out, report.page_name(run)) if is_wanted else ""


def _write_page(page: str, out: str, run: str, config: ScoreConfig) -> None:
    from crackvae import report

    with progress("report", 1, "page", quiet=config.quiet) as bar:
        report.report(ReportConfig(scores=out, run=run, out=page, model=config.model, quiet=config.quiet))
        bar.update(1)


def _model_notes(scorer: Scorer) -> dict[str, Any]:
    return {
        "model": scorer.model.digest,
        "leaky": scorer.model.spec.leaky,
        "threshold": scorer.calibration.threshold,
        "level": scorer.calibration.level,
    }


def _rate(n: int, started: float) -> dict[str, float]:
    seconds = time.perf_counter() - started
    return {"seconds": round(seconds, 1), "images_per_s": round(n / seconds, 1)}


class _CountedThresholds:
    """Reads what is finished part by part, and counts rows of this model with another threshold than it has now."""

    def __init__(self, scorer: Scorer) -> None:
        self.older = 0
        self._model, self._threshold = scorer.model.digest, np.float32(scorer.calibration.threshold)

    def finished(self, out: str) -> Iterator[pa.Table]:
        """What the table holds of this model, as still_to_score() takes it."""
        places = [place for parts in tables.list_parts(out).values() for place in parts]
        for rows in tables.each_part(places, FINISHED_COLUMNS):
            rows = rows.filter(pc.field("model") == self._model)
            self.older += pc.sum(pc.not_equal(rows["threshold"], self._threshold)).as_py() or 0
            yield rows


class _RunTable:
    """Rows of one run on their way into parts. Leaving the block writes what is there, after an error too."""

    def __init__(self, out: str, run: str) -> None:
        self.out, self.run = out, run
        self.n = self.flagged = self.parts = 0
        self.statuses: Counter[str] = Counter()
        self._worst = tables.SCORES_SCHEMA.empty_table().select(["image", "score", "p_value", "flagged"])
        self._waiting: list[pa.Table] = []
        self._rows, self._bytes, self._since = 0, 0, time.monotonic()

    def __enter__(self) -> "_RunTable":
        return self

    def __exit__(self, *_: object) -> None:
        self._write()

    def add(self, rows: pa.Table) -> None:
        self.n += rows.num_rows
        self.statuses.update({one["values"]: one["counts"] for one in rows["status"].value_counts().to_pylist()})
        self.flagged += pc.sum(rows["flagged"]).as_py()
        scored = rows.filter(pc.field("status") == "scored").select(self._worst.column_names)
        both = pa.concat_tables([self._worst, scored])
        self._worst = both.take(
            pc.select_k_unstable(both, N_WORST, sort_keys=[("score", "descending"), ("image", "ascending")])
        )
        self._waiting.append(rows)
        self._rows += rows.num_rows
        self._bytes += rows.nbytes
        is_old = time.monotonic() - self._since > PART_AGE_S
        if self._rows >= PART_ROWS or self._bytes >= PART_BYTES or is_old:
            self._write()

    @property
    def worst(self) -> pd.DataFrame:
        """The most suspicious images of this run."""
        return pd.DataFrame(self._worst.to_pandas())

    def counts(self) -> dict[str, int]:
        """Images of this run by status, and how many are flagged."""
        return {name: self.statuses[name] for name in ("scored", "unreadable", "unreachable")} | {
            "flagged": self.flagged
        }

    def _write(self) -> None:
        if self._waiting:
            tables.write_part(self.out, pa.concat_tables(self._waiting), self.run, self.parts)
            self.parts += 1
        self._waiting = []
        self._rows, self._bytes, self._since = 0, 0, time.monotonic()


def _write_csv(out: str) -> list[str]:
    """A CSV of every run whose parts have none yet: also of a run that was killed before it could write its own."""
    have = set(storage.list_files(out))
    written = []
    for run, places in tables.list_parts(out).items():
        if tables.csv_name(run) not in have:
            written.append(storage.join(out, tables.csv_name(run)))
            tables.write_csv(written[-1], places, tables.CSV_COLUMNS)
    return written


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
            self.retries.tell()
            yield rows


def decode_on_cpu(images: pa.Table, spec: ModelSpec, read: Callable[[str], bytes]) -> Iterator[pa.Table]:
    """Ray Data task before a GPU: read and decode."""
    retries = StorageRetries()
    yield from decode_images(images, spec, read)
    retries.tell()


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
        for decoded in decode_images(images.slice(start, BLOCK_IMAGES), scorer.model.spec, storage.image_reader()):
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
    read = storage.image_reader()
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
