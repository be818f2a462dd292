"""How settings are declared, checked and read: fields with a help text and bounds, text of flags, TOML files."""

import functools
import keyword
import math
import numbers
import os
import re
import reprlib
import tomllib
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

from crackvae.errors import ConfigError

# A local path or a URI. In Python an os.PathLike is accepted too.
Location = Annotated[str, "a path or a URI"]
# One or several of them. In Python a single one is accepted too; a flag may be repeated.
Locations = Annotated[tuple[str, ...], "paths or URIs"]


def setting(
    text: str,
    default: Any = MISSING,
    *,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
    lengths: Collection[int] | None = None,
    must: str = "",
    why: str = "",
    positional: bool = False,
) -> Any:
    """A field of a settings class; without a default it is required.

    Args:
        text: its help text.
        default: its default value.
        gt, ge, lt, le: bounds of the number, or of each number of a tuple; a number is always finite.
        lengths: allowed lengths of a tuple.
        must: the requirement in words, where the bounds alone do not say it: "be two counts, such as 5,15".
        why: reason or advice that ends the error message.
        positional: whether the command also accepts it as plain arguments, without its flag.
    """
    metadata = {"help": text, "bounds": _Bounds(gt, ge, lt, le), "lengths": lengths, "must": must, "why": why}
    metadata["positional"] = positional
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class _Bounds:
    gt: float | None
    ge: float | None
    lt: float | None
    le: float | None

    def hold(self, value: float) -> bool:
        return (
            math.isfinite(value)
            and (self.gt is None or value > self.gt)
            and (self.ge is None or value >= self.ge)
            and (self.lt is None or value < self.lt)
            and (self.le is None or value <= self.le)
        )

    def __str__(self) -> str:
        low, high = self.ge if self.gt is None else self.gt, self.le if self.lt is None else self.lt
        if high is None:
            lower = "be" if low is None else f"be {low:g} or more" if self.gt is None else f"be greater than {low:g}"
            return f"{lower}{'' if low is None else ', and'} finite"
        if self.gt is not None and self.lt is not None:
            return f"lie between {low:g} and {high:g}"
        excluded = [f"{one:g}" for one in (self.gt, self.lt) if one is not None]
        return f"lie in {low or 0:g}..{high:g}{f' ({excluded[0]} excluded)' if excluded else ''}"


# ---------------------------------------------------------------------------------------------------------- checks

# Values of another type in messages.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100


def check(config: Any) -> None:
    """Convert the fields of a frozen settings class to their types (a list to a tuple, a path to text) and check them.

    Raises:
        ConfigError: a value of another type, a choice that does not exist, or a number out of its bounds.
    """
    config_class: type = type(config)
    for one in fields(config):
        value, annotation = getattr(config, one.name), annotation_of(config_class, one.name)
        if value is None and is_optional(_hints(config_class)[one.name]):
            continue
        try:
            if isinstance(value, str) and annotation == tuple[str, ...] and not is_location(config_class, one.name):
                value = parse_value(annotation, value)
            converted = _converted(annotation, value)
        except TypeError as error:
            shown = " ".join(_SHORT.repr(value).split())  # a table of a million rows too
            raise ConfigError(f"{one.name}={shown} must be {error}.") from error
        object.__setattr__(config, one.name, converted)
        problem = _problem(one, annotation, converted)
        if problem:
            raise ConfigError(f"{one.name}={flag_text(converted)} {problem}{one.metadata['why']}.")


@functools.cache
def _hints(config_class: type) -> dict[str, Any]:
    return typing.get_type_hints(config_class)


def annotation_of(config_class: type, name: str) -> Any:
    """Type of a setting; of an optional one the type that it has when it is given."""
    annotation = _hints(config_class)[name]
    return typing.get_args(annotation)[0] if is_optional(annotation) else annotation


def is_location(config_class: type, name: str) -> bool:
    """Whether a setting is a path or a URI, or several."""
    return typing.get_type_hints(config_class, include_extras=True).get(name) in (Location, Locations)


