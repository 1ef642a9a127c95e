"""Runs inside ComfyUI's folder: executes ``workflow.json`` of the base directory by ComfyUI's own executor.

Prints a line of JSON: whether it succeeded, how many previews were sent, and ComfyUI's messages.
"""

import asyncio
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))
NODES = Path(sys.argv.pop(1))

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import execution  # noqa: E402
import folder_paths  # noqa: E402
import nodes  # noqa: E402
from comfy.cli_args import args  # noqa: E402


class Server:
    """The part of ComfyUI's server that its executor calls."""

    client_id = "test"
    last_node_id = None
    last_prompt_id = None

    def send_sync(self, event, data, sid=None):
        """Accept an event."""


def main():
    import comfy.utils

    base = Path(args.base_directory)
    folder_paths.models_dir = str(base / "models")
    previews = []
    comfy.utils.set_progress_bar_global_hook(
        lambda value, total, preview, node_id=None: previews.append(preview)
    )
    workflow = json.loads((base / "workflow.json").read_text())
    assert asyncio.run(nodes.load_custom_node(str(NODES)))
    valid, error, outputs, problems = asyncio.run(execution.validate_prompt("test", workflow, None))
    assert valid, (error, problems)
    executor = execution.PromptExecutor(Server())
    executor.execute(workflow, "test", {}, outputs)
    shown = sum(preview is not None for preview in previews)
    messages = [str(message)[:500] for message in executor.status_messages[-2:]]
    print(json.dumps({"success": executor.success, "previews": shown, "messages": messages}))


main()
