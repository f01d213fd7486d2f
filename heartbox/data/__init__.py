"""Raw folders of X-rays and labels -> the processed folder that the notebooks read."""

from heartbox.data.layouts import LabelledXRay, find_data, list_films, recognise_layout
from heartbox.data.prepare import Prepared, prepare
from heartbox.data.splits import assign_folds, split_by_patient
from heartbox.data.store import BOX_COLUMNS, write_processed, write_split

__all__ = [
    "BOX_COLUMNS",
    "LabelledXRay",
    "Prepared",
    "assign_folds",
    "find_data",
    "list_films",
    "prepare",
    "recognise_layout",
    "split_by_patient",
    "write_processed",
    "write_split",
]
