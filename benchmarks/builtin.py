"""Make the built-in model: train it on sound concrete of METU and SDNET2018, and evaluate it on images not seen.

    python benchmarks/builtin.py --work FOLDER --from METU [--data ../shared/data] [--ship]
    python benchmarks/builtin.py --work FOLDER --model MODEL [--data ../shared/data] [--ship]

The data folder contains metu-internal.zip, metu-groups.csv, sdnet-dev.zip, sdnet-dev.csv and sdnet-visible.csv. Images
are unpacked into the work folder (300 MB), where the manifest and the model directory are written too. Blocks of
neighbouring photographs of SDNET2018 and groups of overlapping crops of METU stay on one side of the split; each
surface is split on its own. METU is the model of `concrete.py metu`, which has learned from the same images of METU;
the training goes on from it, with a third of those images, and shows hard tiles HARD times; the weights are the mean of
those before and after. With --model an existing model is evaluated instead. With --ship the package gets the model, its
weights as safetensors, with the MODEL_CARD.md that model_card() writes from the result, and the README the table of
readme_rows().

SDNET2018: Maguire, Dorafshan & Thomas, doi 10.15142/T3TD19, CC BY 4.0; METU: C. F. Ozgenel, doi 10.17632/5y9wdsg2zt.2,
CC BY 4.0. The result is benchmarks/results/builtin-DATE.json.
"""

import argparse
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from record import write_result
from safetensors.torch import save

import crackvae
from crackvae.config import TrainConfig
from crackvae.config.common import PUBLISHED_PERCENTILE
from crackvae.images.manifest import METADATA_KEY, load_manifest
from crackvae.metrics import RANKING_NAMES, ranking_with_intervals
from crackvae.model import builtin, calibration
from crackvae.model.artifact import MODEL_FILE, SAFETENSORS_FILE, TRAINING_FILE, load_model
from crackvae.model.network import BACKBONE
from crackvae.monitoring import histograms
from crackvae.session import ray_session
from crackvae.storage import tables
from crackvae.training.model_writer import TrainedModel, blended, calibrated_on, fitted_to_site, write_model
from crackvae.training.starting import shown_tiles
from crackvae.training.tile_loader import decoded_tiles
from crackvae.training.validation import validate_on_synthetic_cracks

# Shares of the sound images for training, for the threshold, and for the figures [%]. Blocks stay whole, and one that
# starts within a share counts for it: at least one of about 400 images is in each. Those of METU: metu_split().
SPLITS = {"metu": (76, 8, 16), "decks": (90, 5, 5), "pavements": (85, 5, 10), "walls": (82, 5, 13)}
# Passes over the sound images, and times that a pass shows hard ones; of METU, which the start has learned from, one in
# so many groups is shown again.
EPOCHS, HARD, METU_AGAIN = 4, 8, 3
SURFACES = {"D": "decks", "P": "pavements", "W": "walls"}
RESAMPLES, SEED = 1000, 1
# Labelled sound and plainly cracked, found by looking at the 88 images of val with the highest scores. They set no
# threshold: a few of them decide how high the scores of sound tiles seem to reach, and so which photograph is flagged.
MISLABELLED = {
    *("02432.jpg", "02966.jpg", "14724.jpg", "19810.jpg"),
    *("P_020-33.jpg", "P_020-34.jpg", "P_020-52.jpg", "P_020-106.jpg", "P_020-197.jpg"),
}
CARD = "MODEL_CARD.md"
README = Path(__file__).parents[1] / "README.md"
README_NAMES = {"metu": "METU, close-ups"} | {surface: f"SDNET2018 {surface}¹" for surface in SURFACES.values()}
CARD_METRICS = ("roc_auc", *(f"recall_at_{rate}%_false_alarms" for rate in ("5", "1", "0.1")))


def unpack(data: Path, work: Path) -> pd.DataFrame:
    """Write every image to work/PART/LABEL/NAME; PART is metu or a surface.

    Returns:
        A row per image: its part, path below work/PART, and group.
    """
    sdnet = pd.read_csv(data / "sdnet-dev.csv").assign(archive="sdnet-dev.zip")
    sdnet["part"], sdnet["group"] = sdnet.surface.str[0].map(SURFACES), sdnet.block
    metu = pd.read_csv(data / "metu-groups.csv").assign(archive="metu-internal.zip", part="metu")
    metu["group"] = metu.leak_group.astype(str)
    images = pd.concat([metu, sdnet])[["archive", "image", "part", "group"]]
    is_crack = images.image.str.split("/").str[0].isin(["crack", "Positive"])
    images["path"] = np.where(is_crack, "crack/", "non_crack/") + images.image.str.split("/").str[-1]
    for archive, of_archive in images.groupby("archive"):
        with zipfile.ZipFile(data / str(archive)) as members:
            names = {"/".join(name.split("/")[-2:]): name for name in members.namelist()}
            for row in of_archive.itertuples():
                place = work / "images" / row.part / row.path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(members.read(names[row.image]))
    return images


