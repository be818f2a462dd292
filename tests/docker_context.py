"""What `docker build` sees: the build context after .dockerignore, and the files that the Dockerfile copies from it.

python tests/docker_context.py FOLDER     # write the files that the image holds below its working directory to FOLDER

Needs nothing but Python, so that CI can call it before anything is installed.
"""

import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

HOUSE = Path(__file__).parent.parent


@dataclass(frozen=True)
class IgnoreRule:
    """One line of a .dockerignore file; an exception starts with `!` and includes what it matches again."""

    pattern: str
    is_exception: bool

    def matches(self, path: str) -> bool:
        """Whether the pattern matches the path or one of the folders that it lies in."""
        parents = [str(parent) for parent in PurePosixPath(path).parents][:-1]
        return any(re.fullmatch(_regex(self.pattern), one) for one in (path, *parents))


def read_rules(text: str) -> list[IgnoreRule]:
    """The rules of a .dockerignore file, in order; comments and blank lines are skipped."""
    rules = []
    for line in text.splitlines():
        pattern = "" if line.startswith("#") else line.strip()
        if pattern:
            is_exception = pattern.startswith("!")
            cleaned = os.path.normpath(pattern.removeprefix("!").strip()).lstrip("/")
            rules.append(IgnoreRule(cleaned, is_exception))
    return rules


def is_ignored(path: str, rules: list[IgnoreRule]) -> bool:
    """Whether a path (relative, with slashes) is excluded: the last rule that matches decides."""
    ignored = False
    for rule in rules:
        if rule.matches(path):
            ignored = not rule.is_exception
    return ignored


def context_files(folder: Path) -> list[str]:
    """The files of the build context of a folder, relative to it and sorted.

    As in Docker, an excluded folder is entered only where an exception names something in it.
    """
    rules = read_rules((folder / ".dockerignore").read_text())
    exceptions = [f"{rule.pattern}/" for rule in rules if rule.is_exception]
    found = []
    for current, folders, files in os.walk(folder):
        prefix = os.path.relpath(current, folder) + "/" if Path(current) != folder else ""
        found += [prefix + name for name in files if not is_ignored(prefix + name, rules)]
        folders[:] = [
            name
            for name in folders
            if not is_ignored(prefix + name, rules) or any(one.startswith(f"{prefix}{name}/") for one in exceptions)
        ]
    return sorted(found)


def copied_files(folder: Path, dockerfile: str = "cluster/Dockerfile") -> dict[str, str]:
    """Files of the image below its working directory, and the file of the build context that each is copied from.

    Raises:
        FileNotFoundError: a COPY line names something that the build context does not hold; Docker fails there too.
    """
    context = context_files(folder)
    copied: dict[str, str] = {}
    for line in (folder / dockerfile).read_text().splitlines():
        if not line.startswith("COPY "):
            continue
        *sources, target = line.split()[1:]
        assert not any(word.startswith("--") or set(word) & set("*?[\\$") for word in sources), f"not supported: {line}"
        for source in sources:
            below = [name for name in context if name.startswith(f"{source}/")]
            if not below and source not in context:
                raise FileNotFoundError(f"{line}: {source} is not in the build context; see .dockerignore")
            copied |= {os.path.normpath(f"{target}/{name.removeprefix(f'{source}/')}"): name for name in below}
            if not below:
                is_folder = target.endswith("/") or len(sources) > 1
                copied[os.path.normpath(f"{target}/{Path(source).name}" if is_folder else target)] = source
    return copied


def write_image_files(folder: Path, target: Path) -> None:
    """Copy to `target` what the image holds below its working directory."""
    for name, source in copied_files(folder).items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / source, target / name)


def _regex(pattern: str) -> str:
    """The regular expression of a pattern: `*` and `?` stop at a slash, `**` matches any number of folders."""
    translated, position = "", 0
    while position < len(pattern):
        if pattern.startswith("**", position):
            position += 2
            if pattern.startswith("/", position):
                position += 1
            translated += ".*" if position == len(pattern) else "(?:.*/)?"
            continue
        letter = pattern[position]
        translated += {"*": "[^/]*", "?": "[^/]", "[": "[", "]": "]", "-": "-", "^": "^"}.get(letter, re.escape(letter))
        position += 1
    return translated


if __name__ == "__main__":
    write_image_files(HOUSE, Path(sys.argv[1]))
