"""Telling people of a night: a webhook that takes Slack's JSON, and e-mail. Failures are said, and never raised.

Secrets come from the environment alone: CRACKVAE_WEBHOOK_URL, whose path is one; CRACKVAE_SMTP_USER and
CRACKVAE_SMTP_PASSWORD.
"""

import http.client
import json
import os
import re
import smtplib
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any
from urllib.parse import urlsplit

from crackvae.console import visible
from crackvae.storage.uris import reason

# A receiver that is down costs a night at most this [s], whatever its retries and the name server do.
LIMIT_S = 30.0
# Each step of one attempt may take this long [s]; the answer of a receiver that has the message, as long as the night
# waits for it, because a message that is sent again arrives twice.
ATTEMPT_S = 6.0
# Port on which mail is submitted over TLS from the first byte (RFC 8314).
TLS_PORT = 465
# Pauses before the second and third attempt [s].
PAUSES_S = (1.0, 4.0)

WEBHOOK_VARIABLE = "CRACKVAE_WEBHOOK_URL"
USER_VARIABLE, PASSWORD_VARIABLE = "CRACKVAE_SMTP_USER", "CRACKVAE_SMTP_PASSWORD"


# Printable characters of ASCII without the space: all that an address may hold.
_ADDRESS = re.compile(r"[!-~]+")


class _Refused(Exception):
    """A receiver that would refuse the message again."""


@dataclass(frozen=True)
class Mail:
    """Where an e-mail goes.

    Attributes:
        server: HOST:PORT of an SMTP server; TLS is used from the first byte on port 465, on others where it offers
            STARTTLS, and required for a password.
    """

    server: str
    sender: str
    recipients: tuple[str, ...]


def message_of(summary: dict[str, Any]) -> str:
    """What people are told of a night: its level, its counts, its broken limits and its page, one line each.

    Counts are those of the last run; where earlier runs belong to the night, its images are named too.
    """
    score, drift = summary["score"], summary["drift"]
    earlier = set(summary["runs"]) - {score["run"]}
    lines = [
        f"crackvae, night of {summary['night']}: {drift['level']}",
        f"{score['scored']:,} images scored, {score['flagged']:,} flagged, {score['unreadable']:,} unreadable, "
        f"{score['unreachable']:,} unreachable"
        + (f", in the last run; {summary['images']:,} images in the whole night" if earlier else ""),
    ]
    if drift["causes"]:
        lines.append(f"likely {', '.join(drift['causes'])}, in {drift['where']}")
    if shadow := summary.get("shadow"):
        lines.append(
            f"flags by model {summary['model'][:12]}; its challenger {shadow['model'][:12]} would flag "
            f"{shadow['flagged']:,} of {shadow['scored']:,}, {shadow['flagged_by_both']:,} of them the same"
        )
    if changes := summary.get("changes"):
        found = f"{changes['new']} new and {changes['grown']} grown findings" if "new" in changes else "not compared"
        lines.append(f"since the visit before: {found}")
        lines += [f"changes: {changes['report']}"] if changes.get("report") else []
    lines += [f"limit exceeded: {line}" for line in summary["broken"]]
    lines += [f"page: {summary['report']}"] if summary["report"] else []
    return "\n".join(map(visible, lines))


