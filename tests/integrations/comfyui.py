"""A stand-in that follows ComfyUI's interface: how it loads nodes, checks inputs and executes a workflow."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch

FOLDER = Path(__file__).parents[2] / "integrations" / "comfyui"


class InterruptedByUserError(Exception):
    """As ComfyUI's ``InterruptProcessingException``."""


class Comfy:
    """ComfyUI's modules, as far as nodes use them.

    Attributes:
        shown: the progress that nodes reported: value, total and preview.
        stop_after: number of reports after which the user cancels, or None.
    """

    def __init__(self, models_dir):
        self.shown = []
        self.stop_after = None
        comfy = self

        class ProgressBar:
            def __init__(self, total, node_id=None):
                self.total = total

            def update_absolute(self, value, total=None, preview=None):
                comfy.shown.append((value, total, preview))

        def throw_exception_if_processing_interrupted():
            if self.stop_after is not None and len(self.shown) >= self.stop_after:
                raise InterruptedByUserError

        self.modules = {
            "comfy": ModuleType("comfy"),
            "comfy.utils": _module("comfy.utils", ProgressBar=ProgressBar),
            "comfy.model_management": _module(
                "comfy.model_management",
                get_torch_device=lambda: torch.device("cpu"),
                throw_exception_if_processing_interrupted=throw_exception_if_processing_interrupted,
            ),
            "folder_paths": _module(
                "folder_paths", models_dir=str(models_dir), folder_names_and_paths={}, get_folder_paths=None
            ),
        }


def _module(name, **values):
    module = ModuleType(name)
    vars(module).update(values)
    return module


def load_nodes(folder=FOLDER):
    """Load a folder of nodes as ComfyUI does, under its path as name."""
    name = str(folder)
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module.NODE_CLASS_MAPPINGS


def execute(workflow, classes):
    """Outputs, by the id, of every node of a workflow whose class is given; other nodes are left out."""
    outputs = {}

    def value(given):
        if not isinstance(given, list):
            return given
        return run(given[0])[given[1]]

    def run(node_id):
        if node_id not in outputs:
            node = workflow[node_id]
            kind = classes[node["class_type"]]
            _check(workflow, classes, node, kind.INPUT_TYPES())
            arguments = {name: value(given) for name, given in node["inputs"].items()}
            with torch.inference_mode():
                outputs[node_id] = getattr(kind(), kind.FUNCTION)(**arguments)
            assert len(outputs[node_id]) == len(kind.RETURN_TYPES)
        return outputs[node_id]

    for node_id, node in workflow.items():
        if node["class_type"] in classes:
            run(node_id)
    return outputs


def _check(workflow, classes, node, inputs):
    """ComfyUI's validation: required inputs, types of links, ranges, and choices."""
    known = {**inputs["required"], **inputs.get("optional", {})}
    assert set(inputs["required"]) <= set(node["inputs"]) <= set(known)
    for name, given in node["inputs"].items():
        kind, *rest = known[name]
        options = rest[0] if rest else {}
        if isinstance(given, list):
            source = classes[workflow[given[0]]["class_type"]]
            assert source.RETURN_TYPES[given[1]] == kind, name
        elif isinstance(kind, list):
            assert given in kind, name
        else:
            assert isinstance(given, {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}[kind])
            assert options.get("min", given) <= given <= options.get("max", given), name
