"""Files that are not listed as images: each has a kind, and each is counted.

Only names decide, so that a folder, an archive and a bucket are treated alike. The exception are images that crackvae
wrote itself, which are recognised by the file beside which they were written.
"""

import fnmatch
import functools
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from crackvae.storage import archive
from crackvae.storage.fileio import exists
from crackvae.storage.names.excerpts import VIDEO_SUFFIXES
from crackvae.storage.names.run_files import is_of_a_run
from crackvae.storage.names.unicode_forms import nfc
from crackvae.storage.uris import absolute, join, parent, without_options

# Listed as images.
IMAGE_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".png", ".tif", ".tiff", ".bmp", ".dib", ".webp"),
    *(".heic", ".heif", ".avif", ".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc", ".jxl"),
    *(".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".sr2", ".orf", ".rw2", ".raf", ".pef", ".srw"),
}

# What operating systems, network storage and file managers leave behind: files and folders, in any letter case.
LITTER = (
    *("lost+found", "@eaDir", "#recycle", "#snapshot", ".Trash*", "$RECYCLE.BIN", "System Volume Information"),
    *("__MACOSX", "Thumbs.db", "ehthumbs*.db", "desktop.ini", ".DS_Store", "._*"),
)

# Files that are not complete yet, or that an editor has left; a folder may well have such a name.
UNFINISHED = ("*.tmp", "*.part", "*.partial", "*.crdownload", "*.filepart", "*~")

# Kinds of excluded files.
EXCLUDED, SYSTEM, HIDDEN, OWN = "matched by --exclude", "system litter", "hidden", "written by crackvae"
UNREADABLE_FOLDER, UNREADABLE_ARCHIVE = "unreadable folder", "unreadable archive"
LINK_LOOP, OTHER, VIDEO = "link to a folder above it", "other file", "video"

SUFFIXES_OF_KIND = {
    "image in an unsupported format": (
        ".3fr .arq .bay .crw .dcr .erf .fff .gpr .iiq .k25 .kdc .mef .mos .mrw .ptx .raw .rwl .rwz "
        ".srf .x3f .jxr .hdp .wdp .jls .gif .apng .psd .psb .exr .hdr .svg "
        ".svgz .ai .eps .ico .tga .pcx .pnm .pgm .ppm .pbm .pam .pfm .qoi .xcf .dcm .fits .fit .heics .heifs .insp .cog"
    ),
    VIDEO: (
        ".mp4 .m4v .mov .avi .mkv .webm .wmv .flv .mpg .mpeg .mts .m2ts .ts .3gp .3g2 .ogv .insv .360 .lrv .lrf .braw "
        ".r3d .vob .mxf"
    ),
    "archive": ".zip .tar .tgz .gz .bz2 .xz .zst .7z .rar .iso .tbz2 .txz .lz4 .cab .dmg",
    "sidecar": (
        ".xmp .thm .aae .pp3 .dop .cos .xml .json .yaml .yml .txt .csv .tsv .srt .gpx .kml .kmz .geojson .mrk .obs "
        ".nav .rtk .nmea .log .pdf .doc .docx .xls .xlsx .html .htm .md .ini .md5 .sha1 .sha256 .jgw .pgw .tfw .wld "
        ".prj .aux .ovr .url .lnk .wav .mp3 .m4a"
    ),
}
_KIND_OF_SUFFIX = {suffix: kind for kind, suffixes in SUFFIXES_OF_KIND.items() for suffix in suffixes.split()}

# Files of a model directory and of a manifest; those of a scores table have names of their own.
_OWN_NAME = re.compile(
    r"vae_concrete\.(pth|safetensors)|(model|calibration|reference|training)\.json|manifest\.parquet|left_out\.csv"
)

# Anomaly maps and frames that `live` saves: `_maps/1.jpg.jpg`, `_frames/20261123T220000_000000.png`.
_OWN_IMAGE = re.compile(r"(^|/)(_maps/.+\.[A-Za-z0-9]{3,4}\.jpg|_frames/\d{8}T\d{6}_\d{6}\.png)\Z")

# The loss curve in a model directory, and the pictures that `report --full-size` writes for a page.
_OWN_CURVE, _MODEL_FILE = "loss.png", "model.json"
_OWN_PICTURE, _PICTURES_OF = re.compile(r"\d{3,}-(picture|reconstruction|anomaly)\.png"), "_files"