def manifest_of(images: pd.DataFrame, work: Path) -> Path:
    """One manifest of all parts, each split by its own groups."""
    parts = []
    for part, of_part in images.groupby("part"):
        groups = work / f"{part}.csv"
        of_part[["path", "group"]].to_csv(groups, index=False, header=["image", "group"])
        made = crackvae.partition(
            images=work / "images" / str(part),
            groups=groups,
            out=work / str(part),
            external=(0, 0),
            non_crack_split=SPLITS[str(part)],
            crack_split=(50, 50),
            quiet=True,
        )
        table = tables.read_table(made.manifest, tables.MANIFEST_SCHEMA)
        rows = table.to_pandas()
        rows["group"] = f"{part}/" + rows.group
        rows = as_learned(rows) if part == "metu" else rows
        is_mislabelled = (rows.split == "val") & rows.image.str.split("/").str[-1].isin(MISLABELLED)
        # No cracked image has a say: those of METU would choose a weight of darkness for smooth surfaces.
        parts.append(rows[((rows.label == "non_crack") & ~is_mislabelled) | (rows.split == "test")])
    metadata = {METADATA_KEY: table.schema.metadata[METADATA_KEY]}
    place = work / "manifest.parquet"
    whole = pa.Table.from_pandas(pd.concat(parts), tables.MANIFEST_SCHEMA, preserve_index=False)
    tables.write_table(str(place), whole.replace_schema_metadata(metadata))
    return place


def as_learned(rows: pd.DataFrame) -> pd.DataFrame:
    """The manifest's rows of METU, divided by metu_split(), with one in METU_AGAIN groups of those for training."""
    split = metu_split(rows.group)
    trained = (rows.label == "non_crack") & (split == "train")
    again = np.sort(rows.group[trained].unique())[::METU_AGAIN]
    rows = rows.assign(split=split.where(rows.label == "non_crack", rows.split))
    return rows[~trained | rows.group.isin(again)]


def metu_split(groups: pd.Series) -> pd.Series:
    """train, val or test, by the group of each image of METU; the same for all networks, so one may go on from another.

    Args:
        groups: of all images of METU.
    """
    names = np.sort(groups.unique())
    draws = np.random.default_rng(SEED).random(len(names))
    train, val, _ = np.cumsum(SPLITS["metu"]) / 100
    return groups.map(dict(zip(names, np.select([draws < train, draws < val], ["train", "val"], "test"), strict=True)))


def visible_cracks(data: Path) -> set[str]:
    """Names of the images of SDNET2018 that plainly show a crack, by a reviewer."""
    verdicts = pd.read_csv(data / "sdnet-visible.csv").query("verdict == 'visible'")
    return set(verdicts.image.str.split("/").str[-1])


def cracked_labels(data: Path) -> dict[str, float]:
    """Shares of what a reviewer sees on tiles that SDNET2018 labels cracked: visible, doubtful, or none."""
    verdicts = pd.read_csv(data / "sdnet-visible.csv").query("label == 'crack'").verdict
    return verdicts.value_counts(normalize=True).round(3).to_dict()


def averaged(start: Path, trained: Path, manifest: Path, model: Path) -> None:
    """Write the model whose weights are the mean of those that a training began and ended with.

    The trained one alone forgets more of METU, and did not rank SDNET2018 better on val (docs/log.md).
    """
    learned = load_model(str(trained))
    spec, images = replace(learned.spec, yardstick=None), load_manifest(str(manifest)).images("val", "non_crack")
    with ray_session(TrainConfig(manifest=str(manifest), model=str(model))):
        val_TPP, val_images = decoded_tiles(images, "val", spec, quiet=False)
    mean = blended(load_model(str(start)), TrainedModel(spec, learned.network.state_dict(), []))
    mean = fitted_to_site(mean, val_TPP)
    made = calibrated_on(mean.model, val_TPP, val_images, PUBLISHED_PERCENTILE)
    validation = validate_on_synthetic_cracks(mean.model, val_TPP, made.calibration.threshold)
    training = json.loads((trained / TRAINING_FILE).read_text()) | {
        "digest": made.model.digest,
        "threshold": made.calibration.threshold,
        "level": made.calibration.level,
        "darkness_weight": mean.spec.darkness_weight,
        "val_cracks": mean.val_cracks,
        "validation": validation.summary(),
    }
    write_model(str(model), mean, made, training)


