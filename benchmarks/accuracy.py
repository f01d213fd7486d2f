"""How accurate each recipe is: out of fold on all films, apart by collection, and from one collection to the other.

    python benchmarks/accuracy.py DATA [--nih FOLDER] [--work FOLDER] [--rows NAME ...] [--epochs N]

DATA is the folder of the public Cardiothoracic Ratio dataset; FOLDER has NIH films, of which the self-trained row
learns without labels (benchmarks/nih_split.py says which). Every row sees the same five folds, by patient (these
files name none, so each film counts as one); a film is answered by the network that was trained without it, with the
last epoch's weights. The choices that made the recipe were made on fold 0 (benchmarks/recipe.py), so there is a line
without it. Films whose masks the label audit found to be wrong are left out of training and of measuring.

Every training has its checkpoints and its predictions under --work: a run that is stopped goes on, a row that is done
is not repeated, and a table of the rows there are is written each time, to benchmarks/results/accuracy.md and accuracy.png.
How long a recipe takes is measured apart (--times), all of them one after the other on a machine that does nothing
else: a training of hours is disturbed too easily to be timed.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from nih_split import two_parts
from self_training import read_unlabelled, write_self_training

from cardiac_dataset import CardiacDataset
from heartbox.boxes import EDGES
from heartbox.data.layouts import CTR_EXCLUDED
from heartbox.data.phantom_store import write_phantom_store
from heartbox.data.prepare import prepare
from heartbox.data.splits import assign_folds
from heartbox.data.store import write_split
from heartbox.evaluation.conformal import calibrate, coverage
from heartbox.evaluation.metrics import all_boxes, evaluate, mean_box, predict
from heartbox.models.weights import load_weights, save_weights
from heartbox.training.loop import fit
from heartbox.training.recipes import RECIPES, BoxTask, Recipe, make_model
from heartbox.utils.atomic import complete_or_absent

RESULTS = Path(__file__).resolve().parent / "results"
FOLDS, SEED = 5, 0
PHANTOMS = 4000
PHANTOM_EPOCHS = 6
YARDSTICK_EPOCHS = 24
TIMED_FILMS, TIMED_EPOCHS = 32, 5
CLASSIC = dataclasses.replace(RECIPES["classic"], start_at_mean=True)
ROWS: dict[str, Recipe] = {
    # Half as many epochs again as the edges recipe has. The published start, with answers near 0, would spend all of
    # them on the way to the mean box.
    "classic ResNet18": dataclasses.replace(CLASSIC, epochs=YARDSTICK_EPOCHS),
    # But for this one, many times as slow: as many epochs would take two CPU cores half a day.
    "classic VGG16": dataclasses.replace(CLASSIC, backbone="vgg16", epochs=1),
    "sensible regression": dataclasses.replace(RECIPES["sensible"], epochs=YARDSTICK_EPOCHS),
    "edges": dataclasses.replace(RECIPES["edges"], start="phantoms"),
    # The network of the row above answers films without labels, and goes on with those and its own.
    "edges, self-trained": dataclasses.replace(RECIPES["edges"], start="teacher", epochs=10, learning_rate=1e-3),
}
CROSS = {"JSRT to Wingspan": ("jsrt", "wingspan"), "Wingspan to JSRT": ("wingspan", "jsrt")}


# ---------------------------------------------------------------- one training


def pretrain(work: Path) -> Path:
    """Train the edges network on phantoms alone, once for all folds and seeds: no film of DATA is in it."""
    path, folder = work / "phantoms.pt", work / "phantoms"
    recipe = dataclasses.replace(RECIPES["edges"], epochs=PHANTOM_EPOCHS, small_share=1.0)
    about = json.dumps({**dataclasses.asdict(recipe), "films": PHANTOMS}, sort_keys=True)
    if path.is_file() and load_weights(path)[1]["recipe"] == about:
        return path
    if not (folder / "stats.json").is_file():
        # Phantoms use the whole range of greys as they are; their contrast need not be evened.
        write_phantom_store(folder, PHANTOMS)
    model, train, seconds = train_one(folder, recipe, work / "phantoms-run", seed=0)
    save_weights(path, model, train.stats, targets=list(recipe.targets), recipe=about, seconds=seconds)
    return path


def train_one(
    folder: Path, recipe: Recipe, out: Path, seed: int, watched: Dataset | None = None
) -> tuple[torch.nn.Module, CardiacDataset, float]:
    """Train a recipe on a processed folder; return the network, what it was trained on and the seconds it took.

    The validation films, or those that are given to be watched, are measured after each epoch and decide nothing.
    """
    train = CardiacDataset(folder, "train", recipe.augment, recipe.targets, recipe.rule, bool(recipe.mask_weight))
    watched = watched or CardiacDataset(folder, "val", targets=recipe.targets)
    torch.manual_seed(seed)
    model = make_model(recipe, train)
    print(f"{out.parent.name}, {out.name}: {len(train)} films, {recipe.epochs} epochs", flush=True)
    history = fit(model, train, watched, BoxTask(recipe), out, seed=seed, progress=sys.stdout.isatty())
    return model, train, history.attrs["seconds"]


def describe(folder: Path, recipe: Recipe, seed: int, work: Path) -> str:
    """Tell one measurement from another: the recipe, the seed, and the films with their labels and sides."""
    films = hashlib.sha256((folder / "labels.csv").read_bytes()).hexdigest()
    about = {"recipe": dataclasses.asdict(recipe), "seed": seed, "films": films}
    if recipe.start == "teacher":
        about["teacher"] = dataclasses.asdict(ROWS["edges"])
        about["unlabelled"] = hashlib.sha256(unlabelled(work).read_bytes()).hexdigest()
    return json.dumps(about, sort_keys=True)


def unlabelled(work: Path, nih: Path | None = None) -> Path:
    """Return the file of films without labels, read from the folder of NIH films if it is not there yet."""
    path = work / "unlabelled.npz"
    if not path.is_file():
        if nih is None:
            raise SystemExit("self-training learns from films without labels: name the folder of NIH films with --nih")
        images, names, problems = read_unlabelled(two_parts(nih)[0])
        print(f"{len(images)} films without labels, {len(problems)} that cannot be read", flush=True)
        with complete_or_absent(path) as part:
            np.savez(part, images=images, names=np.array(names))
    return path


def resolve_start(
    folder: Path, recipe: Recipe, out: Path, work: Path, seed: int, watched: Dataset | None = None
) -> tuple[Path, Recipe]:
    """Train what the recipe starts from; return the folder that it is trained on, and the recipe with the file."""
    if recipe.start == "phantoms":
        return folder, dataclasses.replace(recipe, start=str(pretrain(work)))
    if recipe.start != "teacher":
        return folder, recipe
    path, student = out / "teacher.pt", work / "students" / f"{folder.name}-{seed}"
    _, beginner = resolve_start(folder, ROWS["edges"], out, work, seed)
    # The run of the row above, where it is of this seed, is not repeated.
    learnt = work / "runs" / "edges" / folder.name if seed == SEED else out / "teacher"
    teacher, train, _ = train_one(folder, beginner, learnt, seed, watched)
    save_weights(path, teacher, train.stats, targets=list(recipe.targets))
    films = np.load(unlabelled(work))
    write_self_training(folder, student, films["images"], films["names"], teacher)
    return student, dataclasses.replace(recipe, start=str(path))


def answer(folder: Path, recipe: Recipe, out: Path, work: Path, seed: int = SEED) -> dict[str, np.ndarray]:
    """Train on a folder's training films and answer its validation films, or load what an earlier run answered."""
    path = out / "answers.npz"
    settings = describe(folder, recipe, seed, work)
    if path.is_file():
        found = dict(np.load(path))
        if str(found["settings"]) == settings:
            return found
    labelled = folder
    folder, started = resolve_start(folder, recipe, out, work, seed)
    model, train, seconds = train_one(folder, started, out, seed)
    val = CardiacDataset(folder, "val", targets=("heart", "thorax"))
    predicted, spread = predict(model, val)
    answers = {
        "passes": np.array(film_passes(labelled, recipe, len(train))),
        "names": val.labels["name"].to_numpy(dtype=str),
        "predicted": predicted,
        "truth": all_boxes(val)[:, : predicted.shape[1]],
        "seconds": np.array(seconds),
        "settings": np.array(settings),
    }
    if spread is not None:
        answers["spread"] = spread
        answers["spread_mirrored"] = predict(model, Mirrored(val))[1]
    with complete_or_absent(path) as part:
        np.savez(part, **answers)
    return answers


