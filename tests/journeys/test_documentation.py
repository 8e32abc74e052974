"""Every code block of README and docs works: it is run here on small runs, or only checked, for the reason beside it.

``pytest --collect-only`` lists which. A command that is only checked goes through the program's parser, its config
through the models; for a benchmark the script and its options must exist.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from command_line import TINY, read_rows, settings, write_rows
from documented import ROOT, Block, block, blocks
from safetensors.torch import save_file
from typer.main import get_command

import med_transfer as mt
from med_transfer.backbones import load_backbone
from med_transfer.cli.app import app
from med_transfer.config import dump_config, load_config
from med_transfer.finetuning import FinetuneConfig
from med_transfer.metrics.records.metrics import Metrics
from med_transfer.phantoms import PhantomConfig
from med_transfer.pretraining import PretrainingConfig
from med_transfer.tuning import TuneConfig

PROGRAM = get_command(app)  # once: to make it takes longer than to read any line
PROBE = ("transfer.strategy=linear_probe", "from_scratch_baseline=false", "explain.gallery=0")
CONFIGS = {
    "phantom": PhantomConfig,
    "pretrain": PretrainingConfig,
    "tune": TuneConfig,
    "finetune": FinetuneConfig,
    "select": FinetuneConfig,
    "preview": FinetuneConfig,
    "budget": FinetuneConfig,
}
RUN = {  # and by which test below
    ("README.md", "sh", 1),  # the main job
    ("README.md", "python", 0),
    ("docs/explanations.md", "sh", 0),
    ("docs/fusion.md", "sh", 1),
    ("docs/fusion.md", "python", 0),
    ("docs/labels.md", "python", 0),
    ("docs/planning.md", "sh", 0),
    ("docs/security.md", "sh", 0),
    ("docs/tuning.md", "python", 0),
    ("docs/tuning.md", "python", 1),
    *(("docs/tutorials/first_model.md", "sh", number) for number in range(1, 6)),
    *(("docs/tutorials/dicom_folder.md", "sh", number) for number in range(2)),
    *(("docs/tutorials/regions_and_masks.md", "sh", number) for number in range(2)),
}


# What is only checked ---------------------------------------------------------------------------------------------


def test_every_block_says_what_it_is_and_is_run_or_says_why_not():
    found = {(b.page, b.language, b.number): b for b in blocks()}
    assert {b.language for b in found.values()} == {"sh", "python", "yaml", "text"}
    assert sum(b.code.count("\n") for b in found.values()) > 150
    assert {key for key, b in found.items() if b.language in ("sh", "python") and not b.reason} == RUN


def parsed(words: list[str]) -> tuple[str, dict]:
    """The command that words name, and its options as the program's own parser reads them."""
    command, context = PROGRAM, None
    while hasattr(command, "resolve_command"):
        context = command.make_context(command.name, words, parent=context)
        _, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
    return command.name, command.make_context(command.name, words, parent=context).params


def check_ours(words: list[str]) -> None:
    name, options = parsed(words)
    if name in CONFIGS:
        file = options.get("config")
        known = file and (ROOT / file).exists()
        own = () if known or name != "pretrain" else ("steps=1",)  # a budget, which the page's own file has
        load_config(CONFIGS[name], ROOT / file if known else None, [*own, *(options.get("overrides") or ())])


def check_benchmark(words: list[str]) -> None:
    script = (ROOT / words[0]).read_text(encoding="utf-8")
    for option in (word for word in words if word.startswith("--")):
        assert f'"{option}"' in script, f"{words[0]} has no {option}"


@pytest.mark.parametrize("shown", blocks("sh"), ids=str)
def test_commands_are_understood(shown: Block):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    n_checked = 0
    for line in shown.commands():
        if ours := re.search(r"(?:^|(?<= ))(?:-m med_transfer|med-transfer) (?!--read-only)(.*)", line):
            check_ours(shlex.split(re.sub(r"\s'?(?:2?>|&'?(?:\s|$)).*", "", ours[1]).removesuffix(";").strip()))
        elif script := re.search(r"python (benchmarks/.*)", line):
            check_benchmark(shlex.split(script[1]))
        elif target := re.match(r"make ([\w-]+)", line):
            assert f"\n{target[1]}:" in makefile
        else:
            continue
        n_checked += 1
    assert n_checked


def every_command(command=None, path=()) -> list[tuple[tuple[str, ...], str]]:
    """The words of each command, and the example at the end of its help."""
    command = command or PROGRAM
    if not hasattr(command, "resolve_command"):
        return [(path, command.epilog or "")]
    return [found for name, inner in command.commands.items() for found in every_command(inner, (*path, name))]


@pytest.mark.parametrize(("words", "example"), every_command(), ids=str)
def test_the_help_of_every_command_ends_with_an_example_that_is_understood(words, example):
    assert f"{example} ".startswith(f"Example: med-transfer {' '.join(words)} ")
    check_ours(shlex.split(example.removeprefix("Example: med-transfer ")))


