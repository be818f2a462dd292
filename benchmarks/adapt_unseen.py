"""`crackvae adapt` on the unsorted tiles of a surface that its starting model has never seen.

    python benchmarks/concrete.py unseen-site --surface decks --work FOLDER    # and pavements, and walls
    python benchmarks/adapt_unseen.py --work FOLDER

The models of `unseen-site` are started from. Half of a surface's folds is the site: their sound tiles and 5 % cracked
ones, unsorted, a folder for each photograph. The other half is evaluated with the starting and the adapted model; then
the halves change places. Adaptations that are in the work folder already are not repeated. The result is
benchmarks/results/adapt-unseen-DATE.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd
from builtin import SURFACES, figures_of, visible_cracks
from concrete import all_images, photographs, written
from record import write_result

import crackvae

HALVES = ((0, 1), (2, 3))
CRACKED, SEED = 0.05, 1


def site_images(tiles: pd.DataFrame, folder: Path) -> Path:
    """Links to the sound tiles and a few cracked ones in a folder for each photograph, whose names say no label."""
    sound, cracked = tiles[tiles.label == "non_crack"], tiles[tiles.label == "crack"]
    some = cracked.sample(round(len(sound) * CRACKED / (1 - CRACKED)), random_state=SEED)
    images = pd.concat([sound, some]).image
    for image, photograph in zip(images, photographs(images), strict=True):
        link = folder / photograph / Path(image).name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(image)
    return folder


def adapted(tiles: pd.DataFrame, start: Path, folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Adapt on the tiles whose split is `site`; the others as the adapted model scores them, and how it went."""
    if not (folder / "model").exists():
        images = site_images(tiles[tiles.split == "site"], folder / "site")
        crackvae.adapt(images=images, model=folder / "model", from_=start, group_by="parent", seed=SEED, workers=[1])
    if not (folder / "evaluation").exists():
        manifest = written(tiles[tiles.split == "test"], folder)
        crackvae.evaluate(manifest=manifest, model=folder / "model", split="test", out=folder / "evaluation")
    scored = pd.read_parquet(folder / "evaluation" / "evaluation.parquet")
    training = json.loads((folder / "model" / "training.json").read_text())
    about = {name: training[name] for name in ("digest", "from", "tiles", "choice", "threshold", "false_alarms")}
    flagged = scored.score > training["threshold"]
    about["flagged"] = {
        str(label): round(float(share), 4) for label, share in flagged.groupby(scored.label).mean().items()
    }
    return scored, about | {"seconds": training["seconds"]}


def main() -> None:
    """Adapt where it has not been done, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the data sets")
    parser.add_argument("--work", type=Path, required=True, help="that of concrete.py")
    parser.add_argument("--surfaces", nargs="+", choices=list(SURFACES.values()), default=list(SURFACES.values()))
    options = parser.parse_args()
    rows, visible = all_images(options.data, options.work), visible_cracks(options.data)
    result: dict[str, Any] = {"cracked": CRACKED, "seed": SEED}
    for surface in options.surfaces:
        unseen = options.work / f"unseen-site-{surface}-seed-1"
        tiles, parts, runs = rows[rows.part == surface], [], []
        for half in HALVES:
            split = tiles.fold.isin(half).map({True: "site", False: "test"})
            folder = options.work / f"adapt-{surface}-{''.join(map(str, half))}"
            scored, about = adapted(tiles.assign(split=split), unseen / "model", folder)
            parts.append(scored)
            runs.append(about)
        after = pd.concat(parts)
        before = pd.read_parquet(unseen / "evaluation" / "evaluation.parquet").set_index("image").score
        figures = {"before": after.assign(score=after.image.map(before)), "after": after}
        result[surface] = {name: figures_of(one, visible)[surface] for name, one in figures.items()} | {"runs": runs}
    print(write_result("adapt-unseen", result))


if __name__ == "__main__":
    main()
