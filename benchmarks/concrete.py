"""Train with the package on sound concrete and evaluate on other concrete: one command a protocol.

    python benchmarks/concrete.py own-site --folds 0 1 2 3 --work FOLDER [--from MODEL --hard 8]
    python benchmarks/concrete.py unseen-site --surface decks --work FOLDER [--from MODEL --hard 8]
    python benchmarks/concrete.py metu --work FOLDER
    python benchmarks/concrete.py new-site --model MODEL --work FOLDER

`own-site` trains on the sound SDNET2018 tiles of the other folds, a network for each fold, and evaluates the fold;
figures of several folds are pooled by surface. Blocks of neighbouring photographs are divided into four folds.
`unseen-site` trains on METU and two surfaces, and evaluates the third. `metu` trains on METU and evaluates one image of
each group of overlapping crops that the network has not seen. In each, the smallest block of a surface that is trained
on, or a share of METU, sets the threshold. `new-site` takes a model that has seen no tile of SDNET2018, such as that of
`metu`, and calibrates it on 300 sound tiles of a surface, in many draws: how often the share of the surface's other
sound tiles that is flagged lies in the interval that the calibration states.

Data, and how they are unpacked: see builtin.py. Steps whose results are in the work folder are left out, so a command
that was interrupted goes on, and the protocols may share a work folder; runs with --from have their own. A model to
start from must not have seen what is evaluated, such as that of `metu`. A training takes about as long as 120,000 tiles
do, or 40,000 with --from. The result is benchmarks/results/concrete-PROTOCOL-...-DATE.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from builtin import SURFACES, figures_of, metu_split, unpack, visible_cracks
from put_together import LEVEL, calibrated
from record import write_result

import crackvae
from crackvae.images.manifest import METADATA_KEY
from crackvae.metrics import RANKING_NAMES
from crackvae.model.calibration import conformal_threshold
from crackvae.storage import tables

N_FOLDS = 4
# Calibration tiles of `new-site`, and about how many sound tiles of a surface it scores, in whole photographs.
SITE_TILES, SURFACE_TILES = 300, 1_500
# Draws of each fold of mixtures().
MIXTURES = 100
# Seed of draws, the same for every --seed of the training.
DRAW_SEED = 1


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command-line options."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the data sets")
    shared.add_argument("--work", type=Path, required=True, help="folder for images, manifests and models")
    shared.add_argument("--epochs", type=int, help="of each training (default: that of crackvae train)")
    shared.add_argument("--workers", type=int, default=1, help="of each training (default: %(default)s)")
    shared.add_argument("--mirrors", type=int, default=1, help="of the models that are trained (default: %(default)s)")
    shared.add_argument("--from", dest="start", default="", help="model to start from (default: random weights)")
    shared.add_argument("--backbone", default="imagenet", help="of random weights (default: %(default)s)")
    shared.add_argument("--hard", type=int, default=1, help="times that hard tiles are shown (default: %(default)s)")
    shared.add_argument("--seed", type=int, default=1, help="of the training (default: %(default)s)")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    protocols = parser.add_subparsers(dest="protocol", required=True)
    own = protocols.add_parser("own-site", parents=[shared], help="the other folds are trained on")
    own.add_argument("--folds", type=int, nargs="+", choices=range(N_FOLDS), required=True, help="evaluated in turn")
    unseen = protocols.add_parser("unseen-site", parents=[shared], help="the other surfaces and METU are trained on")
    unseen.add_argument("--surface", choices=list(SURFACES.values()), required=True, help="evaluated")
    protocols.add_parser("metu", parents=[shared], help="METU alone")
    site = protocols.add_parser("new-site", parents=[shared], help="calibration of a model that is not trained")
    site.add_argument("--model", type=Path, required=True, help="has seen none of SDNET2018")
    site.add_argument("--draws", type=int, default=200, help="calibrations of each kind (default: %(default)s)")
    return parser.parse_args(arguments)


def all_images(data: Path, work: Path) -> pd.DataFrame:
    """The images of all parts as rows of a manifest, with the columns part and fold; group is PART/GROUP."""
    whole = work / "all" / "manifest.parquet"
    if not whole.exists():
        unpack(data, work).to_csv(work / "images.csv", index=False)
        # Every image on its own: protocols() divides them by group, and reading the manifest checks that.
        crackvae.partition(images=work / "images", out=work / "all", external=(0, 0), group_by="none", quiet=True)
    rows = tables.read_table(str(whole), tables.MANIFEST_SCHEMA).to_pandas()
    known = pd.read_csv(work / "images.csv", dtype=str)
    groups = (known.part + "/" + known.group).set_axis(known.part + "/" + known.path)
    rows["group"] = groups[rows.image.str.split("/").str[-3:].str.join("/")].to_numpy()
    rows["part"] = rows.group.str.split("/").str[0]
    rows["fold"] = rows.group.map(folds(rows[rows.part != "metu"])).fillna(-1).astype(int)
    return rows


def folds(tiles: pd.DataFrame) -> dict[str, int]:
    """Fold of each block: those of a surface, largest first, each to the fold with the fewest tiles."""
    fold_of: dict[str, int] = {}
    for _, of_surface in tiles.groupby("part"):
        sizes = [0] * N_FOLDS
        for block, n_tiles in (
            of_surface.group.value_counts().sort_index().sort_values(ascending=False, kind="stable").items()
        ):
            fold_of[str(block)] = int(np.argmin(sizes))
            sizes[fold_of[str(block)]] += int(n_tiles)
    return fold_of


def divided(rows: pd.DataFrame, protocol: str, *, fold: int = -1, surface: str = "") -> pd.DataFrame:
    """The rows that a protocol uses, with their split; cracked images are in test, and of `metu` in val too.

    Args:
        rows: as all_images() returns them.
        fold: evaluated by `own-site`.
        surface: evaluated by `unseen-site`.
    """
    is_metu = rows.part == "metu"
    metu = metu_split(rows.group[is_metu])
    if protocol == "metu":
        split = metu.reindex(rows.index, fill_value="")
    else:
        is_test = rows.fold == fold if protocol == "own-site" else rows.part == surface
        trained = rows[~is_metu & ~is_test]
        sizes = trained.groupby("part").group.value_counts()
        split = pd.Series("train", rows.index)
        split[rows.group.isin([block for _, block in sizes.groupby("part").idxmin()])] = "val"
        split[is_test] = "test"
        split[is_metu] = "" if protocol == "own-site" else metu.replace("test", "train")
    is_labelled = (split == "test") | ((split == "val") & (protocol == "metu"))
    is_used = is_labelled | ((split != "") & (rows.label == "non_crack"))
    return rows.assign(split=split)[is_used]


def written(rows: pd.DataFrame, folder: Path) -> Path:
    """The manifest of the rows in a folder, where there is none yet."""
    manifest = folder / "manifest.parquet"
    metadata = {METADATA_KEY: json.dumps({"leaky": False, "group_by": "blocks and groups of crops"}).encode()}
    table = pa.Table.from_pandas(rows[tables.MANIFEST_SCHEMA.names], tables.MANIFEST_SCHEMA, preserve_index=False)
    if not manifest.exists():
        tables.write_table(str(manifest), table.replace_schema_metadata(metadata))
    return manifest


def run(rows: pd.DataFrame, folder: Path, options: argparse.Namespace) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Train on the rows and evaluate; returns the scored test images, and what the figures belong to."""
    manifest = written(rows, folder)
    if not (folder / "model").exists():
        crackvae.train(
            manifest=manifest,
            model=folder / "model",
            epochs=options.epochs,
            seed=options.seed,
            mirrors=options.mirrors,
            from_=options.start,
            **({} if options.start else {"backbone": options.backbone}),
            hard=options.hard,
            workers=[options.workers],
        )
    if not (folder / "evaluation").exists():
        one = options.protocol == "metu"
        crackvae.evaluate(
            manifest=manifest, model=folder / "model", split="test", out=folder / "evaluation", one_per_group=one
        )
    training = json.loads((folder / "model" / "training.json").read_text())
    counts = rows.groupby(["split", "label"]).size()
    names = ("digest", "best_epoch", "val_loss", "seconds", "hardware", "from")
    about = {name: training[name] for name in names if name in training}
    about |= {name: facts_of(folder / "model")[name] for name in ("mirrors", "backbone")}
    about |= {"epochs": len(training["epochs"]), "images": {" ".join(key): int(n) for key, n in counts.items()}}
    return pd.read_parquet(folder / "evaluation" / "evaluation.parquet"), about


