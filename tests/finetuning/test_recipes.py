"""Every fine-tuning recipe in configs/ is accepted by a run."""

import csv
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import TINY, FinishedRun, locked, read_rows, settings, write_rows
from mr_like import as_mr_dicom, as_nifti, mr_values
from safetensors.torch import save_file

from med_transfer.backbones import find_backbone, load_backbone
from med_transfer.bundle import read_record
from med_transfer.config import load_config
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.data_setup import resolve_preprocessing

FOLDER = Path(__file__).parents[2] / "configs"
RECIPES = sorted(
    path for kind in ("*.yaml", "recipes/*.yaml") for path in FOLDER.glob(kind) if "\nbackbone:\n" in path.read_text()
)
ONE_EPOCH = (
    *(setting for setting in TINY if not setting.startswith(("backbone", "input.region"))),  # a recipe's own
    "input.shape=[16,16,16]",
    "input.spacing_mm=[2,2,2]",
    "training.epochs=1",
    "split.kind=holdout",
    "split.val_fraction=0.34",
)


def test_there_is_one_for_each_way_from_photographs_to_ct():
    assert {f"imagenet_{way}" for way in ("inflated", "acs", "slices")} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_names_a_backbone_and_an_input_it_can_work_on(path):
    config = load_config(FinetuneConfig, path)
    spec = find_backbone(config.backbone.name)
    preprocessing = resolve_preprocessing(spec, config)
    assert preprocessing.window_hu == spec.input.window_hu
    assert preprocessing.spacing_mm is not None


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_says_how_to_run_it(path):
    assert f"-c configs/{path.relative_to(FOLDER)} -o " in path.read_text()


def test_there_is_one_for_each_heterogeneous_transfer():
    names = {"mr", "mr_to_ct", "multi_phase", "one_phase_to_several"}
    names |= {"segmentation_to_classification", "many_classes_to_few"}
    assert {path.stem for path in FOLDER.glob("recipes/*.yaml")} == names


def table(cohort_csv: Path, source: FinishedRun, out: Path, change: Callable[[dict], None]) -> Path:
    """The source's cohort with absolute paths, the parts that it had there, and what ``change`` makes of each row."""
    parts = {"test": "test", "fold-0": "val", "fold-1": "train"}
    rows = read_rows(cohort_csv)
    cases = locked(source.folder, [row["scan"] for row in rows])
    for row in rows:
        row.pop("mask", None)
        row.update(split=parts[cases[row["scan"]].role], scan=str(cohort_csv.parent / row["scan"]))
        change(row)
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return out


def run(command, recipe: str, cohort: Path, out: Path, *overrides: str):
    path = FOLDER / f"{recipe}.yaml"
    outcome = command("finetune", cohort, "-c", path, "-o", out, *settings(*ONE_EPOCH, *overrides))
    assert outcome.code == 0, outcome.err
    return read_record(out / "bundle")


def started_from(source: FinishedRun) -> tuple[str, ...]:
    """A recipe names the bundle's network, which here is the smallest."""
    return f"backbone.weights={source.bundle}", "backbone.name=resnet18-w8", "from_scratch_baseline=false"


def test_many_classes_to_few_has_a_new_head(command, cohort_csv, finished, tmp_path):
    many = read_record(finished.bundle).classes
    first = many[0]

    def merge(row: dict) -> None:
        row["label"] = first if row["label"] == first else "other"

    few = table(cohort_csv, finished, tmp_path / "few.csv", merge)
    record = run(command, "recipes/many_classes_to_few", few, tmp_path / "run", *started_from(finished))
    assert (len(many), record.classes) == (3, tuple(sorted((first, "other"))))
    assert (record.transfer.strategy, record.transfer.regularise) == ("lp_ft", ("l2_sp",))


def test_one_phase_to_several_keeps_a_patients_phases_together(command, cohort_csv, finished, tmp_path):
    """Two scans stand for two phases of a patient."""
    seen: Counter[str] = Counter()

    def pair(row: dict) -> None:
        kind = f"{row['label']}-{row['split']}"
        row.update(patient=f"{kind}-{seen[kind] // 2}", phase=("arterial", "venous")[seen[kind] % 2])
        seen[kind] += 1

    phases = table(cohort_csv, finished, tmp_path / "phases.csv", pair)
    record = run(command, "recipes/one_phase_to_several", phases, tmp_path / "run", *started_from(finished))
    assert (record.transfer.strategy, record.transfer.batch_norm) == ("surgical", "bn_adapt")
    judged = read_rows(tmp_path / "run/predictions.csv")
    assert len(judged) == 2 * len({row["patient"] for row in judged})


def test_segmentation_to_classification_pools_two_stages(command, cohort_csv, tmp_path):
    encoder = load_backbone("wholebody-segresnet-1.5mm", scratch=True).encoder
    weights = tmp_path / "encoder.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}, weights)
    own = (
        f"backbone.weights={weights}",
        "from_scratch_baseline=false",
        "training.epoch_scans=8",
        "training.batch_size=4",
    )
    record = run(command, "recipes/segmentation_to_classification", cohort_csv, tmp_path / "run", *own)
    assert (record.backbone.name, record.backbone.pooled_stages) == ("wholebody-segresnet-1.5mm", (2, 3))