def film_passes(labelled: Path, recipe: Recipe, films: int) -> float:
    """Return how often a film passes through the network in training, for each film with a label, teacher included."""
    own = (pd.read_csv(labelled / "labels.csv")["split"] == "train").sum()
    return recipe.epochs * films / own + (ROWS["edges"].epochs if recipe.start == "teacher" else 0)


class Mirrored(Dataset):
    """The same images, left for right; for doubts, not for boxes."""

    def __init__(self, inner: Dataset):
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> tuple[torch.Tensor]:
        return (self.inner[index][0].flip(-1),)


def time_recipes(work: Path) -> dict[str, float]:
    """Train every recipe for a moment, one after the other; return the seconds for a film and epoch of each.

    Five epochs, so that the share of them that learns from small images is the recipe's own.
    """
    folder, labels = work / "folds" / "timing", pd.read_csv(work / "processed" / "labels.csv", dtype={"name": str})
    usable = np.flatnonzero(labels["split"] != "unused")
    split = np.full(len(labels), "unused", dtype=object)
    split[usable[:TIMED_FILMS]], split[usable[TIMED_FILMS : TIMED_FILMS + 4]] = "train", "val"
    write_split(work / "processed", folder, split, "timing")
    found = {}
    for name, recipe in ROWS.items():
        if recipe.start == "teacher":  # the same network and the same steps as the teacher's
            found[name] = found["edges"]
            continue
        recipe = dataclasses.replace(recipe, epochs=TIMED_EPOCHS, start="")
        train = CardiacDataset(folder, "train", recipe.augment, recipe.targets, recipe.rule, bool(recipe.mask_weight))
        watched = CardiacDataset(folder, "val", targets=recipe.targets)
        model, task, out = make_model(recipe, train), BoxTask(recipe), work / "runs" / "timing"
        for _ in range(2):  # the first warms up
            history = fit(model, train, watched, task, out, progress=False, checkpoints=False)
        found[name] = history.attrs["seconds"] / TIMED_FILMS / TIMED_EPOCHS
        print(f"{name}: {found[name]:.3f} s a film and epoch", flush=True)
    with complete_or_absent(work / "times.json") as part:
        part.write_text(json.dumps(found), encoding="utf-8")
    return found


