"""``select`` from what is typed to what is on disk: the ranking, the cache, the test scans, the errors."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from command_line import TINY, read_rows, settings, write_rows
from safetensors.torch import save_file

import med_transfer as mt
from med_transfer.backbones import load_backbone
from med_transfer.bundle import load_network
from med_transfer.cli.select import next_command
from med_transfer.cohorts import Cohort, SplitConfig, split_cohort
from med_transfer.config import load_config
from med_transfer.errors import ConfigError
from med_transfer.finetuning import FinetuneConfig
from med_transfer.selection.candidates import Candidates, find_candidates
from med_transfer.selection.report import as_markdown
from med_transfer.selection.selecting import _fitting
from med_transfer.selection.source import source_head

NAME = "resnet18-w8"
SPLIT = SplitConfig(folds=2, test_fraction=0.34)
INPUT = ("input.shape=[16,16,16]", "input.region=roi", "input.spacing_mm=[2,2,2]")
SMALL = settings(*TINY, *INPUT)


def words(table: Path, out: Path, *weights: Path) -> list:
    given = [word for path in weights for word in ("--weights", f"{NAME}={path}")]
    return ["select", table, "-o", out, "--backbones", NAME, *given, *SMALL]


def own_copy(table: Path, folder: Path) -> Path:
    shutil.copytree(table.parent, folder)
    return folder / table.name


def figures(outcome_json: str) -> list[dict]:
    """The ranking without what is measured with a clock."""
    ranking = json.loads(outcome_json)["ranking"]
    for score in ranking:
        del score["cost"]["seconds_per_scan"]
    return ranking


def feature_files(out: Path) -> set[str]:
    return {path.name for path in (out / "cache" / "features").iterdir()}


@pytest.fixture(scope="session")
def selected(command, target_csv, finished, random_weights, tmp_path_factory):
    """A trained bundle and the control's own values, ranked."""
    out = tmp_path_factory.mktemp("selected")
    return out, command(*words(target_csv, out, finished.bundle, random_weights))


def test_the_ranking_is_printed_and_written(selected, finished, random_weights):
    out, outcome = selected
    assert outcome.code == 0, outcome.err
    record = json.loads((out / "selection.json").read_text())
    trained, random = f"{NAME} ({finished.bundle})", f"{NAME} ({random_weights})"
    assert {score["name"] for score in record["ranking"]} == {trained, random}
    for name in (trained, random):
        assert f"{name}  " in outcome.out
        assert f"## {name}" in (out / "selection.md").read_text()
    assert record["classes"] == ["ground-glass", "part-solid", "solid"]
    assert f"recommended: {record['recommended'] or 'none'}" in outcome.out
    assert record["reason"] in outcome.out
    assert "features" in outcome.err
    assert "target-1" not in "".join(path.read_text() for path in out.iterdir() if path.is_file()) + outcome.out


def test_the_table_shows_the_distance_and_leaves_what_is_unknown_empty(selected, finished, random_weights):
    scores = json.loads((selected[0] / "selection.json").read_text())["ranking"]
    distances = {score["name"]: score["gap"]["frechet_relative"] for score in scores}
    head, *rows = selected[1].out.splitlines()[2:5]
    column = slice(head.index("Frechet"), head.index("s/scan"))
    shown = {name: next(row[column].strip() for row in rows if row.startswith(name)) for name in distances}
    trained, random = f"{NAME} ({finished.bundle})", f"{NAME} ({random_weights})"
    assert shown == {trained: f"{distances[trained]:.2f}", random: ""}
    assert len(head) - max(map(len, distances)) + 25 <= 120


def test_the_order_follows_the_rule_and_the_recommendation_beats_its_random_weights(selected):
    record = json.loads((selected[0] / "selection.json").read_text())
    first, second = record["ranking"]
    tied = first["best"]["macro_auc"] >= second["best"]["macro_auc"] - second["best"]["standard_error"]
    assert first["best"]["macro_auc"] >= second["best"]["macro_auc"] or tied
    beating = [score["name"] for score in record["ranking"] if score["gain"] > score["gain_standard_error"]]
    assert record["recommended"] == (beating[0] if beating else None)
    assert [score["beats_random"] for score in record["ranking"]] == [s["name"] in beating for s in record["ranking"]]


