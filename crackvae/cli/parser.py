"""The command line of `crackvae`: one subcommand per verb, one flag per setting."""

import argparse
import sys
import typing
from collections.abc import Sequence
from dataclasses import Field
from typing import Any

import crackvae
from crackvae.api import VERBS, default_of, is_required, ordered_fields
from crackvae.config.settings import annotation_of, flag, flag_text, parse_value, suggestion
from crackvae.console import say, write

EXIT_USER = 2


class Parser(argparse.ArgumentParser):
    """Reports a usage error in one line; argparse would fill the screen with the usage first."""

    def error(self, message: str) -> typing.NoReturn:
        say(f"{self.prog}: {message}. See {self.prog} --help.", quiet=False)
        self.exit(EXIT_USER)

    def print_help(self, file: typing.Any = None) -> None:
        write(file or sys.stdout, self.format_help())


def parse(arguments: Sequence[str]) -> dict[str, Any]:
    """The verb and the given flags; a usage error ends the process with one line and exit code 2."""
    parser = Parser(prog="crackvae", description=_description(), allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"crackvae {crackvae.__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    by_verb = {verb: _add_verb(verbs, verb) for verb in VERBS}
    # Top-level flags take no value, so that the first word is the verb.
    word = next((one for one in arguments if not one.startswith("-")), None)
    if word is not None and word not in VERBS:
        parser.error(f"unknown verb {word!r}{suggestion(word, VERBS)}. Known: {', '.join(VERBS)}")
    chosen, unknown = parser.parse_known_args(arguments)
    if unknown:
        own = by_verb[chosen.verb]
        name = unknown[0].split("=")[0]
        own.error(f"unknown argument {name}{suggestion(name, [flag for flag in own._option_string_actions if flag])}")
    return vars(chosen)


def _description() -> str:
    return (crackvae.__doc__ or "").splitlines()[0]


def _add_verb(verbs: Any, verb: str) -> Parser:
    config_class = VERBS[verb].config
    text = (config_class.__doc__ or "").strip()
    one: Parser = verbs.add_parser(verb, help=text.splitlines()[0], description=text, allow_abbrev=False)
    one.add_argument("--config", metavar="FILE.toml", help="read settings from a file; flags override it")
    for config_field in ordered_fields(config_class):
        _add_flag(one, config_field, annotation_of(config_class, config_field.name))
    return one


def _add_flag(parser: argparse.ArgumentParser, config_field: "Field[Any]", annotation: Any) -> None:
    options: dict[str, Any] = {"dest": config_field.name, "default": argparse.SUPPRESS}
    text = config_field.metadata["help"].replace("%", "%%")
    if annotation is bool:
        parser.add_argument(flag(config_field.name), action="store_true", help=text, **options)
        return

    def parse_text(value: str) -> Any:
        return parse_value(annotation, value)

    parse_text.__name__ = getattr(annotation, "__name__", str(annotation))  # argparse names it in its error message
    parser.add_argument(flag(config_field.name), type=parse_text, help=text + _default_text(config_field), **options)


def _default_text(config_field: "Field[Any]") -> str:
    if is_required(config_field):
        return " (required)"
    text = "" if default_of(config_field) is None else flag_text(default_of(config_field))
    return f" (default: {text.replace('%', '%%')})" if text else ""
