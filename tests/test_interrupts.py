"""Ctrl-C and SIGTERM: nothing half-written stays, and one step of a run is finished first."""

import os
import signal
import subprocess
import sys

import pytest

from openhart import interrupts
from openhart.atomic import folder_written_whole, written_whole
from openhart.interrupts import PendingStop, Stopped, sigterm_interrupts

SIGNALS = [signal.SIGINT, signal.SIGTERM]


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_no_temporary_file_stays(tmp_path, number):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "a.txt").write_text("before")

    def write():
        with folder_written_whole(tmp_path / "old") as folder, written_whole(tmp_path / "b.txt") as path:
            (folder / "a.txt").write_text("half")
            path.write_text("half")
            send(number)

    with pytest.raises(KeyboardInterrupt), sigterm_interrupts():
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old" / "a.txt").read_text() == "before"


def test_a_folder_takes_the_place_of_another_whole(tmp_path):
    (tmp_path / "new" / "stale").mkdir(parents=True)
    with folder_written_whole(tmp_path / "new") as folder:
        (folder / "a.txt").write_text("whole")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["new", "new/a.txt"]


def test_sigterm_has_the_status_that_shells_know():
    with pytest.raises(Stopped) as caught, sigterm_interrupts():
        send(signal.SIGTERM)
    assert caught.value.status == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("number", SIGNALS)
def test_a_pending_stop_lets_the_block_go_on(number, capsys):
    before = [signal.getsignal(each) for each in SIGNALS]
    with PendingStop() as stop:
        assert stop.number is None
        send(number)
        send(number)  # as `timeout` does
        assert stop.number == number
    assert capsys.readouterr().err.count("finishing this step") == 1
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_ctrl_c_again_stops_at_once(monkeypatch):
    monkeypatch.setattr(interrupts, "AGAIN_AFTER", -1.0)
    with PendingStop(quiet=True):
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_processes_that_are_forked_meanwhile_die_of_sigterm():
    """A pool's workers, which have nothing to save and would print a traceback."""
    code = (
        "import os, signal, sys, time\n"
        "from openhart.interrupts import PendingStop, sigterm_interrupts\n"
        "with sigterm_interrupts(), PendingStop() as stop:\n"
        "    ready, write = os.pipe()\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        os.write(write, b'x')\n"
        "        time.sleep(20)\n"
        "        os._exit(3)\n"
        "    os.read(ready, 1)\n"
        "    os.kill(child, signal.SIGTERM)\n"
        "    _, status = os.waitpid(child, 0)\n"
        "    sys.exit(os.waitstatus_to_exitcode(status) != -signal.SIGTERM)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
