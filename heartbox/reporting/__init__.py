"""Answers as pictures, tables, JSON and DICOM reports."""

import lazy_loader

from heartbox.reporting.metrics_table import metrics_table  # not lazily: the module of this name would hide it

# Names are imported when they are first asked for: a run that draws nothing does not load Matplotlib.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "detection_plots": ["draw_attention", "draw_detection", "draw_evidence"],
        "export": ["TABLE_COLUMNS", "as_dict", "table_row", "write_report"],
        "plots": [
            "box_styles",
            "draw_box",
            "draw_histograms",
            "image_grid",
            "image_legend",
            "page_of_xrays",
            "save_figure",
            "save_gif",
            "show_xray",
        ],
        "style": ["CHEST", "LABEL", "PREDICTION", "WRONG"],
        "training_plots": ["TrainingAnimation", "draw_distributions", "draw_history", "draw_reliability"],
    },
)
__all__ += ["metrics_table"]
