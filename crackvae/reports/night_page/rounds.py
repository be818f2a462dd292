"""Which runs of shards belong together: a round has each shard once, killed runs of it not counted."""

from collections.abc import Collection, Iterable, Sequence

from crackvae.reports.night_page.run_summary import COUNTS, RunSummary
from crackvae.storage.names.shards import Shard, shard_of


def rounds_of(runs: Iterable[str], with_rows: Collection[str], ended: Collection[str]) -> list[list[str]]:
    """Runs in rounds, oldest first. A run of all images is a round by itself.

    A run of a shard that has ended in the current round begins the next one, unless it found nothing to score.
    """
    rounds: list[list[str]] = []
    count, done = 0, set[int]()
    for run in sorted(runs):
        shard = shard_of(run)
        if shard is None or shard.count != count or (shard.number in done and run in with_rows):
            rounds.append([])
            count, done = shard.count if shard else 0, set()
        rounds[-1].append(run)
        if shard and run in ended:
            done.add(shard.number)
    return rounds


def left_of(runs: Iterable[str], ended: Collection[str]) -> list[Shard]:
    """Shards of a round that have not ended; none for a run of all images."""
    shards = {run: shard for run in runs if (shard := shard_of(run))}
    done = {shard for run, shard in shards.items() if run in ended}
    all_of = {Shard(number, one.count) for one in shards.values() for number in range(1, one.count + 1)}
    return sorted(all_of - done)


def merged(summaries: Sequence[RunSummary]) -> RunSummary:
    """One summary of the runs of a round, oldest first: the sum of their images, the time of the slowest shard."""
    last = summaries[-1]
    if shard_of(last.run) is None:
        return last
    first = {shard_of(one.run): one for one in reversed(summaries)}.values()  # later, a shard had nothing to score
    return last.model_copy(
        update={name: sum(getattr(one, name) for one in first) for name in (*COUNTS, "flagged")}
        | {
            "threshold_void": next((one.threshold_void for one in first if one.threshold_void), None),
            "seconds": max(one.seconds or 0.0 for one in first),
            "images_per_s": round(sum(one.images_per_s or 0.0 for one in first), 1),
        }
    )