def facts_of(model: Path) -> dict[str, Any]:
    """What `crackvae info` says of a model: `digest`, `mirrors`, `backbone` and more."""
    return {"mirrors": 1, "backbone": "none"} | crackvae.info(path=model, quiet=True).summary


def site_tiles(rows: pd.DataFrame, visible: set[str]) -> pd.DataFrame:
    """Sound tiles of photographs drawn until each surface has SURFACE_TILES, and all visible cracks, for `new-site`."""
    tiles = rows[rows.part != "metu"]
    sound = tiles[tiles.label == "non_crack"]
    photograph = photographs(sound.image)
    chosen = []
    for _, of_surface in photograph.groupby(sound.part):
        sizes = of_surface.value_counts().sort_index().sample(frac=1, random_state=DRAW_SEED)
        chosen.extend(sizes.index[sizes.cumsum().shift(fill_value=0) < SURFACE_TILES])
    cracked = tiles[(tiles.label == "crack") & tiles.image.str.split("/").str[-1].isin(visible)]
    return pd.concat([sound[photograph.isin(chosen)], cracked]).assign(split="test")


def photographs(images: pd.Series) -> pd.Series:
    """Name of the photograph that each tile of SDNET2018 was cut from: PHOTOGRAPH-NUMBER.jpg."""
    return images.str.split("/").str[-1].str.rpartition("-")[0]