@pytest.mark.parametrize("shown", blocks("yaml"), ids=str)
def test_configs_can_be_read(shown: Block, tmp_path):
    for number, text in enumerate(shown.code.split("\n\n")):
        file = tmp_path / f"{number}.yaml"
        file.write_text(text)
        load_config(TuneConfig, file)  # all that finetune takes, and tuning


# What is run ------------------------------------------------------------------------------------------------------


@pytest.fixture
def desk(cohort_csv, tmp_path, monkeypatch) -> Path:
    """A folder to work in, with ``cohort.csv`` and the weights of a source that knows nobody."""
    rows = [row | {"scan": str(cohort_csv.parent / row["scan"])} for row in read_rows(cohort_csv)]
    write_rows(tmp_path / "cohort.csv", rows)
    state = load_backbone("resnet18-w8", seed=3).encoder.state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "source.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def typed(command, line: str, *more: str) -> str:
    """What the command of a line prints."""
    outcome = command(*shlex.split(line)[1:], *more)
    assert outcome.code == 0, outcome.err
    return outcome.out


def test_the_main_job_as_the_readme_types_it(command, cohort_csv, unseen_csv, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "SCANS").symlink_to(cohort_csv.parent / "scans")
    (tmp_path / "NEW_SCANS").symlink_to(unseen_csv.parent / "scans")
    write_rows(
        tmp_path / "labels.csv",
        [{"scan": f"SCANS/{Path(row['scan']).name}", "label": row["label"]} for row in read_rows(cohort_csv)],
    )
    index, finetune, predict = block("README.md", "sh", 1).commands()
    typed(command, index)
    quick = settings(*TINY, "training.epochs=1", "split.kind=holdout", "split.val_fraction=0.34", "explain.gallery=0")
    said = typed(command, finetune, *quick)
    assert said.startswith("input.region: whole, ")
    assert f"<h1>{tmp_path.name}</h1>" in (tmp_path / "runs/first/report.html").read_text()
    typed(command, predict)
    assert {row["status"] for row in read_rows(tmp_path / "out/predictions.csv")} == {"ok"}


