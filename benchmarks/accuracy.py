"""Measure how accurate each recipe is: out of fold on all films, by collection, and from one collection to the other.

    python benchmarks/accuracy.py DATA [--read FOLDER] [--nih FOLDER] [--work FOLDER] [--rows NAME ...] [--epochs N]

DATA is the folder of the public Cardiothoracic Ratio dataset. The folder of --read holds nih/ and hannover/, whose
films, read by eye, one row learns from as well (read_films.py; read_accuracy.py measures on them). The folder of --nih
holds NIH films, from which the self-trained row learns without labels (common.split_nih says which). Every row uses
the same five folds, by patient; the files name no patients, so each film counts as one. A film is answered by the
network that was trained without it, with the weights of the last epoch. The recipe was chosen on fold 0
(recipe_ablation.py), so one line of the table leaves that fold out. Films whose masks the label audit found to be wrong
are excluded from training and from measuring.

Checkpoints and predictions are kept under --work (folds.py). Each run writes a table of the rows there are to
benchmarks/results/accuracy.md, accuracy.csv and accuracy.png.

Speed is measured separately (--times), all recipes one after the other on an otherwise idle machine: a training of
several hours is too easily disturbed to be timed.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
from common import RESULTS, parser_for, write_table
from folds import (
    CROSS,
    FOLDS,
    READ_ROWS,
    ROWS,
    SEED,
    answer,
    fold_folder,
    load_answers,
    mean_box_answer,
    prepare_folds,
    prepare_read_folds,
    run_folder,
    summarise,
    unlabelled,
)

from cardiac_dataset import CardiacDataset
from heartbox.boxes import EDGES, HEART
from heartbox.data.store import write_split
from heartbox.training.loop import fit
from heartbox.training.recipes import BoxTask, make_model
from heartbox.utils.atomic import complete_or_absent

TIMED_FILMS, TIMED_EPOCHS = 32, 5


def main() -> None:
    """Train what is not trained yet, and write the table and the figure."""
    parser = parser_for(__doc__)
    parser.add_argument("--read", type=Path, help="folder of films read by eye")
    parser.add_argument("--nih", type=Path, help="folder of NIH films, for the self-trained row")
    parser.add_argument("--work", type=Path, default=Path("artifacts/benchmark"))
    parser.add_argument("--rows", nargs="*", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--epochs", type=int, help="instead of each recipe's own number")
    parser.add_argument("--no-cross", action="store_true", help="skip training on one collection alone")
    parser.add_argument("--times", action="store_true", help="time the recipes instead of training them")
    arguments = parser.parse_args()
    work = arguments.work
    labels = prepare_folds(arguments.data, work)
    if arguments.read:
        prepare_read_folds(labels, arguments.read, work)
    if arguments.nih:
        unlabelled(work, arguments.nih)
    if arguments.times:
        time_recipes(work)
        arguments.rows = []
    for name in arguments.rows:
        recipe = ROWS[name] if arguments.epochs is None else dataclasses.replace(ROWS[name], epochs=arguments.epochs)
        # A network that has read films to learn from is not trained on one collection alone.
        crossings = [] if arguments.no_cross or name in READ_ROWS else list(CROSS)
        for key in [*map(str, range(FOLDS)), *crossings]:
            answer(fold_folder(work, name, key), recipe, run_folder(work, name, key), work)
    write_results(labels, work)


def time_recipes(work: Path) -> dict[str, float]:
    """Train every recipe briefly, one after the other; return the seconds per film and epoch of each.

    Five epochs, so that the share of them at reduced image size is the recipe's own.
    """
    folder, labels = work / "folds" / "timing", pd.read_csv(work / "processed" / "labels.csv", dtype={"name": str})
    usable = np.flatnonzero(labels["split"] != "unused")
    split = np.full(len(labels), "unused", dtype=object)
    split[usable[:TIMED_FILMS]], split[usable[TIMED_FILMS : TIMED_FILMS + 4]] = "train", "val"
    write_split(work / "processed", folder, split, "timing")
    found = {}
    for name, recipe in ROWS.items():
        if recipe.start == "teacher":  # the same network and the same steps as its teacher
            found[name] = found["edges"]
            continue
        recipe = dataclasses.replace(recipe, epochs=TIMED_EPOCHS, start="")
        train = CardiacDataset(folder, "train", recipe.augment, recipe.targets, recipe.rule, bool(recipe.mask_weight))
        watched = CardiacDataset(folder, "val", targets=recipe.targets)
        model, task, out = make_model(recipe, train), BoxTask(recipe), work / "runs" / "timing"
        for _ in range(2):  # the first run warms up
            history = fit(model, train, watched, task, out, progress=False, checkpoints=False)
        found[name] = history.attrs["seconds"] / TIMED_FILMS / TIMED_EPOCHS
        print(f"{name}: {found[name]:.3f} s per film and epoch", flush=True)
    with complete_or_absent(work / "times.json") as part:
        part.write_text(json.dumps(found), encoding="utf-8")
    return found


def write_results(labels: pd.DataFrame, work: Path) -> None:
    """Write the table of every row that is complete under `work`."""
    usable = labels[labels["fold"] >= 0]
    groups = {"all": set(usable["name"]), "folds 1 to 4": set(usable["name"][usable["fold"] > 0])}
    groups |= {source: set(films["name"]) for source, films in usable.groupby("source")}
    rows = []
    for name in ["mean box", *ROWS]:
        keys = [*map(str, range(FOLDS)), *CROSS]
        if name == "mean box":
            answers, epochs = {key: mean_box_answer(work / "folds" / key) for key in keys}, 0
        else:
            runs = {key: run_folder(work, name, key) / "answers.npz" for key in keys}
            answers, epochs = load_answers(runs, {key: fold_folder(work, name, key) for key in keys})
        out_of_fold = [masked_films(answers[key]) for key in keys[:FOLDS] if key in answers]
        passes = np.mean([answer.get("passes", epochs) for answer in out_of_fold]) if out_of_fold else epochs
        about = {"recipe": name, "epochs": epochs, "passes": passes, "contrast": "even"}
        if len(out_of_fold) == FOLDS:
            for group, keep in groups.items():
                rows.append({**about, "films": group, **summarise(out_of_fold, keep)})
        for key in CROSS:
            if key in answers:
                rows.append({**about, "films": key, **summarise([answers[key]], groups["all"])})
    table = with_earlier(pd.DataFrame(rows))
    table["seconds_per_film"] = seconds_per_film(table, work)
    classic = table.loc[table["recipe"] == "classic ResNet18", "seconds_per_film"]
    table["relative_to_classic"] = table["seconds_per_film"] / (classic.iloc[0] if len(classic) else np.nan)
    with complete_or_absent(RESULTS / "accuracy.csv") as part:
        table.to_csv(part, index=False, float_format="%.4f", lineterminator="\n")
    lines = as_markdown(table, len(usable), int((labels["fold"] < 0).sum()))
    as_they_are = table.loc[table["contrast"].isna(), "recipe"].unique()
    if len(as_they_are):
        lines += ["", f"Measured earlier, without contrast normalisation: {', '.join(as_they_are)}."]
    missing = [name for name in ROWS if name not in set(table["recipe"])]
    if missing:
        lines += ["", f"Not measured yet: {', '.join(missing)}."]
    write_table("accuracy.md", lines)
    draw(table)
    print("\n".join(lines))


def masked_films(answers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the answers on films with masks, whose boxes are known on all sides, without those read by eye."""
    known = ~np.isnan(answers["truth"][:, HEART]).any(axis=1)
    films = len(known)
    return {key: values[known] if np.shape(values)[:1] == (films,) else values for key, values in answers.items()}


