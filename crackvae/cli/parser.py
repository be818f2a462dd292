"""The command line of `crackvae`: one subcommand per verb, one flag per setting."""

import argparse
import importlib
import os
import sys
import typing
from collections.abc import Sequence
from dataclasses import Field, fields
from typing import Any

import crackvae
from crackvae.api import VERBS, Verb, default_of, is_required, ordered_fields
from crackvae.config.settings import (
    annotation_of,
    choices_of,
    flag,
    flag_text,
    is_location,
    parse_value,
    suggestion,
    type_name,
)
from crackvae.console import say, write

EXIT_USER = 2

# Column in which help texts start, so that most flags fit beside their text [characters].
HELP_COLUMN = 28

FIRST_STEPS = (
    "Begin with crackvae score PHOTOS, which needs no training: a model comes with it; the page is named at the end. "
    "Then crackvae adapt --images PHOTOS --model NEW --quick sets the threshold for these photographs."
)


class Parser(argparse.ArgumentParser):
    """Reports a usage error in one line; argparse would fill the screen with the usage first."""

    def __init__(self, **options: Any) -> None:
        def formatter(prog: str) -> argparse.HelpFormatter:
            return argparse.HelpFormatter(prog, max_help_position=HELP_COLUMN)

        super().__init__(formatter_class=formatter, **options)

    def error(self, message: str) -> typing.NoReturn:
        say(f"{self.prog}: {message}. See {self.prog} --help.", quiet=False)
        self.exit(EXIT_USER)

    def print_help(self, file: typing.Any = None) -> None:
        write(file or sys.stdout, self.format_help())


def parse(arguments: Sequence[str]) -> dict[str, Any]:
    """The verb and the given flags; a usage error ends the process with one line and exit code 2."""
    parser, by_verb = parsers()
    if "_ARGCOMPLETE" in os.environ:  # a shell asks for completions, see docs/guide.md
        argcomplete = importlib.import_module("argcomplete")
        argcomplete.autocomplete(parser)  # ends the process
    word = arguments[0] if arguments else "-"
    if not word.startswith("-") and word not in VERBS:
        parser.error(f"unknown verb {word!r}{suggestion(word, VERBS)}. Known: {', '.join(VERBS)}")
    end = arguments.index("--") if "--" in arguments else len(arguments)  # what follows is plain, -odd.jpg too
    known, rest = parser.parse_known_args(arguments[:end])
    chosen = vars(known)
    own, name = by_verb[chosen["verb"]], positional_of(VERBS[chosen["verb"]])
    plain = [*chosen.pop("plain", []), *(one for one in rest if not one.startswith("-")), *arguments[end + 1 :]]
    unknown = next((one.split("=")[0] for one in rest if one.startswith("-")), None)
    if unknown is None and plain and not name:
        unknown = plain[0]
    if unknown is not None:
        own.error(f"unknown argument {unknown}{suggestion(unknown, list(own._option_string_actions))}")
    if plain:
        _add_plain(own, chosen, name, plain)
    return chosen


def _add_plain(parser: Parser, chosen: dict[str, Any], name: str, plain: list[str]) -> None:
    """Plain arguments, which may stand before and after flags, in the setting that they belong to."""
    if annotation_of(VERBS[chosen["verb"]].config, name) is str:
        if len(plain) > 1 or name in chosen:
            parser.error(f"{parser.prog.rpartition(' ')[2]} takes one {name}, and not {plain[-1]} as well")
        chosen[name] = plain[0]
    else:
        chosen[name] = [*plain, *chosen.get(name, [])]


def parsers() -> tuple[Parser, dict[str, Parser]]:
    """The parser of the command, and those of its verbs."""
    description = (crackvae.__doc__ or "").partition("\n")[0]
    parser = Parser(prog="crackvae", description=description, epilog=FIRST_STEPS, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"crackvae {crackvae.__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, title="verbs", metavar="VERB [flags]")
    return parser, {name: _add_verb(verbs, name, verb) for name, verb in VERBS.items()}


def positional_of(verb: Verb) -> str:
    """The setting that plain arguments belong to, or ""."""
    return next((one.name for one in fields(verb.config) if one.metadata["positional"]), "")


def _add_verb(verbs: Any, name: str, verb: Verb) -> Parser:
    text = (verb.config.__doc__ or "").strip()
    positional = positional_of(verb)
    is_one = bool(positional) and annotation_of(verb.config, positional) is str
    plain = f"[{positional.upper()}{'' if is_one else ' ...'}] " if positional else ""
    one: Parser = verbs.add_parser(
        name,
        help=text.partition("\n")[0],
        description=text,
        usage=f"crackvae {name} {plain}[flags]",
        allow_abbrev=False,
    )
    if positional:
        one.add_argument("plain", nargs="*", metavar=positional.upper(), help=f"same as {flag(positional)}")
    one.add_argument("--config", metavar="FILE.toml", help="read settings from a file; flags override it")
    for config_field in ordered_fields(verb.config):
        _add_flag(one, config_field, verb.config)
    if "page" in verb.result.__dataclass_fields__:
        one.add_argument("--open", action="store_true", help="open the page in a browser", default=argparse.SUPPRESS)
    return one


def _add_flag(parser: argparse.ArgumentParser, config_field: "Field[Any]", config_class: type) -> None:
    name, annotation = config_field.name, annotation_of(config_class, config_field.name)
    text = config_field.metadata["help"].replace("%", "%%") + _default_text(config_field)
    options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": text}
    if annotation is bool:
        parser.add_argument(flag(name), action="store_true", **options)
    elif is_location(config_class, name):
        action = "store" if annotation is str else "append"
        parser.add_argument(flag(name), action=action, metavar="PATH", **options)
    else:
        choices = [choice for choice in choices_of(annotation) if choice]
        metavar = "|".join(choices) or type_name(annotation).split()[-1].upper()
        added = parser.add_argument(flag(name), type=_reader(annotation), metavar=metavar, **options)
        if choices:  # argparse need not know them: a wrong one is an error of the settings, also in a file
            added.completer = lambda **_: choices  # type: ignore[attr-defined]


def _reader(annotation: Any) -> Any:
    def read(text: str) -> Any:
        try:
            return parse_value(annotation, text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def _default_text(config_field: "Field[Any]") -> str:
    if is_required(config_field):
        return " (required)"
    text = "" if default_of(config_field) is None else flag_text(default_of(config_field))
    return f" (default: {text.replace('%', '%%')})" if text else ""
