"""Chest films: normal or not, which findings, and where; the modules behind ``ChestX-Det10.ipynb``."""
