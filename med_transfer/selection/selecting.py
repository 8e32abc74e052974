"""The selection job: from a cohort to a ranking of backbones and a recommendation with its reason."""

from __future__ import annotations

import reprlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from med_transfer.atomic.sole_writer import sole_writer
from med_transfer.bundle.provenance import seen_in_training, source_provenance
from med_transfer.cohorts import Cohort, Images, split_cohort
from med_transfer.errors import BackboneError, ConfigError, PatientLeak, UsageError, given_path
from med_transfer.finetuning import FinetuneConfig
from med_transfer.finetuning.config import BackboneConfig
from med_transfer.finetuning.data_setup import resolve_preprocessing
from med_transfer.finetuning.split_choice import choose_by_table
from med_transfer.progress import Progress, silent
from med_transfer.selection.candidates import Candidate, Candidates, find_candidates
from med_transfer.selection.features import StageFeatures
from med_transfer.selection.measures.leep import leep
from med_transfer.selection.measuring import (
    MeasuredLayer,
    domain_gap,
    joined_features,
    layers_of,
    measure_layers,
    over_labels,
    require_finite,
)
from med_transfer.selection.ranking import rank
from med_transfer.selection.reasons import choose_backbone_to_try, recommend
from med_transfer.selection.record import BackboneScore, Cost, DomainGap, Selection, Stages
from med_transfer.selection.report import write_selection
from med_transfer.selection.source import other_input, source_features, source_head, why_unknown
from med_transfer.selection.target import Groups, Target, read_target

MAX_SECONDS = 1800.0  # on a CPU, for a network on tiles that was not named explicitly


def select(
    cohort: Cohort,
    config: FinetuneConfig,
    out: Path | str,
    names: Sequence[str] | None = None,
    weights: Sequence[tuple[str, Path | str]] = (),
    progress: Progress = silent,
) -> Selection:
    """Rank all backbones with available weights on the training folds of a cohort, and write the result.

    Args:
        cohort: the labelled table; scans that ``finetune`` would keep for testing are shown to no network.
        config: of the run that is to follow; its input, split and seed are used.
        out: folder for selection.json, selection.md and the features; with the same folder no scan is read again.
        names: only these backbones; None: all, except networks on tiles that would take over half an hour on a CPU.
        weights: backbone and path of your own weights: a file, a bundle or a run folder.
        progress: reports progress.

    Raises:
        CohortError: the cohort cannot be split, or leaks.
        BackboneError: no weights are available, or those named or given cannot be used.
        ConfigError: a backbone does not support the input, or lacks the pooled stages.
        NothingDone: no scan can be used.
        OutputError: a result cannot be written.
    """
    out, config = Path(out), choose_by_table(config, cohort)
    split_cohort(cohort, config.split)  # errors are reported before any weights are opened
    paths = _given_weights(weights)
    backbone = config.backbone
    candidates = find_candidates(
        names, paths, backbone.accept_licence, config.input.channels_of_network, backbone.instances
    )
    candidates = _fitting(candidates, config, named=names is not None)
    candidates = _without_leaks(candidates, cohort, [()] * len(cohort))  # by patient, before anything is read
    if names is None:
        candidates = affordable(candidates, config, len(cohort))
    groups = _groups(candidates.ready, config)
    with sole_writer(out, "a ranking of backbones"):
        target = read_target(cohort, config, groups, out / "cache", progress)
        candidates = _without_leaks(candidates, target.cohort, target.hashes)
        candidates = _with_finite_features(candidates, target, named=names is not None)
        controls: dict[str, list[MeasuredLayer]] = {}
        scores = []
        for number, candidate in enumerate(candidates.ready, start=1):
            progress("measures", number - 1, len(candidates.ready), candidate.name)
            scores.append(_score(candidate, target, config, controls))
        progress("measures", len(candidates.ready), len(candidates.ready))
        selection = _selection(scores, candidates.left_out, target, config.backbone, out)
        write_selection(selection, config)
    return selection


