"""The Python that the pages on labels and tuning show does what they say, on small runs under the names they use."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command_line import TINY, read_rows, write_rows
from safetensors.torch import save_file

from med_transfer.backbones import load_backbone
from med_transfer.config import dump_config, load_config
from med_transfer.finetuning import FinetuneConfig
from med_transfer.metrics.records.metrics import Metrics
from med_transfer.tuning import TuneConfig

DOCS = Path(__file__).parents[2] / "docs"
PROBE = ("transfer.strategy=linear_probe", "from_scratch_baseline=false", "explain.gallery=0")


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def desk(cohort_csv, tmp_path, monkeypatch) -> Path:
    """A folder to work in, with ``cohort.csv`` and the weights of a source that knows nobody."""
    rows = [row | {"scan": str(cohort_csv.parent / row["scan"])} for row in read_rows(cohort_csv)]
    write_rows(tmp_path / "cohort.csv", rows)
    state = load_backbone("resnet18-w32", seed=3).encoder.state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "source.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_search_and_the_run_with_what_it_found(desk, capsys):
    pytest.importorskip("optuna")
    words = (*TINY, *PROBE, "backbone.weights=source.safetensors", "tuning.space.strategies=[linear_probe]")
    dump_config(load_config(TuneConfig, None, words), desk / "my.yaml")
    exec(blocks("tuning.md")[0], {})
    assert Metrics.load(desk / "tuned/metrics.json").n_scans == 6
    assert capsys.readouterr().out.startswith("0 0.")  # a probe has nothing else to try


def test_several_outer_splits_are_put_together(desk, finished, capsys):
    for name in (f"{what}-{seed}" for what in ("outer", "default") for seed in range(5)):
        (desk / name).symlink_to(finished.folder)
    exec(blocks("tuning.md")[1], {})
    value = Metrics.load(finished.folder / "metrics.json").macro_auc.value
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"tuned {value:.3f}, from {value:.3f} to {value:.3f} over the splits"
    assert second.startswith("tuned minus default Advantage(mean=0.0, ")


def test_a_budget_and_the_scans_to_label_next(desk, finished, unseen_csv, capsys):
    dump_config(load_config(FinetuneConfig, None, (*TINY, "backbone.weights=source.safetensors")), desk / "my.yaml")
    (desk / "RUN").symlink_to(finished.folder)
    (desk / "UNLABELLED").symlink_to(unseen_csv.parent / "scans")
    exec(blocks("labels.md")[0], {})
    budget, chosen = capsys.readouterr().out.splitlines()
    assert budget.startswith("all classes ")
    assert chosen == f"{len(read_rows(desk / 'next.csv'))} in next.csv"