def test_random_weights_gain_nothing_over_themselves(command, target_csv, random_weights, tmp_path):
    outcome = command(*words(target_csv, tmp_path, random_weights))
    (score,) = json.loads((tmp_path / "selection.json").read_text())["ranking"]
    assert score["layers"] == score["random_layers"]
    assert (score["gain"], score["gain_standard_error"]) == (0, 0)
    assert "recommended: none" in outcome.out
    assert "No pretrained backbone beats its own random weights" in outcome.out
    assert "all fall short" not in outcome.out


def test_the_folds_are_those_of_the_run_that_follows(selected, target_csv):
    split = split_cohort(Cohort.read(target_csv), SPLIT)
    record = json.loads((selected[0] / "selection.json").read_text())
    assert (record["n_scans"], record["n_folds"]) == (len(split.development), 2)
    assert len(feature_files(selected[0])) == 3 * len(split.development)  # two networks and one control


def test_one_validation_part_is_no_cross_validation(command, target_csv, random_weights, tmp_path):
    """A run with a holdout has one fold; the choice is made in as many as the config names, within its training."""
    more = settings("split.kind=holdout", "split.val_fraction=0.34", "split.folds=3")
    outcome = command(*words(target_csv, tmp_path, random_weights), *more, "--json")
    assert outcome.code == 0, outcome.err
    record = json.loads(outcome.out)
    split = split_cohort(Cohort.read(target_csv), SPLIT.model_copy(update={"kind": "holdout", "val_fraction": 0.34}))
    assert (record["n_scans"], record["n_folds"]) == (len(split.development), 3)


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory) -> Path:
    """Finite weights whose products are not."""
    path = tmp_path_factory.mktemp("overflowing") / "w.safetensors"
    state = load_backbone(NAME, seed=5).encoder.state_dict()
    save_file({name: t * 1e30 if t.ndim > 1 else t.contiguous() for name, t in state.items()}, path)
    return path


def test_a_network_that_gives_no_numbers_is_named(command, target_csv, overflowing, tmp_path):
    outcome = command(*words(target_csv, tmp_path, overflowing))
    assert outcome.code == 2
    assert f"{NAME} ({overflowing}): NaN or infinite features of 12 of 12 scans, the first is " in outcome.err
    budget = ("labels", "budget", target_csv, "-o", tmp_path / "budget", "--backbone", NAME, "--weights", overflowing)
    outcome = command(*budget, *settings(*TINY, "input.region=whole"))
    assert outcome.code == 2
    assert f"{NAME} ({overflowing}): NaN or infinite features of 12 of 12 scans" in outcome.err
    run = ("finetune", target_csv, "-o", tmp_path / "run", *settings(*TINY, f"backbone.weights={overflowing}"))
    outcome = command(*run, *settings("transfer.strategy=linear_probe", "from_scratch_baseline=false"))
    assert outcome.code == 2
    assert f"error: {NAME}: NaN or infinite features of" in outcome.err


def test_a_second_call_reads_no_scan(command, target_csv, other_weights, tmp_path, monkeypatch):
    first = command(*words(target_csv, tmp_path / "out", other_weights), "--json")
    before = feature_files(tmp_path / "out")
    monkeypatch.delattr("med_transfer.cohorts.kept_scans.read_scan")  # who reads a scan fails
    again = command(*words(target_csv, tmp_path / "out", other_weights), "--json")
    assert (first.code, again.code) == (0, 0)
    assert json.loads(first.out)["ranking"] == json.loads(again.out)["ranking"]
    assert feature_files(tmp_path / "out") == before


def test_nothing_of_a_test_scan_counts(command, target_csv, other_weights, tmp_path):
    """Other labels, other regions, and files that are no scans: not one figure changes."""
    table, rows = own_copy(target_csv, tmp_path / "copy"), read_rows(target_csv)
    test = split_cohort(Cohort.read(target_csv), SPLIT).test
    for number, row in enumerate(rows):
        row["split"] = "test" if number in test else "train"
    honest = command(*words(write_rows(table, rows), tmp_path / "honest", other_weights), "--json")
    others = {"ground-glass": "solid", "solid": "part-solid", "part-solid": "ground-glass"}
    for number in test:
        rows[number] |= {"label": others[rows[number]["label"]], "roi_x_mm": "999"}
        (table.parent / rows[number]["scan"]).write_bytes(b"no scan")
    corrupted = command(*words(write_rows(table, rows), tmp_path / "corrupted", other_weights), "--json")
    assert (honest.code, corrupted.code) == (0, 0), corrupted.err
    assert figures(honest.out) == figures(corrupted.out)
    assert json.loads(honest.out)["n_scans"] == len(rows) - len(test)


