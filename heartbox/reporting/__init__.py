"""Answers as pictures, tables, JSON and DICOM reports."""

from heartbox.reporting.detection_plots import draw_attention, draw_detection, draw_evidence
from heartbox.reporting.export import TABLE_COLUMNS, as_dict, table_row, write_report
from heartbox.reporting.metrics_table import metrics_table
from heartbox.reporting.plots import (
    box_styles,
    draw_box,
    draw_histograms,
    image_grid,
    image_legend,
    page_of_xrays,
    save_figure,
    save_gif,
    show_xray,
)
from heartbox.reporting.style import CHEST, LABEL, PREDICTION
from heartbox.reporting.training_plots import TrainingAnimation, draw_distributions, draw_history, draw_reliability

__all__ = [
    "CHEST",
    "LABEL",
    "PREDICTION",
    "TABLE_COLUMNS",
    "TrainingAnimation",
    "as_dict",
    "box_styles",
    "draw_attention",
    "draw_box",
    "draw_detection",
    "draw_distributions",
    "draw_evidence",
    "draw_histograms",
    "draw_history",
    "draw_reliability",
    "image_grid",
    "image_legend",
    "metrics_table",
    "page_of_xrays",
    "save_figure",
    "save_gif",
    "show_xray",
    "table_row",
    "write_report",
]
