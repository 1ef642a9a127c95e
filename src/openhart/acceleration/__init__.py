"""The same pictures sooner: faster forms of a pipeline's parts, chosen in ``levels.py``."""