def promises_kept(tiles: pd.DataFrame, draws: int) -> dict[str, dict[str, float]]:
    """For each way of drawing SITE_TILES sound tiles: draws whose stated interval holds, and shares flagged.

    Args:
        tiles: of one surface, from evaluation.parquet.
    """
    tiles = tiles.assign(photograph=photographs(tiles.image), folder="all")
    sound, cracked = tiles[tiles.label == "non_crack"], tiles[tiles.label == "crack"]
    ways = {
        "tiles at random": (False, "folder"),
        "photographs, a folder each": (True, "photograph"),
        "photographs, one folder": (True, "folder"),
    }
    return {way: _kept(sound, cracked.score.to_numpy(), *how, draws) for way, how in ways.items()}


def _kept(sound: pd.DataFrame, cracked_C: np.ndarray, whole: bool, groups: str, draws: int) -> dict[str, float]:
    rng, found = np.random.default_rng(DRAW_SEED), []
    for _ in range(draws):
        order = sound.sample(frac=1, random_state=rng)
        if whole:
            place = dict(zip(rng.permutation(sound.photograph.unique()), range(len(sound)), strict=False))
            order = order.iloc[np.argsort(order.photograph.map(place), kind="stable")]
        taken, others = order[:SITE_TILES], order[SITE_TILES:]
        if whole:
            others = others[~others.photograph.isin(taken.photograph)]
        made = calibrated(taken, groups)
        share = float((others.score > made.threshold).mean())
        promise = made.promise(len(others), 1, others.photograph.nunique())
        kept = promise["low"] <= share <= promise["high"]
        found.append((kept, share, promise["low"], promise["high"], (cracked_C > made.threshold).mean()))
    kept_D, shares_D, lows_D, highs_D, recalls_D = np.array(found, float).T
    return {
        "draws": draws,
        "interval_holds": int(kept_D.sum()),
        "promised": LEVEL,
        "flagged": round(float(shares_D.mean()), 4),
        "flagged_low": round(float(np.quantile(shares_D, 0.025)), 4),
        "flagged_high": round(float(np.quantile(shares_D, 0.975)), 4),
        "median_interval_low": round(float(np.median(lows_D)), 4),
        "median_interval_high": round(float(np.median(highs_D)), 4),
        "visible_cracks_found": round(float(recalls_D.mean()), 4),
    }


