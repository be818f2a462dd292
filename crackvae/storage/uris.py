"""Addresses of files: local paths and URIs, the file system behind each, retries, and errors that name the place.

A place is a local path or a URI (`s3://`, `gs://`, `abfs://`, `file://`). Credentials never stand in one: they come
from the environment of each process, so no table, log or message can hold them.
"""

import errno
import functools
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from crackvae.errors import ConfigError, StorageError

# Attempts and first pause [s] of a call to object storage; the pause doubles. S3 answers 503 for seconds, not minutes.
ATTEMPTS, FIRST_PAUSE_S = 5, 0.5


# Without a limit the Google client retries a missing credential for 15 minutes.
GCS_RETRY_S = 20


# Where an S3 server other than Amazon's is named, the more special one first, as for every AWS client.
ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")


REGION_VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION")


# Servers that are not Amazon's take any region; this is the one that all of them know.
REGION_OF_OTHERS = "us-east-1"


Result = TypeVar("Result")


Arguments = ParamSpec("Arguments")


_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://")


# Options such as `?region=eu-central-1` end a URI. All else is taken letter by letter: a key may hold `%`, `#` or `?`.
_URI = re.compile(r"(?P<address>[a-z0-9]+://[^/?]*)/?(?P<path>.*?)(?P<options>\?[a-z_]+=[^/?]*)?", re.DOTALL)


# A colon in the address that no port number follows parts a name from its secret, which may hold a slash itself.
_SECRET = re.compile(r"[^:]*://[^/?]*:(?!\d*([/?]|$))|.*\?.*secret=", re.DOTALL)


# What a server or a client library may repeat of a request: a name and password, a key, a signature, a token.
_SHOWN_SECRET = re.compile(
    r"(?<=://)[^/\s@]*:[^\s@]*(?=@)"
    r"|(?i:(?<=signature=)|(?<=credential=)|(?<=token=)|(?<=secret_key=)|(?<=sig=))[^&\s'\"]+"
)


SECRET_VARIABLES = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_KEY",
    "AZURE_CLIENT_SECRET",
)


# A server's answers that asking again does not change.
_REFUSED = re.compile(
    r"ACCESS_DENIED|NO_SUCH_BUCKET|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|NO_SUCH_UPLOAD|INVALID_BUCKET"
    r"|Couldn't resolve host|UNRECOGNIZED_CLIENT|HTTP status (400|401|403|404|405|411|413)\b|No (AWS )?credentials"
)


def is_local(place: str) -> bool:
    """Whether a place is a path of this machine, not a URI."""
    return not _SCHEME.match(place)


def absolute(place: str) -> str:
    """The place in the one form that tables hold: an absolute local path, or a URI without a trailing slash."""
    if not place:  # an unset variable of a shell; the current folder is written as a dot
        raise ConfigError("a path is empty: give a folder, a file or a URI.")
    shown = os.fsencode(place).decode("utf-8", errors="backslashreplace")
    if "\0" in place:
        raise ConfigError(f"the path {shown!r} holds a zero byte, which no file name can: check --config or the list.")
    if shown != place:
        raise ConfigError(f"the path {shown} is not UTF-8, as the tables that would hold it are: rename the folder.")
    if place.startswith("file://"):
        with storage_errors("look at", place):
            place = pafs.FileSystem.from_uri(place)[1]
    return os.path.abspath(os.path.expanduser(place)) if is_local(place) else "".join(without_options(place))


def join(folder: str, name: str) -> str:
    """The place of a file in a folder; options of a URI stay at its end."""
    bare, options = without_options(folder)
    return f"{bare.rstrip('/')}/{name}{options}"


def relative(image: str, root: str) -> str:
    """Name of an image below the folder or archive it was listed from: `Negative/1.jpg`; its whole path elsewhere."""
    image, root = without_options(image)[0], without_options(root)[0]
    below = image.removeprefix(root)
    if root != "/" and below[:1] not in ("", "/") and not below.startswith("!/"):
        below = image  # `/data/night2` is not below `/data/night`
    return below.removeprefix("!/").lstrip("/") or PurePosixPath(image).name


