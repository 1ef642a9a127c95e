"""OpenHART in ComfyUI: the classes of the nodes and the names that ComfyUI shows."""

from .nodes import Condition, Generate, LoadModel, Reconstruct

NODE_CLASS_MAPPINGS = {
    "OpenHARTLoadModel": LoadModel,
    "OpenHARTCondition": Condition,
    "OpenHARTGenerate": Generate,
    "OpenHARTReconstruct": Reconstruct,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "OpenHARTLoadModel": "OpenHART: load model",
    "OpenHARTCondition": "OpenHART: prompt",
    "OpenHARTGenerate": "OpenHART: generate",
    "OpenHARTReconstruct": "OpenHART: reconstruct image",
}

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
