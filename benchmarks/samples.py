"""The images that a benchmark takes of a folder."""

from pathlib import Path


def every_nth(folder: Path, n: int) -> list[str]:
    """`n` of the JPEGs below a folder, or all if there are fewer, spread over all of them."""
    paths = sorted(map(str, folder.rglob("*.jpg")))
    n = min(n, len(paths))
    return [paths[number * len(paths) // n] for number in range(n)]
