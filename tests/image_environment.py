"""An environment with what crackvae requires and nothing else, as links to the packages of this one.

python tests/image_environment.py FOLDER     # a virtual environment, for cluster/install.sh as in an empty image

Packages were fetched and unpacked when this environment was made: to do it again would take half a minute. Those of the
extras and of the tests are left out, so that what is missing in the requirements is missing there too.
"""

import sys
import sysconfig
import venv
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

SITE_PACKAGES = Path(sysconfig.get_path("purelib"))


def required_by(name: str, extras: frozenset[str], found: dict[tuple[str, frozenset[str]], Distribution]) -> None:
    """Add a package with these extras, and all that it requires, to those that were found."""
    if (name, extras) in found:
        return
    found[name, extras] = distribution(name)
    for line in found[name, extras].requires or []:
        one = Requirement(line)
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in {"", *extras}):
            required_by(one.name, frozenset(one.extras), found)


def link_packages(target: Path) -> None:
    """Link the packages that crackvae requires, and pip, but not crackvae, into a folder of site-packages."""
    found: dict[tuple[str, frozenset[str]], Distribution] = {}
    for name in ("crackvae", "pip"):
        required_by(name, frozenset(), found)
    installed = {file.parts[0] for (name, _), one in found.items() if name != "crackvae" for file in one.files or []}
    for part in installed - {"..", "__pycache__"}:
        (target / part).symlink_to(SITE_PACKAGES / part)


if __name__ == "__main__":
    venv.create(sys.argv[1], symlinks=True)
    link_packages(Path(sysconfig.get_path("purelib", vars={"base": sys.argv[1]})))
