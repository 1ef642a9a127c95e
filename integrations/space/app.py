"""A Space of the Hugging Face hub: a prompt, and an image that becomes sharper with each scale."""

import random
from collections.abc import Iterator

import gradio as gr
from drawing import draw, pipeline
from PIL import Image

EXAMPLES = ["a red apple", "a pizza, flat style", "a red apple on a light blue background"]
LARGEST_SEED = 2**31 - 1
own = pipeline().sampling_settings()


def show(prompt: str, seed: float, again: bool, guidance: float) -> Iterator[tuple[Image.Image, str, float]]:
    """The image so far, its description and the seed, after each scale."""
    if not prompt.strip():
        raise gr.Error("Please enter a prompt.")
    chosen = seed if again else random.randint(0, LARGEST_SEED)
    try:
        for image, line in draw(prompt, chosen, guidance):
            yield image, line, chosen
    except ValueError as error:
        raise gr.Error(str(error)) from error


with gr.Blocks(title="OpenHART") as demo:
    gr.Markdown("# OpenHART\nText to image: the picture becomes sharper with each scale.")
    with gr.Row():
        with gr.Column():
            prompt = gr.Textbox(label="Prompt", value=EXAMPLES[0], max_length=1000)
            button = gr.Button("Generate", variant="primary")
            with gr.Accordion("More", open=False):
                seed = gr.Number(label="Seed", value=0, precision=0, minimum=0, maximum=LARGEST_SEED)
                again = gr.Checkbox(label="Use this seed again", value=False)
                guidance = gr.Slider(1, 10, value=own.guidance_scale, step=0.1, label="Guidance scale")
            gr.Examples(EXAMPLES, prompt)
        with gr.Column():
            image = gr.Image(label="Image", format="png", interactive=False)
            line = gr.Textbox(label="Progress", interactive=False)
    inputs, outputs = [prompt, seed, again, guidance], [image, line, seed]
    gr.on([button.click, prompt.submit], show, inputs, outputs, concurrency_limit=1)
demo.queue(max_size=20)

if __name__ == "__main__":
    demo.launch()
