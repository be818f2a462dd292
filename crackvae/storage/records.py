"""Small JSON files with a typed model each: validated when they are read."""

from collections.abc import Iterable
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from crackvae.errors import StorageError
from crackvae.storage.fileio import read_bytes, write_bytes

Record = TypeVar("Record", bound=BaseModel)


def read_record(path: str, model: type[Record], fix: str) -> Record:
    """The content of a JSON file.

    Args:
        fix: what the user should do with a damaged file, one sentence.

    Raises:
        StorageError: not readable, or not a record of this model.
    """
    try:
        return model.model_validate_json(read_bytes(path))
    except ValidationError as error:
        raise StorageError(f"{path} is damaged ({problems(error)}). {fix}") from error


def read_lines(path: str, model: type[Record], fix: str) -> list[Record]:
    """The records of a file with one JSON object per line; arguments and errors are those of read_record()."""
    try:
        return [model.model_validate_json(line) for line in read_bytes(path).splitlines()]
    except ValidationError as error:
        raise StorageError(f"{path} is damaged ({problems(error)}). {fix}") from error


def write_lines(path: str, records: Iterable[BaseModel]) -> None:
    """Write what read_lines() reads, complete or not at all."""
    write_bytes(path, "".join(f"{one.model_dump_json()}\n" for one in records).encode())


def problems(error: ValidationError) -> str:
    """What is wrong with a record, in one line."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, one['loc'])) or 'JSON'}: {one['msg']}" for one in details[:3])
