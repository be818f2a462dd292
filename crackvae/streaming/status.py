"""The status page of `live`: what has come, how fast it is scored, the last picture and the last flagged one."""

import resource
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from crackvae.errors import ConfigError, UnreadableImage
from crackvae.reports import charts, views
from crackvae.storage import uris
from crackvae.streaming.arrivals import Arrival
from crackvae.streaming.scorer import Flagged, encoded

# Rates are means over this time [s]; latencies are of as many images as this.
RATE_S, N_LATENCIES = 10.0, 500

# Longest side of the picture on the page [px].
PICTURE_PX = 960

# The most suspicious tile has this part of the colour scale, so that its crack shows through: 1 / TRANSPARENCY.
TRANSPARENCY = 3.0

HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; img-src 'self'; connect-src 'self'; script-src 'self'; "
    "style-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}

_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css"}


@dataclass(frozen=True)
class Shown:
    """The last scored image: its pixels, and the share of colour of each tile, float (rows, cols)."""

    image: str
    pixels: Callable[[], np.ndarray]
    strength: np.ndarray

    def jpeg(self) -> bytes:
        """The picture under the scores of its tiles in colour, reduced.

        Raises:
            UnreadableImage, OSError: it can no longer be read.
        """
        small_HW = views.reduced(self.pixels(), PICTURE_PX)
        (height, width), (rows, cols) = small_HW.shape, self.strength.shape
        tiles_HW = self.strength[np.arange(height) * rows // height][:, np.arange(width) * cols // width]
        return encoded(charts.anomaly_overlay(small_HW, tiles_HW, TRANSPARENCY))


class Status:
    """What the page shows. The scoring thread adds, the server reads.

    Attributes:
        statuses: number of images of each status.
        flagged: number of images.
    """

    def __init__(self, source: Any, usual: float, threshold: float) -> None:
        """
        Args:
            source: with `shown`, `state` and `counts()`.
            usual: median score of a sound tile, which gets no colour.
            threshold: score of a tile that gets half of the colour.
        """
        self.source, self.usual, self.threshold = source, usual, threshold
        self.statuses, self.flagged = Counter[str](), 0
        self.last: Shown | None = None
        self.last_flagged: Flagged | None = None
        self.latencies_s: deque[float] = deque(maxlen=N_LATENCIES)
        self._times_s: deque[float] = deque()
        self._started_s = time.monotonic()

    def add(self, arrival: Arrival, row: dict[str, Any]) -> None:
        """Count an image that is scored and, if it is flagged, saved."""
        now = time.monotonic()
        self.latencies_s.append(now - arrival.at_s)
        self._times_s.append(now)
        while self._times_s[0] < now - RATE_S:
            self._times_s.popleft()
        self.statuses[row["status"]] += 1
        self.flagged += row["flagged"]
        if row["status"] == "scored":
            scores = np.array(row["tile_scores"], np.float32).reshape(row["rows"], row["cols"])
            strength = np.clip((scores - self.usual) / max(2 * (self.threshold - self.usual), 1e-9), 0, 1)
            self.last = Shown(row["image"], arrival.pixels, np.nan_to_num(strength))

    def add_map(self, flagged: Flagged | None) -> None:
        """Show the map of a flagged image, if there is one."""
        self.last_flagged = flagged or self.last_flagged

    def as_json(self) -> dict[str, Any]:
        """Everything but the pictures."""
        latencies_ms = 1000 * np.array(tuple(self.latencies_s) or [np.nan])
        now = time.monotonic()
        recent = sum(at_s > now - RATE_S for at_s in tuple(self._times_s))
        last, flagged = self.last, self.last_flagged
        return {
            "source": self.source.shown,
            "state": self.source.state,
            **self.source.counts(),
            "scored": self.statuses["scored"],
            "flagged": self.flagged,
            "per_s": round(recent / min(RATE_S, max(now - self._started_s, 1e-3)), 2),
            "latency_ms": None if not self.latencies_s else round(float(np.median(latencies_ms))),
            "latency_max_ms": None if not self.latencies_s else round(float(latencies_ms.max())),
            "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000,
            "last": "" if last is None else last.image,
            "last_flagged": "" if flagged is None else flagged.image,
            "last_flagged_score": None if flagged is None else round(flagged.score, 4),
        }


class StatusApp:
    """The handlers of the page."""

    def __init__(self, status: Status) -> None:
        self.status = status
        page = files("crackvae.streaming") / "page"
        self.files = {f"status.{ending}": (page / f"status.{ending}").read_bytes() for ending in _TYPES}

    def file(self, request: Request) -> Response:
        """The page itself."""
        name = request.url.path.lstrip("/") or "status.html"
        return Response(self.files[name], media_type=_TYPES[name.rpartition(".")[2]], headers=HEADERS)

    def state(self, request: Request) -> Response:
        """The figures."""
        return JSONResponse(self.status.as_json(), headers=HEADERS)

    def picture(self, request: Request) -> Response:
        """The last picture under the scores of its tiles."""
        try:
            last = self.status.last
            return _jpeg(None if last is None else last.jpeg())
        except (UnreadableImage, OSError) as error:
            return PlainTextResponse(f"it can no longer be read: {uris.reason(error)}", 404, headers=HEADERS)

    def map(self, request: Request) -> Response:
        """The anomaly map of the last flagged image."""
        flagged = self.status.last_flagged
        return _jpeg(None if flagged is None else flagged.map_jpeg)


def _jpeg(data: bytes | None) -> Response:
    if data is None:
        return PlainTextResponse("none yet", 404, headers=HEADERS)
    return Response(data, media_type="image/jpeg", headers=HEADERS)


def status_app(status: Status) -> Starlette:
    """The application; another host name than that of this machine's loopback is refused (DNS rebinding)."""
    handlers = StatusApp(status)
    routes = [Route(path, handlers.file) for path in ("/", *(f"/{name}" for name in handlers.files))]
    routes += [Route("/state", handlers.state), Route("/picture", handlers.picture), Route("/map", handlers.map)]
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    return Starlette(routes=routes, middleware=[hosts])


@contextmanager
def served(status: Status, port: int) -> Iterator[str]:
    """Serve the page in a thread for the duration of the block; the value is its address.

    Raises:
        ConfigError: the port is in use.
    """
    try:
        listening = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise ConfigError(
            f"cannot listen on port {port} ({uris.reason(error)}): choose another --port, or 0 for any free one."
        ) from error
    config = uvicorn.Config(
        status_app(status), log_config=None, access_log=False, server_header=False, ws="none", lifespan="off"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="status", daemon=True)
    with listening:
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()
