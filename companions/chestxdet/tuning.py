"""Tuning of stage 1 with Optuna: a study in SQLite that continues after an interruption.

Knows the small CNN's settings and Optuna; it does not know films or files of data.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path

from torch.utils.data import Dataset
from tqdm import TqdmWarning

from companions.chestxdet.model import train_small_cnn
from heartbox.utils.progress import progress_bar

with warnings.catch_warnings():
    # Optuna asks for progress bars as Jupyter widgets and warns if there are none; those here are plain text.
    warnings.simplefilter("ignore", TqdmWarning)
    import optuna


# What a practitioner would try first; the other trials have to beat it.
DEFAULTS = {
    "learning_rate": 3e-3,
    "weight_decay": 1e-2,
    "positive_weight": 1.0,
    "width": 16,
    "blocks": 5,
    "dropout": 0.1,
}


def suggest(trial: optuna.Trial) -> dict:
    """Draw the settings of one trial from the search space."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-2, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-4, 1e-1, log=True),
        "positive_weight": trial.suggest_float("positive_weight", 0.5, 2.0, log=True),
        "width": trial.suggest_categorical("width", [8, 16, 24]),
        "blocks": trial.suggest_int("blocks", 4, 6),
        "dropout": trial.suggest_float("dropout", 0.0, 0.4),
    }


def tune(
    train: Dataset, val: Dataset, folder: str | Path, trials: int, epochs: int, floor: float, seed: int = 0,
    progress: bool = True,
) -> optuna.Study:  # fmt: skip
    """Search settings of the small CNN for the highest recall under a floor on specificity.

    The objective of a trial is the recall on `val` after the last epoch, at the threshold at which the specificity is
    at least `floor`. Calling every film abnormal gains nothing: no threshold of a constant score meets the floor. The
    first trial takes :data:`DEFAULTS`. The study is kept in SQLite (``folder/study.db``). An interrupted study runs
    only its remaining trials, and ends with the same trials as an uninterrupted one. A different size, floor, seed or
    different data make a different study.

    Parameters
    ----------
    train, val : Dataset
        As :class:`companions.chestxdet.data.AbnormalityDataset`.
    folder : path
        Gets the study and the trials' checkpoints.
    trials, epochs : int
        Number of trials, and epochs of each.
    floor : float
        The lowest specificity allowed, in (0, 1).
    seed : int
        Decides the suggestions, and each training.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    optuna.Study
        With at least `trials` completed trials.

    Raises
    ------
    ValueError
        If the floor does not lie between 0 and 1.
    """
    if not 0 < floor < 1:
        raise ValueError(
            f"the floor on specificity must lie between 0 and 1, got {floor}: at 0 every film may be called abnormal"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    about = [epochs, floor, seed, train.images.shape, hashlib.sha256(train.images[:8].tobytes()).hexdigest(),
             train.abnormal.tolist(), val.abnormal.tolist()]  # fmt: skip
    name = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = f"sqlite:///{(folder / 'study.db').resolve().as_posix()}"
    study = optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # interrupted half-way

    def objective(trial: optuna.Trial) -> float:
        checkpoints = folder / f"trials-{name}" / str(_completed(study))
        try:
            _, _, history = train_small_cnn(suggest(trial), train, val, checkpoints, epochs, floor, seed)
        except FloatingPointError:
            # It counts, with a recall of 0: otherwise the same seed would draw the same settings again for ever.
            return 0.0
        trial.set_user_attr("val_auc", float(history["val_auc"].iloc[-1]))
        return float(history["val_recall"].iloc[-1])

    done = min(_completed(study), trials)
    bar = progress_bar(None, "Trials", "trial", total=trials, initial=done, show=progress)
    while _completed(study) < trials:
        # A new sampler for each trial, so that a continued study draws what an uninterrupted one would have drawn.
        study.sampler = optuna.samplers.TPESampler(seed=seed * 1_000_003 + _completed(study), n_startup_trials=5)
        if not _completed(study) and not study.get_trials(states=(optuna.trial.TrialState.WAITING,)):
            study.enqueue_trial(DEFAULTS)
        study.optimize(objective, n_trials=1)
        bar.set_postfix({"best recall": f"{study.best_value:.3f}"}, refresh=False)
        bar.update()
    bar.close()
    return study


def _completed(study: optuna.Study) -> int:
    return len(study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,)))
