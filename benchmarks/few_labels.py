"""What is a pretrained encoder worth when labels are few? LIDC nodule crops, patient-level splits, equal budgets.

Arms: ``scratch`` and ``small`` (the same resnet18-w32, random or from ``--small-weights``; same steps, schedule,
batches and augmentation), ``astra`` (whole network fine-tuned, BatchNorm statistics frozen), ``diameter`` and
``handcrafted`` (logistic regression on the diameter, random forest on mask and intensity statistics).

    MED_TRANSFER_DATA=DATA python benchmarks/few_labels.py --prepare lidc.npz
    python benchmarks/few_labels.py --prepared lidc.npz --small-weights OUT/encoder.safetensors --tune --out few_labels

A quick look without a GPU: ``--tasks texture --n 10 --splits 1 --steps 20``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from med_transfer.backbones import InputSpec, load_backbone
from med_transfer.pretraining.crops import rotation_matrices
from med_transfer.pretraining.views import reorient, thick_slices, window

STORED, SEEN = 40, 32  # voxels of 1 mm a side: kept for augmentation, and shown to a network
TASKS = {"texture": ("ground-glass", "part-solid", "solid"), "malignancy": ("low", "indeterminate", "high")}
HELD_OUT = 0.4
DEVELOPMENT_SEED = 1000  # splits on which settings are chosen; the reported splits have seeds 0, 1, 2 ...


@dataclass(frozen=True)
class Setting:
    """How an arm is trained: chosen on the development splits with ``--tune``, else the first of its list."""

    learning_rate: float
    layer_decay: float = 1.0
    steps: int = 300
    batch: int = 32


SETTINGS = {
    "scratch": [Setting(1e-3), Setting(3e-3), Setting(3e-4), Setting(5e-3)],
    "small": [Setting(3e-4), Setting(1e-3), Setting(1e-3, 0.6), Setting(3e-3, 0.6)],
    "astra": [Setting(1e-4, steps=150)],
    "diameter": [Setting(0.0)],
    "handcrafted": [Setting(0.0)],
}


@dataclass(frozen=True)
class Cohort:
    """All crops: HU [case, 40, 40, 40] (S, P, L; 1 mm), features [case, feature], patients, labels a task."""

    images: np.ndarray
    features: np.ndarray
    diameter_mm: np.ndarray
    patients: np.ndarray
    labels: dict[str, np.ndarray]


@dataclass(frozen=True)
class Job:
    arm: str
    task: str
    n: int
    split: int
    setting: Setting


# ------------------------------------------------------------------------------------------------ data


def prepare(data: Path, path: Path) -> None:
    """Read crops and masks, bring the crops to 1 mm around their centres (edges repeated), write one small file."""
    import pandas as pd  # the machine that trains reads only the result

    from med_transfer.preprocessing import Preprocessing, PreprocessingConfig
    from med_transfer.scans import read_scan

    table = pd.read_csv(data / "lidc_nodules" / "labels.csv")
    to_cube = Preprocessing(
        PreprocessingConfig(
            spacing_mm=(1.0, 1.0, 1.0),
            shape=(STORED, STORED, STORED),
            window_hu=(-1024, 3071),
            output_range=(-1024, 3071),
        )
    )
    images, features = [], []
    for names in zip(table["scan"], table["mask"], strict=True):
        scan, mask = (read_scan(data / "lidc_nodules" / str(name)) for name in names)
        images.append(np.rint(to_cube(scan)[0].numpy()).astype(np.int16))
        features.append(handcrafted_features(scan.voxels, mask.voxels > 0, scan.spacing_mm[::-1]))
    arrays = {f"label_{task}": table[task].map(names.index).to_numpy(np.int8) for task, names in TASKS.items()}
    patients = pd.factorize(table["patient"])[0].astype(np.int16)  # numbers, no identifiers
    np.savez_compressed(
        path,
        images=np.stack(images),
        features=np.array(features, dtype=np.float32),
        diameter_mm=table["diameter_mm"].to_numpy(np.float32),
        patients=patients,
        **arrays,  # type: ignore[arg-type]
    )
    print(f"{path}: {len(images)} crops of {patients.max() + 1} patients, {path.stat().st_size / 2**20:.1f} MiB")


def handcrafted_features(hu: np.ndarray, mask: np.ndarray, spacing_mm: tuple[float, ...]) -> list[float]:
    """Size, shape and first-order intensity of a nodule and of the shell around it."""
    if not mask.any():
        mask = np.zeros_like(mask)
        mask[tuple(n // 2 for n in mask.shape)] = True
    inside = hu[mask].astype(np.float64)
    volume = mask.sum() * math.prod(spacing_mm)
    extent = [np.ptp(np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {a})))) * spacing_mm[a] for a in range(3)]
    shell = ndimage.binary_dilation(mask, iterations=2) & ~mask
    around = hu[shell].astype(np.float64) if shell.any() else inside
    core = np.asarray(ndimage.binary_erosion(mask), dtype=bool)
    centre = hu[core].astype(np.float64) if core.any() else inside
    surface = mask.sum() - core.sum()
    return [
        volume, volume ** (1 / 3), *extent, surface / mask.sum(),
        inside.mean(), inside.std(), *np.percentile(inside, [5, 25, 50, 75, 95]),
        (inside < -300).mean(), (inside > 0).mean(), (inside > 150).mean(),
        around.mean(), around.std(), centre.mean(), centre.mean() - around.mean(),
    ]  # fmt: skip


def load(path: Path) -> Cohort:
    with np.load(path) as file:
        labels = {task: file[f"label_{task}"].astype(np.int64) for task in TASKS}
        return Cohort(file["images"], file["features"], file["diameter_mm"], file["patients"], labels)


def split(cohort: Cohort, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cases of training and of test patients."""
    patients = np.unique(cohort.patients)
    held_out = np.random.default_rng(seed).permutation(patients)[: round(HELD_OUT * len(patients))]
    test = np.isin(cohort.patients, held_out)
    return np.flatnonzero(~test), np.flatnonzero(test)


