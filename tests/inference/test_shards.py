"""A batch in shards: nothing is lost unnoticed, and the table equals that of a single run."""

import io
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import read_rows
from killed import killed_at
from tiny_bundle import tiny_bundle, write_scan

from med_transfer.atomic.sole_writer import sole_writer
from med_transfer.errors import FolderInUse, UsageError
from med_transfer.inference import BatchSettings, load_bundle
from med_transfer.inference.sbatch import write_sbatch
from med_transfer.inference.shards import Shard, merge

N = 8


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A bundle, scans of which one is bad and one a copy, the table of one run over all, and its shards."""
    base = tmp_path_factory.mktemp("shards")
    bundle = tiny_bundle(base / "bundle")
    for number in range(20):
        write_scan(base / f"scans/{number:02d}.nii.gz", number)
    (base / "scans/05.nii.gz").write_bytes(b"\x1f\x8bnothing")
    (base / "scans/again").mkdir()
    shutil.copy(base / "scans/07.nii.gz", base / "scans/again/07.nii.gz")
    predictor = load_bundle(bundle, "cpu")
    predictor.predict_folder(base / "scans", base / "whole")
    for number in range(1, N + 1):
        predictor.predict_folder(base / "scans", base / "out", settings=BatchSettings(shard=Shard(number, N)))
    return base


@pytest.fixture
def base(world, tmp_path):
    shutil.copytree(world, tmp_path / "world", symlinks=True)
    return tmp_path / "world"


def but_for_seconds(table: Path) -> bytes:
    return b"\n".join(line.rpartition(b",")[0] for line in table.read_bytes().splitlines())


def shards(base: Path) -> list[Path]:
    return sorted((base / "out").glob("shard-*"))


def test_all_shards_together_are_the_table_of_one_run(base, command):
    (base / "out/predict.sbatch").touch()  # as OUT/* names it, too
    outcome = command("merge", *(base / "out").iterdir(), "-o", base / "merged")
    alone = command("predict", base / "bundle", base / "scans", "-o", base / "alone")  # one scan is damaged
    assert (outcome.code, outcome.out.splitlines()[0]) == (alone.code, "21 rows: 20 ok, 0 rejected, 1 failed")
    assert alone.code == 1
    in_json = command("merge", *(base / "out").iterdir(), "-o", base / "merged", "--json")
    told = json.loads(in_json.out)
    assert (in_json.code, told.pop("table")) == (1, str(base / "merged/predictions.csv"))
    assert told == {"rows": 21, "ok": 20, "rejected": 0, "failed": 1}
    assert but_for_seconds(base / "merged/predictions.csv") == but_for_seconds(base / "whole/predictions.csv")
    rows = [row["scan"] for folder in shards(base) for row in read_rows(folder / "predictions.csv")]
    assert len(rows) == len(set(rows)) == 21


def test_which_shard_a_scan_is_in_hangs_on_its_name_alone():
    names = [(f"{number}.nii.gz", "") for number in range(6000)]
    parts = [{name for name in names if Shard(number, 5).holds(*name)} for number in range(1, 6)]
    assert set.union(*parts) == set(names)
    assert sum(map(len, parts)) == 6000
    assert all(1100 < len(part) < 1300 for part in parts)
    assert Shard(1, 8).holds("a.nii.gz", "")  # permanently: folders of an older version must resume


@pytest.mark.parametrize("text", ["0/8", "9/8", "3", "a/b", "3/0", "-1/8", "1/2/3"])
def test_a_shard_out_of_range_is_refused(base, command, text):
    outcome = command("predict", base / "bundle", base / "scans", "-o", base / "new", f"--shard={text}")
    assert outcome.code == 2
    assert f"--shard: {text!r}; expected i/n with i from 1 to n, for example 3/8" in outcome.err
    assert not (base / "new").exists()


def refusal(base: Path) -> str:
    with pytest.raises(UsageError) as refused:
        merge(shards(base), base / "merged")
    assert not (base / "merged").exists()
    return str(refused.value)


def test_files_alone_are_no_shards_and_no_script_holds_every_name(tmp_path):
    (tmp_path / "predict.sbatch").touch()
    with pytest.raises(UsageError, match=r"predict\.sbatch: no shard; expected the folders of all shards"):
        merge([tmp_path / "predict.sbatch"], tmp_path / "merged")
    for name in ('a"b', "a\nb"):
        with pytest.raises(UsageError, match="expected a folder's name without quotes and line ends"):
            write_sbatch(tmp_path / name, 2, ("med-transfer",), ())


def test_a_percent_sign_in_a_folder_s_name_is_no_pattern_of_slurm(tmp_path):
    script = write_sbatch(tmp_path / "100%j", 2, ("med-transfer",), ()).read_text()
    assert f'#SBATCH --output="{tmp_path}/100%%j/slurm-%A_%a.log"\n' in script


def test_a_script_names_folders_that_are_not_utf8_by_their_bytes(tmp_path):
    folder = os.fsdecode(b"caf\xe9")
    script = write_sbatch(tmp_path / folder, 2, ("med-transfer",), ("bundle", folder)).read_bytes()
    assert b"predict bundle 'caf\xe9' --shard" in script
    assert b'/caf\xe9/slurm-%A_%a.log"\n' in script


def test_a_missing_shard_is_refused_and_named(base):
    shutil.rmtree(shards(base)[2])
    assert "1 of 8 shards missing: 3; expected each shard once" in refusal(base)


def test_a_shard_that_is_there_twice_is_refused(base):
    shutil.copytree(shards(base)[2], base / "out/shard-copy")
    assert "1 of 8 shards there twice: 3" in refusal(base)


def test_a_folder_that_no_run_wrote_is_refused(base):
    (base / "out/shard-9").mkdir()
    assert "shard-9: no batch.json that can be read" in refusal(base)


def test_a_table_that_has_lost_a_row_is_refused(base):
    table = (
        next(folder for folder in shards(base) if len(read_rows(folder / "predictions.csv")) > 1) / "predictions.csv"
    )
    table.write_bytes(b"".join(table.read_bytes().splitlines(keepends=True)[:-1]))
    assert "has a predictions.csv that is not the one that it was finished with" in refusal(base)


def test_a_shard_of_another_bundle_is_refused(base):
    other = load_bundle(tiny_bundle(base / "other", seed=1), "cpu")
    shutil.rmtree(shards(base)[4])
    other.predict_folder(base / "scans", base / "out", settings=BatchSettings(shard=Shard(5, N)))
    assert "another bundle than in shard-1-of-8" in refusal(base)


def test_a_shard_with_other_settings_is_refused(base, monkeypatch):
    monkeypatch.setenv("MED_TRANSFER_READ_GIB", "3")
    load_bundle(base / "bundle", "cpu").predict_folder(
        base / "scans", base / "new", settings=BatchSettings(shard=Shard(5, N))
    )
    shutil.rmtree(shards(base)[4])
    shutil.move(base / "new/shard-5-of-8", base / "out/shard-5-of-8")
    assert "another settings than in shard-1-of-8: device cpu, read_gib 3" in refusal(base)


def test_shards_that_saw_other_scans_are_refused(base):
    write_scan(base / "scans/late.nii.gz", 99)
    late = next(number for number in range(1, N + 1) if Shard(number, N).holds("late.nii.gz", ""))
    load_bundle(base / "bundle", "cpu").predict_folder(
        base / "scans", base / "new", settings=BatchSettings(shard=Shard(late, N))
    )
    shutil.rmtree(shards(base)[late - 1])
    shutil.move(base / f"new/shard-{late}-of-8", base / f"out/shard-{late}-of-8")
    assert "another scans than" in refusal(base)


def test_a_merge_into_the_folder_of_a_shard_is_refused(base):
    """Also where all others are empty, so that the merged table is that of the shard."""
    predictor, number = load_bundle(base / "bundle", "cpu"), 1 if Shard(1, 2).holds("one.nii.gz", "") else 2
    write_scan(base / "alone/one.nii.gz")
    for half in (Shard(1, 2), Shard(2, 2)):
        predictor.predict_folder(base / "alone", base / "halves", settings=BatchSettings(shard=half))
    halves = [base / f"halves/shard-{half}-of-2" for half in (1, 2)]
    with pytest.raises(UsageError, match=f"shard-{number}-of-2: the folder of a shard; expected a new folder"):
        merge(halves, base / f"halves/../halves/shard-{number}-of-2")
    merge(halves, base / "merged")


def test_the_table_that_is_merged_is_the_one_that_was_checked(base, monkeypatch):
    """Each is read once: between two readings a shard that runs again may have begun to write it."""
    opened, real = [], io.open
    monkeypatch.setattr(io, "open", lambda file, *rest, **more: opened.append(file) or real(file, *rest, **more))
    merge(shards(base), base / "merged")
    read = [file for file in opened if isinstance(file, Path) and file.name == "predictions.csv"]
    assert sorted(file for file in read if file.parent in shards(base)) == [
        folder / "predictions.csv" for folder in shards(base)
    ]


def test_predictions_that_are_there_are_kept(base):
    with pytest.raises(UsageError, match=r"predictions\.csv: there are predictions already"):
        merge(shards(base), base / "whole")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_wherever_it_writes_a_shard_is_refused_and_then_goes_on_to_the_same_table(base):
    folder = max(shards(base), key=lambda folder: len(read_rows(folder / "predictions.csv")))
    number, n_rows = int(folder.name.split("-")[1]), len(read_rows(folder / "predictions.csv"))
    predictor = load_bundle(base / "bundle", "cpu")

    def run():
        return predictor.predict_folder(base / "scans", base / "out", settings=BatchSettings(shard=Shard(number, N)))

    for moment in itertools.count(1):
        shutil.rmtree(folder)
        if not killed_at(moment, run):
            break
        assert any(words in refusal(base) for words in ("is not finished", "no batch.json"))
        run()
        merge(shards(base), base / "merged")
        assert but_for_seconds(base / "merged/predictions.csv") == but_for_seconds(base / "whole/predictions.csv")
        shutil.rmtree(base / "merged")
    assert moment > n_rows + 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_merge_that_was_killed_wherever_it_writes_goes_on(base):
    for moment in itertools.count(1):
        if not killed_at(moment, lambda: merge(shards(base), base / "merged")):
            break
        merge(shards(base), base / "merged")
        assert but_for_seconds(base / "merged/predictions.csv") == but_for_seconds(base / "whole/predictions.csv")
        assert {path.name for path in (base / "merged").iterdir()} == {"batch.json", "predictions.csv"}
        shutil.rmtree(base / "merged")
    assert moment > 2
    for _ in range(2):  # done, it is done again
        table, _ = merge(shards(base), base / "merged")
    with sole_writer(base / "merged"), pytest.raises(FolderInUse):
        merge(shards(base), base / "merged")
    table.write_bytes(table.read_bytes().replace(b",ok,", b",failed,", 1))
    with pytest.raises(UsageError, match=r"predictions\.csv: there are predictions already"):
        merge(shards(base), base / "merged")


def test_copies_are_computed_once_and_each_has_its_row(base, monkeypatch):
    predictor, answered = load_bundle(base / "bundle", "cpu"), []
    answer = type(predictor).answer
    monkeypatch.setattr(
        type(predictor), "answer", lambda self, given, *more: answered.append(given.path) or answer(self, given, *more)
    )
    os.link(base / "scans/08.nii.gz", base / "scans/again/08.nii.gz")
    shutil.copy(base / "scans/05.nii.gz", base / "scans/again/05.nii.gz")  # of the bad one: bad under its own name
    predictor.predict_folder(base / "scans", base / "new")
    assert len(answered) == 19
    rows = {row["scan"]: row for row in read_rows(base / "new/predictions.csv")}
    assert len(rows) == 23
    for name in ("07", "08"):
        first, copy = rows[f"{name}.nii.gz"], rows[f"again/{name}.nii.gz"]
        assert (first["p_malignant"], first["novelty"]) == (copy["p_malignant"], copy["novelty"])
    assert "again/05.nii.gz" in rows["again/05.nii.gz"]["reason"]


def test_a_job_array_does_what_its_script_says(base, command, tmp_path):
    """The words of each task as bash makes them of the script, with the task's number in the environment."""
    out = tmp_path / "with space/out"
    said = command("predict", base / "bundle", base / "scans", "-o", out, "--write-sbatch", "2", *("--also", "xlsx"))
    assert (said.code, said.out.strip()) == (0, str(out / "predict.sbatch"))
    script = (out / "predict.sbatch").read_text()
    assert "#SBATCH --array=1-2\n" in script
    merge_line = next(line for line in script.splitlines() if " merge " in line).removeprefix("#   ")

    def type_in(line: str, task: str = "") -> int:
        shown = subprocess.run(
            ["bash", "-c", f"printf '%s\\n' {line}"],
            env={**os.environ, "SLURM_ARRAY_TASK_ID": task},
            capture_output=True,
            text=True,
            check=True,
        )
        assert shown.stdout.split("\n")[:3] == [sys.executable, "-m", "med_transfer"]
        return command(*shown.stdout.splitlines()[3:]).code

    for task in ("1", "2"):
        assert type_in(script.splitlines()[-1].removeprefix("exec "), task) in (0, 1)
    assert type_in(merge_line) == 1  # one scan is damaged
    merged = tmp_path / "with space/out-merged/predictions.csv"
    assert merged.with_suffix(".xlsx").exists()
    assert but_for_seconds(merged) == but_for_seconds(base / "whole/predictions.csv")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--write-sbatch", "2", "--shard", "1/2"), "--write-sbatch with --shard; expected --write-sbatch without"),
        (("--write-sbatch", "2", "--engine", "ray"), "--write-sbatch with --engine ray"),
        (("--write-sbatch", "2", "--ray-address", "a:1"), "--ray-address: given without --engine ray"),
        (("--watch", "--write-sbatch", "2"), "--watch with --write-sbatch; expected --watch without"),
        (("--watch", "--roi", "1,2,3,4", "--shard", "1/2"), "--watch with --roi, --shard"),
        (("--watch", "--mask", "m.nii"), "--watch with --mask"),
        (("--quiet-seconds", "5"), "--quiet-seconds: given without --watch; expected both, or none"),
        (("--poll-seconds", "5"), "--poll-seconds: given without --watch"),
        (("--watch", "--poll-seconds", "0"), "poll_seconds: 0; expected seconds, more than 0"),
        (("--roi", "1,2"), "--roi: '1,2'; expected x,y,z,size in mm"),
    ],
)
def test_options_that_would_do_nothing_are_refused_before_the_bundle_is_read(command, tmp_path, words, message):
    outcome = command("predict", tmp_path / "nowhere", tmp_path, "-o", tmp_path / "out", *words)
    assert (outcome.code, message in outcome.err, (tmp_path / "out").exists()) == (2, True, False), outcome.err


def test_a_script_is_told_as_json_too(base, command):
    words = ("predict", base / "bundle", base / "scans", "-o", base / "slurm", "--write-sbatch", "2", "--json")
    assert json.loads(command(*words).out) == {"script": str(base / "slurm/predict.sbatch")}
