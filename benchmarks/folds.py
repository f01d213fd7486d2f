"""Train recipes on folds of the labelled films and answer each film with a network that never saw it.

The films with masks are those of the Cardiothoracic Ratio dataset; beside them are films whose side borders were read
by eye (read_films.py). Every row answers both kinds; only some rows learn from the second.

Every training keeps its checkpoints and predictions under a work folder: a run that was stopped resumes, and a finished
one is not repeated. The scripts beside this module turn the answers into tables.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import split_nih
from pseudo_labels import read_unlabelled, write_self_training
from read_films import NIH, UNREAD, fold_of_read_films, join_read_films
from torch.utils.data import Dataset, Subset

from cardiac_dataset import CardiacDataset
from heartbox.boxes import EDGES, HEART
from heartbox.data.layouts import CTR_EXCLUDED
from heartbox.data.phantom_store import write_phantom_store
from heartbox.data.prepare import prepare
from heartbox.data.splits import assign_folds
from heartbox.data.store import write_split
from heartbox.evaluation.conformal import calibrate, coverage
from heartbox.evaluation.metrics import all_boxes, evaluate, mean_box, predict
from heartbox.models.config import Calibration
from heartbox.models.weights import load_weights, save_weights
from heartbox.training.loop import fit
from heartbox.training.recipes import RECIPES, BoxTask, Recipe, make_model
from heartbox.utils.atomic import complete_or_absent

FOLDS, SEED = 5, 0
PHANTOMS, PHANTOM_EPOCHS, ILL_SHARE = 4000, 6, 0.5
# The rows that learn from the films read by eye.
READ_ROWS = ("edges, read films", "edges, read films twice, longer", "edges, read films, ward")
REGRESSION_EPOCHS = 24
CLASSIC = dataclasses.replace(RECIPES["classic"], start_at_mean=True)


@dataclasses.dataclass(frozen=True)
class RepeatingRecipe(Recipe):
    """A recipe that shows each NIH film read by eye several times in an epoch.

    Attributes
    ----------
    read_repeats : int
        How many times.
    """

    read_repeats: int = 2


ROWS: dict[str, Recipe] = {
    # Half as many epochs again as the edges recipe. From the published start, answers near 0, they would all be spent
    # on reaching the mean box.
    "classic ResNet18": dataclasses.replace(CLASSIC, epochs=REGRESSION_EPOCHS),
    # One epoch only: VGG16 is many times slower, and 24 epochs would take two CPU cores half a day.
    "classic VGG16": dataclasses.replace(CLASSIC, backbone="vgg16", epochs=1),
    "sensible regression": dataclasses.replace(RECIPES["sensible"], epochs=REGRESSION_EPOCHS),
    "edges": dataclasses.replace(RECIPES["edges"], start="phantoms"),
    # The same recipe, learning from the films read by eye as well.
    "edges, read films": dataclasses.replace(RECIPES["edges"], start="phantoms"),
    # Half as many epochs again, and the NIH films among the read ones twice in each: twice the steps.
    "edges, read films twice, longer": RepeatingRecipe(
        **{**dataclasses.asdict(RECIPES["edges"]), "start": "phantoms", "epochs": 24}
    ),
    # With a ward's effects painted over the training films as well.
    "edges, read films, ward": dataclasses.replace(RECIPES["edges"], start="phantoms", augment="ward"),
    # As published, one by one: 50 epochs, from answers near zero.
    "classic ResNet18, as published": RECIPES["classic"],
    # The network of the row "edges" labels films that have no labels; training continues on those and its own films.
    "edges, self-trained": dataclasses.replace(RECIPES["edges"], start="teacher", epochs=10, learning_rate=1e-3),
}
CROSS = {"JSRT to Wingspan": ("jsrt", "wingspan"), "Wingspan to JSRT": ("wingspan", "jsrt")}
OLD_NAMES = {"spread": "std"}  # in answers written before 0.2.0


# ---------------------------------------------------------------- folders


def prepare_folds(data: Path, work: Path, normalize: bool = True) -> pd.DataFrame:
    """Write one processed folder for each fold and each crossing.

    Parameters
    ----------
    data : Path
        The Cardiothoracic Ratio dataset.
    work : Path
        Where the folders go; a work folder belongs to one set of films.
    normalize : bool
        Whether to normalise the contrast of the films.

    Returns
    -------
    DataFrame
        The labels with a column ``fold``; -1 for films that the label audit excluded.

    Raises
    ------
    SystemExit
        If the work folder was made from other films or with other exclusions.
    """
    processed, origin = work / "processed", work / "origin.txt"
    films = f"{data.resolve()}\n{CTR_EXCLUDED.read_text(encoding='utf-8')}"
    if not (processed / "stats.json").is_file():
        prepare(data, processed, seed=0, normalize=normalize)
        origin.write_text(films, encoding="utf-8")
    elif not origin.is_file() or origin.read_text(encoding="utf-8") != films:
        raise SystemExit(f"{work} was made from other films, or with other exclusions: name another --work")
    labels = pd.read_csv(processed / "labels.csv", dtype={"name": str})
    usable = (labels["split"] != "unused").to_numpy()
    # Excluded films take part in the assignment, so that excluding one more does not move the others.
    patients = pd.read_csv(processed / "patients.csv")["patient"]
    labels["fold"] = np.where(usable, assign_folds(patients, labels["source"], FOLDS, 0), -1)
    for fold in range(FOLDS):
        split = np.where(labels["fold"] == fold, "val", "train")
        write_split(processed, work / "folds" / str(fold), np.where(usable, split, "unused"), f"fold {fold}")
    for name, (source, target) in CROSS.items():
        split = np.where(labels["source"] == source, "train", np.where(labels["source"] == target, "val", "unused"))
        write_split(processed, work / "folds" / name, np.where(usable, split, "unused"), name)
    return labels


def prepare_read_folds(labels: pd.DataFrame, data: Path, work: Path) -> pd.DataFrame:
    """Write the folders in which films read by eye stand beside those with masks.

    Fold k is ``work/without-read/k``, whose training films are those with masks, and ``work/with-read/k``, whose
    training films are both kinds. Both are validated on both kinds. The NIH films that nobody read, of other patients,
    are the split "upright", which no network of the folds is shown.

    Parameters
    ----------
    labels : DataFrame
        From :func:`prepare_folds`.
    data : Path
        See :func:`read_films.read_borders`.
    work : Path
        The work folder.

    Returns
    -------
    DataFrame
        All films with their ``fold``; -1 for those in none.
    """
    joint = join_read_films(work / "processed", data, work / "joint")
    fold = fold_of_read_films(joint, FOLDS)
    fold[: len(labels)] = labels["fold"]
    joint["fold"] = fold
    masked, upright = np.arange(len(joint)) < len(labels), (joint["source"] == UNREAD).to_numpy()
    for k in range(FOLDS):
        split = np.where(fold == k, "val", np.where(fold >= 0, "train", "unused")).astype(object)
        split[upright] = "upright"
        write_split(work / "joint", work / "with-read" / str(k), split, f"fold {k}, with read films")
        split[(split == "train") & ~masked] = "unused"
        write_split(work / "joint", work / "without-read" / str(k), split, f"fold {k}")
    everything = np.where(fold >= 0, "train", "unused").astype(object)
    everything[upright] = "upright"
    write_split(work / "joint", work / "with-read" / "everything", everything, "everything")
    return joint


def fold_folder(work: Path, name: str, key: str) -> Path:
    """Return the folder that a row is trained on, for a fold or a crossing; with read films if there are any."""
    if key in CROSS:
        return work / "folds" / key
    if (work / "joint" / "stats.json").is_file():
        return work / ("with-read" if name in READ_ROWS else "without-read") / key
    return work / "folds" / key


def run_folder(work: Path, name: str, key: str, seed: int = SEED) -> Path:
    """Return where the checkpoints and answers of a row are kept."""
    return work / "runs" / (name if seed == SEED else f"{name}, seed {seed}") / key


def unlabelled(work: Path, nih: Path | None = None) -> Path:
    """Return the file of films without labels; read them from the folder of NIH films if it does not exist yet."""
    path = work / "unlabelled.npz"
    if not path.is_file():
        if nih is None:
            raise SystemExit("self-training needs films without labels: name the folder of NIH films with --nih")
        images, names, problems = read_unlabelled(split_nih(nih)[0])
        print(f"{len(images)} films without labels; {len(problems)} could not be read", flush=True)
        with complete_or_absent(path) as part:
            np.savez(part, images=images, names=np.array(names))
    return path


# ---------------------------------------------------------------- one training


def pretrain(work: Path) -> Path:
    """Train the edges network on phantoms alone, once for all folds and seeds; no real film is involved."""
    path, folder = work / "phantoms.pt", work / "phantoms"
    recipe = dataclasses.replace(RECIPES["edges"], epochs=PHANTOM_EPOCHS, small_share=1.0, augment="ward")
    about = json.dumps({**dataclasses.asdict(recipe), "films": PHANTOMS, "ill": ILL_SHARE}, sort_keys=True)
    if path.is_file() and load_weights(path)[1].notes["recipe"] == about:
        return path
    if not (folder / "stats.json").is_file():
        # Phantoms already use the whole grey range, so their contrast is not normalised.
        write_phantom_store(folder, PHANTOMS, ill_share=ILL_SHARE)
    model, train, seconds = train_one(folder, recipe, work / "phantoms-run", seed=0)
    save_weights(path, model, train.stats.as_dict(), targets=list(recipe.targets), recipe=about, seconds=seconds)
    return path


def train_one(
    folder: Path, recipe: Recipe, out: Path, seed: int, watched: Dataset | None = None
) -> tuple[torch.nn.Module, CardiacDataset, float]:
    """Train a recipe on a processed folder; return the network, its training films and the seconds it took.

    The validation films whose boxes are wholly known, or `watched` if given, are measured after each epoch and decide
    nothing.
    """
    train = CardiacDataset(folder, "train", recipe.augment, recipe.targets, recipe.rule, bool(recipe.mask_weight))
    if isinstance(recipe, RepeatingRecipe):
        repeat_read_films(train, recipe.read_repeats)
    if watched is None:
        val = CardiacDataset(folder, "val", targets=recipe.targets)
        watched = Subset(val, np.flatnonzero(~np.isnan(all_boxes(val)).any(axis=1)).tolist())
    torch.manual_seed(seed)
    model = make_model(recipe, train)
    print(f"{out.parent.name}, {out.name}: {len(train)} films, {recipe.epochs} epochs", flush=True)
    history = fit(model, train, watched, BoxTask(recipe), out, seed=seed, progress=sys.stdout.isatty())
    return model, train, history.attrs["seconds"]


def repeat_read_films(films: CardiacDataset, times: int) -> None:
    """Let a dataset give each NIH film read by eye several times."""
    rows = np.repeat(np.arange(len(films)), np.where(films.labels["source"] == NIH, times, 1))
    films.positions, films.boxes = films.positions[rows], films.boxes[rows]
    films.labels = films.labels.iloc[rows].reset_index(drop=True)


def resolve_start(
    folder: Path, recipe: Recipe, out: Path, work: Path, seed: int, watched: Dataset | None = None
) -> tuple[Path, Recipe]:
    """Train what the recipe starts from; return the folder to train on, and the recipe with the starting weights."""
    if recipe.start == "phantoms":
        return folder, dataclasses.replace(recipe, start=str(pretrain(work)))
    if recipe.start != "teacher":
        return folder, recipe
    path, student = out / "teacher.pt", work / "students" / f"{folder.name}-{seed}"
    _, beginner = resolve_start(folder, ROWS["edges"], out, work, seed)
    # With the default seed the teacher is the run of the "edges" row, which is not repeated.
    teacher_run = work / "runs" / "edges" / folder.name if seed == SEED else out / "teacher"
    teacher, train, _ = train_one(folder, beginner, teacher_run, seed, watched)
    save_weights(path, teacher, train.stats.as_dict(), targets=list(recipe.targets))
    films = np.load(unlabelled(work))
    write_self_training(folder, student, films["images"], films["names"], teacher)
    return student, dataclasses.replace(recipe, start=str(path))


# ---------------------------------------------------------------- answers


def describe(folder: Path, recipe: Recipe, seed: int, work: Path) -> str:
    """Identify one measurement: the recipe, the seed, and the films with their labels and splits."""
    films = hashlib.sha256((folder / "labels.csv").read_bytes()).hexdigest()
    about = {"recipe": dataclasses.asdict(recipe), "seed": seed, "films": films}
    if recipe.start == "teacher":
        about["teacher"] = dataclasses.asdict(ROWS["edges"])
        about["unlabelled"] = hashlib.sha256(unlabelled(work).read_bytes()).hexdigest()
    return json.dumps(about, sort_keys=True)


def read_answers(path: Path) -> dict[str, np.ndarray]:
    """Read the answers of one training."""
    return {OLD_NAMES.get(name, name): values for name, values in np.load(path).items()}


def answer(folder: Path, recipe: Recipe, out: Path, work: Path, seed: int = SEED) -> dict[str, np.ndarray]:
    """Train on a folder's training films and answer its validation films, or load the answers of an earlier run."""
    path = out / "answers.npz"
    settings = describe(folder, recipe, seed, work)
    if path.is_file():
        found = read_answers(path)
        if str(found["settings"]) == settings:
            return found
    labelled = folder
    folder, started = resolve_start(folder, recipe, out, work, seed)
    model, train, seconds = train_one(folder, started, out, seed)
    val = CardiacDataset(folder, "val", targets=("heart", "thorax"))
    predicted, std = predict(model, val)
    answers = {
        "passes": np.array(passes_per_film(labelled, recipe, len(train))),
        "names": val.labels["name"].to_numpy(dtype=str),
        "predicted": predicted,
        "truth": all_boxes(val)[:, : predicted.shape[1]],
        "seconds": np.array(seconds),
        "settings": np.array(settings),
    }
    if std is not None:
        answers["std"] = std
    with complete_or_absent(path) as part:
        np.savez(part, **answers)
    return answers


