"""[Ray Data] list -> subtract -> read -> decode -> score -> write: all that Ray knows about scoring."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
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
from crackvae.config import Outcome, ReportConfig, ScoreConfig, ScoringConfig, limit_of
from crackvae.errors import LimitBroken, StorageError
from crackvae.manifest import still_to_score, with_groups
from crackvae.progress import progress, say
from crackvae.scoring import Scorer, decode_images, load_scorer, score_decoded, score_tiles
from crackvae.session import dataset_of, ray_session, require_resources, tables_of

# Images of one block: about a second of work of one CPU, so that progress moves and two actors end together.
BLOCK_IMAGES = 128
# A part is written when it has this many rows or is this old [s]: a killed run loses a minute of work at most.
PART_ROWS, PART_AGE_S = 100_000, 60.0
GPU_DEVICE = "cuda"
# Rows of the table of most suspicious images that is printed.
N_WORST = 10


def score(config: ScoreConfig) -> Outcome:
    """Score every image below a place that this model has not finished, and add the rows to the table in `out`.

    Returns:
        Outcome with the table `most suspicious` of this run.

    Raises:
        LimitBroken: too many images were unreadable or unreachable; the table is complete all the same.
        StorageError, ArchiveError, ModelError, ManifestError, ClusterError: with the mend.
    """
    started = time.perf_counter()
    run = new_run()
    out = storage.absolute(config.out)
    scorer = load_scorer(config.model)
    listing = storage.list_images(config.images)
    if not listing.images.num_rows:
        raise StorageError(f"{listing.root} holds no images ({listing.skipped} other files): check --images.")
    images = with_groups(listing, config.group_by)
    storage.require_writable(out)
    done = _finished(out, scorer)
    todo = still_to_score(images, done, scorer.model.digest)
    older = int(pc.sum(pc.not_equal(done["threshold"], np.float32(scorer.calibration.threshold))).as_py() or 0)
    say(f"{images.num_rows} images listed, {todo.num_rows} to score", quiet=config.quiet)
    table = _RunTable(out, run)
    if todo.num_rows:
        with ray_session(config), progress("score", todo.num_rows, "images", quiet=config.quiet) as bar, table:
            for rows in score_rows(todo, scorer, config, run):
                table.add(rows)
                bar.update(rows.num_rows)
    assert table.n == todo.num_rows, f"{todo.num_rows} images went in, {table.n} rows came out"
    csv = _write_csv(out) if "csv" in config.format else []
    summary = {
        "verb": "score",
        "run": run,
        "images": listing.root,
        "out": out,
        "listed": images.num_rows,
        "finished_before": images.num_rows - todo.num_rows,
        **table.counts(),
        "skipped_files": listing.skipped,
        "rows_with_an_older_threshold": older,
        **_model_notes(scorer),
        "model_dir": storage.absolute(config.model),
        "csv": csv,
        **_rate(table.n, started),
    }
    storage.write_bytes(storage.join(out, f"_summary-{run}.json"), json.dumps(summary, indent=1).encode())
    summary |= {"report": "" if config.no_report else _write_page(out, run, config)}
    outcome = Outcome(summary, {f"most suspicious{' (leaky model)' if scorer.model.spec.leaky else ''}": table.worst})
    if not todo.num_rows:
        say(f"nothing to score: this model has finished all {images.num_rows} images", quiet=config.quiet)
    for status, limit in (("unreadable", config.max_unreadable), ("unreachable", config.max_unreachable)):
        if table.statuses[status] > limit_of(limit, images.num_rows):
            raise LimitBroken(
                f"{table.statuses[status]} of {images.num_rows} images are {status}, more than --max-{status} {limit}: "
                f"see the column error of {out}. All rows are written.",
                outcome,
            )
    return outcome


def _write_page(out: str, run: str, config: ScoreConfig) -> str:
    """Write the page of this run and return its place; "" where there is nothing to show."""
    from crackvae import report  # here, because workers import this module and draw no charts

    if not report.has_rows(out, run):
        return ""
    # The underscore keeps it out of the dataset that readers of the folder see.
    page = storage.join(out, f"_report-{run}.html")
    with progress("report", 1, "page", quiet=config.quiet) as bar:
        report.report(ReportConfig(scores=out, run=run, out=page, model=config.model, quiet=config.quiet))
        bar.update(1)
    return page


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


def _finished(out: str, scorer: Scorer) -> pa.Table:
    """What this model has finished in the table, as still_to_score() takes it."""
    places = [place for parts in tables.list_parts(out).values() for place in parts]
    done = tables.read_parts(places, ["image", "bytes", "modified", "model", "status", "threshold"])
    return done.filter(pc.field("model") == scorer.model.digest)


def new_run() -> str:
    """Name of a run: its start time in UTC, to the microsecond."""
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S_%f")


class _RunTable:
    """Rows of one run on their way into parts. Leaving the block writes what is there, after an error too."""

    def __init__(self, out: str, run: str) -> None:
        self.out, self.run = out, run
        self.n = self.flagged = self.parts = 0
        self.statuses: Counter[str] = Counter()
        self.worst = pd.DataFrame(columns=["image", "score", "p_value", "flagged"])
        self._waiting: list[pa.Table] = []
        self._since = time.monotonic()

    def __enter__(self) -> "_RunTable":
        return self

    def __exit__(self, *_: object) -> None:
        self._write()

    def add(self, rows: pa.Table) -> None:
        self.n += rows.num_rows
        self.statuses.update(rows["status"].to_pylist())
        self.flagged += pc.sum(rows["flagged"]).as_py()
        scored = rows.filter(pc.field("status") == "scored").select(list(self.worst.columns)).to_pandas()
        both = [frame for frame in (self.worst, scored) if len(frame)] or [scored]
        self.worst = pd.concat(both).nlargest(N_WORST, "score").reset_index(drop=True)
        self._waiting.append(rows)
        if sum(table.num_rows for table in self._waiting) >= PART_ROWS or time.monotonic() - self._since > PART_AGE_S:
            self._write()

    def counts(self) -> dict[str, int]:
        """Images of this run by status, and how many are flagged."""
        return {name: self.statuses[name] for name in ("scored", "unreadable", "unreachable")} | {
            "flagged": self.flagged
        }

    def _write(self) -> None:
        if self._waiting:
            tables.write_part(self.out, pa.concat_tables(self._waiting), self.run, self.parts)
            self.parts += 1
        self._waiting, self._since = [], time.monotonic()


def _write_csv(out: str) -> list[str]:
    """A CSV of every run whose parts have none yet: also of a run that was killed before it could write its own."""
    have = set(storage.list_files(out))
    written = []
    columns = [name for name in tables.SCORES_SCHEMA.names if name != "tile_scores"]
    for run, places in tables.list_parts(out).items():
        name = f"_scores-{run}.csv"
        if name not in have:
            storage.write_bytes(storage.join(out, name), tables.csv_bytes(tables.read_parts(places, columns)))
            written.append(storage.join(out, name))
    return written


class ImageScorer:
    """Ray Data actor of a CPU cluster: read, decode and score, so that no pixel travels."""

    def __init__(self, scorer: "ray.ObjectRef[Scorer]", run: str, batch: int) -> None:
        torch.set_num_threads(1)  # one actor a core
        self.scorer: Scorer = ray.get(scorer)
        self.score_decoded = partial(
            score_decoded, scorer=self.scorer, run=run, score=partial(score_tiles, self.scorer.model, batch=batch)
        )

    def __call__(self, images: pa.Table) -> Iterator[pa.Table]:
        for decoded in decode_images(images, self.scorer.model.spec):
            yield self.score_decoded(decoded)


class TileScorer:
    """Ray Data actor with a GPU: score what CPU tasks have decoded."""

    def __init__(self, scorer: "ray.ObjectRef[Scorer]", run: str, batch: int, device: str) -> None:
        self.scorer: Scorer = ray.get(scorer)
        self.scorer.model.network.to(device)
        score = partial(score_tiles, self.scorer.model, batch=batch, device=device)
        self.score_decoded = partial(score_decoded, scorer=self.scorer, run=run, score=score)

    def __call__(self, decoded: pa.Table) -> pa.Table:
        return self.score_decoded(decoded)


def score_rows(images: pa.Table, scorer: Scorer, config: ScoringConfig, run: str) -> Iterator[pa.Table]:
    """Score images on the connected cluster, in their order.

    The result depends on the images and the model alone: not on workers, batch or the order in which they finish.

    Args:
        images: LISTING_SCHEMA and group.

    Yields:
        SCORES_SCHEMA tables; together one row an image.
    """
    workers = config.workers or _default_workers(gpu=config.gpu)
    require_resources(workers, gpu=config.gpu)
    per_block = max(1, min(BLOCK_IMAGES, -(-images.num_rows // (2 * workers))))
    dataset = dataset_of(images, per_block)
    scorer_actor: Any = TileScorer if config.gpu else ImageScorer
    if config.gpu:
        decode: Any = partial(decode_images, spec=scorer.model.spec)
        dataset = dataset.map_batches(decode, batch_size=None, batch_format="pyarrow")
    yield from tables_of(
        dataset.map_batches(
            scorer_actor,
            fn_constructor_args=(ray.put(scorer), run, config.batch, *([GPU_DEVICE] if config.gpu else [])),
            compute=ActorPoolStrategy(size=min(workers, -(-images.num_rows // per_block))),
            num_cpus=0 if config.gpu else 1,
            num_gpus=1 if config.gpu else 0,
            batch_size=config.batch if config.gpu else None,  # Ray takes no None with GPUs
            batch_format="pyarrow",
        )
    )


def _default_workers(*, gpu: bool) -> int:
    return max(1, int(ray.cluster_resources().get("GPU" if gpu else "CPU", 1)))
