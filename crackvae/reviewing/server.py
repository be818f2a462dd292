"""The server process of `review`."""

import ipaddress
import secrets
import socket
import ssl
from contextlib import suppress
from urllib.parse import urlencode

import uvicorn

from crackvae.config import ReviewConfig
from crackvae.console import say
from crackvae.errors import ConfigError
from crackvae.reports.page import PageSettings
from crackvae.results import Result
from crackvae.reviewing.app import review_app
from crackvae.reviewing.csv_import import counts_by_reviewer
from crackvae.reviewing.nights import ServedNights
from crackvae.storage import fileio, uris
from crackvae.storage.tables.verdicts import FOLDER, VerdictLog

# 256 random bits: guessing is out of the question, so attempts are not counted.
TOKEN_BYTES = 32

# How long an answer may still take when the server is stopped [s]: a verdict is stored within milliseconds.
SHUTDOWN_S = 10


def serve(scores: str, config: ReviewConfig) -> Result:
    """Serve until Ctrl-C or SIGTERM; then say what was judged.

    Raises:
        StorageError: there are no scores, or the log cannot be read or written.
        ConfigError: the port is in use, or the certificate is not valid.
    """
    settings = PageSettings(model_dir=config.model, n_worst=config.worst, n_unflagged=config.passed, served=True)
    nights = ServedNights(scores, settings)
    nights.runs()
    fileio.require_writable(uris.join(scores, FOLDER))
    log = VerdictLog(scores)
    before = len(log.history())
    token = config.token or secrets.token_urlsafe(TOKEN_BYTES)
    app = review_app(nights, log, token=token, reviewer=config.reviewer)
    server = uvicorn.Server(_uvicorn_config(app, config))
    with _listening(config.host, config.port) as listening:
        address = _address(config, listening.getsockname()[1])
        say(f"reviewing {scores}; stop with Ctrl-C", quiet=config.quiet)
        say(f"open {address}/?{urlencode({'token': token})}", quiet=False)
        if not (config.certificate or _is_loopback(config.host)):
            say("anyone on the network can read along: give --certificate and --key for TLS.", quiet=False)
        with suppress(KeyboardInterrupt):  # the ordinary end; every verdict that was acknowledged is stored
            server.run(sockets=[listening])
    history = log.history()
    summary = {
        "verb": "review",
        "scores": scores,
        "address": address,
        "given": len(history) - before,
        "not_found": 0,
        "verdicts": len(history),
    }
    return Result(summary, counts_by_reviewer(log))


def _uvicorn_config(app: object, config: ReviewConfig) -> uvicorn.Config:
    """Settings of the server: without a log of requests, which would contain the token."""
    made = uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=SHUTDOWN_S,
        ssl_certfile=config.certificate or None,
        ssl_keyfile=config.key or None,
    )
    try:
        made.load()
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"certificate={config.certificate} and key={config.key} are not a certificate and its key in PEM "
            f"({uris.reason(error)}): correct the paths."
        ) from error
    return made


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}, port {port} ({uris.reason(error)}): choose another --host or --port, "
            "or --port 0 for any free one."
        ) from error


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, of any machine
        return False


def _is_every_network(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _address(config: ReviewConfig, port: int) -> str:
    name = socket.gethostname() if _is_every_network(config.host) else config.host
    return f"{'https' if config.certificate else 'http'}://{f'[{name}]' if ':' in name else name}:{port}"
