"""Pipelines: load a model, call it with prompts or class labels, save it."""

from openhart.pipelines import generic

generic.register()
