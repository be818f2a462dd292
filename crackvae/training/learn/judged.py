"""The images of some nights, the verdicts on them, and what each image is used for.

Shape letters: N images, T tiles, P side of a tile at the input [px].
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crackvae.errors import CalibrationError, ManifestError
from crackvae.images.decoded import tiles_of
from crackvae.model.spec import ModelSpec
from crackvae.storage import tables, uris
from crackvae.storage.tables.verdicts import logged_verdicts
from crackvae.training.adapt.site import MIN_GROUPS, sides_of
from crackvae.training.tile_loader import decode_images_of, tile_counts

# Share of the tiles that set the threshold. The verdicts on them are not trained on, so it is less than for `adapt`.
CALIBRATION_SHARE = 0.25

COLUMNS = ["image", "group", "status", "score", "width", "height", "bytes", "worst_x", "worst_y", "run"]


@dataclass(frozen=True)
class JudgedNights:
    """The scored images of some nights, each once.

    Attributes:
        table: COLUMNS, sha256 ("": it may have changed since) and verdict ("crack", "sound", or "" without one).
        sides_N: what each image is used for: "calibration" or "train".
        tiles_N: number of tiles of each image.
    """

    table: pa.Table
    sides_N: np.ndarray
    tiles_N: np.ndarray

    @property
    def digest(self) -> str:
        """Hash of the images, their groups and the verdicts on them."""
        columns = (self.table[name].to_pylist() for name in ("image", "group", "verdict"))
        return hashlib.sha256("\n".join(map("\t".join, zip(*columns, strict=True))).encode()).hexdigest()

    def counts(self) -> dict[str, dict[str, int]]:
        """Number of images by side and verdict."""
        verdicts_N = np.asarray(self.table["verdict"].to_pylist())
        return {
            side: {
                verdict or "not judged": int(((self.sides_N == side) & (verdicts_N == verdict)).sum())
                for verdict in ("crack", "sound", "")
            }
            for side in ("train", "calibration")
        }

    def chosen(self, side: str, *verdicts: str) -> tuple[pa.Table, np.ndarray]:
        """The images of one side with one of these verdicts, and the number of tiles of each."""
        is_chosen_N = (self.sides_N == side) & np.isin(self.table["verdict"].to_pylist(), verdicts)
        return self.table.filter(pa.array(is_chosen_N)), self.tiles_N[is_chosen_N]


def read_nights(folders: tuple[str, ...], spec: ModelSpec, group_by: str, seed: int) -> JudgedNights:
    """The scored images in some folders of scores, with the verdicts on which reviewers agree; a joint is sound.

    Raises:
        ManifestError: nobody has judged any of them.
        CalibrationError: too few groups.
    """
    nights = pa.concat_tables([_images_of(uris.absolute(folder)) for folder in folders])
    table = _with_verdicts(tables.last_of_each(nights), nights)
    if not pc.any(pc.not_equal(table["verdict"], "")).as_py():
        raise ManifestError(f"no verdict on the images of {', '.join(folders)}: judge some with crackvae review.")
    if group_by == "none":
        table = table.set_column(table.schema.get_field_index("group"), "group", table["image"])
    groups = table["group"].to_pylist()
    if len(set(groups)) < MIN_GROUPS:
        raise CalibrationError(
            f"the images belong to {len(set(groups))} groups, and at least {MIN_GROUPS} are divided between training "
            "and threshold: score with a finer --group-by, or give --group-by none (where neighbouring photographs "
            "are alike, the promise of the threshold is then optimistic)."
        )
    tiles_N = tile_counts(table, spec)
    sides_N = sides_of(groups, tiles_N, quick=False, salt=str(seed), calibration=CALIBRATION_SHARE)
    return JudgedNights(table, np.where(sides_N == "calibration", sides_N, "train"), tiles_N)


def _with_verdicts(images: pa.Table, nights: pa.Table) -> pa.Table:
    """The images with the last verdict that a night has on each: a night that nobody judged withdraws none."""
    judged = nights.filter(pc.not_equal(nights["verdict"], ""))
    verdicts = dict(zip(*judged.select(["image", "verdict"]).to_pydict().values(), strict=True))
    column = pa.array([verdicts.get(image, "") for image in images["image"].to_pylist()], pa.string())
    return images.set_column(images.schema.get_field_index("verdict"), "verdict", column)


def _images_of(scores: str) -> pa.Table:
    """The scored images in a folder of scores, each once, with their verdicts."""
    rows = tables.read_scores(scores, COLUMNS)
    rows = tables.latest_of_each(rows.filter(pc.equal(rows["status"], "scored")))
    known = {"crack": "crack", "sound": "sound", "joint": "sound"}
    verdicts = {image: known.get(verdict, "") for image, verdict in logged_verdicts(scores).items()}
    judged = [verdicts.get(image, "") for image in rows["image"].to_pylist()]
    rows = rows.append_column("sha256", pa.array([""] * rows.num_rows, pa.string()))
    return rows.append_column("verdict", pa.array(judged, pa.string()))


def worst_tiles(images: pa.Table, what: str, spec: ModelSpec, *, quiet: bool) -> tuple[np.ndarray, pa.Table]:
    """The tile of each image that its reviewer was shown, the one with the highest score; uint8 (T, P, P).

    Returns:
        also the images of these tiles: one that shows no surface any more has none.

    Raises:
        ManifestError: images that cannot be read (named).
    """
    found: dict[str, np.ndarray] = {}
    worst = {row["image"]: (row["worst_x"], row["worst_y"]) for row in images.to_pylist()}

    def take(decoded: pa.Table) -> None:
        starts, tiles_TPP = 0, tiles_of(decoded, spec.input_px)
        for row in decoded.select(["image", "rows", "cols", "xs", "ys"]).to_pylist():
            x, y = worst[row["image"]]
            if row["rows"]:  # it may show no surface any more
                column, line = (int(np.abs(np.asarray(row[name]) - at).argmin()) for name, at in (("xs", x), ("ys", y)))
                found[row["image"]] = np.array(tiles_TPP[starts + line * row["cols"] + column])
            starts += row["rows"] * row["cols"]

    if images.num_rows:
        decode_images_of(images, what, spec, take, quiet=quiet)
    images = images.filter(pc.is_in(images["image"], pa.array(list(found), pa.string())))
    tiles = [found[image] for image in images["image"].to_pylist()]
    return np.stack(tiles) if tiles else np.empty((0, spec.input_px, spec.input_px), np.uint8), images
