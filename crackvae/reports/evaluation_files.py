"""Files of an evaluation, and the schema of its table."""

from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from crackvae.storage import tables

# Files that `evaluate` writes; metrics.json is written last, so its presence means that the folder is complete.
METRICS_FILE, TABLE_FILE, PAGE_FILE = "metrics.json", "evaluation.parquet", "report.html"

EVALUATION_SCHEMA = pa.schema(
    [
        *(column for column in tables.SCORES_SCHEMA if column.name != "tile_scores"),
        ("label", pa.string()),
        ("set", pa.string()),
        ("split", pa.string()),
    ]
)


class MetricsFile(BaseModel):
    """What a page needs of metrics.json; the other entries are kept."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    sets: dict[str, dict[str, Any]]
    model: str
    threshold: float