@pytest.mark.parametrize(
    ("way", "shape", "batch_norm"),
    [("inflated", "[16,32,32]", "train"), ("acs", "[32,32,32]", "train"), ("slices", "[8,32,32]", "source")],
)
def test_a_network_of_photographs_learns_from_ct(command, cohort_csv, tmp_path, way, shape, batch_norm):
    size = (f"input.shape={shape}", "training.epoch_scans=4", "training.batch_size=2", "explain.gallery=0")
    record = run(command, f"imagenet_{way}", cohort_csv, tmp_path / "run", *size, "from_scratch_baseline=false")
    spec = find_backbone(load_config(FinetuneConfig, FOLDER / f"imagenet_{way}.yaml").backbone.name)
    assert (record.backbone.name, record.backbone.sha256) == (spec.name, spec.sha256)
    assert record.transfer.batch_norm == batch_norm
    assert record.preprocessing.window_hu == spec.input.window_hu
    assert {row["status"] for row in read_rows(tmp_path / "run/predictions.csv")} == {"ok"}


@pytest.fixture(scope="module")
def mr_run(command, cohort_csv, finished, tmp_path_factory):
    """A run of the MR recipe on the cohort's scans with MR-like values, DICOM and NIfTI, each of another gain."""
    folder = tmp_path_factory.mktemp("mr")

    def as_mr(row: dict) -> None:
        gain = 0.5 + 0.2 * len(list(folder.iterdir()))
        scan = Path(row["scan"])
        if scan.is_dir():
            row["scan"] = str(shutil.copytree(scan, folder / scan.name))
            as_mr_dicom(folder / scan.name, gain)
        else:
            row["scan"] = str(as_nifti(scan, folder / scan.name, lambda hu: mr_values(hu, gain)))

    cohort = table(cohort_csv, finished, folder / "mr.csv", as_mr)
    return cohort, run(command, "recipes/mr", cohort, folder / "run", *started_from(finished)), folder / "run"


def test_mr_is_read_by_z_scores_and_the_bundle_says_so(mr_run):
    _, record, out = mr_run
    assert (record.preprocessing.modality, record.preprocessing.normalisation) == ("MR", "zscore")
    image = json.loads((out / "bundle/configs/metadata.json").read_text())["network_data_format"]["inputs"]["image"]
    assert (image["modality"], image["format"]) == ("MR", "magnitude")
    assert "z-scores of each scan's own foreground" in (out / "bundle/docs/README.md").read_text()
    assert {row["status"] for row in read_rows(out / "predictions.csv")} == {"ok"}


def test_ct_series_is_rejected_by_an_mr_bundle_and_the_rest_goes_on(command, cohort_csv, mr_run, tmp_path):
    cohort, _, out = mr_run
    ct = next(row for row in read_rows(cohort_csv) if (cohort_csv.parent / row["scan"]).is_dir())
    mr = next(row for row in read_rows(cohort) if Path(row["scan"]).is_dir())
    rows = [{"scan": mr["scan"]}, {"scan": str(cohort_csv.parent / ct["scan"])}]
    outcome = command("predict", out / "bundle", write_rows(tmp_path / "two.csv", rows), "-o", tmp_path / "out")
    assert outcome.code == 1
    found = {row["scan"]: row for row in read_rows(tmp_path / "out/predictions.csv")}
    assert found[rows[0]["scan"]]["status"] == "ok"
    assert found[rows[1]["scan"]]["status"] == "rejected"
    assert "modality CT; expected MR" in found[rows[1]["scan"]]["reason"]


def test_mr_to_ct_takes_the_weights_of_an_mr_run_and_the_window_of_ct(command, cohort_csv, finished, mr_run, tmp_path):
    cohort = table(cohort_csv, finished, tmp_path / "ct.csv", lambda row: None)
    own = ("backbone.name=resnet18-w8", f"backbone.weights={mr_run[2] / 'bundle'}", "explain.gallery=0")
    record = run(command, "recipes/mr_to_ct", cohort, tmp_path / "run", *own)
    preprocessing, transfer = record.preprocessing, record.transfer
    assert (preprocessing.modality, preprocessing.normalisation, preprocessing.region) == ("CT", "window", "roi")
    assert (transfer.strategy, transfer.batch_norm) == ("full", "bn_adapt")
    kept = json.loads((tmp_path / "run/metrics.json").read_text())["kept_network"]
    assert (kept["rule"], kept["validation"]["n_patients"]) == ("fallback", 6)


def test_mr_series_is_rejected_by_a_ct_bundle(command, finished, mr_run, tmp_path):
    scan = next(row["scan"] for row in read_rows(mr_run[0]) if Path(row["scan"]).is_dir())
    assert command("predict", finished.bundle, scan, "-o", tmp_path).code == 3
    (row,) = read_rows(tmp_path / "predictions.csv")
    assert row["status"] == "rejected"
    assert "modality MR; expected CT" in row["reason"]
