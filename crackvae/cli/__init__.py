"""The command `crackvae VERB`: parse, call, print tables and one JSON line, give the exit code."""

import argparse
import importlib
import itertools
import json
import os
import signal
import sys
import threading
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, fields
from typing import Any

import crackvae
from crackvae import config as settings
from crackvae.config import Outcome, VerbConfig, flag, parse_value, read_settings, with_preset
from crackvae.console import say, tables_text, terminal_width, write
from crackvae.errors import ConfigError, CrackvaeError, LimitBroken

# Verb: where its function is, and its settings. Modules are imported when called, so that --help needs no ray or torch.
VERBS: dict[str, tuple[str, type[VerbConfig]]] = {
    "partition": ("crackvae.images.manifest", settings.PartitionConfig),
    "train": ("crackvae.training.driver", settings.TrainConfig),
    "calibrate": ("crackvae.scoring.calibrate", settings.CalibrateConfig),
    "evaluate": ("crackvae.evaluation", settings.EvaluateConfig),
    "score": ("crackvae.scoring.verb", settings.ScoreConfig),
    "compact": ("crackvae.scoring.compaction", settings.CompactConfig),
    "nightly": ("crackvae.scoring.nightly", settings.NightlyConfig),
    "report": ("crackvae.reports.verb", settings.ReportConfig),
    "export": ("crackvae.model.export", settings.ExportConfig),
    "demo": ("crackvae.cli.demo", settings.DemoConfig),
}
EXIT_DONE, EXIT_USER = 0, 2  # a bug ends with its traceback and 1
# As a shell counts: 130 for Ctrl-C, 143 for the SIGTERM with which clusters and operating systems ask to end.
EXIT_INTERRUPTED, EXIT_TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
# The folder that Ray copies a submitted job to, and deletes with it.
JOB_FOLDER = "/runtime_resources/working_dir_files/"
OUTPUTS = ("out", "model")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb. Exit code: 0 done, 2 a mistake of the user or a broken limit, 1 a bug (with its traceback)."""
    parser = _parser()
    chosen = vars(parser.parse_args(arguments))
    with _terminable() as terminated:
        code = _run(chosen.pop("verb"), chosen, terminated)
    if "crackvae.session" in sys.modules:  # a verb that may have used Ray
        importlib.import_module("crackvae.session").exit_if_head_hangs(code)
    return code


def _run(verb: str, chosen: dict[str, Any], terminated: threading.Event) -> int:
    module, config_class = VERBS[verb]
    try:
        config = _settings(config_class, chosen)
        _refuse_lost_output(verb, config)
        function: Callable[[VerbConfig], Outcome] = getattr(importlib.import_module(module), verb)
        outcome = function(config)
    except CrackvaeError as error:
        if isinstance(error, LimitBroken):
            _print(error.outcome)
        say(f"crackvae {verb}: {' '.join(str(error).split())}", quiet=False)
        return EXIT_USER
    except MemoryError as error:
        say(f"crackvae {verb}: out of memory ({' '.join(str(error).split()) or 'no more'}).", quiet=False)
        return EXIT_USER
    except KeyboardInterrupt:
        say(f"crackvae {verb}: interrupted. Run the same command again to go on.", quiet=False)
        return EXIT_TERMINATED if terminated.is_set() else EXIT_INTERRUPTED
    _print(outcome)
    return EXIT_DONE


@contextmanager
def _terminable() -> Iterator[threading.Event]:
    """For the time of the block Ctrl-C and SIGTERM interrupt once; tells whether SIGTERM came.

    A second one must not break off the writing of what is finished. A third Ctrl-C ends the process on the spot, for
    whoever cannot wait: files are whole or not there.
    """
    terminated, times = threading.Event(), itertools.count(1)

    def interrupt(number: int, _frame: object) -> None:
        time = next(times)
        if time == 1:
            if number == signal.SIGTERM:
                terminated.set()
            raise KeyboardInterrupt
        if number == signal.SIGINT and time > 2:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        os.write(2, b"ending: what is finished is being written. A third Ctrl-C ends at once.\n")

    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield terminated
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield terminated
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


class _Parser(argparse.ArgumentParser):
    """Says a mistake in one line; argparse's own way fills the screen with the usage first."""

    def error(self, message: str) -> typing.NoReturn:
        say(f"{self.prog}: {message}. See {self.prog} --help.", quiet=False)
        self.exit(EXIT_USER)

    def print_help(self, file: typing.Any = None) -> None:
        write(file or sys.stdout, self.format_help())


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="crackvae", description=crackvae.__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"crackvae {crackvae.__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, (_, config_class) in VERBS.items():
        text = (config_class.__doc__ or "").strip()
        one = verbs.add_parser(verb, help=text.splitlines()[0], description=text, allow_abbrev=False)
        one.add_argument("--config", metavar="FILE.toml", help="read settings from a file; flags win over it")
        annotations = typing.get_type_hints(config_class)
        for config_field in sorted(fields(config_class), key=lambda one: one.default is not MISSING):
            _add_flag(one, config_field, annotations[config_field.name])
    return parser


