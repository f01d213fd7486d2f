"""Findings in ChestX-Det10: normal or not, then which finding and where."""
