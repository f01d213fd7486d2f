"""Measure the pneumonia classifier on real films, beside answers that cannot see the lungs.

    python benchmarks/companion_pneumonia.py DATA

DATA is the NIH folder (folds by patient, every film answered by a network that was trained without its patient)
or RSNA's (24,000 films to train on, 2,684 to validate). Writes results/companion_pneumonia.md. An interrupted run
continues: what is finished is kept under --work, and a training continues after its last epoch.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import torch

RESULTS = Path(__file__).resolve().parent / "results"
sys.path.insert(0, str(RESULTS.parent))

from companions.pneumonia.data import PneumoniaDataset, Prepared, make_datasets, prepare  # noqa: E402
from companions.pneumonia.layouts import READER_OPACITY  # noqa: E402
from companions.pneumonia.metrics import (  # noqa: E402
    auroc,
    bootstrap_interval,
    box_coverage,
    brier_skill,
    chance_shares,
    confusion_figures,
    cross_fitted_calls,
    evidence_share,
    group_rates,
    predict_from_thumbnails,
    probabilities,
    rank_figures,
    spread_bias,
    thumbnails,
)
from companions.pneumonia.model import (  # noqa: E402
    RECIPES,
    PneumoniaRecipe,
    PneumoniaTask,
    build_classifier,
    class_weight,
    fit_last_layer,
    predict_logits,
)
from heartbox.data.splits import TRAIN, VAL, assign_folds  # noqa: E402
from heartbox.explain.attribution import class_activation_map  # noqa: E402
from heartbox.models.weights import released_weights  # noqa: E402
from heartbox.training.loop import fit  # noqa: E402
from heartbox.utils.atomic import complete_or_absent  # noqa: E402

SEED, RECALL = 0, 0.9
WATCHED = 32  # validation films measured after each epoch; they decide nothing
HEART = released_weights()
WHAT_IT_IS = {
    "last layer alone": "the trunk of the released heart network, unchanged, and a logistic regression on its averaged "
    "features",
    "from scratch": "trained from random weights",
    "fine-tuned": "the last layer alone, then all layers trained from there",
}
ROWS = tuple(WHAT_IT_IS)


# ---------------------------------------------------------------- answers


def recipe_of(row: str, layout: str) -> PneumoniaRecipe:
    """Return how a row is trained: from random weights, or from the trunk of the network that finds hearts."""
    if row == "from scratch":
        return RECIPES["published" if layout == "rsna" else "few films"]
    if row == "last layer alone":
        return PneumoniaRecipe(epochs=0, start=str(HEART))
    return dataclasses.replace(RECIPES["fine-tuning"], start=str(HEART))


def make_parts(prepared: Prepared, folds: int) -> np.ndarray:
    """Return the part in which each film is answered; -1 for films that only train."""
    labels = prepared.labels
    strata = labels["target"].astype(str)
    if prepared.stats["layout"] == "nih":
        return assign_folds(labels["patient"], strata, folds, SEED)
    held = prepared.rows(VAL)  # one network; two halves only so that each has a threshold from the other
    parts = np.full(len(labels), -1)
    parts[held] = assign_folds(labels["patient"].iloc[held], strata.iloc[held], 2, SEED)
    return parts


def answer(
    prepared: Prepared, train: np.ndarray, val: np.ndarray, recipe: PneumoniaRecipe, out: Path, may_train: bool
) -> dict[str, np.ndarray] | None:
    """Train on some films and answer others with logits and maps, or load the answers of an earlier run.

    Returns None if there are no earlier answers and nothing may be trained.
    """
    path = out / "answers.npz"
    about = dataclasses.asdict(recipe) | {"start": Path(recipe.start).name}
    settings = json.dumps({"recipe": about, "seed": SEED, "films": prepared.stats["identity"], "val": val.tolist()})
    if path.is_file():
        found = dict(np.load(path))
        if str(found["settings"]) == settings:
            return found
    if not may_train:
        return None
    learning, asked = make_datasets(prepared, recipe.augment, train, val)
    weight = class_weight(learning.targets)
    torch.manual_seed(SEED)
    model = build_classifier(prepared.stats["size"], recipe.start, recipe.pretrained)
    if recipe.start:
        fit_last_layer(model, make_datasets(prepared, "", train, val)[0])
    print(f"{out}: {len(learning)} films, {recipe.epochs} epochs", flush=True)
    some = val[np.linspace(0, len(val) - 1, min(WATCHED, len(val))).astype(int)]
    watched = PneumoniaDataset(prepared, some, learning.statistics)
    if recipe.epochs:
        task = PneumoniaTask(recipe, weight)
        fit(model, learning, watched, task, out, seed=SEED, progress=sys.stdout.isatty())
    boxed = np.flatnonzero(np.isin(val, prepared.boxes["film"]))
    with torch.no_grad():
        maps = [class_activation_map(model, asked[i][0][None])[0][0, 0].numpy() for i in boxed]
    answers = {"rows": val, "logits": predict_logits(model, asked), "weight": np.array(weight)}
    answers |= {"boxed": val[boxed], "maps": np.array(maps)}
    with complete_or_absent(path) as part:
        np.savez(part, settings=np.array(settings), **answers)
    return answers


def all_answers(
    prepared: Prepared, parts: np.ndarray, recipe: PneumoniaRecipe, out: Path, may_train: bool
) -> dict[str, np.ndarray] | None:
    """Return the answers about all films that are in a part, each by a network trained without its patient."""
    if prepared.stats["layout"] != "nih":
        return answer(prepared, prepared.rows(TRAIN), np.flatnonzero(parts >= 0), recipe, out / "held-out", may_train)
    folds = []
    for part in np.unique(parts):
        train, val = np.flatnonzero(parts != part), np.flatnonzero(parts == part)
        folds.append(answer(prepared, train, val, recipe, out / f"fold-{part}", may_train))
        if folds[-1] is None:
            return None
    joined = {key: np.concatenate([fold[key] for fold in folds]) for key in ("rows", "logits", "boxed", "maps")}
    return joined | {"weight": np.concatenate([np.full(len(fold["rows"]), fold["weight"]) for fold in folds])}


# ---------------------------------------------------------------- figures


def shortcuts(prepared: Prepared, parts: np.ndarray) -> dict[str, np.ndarray]:
    """Answer without seeing the lungs: by view, number of the film, thumbnail. NaN for films that only train."""
    labels, images = prepared.labels, prepared.images
    targets, small = labels["target"].to_numpy(), thumbnails(images)
    answers = {"8 x 8 thumbnail": np.full(len(labels), np.nan)}
    if (labels["view"] != "").any():
        answers["view position"] = np.full(len(labels), np.nan)
    for part in np.unique(parts[parts >= 0]):
        asked = parts == part
        known = ~asked if prepared.stats["layout"] == "nih" else parts < 0
        answers["8 x 8 thumbnail"][asked] = predict_from_thumbnails(small[known], targets[known], small[asked])
        if "view position" in answers:
            views = labels["view"].to_numpy()
            answers["view position"][asked] = group_rates(views[known], targets[known], views[asked])
    if labels["follow_up"].notna().all():
        answers["number of earlier films of the patient"] = labels["follow_up"].to_numpy(float)
    return answers


def evidence_lines(prepared: Prepared, answers: dict[str, np.ndarray]) -> list[str]:
    """Say how much of the evidence lies in the boxes, beside chance."""
    rows, logit_of = answers["boxed"], dict(zip(answers["rows"], answers["logits"], strict=True))
    maps = spread_bias(answers["maps"], np.array([logit_of[row] for row in rows]))
    cells = maps.shape[-1]
    coverage = np.stack([box_coverage(prepared.boxes_of(row), prepared.stats["size"], cells) for row in rows])
    share = np.array([evidence_share(one, inside) for one, inside in zip(maps, coverage, strict=True)])
    shuffled, others = chance_shares(maps, coverage, SEED)
    known = np.isfinite(share) & np.isfinite(others)
    patients = prepared.labels["patient"].to_numpy()[rows][known]
    area = coverage.mean(axis=(1, 2))
    gain = bootstrap_interval(np.mean, patients, (share - others)[known])
    return [
        f"Evidence inside the boxes, {known.sum()} films with boxes: {share[known].mean():.0%}; share of the area "
        f"{area[known].mean():.0%}, own map shuffled {shuffled[known].mean():.0%}, maps of the other films "
        f"{others[known].mean():.0%}; own map minus the others' {(share - others)[known].mean():+.1%} "
        f"(95 % interval {gain[0]:+.1%} to {gain[1]:+.1%}); {(~known).sum()} films have no evidence for pneumonia."
    ]


def figure(values: dict[str, float], name: str) -> str:
    """Write a figure with its interval."""
    return f"{values[name]:.3f} ({values[f'{name}_low']:.3f} to {values[f'{name}_high']:.3f})"


def report(prepared: Prepared, parts: np.ndarray, found: dict[str, dict[str, np.ndarray]]) -> str:
    """Write everything that was measured."""
    asked = np.flatnonzero(parts >= 0)
    labels = prepared.labels.iloc[asked]
    targets, patients = labels["target"].to_numpy(), labels["patient"].to_numpy()
    scores = {}
    for name, one in found.items():
        scores[f"ResNet18, {name}"] = np.full(len(prepared.labels), np.nan)
        scores[f"ResNet18, {name}"][one["rows"]] = one["logits"]
    scores |= shortcuts(prepared, parts)
    small = scores["8 x 8 thumbnail"][asked]
    nih = prepared.stats["layout"] == "nih"
    how = f"{len(np.unique(parts))} folds by patient, out of fold"
    if not nih:
        how = f"{len(prepared.rows('train'))} others to train on, split by patient"
    lines = [
        f"{prepared.stats['layout'].upper()} films: {len(asked)} answered, {targets.sum()} with pneumonia, "
        f"{len(np.unique(patients))} patients; {how}; {prepared.stats['size']} px; seed {SEED}; one training each and "
        "the last epoch's weights: nothing was chosen on the films that are reported. Intervals: 95 %, bootstrap by "
        f"patient, 1000 rounds. {' '.join(f'*{name.capitalize()}*: {WHAT_IT_IS[name]}.' for name in found)} "
        "Recipes: `companions/pneumonia/model.py`.",
        "",
        "| answers from | AUROC | average precision | AUROC minus the thumbnail's |",
        "|---|---|---|---|",
    ]
    for name, all_scores in scores.items():
        mine = all_scores[asked]
        figures = rank_figures(targets, mine, patients)
        difference = "-"
        if name.startswith("ResNet18"):
            low, high = bootstrap_interval(
                lambda y, a, b: auroc(y, a) - auroc(y, b), patients, targets, mine, small
            )  # the same draws for both: a paired difference
            difference = f"{auroc(targets, mine) - auroc(targets, small):+.3f} ({low:+.3f} to {high:+.3f})"
        lines.append(f"| {name} | {figure(figures, 'auroc')} | {figure(figures, 'average_precision')} | {difference} |")
    lines.append(f"| the same for every film | 0.500 | {targets.mean():.3f} | - |")
    if "view position" not in scores:
        lines += ["", "The view position of these films is not recorded in this folder; the thumbnail, in which an "
                  "opacity can hardly be seen, shows what projection and exposure tell."]  # fmt: skip
    others = "folds" if nih else "half"
    lines += ["", f"At the highest threshold with a recall of {RECALL:.0%} on the other {others}:", "",
              "| answers from | TP | FN | FP | TN | accuracy | precision | recall | specificity |",
              "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for name in [name for name in scores if name.startswith("ResNet18")] + ["8 x 8 thumbnail"]:
        called, _ = cross_fitted_calls(targets, scores[name][asked], parts[asked], RECALL)
        lines.append(call_row(name, confusion_figures(targets, called)))
    majority = targets.mean() >= 0.5
    lines.append(call_row("the more common class", confusion_figures(targets, np.full(len(targets), majority))))
    lines += reader_lines(labels, scores, asked)
    for name, one in found.items():
        weight = np.broadcast_to(one["weight"], one["rows"].shape)
        probability = np.array([probabilities(z, w) for z, w in zip(one["logits"], weight, strict=True)])
        mine = prepared.labels["target"].to_numpy()[one["rows"]]
        skill = brier_skill(mine, probability, mine.mean())
        lines += ["", f"**{name}** Brier skill {skill:+.2f} (0: always answering the prevalence).", ""]
        lines += evidence_lines(prepared, one) if len(one["boxed"]) else []
    return "\n".join(lines) + "\n\nWritten by `python benchmarks/companion_pneumonia.py DATA`.\n"


def call_row(name: str, figures: dict[str, float]) -> str:
    """Write one line of the table of calls."""
    counts = " | ".join(str(figures[key]) for key in ("TP", "FN", "FP", "TN"))
    shares = " | ".join(f"{figures[key]:.3f}" for key in ("accuracy", "precision", "recall", "specificity"))
    return f"| {name} | {counts} | {shares} |".replace("nan", "-")


def reader_lines(labels, scores: dict[str, np.ndarray], asked: np.ndarray) -> list[str]:
    """Measure the same answers against RSNA's readers, where they read some of the films."""
    read = (labels["reader_class"] != "").to_numpy()
    opacity = (labels["reader_class"] == READER_OPACITY).to_numpy()
    if len(np.unique(opacity[read])) < 2:
        return []
    groups = {"all of them": read, "those labelled pneumonia": read & (labels["target"] == 1).to_numpy()}
    groups |= {"those called opacity or normal": read & (opacity | (labels["reader_class"] == "Normal").to_numpy())}
    lines = ["", "Against RSNA's readers, who looked at the films: does a film with a lung opacity score higher?", "",
             f"| films | opacity / not | {' | '.join(scores)} |", "|---|---|" + "---|" * len(scores)]  # fmt: skip
    patients = labels["patient"].to_numpy()
    for name, chosen in groups.items():
        truth, cells = opacity[chosen].astype(int), []
        for all_scores in scores.values():
            mine = all_scores[asked][chosen]
            low, high = bootstrap_interval(auroc, patients[chosen], truth, mine)
            cells.append(f"{auroc(truth, mine):.3f} ({low:.3f} to {high:.3f})")
        lines.append(f"| {name} | {truth.sum()} / {(1 - truth).sum()} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Train what is not trained yet, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("artifacts/benchmark-pneumonia"))
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=ROWS)
    parser.add_argument("--epochs", type=int, help="instead of the recipe's own number")
    parser.add_argument("--folds", type=int, default=3, help="of the NIH films")
    arguments = parser.parse_args()
    prepared = prepare(arguments.data, arguments.work / "prepared", seed=SEED, progress=sys.stdout.isatty())
    print(prepared.summary(), flush=True)
    parts, found = make_parts(prepared, arguments.folds), {}
    for name in ROWS:
        recipe = recipe_of(name, prepared.stats["layout"])
        if arguments.epochs and recipe.epochs:
            recipe = dataclasses.replace(recipe, epochs=arguments.epochs)
        out = arguments.work / name.replace(" ", "-")
        answers = all_answers(prepared, parts, recipe, out, name in arguments.rows)
        if answers is not None:  # rows of earlier runs stay in the report
            found[name] = answers
    with complete_or_absent(RESULTS / "companion_pneumonia.md") as part:
        part.write_text(report(prepared, parts, found), encoding="utf-8")
    print((RESULTS / "companion_pneumonia.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
