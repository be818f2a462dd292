"""Receivers of the outcome of a night on this machine: a webhook, an SMTP server, and one that never answers."""

import asyncio
import email
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP
from conftest import free_ports

from crackvae.monitoring.notifications import Mail


@contextmanager
def receiver(*statuses: int, after_s: float = 0) -> Iterator[tuple[str, list[Any]]]:
    """A webhook that answers with these statuses in turn, each after some seconds, and what it was sent."""
    got: list[Any] = []
    answers = iter(statuses)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            got.append((self.path, self.headers["Content-Type"], body))
            time.sleep(after_s)
            self.send_response(next(answers))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Requests are not printed."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/services/T0/secret", got
        server.shutdown()


class Inbox:
    """Messages that an SMTP server has taken; the first `busy` are answered 451, and one recipient is refused.

    It answers a message after `after_s` seconds.
    """

    def __init__(self, busy: int, refused: str, after_s: float) -> None:
        self.busy, self.refused, self.messages, self.attempts = busy, refused, list[Message](), 0
        self.after_s = after_s

    async def handle_RCPT(self, server: SMTP, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        if address == self.refused:
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:
        self.attempts += 1
        await asyncio.sleep(self.after_s)
        if self.attempts <= self.busy:
            return "451 try again"
        self.messages.append(email.message_from_bytes(envelope.content))
        return "250 OK"


@contextmanager
def mail_server(busy: int = 0, refused: str = "", after_s: float = 0) -> Iterator[tuple[Mail, Inbox]]:
    (port,) = free_ports(1)
    inbox = Inbox(busy, refused, after_s)
    controller = Controller(inbox, hostname="127.0.0.1", port=port)
    controller.start()
    yield Mail(f"127.0.0.1:{port}", "night@example.org", ("anna@example.org", "ben@example.org")), inbox
    controller.stop()


@contextmanager
def silent_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]
