"""Tuning stage 1 with Optuna: a study in SQLite that goes on where it was stopped, and its plots."""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter
from torch.utils.data import Dataset
from tqdm import TqdmWarning, tqdm

from companions.chestxdet.model import train_normal

with warnings.catch_warnings():
    # Optuna asks for bars as Jupyter widgets and warns where there are none; those here are plain.
    warnings.simplefilter("ignore", TqdmWarning)
    import optuna


def suggest(trial: optuna.Trial) -> dict:
    """Draw the settings of one trial: the search space."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 3e-4, 1e-2, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-5, 1e-1, log=True),
        "positive_weight": trial.suggest_float("positive_weight", 0.5, 4.0, log=True),
        "width": trial.suggest_categorical("width", [8, 16, 24]),
        "blocks": trial.suggest_int("blocks", 3, 5),
        "dropout": trial.suggest_float("dropout", 0.0, 0.5),
    }


def tune(
    train: Dataset, val: Dataset, folder: str | Path, trials: int, epochs: int, floor: float, seed: int = 0,
    progress: bool = True,
) -> optuna.Study:  # fmt: skip
    """Search settings of the small CNN for the highest recall under a floor on specificity.

    The aim of a trial is the recall on `val` at the threshold at which its specificity is at least `floor`, as the
    last epoch has it. Calling everything ill gains nothing here: no threshold of a constant score meets the floor.
    The study lies in SQLite (``folder/study.db``); a study that was stopped completes its remaining trials only, and
    ends with the same trials as one that nobody stopped. Another size, floor, seed or data is another study.

    Parameters
    ----------
    train, val : Dataset
        As :class:`companions.chestxdet.data.AbnormalityDataset`.
    folder : path
        Where the study and the trials' checkpoints go.
    trials, epochs : int
        How many trials, and epochs of each.
    floor : float
        The least specificity, in (0, 1).
    seed : int
        Decides the suggestions, and each training.
    progress : bool
        Whether to show a bar.

    Returns
    -------
    optuna.Study
        With at least `trials` completed trials.

    Raises
    ------
    ValueError
        If the floor is not between 0 and 1.
    """
    if not 0 < floor < 1:
        raise ValueError(f"the floor on specificity must lie between 0 and 1, got {floor}: at 0 everything may be ill")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    about = [epochs, floor, seed, train.images.shape, hashlib.sha256(train.images[:8].tobytes()).hexdigest(),
             train.ill.tolist(), val.ill.tolist()]  # fmt: skip
    name = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = f"sqlite:///{(folder / 'study.db').resolve().as_posix()}"
    study = optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # it was stopped half-way

    def objective(trial: optuna.Trial) -> float:
        where = folder / f"trials-{name}" / str(_completed(study))
        try:
            _, _, history = train_normal(suggest(trial), train, val, where, epochs, floor, seed)
        except FloatingPointError:
            # A trial of its own worth: not counted, it would be drawn again, and again, by the same seed.
            return 0.0
        trial.set_user_attr("val_auc", float(history["val_auc"].iloc[-1]))
        return float(history["val_recall"].iloc[-1])

    bar = tqdm(total=trials, initial=min(_completed(study), trials), desc="Trials", unit="trial", file=sys.stdout,
               mininterval=1.0, disable=not progress)  # fmt: skip
    while _completed(study) < trials:
        # A sampler of its own for each trial, so that a study that goes on draws what it would have drawn.
        study.sampler = optuna.samplers.TPESampler(seed=seed * 1_000_003 + _completed(study), n_startup_trials=5)
        study.optimize(objective, n_trials=1)
        bar.set_postfix({"best recall": f"{study.best_value:.3f}"}, refresh=False)
        bar.update()
    bar.close()
    return study


def _completed(study: optuna.Study) -> int:
    return len(study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,)))


def draw_study(study: optuna.Study) -> list[Figure]:
    """Draw a study's history and what each setting gave, by Optuna's own plots."""
    plots = optuna.visualization.matplotlib
    # These plots are marked experimental, and set a style for all that is drawn after them: neither is wanted.
    with warnings.catch_warnings(), plt.rc_context():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        history = plots.plot_optimization_history(study, target_name="recall under the floor")
        slices = np.atleast_1d(plots.plot_slice(study, target_name="recall under the floor")).flat
        history.xaxis.set_major_locator(MaxNLocator(integer=True))
        history.figure.set_size_inches(7, 3)
        history.set_title("each trial, and the best so far", fontsize=10)
        slices[0].figure.suptitle("what each setting gave", fontsize=10)
        for ax in slices:
            ax.xaxis.set_minor_formatter(NullFormatter())  # on a narrow logarithmic axis they overprint each other
        slices[0].figure.set_size_inches(14.5, 2.6)
    return [history.figure, slices[0].figure]
