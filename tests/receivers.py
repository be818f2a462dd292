"""Receivers of the outcome of a night on this machine: a webhook, an SMTP server, and one that never answers."""

import asyncio
import email
import json
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from threading import Thread
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP
from conftest import free_ports
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

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
def mail_server(
    busy: int = 0, refused: str = "", after_s: float = 0, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> Iterator[tuple[Mail, Inbox]]:
    """An SMTP server on this machine, and what it was sent; with a context it speaks TLS from the first byte."""
    (port,) = free_ports(1)
    inbox = Inbox(busy, refused, after_s)
    controller = Controller(inbox, hostname=host, port=port, ssl_context=tls)
    controller.start()
    name = f"[{host}]" if ":" in host else host
    yield Mail(f"{name}:{port}", "night@example.org", ("anna@example.org", "ben@example.org")), inbox
    controller.stop()


def certificate(file: Path) -> ssl.SSLContext:
    """A server's context with a new certificate of 127.0.0.1, which is written to the file with its key."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    private = key.private_bytes(pem, plain, serialization.NoEncryption())
    file.write_bytes(private + made.public_bytes(pem))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    return context


@contextmanager
def silent_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]
