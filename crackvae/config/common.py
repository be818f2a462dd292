"""Settings that several verbs share."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from crackvae.config.settings import check, flag, setting
from crackvae.errors import ConfigError

# Name of the model that the package contains.
BUILTIN = "builtin"
# Help text of the model that a verb uses.
MODEL = "model directory written by train, adapt or learn, or builtin: the model that comes with crackvae"
# Help text of --mirrors.
MIRRORS = (
    "mirror images of each tile, itself among them, over which the network's answer is averaged, 1 to 4: more cracks "
    "at the same false-alarm rate, for the time of as many tiles"
)
# Help text of --gps-precision.
GPS_PRECISION = "round places to squares of this size, 100m; off leaves them out; default: exact"
# Help text of --exclude; storage/listing/exclusions.py has all that is always excluded.
EXCLUDE = (
    "names of files or folders to exclude, with * and ?: masks,*_thumb.jpg; with a slash: paths below --images. "
    "Always excluded are hidden files and what systems leave behind: lost+found, @eaDir, .Trash*, $RECYCLE.BIN, "
    "Thumbs.db, *.tmp, *.part and others"
)
# A name alone, as of a user of this machine, or with a domain; perhaps in angle brackets after the name of a person.
MAIL_ADDRESS = re.compile(r"(\w[\w .'-]*<)?\w[\w.!#$%&'*+/=?^`{|}~-]*(?:@\w[\w.-]*)?(?(1)>)")
# Most tiles of a forward pass or of a step: far more than the memory of a GPU holds.
MAX_BATCH = 65_536
# The percentile of the published method, and the rules of one that becomes a threshold.
PUBLISHED_PERCENTILE = 95.0
PERCENTILE: dict[str, Any] = {"ge": 50, "lt": 100, "why": f": the published one is {PUBLISHED_PERCENTILE:g}"}


@dataclass(frozen=True, kw_only=True)
class VerbConfig:
    """Settings of every verb."""

    quiet: bool = setting("do not show progress", False)
    s3_endpoint: str = setting(
        "S3 server other than Amazon's, http://HOST:PORT; default: AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL", ""
    )

    def __post_init__(self) -> None:
        check(self)
        for problem in self._problems():
            raise ConfigError(problem)

    def _problems(self) -> Iterator[str]:
        """What is wrong with settings that are each valid on their own; the first one is raised."""
        if "@" in self.s3_endpoint:
            yield (
                "s3_endpoint contains a user name or password: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead."
            )


def without_effect(config: Any, names: Collection[str], why: str) -> Iterator[str]:
    """What is wrong with settings that are not their defaults although nothing uses them, `why` in words."""
    for one in fields(config):
        if one.name in names and getattr(config, one.name) != one.default:
            yield f"{flag(one.name)} has no effect {why}: leave it out."


def new_model_problem(model: str, name: str = "model") -> Iterator[str]:
    """What is wrong with the name of a new model directory, or registry, that the setting `name` gives."""
    if model == BUILTIN:
        yield f"{name}={BUILTIN} is the name of the model that comes with crackvae: choose another, or ./{BUILTIN}."


def mail_problem(recipients: Sequence[str], sender: str, server: str) -> Iterator[str]:
    """What is wrong with the addresses of an e-mail, or with its server."""
    if sender and not recipients:
        yield "--mail-from needs --mail-to, the addresses that the outcome is sent to."
    if recipients and "@" not in sender:
        yield "--mail-to needs --mail-from, the address of the sender."
    for one in (sender, *recipients) if recipients else ():
        if not MAIL_ADDRESS.fullmatch(one):
            yield f"{one!r} is not an e-mail address, such as anna@example.org: see --mail-to and --mail-from."
    port = re.fullmatch(r"(?:[^\s:/@\[\]]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})", server)
    if not port or not 0 < int(port[1]) < 2**16:  # a larger one would be taken modulo this number
        yield f"mail_server={server} is not HOST:PORT, such as mail.example.org:587 or [2001:db8::5]:587."


@dataclass(frozen=True, kw_only=True)
class ClusterConfig(VerbConfig):
    """Where a verb that needs Ray runs. Nothing here changes a score."""

    address: str = setting("address of a Ray cluster; default: RAY_ADDRESS, or else a local cluster for this run", "")
    gpu: bool = setting("use one GPU per worker", False)


@dataclass(frozen=True, kw_only=True)
class ScoringConfig(ClusterConfig):
    """Settings of a verb that sends images through the scoring pipeline."""

    workers: int | None = setting("scoring actors; default: one per CPU, or one per GPU with --gpu", None, ge=1)
    batch: int | None = setting("tiles per forward pass; default: 8, or 256 with --gpu", None, ge=1, le=MAX_BATCH)
    precision: Literal["auto", "screen", "fp32", "bf16", "onnx"] = setting(
        "precision and runtime of the network: auto (screen on processors with AMX, else onnx, or fp32 with --gpu), "
        "screen (bf16, and onnx again where a decision may depend on it; CPU only), fp32 (PyTorch, the reference), "
        "onnx (fp32 in ONNX Runtime, CPU only) or bf16 alone (flags near the threshold may differ)",
        "auto",
    )
    max_megapixels: int = setting(
        "largest image [million pixels], larger ones are unreadable; in colour, one million take 4 MB of memory",
        160,
        ge=1,
        le=1000,
    )

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if self.precision in ("onnx", "screen") and self.gpu:
            yield f"precision={self.precision} runs on CPUs only: omit --gpu, or use --precision auto."
