"""Pneumonia, yes or no, and what the answer rests on."""