def _given_weights(weights: Sequence[tuple[str, Path | str]]) -> list[tuple[str, Path]]:
    """Backbone and path of the weights that a caller gave. Raises UsageError."""
    expected = "pairs of a backbone and the path of its weights"
    if isinstance(weights, str) or any(isinstance(pair, str) or len(pair) != 2 for pair in weights):
        raise UsageError(f"found {reprlib.repr(weights)}", where="weights", expected=expected)
    return [(name, given_path(path, "weights", expected)) for name, path in weights]


def _fitting(candidates: Candidates, config: FinetuneConfig, *, named: bool) -> Candidates:
    """Candidates that support the config's input and have its stages. Raises ConfigError, see :func:`_filtered`."""

    def check(candidate: Candidate) -> None:
        layers_of(candidate.spec, config.backbone.pooled_stages)
        resolve_preprocessing(candidate.spec, config)

    return _filtered(candidates, check, ConfigError, named=named)


def _filtered(
    candidates: Candidates,
    check: Callable[[Candidate], None],
    refusal: type[ConfigError | BackboneError],
    *,
    named: bool,
) -> Candidates:
    """Candidates that pass a check; the others are left out with the reason, unless they were named or given.

    Raises:
        ConfigError, BackboneError: a candidate that was named or given is refused, or all are.
    """
    ready, left_out = [], dict(candidates.left_out)
    for candidate in candidates.ready:
        try:
            check(candidate)
            ready.append(candidate)
        except refusal as error:
            last = candidate is candidates.ready[-1] and not ready
            if named or candidate.weights is not None or last:
                raise
            left_out[candidate.name] = str(error)
    return Candidates(tuple(ready), left_out)


def affordable(candidates: Candidates, config: FinetuneConfig, n_scans: int) -> Candidates:
    """Candidates without networks on tiles that would take a CPU longer than ``MAX_SECONDS``; all on a GPU.

    The estimate is from one timed tile; every tile passes through the network and through its random twin. Networks
    with given weights are kept, and so are all if none would remain.
    """
    if torch.cuda.is_available():
        return candidates
    left_out = dict(candidates.left_out)
    for candidate in candidates.ready:
        if candidate.spec.instances == "tiles" and candidate.weights is None:
            shape = resolve_preprocessing(candidate.spec, config).shape
            hours = 2 * n_scans * _seconds_of_scan(candidate, shape) / 3600
            if 3600 * hours > MAX_SECONDS:
                left_out[candidate.name] = (
                    f"it would take about {hours:.1f} h for {n_scans} scans on this machine; name it to rank it too"
                )
    ready = tuple(candidate for candidate in candidates.ready if candidate.name not in left_out)
    return Candidates(ready, left_out) if ready else candidates


def _seconds_of_scan(candidate: Candidate, shape: tuple[int, int, int]) -> float:
    encoder = candidate.network.load()
    boxes = encoder.cuts(shape)
    tile = torch.rand(1, candidate.spec.input.channels, *(side.stop - side.start for side in boxes[0]))
    started = time.perf_counter()
    with torch.inference_mode():
        encoder(tile)
    return (time.perf_counter() - started) * len(boxes)


def _groups(candidates: Sequence[Candidate], config: FinetuneConfig) -> Groups:
    """Networks grouped by their input, so that a scan is read once for all networks of a group."""
    groups: Groups = {}
    for candidate in candidates:
        networks = groups.setdefault(resolve_preprocessing(candidate.spec, config), [])
        networks += [
            network for network in (candidate.network, candidate.control(config.seed)) if network not in networks
        ]
    return groups


def _without_leaks(candidates: Candidates, cohort: Cohort, hashes: Sequence[Images]) -> Candidates:
    """Candidates that were not trained on these patients, whose results would be too optimistic.

    Raises:
        PatientLeak: none remains.
    """
    ready, left_out = [], dict(candidates.left_out)
    for candidate in candidates.ready:
        seen = seen_in_training(source_provenance(candidate.weights), cohort, hashes)
        if seen:
            left_out[candidate.name] = f"it was trained on {len(seen)} of these scans or their patients"
        else:
            ready.append(candidate)
    if not ready:
        name, reason = next(iter(left_out.items()))
        raise PatientLeak(
            f"{name}: {reason}",
            where=cohort.path or "",
            expected="a source that never saw these patients",
            action="Nothing else is left to rank; give other weights",
        )
    return Candidates(tuple(ready), left_out)


