"""Shards: N jobs share one folder of scores, and each takes the images whose names hash to its number.

The name of a run carries its shard, `20261123T220010_123456.3of8`, and with it the names of its parts, its summary and
its lock. Two runs are disjoint if they are different shards of the same number of shards: no image belongs to both.
"""

import hashlib
import re
from dataclasses import dataclass

from crackvae.storage.names.unicode_forms import nfc

_SUFFIX = re.compile(r".+\.(?P<number>\d+)of(?P<count>\d+)")


@dataclass(frozen=True, order=True)
class Shard:
    """Shard `number` of `count`, counted from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}of{self.count}"


def shard_of(run: str) -> Shard | None:
    """The shard in the name of a run; None for a run of all images."""
    found = _SUFFIX.fullmatch(run)
    return Shard(int(found["number"]), int(found["count"])) if found else None


def start_of(run: str) -> str:
    """The name of a run without its shard: its start time."""
    shard = shard_of(run)
    return run.removesuffix(f".{shard}") if shard else run


def are_disjoint(run: str, other: str) -> bool:
    """Whether two runs can have no image in common, so that they may write into one folder at the same time."""
    one, two = shard_of(run), shard_of(other)
    return one is not None and two is not None and one.count == two.count and one.number != two.number


def is_in_shard(image: str, shard: Shard) -> bool:
    """Whether an image belongs to a shard. Depends on its name alone, and is the same on every machine."""
    digest = hashlib.blake2b(nfc(image).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % shard.count == shard.number - 1
