"""The result that every verb returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import pandas as pd

AnyResult = TypeVar("AnyResult", bound="Result")


@dataclass(frozen=True)
class Result:
    """What a verb returns.

    Attributes:
        summary: JSON values; the command prints them as its last line on standard output.
        tables: pandas tables by title, in the order in which the command prints them.
    """

    summary: dict[str, Any] = field(repr=False)
    tables: "dict[str, pd.DataFrame]" = field(repr=False)


def typed(result_class: type[AnyResult], result: Result) -> AnyResult:
    """The result of a verb in its own type, whose fields are entries of the summary.

    The metadata `path` of a field names an entry of another name (`report`) or a nested one (`drift.level`).
    """
    named = {
        one.name: _entry(result.summary, one.metadata.get("path", one.name))
        for one in fields(result_class)
        if one.name not in ("summary", "tables")
    }
    return result_class(summary=result.summary, tables=result.tables, **named)


def _entry(summary: Mapping[str, Any], path: str) -> Any:
    value: Any = summary
    for key in path.split("."):
        value = value[key]
    return value
