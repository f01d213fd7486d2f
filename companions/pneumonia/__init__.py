"""Pneumonia, yes or no, and what the answer rests on: the modules behind ``Pneumonia-Classification.ipynb``."""