def seconds_per_film(table: pd.DataFrame, work: Path) -> pd.Series:
    """Return the training time of each row; times from one machine are never mixed with those from another.

    The times measured under `work` if there are any, otherwise all those of the existing table.
    """
    if (work / "times.json").is_file():
        times = json.loads((work / "times.json").read_text(encoding="utf-8"))
        return table["recipe"].map(times).astype(float) * table["passes"]
    if (RESULTS / "accuracy.csv").is_file():
        earlier = pd.read_csv(RESULTS / "accuracy.csv").groupby("recipe")["seconds_per_film"].first()
        return table["recipe"].map(earlier).astype(float)
    return pd.Series(np.nan, index=table.index)


def with_earlier(table: pd.DataFrame) -> pd.DataFrame:
    """Add the rows of recipes that were not trained under this work folder from the existing table.

    The slow recipes take hours, and measuring another one again does not change them. A row of another set of films
    is told by their number, which the table gives.
    """
    path = RESULTS / "accuracy.csv"
    if not path.is_file():
        return table
    earlier = pd.read_csv(path)
    earlier["passes"] = earlier["passes"] if "passes" in earlier else earlier["epochs"]
    # A row whose folds were measured again keeps its crossings, if those were not.
    crossing = earlier["films"].isin(CROSS) & ~earlier["recipe"].isin(table.loc[table["films"].isin(CROSS), "recipe"])
    wanted = earlier["recipe"].isin(ROWS) & (crossing | ~earlier["recipe"].isin(table["recipe"]))
    both = pd.concat([table, earlier[wanted]], ignore_index=True)
    order = {name: place for place, name in enumerate(["mean box", *ROWS])}
    return both.sort_values("recipe", key=lambda names: names.map(order), kind="stable", ignore_index=True)


