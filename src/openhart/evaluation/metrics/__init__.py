"""Metrics: functions of arrays and tensors, which neither read nor write files."""
