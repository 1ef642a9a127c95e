import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from openhart import __version__
from openhart.atomic import written_whole
from openhart.cli.generate import is_shown
from openhart.cli.main import build_parser, main


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.radial_gradient("L").convert("RGB").resize((40, 30)).save(path)
    return path


def run(capsys, *arguments):
    """Exit code, stdout and stderr of one command."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def fails(capsys, code, message, *arguments):
    got, _, stderr = run(capsys, *arguments)
    assert got == code, stderr
    last = stderr.strip().splitlines()[-1]
    assert re.match(r"openhart[\w ]*: ", last), stderr
    assert re.search(message, last), stderr
    assert "Traceback" not in stderr
    return stderr


def test_help_is_short_and_shows_an_example(capsys):
    code, stdout, _ = run(capsys, "--help")
    assert code == 0
    assert "openhart generate" in stdout
    assert len(stdout.splitlines()) < 30
    assert run(capsys, "--version")[1].strip() == f"openhart {__version__}"


def parsers(parser):
    yield parser
    for action in parser._actions:
        for below in (action.choices or {}).values() if isinstance(action.choices, dict) else ():
            yield from parsers(below)


def test_every_command_and_option_is_described_with_its_default():
    for parser in parsers(build_parser()):
        assert parser.description.endswith((".", "?")), parser.prog
        for action in parser._actions:
            if isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
                continue
            name = f"{parser.prog} {action.option_strings or action.dest}"
            assert re.fullmatch(r"[A-Za-z].*\.", action.help or ""), name
            if action.default not in (None, False, [], "", argparse.SUPPRESS):
                assert "default: " in action.help, name


def test_defaults_that_the_help_states_are_those_of_the_code():
    from openhart.data.emoji.build_scenes import SCENE_STYLES
    from openhart.data.emoji.packages import DEFAULT_STYLES
    from openhart.evaluation.benchmarks.perturbed import SHARES
    from openhart.evaluation.networks.clip import CLIP
    from openhart.evaluation.networks.mask2former import DETECTOR

    texts = {parser.prog: " ".join(parser.format_help().split()) for parser in parsers(build_parser())}
    for command, default in (
        ("data emoji", " ".join(DEFAULT_STYLES)),
        ("data scenes", " ".join(SCENE_STYLES)),
        ("evaluate perturbed", " ".join(f"{share:g}" for share in SHARES)),
    ):
        assert f"(default: {default})" in texts[f"openhart {command}"]
    named = texts["openhart evaluate geneval"].replace("- ", "-")
    assert f"(default: {DETECTOR})" in named
    assert f"(default: {CLIP})" in named


def test_generate_into_a_folder(capsys, text_model, tmp_path):
    out = tmp_path / "out"
    code, stdout, stderr = run(
        capsys, "generate", "A red apple!", "a cat", "a cat", "", "--model", text_model,
        "-o", out, "--seed", 5, "--previews", "--quiet",
    )  # fmt: skip
    assert (code, stdout, stderr) == (0, "", "")
    names = {"a-red-apple", "a-cat", "a-cat-2", "unconditional"}
    assert {path.stem for path in out.iterdir()} == names | {f"{name}-previews" for name in names}
    image, strip = Image.open(out / "a-cat.png"), Image.open(out / "a-cat-previews.png")
    assert strip.size == (4 * image.width, image.height)
    assert image.tobytes() == Image.open(out / "a-cat-2.png").tobytes()


@pytest.mark.parametrize("count", [1, 3, 16, 17, 31, 64, 256])
def test_at_most_16_previews_are_shown_and_the_last_is_the_image(count):
    shown = [index for index in range(count) if is_shown(index, count)]
    assert len(shown) == min(count, 16)
    assert shown[-1] == count - 1
    distances = {after - before for before, after in pairwise(shown)}
    assert max(distances, default=1) - min(distances, default=1) <= 1


def test_a_prompt_gives_the_same_file_alone_as_among_others(capsys, text_model, tmp_path):
    common = ("--model", text_model, "--seed", 1, "--quiet")
    run(capsys, "generate", "a dog", "a cat", "-o", tmp_path, *common)
    run(capsys, "generate", "a cat", "-o", tmp_path / "alone.png", *common)
    pictures = [Image.open(tmp_path / name) for name in ("a-cat.png", "alone.png")]
    difference = [abs(a - b) for a, b in zip(*(p.tobytes() for p in pictures), strict=True)]
    assert max(difference) <= 1


def test_generate_says_where_and_with_which_seed(capsys, text_model, tmp_path):
    code, stdout, _ = run(
        capsys, "generate", "a cat", "--images-per-prompt", 2, "--model", text_model,
        "-o", tmp_path, "--guidance-scale", 2.5, "--top-k", 5, "--top-p", 0.9, "--no-residual",
        "--temperature", 0.9, "--gumbel-smoothing", "--dtype", "bfloat16", "--device", "cpu",
        "--last-scale-steps", 2,
    )  # fmt: skip
    assert code == 0
    seeds = [int(line.rsplit(maxsplit=1)[1]) for line in stdout.splitlines()]
    assert seeds[1] == seeds[0] + 1
    assert (tmp_path / "a-cat-2.png").is_file()


def test_generate_classes(capsys, label_model, tmp_path):
    common = ("--model", label_model, "-o", tmp_path, "--quiet")
    assert run(capsys, "generate", "--label", 1, "--label", 2, *common)[0] == 0
    assert (tmp_path / "class-2.png").is_file()
    fails(capsys, 1, "--label must be 0", "generate", "--label", 9, *common)
    fails(capsys, 1, "takes classes: give --label", "generate", "a cat", *common)


def test_a_long_prompt_warns_in_one_line(capsys, text_model, tmp_path):
    text = "a very long story about a cat and a dog and their friends"
    code, _, stderr = run(capsys, "generate", text, "--model", text_model, "-o", tmp_path, "--quiet")
    assert code == 0
    assert stderr.startswith("openhart: warning: the prompt was cut")
    assert len(stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("COMMAND", []),
        ("invalid choice", ["paint"]),
        ("give a prompt", ["generate"]),
        ("not both", ["generate", "a", "--label", "1"]),
        ("--top-p must be between 0 and 1", ["generate", "a", "--top-p", "2"]),
        ("the model has no setting --steps", ["generate", "a", "--steps", "3"]),
        ("--top-k: must be a whole number", ["generate", "a", "--top-k", "-3"]),
        ("--temperature must be between 0.001 and 1000", ["generate", "a", "--temperature", "0"]),
        ("--guidance-scale: must be a finite number", ["generate", "a", "--guidance-scale", "nan"]),
        ("--residual-steps: must be a whole number from 1", ["generate", "a", "--residual-steps", "0"]),
        ("must be a finite number, got 'hot'", ["generate", "a", "--temperature", "hot"]),
        ("whole number from 1 to", ["generate", "a", "--images-per-prompt", "0"]),
        ("--seed: must be", ["generate", "a", "--seed", "-1"]),
        ("--residual-strength must be between", ["generate", "a", "--residual-strength", "1.5"]),
        ("need a folder", ["generate", "a", "b", "-o", "x.png"]),
        ("ends in .png", ["generate", "a", "-o", "x.txt"]),
        ("ends in .png", ["reconstruct", "a.png", "-o", "x"]),
        ("invalid choice", ["train", "everything", "recipe.yaml"]),
    ],
)
def test_wrong_usage(capsys, tmp_path, monkeypatch, message, arguments):
    monkeypatch.chdir(tmp_path)
    fails(capsys, 2, message, *arguments)
    assert not list(tmp_path.iterdir())


def test_overrides_that_cannot_be_are_wrong_usage(capsys, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"run: {{output: {tmp_path}/run}}\ndata: {{train: x}}\nmodel: {{}}\n"
        "phases: [{name: a, steps: 1}]\noptimizer: {learning_rate: 1.0e-3}\n"
    )
    command = ("train", "tokenizer", recipe)
    fails(capsys, 2, "section.name=value", *command, "steps")
    fails(capsys, 2, "run.sead", *command, "run.sead=3")
    recipe.write_text("run: 3")
    fails(capsys, 1, "run", *command)
    fails(capsys, 1, "is missing", "train", "tokenizer", tmp_path / "none.yaml")
    assert not (tmp_path / "run").exists()


def test_unwritable_output_is_told_before_the_model_is_loaded(capsys, photo, tmp_path):
    inside_a_file = photo / "out"
    for arguments in (
        ["generate", "a", "-o", inside_a_file, "--model", "nothing"],
        ["generate", "a", "-o", inside_a_file / "a.png", "--model", "nothing"],
        ["reconstruct", photo, "-o", inside_a_file / "a.png", "--model", "nothing"],
    ):
        fails(capsys, 1, "cannot write", *arguments)
    assert list(tmp_path.iterdir()) == [photo]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk(capsys, text_model, photo):
    common = ("--model", text_model, "-o", "/dev/full")
    fails(capsys, 1, "No space left", "generate", "a", "--quiet", *common)
    fails(capsys, 1, "No space left", "reconstruct", photo, *common)
    assert Path("/dev/full").is_char_device()


def test_models_that_cannot_be_loaded(capsys, text_model, tmp_path):
    out = tmp_path / "out"
    fails(capsys, 1, "no model at", "generate", "a", "-o", out, "--model", tmp_path / "none")
    broken = shutil.copytree(text_model, tmp_path / "broken")
    file = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    fails(capsys, 1, "broken or cut short", "generate", "a", "-o", out, "--model", broken)
    fails(capsys, 1, "broken or cut short", "info", broken)
    unfit = shutil.copytree(text_model, tmp_path / "unfit")
    path = unfit / "image_tokenizer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scales": [1, 2]}))
    fails(capsys, 1, "scales must be", "generate", "a", "-o", out, "--model", unfit)
    assert not out.exists()


def test_unknown_device(capsys, text_model, tmp_path):
    common = ("--model", text_model, "-o", tmp_path / "a.png")
    fails(capsys, 1, "no device 'abacus'", "generate", "a", "--device", "abacus", *common)


def test_reconstruct(capsys, text_model, photo, tmp_path):
    out = tmp_path / "pair.png"
    for flags in ([], ["--discrete"]):
        code, stdout, _ = run(capsys, "reconstruct", photo, "-o", out, "--model", text_model, *flags)
        assert code == 0
        assert "PSNR" in stdout
        assert "40×30: its middle was resized to 32×32" in stdout
        assert Image.open(out).size == (64, 32)
    alone = ("--model", text_model / "image_tokenizer")
    assert run(capsys, "reconstruct", photo, "-o", out, *alone)[0] == 0


def test_unreadable_images(capsys, text_model, tmp_path):
    out, broken = tmp_path / "pair.png", tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    common = ("-o", out, "--model", text_model)
    fails(capsys, 1, "cannot read .* as an image", "reconstruct", broken, *common)
    fails(capsys, 1, "no image", "reconstruct", tmp_path / "none.png", *common)
    assert not out.exists()


def test_info(capsys, text_model, tmp_path):
    model = shutil.copytree(text_model, tmp_path / "model")
    (model / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    code, stdout, _ = run(capsys, "info", model)
    assert code == 0
    for part in ("HartTransformer", "1, 2, 3, 4", "32×32", "apache-2.0", "all-MiniLM-L6-v2"):
        assert part in stdout


def test_prompts_may_stand_between_options(capsys, text_model, tmp_path):
    common = ("--model", text_model, "-o", tmp_path, "--quiet")
    assert run(capsys, "generate", "a", "--seed", 1, "b", "--top-k", 5, "c d", *common, "--", "-e")[0] == 0
    assert {path.stem for path in tmp_path.iterdir()} == {"a", "b", "c-d", "e"}
    fails(capsys, 2, "unrecognized arguments: --sede", "generate", "a", "--sede", 1, "b", *common)
    fails(capsys, 2, "UTF-8", "generate", "a", "--seed", 1, "\udcff", *common)


def test_wrong_usage_is_one_line(capsys):
    assert len(fails(capsys, 2, "--seed", "generate", "a", "--seed", "x").splitlines()) == 1


def test_messages_name_flags(capsys, text_model, label_model, tmp_path):
    common = ("--model", text_model, "-o", tmp_path / "out")
    for flags, word in (
        (["--height", 33], "--height and --width must be multiples of 8"),
        (["--unguided-scales", 9], "--unguided-scales and the number of --keep-ratios must not exceed"),
        (["--height", 60_000, "--width", 60_000], "at most"),
    ):
        fails(capsys, 1, word, "generate", "a", *common, *flags)
    fails(capsys, 1, "instead of --label", "generate", "--label", 1, *common)
    assert not (tmp_path / "out").exists()


def test_many_images_of_one_prompt_are_named_at_once():
    from openhart.cli.generate import distinct

    names = list(distinct(["a", "a-2"], 20_000))
    assert len(set(names)) == 40_000
    assert names[:2] == ["a", "a-2"]


def test_a_mistake_of_our_own_is_told_as_such(capsys, text_model, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("openhart.pipelines.hart.HartPipeline.__call__", broken)
    arguments = ("generate", "a", "--model", text_model, "-o", tmp_path)
    fails(capsys, 1, "bug in OpenHART, not a mistake of yours", *arguments)
    monkeypatch.setenv("OPENHART_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        run(capsys, *arguments)


@pytest.mark.slow
def test_streams_that_cannot_show_a_character_or_are_closed(text_model, tmp_path):
    def command(arguments, **options):
        environment = {**os.environ, "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, "-m", "openhart", *map(str, arguments)],
            env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True, check=False, **options,
        )  # fmt: skip

    done = command(["generate", "crème", "--model", text_model], stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout[:12]) == (0, r"cr\xe8me.png")
    assert (tmp_path / "crème.png").is_file()
    with Path("/dev/full").open("w") as full:
        done = command(["info", text_model], stdout=full)
    assert (done.returncode, done.stderr) == (1, "openhart: No space left on device\n")


@pytest.mark.slow
def test_nothing_alarming_is_printed_by_an_import():
    code = "from openhart import HartPipeline; HartPipeline.from_pretrained()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_control_c(text_model, tmp_path):
    command = [
        sys.executable, "-u", "-m", "openhart", "generate", "a cat", "--images-per-prompt", "2000",
        "--model", str(text_model), "-o", str(tmp_path),
    ]  # fmt: skip
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.splitlines()[-1].endswith("openhart: interrupted")
    assert "Traceback" not in stderr
    for path in tmp_path.iterdir():
        assert not path.name.startswith(".")
        Image.open(path).load()


def test_what_fails_half_way_leaves_what_was_there(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with pytest.raises(UnicodeEncodeError), written_whole(path) as temporary:
        temporary.write_text("half \ud800", encoding="utf-8")
    assert not list(path.parent.iterdir())
    path.write_text("old")
    with written_whole(path) as temporary:
        temporary.write_text("whole")
        assert path.read_text() == "old"
    assert path.read_text() == "whole"
    assert len(list(path.parent.iterdir())) == 1
