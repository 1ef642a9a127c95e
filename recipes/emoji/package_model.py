"""Put a trained pipeline into the package, with an image tokenizer: bfloat16 weights beside the model card.

python recipes/emoji/package_model.py runs/emoji/generator/pipeline \\
    runs/emoji/tokenizer_decoder_2/image_tokenizer
"""

import json
import shutil
from argparse import ArgumentParser
from pathlib import Path

import torch

from openhart import HartPipeline, HybridTokenizer
from openhart.checksums import write_checksums

HERE = Path(__file__).parent
TARGET = HERE.parents[1] / "src" / "openhart" / "models" / "default"


def main() -> None:
    """Cast to bfloat16, save, and copy the card."""
    parser = ArgumentParser(description="Put a trained pipeline into the package, with an image tokenizer.")
    parser.add_argument("pipeline", type=Path, help="Folder of the pipeline.")
    parser.add_argument("image_tokenizer", type=Path, help="Folder of the tokenizer in place of its own.")
    options = parser.parse_args()
    image_tokenizer = HybridTokenizer.from_pretrained(options.image_tokenizer)
    parts = {"image_tokenizer": image_tokenizer, "text_encoder": None, "text_tokenizer": None}
    pipeline = HartPipeline.from_pretrained(options.pipeline, **parts)
    pipeline.to(dtype=torch.bfloat16)
    shutil.rmtree(TARGET, ignore_errors=True)
    pipeline.save_pretrained(TARGET)
    (TARGET / "pipeline.py").unlink()  # for programs that have no OpenHART
    for path in TARGET.rglob("*.json"):  # where the weights lay while training is nobody's business
        values = json.loads(path.read_text())
        values.pop("_name_or_path", None)
        path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
    write_checksums(TARGET)
    for path in TARGET.rglob("*.safetensors"):
        path.chmod(0o644)
    shutil.copy(HERE / "MODEL_CARD.md", TARGET / "README.md")
    size = sum(path.stat().st_size for path in TARGET.rglob("*") if path.is_file())
    print(f"{TARGET}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
