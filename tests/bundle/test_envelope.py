"""The input envelope: a scan's facts, how often similar scans fall outside, and what is said of those that do."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from med_transfer.bundle.envelope import FALSE_ALARMS, InputEnvelope, fit_limits
from med_transfer.cohorts.input_facts import input_facts
from med_transfer.errors import InputRejected
from med_transfer.errors.sentence import Sentence
from med_transfer.scans import Volume
from med_transfer.scans.volume import Provenance

LENGTHS = ("column_mm", "row_mm", "slice_mm", "width_mm", "height_mm", "depth_mm")


def volume(sd_hu: float = 20.0, seed: int = 0, spacing=(0.7, 0.7, 2.5), **stated) -> Volume:
    voxels = np.random.default_rng(seed).normal(0, sd_hu, (24, 48, 40)).astype(np.float32)
    voxels[:, :, :20] -= 900
    provenance = Provenance(Path("scan.nii.gz"), "nifti", **stated)
    return Volume(voxels, np.diag([*spacing, 1.0]), provenance)


def like(n: int, rng: np.random.Generator) -> list[dict[str, str | float]]:
    """Facts that hang together, with tails, as of scans from several protocols."""
    protocol = rng.normal(size=(n, 1))
    drawn = 0.7 * protocol + rng.standard_t(5, size=(n, 10))
    names = (*LENGTHS, "value_p01", "value_p50", "value_p99", "noise")
    scale = [*(lambda z: float(np.exp(0.3 * z)),) * 6, *(lambda z: 100 * z,) * 3, lambda z: float(10 * np.exp(0.3 * z))]
    return [
        {name: float(make(z)) for name, make, z in zip(names, scale, row, strict=True)} | {"plane": "axial"}
        for row in drawn + np.array([0, 0, 0, 0, 0, 0, -10, 0, 3, 0])
    ]


def envelope(facts, patients=None) -> InputEnvelope:
    patients = patients or [f"p{n}" for n in range(len(facts))]
    return InputEnvelope(
        spacing_mm_low=(1, 1, 1), spacing_mm_high=(2, 2, 2), n_scans=len(facts), **fit_limits(facts, patients)
    )


def test_facts_of_a_scan():
    facts = input_facts(volume(20.0, modality="CT", acquisition={"BodyPartExamined": "thorax"}))
    assert [facts[name] for name in LENGTHS] == pytest.approx([0.7, 0.7, 2.5, 28.0, 33.6, 60.0])
    assert (facts["modality"], facts["body_part"], facts["plane"]) == ("CT", "CHEST", "axial")
    assert facts["noise"] == pytest.approx(20, rel=0.1)
    assert facts["value_p01"] < -920 < 30 < facts["value_p99"]
    assert input_facts(volume(40.0))["noise"] == pytest.approx(40, rel=0.1)
    assert "modality" not in input_facts(volume())
    flat = replace(volume(), voxels=np.full((8, 8, 8), -1000, np.int16))
    assert input_facts(flat)["noise"] == 0


@pytest.mark.parametrize("n", [30, 120])
def test_all_facts_together_raise_no_more_false_alarms_than_stated(n):
    alarms, stated = [], max(FALSE_ALARMS, 1 / (n + 1))
    for seed in range(20):
        rng = np.random.default_rng(seed)
        fitted = envelope(like(n, rng))
        assert fitted.false_alarms == stated
        alarms.append(np.mean([bool(fitted.outside(scan)) for scan in like(200, rng)]))
    assert np.mean(alarms) <= stated + 0.01
    limits_each = np.quantile([[s[name] for name in fitted.numbers] for s in like(2000, rng)], [0.025, 0.975], axis=0)
    each = [
        any(not a <= s[k] <= b for k, a, b in zip(fitted.numbers, *limits_each, strict=True)) for s in like(500, rng)
    ]
    assert np.mean(each) > 0.2  # the cost of a separate limit for each fact


def test_a_scan_outside_is_named_by_fact_with_its_limits():
    fitted = envelope([input_facts(volume(20.0 + n % 5, n)) for n in range(20)])
    assert fitted.outside(input_facts(volume(22.0, 99))) == {}
    assert "outside_noise" in fitted.outside(input_facts(volume(90.0)))
    thick = fitted.outside(input_facts(volume(spacing=(0.7, 0.7, 9.0))))
    assert list(thick) == ["outside_slice_mm", "outside_depth_mm"]
    said = thick["outside_slice_mm"]
    assert isinstance(said, Sentence)
    assert said.startswith("slice_mm 9 lies outside of 2.")
    assert fitted.outside(input_facts(volume(spacing=(0.72, 0.72, 2.5)))) == {}  # constant facts may vary by a tenth
    eight_bit = volume()
    eight_bit = replace(eight_bit, voxels=np.clip((eight_bit.voxels + 1000) / 8, 0, 255))
    assert "outside_value_p01" in fitted.outside(input_facts(eight_bit))


def test_body_part_and_modality_are_held_against_those_of_training_where_all_state_them():
    stated = [input_facts(volume(seed=n, modality="CT", acquisition={"BodyPartExamined": "CHEST"})) for n in range(12)]
    fitted = envelope(stated)
    other = input_facts(volume(modality="CT", acquisition={"BodyPartExamined": "HEAD"}))
    assert fitted.outside(other)["outside_body_part"] == "body_part HEAD: the development scans are CHEST"
    wide = input_facts(volume(modality="CT", acquisition={"BodyPartExamined": "CHESTABDPELVIS"}))
    assert fitted.outside(wide) == fitted.outside(input_facts(volume())) == {}
    assert "outside_modality" in fitted.outside(input_facts(volume(modality="OCT")))  # whose letters are in it
    mr = input_facts(volume(modality="MR"))
    with pytest.raises(InputRejected, match=r"^scan\.dcm: modality MR; expected CT, as the development scans"):
        fitted.require_modality(mr, "scan.dcm")
    assert envelope([*stated, input_facts(volume(modality="CT"))]).texts.keys() == {"modality", "plane"}
    one_of_its_kind = [*stated, input_facts(volume(modality="MR", acquisition={"BodyPartExamined": "CHEST"}))]
    assert "modality" not in envelope(one_of_its_kind).texts


def test_an_envelope_of_an_older_bundle_has_no_limits():
    old = InputEnvelope(spacing_mm_low=(1, 1, 1), spacing_mm_high=(2, 2, 2), n_scans=9)
    assert old.outside(input_facts(volume(500.0, modality="MR"))) == {}


def test_scans_of_which_a_number_is_not_known_give_no_limits():
    """As those that an older version prepared."""
    facts, patients = [input_facts(volume(seed=n)) for n in range(4)], list("abcd")
    assert fit_limits(facts, patients).keys() == {"numbers", "texts", "false_alarms"}
    del facts[2]["noise"]
    assert fit_limits(facts, patients) == {}
