"""``med-transfer evaluate``: subgroups of the cohort that is judged."""

from __future__ import annotations

import json

from command_line import Command, FinishedRun


def test_subgroups_are_those_that_were_asked_for(command: Command, finished: FinishedRun, unseen_csv, tmp_path):
    words = ("evaluate", finished.bundle, unseen_csv, "-o", tmp_path / "out")
    outcome = command(*words, "--subgroups", "sex, kernel", "--json")
    metrics = json.loads(outcome.out)
    assert outcome.code == 0, outcome.err
    assert list(metrics["subgroups"]) == list(metrics["subgroup_tests"]) == ["sex", "kernel"]
    assert sum(group["n"] for group in metrics["subgroups"]["sex"].values()) == 6
    assert metrics["subgroup_tests"]["sex"]["reason"] == "fewer than two subgroups of at least 10 patients"
    refused = command(*words, "--subgroups", "sexx")
    assert (refused.code, "subgroup column 'sexx' is not in the table" in refused.err) == (2, True)
    assert "Did you mean sex?" in refused.err
