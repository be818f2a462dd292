"""Every file below a folder is listed or counted: generated trees, walked by `find` too."""

import contextlib
import os
import random
import shutil
import subprocess
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import read_rows
from files import errors, names, pack, put
from hypothesis import given, settings
from hypothesis import strategies as st

from crackvae.config import ReportConfig, ScoreConfig
from crackvae.errors import StorageError
from crackvae.reports.verb import report
from crackvae.scoring.verb import score
from crackvae.storage.listing import Listing, exclusions, list_images, list_paths, walk
from crackvae.storage.listing.exclusions import EXCLUDED, HIDDEN, LINK_LOOP, OTHER, OWN, SYSTEM, kind_of
from crackvae.storage.names.unicode_forms import existing_form, nfc

VIDEO, ARCHIVE, SIDECAR, FORMAT = "video", "archive", "sidecar", "image in an unsupported format"
PHOTOGRAPH = ""
FOLDERS = [
    "2026-11-23",
    "span 3.part",
    "old~",
    "lost",
    "Bridge [A4]",
    "Bridge 4",
    "Brücke*",
    "a b",
    "night?",
    "NIGHT",
    "x" * 40,
    "橋",
    "{1,2}",
    "-rf",
]
# Names, and what each is: a photograph, or the kind under which it must be counted.
FILES = {
    "IMG_1.JPG": PHOTOGRAPH, "img_1.jpg": PHOTOGRAPH, "b.JPEG": PHOTOGRAPH, "c.jfif": PHOTOGRAPH, "d.Mpo": PHOTOGRAPH,
    "e.png": PHOTOGRAPH, "f.TIF": PHOTOGRAPH, "g.heic": PHOTOGRAPH, "h.DNG": PHOTOGRAPH, "[1].jpg": PHOTOGRAPH,
    "*.jpg": PHOTOGRAPH, "a.jpg.jpg": PHOTOGRAPH, "loss.png": PHOTOGRAPH, "001-picture.png": PHOTOGRAPH,
    "clip.MP4": VIDEO, "more.zip": ARCHIVE, "old.tar": ARCHIVE, "a.xmp": SIDECAR, "notes.TXT": SIDECAR,
    "k.iiq": FORMAT, "l.gpr": FORMAT, "m.jp2": PHOTOGRAPH, "n.JXL": PHOTOGRAPH, "n.jxr": FORMAT, "o.gif": FORMAT,
    "Thumbs.db": SYSTEM, "THUMBS.DB": SYSTEM, ".DS_Store": SYSTEM, "._IMG_1.JPG": SYSTEM, "p.jpg.part": SYSTEM,
    "q.tmp": SYSTEM, "desktop.ini": SYSTEM, ".hidden.jpg": HIDDEN, "jpg": OTHER, "r.jpg.bak": OTHER, "no-suffix": OTHER,
    "_summary-20261123T220000_000000.json": OWN, "20261123T220000_000000-00000.parquet": OWN,
    "_changes-20261123T220000_000000.csv": OWN, "_pairs-20261123T220000_000000.parquet": OWN,
    "_change-20261123T220000_000000.html": OWN, "20261123T220000_000000.2of3-00000.parquet": OWN,
}  # fmt: skip
LITTER_FOLDERS = ["lost+found", "@eaDir", ".Trash-1000", "$RECYCLE.BIN", "__MACOSX", "System Volume Information"]


def plant(root: Path, seed: int) -> Counter[str]:
    """Draw a tree; what must be counted under each kind, photographs under ""."""
    chance, expected = random.Random(seed), Counter[str]()
    folders = [root]
    for _ in range(chance.randint(2, 9)):
        folder = chance.choice(folders) / chance.choice(FOLDERS)
        folder.mkdir(exist_ok=True)
        folders.append(folder)
    for folder in dict.fromkeys(folders):
        for name in chance.sample(sorted(FILES), chance.randint(0, 12)):
            (folder / name).write_bytes(b"pixels")
            expected[FILES[name]] += 1
    for litter in chance.sample(LITTER_FOLDERS, 2):
        put(chance.choice(folders) / litter, "1.jpg", "deeper/2.jpg")
        expected[SYSTEM] += 2
    hidden = chance.choice(folders) / ".cache"
    put(hidden, "1.jpg", "2.txt")
    expected[HIDDEN] += 2
    return expected