def few(cohort: Cohort, task: str, n: int, training: np.ndarray, seed: int) -> np.ndarray:
    """``n`` training cases of each class, or all there are; smaller n is a subset of larger n."""
    random = np.random.default_rng((seed, 7))
    truth = cohort.labels[task]
    return np.concatenate([random.permutation(training[truth[training] == c])[:n] for c in range(len(TASKS[task]))])


# -------------------------------------------------------------------------------------------- networks


class Network(nn.Module):
    """HU cubes to logits: the arm's own input convention, encoder, mean of the last two stages, linear head."""

    def __init__(self, arm: str, weights: Path | None, seed: int) -> None:
        super().__init__()
        name = "astra" if arm == "astra" else "resnet18-w32"
        loaded = load_backbone(name, weights if arm != "scratch" else None, scratch=arm == "scratch", seed=seed)
        self.encoder, self.spec, self.frozen_statistics = loaded.encoder, loaded.spec.input, arm == "astra"
        self.head = nn.Linear(sum(self.encoder.stage_channels[-2:]), 3)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def train(self, mode: bool = True) -> Network:
        super().train(mode)
        if self.frozen_statistics:
            self.encoder.eval()
        return self

    def forward(self, hu: Tensor) -> Tensor:
        maps = self.encoder(network_input(hu, self.spec))[-2:]
        return self.head(torch.cat([m.float().mean((2, 3, 4)) for m in maps], dim=1))

    def parameter_groups(self, setting: Setting) -> list[dict]:
        """The head fastest, then from the last stage to the stem ever slower."""
        rate, stages = setting.learning_rate, self.encoder.stages()
        groups = [{"params": list(self.head.parameters()), "lr": max(rate, 1e-3)}]
        for depth, stage in enumerate(reversed(stages)):
            groups.append({"params": list(stage.parameters()), "lr": rate * setting.layer_decay**depth})
        return groups


def network_input(hu: Tensor, spec: InputSpec) -> Tensor:
    x = window(hu, spec.window_hu, spec.output_range)
    if spec.minimum_shape[1] > spec.minimum_shape[0]:  # Astra strides twice as far in plane
        x = F.interpolate(x, scale_factor=(1, 2, 2), mode="trilinear", align_corners=False)
    return reorient(x, "SPL", spec.orientation).contiguous(memory_format=torch.channels_last_3d)


