"""Faster equivalents of a pipeline's modules for inference; ``levels.py`` selects them."""