def notify(text: str, *, webhook: bool, mail: Mail | None) -> dict[str, str]:
    """Send a text to each receiver, at the same time; returns "" or the reason of a failure by receiver."""
    senders: dict[str, Callable[[], None]] = {}
    if webhook:
        senders["webhook"] = lambda: _post(text)
    if mail is not None:
        senders["mail"] = lambda: _mail(text, mail)
    outcomes = dict.fromkeys(senders, f"no answer within {LIMIT_S:g} s")
    deadline = time.monotonic() + LIMIT_S
    # Daemons: a look-up of a name cannot be interrupted, and must not keep the process alive.
    threads = [
        threading.Thread(target=_attempt, args=(outcomes, *one, deadline), daemon=True) for one in senders.items()
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join(max(0.0, deadline - time.monotonic()))
    return dict(outcomes)


def _attempt(outcomes: dict[str, str], name: str, send: Callable[[], None], deadline: float) -> None:
    for pause_s in (*PAUSES_S, None):
        try:
            send()
            outcomes[name] = ""
            return
        except (OSError, smtplib.SMTPException, http.client.HTTPException, ValueError, _Refused) as error:
            outcomes[name] = _without_secrets(reason(error))
            if pause_s is None or isinstance(error, _Refused | ValueError) or time.monotonic() >= deadline:
                return
        time.sleep(pause_s)


def _without_secrets(text: str) -> str:
    for name in (WEBHOOK_VARIABLE, PASSWORD_VARIABLE):
        secret = os.environ.get(name, "")
        text = text.replace(secret, "***") if secret else text
    return text


def _post(text: str) -> None:
    """One POST of {"text": ...}; a redirection is refused."""
    address = os.environ.get(WEBHOOK_VARIABLE, "").strip()
    url = urlsplit(address)
    # What http.client refuses of another address, it repeats without the host: a secret that would not be recognised.
    if url.scheme not in ("http", "https") or not url.hostname or not _ADDRESS.fullmatch(address):
        raise _Refused(f"{WEBHOOK_VARIABLE} is not set to an http or https address")
    if url.username is not None:
        raise _Refused(f"{WEBHOOK_VARIABLE} has a user name, and none is sent: use an address that needs none")
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname, url.port, timeout=ATTEMPT_S)
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")  # as Slack asks for
    try:
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        headers = {"Content-Type": "application/json"}
        connection.request("POST", target, json.dumps({"text": escaped}).encode(), headers)
        connection.sock.settimeout(LIMIT_S)
        status = connection.getresponse().status
    finally:
        connection.close()
    if status >= 500 or status == 429:
        raise OSError(f"the webhook answered {status}")
    if status >= 300:
        raise _Refused(f"the webhook answered {status}")


def _mail(text: str, mail: Mail) -> None:
    """One e-mail, whose subject is the first line."""
    message = EmailMessage()
    message["Subject"], message["From"] = text.partition("\n")[0], mail.sender
    message["To"] = ", ".join(mail.recipients)
    message.set_content(text)
    user, password = (os.environ.get(name, "") for name in (USER_VARIABLE, PASSWORD_VARIABLE))
    try:
        with _connected(mail.server) as server:
            server.ehlo_or_helo_if_needed()
            if server.has_extn("starttls"):
                server.starttls(context=ssl.create_default_context())
            elif password and not isinstance(server.sock, ssl.SSLSocket):
                raise _Refused(f"{mail.server} offers no TLS, so the password is not sent")
            if password:
                server.login(user, password)
            assert server.sock is not None, "it is connected"
            server.sock.settimeout(LIMIT_S)
            refused = server.send_message(message)
        if refused:  # the others have it, and would get it again
            codes_of = ", ".join(f"{recipient} ({code})" for recipient, (code, _) in refused.items())
            raise _Refused(f"{mail.server} refused {codes_of}; the other recipients have it")
    except smtplib.SMTPRecipientsRefused as error:
        codes: Sequence[int] = [code for code, _ in error.recipients.values()]
        text = f"{mail.server} refused the recipients ({', '.join(map(str, codes))})"
        raise (_Refused if min(codes) >= 500 else OSError)(text) from error
    except smtplib.SMTPResponseException as error:
        text = f"{mail.server} answered {error.smtp_code}"
        raise (_Refused if error.smtp_code >= 500 else OSError)(text) from error


def _connected(server: str) -> smtplib.SMTP:
    """A connection to HOST:PORT, over TLS if the port is TLS_PORT."""
    url = urlsplit(f"//{server}")
    assert url.hostname is not None and url.port is not None, "the settings allow HOST:PORT only"
    if url.port == TLS_PORT:
        context = ssl.create_default_context()
        return smtplib.SMTP_SSL(url.hostname, url.port, timeout=ATTEMPT_S, context=context)
    return smtplib.SMTP(url.hostname, url.port, timeout=ATTEMPT_S)