class Exclusions:
    """Counts of excluded files by kind, and the first name of each kind. With `videos`, videos are not excluded."""

    def __init__(self, *, videos: bool = False) -> None:
        self.videos = videos
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def kind_of(self, name: str, exclude: Sequence[str]) -> str:
        """kind_of(), and "" for a video where videos are listed."""
        kind = kind_of(name, exclude)
        return "" if self.videos and kind == VIDEO and name.lower().endswith(VIDEO_SUFFIXES) else kind

    def add(self, kind: str, name: str) -> None:
        self.counts[kind] += 1
        self.first[kind] = min(name, self.first.get(kind, name))


def kind_of(name: str, exclude: Sequence[str] = ()) -> str:
    """Why a file is not listed; "" for an image.

    Args:
        name: path below what is listed.
        exclude: patterns for names of files or folders, or, with a slash, for the whole `name`.
    """
    folder, _, file = nfc(name).rpartition("/")
    if any(_matches([*folder.split("/"), file], pattern) for pattern in exclude):
        return EXCLUDED
    kind, lower = _kind_of_folder(folder), file.lower()
    if kind or _LITTER.fullmatch(lower) or _UNFINISHED.fullmatch(lower):
        return kind or SYSTEM
    if file.startswith("."):
        return HIDDEN
    suffix = lower[lower.rfind(".") :] if "." in lower else ""
    if suffix in IMAGE_SUFFIXES:
        return OWN if _OWN_IMAGE.search(name) else ""
    return OWN if _OWN_NAME.fullmatch(file) or is_of_a_run(file) else _KIND_OF_SUFFIX.get(suffix, OTHER)


@functools.lru_cache(maxsize=1024)
def _kind_of_folder(folder: str) -> str:
    """Why no file of a folder is listed; "" if the names of its files decide."""
    parts = folder.split("/")
    if any(_LITTER.fullmatch(part.lower()) for part in parts):
        return SYSTEM
    return HIDDEN if any(part.startswith(".") and part not in (".", "..") for part in parts) else ""


_LITTER, _UNFINISHED = (
    re.compile("|".join(fnmatch.translate(pattern.lower()) for pattern in patterns))
    for patterns in (LITTER, UNFINISHED)
)


def _matches(parts: Sequence[str], pattern: str) -> bool:
    is_path, pattern = _normalised(pattern)
    if is_path:
        whole = "/".join(parts).lstrip("/")
        return fnmatch.fnmatchcase(whole, pattern) or fnmatch.fnmatchcase(whole, f"{pattern}/*")
    return any(fnmatch.fnmatchcase(part, pattern) for part in parts)


@functools.lru_cache(maxsize=1024)
def _normalised(pattern: str) -> tuple[bool, str]:
    """Whether a pattern of --exclude is a path, not just a name; and it in the form of fnmatch.

    A bracket is meant literally: file managers and cameras write `IMG_1[2].jpg` and `Bridge [A4]`.
    """
    is_path = "/" in pattern.rstrip("/").removeprefix("**/")
    names = [name for name in nfc(pattern).replace("[", "[[]").split("/") if name not in ("", ".")]
    return is_path, "/".join(names if is_path else names[-1:])


def below(pattern: str, root: str) -> str:
    """A pattern of --exclude that names a place below `root` by its whole path, as a path below `root`."""
    if "/" not in pattern.rstrip("/"):
        return pattern
    whole, start = absolute(pattern), f"{without_options(root)[0].rstrip('/')}/"
    return f"/{whole.removeprefix(start)}" if whole.startswith(start) else pattern


def may_be_own(image: str) -> bool:
    """Whether an image has a name that crackvae gives to its own; is_own() looks closer."""
    if ".png" not in image:
        return False
    path = PurePosixPath(without_options(image)[0])
    return path.name == _OWN_CURVE or bool(
        path.parent.name.endswith(_PICTURES_OF) and _OWN_PICTURE.fullmatch(path.name)
    )


def is_own(image: str) -> bool:
    """Whether crackvae wrote an image: a loss curve in a model directory, or a picture that belongs to a page."""
    folder = parent(image)
    if PurePosixPath(without_options(image)[0]).name == _OWN_CURVE:
        return _exists(join(folder, _MODEL_FILE))
    bare, options = without_options(folder)
    return _exists(f"{bare.removesuffix(_PICTURES_OF)}.html{options}")


def _exists(path: str) -> bool:
    entry = archive.split_entry(path)
    return archive.has_entry(*entry) if entry else exists(path)