def as_markdown(table: pd.DataFrame, films: int, left_out: int) -> list[str]:
    """Return the lines of the table and its legend."""
    lines = [
        f"{films} films of the Cardiothoracic Ratio dataset; the label audit excluded {left_out} more. Errors are mean",
        "absolute errors in pixels at 224 x 224.",
        "",
        f"- {FOLDS} folds by patient (the files name no patients, so each film counts as one), seed {SEED}, one",
        "  training per fold, weights of the last epoch.",
        "- The edges recipe was chosen on fold 0, and on the films of fold 0 in the two crossings below; the line",
        "  *folds 1 to 4* leaves them out. *Edges, read films* was chosen on folds 0 to 2; the model card has folds",
        "  3 and 4.",
        "- The crossings: *JSRT to Wingspan* is trained on JSRT and tested on Wingspan, and the other way round. Those",
        "  of 197 films, and all rows of 394, were measured before three films were excluded and borders cropped.",
        "- *Self-trained* goes on training with unlabelled NIH films; the network of the row *edges* gives the labels.",
        "- The classic rows start at the mean box, which favours them: the row *as published*, started from answers",
        "  near 0, does not even reach the mean box in twice as many epochs.",
        "- *Coverage* is the share of labels inside 90 % margins that were calibrated on the other folds. Over all",
        "  films the calibration brings it near 90 %, however good the margins are; within one collection it does not.",
        "  Crossings have no margins.",
        "- *Seconds per film* is the time of a whole training run divided by the number of its films, without the",
        "  pretraining on phantoms; *relative* is its ratio to the classic ResNet18's. Measured on",
        f"  {TIMED_EPOCHS} epochs of {TIMED_FILMS} films per recipe, one recipe after the other, and scaled to the",
        "  row's epochs (`--times`).",
        "",
        "Written by `python benchmarks/accuracy.py DATA`.",
        "",
        "| recipe | epochs | films | left | top | right | bottom | mean | IoU | above 0.75 | worst | thorax | ratio | "
        "coverage: left / top / right / bottom / ratio | seconds per film | relative |",
        "|---|" + "---|" * 15,
    ]
    for row in table.to_dict("records"):
        edges = " | ".join(f"{row[f'mae_{edge}']:.2f}" for edge in EDGES)
        covered = "-"
        if not np.isnan(row.get("coverage_ctr", np.nan)):
            covered = " / ".join(f"{row[f'coverage_{name}']:.0%}" for name in (*EDGES, "ctr"))
        seconds, relative = (
            "-" if np.isnan(row[key]) else f"{row[key]:.2f}" for key in ("seconds_per_film", "relative_to_classic")
        )
        thorax, ratio = (
            "-" if np.isnan(row.get(key, np.nan)) else f"{row[key]:.{digits}f}"
            for key, digits in (("thorax_mae", 2), ("ctr_mae", 4))
        )
        lines.append(
            f"| {row['recipe']} | {row['epochs'] or '-'} | {row['films']} ({row['images']}) | {edges} "
            f"| {row['mae']:.2f} | {row['iou_mean']:.3f} | {row['iou_above_0.75']:.0%} | {row['iou_worst']:.2f} "
            f"| {thorax} | {ratio} | {covered} | {seconds} | {relative} |"
        )
    return lines


def draw(table: pd.DataFrame) -> None:
    """Draw the error of each edge and the IoU of each recipe, out of fold and across collections."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    whole = table[table["films"] == "all"].set_index("recipe")
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), gridspec_kw={"width_ratios": [3, 2]})
    places, width = np.arange(5), 0.8 / max(len(whole), 1)
    for k, (name, row) in enumerate(whole.iterrows()):
        heights = [row[f"mae_{edge}"] for edge in EDGES] + [row["mae"]]
        left.bar(places + (k - (len(whole) - 1) / 2) * width, heights, width, label=name)
    left.set_xticks(places, ["left", "top", "right", "bottom", "mean"])
    left.set_ylabel("mean absolute error, px at 224")
    left.legend(fontsize=8, ncols=3, frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
    crossed = table[table["films"].isin(["all", *CROSS])].pivot(index="films", columns="recipe", values="iou_mean")
    crossed = crossed.reindex(index=["all", *CROSS], columns=[name for name in ["mean box", *ROWS] if name in crossed])
    crossed.plot.bar(ax=right, legend=False, rot=0, width=0.8)
    right.set(xlabel="", ylabel="mean IoU", ylim=(0, 1))
    right.set_xticks(range(3), ["out of fold", *(name.replace(" to ", "\nto ") for name in CROSS)])
    figure.tight_layout()
    with complete_or_absent(RESULTS / "accuracy.png") as part:
        figure.savefig(part, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