def link(root: Path, outside: Path, seed: int) -> Counter[str]:
    """Add links: to a folder elsewhere, to a file, and to folders above; what they add to the counts."""
    chance, expected = random.Random(seed), Counter[str]()
    own = [root, *(path for path in root.rglob("*") if path.is_dir() and not _is_litter(path.relative_to(root)))]
    put(outside, "deep/1.jpg", "2.txt")
    (chance.choice(own) / "elsewhere").symlink_to(outside)
    (chance.choice(own) / "one.jpg").symlink_to(outside / "deep" / "1.jpg")
    expected.update({PHOTOGRAPH: 2, SIDECAR: 1})
    for number in range(chance.randint(0, 3)):
        folder = chance.choice(own)
        above = chance.choice([folder, *folder.parents][: len(folder.relative_to(root).parts) + 1])
        (folder / f"loop-{number}").symlink_to(above)
        expected[LINK_LOOP] += 1
    return expected


def _is_litter(path: Path) -> bool:
    return any(part in LITTER_FOLDERS or part.startswith(".") for part in path.parts)


def files_of(listing: Listing) -> int:
    """Images and excluded files; a loop is no file."""
    return listing.images.num_rows + listing.skipped - listing.excluded.get(LINK_LOOP, 0)


def found_by_find(root: Path) -> int:
    """Files below a folder, through links, as `find` sees them."""
    done = subprocess.run(["find", "-L", str(root), "-type", "f", "-print0"], capture_output=True)
    return done.stdout.count(b"\0")