def test_the_first_tutorial(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = "docs/tutorials/first_model.md"
    phantom, preview, finetune, predict, unmarked = (block(page, "sh", n).commands()[0] for n in range(1, 6))
    typed(command, phantom)
    assert len(read_rows(tmp_path / "chest/cohort.csv")) >= 30
    typed(command, preview)
    assert (tmp_path / "preview/preview.html").is_file()
    fast = settings("split.repeats=1", "split.folds=2", "explain.gallery=0")
    said = typed(command, finetune, "--plan", *fast)
    assert "sensitivity" in said
    assert "baseline handcrafted" in said
    assert (tmp_path / "runs/first/report.html").is_file()
    typed(command, predict)
    assert {row["status"] for row in read_rows(tmp_path / "out/predictions.csv")} == {"ok"}
    refused = command(*shlex.split(unmarked)[1:])
    assert refused.code == 2
    assert "the network looks at regions of interest, and files alone give none" in refused.err


def test_the_tutorial_of_a_dicom_folder_and_of_masks(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    phantom, index = (block("docs/tutorials/dicom_folder.md", "sh", number).commands()[0] for number in range(2))
    typed(command, phantom)
    assert command(*shlex.split(index)[1:]).code == 1
    verdicts = [row["verdict"] for row in read_rows(tmp_path / "cohort.quality.csv")]
    assert verdicts.count("reject") == 2
    assert len(read_rows(tmp_path / "cohort.csv")) == verdicts.count("accept") + verdicts.count("repair")
    assert (tmp_path / "patients.key").is_file()
    phantom, preview = (block("docs/tutorials/regions_and_masks.md", "sh", n).commands()[0] for n in range(2))
    typed(command, phantom)
    typed(command, preview)


def test_the_python_of_the_readme_on_a_table_with_regions(transferred, cohort_csv, unseen_csv, desk, mask_of, capsys):
    """Its run goes on in a finished folder, with the config of that."""
    row = next(row for row in read_rows(unseen_csv) if not row["scan"].endswith(".nii.gz"))
    shutil.copytree(transferred.folder, desk / "runs/first")
    (desk / "scans/patient-17").mkdir(parents=True)
    (desk / "scans/patient-17/ct").symlink_to(unseen_csv.parent / row["scan"])
    mask_of(unseen_csv.parent / row["scan"], row, desk / "scans/patient-17/nodule.nii.gz")
    here = {'"cohort.csv"': repr(str(cohort_csv)), 'out="runs/first"': '"runs/first/config.yaml", out="runs/first"'}
    code = block("README.md", "python").code
    for typed_there, meant_here in here.items():
        assert code.count(typed_there) == 1
        code = code.replace(typed_there, meant_here)
    exec(code, {})
    *classes, answer = capsys.readouterr().out.splitlines()
    assert len(classes) == 3
    assert "{'ground-glass': 0." in answer


def test_explaining(command, finished, unseen_csv, desk):
    (desk / "RUN").symlink_to(finished.folder)
    rows = [row | {"scan": str(unseen_csv.parent / row["scan"])} for row in read_rows(unseen_csv)]
    write_rows(desk / "cohort.csv", rows[:1])
    (desk / "scan.nii.gz").symlink_to(next(row["scan"] for row in rows if row["scan"].endswith(".nii.gz")))
    *maps, attention = block("docs/explanations.md", "sh").commands()
    for line in maps:
        large = ("--window-mm", "80", "--stride-mm", "80") if "occlusion" in line else ()
        assert "is strongest at" in typed(command, line, "--draws", "0", *large)
    parsed(shlex.split(attention)[1:])  # run in test_instances.py, on a network that has one


def test_planning_and_training_what_was_planned(command, desk):
    plan, finetune = block("docs/planning.md", "sh").commands()
    assert "written to plan.yaml" in typed(command, plan, *settings("split.folds=2", "split.test_fraction=0.34"))
    quick = ("training.epochs=1", "training.epoch_scans=8", "training.batch_size=8", "from_scratch_baseline=false")
    quick += ("explain.gallery=0", "split.repeats=1")
    typed(command, finetune, *settings(*quick))
    assert Metrics.load(desk / "runs/first/metrics.json").n_scans == 6


def test_predicting_for_a_fusion(command, desk):
    masks = settings(
        "patients_per_class=6", "masks=true", "format=nifti", "shape=[24,64,64]", "scans_per_patient=[1,1]"
    )
    typed(command, "med-transfer phantom nodules", *masks)
    fused = ("fusion.use=[network,handcrafted,columns]", "fusion.columns=[age,sex]", "fusion.penalty=0.1")
    quick = (*TINY, *PROBE, "backbone.weights=source.safetensors", "split.test_fraction=0.1667", *fused)
    typed(command, "med-transfer finetune nodules/cohort.csv -o RUN", *settings(*quick))
    row, other, *_ = (
        row | {name: str(desk / "nodules" / row[name]) for name in ("scan", "mask")}
        for row in read_rows(desk / "nodules/cohort.csv")
    )
    write_rows(desk / "cohort.csv", [row, other])
    (line,) = block("docs/fusion.md", "sh", 1).commands()
    assert "2 ok" in typed(command, line)
    assert all(found["fused_p_solid"] for found in read_rows(desk / "OUT/predictions.csv"))
    for name in ("scan", "mask"):
        (desk / f"{name}.nii.gz").symlink_to(row[name])
    *load, predict = block("docs/fusion.md", "python").code.splitlines()
    names = {"mt": mt}
    exec("\n".join(load), names)
    answer = eval(predict.removesuffix(".fused"), names)
    assert sum(answer.fused.values()) == pytest.approx(1), answer.reason


def test_signing_a_bundle(command, finished, unseen_csv, desk):
    shutil.copytree(finished.folder, desk / "RUN")
    (desk / "BUNDLE").symlink_to(desk / "RUN/bundle")
    (desk / "SCANS").symlink_to(unseen_csv.parent / "scans")
    keygen, sign, verify, predict = block("docs/security.md", "sh").commands()
    assert "lab.key.pub: public, for verifying" in typed(command, keygen)
    assert "RUN/bundle: signed with key" in typed(command, sign)
    assert "BUNDLE: unchanged since signed with key" in typed(command, verify)
    assert "6 ok" in typed(command, predict)


def test_a_search_and_the_run_with_what_it_found(desk, capsys):
    pytest.importorskip("optuna")
    words = (*TINY, *PROBE, "backbone.weights=source.safetensors", "tuning.space.strategies=[linear_probe]")
    dump_config(load_config(TuneConfig, None, words), desk / "my.yaml")
    exec(block("docs/tuning.md", "python").code, {})
    assert Metrics.load(desk / "tuned/metrics.json").n_scans == 6
    assert capsys.readouterr().out.startswith("0 0.")  # a probe has nothing else to try


def test_several_outer_splits_are_put_together(desk, finished, capsys):
    for name in (f"{what}-{seed}" for what in ("outer", "default") for seed in range(5)):
        (desk / name).symlink_to(finished.folder)
    exec(block("docs/tuning.md", "python", 1).code, {})
    value = Metrics.load(finished.folder / "metrics.json").macro_auc.value
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"tuned {value:.3f}, from {value:.3f} to {value:.3f} over the splits"
    assert second.startswith("tuned minus default Advantage(mean=0.0, ")


def test_a_budget_and_the_scans_to_label_next(desk, finished, unseen_csv, capsys):
    dump_config(load_config(FinetuneConfig, None, (*TINY, "backbone.weights=source.safetensors")), desk / "my.yaml")
    (desk / "RUN").symlink_to(finished.folder)
    (desk / "UNLABELLED").symlink_to(unseen_csv.parent / "scans")
    exec(block("docs/labels.md", "python").code, {})
    budget, chosen = capsys.readouterr().out.splitlines()
    assert budget.startswith("all classes ")
    assert chosen == f"{len(read_rows(desk / 'next.csv'))} in next.csv"