def test_every_layer_is_measured(selected):
    record = json.loads((selected[0] / "selection.json").read_text())
    for score in record["ranking"]:
        assert len(score["layers"]) == 4
        assert score["best"] in score["layers"]
        for layer in score["layers"]:
            assert 0 <= layer["macro_auc"] <= 1
            assert layer["n_features"] == 8 * 2 ** layer["stages"][0]


def test_what_the_source_was_like(selected, finished, random_weights):
    """A bundle keeps a head and the Gaussian of its training scans; a bare weights file neither."""
    scores = {score["name"]: score for score in json.loads((selected[0] / "selection.json").read_text())["ranking"]}
    bundle, bare = scores[f"{NAME} ({finished.bundle})"], scores[f"{NAME} ({random_weights})"]
    assert bundle["leep"] < 0
    assert bundle["gap"]["stages"] == [3]
    assert bundle["gap"]["frechet_relative"] > 0
    assert bundle["gap"]["unknown"] == "MMD and A-distance: of the source only mean and covariance are stored"
    assert (bare["leep"], bare["gap"]["frechet"]) == (None, None)
    assert bare["gap"]["unknown"] == "Frechet distance, MMD and A-distance: no features of the source are stored"
    assert bundle["gap"]["batch_norm"]["correlation"] > bare["gap"]["batch_norm"]["correlation"]
    assert bundle["cost"]["parameters_mib"] == pytest.approx(519_048 * 4 / 2**20)


def test_a_bundle_whose_features_pass_a_bottleneck(command, cohort_csv, target_csv, finished, tmp_path):
    """Its head reads what the bottleneck gives; its training scans are known there alone."""
    frozen = ("transfer.strategy=linear_probe", "transfer.mapping.method=autoencoder", "transfer.mapping.bottleneck=4")
    own = (f"backbone.weights={finished.bundle}", "split.kind=holdout", "split.val_fraction=0.34", "training.epochs=1")
    made = command(
        "finetune", cohort_csv, "-o", tmp_path / "run", *settings(*TINY, *own, *frozen, "from_scratch_baseline=false")
    )
    assert made.code == 0, made.err
    outcome = command(*words(target_csv, tmp_path / "out", tmp_path / "run"))
    assert outcome.code == 0, outcome.err
    (score,) = json.loads((tmp_path / "out/selection.json").read_text())["ranking"]
    assert score["leep"] < 0
    assert (score["gap"]["frechet"], score["gap"]["stages"]) == (None, None)
    assert score["gap"]["unknown"] == (
        "Frechet distance, MMD and A-distance: the bundle describes its training scans behind an autoencoder's "
        "bottleneck, not as the encoder gives them"
    )
    features = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    network = load_network(tmp_path / "run/bundle")
    with torch.inference_mode():
        logits = network.member0.head(network.member0.mapping(features))
    head = source_head(find_candidates([], [(NAME, tmp_path / "run")]).ready[0])
    expected = network.calibrator.probabilities(logits.numpy(), multilabel=False)
    assert head.probabilities(features.numpy()) == pytest.approx(expected, abs=1e-5)


def test_another_input_than_the_bundles_own_is_said(selected, finished):
    """The bundle saw whole scans fitted into its input; here each scan's region is shown, at 2 mm."""
    scores = {score["name"]: score for score in json.loads((selected[0] / "selection.json").read_text())["ranking"]}
    found = {name: score["gap"]["other_input"] for name, score in scores.items()}
    text = found.pop(f"{NAME} ({finished.bundle})")
    assert text == "spacing_mm None (here [2.0, 2.0, 2.0]), region whole (here roi)"
    assert list(found.values()) == [""]
    assert (
        f"part of it is how the source's scans were given to the network: {text}"
        in (selected[0] / "selection.md").read_text()
    )