@pytest.mark.parametrize("seed", range(48))
def test_every_file_of_a_tree_is_an_image_or_counted_by_its_kind(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "images"
    root.mkdir()
    expected = plant(root, seed) + link(root, tmp_path / "elsewhere", seed)
    if seed % 3 == 0:
        _give_all_folders_one_inode(monkeypatch)
    photographs = expected.pop(PHOTOGRAPH)
    for path in (str(root), f"{root}//", f"{tmp_path}//images", os.path.relpath(root)):
        listing = list_images(path)
        assert listing.images.num_rows == photographs and Counter(listing.excluded) == expected, path
        assert files_of(listing) == found_by_find(root)
        assert set(listing.examples) == set(listing.excluded) and not any(errors(listing).values())
    # What matches at the top of a pattern is whatever a shell would match: no name that starts with a dot.
    if any(not name.startswith(".") for name in os.listdir(root)):
        hidden = sum(1 for path in root.iterdir() if path.name.startswith(".") for _ in [path, *path.rglob("*")])
        assert names(list_images(f"{root}/**")) == names(list_images(str(root)))
        assert files_of(list_images(str(root))) - files_of(list_images(f"{root}/**")) <= hidden


def _give_all_folders_one_inode(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some union and network mounts."""

    def same(real: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
        def stat(*arguments: object, **named: object) -> os.stat_result:
            status = real(*arguments, **named)
            times = {"st_mtime_ns": status.st_mtime_ns}
            return os.stat_result([status[0], 4_294_967_295, 1, *status[3:]], times)

        return stat

    monkeypatch.setattr(walk.os, "stat", same(os.stat))


@given(
    edges=st.sets(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=7),
    at=st.integers(0, 4),
)
@settings(derandomize=True, deadline=None, max_examples=80)
def test_whatever_links_lead_where_the_walk_ends_and_each_image_is_listed(
    tmp_path_factory: pytest.TempPathFactory, edges: set[tuple[int, int]], at: int
) -> None:
    root = tmp_path_factory.mktemp("links")
    for number in range(5):
        put(root / f"{number}", f"{number}.jpg")
    for start, end in edges:
        (root / f"{start}" / f"to-{end}").symlink_to(root / f"{end}")
    listed = names(list_images(str(root)))
    assert {f"{number}/{number}.jpg" for number in range(5)} <= set(listed)
    done = subprocess.run(["find", "-L", str(root), "-name", "*.jpg"], capture_output=True, text=True)
    assert len(listed) == len(done.stdout.splitlines())
    assert f"{at}.jpg" in names(list_images(str(root / f"{at}")))


def test_exclude_takes_names_of_files_and_folders_and_paths(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "a_thumb.jpg", "masks/a.png", "b/masks/a.png", "b/c/d.jpg", "Brücke/e.jpg")
    everything = names(list_images(str(tmp_path)))
    for exclude, left in (
        (("masks", "*_thumb.jpg"), {"masks/a.png", "b/masks/a.png", "a_thumb.jpg"}),
        (("b/*",), {"b/masks/a.png", "b/c/d.jpg"}),
        (("b/c/",), {"b/c/d.jpg"}),
        ((unicodedata.normalize("NFD", "Brücke"),), {"Brücke/e.jpg"}),
        (("B",), set()),
        (("./masks",), {"masks/a.png"}),
        (("/masks/",), {"masks/a.png"}),
        (("**/masks",), {"masks/a.png", "b/masks/a.png"}),
        ((str(tmp_path / "b" / "masks"),), {"b/masks/a.png"}),
        ((os.path.relpath(tmp_path / "b" / "c"),), {"b/c/d.jpg"}),
    ):
        listing = list_images(str(tmp_path), exclude=exclude)
        assert names(listing) == [name for name in everything if name not in left], exclude
        assert listing.excluded == ({EXCLUDED: len(left)} if left else {})


@given(name=st.text("[]a4!-^", min_size=1, max_size=6), other=st.text("a4!-^", min_size=1, max_size=6))
def test_brackets_in_a_pattern_of_exclude_are_brackets_of_a_name(name: str, other: str) -> None:
    assert kind_of(f"{name}/1.jpg", [name]) == kind_of(f"x/{name}/1.jpg", [f"x/{name}"]) == EXCLUDED
    assert (kind_of(f"{other}/1.jpg", [name]) == EXCLUDED) == (other == name)


def test_a_prefix_with_dots_gives_no_image_a_second_name(tmp_path: Path) -> None:
    put(tmp_path, "a/1.jpg", "a/b/2.jpg")
    everything = set(list_images(str(tmp_path)).images["image"].to_pylist())
    for prefix in ("a/", "a/1", "a/b/2", "./a/", "a/./1", "a//b/", "a/b/../1", "/a/"):
        with contextlib.suppress(StorageError):  # it may match nothing, and says so
            assert set(list_paths([str(tmp_path)], prefix=prefix).images["image"].to_pylist()) <= everything, prefix


def test_what_is_excluded_is_said_in_one_line(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "v2.mp4", "v1.mp4", ".x")
    assert list_images(str(tmp_path)).exclusions() == "1 hidden (.x), 2 video (v1.mp4, ...)"
    put(tmp_path / "b", "v.mp4", "b.jpg")
    assert list_paths([str(tmp_path), str(tmp_path / "b")]).excluded == {HIDDEN: 1, VIDEO: 4}


@given(st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=30))
@settings(derandomize=True, deadline=None, max_examples=200)
def test_every_name_is_an_image_or_has_a_kind_whatever_its_case_and_form(name: str) -> None:
    kinds = {SYSTEM, HIDDEN, OWN, OTHER, *exclusions.SUFFIXES_OF_KIND}
    for one in (name, f"{name}.JPG", f"{name}.jpg", f"a/{name}/b.TIFF"):
        kind = kind_of(one)
        assert kind in kinds | {""}
        assert kind_of(unicodedata.normalize("NFD", one)) == kind_of(unicodedata.normalize("NFC", one))
    assert kind_of(f"{name}.JPG") == kind_of(f"{name}.jpg")


# ------------------------------------------------------------------------------------------ Unicode forms of names


FORMS = [unicodedata.normalize(form, "Gesünd/Riß-Gewölbe é") for form in ("NFC", "NFD")]


@pytest.mark.parametrize("stored", FORMS)
@pytest.mark.parametrize("typed", FORMS)
def test_a_name_is_the_same_in_either_unicode_form(tmp_path: Path, stored: str, typed: str) -> None:
    put(tmp_path / stored, "1.jpg", "2.jpg")
    put(tmp_path, "other/3.jpg")
    assert len(names(list_paths([str(tmp_path)], prefix=typed))) == 2
    assert len(names(list_paths([str(tmp_path)], prefix=f"{typed}/1"))) == 1
    for path in (f"{tmp_path}/{typed}", f"{tmp_path}/{typed}/*.jpg", f"{tmp_path}/{typed[:3]}*"):
        assert len(names(list_images(path))) == 2, path
    (tmp_path / "list.txt").write_text(f"{typed}/1.jpg\n{tmp_path}/{typed}/2.jpg\n", encoding="utf-8")
    listed = list_images(f"@{tmp_path}/list.txt")
    assert listed.images["bytes"].to_pylist() == [6, 6]
    assert existing_form(f"{tmp_path}/{typed}") == f"{tmp_path}/{stored}"


def test_two_folders_that_differ_in_their_form_alone_are_both_listed(tmp_path: Path) -> None:
    for form in FORMS:
        put(tmp_path / form, "1.jpg")
    assert len(names(list_paths([str(tmp_path)], prefix=FORMS[0]))) == 2
    assert len({nfc(name) for name in names(list_images(str(tmp_path)))}) == 1


# -------------------------------------------------------------------------------------------- brackets in a path


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("Bridge [A4]/*.jpg", ["Bridge [A4]/1.jpg"]),
        ("Bridge [A4]", ["1.jpg"]),
        ("Bridge [4]/[12].jpg", ["Bridge 4/1.jpg"]),
        ("*/Bridge [A4]/*", ["deep/Bridge [A4]/3.jpg"]),
        ("**/Bridge [A4]/*", ["Bridge [A4]/1.jpg", "deep/Bridge [A4]/3.jpg"]),
        ("Bridge ?/1.jpg", ["Bridge ?/1.jpg"]),
        ("Bridge 4/[[]1].jpg", ["Bridge 4/[1].jpg"]),
    ],
)
def test_a_part_of_a_path_that_exists_as_it_is_written_is_meant(tmp_path: Path, pattern: str, found: list[str]) -> None:
    put(tmp_path, "Bridge [A4]/1.jpg", "Bridge 4/1.jpg", "Bridge 4/[1].jpg", "Bridge A/2.jpg", "Bridge ?/1.jpg")
    put(tmp_path / "deep", "Bridge [A4]/3.jpg", "Bridge 4/4.jpg")
    listing = list_images(f"{tmp_path}/{pattern}")
    shown = [name.removeprefix(f"{tmp_path}/") for name in listing.images["image"].to_pylist()]
    assert [name.removeprefix("Bridge [A4]/") if found == ["1.jpg"] else name for name in shown] == found


# -------------------------------------------------------------------------------------------- its own pictures


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_a_second_run_with_every_output_among_the_images_lists_the_same_images(
    drawn: Path, model_dir: Path, tmp_path: Path
) -> None:
    for number, image in enumerate(sorted((drawn / "crack").iterdir())[:6]):
        put(tmp_path, f"bridge-{number % 2}/{number}.jpg", data=image.read_bytes())
    shutil.copytree(model_dir, tmp_path / "models" / "new")
    put(tmp_path / "models" / "new", "loss.png", data=(drawn / "crack" / os.listdir(drawn / "crack")[0]).read_bytes())
    out = tmp_path / "scores"

    def run() -> dict[str, object]:
        config = ScoreConfig(
            images=(str(tmp_path),), model=str(tmp_path / "models" / "new"), out=str(out), quiet=True,
            format=("parquet", "csv"),
        )  # fmt: skip
        return dict(score(config).summary)

    first = run()
    for page in (out / "_page.html", tmp_path / "elsewhere" / "my page.html"):
        model = str(tmp_path / "models" / "new")
        report(ReportConfig(scores=str(out), out=str(page), model=model, full_size=True, quiet=True))
    assert len(list(tmp_path.rglob("*-reconstruction.png"))) >= 2
    second = run()
    assert first["listed"] == second["listed"] == 6 and second["finished_before"] == 6
    assert read_rows(out).num_rows == 6
    listing = list_images(str(tmp_path))
    assert files_of(listing) == found_by_find(tmp_path) and listing.excluded[OWN] > 10
    pack(
        tmp_path / "all.zip", {str(p.relative_to(tmp_path)): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    )
    assert names(list_images(str(tmp_path / "all.zip"))) == names(listing)


def test_a_photograph_with_a_name_that_crackvae_gives_too_is_a_photograph(tmp_path: Path) -> None:
    put(tmp_path, "loss.png", "site_files/001-picture.png", "001-anomaly.png")
    assert len(names(list_images(str(tmp_path)))) == 3
    put(tmp_path, "model.json", "site.html")
    listing = list_images(str(tmp_path))
    assert names(listing) == ["001-anomaly.png"] and listing.excluded[OWN] == 3
    assert names(list_images(str(tmp_path / "loss.png"))) == ["loss.png"]


def test_what_live_has_saved_is_its_own_and_names_that_only_begin_like_its_own_are_photographs(tmp_path: Path) -> None:
    put(tmp_path, "scores/_maps/b/1.jpg.jpg", "scores/_frames/20261123T220000_000000.png")
    put(tmp_path, "_summary-1.jpg", "_report-bridge.PNG", "_maps/site.jpg", "_frames/1.png", "x_maps/1.jpg.jpg")
    listing = list_images(str(tmp_path))
    assert names(listing) == [
        "_frames/1.png",
        "_maps/site.jpg",
        "_report-bridge.PNG",
        "_summary-1.jpg",
        "x_maps/1.jpg.jpg",
    ]
    assert listing.excluded == {OWN: 2}
    assert names(list_images(str(tmp_path / "scores" / "_frames"))) == ["20261123T220000_000000.png"]
