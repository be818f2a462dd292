"""Which rows of pages, windows and frames count: those of their file as it was last seen.

A file that was replaced may have fewer pages, and a limit of pixels decides whether a very large TIFF is listed whole
or by its windows. What an earlier run wrote under a name that is no longer listed stays in the table, and must not
count.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crackvae.storage.names.excerpts import VIDEO_SUFFIXES

# Of a page, a window and a frame, for pyarrow.
_SUFFIXES = "|".join(suffix[1:] for suffix in (".tif", ".tiff", *VIDEO_SUFFIXES))
_PART = rf"(?is)(\.(?:{_SUFFIXES})(?:\?.*)?)!/(?:page=\d+|t=\d+\.\d{{3}}|x=\d+,y=\d+,w=\d+,h=\d+)$"
_MARKS, _PAGE = r"!/(?:page|[tx])=", r"!/page=\d+$"

# What a part has in common with the others of its file; a table without these columns is not compared by them.
VERSION_OF_FILE = ("bytes", "modified")


def files_of(images: pa.ChunkedArray) -> pa.ChunkedArray:
    """Each name, or that of the file of which it is a page, a window or a frame."""
    if not pc.any(pc.match_substring_regex(images, _MARKS)).as_py():
        return images
    return pc.replace_substring_regex(images, _PART, r"\1")


def without_superseded(rows: pa.Table, *, of_any_model: bool = False) -> pa.Table:
    """The rows without those of earlier versions of a file, and those of its windows or of the whole that came before.

    Args:
        rows: with VERSION_KEY and, to tell versions apart, VERSION_OF_FILE; each image and model once.
        of_any_model: whether rows of all models are compared with each other, not only those of each; then each image
            once.
    """
    images = rows["image"].cast(pa.string())
    files = files_of(images)
    if files is images:
        return rows
    import pandas as pd  # imported here: it takes 0.3 s, and few tables need it

    names = ["file"] if of_any_model else ["file", "model"]
    columns = {"file": files, **{name: rows[name].cast(pa.string()) for name in (*names[1:], "run")}}
    columns |= {name: rows[name].cast(pa.int64()) for name in VERSION_OF_FILE if name in rows.column_names}
    frame = pa.table(columns).to_pandas()
    key = pd.MultiIndex.from_frame(frame[names])

    def newest(is_among_N: np.ndarray, column: str) -> np.ndarray:
        """The value in the newest of some rows of the same file, for each row."""
        last = frame[is_among_N].sort_values("run", kind="stable").drop_duplicates(names, keep="last")
        return np.asarray(pd.Series(last[column].to_numpy(), pd.MultiIndex.from_frame(last[names])).reindex(key))

    kept_N = np.ones(len(frame), bool)
    if {*VERSION_OF_FILE} <= {*frame}:
        has_size_N = frame["bytes"].to_numpy() > 0  # an image that storage did not deliver may have none
        for name in VERSION_OF_FILE:
            kept_N &= ~has_size_N | (frame[name].to_numpy() == newest(has_size_N, name))
    is_whole_N = pc.equal(files, images).to_numpy()
    is_excerpt_N = ~is_whole_N & ~pc.match_substring_regex(images, _PAGE).to_numpy()
    for one_N, other_N in ((is_whole_N, is_excerpt_N), (is_excerpt_N, is_whole_N)):
        of_one, of_other = (pd.Series(newest(among_N & kept_N, "run")).fillna("") for among_N in (one_N, other_N))
        kept_N &= ~one_N | (of_one >= of_other).to_numpy()
    return rows.filter(pa.array(kept_N))
