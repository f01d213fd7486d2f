"""Raw folders of X-rays and labels -> the processed folder that the notebooks read."""

from heartbox.data.layouts import DataSource, LabelledXRay, find_data, find_source, list_xrays, recognise_layout
from heartbox.data.prepare import prepare
from heartbox.data.splits import TEST, TRAIN, UNUSED, VAL, assign_folds, split_by_patient
from heartbox.data.store import BOX_COLUMNS, Prepared, Statistics, write_processed, write_split
from heartbox.data.tables import ItemError, Problem, TableError, read_table

__all__ = [
    "BOX_COLUMNS",
    "TEST",
    "TRAIN",
    "UNUSED",
    "VAL",
    "DataSource",
    "ItemError",
    "LabelledXRay",
    "Prepared",
    "Problem",
    "Statistics",
    "TableError",
    "assign_folds",
    "find_data",
    "find_source",
    "list_xrays",
    "prepare",
    "read_table",
    "recognise_layout",
    "split_by_patient",
    "write_processed",
    "write_split",
]
