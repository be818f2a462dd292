"""Small JSON files with a typed model each: validated when they are read."""

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from crackvae.errors import StorageError
from crackvae.storage.fileio import read_bytes

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


def problems(error: ValidationError) -> str:
    """What is wrong with a record, in one line."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, one['loc'])) or 'JSON'}: {one['msg']}" for one in details[:3])
