"""People are told of a night once, by a webhook and an SMTP server that are busy at first; dead ones cost little."""

import json
from pathlib import Path

import pytest
from conftest import small_spec, write_model
from receivers import mail_server, receiver, silent_port

from crackvae.cli import main
from crackvae.config import CalibrateConfig
from crackvae.monitoring import notifications
from crackvae.monitoring.notifications import message_of
from crackvae.scoring.calibrate import calibrate

pytestmark = [pytest.mark.usefixtures("in_process"), pytest.mark.slow]

MAIL = ["--mail-from", "night@example.org", "--mail-to", "anna@example.org,ben@example.org"]


@pytest.fixture
def command(drawn: Path, tmp_path: Path) -> list[str]:
    """A night of drawn images that breaks no limit, without a page."""
    model = write_model(tmp_path / "model", small_spec(head="mse"))
    calibrate(CalibrateConfig(model=str(model), images=str(drawn / "non_crack"), quiet=True))
    settings = {"--images": drawn / "non_crack", "--model": model, "--out": tmp_path / "out", "--night": "2026-11-23"}
    return ["nightly", *(str(part) for pair in settings.items() for part in pair), "--no-report", "--quiet"]


def test_each_receiver_gets_the_summary_of_the_night_once_though_it_was_busy_at_first(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "PAUSES_S", (0.0, 0.0))
    with receiver(503, 200) as (url, posted), mail_server(busy=1) as (mail, inbox):
        monkeypatch.setenv(notifications.WEBHOOK_VARIABLE, url)
        assert main([*command, "--webhook", "--mail-server", mail.server, *MAIL]) == 0
    summary = json.loads((tmp_path / "out" / "_nightly-2026-11-23.json").read_text())
    text = message_of(summary)
    assert [body["text"] for _, _, body in posted] == [text, text], "refused with 503, then taken"
    (message,) = inbox.messages
    assert inbox.attempts == 2 and message["To"] == "anna@example.org, ben@example.org"
    assert message.get_payload(decode=True).decode().replace("\r\n", "\n").strip() == text
    assert text.startswith("crackvae, night of 2026-11-23: ") and "240 images scored" in text


def test_receivers_that_never_answer_change_neither_the_exit_code_nor_what_is_written(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(notifications, "LIMIT_S", 0.5)
    with silent_port() as web, silent_port() as smtp:
        monkeypatch.setenv(notifications.WEBHOOK_VARIABLE, f"http://127.0.0.1:{web}/secret")
        assert main([*command, "--webhook", "--mail-server", f"127.0.0.1:{smtp}", *MAIL]) == 0
    told = capsys.readouterr().err
    for name in ("webhook", "mail"):
        assert f"{name}: the outcome of the night was not delivered: no answer within 0.5 s" in told
    assert (tmp_path / "out" / "_nightly-2026-11-23.json").exists() and "secret" not in told
