"""The web application of `review`: one page, its verdicts, and full-size pictures, for whoever has the token.

Every request needs the token: the page itself in its address, everything else in a header, which a page of another
origin cannot set. There is no cookie, so a browser adds nothing to a forged request.
"""

import secrets
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crackvae.config.output import MAX_REVIEWER
from crackvae.errors import ConfigError, CrackvaeError, StorageError, UnreadableImage
from crackvae.reports import page, views
from crackvae.reviewing.nights import ServedNights
from crackvae.storage import uris
from crackvae.storage.records import problems
from crackvae.storage.tables.verdicts import AnyVerdict, Judgement, Subject, Verdict, VerdictLog, standing_of

AUTHORISATION_HEADER = "x-crackvae-token"

# A verdict with a path of 4,096 bytes, each escaped in JSON, takes 25 kB.
MAX_BODY_BYTES = 64_000

HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "frame-ancestors 'none'",  # the rest of the policy is in the page
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class SentVerdict(BaseModel):
    """What the page sends."""

    key: Annotated[str, Field(max_length=80)]
    reviewer: Annotated[str, Field(min_length=1, max_length=MAX_REVIEWER)]
    run: str
    image: str
    finding: str = ""
    verdict: AnyVerdict


class Guard:
    """Refuses requests without the token or from another origin, and adds headers to every answer."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            app = self._refusal(Request(scope)) or self.app
            await app(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> Response | None:
        is_page = request.method == "GET" and request.url.path == "/"
        given = request.query_params.get("token", "") if is_page else request.headers.get(AUTHORISATION_HEADER, "")
        if not secrets.compare_digest(given.encode(), self.token):
            text = "Open the address that crackvae review printed, with its token."
            return PlainTextResponse(text, 401)
        own = f"{request.url.scheme}://{request.headers.get('host', '')}"
        if request.method != "GET" and request.headers.get("origin", own) != own:
            return PlainTextResponse("Verdicts are accepted from the page of this server alone.", 403)
        return None


class ReviewApp:
    """The handlers of the application."""

    def __init__(self, nights: ServedNights, log: VerdictLog, reviewer: str) -> None:
        self.nights, self.log, self.reviewer = nights, log, reviewer

    def page(self, request: Request) -> Response:
        """The page of a night."""
        return HTMLResponse(self.nights.page(request.query_params.get("run", "")))

    def state(self, request: Request) -> Response:
        """The standing verdicts on the images of a night, the nights there are, and the name of the local user."""
        images = self.nights.rows(request.query_params.get("run", ""))
        self.log.refresh()
        history = self.log.history()
        standing = standing_of(one for one in history if one.image in images)
        verdicts = [_shown(one) for by_reviewer in standing.values() for one in by_reviewer.values()]
        runs = [{"run": run, "title": page.when(run)} for run in reversed(self.nights.runs())]
        return JSONResponse(
            {"version": len(history), "verdicts": verdicts, "runs": runs, "reviewer": self.reviewer},
        )

    async def give(self, request: Request) -> Response:
        """Store one verdict; the answer means that it is safe."""
        if request.headers.get("content-type") != "application/json":
            return PlainTextResponse("a verdict is sent as application/json", 415)
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                return PlainTextResponse("too large for a verdict", 413)
        try:
            sent = SentVerdict.model_validate_json(body)
        except ValidationError as error:
            return PlainTextResponse(f"not a verdict: {problems(error)}", 400)
        return await run_in_threadpool(self._store, sent)

    def _store(self, sent: SentVerdict) -> Response:
        row = self.nights.rows(sent.run).get(sent.image)
        if row is None:
            return PlainTextResponse("that night has no such image with a score", 404)
        score = row.findings.get(sent.finding) if sent.finding else row.score
        if score is None:
            return PlainTextResponse("that image has no such finding", 404)
        judgement = Judgement(Subject(sent.image, sent.finding), sent.verdict, row.model, score)
        (stored,) = self.log.append(sent.key, sent.reviewer, [judgement])
        return JSONResponse(_shown(stored))

    def picture(self, request: Request) -> Response:
        """An image of a night as a PNG at full size."""
        image = request.query_params.get("image", "")
        if image not in self.nights.rows(request.query_params.get("run", "")):
            return PlainTextResponse("that night has no such image with a score", 404)
        try:
            return Response(views.full_picture(image), media_type="image/png")
        except UnreadableImage as error:
            return PlainTextResponse(f"it can no longer be read: {error}", 404)
        except OSError as error:
            return PlainTextResponse(f"it can no longer be fetched: {uris.reason(error)}", 404)


def _shown(verdict: Verdict) -> dict[str, str]:
    return verdict.model_dump(include={"image", "finding", "reviewer", "verdict", "id"})


def review_app(nights: ServedNights, log: VerdictLog, *, token: str, reviewer: str) -> ASGIApp:
    """The application.

    Args:
        token: whoever has it may see the images and judge.
        reviewer: name that is suggested to a reviewer without one.
    """
    handlers = ReviewApp(nights, log, reviewer)
    routes = [
        Route("/", handlers.page),
        Route("/state", handlers.state),
        Route("/verdicts", handlers.give, methods=["POST"]),
        Route("/picture", handlers.picture),
    ]
    errors = {ConfigError: _not_accepted, StorageError: _no_storage, CrackvaeError: _no_storage}
    return Guard(Starlette(routes=routes, exception_handlers=errors), token)


def _not_accepted(request: Request, error: Exception) -> Response:
    return PlainTextResponse(str(error), 400)


def _no_storage(request: Request, error: Exception) -> Response:
    return PlainTextResponse(str(error), 503)