def test_a_scan_that_cannot_be_used_is_counted(command, target_csv, other_weights, tmp_path):
    table = own_copy(target_csv, tmp_path / "copy")
    rows = read_rows(table)
    scan = rows[0]["scan"]
    write_rows(table, [*rows, rows[0] | {"roi_x_mm": "1"}])  # two regions of it
    (table.parent / scan).write_bytes(b"no scan")
    outcome = command(*words(table, tmp_path / "out", other_weights))
    record = json.loads((tmp_path / "out/selection.json").read_text())
    assert (outcome.code, list(record["failed"])) == (1, [f"row 2 ({scan})", f"row {len(rows) + 2} ({scan})"])
    assert "## Scans that could not be used" in (tmp_path / "out/selection.md").read_text()
    remaining = Cohort.read(table)
    split = split_cohort(remaining.subset(range(1, len(remaining) - 1)), SPLIT)
    assert record["n_scans"] == len(split.development)


def test_from_python(selected, target_csv, finished, random_weights):
    given = [(NAME, finished.bundle), (NAME, random_weights)]
    stages = []
    selection = mt.select_backbone(
        target_csv,
        load_config(FinetuneConfig, None, (*TINY, *INPUT)),
        out=selected[0],
        names=[NAME],
        weights=given,
        progress=lambda stage, done, total, note="": stages.append(stage),
    )
    assert {"features", "measures"} == set(stages)
    record = json.loads((selected[0] / "selection.json").read_text())
    assert [score.name for score in selection.ranking] == [score["name"] for score in record["ranking"]]
    with pytest.raises(dataclasses.FrozenInstanceError):
        selection.recommended = "mine"
    best = selection.ranking[0]
    chosen = dataclasses.replace(selection, recommended=best.name)
    config = load_config(FinetuneConfig, None, chosen.overrides)
    assert (config.backbone.name, str(config.backbone.weights)) == (NAME, best.weights)
    assert config.backbone.pooled_stages == best.best.stages
    assert dataclasses.replace(selection, recommended=None, to_try=None).overrides == ()
    published = dataclasses.replace(chosen, ranking=(dataclasses.replace(best, weights=None),))
    start = ["backbone.weights=earlier.pt"]  # of the config, which name another network's weights
    assert load_config(FinetuneConfig, None, [*start, *published.overrides]).backbone.weights is None
    for path in ("/a/run #2/bundle", "/a: b/it's", "[1]", "1e5"):
        elsewhere = dataclasses.replace(best, weights=path)
        typed = dataclasses.replace(chosen, ranking=(elsewhere,)).overrides
        assert str(load_config(FinetuneConfig, None, typed).backbone.weights) == path
    typed = shlex.split(next_command(chosen, target_csv, None, ("seed=3",)))
    assert typed[:6] == ["med-transfer", "finetune", str(target_csv), "-o", "RUN", "--no-plan"]
    of_a_file = shlex.split(next_command(chosen, target_csv, Path("a b.yaml"), ()))
    assert (of_a_file[5:7], "--no-plan" in of_a_file) == (["-c", "a b.yaml"], False)
    assert load_config(FinetuneConfig, None, typed[7::2]) == config.model_copy(update={"seed": 3})
    assert f"--set backbone.name={NAME}" in as_markdown(chosen)
    tried = dataclasses.replace(selection, recommended=None, to_try=best.name)
    typed = shlex.split(next_command(tried, target_csv, None, ("from_scratch_baseline=false",)))
    config = load_config(FinetuneConfig, None, typed[7::2])
    assert (str(config.backbone.weights), config.backbone.pooled_stages) == (best.weights, None)
    assert (config.transfer.on_harm, config.from_scratch_baseline) == ("fallback", True)
    assert f"To try {best.name}, give" in as_markdown(tried)
    assert "To take it, give" in as_markdown(chosen)


# What is refused


def refused(outcome, code, *found):
    lines = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert (outcome.code, len(lines)) == (code, 1), outcome.err
    for text in found:
        assert text in lines[0]


