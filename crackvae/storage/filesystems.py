"""Object storage: the file system behind a URI, the S3 server in use, and calls that are retried."""

import functools
import os
import random
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from functools import partial
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from crackvae.config import VerbConfig
from crackvae.console import say
from crackvae.errors import ConfigError, CrackvaeError
from crackvae.storage.uris import is_local, require_regular, split_uri

# Attempts and first pause [s] of a call to object storage; the pause doubles. S3 answers 503 for seconds, not minutes.
ATTEMPTS, FIRST_PAUSE_S = 5, 0.5

# Without a limit the Google client retries a missing credential for 15 minutes.
GCS_RETRY_S = 20

# Where an S3 server other than Amazon's is named, the more specific one first, as for every AWS client.
ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")

REGION_VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION")

# Servers other than Amazon's accept any region; all of them know this one.
DEFAULT_REGION = "us-east-1"

# Answers of a server that a second request does not change.
_REFUSED = re.compile(
    r"ACCESS_DENIED|NO_SUCH_BUCKET|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|NO_SUCH_UPLOAD|INVALID_BUCKET"
    r"|Couldn't resolve host|UNRECOGNIZED_CLIENT|HTTP status (400|401|403|404|405|411|413)\b|No (AWS )?credentials"
)

# No call is repeated when it has failed for this long [s]: Google's client has then retried it by itself.
RETRY_LIMIT_S = 30.0

# After this long without an answer the terminal says what is being waited for, and again in growing intervals [s].
FIRST_NOTICE_S = 5.0

# Certificates of a company or of a test server, in the variable that all AWS clients read.
CA_VARIABLE = "AWS_CA_BUNDLE"

Result = TypeVar("Result")

Arguments = ParamSpec("Arguments")

Config = TypeVar("Config", bound=VerbConfig)


