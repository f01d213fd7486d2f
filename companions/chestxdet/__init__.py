"""Findings in chest films, normal or not, which and where: the modules behind ``ChestX-Det10.ipynb``."""
