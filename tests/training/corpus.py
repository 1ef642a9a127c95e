"""A handful of real pictures and the smallest recipes that learn from them."""

import json
from pathlib import Path

import yaml
from PIL import Image, ImageDraw

COLOURS = ("red", "green", "blue", "yellow")
SHAPES = ("circle", "square")


def draw_corpus(folder: Path) -> Path:
    records = []
    for colour in COLOURS:
        for shape in SHAPES:
            image = Image.new("RGB", (32, 32), "white")
            draw = ImageDraw.Draw(image)
            (draw.ellipse if shape == "circle" else draw.rectangle)((6, 6, 25, 25), fill=colour)
            name = f"{colour}-{shape}.png"
            image.save(folder / name)
            records.append({"file_name": name, "text": f"a {colour} {shape}", "label": len(records)})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder


def run_section(output, **values):
    return {"output": str(output), "precision": "no", "log_every": 1, "save_every": 100, **values}


def write_recipe(path, values):
    path.write_text(yaml.safe_dump(values))
    return path


def tokenizer_recipe(corpus, output, steps=(6, 30, 4), **run):
    phases = [
        {"name": "continuous", "steps": steps[0]},
        {"name": "codes", "steps": steps[1], "discrete_share": 0.5, "kmeans_start": True},
        {
            "name": "hybrid",
            "steps": steps[2],
            "discrete_share": 0.5,
            "train": "decoder",
            "adversarial": True,
        },
    ]
    return {
        "run": run_section(output, **run),
        "data": {"train": str(corpus), "batch_size": 8, "workers": 0},
        "model": {
            "base_channels": 32,
            "channel_multipliers": [1, 1],
            "patch_size": 4,
            "encoder_blocks": 1,
            "decoder_blocks": 1,
            "attention": False,
            "code_dim": 8,
            "codebook_size": 32,
            "scales": [1, 2, 4],
        },
        "phases": phases,
        "optimizer": {"learning_rate": 2e-3, "warmup_steps": 2},
        "losses": {"perceptual": None, "discriminator_width": 8, "adversarial_ramp_steps": 4},
    }


def generator_recipe(corpus, output, tokenizer_folder, steps=60, **values):
    return {
        "run": run_section(output, ema_decay=0.9, sample_every=50),
        "data": {"train": str(corpus), "batch_size": 8, "workers": 0},
        "tokenizer": str(tokenizer_folder),
        "steps": steps,
        "model": {"depth": 2, "width": 64, "num_heads": 2},
        "conditioning": {"max_tokens": 8},
        "residual": {"width": 32, "depth": 2, "repeats": 2},
        "optimizer": {"learning_rate": 3e-3, "warmup_steps": 5},
        "sample_prompts": ["a red circle", "a blue square"],
        **values,
    }


def logged(output, name):
    values = {}
    for events in _events(output):
        if name in events.Tags()["scalars"]:
            values |= {event.step: event.value for event in events.Scalars(name)}
    return [values[step] for step in sorted(values)]


def pictures(output):
    """Names of the pictures in the log."""
    return {name for events in _events(output) for name in events.Tags()["images"]}


def _events(output):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folders = {path.parent for path in output.rglob("events.out.tfevents*")}
    return [EventAccumulator(str(folder)).Reload() for folder in sorted(folders)]
