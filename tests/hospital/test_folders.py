"""Under another orchestrator: a folder in, a folder out, result.json."""

from __future__ import annotations

import json

import pytest
from peers import series
from pydicom import dcmread
from tiny_bundle import tiny_bundle

pytest.importorskip("highdicom", reason="needs the extra [hospital]")


def test_a_module_of_mercure(command, tmp_path, monkeypatch):
    bundle = tiny_bundle(tmp_path / "bundle")
    series(tmp_path / "in")
    monkeypatch.setenv("MERCURE_IN_DIR", str(tmp_path / "in"))
    monkeypatch.setenv("MERCURE_OUT_DIR", str(tmp_path / "out"))
    told = command("node", "process", bundle)
    assert told.code == 0, told.err
    (study,) = json.loads((tmp_path / "out" / "result.json").read_text())["studies"]
    assert study["series"][0]["status"] == "ok"
    assert [dcmread(tmp_path / "out" / file).Modality for file in study["files"]] == ["SR", "OT"]
    assert "P-0001" not in (tmp_path / "out" / "result.json").read_text()


def test_without_folders(command, tmp_path, monkeypatch):
    for name in ("MERCURE_IN_DIR", "HOLOSCAN_INPUT_PATH", "MONAI_INPUTPATH"):
        monkeypatch.delenv(name, raising=False)
    told = command("node", "process", tmp_path)
    assert told.code == 2
    assert "MERCURE_IN_DIR and MERCURE_OUT_DIR" in told.err
