"""Which measure of novelty distinguishes scans of another kind from held-out scans of the same kind, on real scans.

    MED_TRANSFER_DATA=FOLDER OMP_NUM_THREADS=1 python benchmarks/novelty.py nodules --out runs/novelty
    MED_TRANSFER_DATA=FOLDER OMP_NUM_THREADS=1 python benchmarks/novelty.py heads --out runs/novelty

``nodules``: LIDC nodule crops with med-transfer-small at 16 x 32 x 32; ``heads``: whole head CT with
slices-efficientnet-lite0. The encoders are frozen, as in ``transfer.strategy=linear_probe``, so the features are those
of the bundle whatever its labels. Settings of a measure (how many neighbours, which stages) are chosen on the tuning
sets and the tuning patients alone, by the mean AUROC; results are reported for other patients and other sets.

Each of ``--splits`` splits draws a third of the patients as held-out scans; the others are development scans in five
folds, each ranked by a measure fitted on the other four, as in a run. A scan's novelty is the mean of its five ranks,
and the scan is abstained on above 0.95. AUROC: of the distance, held-out scans against the set. Intervals: 2.5th to
97.5th percentile over the splits, each with its held-out patients and the set's scans drawn with replacement.
``envelope``: outside the limits set by the development scans (med_transfer/bundle/envelope.py).
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from lidc_crops import TUNING_SEED
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score

from med_transfer.backbones import load_backbone
from med_transfer.bundle import InputEnvelope
from med_transfer.bundle.envelope import fit_limits
from med_transfer.cohorts.input_facts import input_facts
from med_transfer.model.features import stage_features
from med_transfer.model.novelty import STATISTICS, Novelty, input_statistics
from med_transfer.preprocessing import Preprocessing, PreprocessingConfig
from med_transfer.scans import Volume, find_series, read_scan

Features = NDArray[np.float64]
Score = Callable[[Features], NDArray[np.float64]]
Fit = Callable[[Features, NDArray, Features], Score]  # development features and labels, held-out features
FOLDS, ABSTAIN_ABOVE, TUNING_SHARE = 5, 0.95, 0.3
TASKS = {
    "nodules": ("med-transfer-small", {"shape": (16, 32, 32)}),
    "heads": ("slices-efficientnet-lite0", {"shape": (24, 224, 224), "spacing_mm": None, "fit": "proportional"}),
}
TUNING_SETS = ("sarcoma, tuning", "noise 100 HU", "units +1024", "spacing x2 in plane")


# Scans of another kind


def changed(volume: Volume, voxels: NDArray) -> Volume:
    return replace(volume, voxels=voxels.astype(np.float32))


def with_noise(volume: Volume, sd_hu: float, rng: np.random.Generator) -> Volume:
    return changed(volume, volume.voxels + rng.normal(0, sd_hu, volume.voxels.shape))


def eight_bit(volume: Volume) -> Volume:
    return changed(volume, np.rint((np.clip(volume.voxels, -1000, 1000) + 1000) / 2000 * 255))


def air(volume: Volume, rng: np.random.Generator) -> Volume:
    return changed(volume, rng.normal(-1000, 10, volume.voxels.shape))


def noise_alone(volume: Volume, rng: np.random.Generator) -> Volume:
    return changed(volume, rng.uniform(-1000, 1000, volume.voxels.shape))


def rescaled(volume: Volume, factors: tuple[float, float, float]) -> Volume:
    """The same voxels with a wrong spacing (column, row, slice)."""
    affine = volume.affine.copy()
    affine[:3, :3] *= factors
    return replace(volume, affine=affine)


def thicker(volume: Volume) -> Volume:
    """Every other voxel along each axis, as a scan at twice the spacing would have."""
    affine = volume.affine.copy()
    affine[:3, :3] *= 2
    return replace(volume, affine=affine, voxels=ndimage.uniform_filter(volume.voxels.astype(float), 2)[::2, ::2, ::2])


def corruptions(volume: Volume, rng: np.random.Generator) -> dict[str, Volume]:
    return {
        "flipped left-right": changed(volume, volume.voxels[:, :, ::-1]),
        "flipped up-down": changed(volume, volume.voxels[::-1]),
        "axes exchanged": changed(volume, np.rot90(volume.voxels, axes=(1, 2))),
        "8-bit values": eight_bit(volume),
        "units +1024": changed(volume, volume.voxels + 1024.0),
        "noise 100 HU": with_noise(volume, 100, rng),
        "noise 300 HU": with_noise(volume, 300, rng),
        "noise alone": noise_alone(volume, rng),
        "air": air(volume, rng),
        "every other voxel": thicker(volume),
        "spacing x2 in plane": rescaled(volume, (2, 2, 1)),
    }


def places(volume: Volume, sizes_mm: NDArray, n: int, rng: np.random.Generator) -> Iterator[Volume]:
    """Boxes in the body (above -300 HU), with sizes drawn from those of the development scans."""
    body = np.argwhere(ndimage.uniform_filter(volume.voxels.astype(np.float32), 5) > -300)
    for centre in body[rng.choice(len(body), n)]:
        size = np.maximum(2, np.rint(sizes_mm[rng.integers(len(sizes_mm))] / volume.spacing_mm)).astype(int)[::-1]
        first = np.clip(centre - size // 2, 0, np.maximum(0, np.array(volume.voxels.shape) - size))
        box = tuple(slice(a, a + s) for a, s in zip(first, size, strict=True))
        yield replace(volume, voxels=volume.voxels[box])


def extent_mm(volume: Volume) -> NDArray[np.float64]:
    return np.array(volume.spacing_mm) * volume.voxels.shape[::-1]


def other_kinds(task: str, data: Path, own: list[Volume], rng: np.random.Generator) -> Iterator[tuple[str, Volume]]:
    """Name of the set and scan, one at a time."""
    sizes = np.array([extent_mm(volume) for volume in own])
    abdomen = read_scan(data / "dicom" / "ct_abdomen_crlm_1004" / "image")
    sarcoma = sorted((data / "sts_ct").glob("*.nii.gz"))
    brains = sorted((data / "brain_mr" / "scans").glob("*flair.nii.gz"))[::4]
    heads = sorted((data / "head_ct" / "scans").glob("*.nii.gz"))
    nodules = sorted((data / "lidc_nodules" / "scans").glob("*.nii.gz"))[::36]
    whole = {"brain MR": brains} | ({"whole head CT": heads} if task == "nodules" else {"nodule crops": nodules})
    for number, path in enumerate(sarcoma if task == "nodules" else sarcoma[::2]):
        volume, name = read_scan(path), "sarcoma, tuning" if number % 2 else "sarcoma"
        yield from ((name, one) for one in (places(volume, sizes, 4, rng) if task == "nodules" else [volume]))
    if task == "nodules":
        yield from (("abdomen", one) for one in places(abdomen, sizes, 60, rng))
        for path in heads[::2]:
            yield from (("places in head CT", one) for one in places(read_scan(path), sizes, 3, rng))
    else:
        yield "abdomen", abdomen
        series = find_series(data / "dicom" / "ct_jpeg2000_20_slices")[0]
        yield "abdomen", read_scan(series)
    for name, paths in whole.items():
        yield from ((name, read_scan(path)) for path in paths)
    for number in rng.choice(len(own), min(len(own), 120 if task == "nodules" else 8), replace=False):
        yield from corruptions(own[number], rng).items()


def own_scans(task: str, data: Path) -> tuple[list[Volume], NDArray]:
    folder = data / ("lidc_nodules" if task == "nodules" else "head_ct")
    table = pd.read_csv(folder / ("labels.csv" if task == "nodules" else "cohort.csv"))
    labels = table["texture" if task == "nodules" else "label"]
    return [read_scan(folder / name) for name in table["scan"]], np.array([table["patient"], labels], str)


# Features


@torch.inference_mode()
def prepare(task: str, data: Path, path: Path) -> None:
    """Features of every stage and statistics of the input for all scans, as one file."""
    name, changes = TASKS[task]
    loaded = load_backbone(name)
    to_input = Preprocessing(PreprocessingConfig(**(loaded.spec.input.preprocessing | changes)))
    encoder = loaded.encoder.eval()
    own, (patients, labels) = own_scans(task, data)
    kinds = [("own", volume) for volume in own]
    found, names, facts = [], [], []
    for kind, volume in (*kinds, *other_kinds(task, data, own, np.random.default_rng(TUNING_SEED))):
        image = to_input(volume)
        maps = encoder(image[None])
        found.append([*(stage[0] for stage in stage_features(encoder, maps)), input_statistics(image[None])[0].numpy()])
        names.append(kind)
        facts.append(json.dumps(input_facts(volume)))
    parts = {f"part{number}": np.stack(part) for number, part in enumerate(zip(*found, strict=True))}
    np.savez(path, kinds=names, facts=facts, patients=patients, labels=labels, **parts)  # pyright: ignore[reportArgumentType]


# Measures: fitted on development features, they return a distance


def standardised(features: Features) -> tuple[Features, Score]:
    mean, sd = features.mean(0), features.std(0) + 1e-6
    return (features - mean) / sd, lambda other: (other - mean) / sd


def of_features(features: Features, labels: NDArray, held_out: Features) -> Score:
    """The measure of bundles before input statistics were added: a low-rank Gaussian of the features."""
    novelty = Novelty(features.shape[1]).fit(torch.from_numpy(features).float(), torch.from_numpy(held_out).float())
    return lambda other: novelty.distance(torch.from_numpy(other)).numpy()


def and_input(of: Fit) -> Fit:
    """That measure's distance plus the input's, each in units of the value that 95 % of held-out scans stay below."""

    def fit(features: Features, labels: NDArray, held_out: Features) -> Score:
        parts = [(slice(None, -STATISTICS), of), (slice(-STATISTICS, None), of_input)]
        scores = [(part, one(features[:, part], labels, held_out[:, part])) for part, one in parts]
        units = [np.quantile(score(held_out[:, part]), 0.95) for part, score in scores]
        return lambda other: np.sum(
            [score(other[:, part]) / unit for (part, score), unit in zip(scores, units, strict=True)], axis=0
        )

    return fit


def of_input(features: Features, labels: NDArray, held_out: Features) -> Score:
    novelty = Novelty(1, STATISTICS)
    training, others = (torch.from_numpy(part).float() for part in (features, held_out))
    novelty.fit(torch.zeros(len(training), 1), torch.zeros(len(others), 1), (training, others))
    return lambda other: novelty.input_distance(torch.from_numpy(other).float()).double().numpy()


def mahalanobis(features: Features, labels: NDArray, held_out: Features) -> Score:
    scaled, scale = standardised(features)
    return _after(scale, LedoitWolf().fit(scaled).mahalanobis)


def relative(features: Features, labels: NDArray, held_out: Features) -> Score:
    """Distance to the nearest class minus that to all (Ren et al. 2021, arXiv:2106.09022)."""
    scaled, scale = standardised(features)
    means = np.stack([scaled[labels == name].mean(0) for name in np.unique(labels)])
    index = np.searchsorted(np.unique(labels), labels)
    within, background = LedoitWolf().fit(scaled - means[index]), LedoitWolf().fit(scaled)

    def score(other: Features) -> NDArray[np.float64]:
        z = scale(other)
        nearest = np.min([within.mahalanobis(z - mean) for mean in means], axis=0)
        return nearest - background.mahalanobis(z)

    return score


def neighbours(k: int, unit: bool) -> Fit:
    """Distance to the k-th nearest development scan (Sun et al. 2022, arXiv:2204.06507), normalised or raw features."""

    def fit(features: Features, labels: NDArray, held_out: Features) -> Score:
        scaled, scale = standardised(features)
        known = _unit(scaled) if unit else scaled

        def score(other: Features) -> NDArray[np.float64]:
            z = _unit(scale(other)) if unit else scale(other)
            squared = (z**2).sum(1)[:, None] + (known**2).sum(1) - 2 * z @ known.T
            return np.partition(squared, k - 1, axis=1)[:, k - 1]

        return score

    return fit


def small_norm(features: Features, labels: NDArray, held_out: Features) -> Score:
    return lambda other: -np.linalg.norm(other, axis=1)


def _unit(z: Features) -> Features:
    return z / (np.linalg.norm(z, axis=1, keepdims=True) + 1e-9)


def _after(scale: Score, score: Score) -> Score:
    return lambda other: score(scale(other))


def candidates(n_stages: int) -> dict[str, list[tuple[str, tuple[int, ...], Fit]]]:
    """For each measure the settings to choose from: description, parts of the features, and how it is fitted."""
    deep = (n_stages - 2, n_stages - 1) if n_stages > 1 else (0,)
    every, inputs = tuple(range(n_stages)), (n_stages,)
    which = {"deepest": (n_stages - 1,), "two deepest": deep, "all": every, "shallow half": every[: n_stages // 2]}
    which = {f"{words} stages": parts for words, parts in which.items() if parts}

    def each(fit: Fit) -> list[tuple[str, tuple[int, ...], Fit]]:
        return [(words, parts, fit) for words, parts in which.items()]

    near = [(k, unit) for k in (1, 10) for unit in (False, True)]
    neighbour_settings = [
        (f"{words}, k {k}{', unit' * unit}", parts, neighbours(k, unit))
        for words, parts in which.items()
        for k, unit in near
    ]
    alone = {
        "features": [("pooled stages", deep, of_features)],
        "Mahalanobis": each(mahalanobis),
        "relative Mahalanobis": each(relative),
        "neighbours": neighbour_settings,
        "feature norm": each(small_norm),
        "input": [("", inputs, of_input)],
    }
    both = {
        f"{name} + input": [(words, parts + inputs, and_input(fit)) for words, parts, fit in alone[name]]
        for name in ("features", "Mahalanobis", "neighbours")
    }
    return alone | both


# Measuring


class Measured:
    """AUROC and share abstained on for each set, over splits."""

    def __init__(self, arrays: dict[str, NDArray], tuning: bool, splits: int) -> None:
        self.arrays, self.splits = arrays, splits
        kinds = arrays["kinds"]
        chosen = np.random.default_rng(TUNING_SEED).permutation(np.unique(arrays["patients"]))
        n_tuning = round(TUNING_SHARE * len(chosen))
        self.patients = chosen[:n_tuning] if tuning else chosen[n_tuning:]
        self.sets = [name for name in dict.fromkeys(kinds) if name != "own" and (name in TUNING_SETS) == tuning]

    def run(self, parts: tuple[int, ...], fit: Fit) -> dict[str, NDArray[np.float64]]:
        """Name to [split, (AUROC, share abstained on)]; ``own`` has the share alone."""
        features = np.concatenate([self.arrays[f"part{part}"] for part in parts], axis=1).astype(float)
        results: dict[str, list] = {}
        for seed in range(self.splits):
            for name, pair in self._split(features, fit, np.random.default_rng(seed)).items():
                results.setdefault(name, []).append(pair)
        return {name: np.array(pairs) for name, pairs in results.items()}

    def drawn(self, rng: np.random.Generator) -> tuple[NDArray, dict[str, NDArray]]:
        """Development patients, and the rows of held-out scans (``own``) and of each set, with replacement."""
        own = np.flatnonzero(self.arrays["kinds"] == "own")
        shuffled = rng.permutation(self.patients)
        held, development = shuffled[: len(shuffled) // 3], shuffled[len(shuffled) // 3 :]
        sets = {name: np.flatnonzero(self.arrays["kinds"] == name) for name in self.sets}
        drawn = [own[self.arrays["patients"] == one] for one in rng.choice(held, len(held))]
        return development, {
            "own": np.concatenate(drawn),
            **{name: rng.choice(index, len(index)) for name, index in sets.items()},
        }

    def _split(self, features: Features, fit: Fit, rng: np.random.Generator) -> dict[str, tuple[float, float]]:
        own = np.flatnonzero(self.arrays["kinds"] == "own")
        of_patient, labels = self.arrays["patients"], self.arrays["labels"]
        development, rows = self.drawn(rng)
        drawn = rows["own"]
        everything = np.concatenate(list(rows.values()))
        ranks, distances = np.zeros(len(everything)), np.zeros(len(everything))
        for fold in np.array_split(development, FOLDS):
            validation = own[np.isin(of_patient, fold)]
            training = own[np.isin(of_patient, np.setdiff1d(development, fold))]
            score = fit(features[training], labels[training], features[validation])
            reference, seen = np.sort(score(features[validation])), score(features[everything])
            ranks += np.searchsorted(reference, seen) / len(reference) / FOLDS
            distances += seen / FOLDS
        ends = np.cumsum([len(index) for index in rows.values()])[:-1]
        by_set = zip(rows, np.split(distances, ends), np.split(ranks, ends), strict=True)
        mine = distances[: len(drawn)]
        return {
            name: (
                roc_auc_score(np.r_[np.zeros(len(mine)), np.ones(len(far))], np.r_[mine, far]),
                float((rank > ABSTAIN_ABOVE).mean()),
            )
            for name, far, rank in by_set
        }


def outside_envelope(measured: Measured) -> dict[str, NDArray[np.float64]]:
    """As :meth:`Measured.run`, with the share outside the envelope instead of the share abstained on."""
    facts, own = [json.loads(text) for text in measured.arrays["facts"]], measured.arrays["kinds"] == "own"
    results: dict[str, list] = {}
    for seed in range(measured.splits):
        development, rows = measured.drawn(np.random.default_rng(seed))
        known = np.flatnonzero(own)[np.isin(measured.arrays["patients"], development)]
        limits = fit_limits([facts[i] for i in known], measured.arrays["patients"][known].tolist())
        anywhere = {"spacing_mm_low": (1, 1, 1), "spacing_mm_high": (1, 1, 1), "n_scans": len(known)}
        envelope = InputEnvelope.model_validate(anywhere | limits)
        for name, index in rows.items():
            results.setdefault(name, []).append([bool(envelope.outside(facts[i])) for i in index])
    return {name: np.array([[np.nan, np.mean(flags)] for flags in drawn]) for name, drawn in results.items()}


def cell(values: NDArray[np.float64], form: str) -> str:
    low, high = np.percentile(values, (2.5, 97.5))
    return f"{values.mean():{form}} [{low:{form}}, {high:{form}}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--data", type=Path, default=os.environ.get("MED_TRANSFER_DATA"))
    parser.add_argument("--out", type=Path, required=True, help="folder for cached features")
    parser.add_argument("--splits", type=int, default=20)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / f"{given.task}.npz"
    if not path.exists():
        prepare(given.task, Path(given.data), path)
    arrays = dict(np.load(path))
    n_stages = sum(name.startswith("part") for name in arrays) - 1
    tuning = Measured(arrays, True, max(3, given.splits // 4))
    reported, rows = Measured(arrays, False, given.splits), {}
    for measure, settings in candidates(n_stages).items():
        tuned = [
            np.mean([pairs[:, 0].mean() for name, pairs in tuning.run(parts, fit).items() if name != "own"])
            for _, parts, fit in settings
        ]
        words, parts, fit = settings[int(np.argmax(tuned))]
        rows[measure] = reported.run(parts, fit)
        print(f"chosen: {measure}: {words} (mean AUROC of the tuning sets {max(tuned):.3f})", flush=True)
    counts = {name: int((arrays["kinds"] == name).sum()) for name in ("own", *reported.sets)}
    print(table("AUROC", rows, {name: n for name, n in counts.items() if name != "own"}, 0))
    print(table("share that abstains", rows | {"envelope": outside_envelope(reported)}, counts, 1))


def table(title: str, rows: dict[str, dict[str, NDArray]], counts: dict[str, int], column: int) -> str:
    """Markdown: one line per set, and the mean over sets except ``own``."""
    form = ".2f" if column == 0 else ".0%"
    lines = [f"\n{title}\n\n| set (scans) | {' | '.join(rows)} |", "| -- " * (len(rows) + 1) + "|"]
    for name, n in counts.items():
        lines.append(f"| {name} ({n}) | {' | '.join(cell(row[name][:, column], form) for row in rows.values())} |")
    sets = [name for name in counts if name != "own"]
    means = [np.mean([row[name][:, column] for name in sets], axis=0) for row in rows.values()]
    return "\n".join([*lines, f"| mean of the sets | {' | '.join(cell(mean, form) for mean in means)} |"])


if __name__ == "__main__":
    main()