def load_answers(runs: dict[str, Path], folders: dict[str, Path]) -> tuple[dict[str, dict], int]:
    """Return the answers of one row that belong together, and its number of epochs.

    Answers of another recipe or seed than the first fold's, or of films that were split differently, are ignored.

    Parameters
    ----------
    runs, folders : dict of Path
        For each fold or crossing, the file of answers and the processed folder that it must belong to.
    """
    answers, first = {}, None
    for key, path in runs.items():
        if not path.is_file():
            continue
        found = read_answers(path)
        settings = json.loads(str(found["settings"]))
        films = hashlib.sha256((folders[key] / "labels.csv").read_bytes()).hexdigest()
        first = first or settings
        if settings == {**first, "films": films}:
            answers[key] = found
    return answers, first["recipe"]["epochs"] if first else 0


def passes_per_film(labelled: Path, recipe: Recipe, films: int) -> float:
    """Return how many times a training runs a film through the network, per labelled film and teacher included."""
    own = (pd.read_csv(labelled / "labels.csv")["split"] == "train").sum()
    return recipe.epochs * films / own + (ROWS["edges"].epochs if recipe.start == "teacher" else 0)


def mean_box_answer(folder: Path) -> dict[str, np.ndarray]:
    """Answer every validation film with the mean box of the training films: the constant baseline."""
    train, val = (CardiacDataset(folder, split, targets=("heart", "thorax")) for split in ("train", "val"))
    always = np.tile(mean_box(all_boxes(train)), (len(val), 1))
    names = val.labels["name"].to_numpy(dtype=str)
    return {"names": names, "predicted": always, "truth": all_boxes(val)}


