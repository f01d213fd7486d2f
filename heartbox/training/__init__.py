"""The training loop, its tasks, losses and recipes."""

from heartbox.training.loop import fit
from heartbox.training.recipes import RECIPES, BoxTask, Recipe, make_model
from heartbox.training.task import ProgressiveSchedule, Schedule, Task

__all__ = ["RECIPES", "BoxTask", "ProgressiveSchedule", "Recipe", "Schedule", "Task", "fit", "make_model"]
