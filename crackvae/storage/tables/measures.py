"""What scoring measures on each image besides its score: counted on the driver, and not in any table."""

import pyarrow as pa

from crackvae.storage.tables import SCORES_SCHEMA

MEASURES_SCHEMA = pa.schema(
    [
        ("contrast", pa.float32()),  # NaN where an image is not scored
        ("sharpness", pa.float32()),
        ("latent_norm", pa.float32()),  # also NaN where it was not computed
        ("screened", pa.int32()),  # tiles that bfloat16 scored first
        ("again", pa.int32()),  # and those of them that float32 scored again
    ]
)

MEASURED_SCHEMA = pa.schema([*SCORES_SCHEMA, *MEASURES_SCHEMA])
