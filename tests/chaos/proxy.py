"""An HTTP proxy between a job and its S3 server that breaks what it is told to break, by a seeded chance."""

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

ERROR = '<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}, says the proxy.</Message></Error>'
# A linger time of 0 makes the system end a connection with a reset.
RESET = struct.pack("ii", 1, 0)
# Headers that hold between two neighbours only.
OF_ONE_HOP = ("transfer-encoding", "connection", "expect")


@dataclass(frozen=True)
class Request:
    """What a fault may look at: the method, the path, and which request this is, from 1."""

    method: str
    path: str
    number: int

    @property
    def is_image(self) -> bool:
        """Whether the bytes of an image are asked for."""
        return self.method == "GET" and self.path.partition("?")[0].endswith((".jpg", ".png"))


# Named behaviours of one answer; None passes it on as it is.
Fault = Callable[[Request, random.Random], str | None]


def share(of: float, behaviour: str, *, images_only: bool = False) -> Fault:
    """A behaviour of a share of all requests."""

    def fault(request: Request, chance: random.Random) -> str | None:
        is_hit = chance.random() < of
        return behaviour if is_hit and (request.is_image or not images_only) else None

    return fault


class Proxy:
    """Listens on a port of its own; `fault` may be changed at any time.

    Attributes:
        page: objects of one answer to a listing, at most.
        behaved: how often each behaviour was shown.
    """

    def __init__(self, upstream: str, seed: int = 0) -> None:
        self.fault: Fault | None = None
        self.page = 1000
        self.behaved: Counter[str] = Counter()
        self.n_requests = 0
        self._upstream = urlsplit(upstream).netloc
        self._chance, self._guard = random.Random(seed), threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *arguments: object) -> None:
                pass

            def _pass(self) -> None:
                proxy._answer(self)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = _body(handler)
        with self._guard:
            self.n_requests += 1
            request = Request(handler.command, handler.path, self.n_requests)
            behaviour = self.fault(request, self._chance) if self.fault else None
            self.behaved[behaviour or "passed on"] += 1
        if behaviour and behaviour[0].isdigit():
            status, _, code = behaviour.partition(" ")
            _send(handler, int(status), [("Content-Type", "application/xml")], ERROR.format(code=code).encode())
            return
        upstream = http.client.HTTPConnection(self._upstream, timeout=60)
        try:
            path = handler.path.replace("max-keys=1000", f"max-keys={self.page}")
            kept = {name: value for name, value in handler.headers.items() if name.lower() not in OF_ONE_HOP}
            upstream.request(handler.command, path, body, kept)
            answer = upstream.getresponse()
            headers = [pair for pair in answer.getheaders() if pair[0].lower() not in OF_ONE_HOP]
            _send(handler, answer.status, headers, answer.read(), behaviour)
        except (BrokenPipeError, ConnectionResetError):
            handler.close_connection = True  # the client gave up, as it may
        finally:
            upstream.close()


def _body(handler: BaseHTTPRequestHandler) -> bytes:
    if handler.headers.get("Transfer-Encoding", "").lower() != "chunked":
        return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    body = b""
    while size := int(handler.rfile.readline().partition(b";")[0], 16):
        body += handler.rfile.read(size)
        handler.rfile.readline()
    while handler.rfile.readline().strip():  # trailers
        pass
    return body


def _send(
    handler: BaseHTTPRequestHandler,
    status: int,
    headers: list[tuple[str, str]],
    body: bytes,
    behaviour: str | None = None,
) -> None:
    if behaviour == "short" and status < 300:  # a whole answer with a right status, of half the bytes
        body = body[: len(body) // 2]
    handler.send_response(status)
    for name, value in headers:
        if name.lower() not in ("content-length", "server", "date") and not (behaviour == "short" and name == "ETag"):
            handler.send_header(name, value)
    length = {name.lower(): value for name, value in headers}.get("content-length")
    handler.send_header("Content-Length", length if handler.command == "HEAD" and length else str(len(body)))
    handler.end_headers()
    if handler.command == "HEAD":
        return
    if behaviour in ("reset", "cut off") and body:
        handler.wfile.write(body[: len(body) // 2])
        handler.wfile.flush()
        if behaviour == "reset":
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        handler.close_connection = True
        handler.connection.shutdown(socket.SHUT_RDWR) if behaviour == "cut off" else handler.connection.close()
        return
    if behaviour == "drip":
        for start in range(0, len(body), 200):
            handler.wfile.write(body[start : start + 200])
            handler.wfile.flush()
            time.sleep(0.02)
        return
    handler.wfile.write(body)
