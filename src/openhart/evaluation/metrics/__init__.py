"""Figures computed from arrays and tensors; nothing here reads or writes a file."""