def _add_flag(parser: argparse.ArgumentParser, config_field: "Field[Any]", annotation: Any) -> None:
    options: dict[str, Any] = {"dest": config_field.name, "default": argparse.SUPPRESS}
    text = config_field.metadata["help"]
    if annotation is bool:
        parser.add_argument(flag(config_field.name), action="store_true", help=text, **options)
        return

    def parse(value: str) -> Any:
        return parse_value(annotation, value)

    plain = next(iter(typing.get_args(annotation)), annotation) if type(annotation) is types.UnionType else annotation
    parse.__name__ = getattr(plain, "__name__", str(plain))  # argparse names it in its error
    default = config_field.default
    if default is MISSING and config_field.default_factory is not MISSING:
        default = config_field.default_factory()
    parser.add_argument(flag(config_field.name), type=parse, help=text + _default_text(default), **options)


def _default_text(default: Any) -> str:
    if default is MISSING:
        return " (required)"
    if default is None or default == "":
        return ""
    if isinstance(default, dict):
        default = [f"{key}={value}" for key, value in default.items()]
    text = ",".join(map(str, default)) if isinstance(default, tuple | list) else str(default)
    return f" (default: {text.replace('%', '%%')})"


def _settings(config_class: type[VerbConfig], flags: dict[str, Any]) -> VerbConfig:
    """Settings from the TOML file, if there is one, and flags over it."""
    file = flags.pop("config")
    values = with_preset((read_settings(file, config_class) if file else {}) | flags)
    if values.get("resume"):
        values = importlib.import_module("crackvae.training.checkpoints").with_run(values)
    required = [one.name for one in fields(config_class) if one.default is MISSING and one.default_factory is MISSING]
    missing = [flag(name) for name in required if name not in values]
    if missing:
        raise ConfigError(f"{' and '.join(missing)} must be given. See --help.")
    return config_class(**values)


def _refuse_lost_output(verb: str, config: VerbConfig) -> None:
    """A submitted job runs in a copy of its folder, which Ray deletes: a relative output would be lost with it."""
    if JOB_FOLDER not in os.getcwd():
        return
    for name in OUTPUTS:
        place = getattr(config, name, "/")
        if "://" not in place and not os.path.isabs(place) and not (name == "model" and verb != "train"):
            raise ConfigError(
                f"{flag(name)} {place} is relative, and this job's folder is deleted with the job: "
                "give an absolute path or a URI."
            )


def _print(outcome: Outcome) -> None:
    """Tables for people, then the summary as one JSON line, always the last."""
    shown = tables_text(outcome.tables, terminal_width(sys.stdout))
    write(sys.stdout, f"\n{shown}\n\n{json.dumps(outcome.summary, allow_nan=False)}\n")
