"""``openhart evaluate samples`` as users call it: options, kills, and several processes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from openhart.cli import main

PROMPTS = [
    {"tag": "single_object", "include": [{"class": name, "count": 1}], "prompt": f"a {name}"}
    for name in ("ball", "kite", "dog")
]


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS))
    return path


def run(capsys, *arguments):
    try:
        code = main(["evaluate", "samples", *map(str, arguments)])
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def images(folder):
    """Finished images alone: a file that is being written has a name that begins with a dot."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("[!.]*.png")}


def test_a_benchmark_is_sampled(capsys, text_model, prompts, tmp_path):
    command = ("geneval", prompts, "-o", tmp_path / "out", "--model", text_model, "--set", "top_k=4")
    code, stdout, stderr = run(capsys, *command, "--quiet")
    assert (code, stdout, stderr) == (0, "", "")
    assert len(images(tmp_path / "out")) == 12
    record = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert (record["seed"], record["sampling"]["top_k"], record["model"]) == (42, 4, str(text_model))
    code, stdout, _ = run(capsys, *command)
    assert (code, "12 images" in stdout) == (0, True)
    code, _, stderr = run(capsys, *command, "--seed", "1")
    assert (code, "seed is 42 there and 1 now" in stderr) == (1, True)


def test_classes_are_sampled(capsys, label_model, tmp_path):
    command = (
        "imagenet",
        "-o",
        tmp_path / "out",
        "--model",
        label_model,
        "--images-per-prompt",
        "2",
        "--quiet",
    )
    assert run(capsys, *command)[0] == 0
    assert len(images(tmp_path / "out")) == 10


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["geneval"], 2, "needs its prompt file"),
        (["imagenet", "prompts"], 2, "takes no prompts"),
        (["geneval", "prompts", "--set", "top_k"], 2, "--set is written NAME=VALUE"),
        (["geneval", "nowhere"], 1, "there is no file"),
        (["geneval", "PROMPTS", "--set", "steps=2"], 1, "HartPipeline has no argument steps"),
        (["geneval", "PROMPTS", "--set", "prompt=x"], 1, "determines prompt"),
        (["imagenet"], 1, "needs a class-conditional model"),
        (["geneval", "PROMPTS", "--file-type", "jpg"], 1, "must be png files"),
    ],
)
def test_wrong_usage_is_one_sentence(capsys, text_model, prompts, tmp_path, arguments, code, message):
    given = [str(prompts) if each == "PROMPTS" else each for each in arguments]
    got, _, stderr = run(capsys, *given, "-o", tmp_path / "out", "--model", text_model)
    assert got == code, stderr
    assert message in stderr.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_killed_run_and_two_processes_give_the_files_of_one_run(text_model, prompts, tmp_path):
    def command(folder, *before):
        return [
            sys.executable, *before, "-m", "openhart", "evaluate", "samples", "geneval", str(prompts),
            "-o", str(tmp_path / folder), "--model", str(text_model), "--batch", "1", "--quiet",
        ]  # fmt: skip

    subprocess.run(command("whole"), check=True)
    killed = subprocess.Popen(command("killed"))
    deadline = time.monotonic() + 120
    while len(images(tmp_path / "killed")) < 2 and time.monotonic() < deadline and killed.poll() is None:
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert len(images(tmp_path / "killed")) >= 2
    subprocess.run(command("killed"), check=True)
    assert images(tmp_path / "killed") == images(tmp_path / "whole")
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    subprocess.run(command("two", *launch), check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert images(tmp_path / "two") == images(tmp_path / "whole")
    assert len(images(tmp_path / "two")) == 12