def is_optional(annotation: Any) -> bool:
    """Whether None is a value: `int | None`."""
    return isinstance(annotation, types.UnionType)


def choices_of(annotation: Any) -> tuple[str, ...]:
    """Values of a Literal, or of the Literal that a tuple holds; none for another type."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    return choices_of(arguments[0]) if origin is tuple else arguments if origin is typing.Literal else ()


def _converted(annotation: Any, value: Any) -> Any:
    """The value in the type of its setting; a TypeError names that type."""
    origin = typing.get_origin(annotation) or annotation
    if origin is tuple and typing.get_args(annotation)[0] is str and isinstance(value, str | os.PathLike):
        return (os.fspath(value),)
    if origin is tuple and isinstance(value, tuple | list):
        return tuple(_converted(typing.get_args(annotation)[0], item) for item in value)
    if origin is dict and isinstance(value, Mapping):
        return {key: _converted(typing.get_args(annotation)[1], item) for key, item in value.items()}
    if origin in (str, typing.Literal) and isinstance(value, str | os.PathLike):
        return os.fspath(value)
    if (origin is bool) == isinstance(value, bool) and isinstance(value, _PYTHON_TYPES.get(origin, ())):
        return origin(value)
    names = {bool: "True or False", str: "text", typing.Literal: "text"}
    raise TypeError(names.get(origin, f"a {type_name(annotation)}"))


# Numbers of numpy, as they come from a table, are among these.
_PYTHON_TYPES: dict[Any, type] = {bool: bool, int: numbers.Integral, float: numbers.Real}


def type_name(annotation: Any) -> str:
    """The type of a setting in words."""
    origin = typing.get_origin(annotation) or annotation
    names = {int: "whole number", float: "number", str: "text", tuple: "list", dict: "table"}
    return names.get(origin, "text")


def _problem(config_field: "Field[Any]", annotation: Any, value: Any) -> str:
    """What is wrong with a value, or ""."""
    rules, choices = config_field.metadata, choices_of(annotation)
    items = value if isinstance(value, tuple) else (value,)
    if choices and not set(items) <= set(choices):
        return f"must {rules['must']}" if rules["must"] else f"is not one of {', '.join(filter(None, choices))}"
    in_bounds = all(rules["bounds"].hold(item) for item in items if isinstance(item, int | float))
    if in_bounds and (rules["lengths"] is None or len(value) in rules["lengths"]):
        return ""
    return f"must {rules['must'] or rules['bounds']}"


def group_by_problem(group_by: str) -> Iterator[str]:
    """What is wrong with a regular expression for groups."""
    try:
        re.compile(group_by)
    except re.error as error:
        yield (
            f"group_by={group_by} is not a valid regular expression: {error}. "
            "Try parent, or an expression such as (bridge-[0-9]+)."
        )


def is_date(text: str) -> bool:
    """Whether a text is a date such as 2026-11-23."""
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def time_of(text: str) -> datetime | None:
    """A date or a time such as `2026-11-23T18:00+01:00`, in UTC if it names no time zone; None for an empty text."""
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(
            f"since={text} is not a date or a time: write 2026-11-23 or 2026-11-23T18:00+01:00."
        ) from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def shard_numbers(text: str) -> tuple[int, int] | None:
    """Number and count of a shard such as `3/8`, counted from 1; None for an empty text."""
    if not text:
        return None
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    number, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= count:
        raise ConfigError(f"shard={text} is not a part of the images: write I/N, such as 1/8, 2/8, ... 8/8.")
    return number, count


def limit_of(text: str, n_images: int) -> float:
    """A limit such as `5` (images) or `1%` (of n_images) as a number of images."""
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = -1.0
    is_share = text.endswith("%")
    if not (0 <= value <= 100 if is_share else value >= 0 and value.is_integer()):
        raise ConfigError(f"{text!r} is not a limit: write a count such as 5, or a share such as 1%.")
    return value / 100 * n_images if is_share else value


def metres_of(text: str) -> float:
    """A precision of places such as `100m` in metres: 0 for an empty text, infinity for `off`."""
    if text in ("", "off"):
        return math.inf if text else 0.0
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(k?)m", text)
    metres = float(match[1]) * (1000 if match[2] else 1) if match else 0.0
    if not 0 < metres <= 1e6:
        raise ConfigError(f"{text!r} is not a precision of places: write 100m, 1km, or off to leave them out.")
    return metres


# -------------------------------------------------------------------------------------------- text and TOML files


def flag(name: str) -> str:
    """The flag of a setting; a Python keyword has an underscore at its end, `from_` for --from."""
    return f"--{name.rstrip('_').replace('_', '-')}"


def flag_text(value: Any) -> str:
    """A value as it is written after its flag."""
    if isinstance(value, Mapping):
        return ",".join(f"{key}={item}" for key, item in value.items())
    if isinstance(value, float):
        return f"{value:g}"
    return ",".join(map(flag_text, value)) if isinstance(value, tuple | list) else str(value)


def parse_value(annotation: Any, text: str) -> Any:
    """The value of a setting from the text of a flag; whether it is a choice that exists is checked later.

    Raises:
        ValueError: the text is not a value of that type.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if is_optional(annotation):
        return parse_value(arguments[0], text)
    if origin is typing.Literal:
        return text
    if origin is tuple:
        return tuple(parse_value(arguments[0], part) for part in text.split(",") if part)
    if origin is dict:
        pairs = [part.split("=") for part in text.split(",") if part]
        if any(len(pair) != 2 for pair in pairs):
            raise ValueError(f"{text!r} is not NAME=VALUE,...")
        return dict(pairs)
    try:
        return annotation(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a {type_name(annotation)}") from None


def read_settings(file: str, config_class: type) -> dict[str, Any]:
    """Settings of a verb from a TOML file; keys are flags, with or without dashes.

    Raises:
        ConfigError: the file cannot be read, or holds an unknown setting or a value of another type.
    """
    known = {config_field.name: config_field for config_field in fields(config_class)}
    settings = {}
    for key, value in _read_toml(file).items():
        name = key.replace("-", "_")
        name += "_" if keyword.iskeyword(name) else ""
        if name not in known:
            if isinstance(value, Mapping):
                raise ConfigError(f"--config {file}: [{key}] is no setting: write the settings without such a line.")
            raise ConfigError(
                f"--config {file}: unknown setting {key!r}{suggestion(name, known)}. Known: {', '.join(sorted(known))}."
            )
        try:
            annotation = annotation_of(config_class, name)
            if is_location(config_class, name) and annotation is not str:  # the comma is a character of paths
                settings[name] = _converted(annotation, value)
            else:
                settings[name] = _toml_value(annotation, value)
        except ValueError as error:
            raise ConfigError(f"--config {file}: {name} = {value!r} is wrong: {error}.") from error
        except TypeError as error:
            raise ConfigError(f"--config {file}: {name} = {value!r} must be {error}.") from error
    return settings


def _read_toml(file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(file).read_text(encoding="utf-8-sig"))  # Windows editors put a byte-order mark first
    except OSError as error:
        raise ConfigError(f"--config {file}: cannot be read: {error.strerror}. Check the path.") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"--config {file}: {error}. Correct the file, or give the settings as flags.") from error


def _toml_value(annotation: Any, value: Any) -> Any:
    """A list or table by its items, in which commas do not separate; any other value as the text of the flag."""
    shape = typing.get_origin(annotation) or annotation
    if isinstance(value, bool) != (shape is bool):
        raise ValueError("must be true or false" if shape is bool else "true and false are for switches")
    if (isinstance(value, list) and shape is not tuple) or (isinstance(value, Mapping) and shape is not dict):
        raise ValueError("expected a single value")
    if isinstance(value, list | Mapping):
        return _converted(annotation, value)
    return value if isinstance(value, bool) else parse_value(annotation, str(value))


def suggestion(name: str, known: Collection[str]) -> str:
    """`, did you mean X?` for a name that is close to a known one, or ""."""
    import difflib  # only needed after a mistake

    near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""
