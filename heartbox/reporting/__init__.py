"""Answers as pictures, tables, JSON and DICOM reports."""

from heartbox.reporting.export import TABLE_COLUMNS, as_dict, table_row, write_report
from heartbox.reporting.plots import draw_attention, draw_detection, draw_evidence

__all__ = ["TABLE_COLUMNS", "as_dict", "draw_attention", "draw_detection", "draw_evidence", "table_row", "write_report"]