def augment(hu: Tensor, random: torch.Generator) -> Tensor:
    """A random view [batch, 1, 32, 32, 32] of stored cubes [batch, 1, 40, 40, 40], all in one interpolation."""
    n, device = len(hu), hu.device

    def uniform(*shape: int) -> Tensor:
        return 2 * torch.rand(shape, generator=random, device=device) - 1

    mirror = torch.where(uniform(n, 3) > 0, 1.0, -1.0)
    axes = rotation_matrices(uniform(n, 3) * math.radians(30)) * (mirror * (1 + 0.15 * uniform(n, 3)))[:, None, :]
    steps = (torch.arange(SEEN, device=device) + 0.5) / STORED * 2 - SEEN / STORED
    local = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(1, -1, 3)
    grid = (local @ axes.transpose(1, 2) + (uniform(n, 3) * 3 * 2 / STORED)[:, None]).flip(-1)
    x = F.grid_sample(hu, grid.reshape(n, SEEN, SEEN, SEEN, 3), padding_mode="border", align_corners=False)
    thick = torch.randperm(n, generator=random, device=device)[: n // 4]
    x = x.index_copy(0, thick, thick_slices(x[thick], 2))
    x = (x + 1000) * (1 + 0.1 * uniform(n, 1, 1, 1, 1)) - 1000 + 40 * uniform(n, 1, 1, 1, 1)
    noise = torch.randn(x.shape, generator=random, device=device)
    return x + noise * (60 * uniform(n, 1, 1, 1, 1)).clamp_min(0)


def centre(hu: Tensor) -> Tensor:
    edge = (STORED - SEEN) // 2
    return hu[..., edge:-edge, edge:-edge, edge:-edge]


def fit_network(
    cohort: Cohort, job: Job, training: np.ndarray, test: np.ndarray, weights: Path | None, device
) -> np.ndarray:
    """Train on a few cases, give the probabilities of the test cases [case, class]."""
    seed = 100 * job.split + job.n
    torch.manual_seed(seed)
    random = torch.Generator(device).manual_seed(seed)
    choose = np.random.default_rng(seed)
    images = torch.from_numpy(cohort.images[training]).to(device).float()[:, None]
    truth = cohort.labels[job.task][training]
    network = Network(job.arm, weights, seed).to(device).to(memory_format=torch.channels_last_3d).train()  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameter_groups(job.setting), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: rate_share(s / job.setting.steps))
    for _ in range(job.setting.steps):
        cases = balanced(truth, job.setting.batch, choose)
        target = torch.from_numpy(truth[cases]).to(device)
        view = augment(images[torch.from_numpy(cases).to(device)], random)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = network(view)
        loss = F.cross_entropy(logits.float(), target, label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    network.eval()
    unseen = torch.from_numpy(cohort.images[test]).to(device).float()[:, None]
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        logits = torch.cat([network(centre(part)).float() for part in unseen.split(64)])
    return logits.softmax(1).cpu().numpy()


def rate_share(progress: float) -> float:
    return min(1.0, (progress + 1e-3) / 0.1) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def balanced(truth: np.ndarray, batch: int, choose: np.random.Generator) -> np.ndarray:
    classes = np.arange(batch) % (truth.max() + 1)
    return np.array([choose.choice(np.flatnonzero(truth == c)) for c in classes])


def fit_classic(cohort: Cohort, job: Job, training: np.ndarray, test: np.ndarray) -> np.ndarray:
    truth = cohort.labels[job.task][training]
    if job.arm == "diameter":
        size = np.log(cohort.diameter_mm)[:, None]
        x, model = np.hstack([size, size**2]), LogisticRegression(class_weight="balanced", max_iter=1000)
    else:
        x = cohort.features
        model = RandomForestClassifier(300, class_weight="balanced", min_samples_leaf=2, random_state=0, n_jobs=1)
    fitted = make_pipeline(StandardScaler(), model).fit(x[training], truth)
    return fitted.predict_proba(x[test])


# ------------------------------------------------------------------------------------------ the jobs

_worker: dict = {}


def start_worker(prepared: Path, weights: dict[str, Path | None], device: str, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = False  # many short trainings
    _worker.update(cohort=load(prepared), weights=weights, device=torch.device(device))


def work(job: Job) -> tuple[Job, np.ndarray, float]:
    cohort, start = _worker["cohort"], time.perf_counter()
    training, test = split(cohort, job.split)
    cases = few(cohort, job.task, job.n, training, job.split)
    if job.arm in ("diameter", "handcrafted"):
        probabilities = fit_classic(cohort, job, cases, test)
    else:
        probabilities = fit_network(cohort, job, cases, test, _worker["weights"][job.arm], _worker["device"])
    return job, probabilities, time.perf_counter() - start


def run_all(jobs: list[Job], arguments: argparse.Namespace) -> Iterator[tuple[Job, np.ndarray, float]]:
    weights = {"scratch": None, "small": arguments.small_weights, "astra": arguments.astra_weights}
    setup = (arguments.prepared, weights, arguments.device, arguments.threads)
    if arguments.workers <= 1:
        start_worker(*setup)
        yield from map(work, jobs)
        return
    with ProcessPoolExecutor(arguments.workers, get_context("spawn"), start_worker, setup) as pool:
        yield from pool.map(work, jobs)


# ------------------------------------------------------------------------------------------- measures


def weighted_macro_auc(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """One-vs-rest AUC, mean over classes, for many weightings at once: [replicate, case] -> [replicate]."""
    per_class = []
    for c in range(scores.shape[1]):
        positive, negative = truth == c, truth != c
        s, t = scores[positive, c][:, None], scores[negative, c][None]
        wins = (s > t) + 0.5 * (s == t)
        w_positive, w_negative = weights[:, positive], weights[:, negative]
        total = w_positive.sum(1) * w_negative.sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            per_class.append(((w_positive @ wins) * w_negative).sum(1) / total)
    return np.mean(per_class, axis=0)


def mean_sensitivity(truth: np.ndarray, scores: np.ndarray) -> float:
    predicted = scores.argmax(1)
    return float(np.mean([(predicted[truth == c] == c).mean() for c in range(scores.shape[1])]))


def patient_weights(cohort: Cohort, replicates: int) -> np.ndarray:
    """Bootstrap of patients: how often each patient is drawn, [replicate, patient]; the same draw for every split."""
    count = int(cohort.patients.max()) + 1
    return np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=replicates).astype(float)


def interval(
    cohort: Cohort, task: str, a: list[np.ndarray], b: list[np.ndarray], seeds: list[int], replicates: int
) -> dict:
    """Mean over splits of AUC(a) - AUC(b), and its 95 % interval over patients."""
    draws = patient_weights(cohort, replicates)
    differences, observed = [], []
    for first, second, seed in zip(a, b, seeds, strict=True):
        _, test = split(cohort, seed)
        truth, weights = cohort.labels[task][test], draws[:, cohort.patients[test]]
        differences.append(weighted_macro_auc(truth, first, weights) - weighted_macro_auc(truth, second, weights))
        ones = np.ones((1, len(test)))
        observed.append(weighted_macro_auc(truth, first, ones)[0] - weighted_macro_auc(truth, second, ones)[0])
    low, high = np.nanpercentile(np.mean(differences, axis=0), [2.5, 97.5])
    return {
        "difference": float(np.mean(observed)),
        "ci95": [float(low), float(high)],
        "splits": list(map(float, observed)),
    }


# ---------------------------------------------------------------------------------------------- main


def _budgeted(setting: Setting, arguments: argparse.Namespace) -> Setting:
    return replace(setting, steps=arguments.steps or setting.steps, batch=arguments.batch or setting.batch)


def tune(arguments: argparse.Namespace, cohort: Cohort, arms: list[str]) -> tuple[dict[str, Setting], list[dict]]:
    """The setting of each arm with the best mean AUC over both tasks, n = 30, on two splits of their own."""
    settings = {arm: [_budgeted(s, arguments) for s in SETTINGS[arm]] for arm in arms}
    if not arguments.tune:
        return {arm: options[0] for arm, options in settings.items()}, []
    jobs = [
        Job(arm, task, 30, DEVELOPMENT_SEED + k, setting)
        for arm in arms
        if len(settings[arm]) > 1
        for setting in settings[arm]
        for task in arguments.tasks
        for k in range(2)
    ]
    found: dict[tuple[str, Setting], list[float]] = {}
    for job, probabilities, _ in run_all(jobs, arguments):
        _, test = split(cohort, job.split)
        auc = weighted_macro_auc(cohort.labels[job.task][test], probabilities, np.ones((1, len(test))))[0]
        found.setdefault((job.arm, job.setting), []).append(float(auc))
    log = [{"arm": arm, **asdict(s), "auc": round(float(np.mean(v)), 4)} for (arm, s), v in found.items()]
    for entry in log:
        print(json.dumps(entry), flush=True)
    chosen = {arm: options[0] for arm, options in settings.items()}
    for arm in {arm for arm, _ in found}:
        chosen[arm] = max((s for a, s in found if a == arm), key=lambda s: np.mean(found[arm, s]))
    return chosen, log


def main() -> None:
    arguments = parse()
    if arguments.prepare:
        prepare(Path(os.environ["MED_TRANSFER_DATA"]), arguments.prepare)
        return
    start = time.perf_counter()
    cohort = load(arguments.prepared)
    given = [arm for arm in ("small", "astra") if getattr(arguments, f"{arm}_weights")]
    arms = arguments.arms or ["scratch", *given, "diameter", "handcrafted"]
    chosen, tuning = tune(arguments, cohort, arms)
    print(f"settings: {chosen} after {time.perf_counter() - start:.0f} s", flush=True)
    seeds = list(range(arguments.splits))
    jobs = [Job(a, t, n, s, chosen[a]) for a in arms for t in arguments.tasks for n in arguments.n for s in seeds]
    results: dict[tuple[str, str, int], list[np.ndarray]] = {}
    seconds: dict[str, float] = {}
    for job, probabilities, spent in run_all(jobs, arguments):
        results.setdefault((job.arm, job.task, job.n), []).append(probabilities)
        seconds[job.arm] = seconds.get(job.arm, 0.0) + spent
    report = summarise(cohort, results, seeds, arguments.replicates)
    report |= {
        "settings": {arm: asdict(s) for arm, s in chosen.items()},
        "tuning": tuning,
        "seconds_per_training": {arm: round(s / (len(jobs) / len(arms)), 2) for arm, s in seconds.items()},
        "device": torch.cuda.get_device_name() if arguments.device.startswith("cuda") else "cpu",
        "held_out_patients": HELD_OUT,
        "seeds": seeds,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "few_labels.json").write_text(json.dumps(report, indent=1))
    (arguments.out / "few_labels.md").write_text(table(report))
    keys = {
        "_".join(map(str, key)): np.stack(p) if len({x.shape for x in p}) == 1 else p[0] for key, p in results.items()
    }
    np.savez_compressed(arguments.out / "probabilities.npz", **keys)  # type: ignore[arg-type]
    print(table(report))
    print(f"{time.perf_counter() - start:.0f} s in all; a training took {report['seconds_per_training']} s")


def summarise(cohort: Cohort, results: dict, seeds: list[int], replicates: int) -> dict:
    rows, comparisons = [], []
    for (arm, task, n), probabilities in results.items():
        auc, sensitivity = [], []
        for p, seed in zip(probabilities, seeds, strict=True):
            _, test = split(cohort, seed)
            truth = cohort.labels[task][test]
            auc.append(float(weighted_macro_auc(truth, p, np.ones((1, len(test))))[0]))
            sensitivity.append(mean_sensitivity(truth, p))
        rows.append(
            {
                "arm": arm,
                "task": task,
                "n": n,
                "auc": float(np.mean(auc)),
                "sensitivity": float(np.mean(sensitivity)),
                "aucs": auc,
            }
        )
        for other in ("scratch", "astra"):
            if arm == "small" and (other, task, n) in results:
                versus = interval(cohort, task, probabilities, results[other, task, n], seeds, replicates)
                comparisons.append({"task": task, "n": n, "small_minus": other, **versus})
    return {"rows": rows, "comparisons": comparisons}


def table(report: dict) -> str:
    """Markdown: macro AUC / mean sensitivity for each arm, then the paired differences."""
    cells = {(r["arm"], r["task"], r["n"]): f"{r['auc']:.3f} / {r['sensitivity']:.2f}" for r in report["rows"]}
    arms = list(dict.fromkeys(r["arm"] for r in report["rows"]))
    lines = [f"| task | n | {' | '.join(arms)} |", f"|---|---|{'---|' * len(arms)}"]
    for task, n in dict.fromkeys((r["task"], r["n"]) for r in report["rows"]):
        lines.append(f"| {task} | {n} | {' | '.join(cells[arm, task, n] for arm in arms)} |")
    lines += ["", "| task | n | small minus | macro AUC, 95 % interval over patients |", "|---|---|---|---|"]
    for c in report["comparisons"]:
        low, high = c["ci95"]
        lines.append(
            f"| {c['task']} | {c['n']} | {c['small_minus']} | {c['difference']:+.3f} ({low:+.3f} to {high:+.3f}) |"
        )
    return "\n".join(lines) + "\n"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepare", type=Path, help="read MED_TRANSFER_DATA, write the crops here and stop")
    parser.add_argument("--prepared", type=Path, default=Path("lidc.npz"))
    parser.add_argument("--small-weights", type=Path)
    parser.add_argument("--astra-weights", type=Path)
    parser.add_argument("--arms", nargs="+", choices=sorted(SETTINGS), help="default: those that have what they need")
    parser.add_argument("--tasks", nargs="+", choices=sorted(TASKS), default=list(TASKS))
    parser.add_argument("--n", nargs="+", type=int, default=[10, 30, 100], help="labels a class")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--steps", type=int, help="instead of each arm's own")
    parser.add_argument("--batch", type=int, help="instead of each arm's own")
    parser.add_argument("--tune", action="store_true", help="choose the settings of scratch and small first")
    parser.add_argument("--replicates", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=6 if torch.cuda.is_available() else 1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("few_labels"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()