# ---------------------------------------------------------------- all of them


def prepare_folds(data: Path, work: Path, even: bool = True) -> pd.DataFrame:
    """Write one processed folder for each fold and each crossing; return the labels with the fold of each film."""
    processed, origin = work / "processed", work / "origin.txt"
    films = f"{data.resolve()}\n{CTR_EXCLUDED.read_text(encoding='utf-8')}"
    if not (processed / "stats.json").is_file():
        prepare(data, processed, seed=0, even=even)
        origin.write_text(films, encoding="utf-8")
    elif not origin.is_file() or origin.read_text(encoding="utf-8") != films:
        raise SystemExit(f"{work} was made from other films, or with others left out: name another --work")
    labels = pd.read_csv(processed / "labels.csv", dtype={"name": str})
    usable = (labels["split"] != "unused").to_numpy()
    # Films that are left out take part in the assignment, so that leaving out one more moves no other.
    patients = pd.read_csv(processed / "patients.csv")["patient"]
    labels["fold"] = np.where(usable, assign_folds(patients, labels["source"], FOLDS, 0), -1)
    for fold in range(FOLDS):
        side = np.where(labels["fold"] == fold, "val", "train")
        write_split(processed, work / "folds" / str(fold), np.where(usable, side, "unused"), f"fold {fold}")
    for name, (source, target) in CROSS.items():
        side = np.where(labels["source"] == source, "train", np.where(labels["source"] == target, "val", "unused"))
        write_split(processed, work / "folds" / name, np.where(usable, side, "unused"), name)
    return labels


def mean_box_answer(folder: Path) -> dict[str, np.ndarray]:
    """Answer every validation film with the mean box of the training films."""
    train, val = (CardiacDataset(folder, side, targets=("heart", "thorax")) for side in ("train", "val"))
    always = np.tile(mean_box(all_boxes(train)), (len(val), 1))
    names = val.labels["name"].to_numpy(dtype=str)
    return {"names": names, "predicted": always, "truth": all_boxes(val)}


def calibrate_on_others(answers: list[dict[str, np.ndarray]], k: int) -> dict:
    """Calibrate the margins of fold `k` on the answers of all other folds."""
    others = [other for i, other in enumerate(answers) if i != k]
    return calibrate(*(np.concatenate([other[key] for other in others]) for key in ("predicted", "spread", "truth")))