def _with_finite_features(candidates: Candidates, target: Target, *, named: bool) -> Candidates:
    """Candidates whose features are finite for every scan. Raises BackboneError, see :func:`_filtered`."""

    def check(candidate: Candidate) -> None:
        require_finite(candidate.name, target.features[candidate.network.key], target.cohort)

    return _filtered(candidates, check, BackboneError, named=named)


def _score(
    candidate: Candidate, target: Target, config: FinetuneConfig, controls: dict[str, list[MeasuredLayer]]
) -> BackboneScore:
    layers = layers_of(candidate.spec, config.backbone.pooled_stages)
    control, features = candidate.control(config.seed), target.features[candidate.network.key]
    measured = measure_layers(features, layers, target)
    if control.key not in controls:
        controls[control.key] = measure_layers(target.features[control.key], layers, target)
    random, best = controls[control.key], measured[0]
    gain, gain_standard_error = best.probe.minus(random[0].probe)
    return BackboneScore(
        name=candidate.name,
        backbone=candidate.spec.name,
        weights=str(candidate.weights) if candidate.weights else None,
        sha256=candidate.sha256,
        licence=candidate.spec.licence,
        commercial_use=candidate.spec.commercial_use,
        best=best.score,
        layers=_scores_by_depth(measured),
        random_best=random[0].score,
        random_layers=_scores_by_depth(random),
        gain=gain,
        gain_standard_error=gain_standard_error,
        leep=_leep(candidate, features, target),
        gap=_gap(candidate, features, best.score.stages, target, config),
        cost=_cost(candidate, features),
    )


def _scores_by_depth(measured: Sequence[MeasuredLayer]) -> tuple:
    return tuple(sorted((layer.score for layer in measured), key=lambda score: (len(score.stages), score.stages)))


def _leep(candidate: Candidate, features: Sequence[StageFeatures], target: Target) -> float | None:
    head = source_head(candidate)
    if head is None:
        return None
    return over_labels(leep, head.probabilities(joined_features(features, head.stages)), target)


def _gap(
    candidate: Candidate, features: Sequence[StageFeatures], best: Stages, target: Target, config: FinetuneConfig
) -> DomainGap:
    source, reason = source_features(candidate), why_unknown(candidate)
    gap = domain_gap(features, best, source, target.cohort.patients, reason, target.seed)
    return replace(gap, other_input=other_input(candidate, source, resolve_preprocessing(candidate.spec, config)))


def _cost(candidate: Candidate, features: Sequence[StageFeatures]) -> Cost:
    seconds = [of_scan.seconds for of_scan in features if of_scan.seconds is not None]
    return Cost(
        seconds_per_scan=float(np.median(seconds)) if seconds else None,
        parameters_mib=candidate.spec.parameters * 4 / 2**20,
        activations_mib=features[0].activations_mib,
        device=features[0].device,
    )


def _selection(
    scores: Sequence[BackboneScore], left_out: dict[str, str], target: Target, start: BackboneConfig, out: Path
) -> Selection:
    contenders = {score.criteria: score for score in scores}
    ranking = tuple(contenders[criteria] for criteria in rank(list(contenders), target.n_patients))
    recommended, reason = recommend(ranking, target.n_patients, start)
    attempt = choose_backbone_to_try(ranking, start) if recommended is None else None
    labels = target.cohort.labels
    return Selection(
        ranking=ranking,
        recommended=recommended,
        to_try=attempt.name if attempt else None,
        reason=reason,
        left_out=left_out,
        classes=labels.names,
        multilabel=labels.multilabel,
        n_scans=len(target.cohort),
        n_patients=target.n_patients,
        n_folds=len(set(target.folds.tolist())),
        failed=target.failed,
        folder=out,
    )
