"""The sentences for missing packages, and the reasons that messages quote."""

import json
import sys

import pytest

from openhart.errors import UserError, reason, require


def test_missing_packages_are_named_with_the_command_that_installs_them(monkeypatch):
    require("torch", extra="train")
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(UserError, match=r"^torchao is not installed: pip install 'openhart\[quantize\]'$"):
        require("torch", "torchao", extra="quantize")
    with pytest.raises(UserError, match=r"^efficientnet-lite-pytorch, torchao are not installed: pip "):
        require("efficientnet_lite_pytorch", "torchao")


def test_reasons_are_parts_of_a_sentence(tmp_path):
    for wanted, fail in (
        ("No such file or directory", lambda: (tmp_path / "none").read_text()),
        ("it is not a text in UTF-8", lambda: b"\xff".decode()),
        ("'name' is missing", lambda: {}["name"]),
        ("Expecting value: line 2 column 1 (char 1)", lambda: json.loads("\nx")),
        ("ZeroDivisionError", lambda: (_ for _ in ()).throw(ZeroDivisionError())),
    ):
        with pytest.raises(Exception) as failed:  # noqa: PT011 — every kind of error has a reason
            fail()
        assert reason(failed.value) == wanted
