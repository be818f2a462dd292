"""The manifest: labelled images, split by group, with checks for leaks between the splits."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from crackvae.config import PartitionConfig
from crackvae.console import say
from crackvae.errors import LeakError, ManifestError
from crackvae.images.groups import groups_of
from crackvae.images.manifest.duplicates import Fingerprint, fingerprints_of, same_picture
from crackvae.images.manifest.splits import deal, leaks_of, needs_of
from crackvae.results import Result
from crackvae.storage import fileio, filesystems, listing, tables, uris
from crackvae.storage.names.unicode_forms import nfc

FILE = "manifest.parquet"

LEFT_OUT_FILE = "left_out.csv"

METADATA_KEY = b"crackvae"


@dataclass(frozen=True)
class Manifest:
    """A loaded manifest.

    Attributes:
        table: MANIFEST_SCHEMA.
        leaky: duplicates of an image are allowed on both sides of a split (the published random split).
        digest: sha256 of the file.
    """

    table: pa.Table
    leaky: bool
    digest: str

    def images(self, split: str, label: str | None = None, image_set: str = "internal") -> pa.Table:
        """The rows of one split (and label), in the order of the manifest."""
        wanted = (pc.field("set") == image_set) & (pc.field("split") == split)
        return self.table.filter(wanted if label is None else wanted & (pc.field("label") == label))

    def say_if_not_trained_on(self, models: Mapping[str, str]) -> None:
        """Warn, in one line, of models that were trained on other images: no split keeps theirs apart from these.

        Args:
            models: digest of the manifest that each model was trained on, by a name for the model.
        """
        others = [name for name, digest in models.items() if digest != self.digest]
        if others:
            were = "were" if len(others) > 1 else "was"
            say(
                f"{' and '.join(others)} {were} not trained with this manifest: images that were trained on may be "
                "among those of val or test, and would score too low",
                quiet=False,
            )


@filesystems.with_s3_endpoint
def partition(config: PartitionConfig) -> Result:
    """Read every labelled image once, split by group, check for leaks, write manifest.parquet.

    Returns:
        Result with the tables `images` (counts by split and label) and `leaks`.

    Raises:
        StorageError, ArchiveError, ManifestError, LeakError, OutputExists: the message says how to fix it.
    """
    path = uris.join(uris.absolute(config.out), FILE)
    fileio.require_new(path, "--out")
    found = listing.list_images(config.images, exclude=config.exclude)
    labels = _labels_of(found, config)
    external = _external_size(Counter(labels["label"].to_pylist()), config)
    say(f"{labels.num_rows} images in {found.root}", quiet=config.quiet)
    if "crack" not in labels["label"].to_pylist():
        say("no image is labelled crack: the manifest holds sound images alone, for training", quiet=config.quiet)
    prints, left_out = fingerprints_of(found.images, quiet=config.quiet)
    kept = [number for number, one in enumerate(prints) if one is not None]
    images, labels = found.images.take(kept), labels.take(kept)
    readable = [one for one in prints if one is not None]
    pictures = same_picture(np.stack([one.thumb_SS for one in readable]))
    groups, merged = groups_of(labels["name"].to_pylist(), pictures, config)
    is_crack = labels["label"].to_numpy() == "crack"
    sides = deal(groups, is_crack, needs_of(is_crack, external, config), str(config.seed))
    leaks, leaking = leaks_of(sides, np.array([one.sha256 for one in readable]), pictures)
    leaky = config.group_by == "none" and not config.groups
    if leaking and not leaky:
        raise LeakError(f"{leaking} images have a copy on another side of a split: a bug in the grouping.")
    dealt = sides != ""
    left_out += [
        (image, "a crack image of a group that is trained on")
        for image in images["image"].filter(pa.array(~dealt)).to_pylist()
    ]
    manifest = _manifest_table(images, readable, labels["label"], groups, sides).filter(pa.array(dealt))
    notes = {"leaky": leaky, "leaking_images": leaking, "group_by": config.groups or config.group_by}
    metadata = {METADATA_KEY: json.dumps(notes | {"seed": config.seed, "images": found.root}).encode()}
    _write(path, manifest.replace_schema_metadata(metadata), left_out)
    counts = _counts(manifest)
    return Result(
        {
            "verb": "partition",
            "manifest": path,
            **notes,
            "groups": len(np.unique(groups[dealt])),
            "merged_groups": merged,
            "images": manifest.num_rows,
            "left_out": len(left_out),
            "skipped_files": found.skipped,
            "excluded": found.excluded,
            "counts": counts.to_dict(orient="index"),
        },
        {
            "images": counts,
            f"leaks ({'leaky: allowed by --group-by none' if leaky else 'none allowed'})": leaks,
        },
    )


def _labels_of(found: listing.Listing, config: PartitionConfig) -> pa.Table:
    """The name below the listed folder and the label of every image: columns `name` and `label`.

    Raises:
        ManifestError: there is no image, or one has no label, or two.
    """
    names = [nfc(uris.relative(image, found.root)) for image in found.images["image"].to_pylist()]
    if not names:
        raise ManifestError(found.empty())
    if found.excluded:
        say(f"excluded: {found.exclusions()}", quiet=config.quiet)
    folders = set(map(nfc, config.labels))
    if not any(part in folders for name in names for part in PurePosixPath(name).parts[:-1]):
        raise ManifestError(
            f"{config.images} has no folder with the name of a label ({', '.join(config.labels)}): name it with "
            "--labels FOLDER=non_crack, or, if nobody has labelled these images, fit a model to them with "
            "crackvae adapt --images."
        )
    return pa.table({"name": names, "label": [label_of(name, config.labels) for name in names]})


def label_of(name: str, labels: dict[str, str]) -> str:
    """The label, non_crack or crack, of the one folder on the path that has the name of a label.

    Args:
        name: path below the listed folder, `Negative/bridge-7/1.jpg` or `bridge-7/Negative/1.jpg`.
        labels: folder name to label.
    """
    label_of_folder = {nfc(folder): label for folder, label in labels.items()}
    found = {label_of_folder[part] for part in PurePosixPath(nfc(name)).parts[:-1] if part in label_of_folder}
    if len(found) != 1:
        first = PurePosixPath(name).parts[0] if len(PurePosixPath(name).parts) > 1 else "no folder"
        raise ManifestError(
            f"{name} lies in {'the folders of both labels' if found else first + ', which is no label'} "
            f"(known: {', '.join(labels)}). Name the folders: --labels FOLDER=non_crack,FOLDER=crack."
        )
    return found.pop()


def _external_size(counts: Counter[str], config: PartitionConfig) -> tuple[int, ...]:
    """Number of non_crack and crack images of the external set, which is left out if no image is labelled crack.

    Raises:
        ManifestError: too few images.
    """
    external = config.external if counts["crack"] or not config.external[1] else (0, 0)
    for label, wanted in zip(("non_crack", "crack"), external, strict=True):
        if counts[label] <= wanted and (label == "non_crack" or counts["crack"]):
            raise ManifestError(
                f"{counts['non_crack']} non_crack and {counts['crack']} crack images are too few for an external set "
                f"of {external[0]} non_crack and {external[1]} crack. Give --external 0,0, or smaller counts."
                if counts[label]
                else f"no image is labelled {label}: check --images, and --labels FOLDER=non_crack,FOLDER=crack."
            )
    return external


def _manifest_table(
    images: pa.Table, prints: list[Fingerprint], labels: pa.ChunkedArray, groups: np.ndarray, sides: np.ndarray
) -> pa.Table:
    external = sides == "external"
    columns = {
        "image": images["image"],
        "label": labels,
        "group": groups.tolist(),
        "set": np.where(external, "external", "internal").tolist(),
        "split": np.where(external, "test", sides).tolist(),
        "sha256": [one.sha256 for one in prints],
        "width": [one.width for one in prints],
        "height": [one.height for one in prints],
        "bytes": images["bytes"],
    }
    return pa.table(columns).cast(tables.MANIFEST_SCHEMA)


def _write(path: str, manifest: pa.Table, left_out: list[tuple[str, str]]) -> None:
    """The manifest, after the list of the images that it leaves out and why."""
    if left_out:
        rows = pa.table({"image": [name for name, _ in left_out], "reason": [why for _, why in left_out]})
        fileio.write_bytes(uris.join(uris.parent(path), LEFT_OUT_FILE), tables.csv_bytes(rows))
    tables.write_table(path, manifest)


def _counts(manifest: pa.Table) -> pd.DataFrame:
    """Images by set and split (rows) and label (columns)."""
    side = pc.binary_join_element_wise(manifest["set"], manifest["split"], " ").to_pandas()
    counts = pd.crosstab(side, manifest["label"].to_pandas())
    order = [
        name for name in ("internal train", "internal val", "internal test", "external test") if name in counts.index
    ]
    return counts.reindex(index=order, columns=["non_crack", "crack"], fill_value=0).rename_axis(
        index=None, columns=None
    )


# ---------------------------------------------------------------------------------------------------- reading


def load_manifest(path: str) -> Manifest:
    """Load and validate a manifest.

    Raises:
        StorageError: missing, not whole, other columns.
        ManifestError: unknown labels or splits, an image twice, a crack image in train.
        LeakError: a group or a file on two sides, in a manifest that is not `leaky`.
    """
    path = uris.absolute(path)
    data = fileio.read_bytes(path)
    table = tables.parse_table(data, path, tables.MANIFEST_SCHEMA)
    try:
        leaky = bool(json.loads((table.schema.metadata or {})[METADATA_KEY])["leaky"])
    except (KeyError, ValueError, TypeError) as error:
        raise ManifestError(f"{path} was not written by crackvae partition: run it again.") from error
    rows = table.to_pandas()
    for column, known in (
        ("label", {"non_crack", "crack"}),
        ("set", {"internal", "external"}),
        ("split", {"train", "val", "test"}),
    ):
        unknown = set(rows[column]) - known
        if unknown:
            raise ManifestError(f"{path} has the {column} {sorted(map(str, unknown))[0]!r}: only {sorted(known)}.")
    if not table.num_rows or any(column.null_count for column in table.columns):
        raise ManifestError(f"{path} has no rows, or cells without a value: partition again.")
    if rows["image"].duplicated().any():
        raise ManifestError(f"{path} names {rows['image'][rows['image'].duplicated()].iloc[0]} twice: partition again.")
    trained_cracks = rows[(rows["split"] == "train") & (rows["label"] == "crack")]
    if len(trained_cracks):
        raise ManifestError(f"{path} trains on the crack image {trained_cracks['image'].iloc[0]}: only non_crack may.")
    side = rows["set"].where(rows["set"] == "external", rows["split"])
    for key in ("group", "sha256"):
        crossing = side.groupby(rows[key]).nunique() > 1
        if crossing.any() and not leaky:
            raise LeakError(
                f"{path} has the {key} {crossing[crossing].index[0]} on both sides of a split: partition again."
            )
    return Manifest(table, leaky, hashlib.sha256(data).hexdigest())


def listing_of(images: pa.Table) -> pa.Table:
    """Rows of a manifest as a listing: LISTING_SCHEMA, group and sha256; the modification time is unknown."""
    n = images.num_rows
    rows = images.select(["image", "group", "bytes", "sha256"])
    rows = rows.append_column("modified", pa.array([0] * n, listing.LISTING_SCHEMA.field("modified").type))
    return rows.append_column("error", pa.array([""] * n, pa.string()))