# ------------------------------------------------------------------------------------------------------ errors


def reason(error: BaseException) -> str:
    """What an operating system or a client library says, in one line, without what it may repeat of a credential."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = _SHOWN_SECRET.sub("***", text)
    for name in SECRET_VARIABLES:
        if len(os.environ.get(name, "")) >= 4:  # shorter ones are a test's, and words of a sentence
            text = text.replace(os.environ[name], "***")
    return " ".join(text.split())[:300] or type(error).__name__


_MENDS = {
    errno.ENOSPC: "Free some space, or write somewhere else.",
    errno.EDQUOT: "Free some space, or write somewhere else.",
    errno.EFBIG: "Free some space, or write somewhere else.",
    errno.EACCES: "Give this user the right to it, or choose another place.",
    errno.EPERM: "Give this user the right to it, or choose another place.",
    errno.EROFS: "The disk is mounted for reading only: choose another place.",
    errno.ENOENT: "Check the spelling; is the disk mounted?",
    errno.ENOTDIR: "A part of that path is a file where a folder is needed: choose another place.",
    errno.EISDIR: "It is a folder where a file is needed: name the file in it, or choose another place.",
    errno.EEXIST: "A file has the name of the folder that is needed: choose another place.",
    errno.ENOTEMPTY: "Another job wrote it meanwhile: choose another place.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ELOOP: "Its links lead round in a circle: mend them, or name the folder itself.",
    errno.EMFILE: "Too many files are open: raise the limit with ulimit -n.",
}


def _mend(error: BaseException, place: str) -> str:
    code = error.errno if isinstance(error, OSError) else None
    if code in _MENDS:
        return _MENDS[code]
    return "ImageView at the disk." if is_local(place) else "Check the address, the credentials and the network."


@contextmanager
def storage_errors(doing: str, place: str) -> Iterator[None]:
    """Turn what pyarrow and the operating system raise into one StorageError that names the place."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        where = str(getattr(error, "filename", None) or place)
        if ".tmp" in where:  # the name of a half-written file means nothing to a user
            where = place
        raise StorageError(f"cannot {doing} {where}: {reason(error)}. {_mend(error, place)}") from error