def new_site(rows: pd.DataFrame, options: argparse.Namespace, digest: str) -> dict[str, Any]:
    """Figures of the model as it is, and after calibrations on draws of each surface.

    Args:
        digest: of the model, by which its results in the work folder are found again.
    """
    folder, visible = options.work / f"new-site-{digest[:12]}", visible_cracks(options.data)
    if not (folder / "evaluation").exists():
        manifest = written(site_tiles(rows, visible), folder)
        crackvae.evaluate(manifest=manifest, model=options.model, split="test", out=folder / "evaluation")
    scored = pd.read_parquet(folder / "evaluation" / "evaluation.parquet")
    figures = figures_of(scored, visible)
    for part, of_part in scored.groupby(scored.group.str.split("/").str[0]):
        del figures[str(part)]["labels"]  # the same: the only cracks are visible ones
        figures[str(part)]["calibrated"] = promises_kept(of_part, options.draws)
    return figures


def mixtures(scored: list[pd.DataFrame]) -> dict[str, dict[str, float]]:
    """Shares of the sound tiles of each surface above one threshold for all of them, in many draws of a fold.

    A draw takes half of the photographs of a fold, and of them as many sound tiles of each surface as the rarest has;
    their threshold is tried on the other half. Each fold has its own network and counts the same.

    Args:
        scored: of each fold, from evaluation.parquet.
    """
    rng, shares = np.random.default_rng(DRAW_SEED), []
    for fold in scored:
        sound = fold[fold.label == "non_crack"].assign(surface=fold.group.str.split("/").str[0])
        photograph = photographs(sound.image)
        for _ in range(MIXTURES):
            names = rng.permutation(photograph.unique())
            is_taken = photograph.isin(names[: len(names) // 2])
            taken, others = sound[is_taken].sample(frac=1, random_state=rng), sound[~is_taken]
            equal = taken.groupby("surface").head(taken.surface.value_counts().min())
            is_flagged = others.score > conformal_threshold(np.sort(equal.score), LEVEL, None)
            shares.append(is_flagged.groupby(others.surface).mean())
    of_surface = pd.DataFrame(shares)
    spread = {"flagged": of_surface.mean(), "low": of_surface.quantile(0.025), "high": of_surface.quantile(0.975)}
    return {str(surface): row.round(4).to_dict() for surface, row in pd.DataFrame(spread).iterrows()}


def mean_of(figures: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Mean over the surfaces of each metric, without an interval."""
    return {
        kind: {
            name: round(float(np.mean([one[kind][name]["value"] for one in figures.values()])), 4)
            for name in RANKING_NAMES
        }
        for kind in ("visible cracks", "labels")
    }


def main() -> None:
    """Run what is missing of a protocol, then write its figures."""
    options = parse()
    rows = all_images(options.data, options.work)
    if options.protocol == "new-site":
        facts = facts_of(options.model)
        figures = {"protocol": options.protocol, "model": facts["digest"], "mirrors": facts["mirrors"]}
        print(write_result("concrete-new-site", figures | {"test": new_site(rows, options, facts["digest"])}))
        return
    if options.protocol == "own-site":
        runs = {f"fold-{fold}": divided(rows, "own-site", fold=fold) for fold in options.folds}
    elif options.protocol == "unseen-site":
        runs = {options.surface: divided(rows, "unseen-site", surface=options.surface)}
    else:
        runs = {"clean": divided(rows, "metu")}
    started = "-started" if options.start else ""
    scored, about = zip(
        *(
            run(one, options.work / f"{options.protocol}-{name}{started}-seed-{options.seed}", options)
            for name, one in runs.items()
        ),
        strict=True,
    )
    figures = figures_of(pd.concat(scored), visible_cracks(options.data))
    result: dict[str, Any] = {
        "protocol": options.protocol,
        "seed": options.seed,
        "runs": dict(zip(runs, about, strict=True)),
    }
    result["test"] = figures
    if options.protocol == "own-site":
        result["mean of the surfaces"] = mean_of(figures)
        result["one threshold for the surfaces"] = mixtures(list(scored))
    name = "-".join(["concrete", options.protocol + started, *runs])
    print(write_result(name, result))


if __name__ == "__main__":
    main()
