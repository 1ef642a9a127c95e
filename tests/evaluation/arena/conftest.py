import json

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def folders(tmp_path):
    """Two folders of three images each, with prompts: one all red, one all blue."""
    made = []
    for name, colour in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
        folder = tmp_path / name
        folder.mkdir()
        records = []
        for number in range(3):
            image = np.full((16, 16, 3), colour, np.uint8)
            image[: number + 1] = 255
            Image.fromarray(image).save(folder / f"{number}.png")
            records.append({"file_name": f"{number}.png", "prompt": f"picture {number}"})
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, records)))
        made.append(folder)
    return made