def start_images(data: Path) -> int:
    """Number of sound images of METU for training, of which the model to start from has seen all."""
    images = pd.read_csv(data / "metu-groups.csv")
    split = metu_split("metu/" + images.leak_group.astype(str))
    return int((images.image.str.startswith("Negative/") & (split == "train")).sum())


def sound_images(manifest: Path) -> dict[str, dict[str, int]]:
    """Number of sound images of each part, in the splits that train and that set the threshold."""
    rows = pd.read_parquet(manifest, columns=["group", "label", "split"]).query("label == 'non_crack'")
    parts = rows.group.str.split("/").str[0]
    return {split: parts[rows.split == split].value_counts().sort_index().to_dict() for split in ("train", "val")}


def figures_of(rows: pd.DataFrame, visible: set[str]) -> dict[str, Any]:
    """Metrics per part of the test images, with intervals over groups; of SDNET2018 also with visible cracks alone.

    Args:
        rows: of evaluation.parquet; a group is named PART/GROUP.
        visible: as visible_cracks() returns them.
    """
    rows = rows.assign(name=rows.image.str.split("/").str[-1], part=rows.group.str.split("/").str[0])
    figures: dict[str, Any] = {}
    for part, of_part in rows.groupby("part"):
        is_crack = of_part.label == "crack"
        kinds = {"labels": of_part}
        if part != "metu":
            kinds["visible cracks"] = of_part[~is_crack | of_part.name.isin(visible)]
        figures[str(part)] = {
            "sound": int((~is_crack).sum()),
            "flagged_sound": round(float(of_part.flagged[~is_crack].mean()), 4),
            "groups": int(of_part.group.nunique()),
        } | {kind: _ranking(chosen) for kind, chosen in kinds.items()}
    return figures


def _ranking(rows: pd.DataFrame) -> dict[str, Any]:
    is_crack = (rows.label == "crack").to_numpy()
    table = ranking_with_intervals(is_crack, rows.score.to_numpy(), rows.group.to_numpy(), RESAMPLES, SEED)
    return {"cracked": int(is_crack.sum())} | table.loc[list(RANKING_NAMES)].round(4).to_dict("index")


def model_card(result: dict[str, Any], name: str, training: dict[str, Any]) -> str:
    """MODEL_CARD.md of the built-in model.

    Args:
        result: content of the result file, called `name`.
        training: content of training.json.
    """
    test, train, val = result["test"], result["sound_images"]["train"], result["sound_images"]["val"]
    settings, surfaces = training["settings"], list(SURFACES.values())
    return (
        (Path(__file__).parent / "builtin_card.md")
        .read_text()
        .format(
            digest=result["model"],
            name=name,
            metu=result["sound_images_of_the_start"],
            metu_again=train["metu"],
            sdnet=sum(train[surface] for surface in surfaces),
            tiles=shown_tiles(training["images"], HARD) * settings["epochs"],
            minutes=training["seconds"] / 60,
            n_hard=HARD,
            n_val=sum(val.values()),
            n_val_metu=val["metu"],
            n_mislabelled=len(MISLABELLED),
            blocks=", ".join(f"{test[surface]['groups']} of {surface}" for surface in surfaces),
            rows="\n".join(_card_rows(test)),
            seen=result["cracked_labels"],
            **settings,
        )
    )


def _card_rows(test: dict[str, Any]) -> list[str]:
    """One row of the card's table per part of the test images, and per kind of their cracks."""
    rows = []
    for part, of_part in test.items():
        for kind in ("labels", "visible cracks"):
            if kind in of_part:
                figures = " | ".join(f"{of_part[kind][metric]['value']:.3f}" for metric in CARD_METRICS)
                images = f"{of_part['sound']:,} + {of_part[kind]['cracked']:,}"
                rows.append(f"| {part}, {kind} | {images} | {figures} | {of_part['flagged_sound']:.3f} |")
    return rows


