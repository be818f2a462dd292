"""What `crackvae learn` makes of 20 to 1,000 verdicts: recall on blocks of SDNET2018 that nobody has judged.

    python benchmarks/learn.py --work FOLDER [--data ../shared/data] [--seed 1] [--verdicts 20 100 300 1000]

The labels stand in for a reviewer who judges the 100 most suspicious of the 400 images of a night, by the model in use,
night after night. Blocks of neighbouring photographs are held out, one of four folds by seed; of these a sample of
sound and of cracked images is scored with each challenger. The group of an image is its photograph. What is in the work
folder already is not made again. SDNET2018: Maguire, Dorafshan & Thomas, doi 10.15142/T3TD19, CC BY 4.0.

The result is benchmarks/results/learn-seed-SEED-DATE.json, written again after each number of verdicts.
"""

import argparse
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
from builtin import visible_cracks
from concrete import N_FOLDS, folds
from record import write_result

import crackvae
from crackvae import metrics
from crackvae.storage.tables.verdicts import Judgement, Subject, VerdictLog

NIGHT_IMAGES, JUDGED_A_NIGHT = 400, 100
HELD_OUT_SOUND, HELD_OUT_CRACKED = 700, 300
RESAMPLES = 1000


def images_of(data: Path, seed: int, nights: int) -> pd.DataFrame:
    """Columns image, photo, surface, is_crack and part: night-01, night-02, ... or held-out."""
    rows = pd.read_csv(data / "sdnet-dev.csv")
    rows["is_crack"] = rows.image.str.startswith("crack/")
    rows["part"] = rows.surface
    rows["group"] = rows.block
    is_held_out = rows.group.map(folds(rows)) == seed % N_FOLDS
    shuffled = rows[~is_held_out].sample(nights * NIGHT_IMAGES, random_state=seed)
    shuffled["part"] = [f"night-{number // NIGHT_IMAGES + 1:02d}" for number in range(len(shuffled))]
    held_out = rows[is_held_out].assign(part="held-out")
    samples = [
        held_out[held_out.is_crack].sample(HELD_OUT_CRACKED, random_state=seed),
        held_out[~held_out.is_crack].sample(HELD_OUT_SOUND, random_state=seed),
    ]
    return pd.concat([shuffled, *samples])


def unpack(data: Path, rows: pd.DataFrame, work: Path) -> None:
    """Write every image to work/PART/PHOTO/LABEL-NAME."""
    with zipfile.ZipFile(data / "sdnet-dev.zip") as members:
        names = {"/".join(name.split("/")[-2:]): name for name in members.namelist()}
        for row in rows.itertuples():
            place = work / row.part / row.photo / row.image.replace("/", "-")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(members.read(names[row.image]))


def scored(images: Path, model: Path | str, out: Path) -> pd.DataFrame:
    """Columns image, group, score and flagged, and is_crack by the name of the file."""
    crackvae.score(images=images, model=model, out=out, group_by="parent", no_report=True, findings="off", quiet=True)
    rows = crackvae.read_scores(out, ["image", "group", "score", "flagged", "model"]).to_pandas()
    return rows.assign(is_crack=rows.image.str.rpartition("/")[2].str.startswith("crack-"))


def judge(scores: Path, n: int) -> int:
    """Right verdicts on the `n` most suspicious images of a night; returns the number of cracks among them."""
    rows = crackvae.read_scores(scores, ["image", "score", "model"]).to_pandas()
    worst = rows.sort_values("score", ascending=False, kind="stable").head(n)
    is_crack = worst.image.str.rpartition("/")[2].str.startswith("crack-")
    judgements = [
        Judgement(Subject(row.image), "crack" if cracked else "sound", row.model, row.score)
        for row, cracked in zip(worst.itertuples(), is_crack, strict=True)
    ]
    VerdictLog(str(scores)).append("labels-of-sdnet", "labels", judgements)
    return int(is_crack.sum())


def challenger(n_verdicts: int, work: Path, seed: int) -> tuple[Path, dict[str, Any]]:
    """The model that learns from so many verdicts, and facts about them."""
    folder = work / f"verdicts-{n_verdicts}"
    if not (folder / "model").exists():
        nights = []
        for number, first in enumerate(range(0, n_verdicts, JUDGED_A_NIGHT), start=1):
            nights.append(folder / f"night-{number:02d}")
            shutil.rmtree(nights[-1], ignore_errors=True)
            shutil.copytree(work / "scores" / nights[-1].name, nights[-1])
            judge(nights[-1], min(JUDGED_A_NIGHT, n_verdicts - first))
        crackvae.learn(model="builtin", scores=nights, out=folder / "model", seed=seed, quiet=True)
    training = pd.read_json(folder / "model" / "training.json", typ="series")
    return folder / "model", {name: training[name] for name in ("verdicts", "seconds", "false_alarms", "digest")}


def figures_of(rows: pd.DataFrame, before: pd.DataFrame, visible: set[str]) -> dict[str, Any]:
    """Ranking, share of flagged sound images, and differences to the model in use, with intervals over photographs."""
    figures: dict[str, Any] = {}
    surface = rows.group.str[0].map({"D": "decks", "P": "pavements", "W": "walls"})
    name = rows.image.str.rpartition("/")[2].str.removeprefix("crack-")
    kinds = {"labels": rows.is_crack | ~rows.is_crack, "visible cracks": ~rows.is_crack | name.isin(visible)}
    for part in ("all", *sorted(surface.unique())):
        chosen = (surface == part) | (part == "all")
        for kind, of_kind in kinds.items():
            one, old = rows[chosen & of_kind], before[chosen & of_kind]
            decisions = [metrics.Decisions(t.score.to_numpy(), t.flagged.to_numpy()) for t in (old, one)]
            table = metrics.paired_intervals(one.is_crack.to_numpy(), one.group.to_numpy(), *decisions, RESAMPLES, 0)
            figures[f"{part}, {kind}"] = {
                "sound": int((~one.is_crack).sum()), "cracked": int(one.is_crack.sum())
            } | table.round(4).to_dict("index")  # fmt: skip
    return figures


def main() -> None:
    """Score the nights, then learn and measure for each number of verdicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the data sets")
    parser.add_argument("--work", type=Path, required=True, help="folder for images, scores and models")
    parser.add_argument("--seed", type=int, default=1, help="of the nights, the held-out blocks and the training")
    parser.add_argument("--verdicts", type=int, nargs="+", default=[20, 100, 300, 1000])
    options = parser.parse_args()
    work = options.work.absolute() / f"seed-{options.seed}"
    nights = -(-max(options.verdicts) // JUDGED_A_NIGHT)
    if not (work / "held-out").exists():
        unpack(options.data, images_of(options.data, options.seed, nights), work)
    for number in range(1, nights + 1):
        scored(work / f"night-{number:02d}", "builtin", work / "scores" / f"night-{number:02d}")
    before = scored(work / "held-out", "builtin", work / "scores" / "held-out")
    visible = visible_cracks(options.data)
    result: dict[str, Any] = {"seed": options.seed, "model": before.model.iloc[0], "verdicts": {}}
    for n_verdicts in options.verdicts:
        model, facts = challenger(n_verdicts, work, options.seed)
        after = scored(work / "held-out", model, model.parent / "held-out")
        result["verdicts"][str(n_verdicts)] = facts | {"held out": figures_of(after, before, visible)}
        print(n_verdicts, write_result(f"learn-seed-{options.seed}", result), flush=True)


if __name__ == "__main__":
    main()