def retried(call: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
    """The result of a call to object storage, repeated with growing pauses until it has failed ATTEMPTS times.

    Each pause is randomly up to half longer or shorter, so that the workers of a night do not all return at once.
    What a server refuses (no such file, no permission) is not requested again.
    """
    started = time.monotonic()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return call(*arguments, **named)
        except (OSError, pa.ArrowException) as error:
            is_final = isinstance(error, FileNotFoundError | pa.ArrowInvalid) or _REFUSED.search(str(error))
            if is_final or attempt == ATTEMPTS or time.monotonic() - started > RETRY_LIMIT_S:
                raise
            _count_retry()
            time.sleep(FIRST_PAUSE_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
    raise AssertionError("the last attempt returns or raises")


def answered(call: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
    """retried() for calls that change nothing: a signal ends the wait for the answer, and the terminal says how long.

    Client libraries wait in C++, where Python handles no signal; so the main thread lets another thread wait.
    """
    if threading.current_thread() is not threading.main_thread():
        return retried(call, *arguments, **named)
    outcome: Future[Result] = Future()
    threading.Thread(target=_fulfil, args=(outcome, partial(retried, call, *arguments, **named)), daemon=True).start()
    started, notice_s = time.monotonic(), FIRST_NOTICE_S
    try:
        while not outcome.done():
            wait([outcome], min(notice_s, 1.0))  # in short steps, because a signal is only handled between them
            waited_s = time.monotonic() - started
            if not outcome.done() and waited_s >= notice_s:
                say(f"waiting for {_name_of(arguments)}: no answer for {waited_s:.0f} s", quiet=False)
                notice_s *= 2
    except KeyboardInterrupt:
        _abandoned.append(outcome)
        raise
    return outcome.result()


_abandoned: "list[Future[Any]]" = []


def exit_if_it_hangs(code: int) -> None:
    """End the process at once after an interrupted request that is still waiting: pyarrow's exit waits for it."""
    if not all(outcome.done() for outcome in _abandoned):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _fulfil(outcome: "Future[Result]", call: Callable[[], Result]) -> None:
    try:
        outcome.set_result(call())
    except (OSError, pa.ArrowException, CrackvaeError) as error:
        outcome.set_exception(error)
    finally:
        if not outcome.done():  # a bug; this thread prints its traceback, too
            outcome.set_exception(sys.exc_info()[1])


def _name_of(arguments: Sequence[object]) -> str:
    names = [one.base_dir if isinstance(one, pafs.FileSelector) else one for one in arguments]
    return next((name for name in names if isinstance(name, str)), "object storage")


_retries, _retries_lock = 0, threading.Lock()


def _count_retry() -> None:
    global _retries
    with _retries_lock:  # images are fetched by several threads
        _retries += 1


def retries() -> int:
    """How often this process has repeated a call to object storage since it started."""
    return _retries


# ------------------------------------------------------------------------------------------------ the S3 server

# The server of each s3_server() block that is open; all of them are equal.
_servers, _servers_lock = list[str](), threading.Lock()


def s3_endpoint() -> str:
    """The S3 server that this process uses, `http://host:9000`; empty for Amazon's."""
    with _servers_lock:
        if _servers:
            return _servers[-1]
    return next((os.environ[name] for name in ENDPOINT_VARIABLES if os.environ.get(name)), "")


@contextmanager
def s3_server(endpoint: str) -> Iterator[None]:
    """Use this S3 server for the duration of the block, in every thread of this process; "" changes nothing.

    The environment is left alone. Worker processes do not see the block: fileio.image_reader() and whatever else is
    sent to them carries the address.

    Raises:
        ConfigError: not the address of a server, or another call in this process uses another server.
    """
    endpoint_options(endpoint or s3_endpoint())
    if not endpoint:
        yield
        return
    with _servers_lock:
        if _servers and _servers[-1] != endpoint:
            raise ConfigError(
                f"another call in this process uses the S3 server {_servers[-1]}, not {endpoint}: wait for it to end, "
                "or run the two in separate processes."
            )
        _servers.append(endpoint)
    try:
        yield
    finally:
        with _servers_lock:
            _servers.pop()


def with_s3_endpoint(verb: Callable[[Config], Result]) -> Callable[[Config], Result]:
    """A verb that uses the S3 server of its settings while it runs."""

    @functools.wraps(verb)
    def at_endpoint(config: Config) -> Result:
        with s3_server(config.s3_endpoint):
            return verb(config)

    return at_endpoint


def endpoint_options(endpoint: str) -> str:
    """Options of an `s3://` URI for a server other than Amazon's.

    Raises:
        ConfigError: not http(s)://HOST:PORT, or with a password, which is not repeated.
    """
    if not endpoint:
        return ""
    try:
        parts = urlsplit(endpoint)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port)
    except ValueError:  # a port that is not a number
        is_address = False
    if "@" in endpoint:
        raise ConfigError("the S3 endpoint contains a name or password: set AWS_ACCESS_KEY_ID and its secret instead.")
    if not is_address or parts.path.strip("/") or parts.query or parts.fragment:
        raise ConfigError(f"the S3 endpoint {endpoint} is not http://HOST:PORT or https://HOST (--s3-endpoint).")
    region = next((os.environ[name] for name in REGION_VARIABLES if os.environ.get(name)), DEFAULT_REGION)
    return f"scheme={parts.scheme}&endpoint_override={quote(parts.netloc, safe='')}&region={region}"


# ------------------------------------------------------------------------------------------------- file systems


@functools.lru_cache(maxsize=64)
def _bucket(address: str, options: str, defaults: str) -> tuple[pafs.FileSystem, str]:
    """File system of `s3://bucket`, and the bucket's path in it; `defaults` are options that the URI may omit."""
    given = [option for option in options.removeprefix("?").split("&") if option]
    names = {option.partition("=")[0] for option in given}
    given += [option for option in defaults.split("&") if option and option.partition("=")[0] not in names]
    store, root = pafs.FileSystem.from_uri(f"{address}?{'&'.join(given)}" if given else address)
    return store, root.strip("/")


def bucket(uri: str, endpoint: str | None = None) -> tuple[pafs.FileSystem, str]:
    """File system of a URI's bucket, and the bucket's path in it."""
    address, _, options = split_uri(uri)
    if address.startswith("s3:"):
        defaults = [endpoint_options(s3_endpoint() if endpoint is None else endpoint), _certificates()]
        return _bucket(address, options, "&".join(filter(None, defaults)))
    is_google = address.startswith(("gs:", "gcs:"))
    return _bucket(address, options, f"retry_limit_seconds={GCS_RETRY_S}" if is_google else "")


def _certificates() -> str:
    """Option of an `s3://` URI for certificates other than the operating system's."""
    file = os.environ.get(CA_VARIABLE, "")
    if file and not os.path.isfile(file):
        raise ConfigError(
            f"{CA_VARIABLE}={file} is not a file: correct it, or unset it to use the system's certificates."
        )
    return f"tls_ca_file_path={quote(file, safe='')}" if file else ""


def filesystem(uri: str, endpoint: str | None = None) -> tuple[pafs.FileSystem, str]:
    """File system of a URI and the path in it.

    Args:
        endpoint: S3 server; None for s3_endpoint() of this process.
    """
    store, root = bucket(uri, endpoint)
    return store, f"{root}/{split_uri(uri)[1]}".rstrip("/")


@contextmanager
def opened(path: str) -> Iterator[pa.NativeFile]:
    """An open file in which a reader may seek; of a remote one only what is read is fetched."""
    if is_local(path):
        require_regular(path)
        with pa.OSFile(path) as file:
            yield file
        return
    store, key = filesystem(path)
    with answered(store.open_input_file, key) as file:
        yield file