def readme_rows(test: dict[str, Any]) -> list[str]:
    """Rows of the README's table: figures by the labels, with intervals where there is more than one block."""
    rows = []
    for part, name in README_NAMES.items():
        figures = test[part]["labels"]
        cells = [_with_interval(figures[metric]) for metric in CARD_METRICS[:3]]
        cells.append(f"{100 * test[part]['flagged_sound']:.1f} %")
        rows.append(f"| {name} | {test[part]['sound']:,} + {figures['cracked']:,} | {' | '.join(cells)} |")
    return rows


def _with_interval(figure: dict[str, float]) -> str:
    low, value, high = (f"{figure[name]:.3f}" for name in ("low", "value", "high"))
    return value if low == high else f"{value} ({low}–{high})"


def without_folders(training: dict[str, Any]) -> dict[str, Any]:
    """The content of training.json with the names of its paths alone: their folders are on one machine only."""
    settings = training["settings"]
    named = {name: Path(settings[name]).name for name in ("manifest", "model", "from_") if settings.get(name)}
    return training | {"model": Path(training["model"]).name, "settings": settings | named}


def ship(model: Path, card: str, readme: list[str]) -> None:
    """Replace the built-in model of the package by this one, its card, and the rows of the README's table."""
    folder = Path(builtin.FOLDER)
    for name in (MODEL_FILE, calibration.FILE, histograms.REFERENCE_FILE):
        (folder / name).write_bytes((model / name).read_bytes())
    trained_model = load_model(str(model))
    made = calibration.load_calibration(str(model), trained_model.digest)
    training = without_folders(json.loads((model / TRAINING_FILE).read_text()))
    training |= {"threshold": made.threshold, "level": made.level}  # set again after the training
    (folder / TRAINING_FILE).write_text(json.dumps(training, indent=1))
    weights = trained_model.network.state_dict()
    trained = {name: tensor for name, tensor in weights.items() if not name.startswith(BACKBONE)}
    (folder / SAFETENSORS_FILE).write_bytes(save(trained))
    (folder / CARD).write_text(card)
    text, names = README.read_text(), list(README_NAMES.values())
    first, last = (text.index(f"| {name} |") for name in (names[0], names[-1]))
    README.write_text(text[:first] + "\n".join(readme) + text[text.index("\n", last) :])


def main() -> None:
    """Train or take a model, evaluate it, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the data sets")
    parser.add_argument("--work", type=Path, required=True, help="new folder for images, manifest and model")
    parser.add_argument("--workers", type=int, default=1, help="of the training (default: %(default)s)")
    model_given = parser.add_mutually_exclusive_group(required=True)
    model_given.add_argument("--from", dest="start", type=Path, help="model of `concrete.py metu` to go on from")
    model_given.add_argument("--model", type=Path, help="evaluate this model instead of training one")
    parser.add_argument("--ship", action="store_true", help="make it the built-in model of the package")
    options = parser.parse_args()
    manifest = options.work / "manifest.parquet"
    if not manifest.exists():
        manifest = manifest_of(unpack(options.data, options.work), options.work)
    model = options.model or options.work / "model"
    if not model.exists():
        trained = options.work / "trained"
        if not trained.exists():
            crackvae.train(
                manifest=manifest,
                model=trained,
                from_=options.start,
                hard=HARD,
                epochs=EPOCHS,
                seed=SEED,
                workers=[options.workers],
            )
        averaged(options.start, trained, manifest, model)
    evaluation = options.work / "evaluation"
    crackvae.evaluate(manifest=manifest, model=model, split="test", out=evaluation)
    training = json.loads((model / "training.json").read_text())
    facts = crackvae.info(path=model, quiet=True).summary
    figures = {"model": facts["digest"], "split": SPLITS, "threshold": facts["threshold"]} | {
        name: training["settings"][name] for name in ("epochs", "batch", "learning_rate", "precision", "seed")
    }
    figures |= {"from": training["from"]} if "from" in training else {}
    figures["training_seconds"] = training["seconds"]
    figures["sound_images_of_the_start"] = start_images(options.data)
    figures |= {"sound_images": sound_images(manifest), "cracked_labels": cracked_labels(options.data)}
    rows = pd.read_parquet(evaluation / "evaluation.parquet")
    written = write_result("builtin", figures | {"test": figures_of(rows, visible_cracks(options.data))})
    if options.ship:
        result = json.loads(written.read_text())
        ship(model, model_card(result, written.name, training), readme_rows(result["test"]))
    print(written)


if __name__ == "__main__":
    main()
