"""A real S3 server on this machine that can be told to misbehave."""

import itertools
import threading
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow.fs as pafs
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

SECRET = "hunter2-0123456789abcdef"
BUSY = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>'
DENIED = b'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>'


class Server:
    """An S3 server that can be told to misbehave.

    Attributes:
        busy_every: each n-th request is answered 503; 0 for none.
        requests: method and path of all requests so far.
        sent: bytes of all answers so far, without headers.
        vanishing: objects that are listed, and gone when they are read.
    """

    def __init__(self) -> None:
        self.busy_every, self.requests, self.vanishing = 0, list[str](), set[str]()
        self.sent = 0
        self._numbers = itertools.count(1)
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._http = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.endpoint = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests.append(f"{method} {path}")
        problem = None
        if self.busy_every and next(self._numbers) % self.busy_every == 0:
            problem = ("503 Slow Down", BUSY)
        elif path.startswith("/readonly") and method not in ("GET", "HEAD"):
            problem = ("403 Forbidden", DENIED)
        elif path in self.vanishing:
            problem = ("404 Not Found", DENIED.replace(b"AccessDenied", b"NoSuchKey"))
        if problem is None:
            return self._counted(self._moto(environ, start))
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start(problem[0], [("Content-Type", "application/xml"), ("Content-Length", str(len(problem[1])))])
        return [] if method == "HEAD" else [problem[1]]

    def _counted(self, answer: Iterable[bytes]) -> Iterable[bytes]:
        for part in answer:
            self.sent += len(part)
            yield part

    def stop(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


def filesystem(server: Server) -> pafs.S3FileSystem:
    return pafs.S3FileSystem(
        endpoint_override=server.endpoint, region="us-east-1", allow_bucket_creation=True, allow_bucket_deletion=True
    )


def upload(client: pafs.S3FileSystem, key: str, data: bytes) -> None:
    with client.open_output_stream(f"nights/{key}") as stream:
        stream.write(data)
