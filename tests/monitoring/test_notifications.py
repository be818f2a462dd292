"""Telling people of a night: once, also after a 503; a dead receiver costs nothing but a line."""

import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import free_ports
from receivers import certificate, mail_server, receiver, silent_port

from crackvae.monitoring import notifications
from crackvae.monitoring.notifications import Mail, message_of, notify

SUMMARY = {
    "night": "2026-11-23",
    "runs": ["2"],
    "images": 1201,
    "report": "s3://bucket/scores/_report-1.html",
    "broken": ["drift: alarm in <b>bridge\u202e: darker."],
    "drift": {"level": "alarm", "causes": ["darker"], "where": "<b>bridge\u202e"},
    "score": {"run": "2", "scored": 1200, "flagged": 7, "unreadable": 0, "unreachable": 1},
}
TEXT = message_of(SUMMARY)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications, "PAUSES_S", (0.0, 0.0))
    for name in (notifications.WEBHOOK_VARIABLE, notifications.USER_VARIABLE, notifications.PASSWORD_VARIABLE):
        monkeypatch.delenv(name, raising=False)


def test_the_message_is_the_night_in_a_few_lines_without_invisible_characters() -> None:
    assert TEXT.splitlines() == [
        "crackvae, night of 2026-11-23: alarm",
        "1,200 images scored, 7 flagged, 0 unreadable, 1 unreachable",
        "likely darker, in <b>bridge⟨U+202E⟩",
        "limit exceeded: drift: alarm in <b>bridge⟨U+202E⟩: darker.",
        "page: s3://bucket/scores/_report-1.html",
    ]


@pytest.mark.parametrize("runs", [["1", "2"], ["1"]])  # the last run counts nothing where all was scored before
def test_the_message_says_that_counts_are_of_the_last_run_where_an_earlier_one_was_killed(runs: list[str]) -> None:
    told = message_of(SUMMARY | {"runs": runs, "images": 91_201}).splitlines()[1]
    assert told.endswith("1 unreachable, in the last run; 91,201 images in the whole night")


@pytest.mark.parametrize("statuses", [(200,), (503, 200), (429, 503, 200)])
def test_a_webhook_gets_the_text_once_it_accepts(monkeypatch: pytest.MonkeyPatch, statuses: tuple[int, ...]) -> None:
    with receiver(*statuses) as (url, got):
        monkeypatch.setenv(notifications.WEBHOOK_VARIABLE, url)
        assert notify(TEXT, webhook=True, mail=None) == {"webhook": ""}
    assert len(got) == len(statuses)
    path, kind, body = got[-1]
    assert (path, kind, list(body)) == ("/services/T0/secret", "application/json", ["text"])
    assert body["text"].replace("&lt;", "<").replace("&gt;", ">") == TEXT and "<" not in body["text"]


@pytest.mark.parametrize("address", ["{}/services/T0/secret here", "{}/services/T0/sécret", "{}/T0/secret\x7f"])
def test_an_address_that_cannot_be_one_is_refused_without_its_secret(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    with receiver(200) as (url, got):
        monkeypatch.setenv(notifications.WEBHOOK_VARIABLE, address.format(url.removesuffix("/services/T0/secret")))
        (why,) = notify(TEXT, webhook=True, mail=None).values()
    assert why == "CRACKVAE_WEBHOOK_URL is not set to an http or https address" and not got


def test_an_address_with_a_password_that_would_not_be_sent_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver(200) as (url, got):
        monkeypatch.setenv(notifications.WEBHOOK_VARIABLE, url.replace("http://", "http://anna:secret@"))
        (why,) = notify(TEXT, webhook=True, mail=None).values()
    assert why.startswith("CRACKVAE_WEBHOOK_URL has a user name") and "secret" not in why and not got


def test_an_address_from_a_file_may_end_with_a_space_and_a_line_break(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver(200) as (url, got):
        monkeypatch.setenv(notifications.WEBHOOK_VARIABLE, f"{url} \r\n")
        assert notify(TEXT, webhook=True, mail=None) == {"webhook": ""} and got[0][0] == "/services/T0/secret"


def test_a_recipient_that_is_refused_is_named_and_the_others_get_one_mail() -> None:
    with mail_server(refused="ben@example.org") as (mail, inbox):
        (why,) = notify(TEXT, webhook=False, mail=mail).values()
    assert why == f"{mail.server} refused ben@example.org (550); the other recipients have it"
    assert len(inbox.messages) == 1


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


def test_mail_on_the_port_for_it_is_sent_over_tls_from_the_first_byte(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with mail_server(tls=certificate(tmp_path / "server.pem")) as (mail, inbox):
        monkeypatch.setattr(notifications, "TLS_PORT", int(mail.server.rpartition(":")[2]))
        (untrusted,) = notify(TEXT, webhook=False, mail=mail).values()
        assert "certificate" in untrusted.lower() and not inbox.messages
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "server.pem"))
        assert notify(TEXT, webhook=False, mail=mail) == {"mail": ""} and len(inbox.messages) == 1


def test_a_server_may_be_an_address_of_ipv6() -> None:
    with mail_server(host="::1") as (mail, inbox):
        assert mail.server.startswith("[::1]:")
        assert notify(TEXT, webhook=False, mail=mail) == {"mail": ""} and len(inbox.messages) == 1


def test_dead_receivers_are_reasons_and_not_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    mail = Mail(f"127.0.0.1:{port}", "night@example.org", ("anna@example.org",))
    assert notify(TEXT, webhook=True, mail=None) == {
        "webhook": "CRACKVAE_WEBHOOK_URL is not set to an http or https address"
    }
    monkeypatch.setenv(notifications.WEBHOOK_VARIABLE, f"http://127.0.0.1:{port}/secret")
    assert notify(TEXT, webhook=True, mail=mail) == {"webhook": "Connection refused", "mail": "Connection refused"}


def test_a_receiver_that_answers_late_gets_the_message_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications, "ATTEMPT_S", 0.3)
    with receiver(200, 200, 200, after_s=0.8) as (url, got), mail_server(after_s=0.8) as (mail, inbox):
        monkeypatch.setenv(notifications.WEBHOOK_VARIABLE, url)
        assert notify(TEXT, webhook=True, mail=mail) == {"webhook": "", "mail": ""}
    assert len(got) == inbox.attempts == len(inbox.messages) == 1


def test_a_receiver_that_has_not_answered_in_time_is_not_sent_the_message_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notifications, "LIMIT_S", 0.3)
    with receiver(200, 200, 200, after_s=0.8) as (url, got):
        monkeypatch.setenv(notifications.WEBHOOK_VARIABLE, url)
        assert notify(TEXT, webhook=True, mail=None) == {"webhook": "no answer within 0.3 s"}
        time.sleep(1)  # as a night lingers
    assert len(got) == 1


def test_receivers_that_never_answer_cost_a_night_half_a_minute_together(monkeypatch: pytest.MonkeyPatch) -> None:
    assert notifications.LIMIT_S <= 30
    monkeypatch.setattr(notifications, "LIMIT_S", 0.3)
    with ExitStack() as open_ports:
        web, mail = (open_ports.enter_context(silent_port()) for _ in range(2))
        monkeypatch.setenv(notifications.WEBHOOK_VARIABLE, f"http://127.0.0.1:{web}/")
        started = time.monotonic()
        told = notify(TEXT, webhook=True, mail=Mail(f"127.0.0.1:{mail}", "night@example.org", ("anna@example.org",)))
        assert time.monotonic() - started < 0.6, "both at once, not one after the other"
    assert told == dict.fromkeys(("webhook", "mail"), "no answer within 0.3 s")
