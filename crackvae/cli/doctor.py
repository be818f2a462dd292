"""The verb `doctor`: whether this machine has what the other verbs need, and what to do about what is missing."""

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pandas as pd

from crackvae.config import DoctorConfig
from crackvae.cores import usable_cores
from crackvae.errors import ConfigError, LimitBroken, StorageError
from crackvae.ray_environment import is_too_long, local_environment
from crackvae.results import Result
from crackvae.storage import fileio, uris
from crackvae.storage.filesystems import endpoint_options, s3_endpoint, with_s3_endpoint

GB = 1e9
# The smallest machine that the package is made for has two cores and 4 GB; a limit of 4 GB leaves a little less.
MIN_MEMORY = 3.5 * GB
# Share of the memory that Ray gives to its object store (its own default); it is in /dev/shm if that is large enough.
OBJECT_STORE = 0.3
# Ray refuses to spill objects to a disk that is fuller than this (its own default).
MAX_DISK_USE = 0.95
# Room for the scores table of a million images (0.6 GB), its page, and Ray's logs.
MIN_DISK = 2 * GB

Found = tuple[str, str]  # what was found, and one line of advice, or ""


@with_s3_endpoint
def doctor(config: DoctorConfig) -> Result:
    """Check this machine. No network connection is opened, except to the storage of `out` if that is a URI.

    Returns:
        Result with the table `checks`: what was found, and "ok" or one line of advice.

    Raises:
        LimitBroken: a check has advice.
    """
    found = {name: check(config) for name, check in CHECKS.items()}
    advice = [f"{name}: {text}" for name, (_, text) in found.items() if text]
    summary = {"verb": "doctor", "found": {name: what for name, (what, _) in found.items()}, "advice": advice}
    rows = [(name, what, text or "ok") for name, (what, text) in found.items()]
    result = Result(summary, {"checks": pd.DataFrame(rows, columns=["check", "found", "advice"])})
    if advice:
        raise LimitBroken(f"{len(advice)} of {len(found)} checks need attention. {' '.join(advice)}", result)
    return result


def _python(_: DoctorConfig) -> Found:
    return f"{platform.python_version()} on {platform.platform(terse=True)}", ""


def _package(name: str) -> Found:
    """Version of a package, and whether the one that crackvae declares."""
    from packaging.requirements import Requirement
    from packaging.version import Version

    try:
        installed = version(name)
    except PackageNotFoundError:
        return "not installed", f"install it: pip install {name}."
    try:
        needed = [Requirement(text) for text in requires("crackvae") or ()]
    except PackageNotFoundError:  # run from a folder, with nothing installed
        needed = []
    wanted = next((one.specifier for one in needed if one.name == name and not one.marker), None)
    if wanted and not wanted.contains(Version(installed), prereleases=True):
        return installed, f'this package needs {wanted}: pip install "{name}{wanted}".'
    return installed, ""


def _processor(_: DoctorConfig) -> Found:
    """Cores that this process may use, and the instructions that make a difference to the network."""
    quota = _first_number("/sys/fs/cgroup/cpu.max")
    period = _first_number("/sys/fs/cgroup/cpu.max", 1) or 1
    cores = f"{usable_cores()} cores{'' if quota is None else f', limited to {quota / period:g}'}"
    try:
        flags = set(re.findall(r"\w+", Path("/proc/cpuinfo").read_text()))
    except OSError:  # not Linux
        return f"{cores}, {platform.machine()}", ""
    useful = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd") if name in flags]
    slow = "without AVX2 the network is slow: use another machine, or --gpu." if not useful else ""
    return ", ".join([cores, *useful]), slow


def _gpu(_: DoctorConfig) -> Found:
    import torch

    if torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        return f"{torch.cuda.device_count()} x {device.name}, {device.total_memory / GB:.0f} GB", ""
    if Path("/dev/nvidia0").exists():
        return "not usable by PyTorch", "install a CUDA build of PyTorch, or update the driver, to use --gpu."
    return "none, scoring uses the CPU", ""