# ---------------------------------------------------------------- measuring


def calibrate_on_others(answers: list[dict[str, np.ndarray]], k: int) -> Calibration:
    """Calibrate the margins of fold `k` on the answers of all other folds."""
    others = [other for i, other in enumerate(answers) if i != k]
    return calibrate(*(np.concatenate([other[key] for other in others]) for key in ("predicted", "std", "truth")))


def summarise(answers: list[dict[str, np.ndarray]], keep: set[str]) -> dict[str, float]:
    """Measure the pooled answers of all folds on the films in `keep`; margins are calibrated on the other folds."""
    joined = {key: np.concatenate([one[key] for one in answers]) for key in ("names", "predicted", "truth")}
    chosen = np.isin(joined["names"], list(keep))
    measured = evaluate(joined["predicted"][chosen], joined["truth"][chosen])
    covered = []
    for k, one in enumerate(answers):
        inside = np.isin(one["names"], list(keep))
        if len(answers) < 2 or "std" not in one or not inside.any():
            continue
        share = coverage(calibrate_on_others(answers, k), *(one[key][inside] for key in ("predicted", "std", "truth")))
        covered.append(np.append(share["edges"], share["ctr"]) * inside.sum())
    if covered:
        covered = np.sum(covered, axis=0) / chosen.sum()
        for name, share in zip(EDGES, covered[HEART], strict=True):
            measured[f"coverage_{name}"] = share
        measured["coverage_ctr"] = covered[-1]
    return measured