def summarise(answers: list[dict[str, np.ndarray]], keep: set[str]) -> dict[str, float]:
    """Measure the pooled answers of all folds on the films in `keep`; intervals calibrated on the other folds."""
    joined = {key: np.concatenate([one[key] for one in answers]) for key in ("names", "predicted", "truth")}
    chosen = np.isin(joined["names"], list(keep))
    measured = evaluate(joined["predicted"][chosen], joined["truth"][chosen])
    held = []
    for k, one in enumerate(answers):
        inside = np.isin(one["names"], list(keep))
        if len(answers) < 2 or "spread" not in one or not inside.any():
            continue
        share = coverage(
            calibrate_on_others(answers, k), *(one[key][inside] for key in ("predicted", "spread", "truth"))
        )
        held.append(np.append(share["edges"], share["ctr"]) * inside.sum())
    if held:
        held = np.sum(held, axis=0) / chosen.sum()
        for name, share in zip(EDGES, held[:4], strict=True):
            measured[f"held_{name}"] = share
        measured["held_ctr"] = held[-1]
    return measured


def main() -> None:
    """Train what is not trained yet, and write the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--nih", type=Path, help="folder of NIH films, for the self-trained row")
    parser.add_argument("--work", type=Path, default=Path("artifacts/benchmark"))
    parser.add_argument("--rows", nargs="*", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--epochs", type=int, help="instead of each recipe's own number")
    parser.add_argument("--no-cross", action="store_true", help="leave out training on one collection alone")
    parser.add_argument("--times", action="store_true", help="time the recipes, and train nothing")
    arguments = parser.parse_args()
    work = arguments.work
    labels = prepare_folds(arguments.data, work)
    if arguments.nih:
        unlabelled(work, arguments.nih)
    if arguments.times:
        time_recipes(work)
        arguments.rows = []
    folders = [work / "folds" / str(fold) for fold in range(FOLDS)]
    for name in arguments.rows:
        recipe = ROWS[name] if arguments.epochs is None else dataclasses.replace(ROWS[name], epochs=arguments.epochs)
        for folder in folders + ([] if arguments.no_cross else [work / "folds" / crossing for crossing in CROSS]):
            answer(folder, recipe, work / "runs" / name / folder.name, work)
    write_results(labels, folders, work)


def write_results(labels: pd.DataFrame, folders: list[Path], work: Path) -> None:
    """Write the table of every row that is complete under `work`."""
    usable = labels[labels["fold"] >= 0]
    groups = {"all": set(usable["name"]), "folds 1 to 4": set(usable["name"][usable["fold"] > 0])}
    groups |= {source: set(films["name"]) for source, films in usable.groupby("source")}
    rows = []
    for name in ["mean box", *ROWS]:
        runs = {folder.name: work / "runs" / name / folder.name / "answers.npz" for folder in folders}
        for key in CROSS:
            runs[key] = work / "runs" / name / key / "answers.npz"
        if name == "mean box":
            answers, epochs = {key: mean_box_answer(work / "folds" / key) for key in runs}, 0
        else:
            answers, epochs = load_answers(runs, work)
        out_of_fold = [answers[folder.name] for folder in folders if folder.name in answers]
        passes = np.mean([answer.get("passes", epochs) for answer in out_of_fold]) if out_of_fold else epochs
        about = {"recipe": name, "epochs": epochs, "passes": passes, "contrast": "even"}
        if len(out_of_fold) == FOLDS:
            for group, keep in groups.items():
                rows.append({**about, "films": group, **summarise(out_of_fold, keep)})
        for key in CROSS:
            if key in answers:
                rows.append({**about, "films": key, **summarise([answers[key]], groups["all"])})
    table = with_earlier(pd.DataFrame(rows), len(usable))
    # A training's time means something beside another's on the same machine.
    times = json.loads((work / "times.json").read_text(encoding="utf-8")) if (work / "times.json").is_file() else {}
    table["seconds_a_film"] = table["recipe"].map(times).astype(float) * table["passes"]
    beside = table.loc[table["recipe"] == "classic ResNet18", "seconds_a_film"]
    table["times_classic"] = table["seconds_a_film"] / (beside.iloc[0] if len(beside) else np.nan)
    with complete_or_absent(RESULTS / "accuracy.csv") as part:
        table.to_csv(part, index=False, float_format="%.4f", lineterminator="\n")
    left_out = int((labels["fold"] < 0).sum())
    text = as_markdown(table, len(usable), left_out)
    as_they_are = table.loc[table["contrast"].isna(), "recipe"].unique()
    if len(as_they_are):
        text += f"\nMeasured earlier, before the contrast of films was evened: {', '.join(as_they_are)}.\n"
    missing = [name for name in ROWS if name not in set(table["recipe"])]
    if missing:
        text += f"\nNot measured yet: {', '.join(missing)}.\n"
    with complete_or_absent(RESULTS / "accuracy.md") as part:
        part.write_text(text, encoding="utf-8")
    draw(table)
    print(text)


def with_earlier(table: pd.DataFrame, films: int) -> pd.DataFrame:
    """Add the rows of recipes that were not trained under this work folder from the table there is, if of these films.

    The slow recipes take hours; that another is measured again does not change what they did.
    """
    path = RESULTS / "accuracy.csv"
    if not path.is_file():
        return table
    earlier = pd.read_csv(path)
    earlier["passes"] = earlier["passes"] if "passes" in earlier else earlier["epochs"]
    of_these = earlier.loc[(earlier["films"] == "all") & (earlier["images"] == films), "recipe"]
    wanted = set(of_these) & set(ROWS) - set(table["recipe"])
    both = pd.concat([table, earlier[earlier["recipe"].isin(wanted)]], ignore_index=True)
    order = {name: place for place, name in enumerate(["mean box", *ROWS])}
    return both.sort_values("recipe", key=lambda names: names.map(order), kind="stable", ignore_index=True)


def load_answers(runs: dict[str, Path], work: Path) -> tuple[dict[str, dict], int]:
    """Return the answers of one row that belong together, and its epochs.

    Those of another recipe or seed than the first fold's, or of films that were split otherwise, are left aside.
    """
    answers, first = {}, None
    for key, path in runs.items():
        if not path.is_file():
            continue
        found = dict(np.load(path))
        settings = json.loads(str(found["settings"]))
        films = hashlib.sha256((work / "folds" / key / "labels.csv").read_bytes()).hexdigest()
        first = first or settings
        if settings == {**first, "films": films}:
            answers[key] = found
    return answers, first["recipe"]["epochs"] if first else 0


def as_markdown(table: pd.DataFrame, films: int, left_out: int) -> str:
    """Write the table for a reader; pixels at 224."""
    lines = [
        f"{films} films ({left_out} more were left out by the label audit), {FOLDS} folds by patient (the files name",
        f"none, so each film counts as one), seed {SEED}, one training a fold and the last epoch's weights. The edges",
        "recipe was chosen on fold 0 and by those films of the crossings that are in it; *self-trained* goes on to",
        "learn from NIH films without labels, as the network of the row above answers them. The classic rows start at",
        "the mean box, to their favour: from answers near 0, as published, these epochs do not even get there. Errors",
        "are mean absolute errors in pixels at 224 x 224. *held*",
        "is the share of labels inside margins of 90 % that were calibrated on the other folds: over all films it is",
        "near 90 % whatever the margins are worth, for one collection it is not; a crossing has none. *Seconds* are",
        "those of a whole training for each film in it (pretraining on phantoms, once for all, not among them), and",
        f"*times* the multiple of the classic ResNet18's: {TIMED_EPOCHS} epochs of {TIMED_FILMS} films of each, one",
        "after the other, scaled to the row's epochs (`--times`). Written by `python benchmarks/accuracy.py DATA`.",
        "",
        "| recipe | epochs | films | left | top | right | bottom | mean | IoU | above 0.75 | worst | thorax | ratio | "
        "held: left / top / right / bottom / ratio | seconds a film | times |",
        "|---|" + "---|" * 15,
    ]
    for row in table.to_dict("records"):
        edges = " | ".join(f"{row[f'mae_{edge}']:.2f}" for edge in EDGES)
        held = "-"
        if not np.isnan(row.get("held_ctr", np.nan)):
            held = " / ".join(f"{row[f'held_{name}']:.0%}" for name in (*EDGES, "ctr"))
        seconds, times = (
            "-" if np.isnan(row[key]) else f"{row[key]:.2f}" for key in ("seconds_a_film", "times_classic")
        )
        thorax, ratio = (
            "-" if np.isnan(row.get(key, np.nan)) else f"{row[key]:.{digits}f}"
            for key, digits in (("thorax_mae", 2), ("ctr_mae", 4))
        )
        lines.append(
            f"| {row['recipe']} | {row['epochs'] or '-'} | {row['films']} ({row['images']}) | {edges} "
            f"| {row['mae']:.2f} | {row['iou_mean']:.3f} | {row['iou_above_0.75']:.0%} | {row['iou_worst']:.2f} "
            f"| {thorax} | {ratio} | {held} | {seconds} | {times} |"
        )
    return "\n".join(lines) + "\n"


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