def _memory(_: DoctorConfig) -> Found:
    total = _total_memory()
    low = f"{total / GB:.1f} GB is little: use --workers 1, or give the container {MIN_MEMORY / GB:g} GB or more."
    return f"{total / GB:.1f} GB", "" if total >= MIN_MEMORY else low


def _total_memory() -> float:
    """Memory of the machine, or of the container [bytes]."""
    total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    limit = _first_number("/sys/fs/cgroup/memory.max")
    return total if limit is None else min(total, limit)


def _first_number(path: str, position: int = 0) -> float | None:
    """A number of a file of the kernel; None for no such file, or `max`."""
    try:
        text = Path(path).read_text().split()[position]
    except (OSError, IndexError):
        return None
    return float(text) if text.isdigit() else None


def _shared_memory(_: DoctorConfig) -> Found:
    if not Path("/dev/shm").is_dir():  # nosec B108, only measured
        return "no /dev/shm", ""
    size = shutil.disk_usage("/dev/shm").total  # nosec B108
    wanted = OBJECT_STORE * _total_memory()
    low = f"Ray's object store would be on disk, which is slow: start the container with --shm-size={wanted / GB:.0f}g."
    return f"{size / GB:.1f} GB", "" if size >= wanted else low


def _output_disk(config: DoctorConfig) -> Found:
    """Free disk and write permission in the folder."""
    folder = uris.absolute(config.out)
    try:
        fileio.require_writable(folder)
    except StorageError as error:
        return "not writable", str(error)
    if not uris.is_local(folder):
        return folder, ""
    existing = next(one for one in (Path(folder), *Path(folder).parents) if one.exists())
    free = shutil.disk_usage(existing).free
    return (
        f"{free / GB:.1f} GB free in {existing}",
        "" if free >= MIN_DISK else "free some space, or use another folder.",
    )


def _temporary_disk(_: DoctorConfig) -> Found:
    """The folder of Ray's sockets, logs and spilled objects."""
    folder = os.environ.get("RAY_TMPDIR") or local_environment().get("RAY_TMPDIR") or tempfile.gettempdir()
    usage = shutil.disk_usage(folder)
    found = f"{folder}, {usage.free / GB:.1f} GB free"
    if is_too_long(folder):
        return found, "the path is too long for Ray's sockets: set RAY_TMPDIR to a short folder, such as /tmp."
    if usage.used / usage.total > MAX_DISK_USE:
        return found, f"the disk is over {MAX_DISK_USE:.0%} full, and Ray stops: free some space, or set RAY_TMPDIR."
    return found, ""


def _credentials(config: DoctorConfig) -> Found:
    """Names of the credentials that are set, never their values."""
    names = [*_credential_names()]
    environment = os.environ
    pair = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    if len({name in environment for name in pair}) > 1:
        return ", ".join(names), f"set both {' and '.join(pair)}, or neither."
    key_file = environment.get("GOOGLE_APPLICATION_CREDENTIALS")
    if key_file and not Path(key_file).is_file():
        return ", ".join(names), "the file of GOOGLE_APPLICATION_CREDENTIALS does not exist."
    try:
        endpoint_options(s3_endpoint())
    except ConfigError as error:
        return ", ".join(names), str(error)
    return ", ".join(names) or "none, local files only", ""


def _credential_names() -> Iterator[str]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "GOOGLE_APPLICATION_CREDENTIALS"):
        if os.environ.get(name):
            yield name
    yield from sorted(name for name in os.environ if name.startswith("AZURE_"))
    home = Path(os.path.expanduser("~"))
    yield from (str(file) for file in (home / ".aws" / "credentials",) if file.is_file())


CHECKS: dict[str, Callable[[DoctorConfig], Found]] = {
    "Python": _python,
    "Ray": lambda _: _package("ray"),
    "PyTorch": lambda _: _package("torch"),
    "ONNX Runtime": lambda _: _package("onnxruntime"),
    "processor": _processor,
    "GPU": _gpu,
    "memory": _memory,
    "shared memory": _shared_memory,
    "output": _output_disk,
    "temporary folder": _temporary_disk,
    "storage credentials": _credentials,
}
