"""The command line as users call it: its exit code, its output and its one sentence of failure."""

from openhart.cli import main


def run(capsys, *arguments):
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def fails(capsys, code, message, *arguments):
    got, _, stderr = run(capsys, *arguments)
    assert got == code, stderr
    assert message in stderr.strip().splitlines()[-1], stderr
    assert "Traceback" not in stderr