def retried(call: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
    """The result of a call to object storage, which is repeated with growing pauses until it has failed ATTEMPTS times.

    A pause is up to half longer or shorter by chance, so that the workers of a night do not all come back at once.
    What a server refuses (no such file, no right to it) is not asked for again.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return call(*arguments, **named)
        except (OSError, pa.ArrowException) as error:
            if attempt == ATTEMPTS or isinstance(error, FileNotFoundError) or _REFUSED.search(str(error)):
                raise
            _count_retry()
            time.sleep(FIRST_PAUSE_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
    raise AssertionError("the last attempt returns or raises")


_retries, _retries_lock = 0, threading.Lock()


def _count_retry() -> None:
    global _retries
    with _retries_lock:  # images are fetched by several threads
        _retries += 1


def retries() -> int:
    """How often this process has repeated a call to object storage since it began."""
    return _retries


# ------------------------------------------------------------------------------------------------ file systems


def s3_endpoint() -> str:
    """The S3 server that this process talks to, `http://host:9000`; empty for Amazon's own."""
    return next((os.environ[name] for name in ENDPOINT_VARIABLES if os.environ.get(name)), "")


def with_s3_endpoint(verb: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A verb that talks to the S3 server of its settings (`s3_endpoint`) for as long as it runs.

    The standard variable is set meanwhile, which the processes that it starts inherit; storage.image_reader() takes it
    to those that it does not start.
    """

    @functools.wraps(verb)
    def at_endpoint(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        config: Any = arguments[0] if arguments else next(iter(named.values()))
        before = os.environ.get(ENDPOINT_VARIABLES[0])
        if config.s3_endpoint:
            os.environ[ENDPOINT_VARIABLES[0]] = config.s3_endpoint
        try:
            endpoint_options(s3_endpoint())
            return verb(*arguments, **named)
        finally:
            os.environ.pop(ENDPOINT_VARIABLES[0], None)
            if before is not None:
                os.environ[ENDPOINT_VARIABLES[0]] = before

    return at_endpoint


def endpoint_options(endpoint: str) -> str:
    """Options of an `s3://` URI for another server than Amazon's.

    Raises:
        ConfigError: not http(s)://HOST:PORT, or with a password, which is not repeated.
    """
    if not endpoint:
        return ""
    try:
        parts = urlsplit(endpoint)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port)
    except ValueError:  # a port that is no number
        is_address = False
    if "@" in endpoint:
        raise ConfigError("the S3 endpoint holds a name or password: put AWS_ACCESS_KEY_ID and its secret instead.")
    if not is_address or parts.path.strip("/") or parts.query or parts.fragment:
        raise ConfigError(f"the S3 endpoint {endpoint} is not http://HOST:PORT or https://HOST (--s3-endpoint).")
    region = next((os.environ[name] for name in REGION_VARIABLES if os.environ.get(name)), REGION_OF_OTHERS)
    return f"scheme={parts.scheme}&endpoint_override={quote(parts.netloc, safe='')}&region={region}"


@functools.lru_cache(maxsize=64)
def _bucket(address: str, options: str, defaults: str) -> tuple[pafs.FileSystem, str]:
    """File system of `s3://bucket`, and the bucket's path in it; `defaults` are options that the URI need not name."""
    given = [option for option in options.removeprefix("?").split("&") if option]
    names = {option.partition("=")[0] for option in given}
    given += [option for option in defaults.split("&") if option and option.partition("=")[0] not in names]
    filesystem, path = pafs.FileSystem.from_uri(f"{address}?{'&'.join(given)}" if given else address)
    return filesystem, path.strip("/")


def bucket(uri: str, endpoint: str | None = None) -> tuple[pafs.FileSystem, str]:
    """File system of a URI's bucket, and the bucket's path in it."""
    address, _, options = split_uri(uri)
    if address.startswith("s3:"):
        return _bucket(address, options, endpoint_options(s3_endpoint() if endpoint is None else endpoint))
    return _bucket(address, options, f"retry_limit_seconds={GCS_RETRY_S}" if address[:2] == "gs" else "")


def filesystem(uri: str, endpoint: str | None = None) -> tuple[pafs.FileSystem, str]:
    """File system of a URI and the path in it.

    Args:
        endpoint: S3 server; None for s3_endpoint() of this process.
    """
    found, path = bucket(uri, endpoint)
    return found, f"{path}/{split_uri(uri)[1]}".rstrip("/")


def split_uri(uri: str) -> tuple[str, str, str]:
    """`s3://bucket`, `key`, `?options` of a URI; refuses secrets, because URIs are written into tables and logs."""
    if _SECRET.match(uri):
        raise ConfigError("a URI with a password would be written into every table: put it into the environment.")
    match = _URI.fullmatch(uri)
    if not match or match["address"].endswith("://"):
        scheme = uri.partition("://")[0]
        example = "container@account.dfs.core.windows.net" if scheme.startswith("abfs") else "bucket"
        raise ConfigError(f"{uri} names no bucket: write it as {scheme}://{example}/folder.")
    return match["address"], match["path"], match["options"] or ""


def without_options(place: str) -> tuple[str, str]:
    """`s3://bucket/key` and `?options` of a URI; a local path has no options."""
    if is_local(place):
        return place, ""
    address, path, options = split_uri(place)
    return f"{address}/{path}".rstrip("/"), options