def test_a_source_that_was_trained_on_these_patients(command, cohort_csv, finished, random_weights, tmp_path):
    """Nothing else to rank: an error. With another candidate it is left out, and said to be."""
    alone = command(*words(cohort_csv, tmp_path, finished.bundle))
    refused(alone, 2, "it was trained on 12 of these scans or their patients; expected a source that never saw")
    both = command(*words(cohort_csv, tmp_path, finished.bundle, random_weights))
    assert both.code == 0, both.err
    assert f"left out: {NAME} ({finished.bundle}): it was trained on 12 of these scans" in both.out
    assert "## Left out" in (tmp_path / "selection.md").read_text()


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--backbones", "resnet18-w23"], "unknown backbone 'resnet18-w23'"),
        (["--backbones", NAME], f"backbone {NAME} has no published weights; expected weights of your own: --weights"),
        (["--backbones", "medicalnet-resnet18"], "backbone medicalnet-resnet18 needs a weights file"),
        (["--backbones", ""], "no backbone's weights are at hand; expected weights in"),
        (["--backbones", "", "--weights", "weights.pt"], "--weights: 'weights.pt'; expected NAME=PATH"),
        (["--backbones", "", "--weights", f"{NAME}=nowhere.pt"], "nowhere.pt: no such file; expected a weights file"),
        (["--set", "input.shape=[8,8,8]"], "input.shape: shape [8, 8, 8]; expected at least [16, 16, 16]"),
        (["--set", "backbone.pooled_stages=[9]"], "pooled stages [9]; expected different numbers from -4 to 3 for"),
        (["--set", "split.folds=9"], "has 6 patients; expected at least 10, one each for 9 folds and the test set"),
        (["--set", "split.flods=9"], "no such key; expected split.folds perhaps"),
    ],
)
def test_wrong_usage(command, target_csv, random_weights, tmp_path, monkeypatch, options, found):
    monkeypatch.setenv("MED_TRANSFER_BACKBONES", str(tmp_path / "store"))
    given = [] if "--backbones" in options else ["--backbones", NAME, "--weights", f"{NAME}={random_weights}"]
    outcome = command("select", target_csv, "-o", tmp_path / "out", *given, *SMALL, *options)
    refused(outcome, 2, found)
    assert not (tmp_path / "out").exists()


def test_a_missing_label(command, target_csv, random_weights, tmp_path):
    table = own_copy(target_csv, tmp_path / "copy")
    rows = read_rows(table)
    rows[3]["label"] = ""
    outcome = command(*words(write_rows(table, rows), tmp_path / "out", random_weights))
    refused(outcome, 2, "row 5", "has no label. Fill the label")


def test_no_scan_can_be_used(command, target_csv, random_weights, tmp_path):
    table = own_copy(target_csv, tmp_path / "copy")
    for path in (table.parent / "scans").iterdir():
        path.write_bytes(b"no scan")
    outcome = command(*words(table, tmp_path / "out", random_weights))
    refused(outcome, 3, "none of 18 scans can be used; expected at least one. The first reason:")


def test_one_image_on_two_sides(command, target_csv, random_weights, tmp_path):
    """A copy of a test scan under another patient's name would teach the choice what the test will ask."""
    table, rows = own_copy(target_csv, tmp_path / "copy"), read_rows(target_csv)
    split = split_cohort(Cohort.read(target_csv), SPLIT)
    taught, asked = rows[split.development[0]], rows[split.test[0]]
    shutil.copy(table.parent / asked["scan"], table.parent / taught["scan"])
    taught |= {name: value for name, value in asked.items() if name.startswith("roi_")}
    outcome = command(*words(write_rows(table, rows), tmp_path / "out", random_weights))
    refused(outcome, 2, "identical images in the test set and in development")


def test_what_cannot_take_the_input_is_left_out_unless_it_was_named(tmp_path, monkeypatch):
    """A plan's input is made for one network; another one's own limits must not end the ranking."""
    monkeypatch.setenv("MED_TRANSFER_BACKBONES", str(tmp_path / "store"))
    fits, *_ = find_candidates(None).ready
    needs = dataclasses.replace(fits.spec.input, minimum_shape=(32, 32, 32))
    large = dataclasses.replace(fits, name="large", spec=dataclasses.replace(fits.spec, name="large", input=needs))
    config = load_config(FinetuneConfig, None, ["input.shape=[16,64,64]", "input.region=whole"])
    fitting = _fitting(Candidates((large, fits), {}), config, named=False)
    assert fitting.ready == (fits,)
    reason = "input.shape: shape [16, 64, 64]; expected at least [32, 32, 32] for large"
    assert fitting.left_out["large"].rstrip(".") == reason
    given = dataclasses.replace(large, weights=Path("weights.pt"))
    for candidates, named in (((large, fits), True), ((large,), False), ((fits, given), False)):
        with pytest.raises(ConfigError, match=re.escape(reason)):
            _fitting(Candidates(candidates, {}), config, named=named)
