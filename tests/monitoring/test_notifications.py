"""Telling people of a night: once, also after a 503; a dead receiver costs nothing but a line."""

import email
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP
from conftest import free_ports

from crackvae.monitoring import notifications
from crackvae.monitoring.notifications import Mail, message_of, notify

SUMMARY = {
    "night": "2026-11-23",
    "report": "s3://bucket/scores/_report-1.html",
    "broken": ["drift: alarm in <b>bridge\u202e: darker."],
    "drift": {"level": "alarm", "causes": ["darker"], "where": "<b>bridge\u202e"},
    "score": {"scored": 1200, "flagged": 7, "unreadable": 0, "unreachable": 1},
}
TEXT = message_of(SUMMARY)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications, "PAUSES_S", (0.0, 0.0))
    for name in (notifications.WEBHOOK_VARIABLE, notifications.USER_VARIABLE, notifications.PASSWORD_VARIABLE):
        monkeypatch.delenv(name, raising=False)


@contextmanager
def receiver(*statuses: int) -> Iterator[tuple[str, list[Any]]]:
    """A webhook that answers with these statuses in turn, and what it was sent."""
    got: list[Any] = []
    answers = iter(statuses)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            got.append((self.path, self.headers["Content-Type"], body))
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
    """Messages that an SMTP server has taken; the first `busy` are answered 451."""

    def __init__(self, busy: int) -> None:
        self.busy, self.messages, self.attempts = busy, list[Message](), 0

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:
        self.attempts += 1
        if self.attempts <= self.busy:
            return "451 try again"
        self.messages.append(email.message_from_bytes(envelope.content))
        return "250 OK"


@contextmanager
def mail_server(busy: int = 0) -> Iterator[tuple[Mail, Inbox]]:
    (port,) = free_ports(1)
    inbox = Inbox(busy)
    controller = Controller(inbox, hostname="127.0.0.1", port=port)
    controller.start()
    yield Mail(f"127.0.0.1:{port}", "night@example.org", ("anna@example.org", "ben@example.org")), inbox
    controller.stop()


def test_the_message_is_the_night_in_a_few_lines_without_invisible_characters() -> None:
    assert TEXT.splitlines() == [
        "crackvae, night of 2026-11-23: alarm",
        "1,200 images scored, 7 flagged, 0 unreadable, 1 unreachable",
        "likely darker, in <b>bridge⟨U+202E⟩",
        "limit exceeded: drift: alarm in <b>bridge⟨U+202E⟩: darker.",
        "page: s3://bucket/scores/_report-1.html",
    ]


@pytest.mark.parametrize("statuses", [(200,), (503, 200), (429, 503, 200)])
def test_a_webhook_gets_the_text_once_it_accepts(monkeypatch: pytest.MonkeyPatch, statuses: tuple[int, ...]) -> None:
    with receiver(*statuses) as (url, got):
        monkeypatch.setenv(notifications.WEBHOOK_VARIABLE, url)
        assert notify(TEXT, webhook=True, mail=None) == {"webhook": ""}
    assert len(got) == len(statuses)
    path, kind, body = got[-1]
    assert (path, kind, list(body)) == ("/services/T0/secret", "application/json", ["text"])
    assert body["text"].replace("&lt;", "<").replace("&gt;", ">") == TEXT and "<" not in body["text"]


@pytest.mark.parametrize("busy", [0, 1])
def test_recipients_get_one_mail(busy: int) -> None:
    with mail_server(busy) as (mail, inbox):
        assert notify(TEXT, webhook=False, mail=mail) == {"mail": ""}
    (message,) = inbox.messages
    assert message["Subject"] == TEXT.splitlines()[0] and message["To"] == "anna@example.org, ben@example.org"
    assert message.get_payload(decode=True).decode().replace("\r\n", "\n").strip() == TEXT
    assert inbox.attempts == busy + 1


def test_a_refusal_is_not_repeated_and_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver(404, 200) as (url, got):
        monkeypatch.setenv(notifications.WEBHOOK_VARIABLE, url)
        assert notify(TEXT, webhook=True, mail=None) == {"webhook": "the webhook answered 404"}
    assert len(got) == 1


def test_a_password_is_not_sent_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(notifications.PASSWORD_VARIABLE, "hunter2-0123456789")
    with mail_server() as (mail, inbox):
        (why,) = notify(TEXT, webhook=False, mail=mail).values()
    assert "offers no TLS" in why and inbox.attempts == 0


def test_dead_receivers_are_reasons_and_not_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    mail = Mail(f"127.0.0.1:{port}", "night@example.org", ("anna@example.org",))
    assert notify(TEXT, webhook=True, mail=None) == {
        "webhook": "CRACKVAE_WEBHOOK_URL is not set to an http or https address"
    }
    monkeypatch.setenv(notifications.WEBHOOK_VARIABLE, f"http://127.0.0.1:{port}/secret")
    assert notify(TEXT, webhook=True, mail=mail) == {"webhook": "Connection refused", "mail": "Connection refused"}


def test_a_receiver_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications, "LIMIT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv(notifications.WEBHOOK_VARIABLE, f"http://127.0.0.1:{silent.getsockname()[1]}/")
        assert notify(TEXT, webhook=True, mail=None) == {"webhook": "no answer within 0.2 s"}
