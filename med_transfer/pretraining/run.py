"""The pretraining job: from source scans to a folder with a pretrained encoder."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from med_transfer.atomic.csv_table import write_csv
from med_transfer.atomic.sole_writer import sole_writer
from med_transfer.backbones import LoadedBackbone, load_backbone, weights_file
from med_transfer.backbones.channels import Channels
from med_transfer.backbones.weights.source_features import source_features_path
from med_transfer.bundle.provenance import source_licences, source_provenance
from med_transfer.cohorts import SOURCE_LOCK_FILE, SourceLock
from med_transfer.cohorts.left_behind import DAMAGED, left_behind, unsealed
from med_transfer.config import dump_config, load_config
from med_transfer.errors import ConfigError, UsageError
from med_transfer.pretraining.checkpoint import CHECKPOINT_FILE, read_checkpoint, require_encoder
from med_transfer.pretraining.config import PretrainingConfig
from med_transfer.pretraining.distributed import ProcessGroup, process_group
from med_transfer.pretraining.loop import CURVE_FILE, ENCODER_FILE, Training
from med_transfer.pretraining.methods.contrastive import Contrastive
from med_transfer.pretraining.methods.distillation import Distillation, teacher_dtype
from med_transfer.pretraining.methods.masked_autoencoding import MaskedAutoencoding
from med_transfer.pretraining.methods.method import HEAD, Method, PretrainingContext
from med_transfer.pretraining.methods.painted_lesions import PaintedLesions
from med_transfer.pretraining.methods.painted_nodules import PaintedNodules
from med_transfer.pretraining.methods.supervised import SupervisedLabels, SupervisedMasks
from med_transfer.pretraining.methods.teacher import Teacher
from med_transfer.pretraining.probe import LinearProbe, linear_probe, probe_cohort
from med_transfer.pretraining.source.origin import Origin
from med_transfer.pretraining.source.reading import Source, prepare_source
from med_transfer.pretraining.source.scans import SourceScans
from med_transfer.pretraining.source.source_gap import extract_source_features
from med_transfer.pretraining.training_state import TrainingState
from med_transfer.pretraining.unread_settings import unread_settings
from med_transfer.progress import Progress, silent

log = logging.getLogger(__name__)

CONFIG_FILE, LEFT_OUT_FILE = "config.yaml", "left_out.csv"


@dataclass(frozen=True)
class Pretrained:
    """A finished pretraining on disk.

    Attributes:
        folder: can be given as ``backbone.weights``.
        backbone: name of the catalogue entry.
        n_scans: number of scans used for training or validation.
        n_left_out: number of scans that could not be used; the reasons are in ``left_out.csv``.
    """

    folder: Path
    backbone: str
    n_scans: int
    n_left_out: int

    @property
    def encoder(self) -> Path:
        """The weights, a safetensors file that ``load_backbone`` reads."""
        return self.folder / ENCODER_FILE

    @property
    def heads(self) -> dict[str, Tensor]:
        """The tensors of heads that the method keeps, by its own names."""
        with safe_open(self.encoder, "pt") as file:
            names = [name for name in file.keys() if name.startswith(HEAD)]  # noqa: SIM118  a file, no dict
            return {name.removeprefix(HEAD): file.get_tensor(name) for name in names}

    @property
    def measured(self) -> dict[str, float]:
        """Figures of the encoder that was kept: with early stopping those of the best one, not the last ones.

        Raises:
            UsageError: the curve is damaged.
        """
        with safe_open(self.encoder, "pt") as file:
            step = int(file.metadata()["steps"])
        measured = [entry for entry in self.record["curve"] if "measured" in entry]
        return next(entry["measured"] for entry in reversed(measured) if entry["step"] == step)

    @property
    def curve(self) -> Path:
        """Path of the losses and measurements over the steps, as JSON."""
        return self.folder / CURVE_FILE

    @property
    def record(self) -> dict[str, Any]:
        """Content of ``curve``: steps, seconds, settings, and the entries of the curve.

        Raises:
            UsageError: the file is damaged.
        """
        try:
            record = unsealed(json.loads(self.curve.read_text(encoding="utf-8")))
            return {**record, "steps": record["steps"], "curve": record["curve"]}
        except DAMAGED as error:
            raise UsageError("is damaged", where=self.curve, action="The encoder beside it can be used") from error


@dataclass(frozen=True)
class _Networks:
    """The encoder to be trained, and the teacher of a distillation."""

    student: LoadedBackbone
    teacher: LoadedBackbone | None


def pretrain(
    scans: Path | str | SourceScans,
    config: PretrainingConfig,
    out: Path | str,
    device: str = "auto",
    progress: Progress = silent,
    *,
    source_features: bool = True,
) -> Pretrained:
    """Train an encoder on source scans, and write it as a file that ``load_backbone`` reads.

    Called again on the same folder after an interruption, it resumes. Under torchrun, each process draws its own crops,
    gradients are averaged, and the main process writes.

    Args:
        scans: a folder of scans, a cohort.csv, a file that ``SourceScans.save`` wrote, or scans already read.
        config: of the pretraining.
        out: folder for ``encoder.safetensors``, ``encoder.source.safetensors``, ``curve.json``, ``config.yaml``,
            ``source.lock.json``.
        device: ``auto`` (a GPU if there is one), ``cpu`` or ``cuda``.
        progress: reports progress.
        source_features: whether to write the source's features by the encoder, for ``select``.

    Raises:
        ConfigError: a device that this machine does not have, or too few scans to keep some for validation.
        BackboneError: backbone or teacher cannot be built, or the folder holds a checkpoint of another run.
        UsageError: the folder holds something else, or a damaged file of this run.
        ScanNotFound, CohortError, NothingDone: there is nothing to learn from; see ``prepare_source``.
        TrainingDiverged: a gradient is not finite.
        OutputError: a result cannot be written.
    """
    out = Path(out)
    with process_group() as group, sole_writer(out, "a pretraining") if group.is_main else nullcontext():
        progress = progress if group.is_main else silent
        for sentence in unread_settings(config) if group.is_main else ():
            log.warning("%s", sentence)
        on_device = group.device(_device(device))
        networks = _load(config)
        _refuse_another_run(out, config, networks, group, on_device)
        probed = probe_cohort(config.probe.cohort)  # errors in the table are reported before any scan is read
        source = _source(scans, config, out, progress, group)
        training, validation = source.scans.split(config.validation_scans)
        spec = networks.student.spec
        context = PretrainingContext(
            config, spec.input, training, validation, on_device, spec.pooled_stages, group.rank
        )
        probe = linear_probe(config, probed, context, out / "probe", progress) if group.is_main else None
        origin = _origin(config, source.scans, networks, probe, group)
        if group.is_main:
            _write_beginning(out, config, origin, source)
        method = _method(networks, context)
        encoder = Training(method, origin, out, probe, group, progress).run()
        if group.is_main and source_features:
            extract_source_features(method, encoder)
        group.barrier()
        return Pretrained(out, config.backbone, len(source.scans), len(source.left_out))


def finished_pretraining(config: PretrainingConfig, out: Path, content_hashes: Iterable[str]) -> Pretrained | None:
    """The finished result of :func:`pretrain` in ``out``, on scans with these hashes; None if it has not finished.

    The scans must be without labels, regions and masks.

    Raises:
        BackboneError: the folder holds a checkpoint of another run.
        UsageError: the checkpoint or the encoder is damaged.
    """
    if not (out / CHECKPOINT_FILE).exists():
        return None
    scans = sorted(content_hashes)
    settings = _origin(config, SourceScans(()), _load(config), None, ProcessGroup()).settings()
    state = read_checkpoint(out, settings, _device("auto"), scans, [])
    with left_behind(out / CHECKPOINT_FILE):
        ended = state is not None and TrainingState.from_json(state["course"]).ended
    if state is None or not ended:
        return None
    require_encoder(out / ENCODER_FILE, state)
    return Pretrained(out, config.backbone, len(scans), 0)


def _load(config: PretrainingConfig) -> _Networks:
    """Load both networks, before any scan is read, so that errors are reported at once."""
    random = config.weights == "random"
    weights = None if config.weights in ("random", "published") else Path(config.weights)
    student = load_backbone(
        config.backbone,
        weights,
        scratch=random,
        seed=config.seed,
        accept_licence=config.accept_licence,
        channels=_channels(config),
    )
    if config.weights == "published" and student.sha256 is None:
        raise ConfigError(
            f"{config.backbone} has no published weights", where="weights", expected="random, or the path of a file"
        )
    if config.method != "distillation":
        return _Networks(student, None)
    settings = config.distillation
    return _Networks(
        student, load_backbone(settings.teacher, settings.teacher_weights, accept_licence=settings.accept_licence)
    )


def _channels(config: PretrainingConfig) -> Channels:
    """One channel per window; three windows replace the colours of a network for photographs, as in fine-tuning."""
    n = len(config.windows_hu or ((),))
    return "windows" if n == 3 else n


def _method(networks: _Networks, context: PretrainingContext) -> Method:
    config, encoder = context.config, networks.student.encoder
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)  # initial values of the heads
        if networks.teacher is not None:
            dtype, stages = teacher_dtype(context.device), config.distillation.stages
            teacher = Teacher(networks.teacher.encoder, networks.teacher.spec.input, stages, dtype)
            return Distillation(encoder, context, teacher)
        if config.method == "supervised":
            supervised = SupervisedLabels if config.supervised.target == "label" else SupervisedMasks
            return supervised(encoder, context)
        kinds: dict[str, type[Method]] = {
            "contrastive": Contrastive,
            "masked_autoencoding": MaskedAutoencoding,
            "painted_nodules": PaintedNodules,
            "painted_lesions": PaintedLesions,
        }
        return kinds[config.method](encoder, context)


def _source(
    scans: Path | str | SourceScans, config: PretrainingConfig, out: Path, progress: Progress, group: ProcessGroup
) -> Source:
    """The scans: the main process reads and caches them while the others wait, which then load them from the cache."""
    if isinstance(scans, SourceScans):
        return Source(scans)
    if not group.is_main:
        group.barrier()
    source = prepare_source(Path(scans), config, out / "prepared", progress)
    if group.is_main:
        group.barrier()
    return source


def _origin(
    config: PretrainingConfig, scans: SourceScans, networks: _Networks, probe: LinearProbe | None, group: ProcessGroup
) -> Origin:
    student, teacher = networks.student, networks.teacher
    published = [network for network in (student, teacher) if network is not None and network.sha256 is not None]
    return Origin(
        config=config,
        lock=_lock(config, scans, probe),
        source_scans=scans.content_hashes,
        taught=scans.taught,
        start_sha256=student.sha256 or "",
        teacher_sha256=(teacher.sha256 or "") if teacher else "",
        licences=tuple(sorted({network.spec.licence for network in published} | _inherited_licences(config))),
        processes=group.world_size,
        plan=student.spec.plan,
    )


def _lock(config: PretrainingConfig, scans: SourceScans, probe: LinearProbe | None) -> SourceLock:
    """All patients and scans this encoder learns from; the probe's are included if it decides when to stop."""
    patients, images = set(scans.patient_hashes), set(scans.content_hashes)
    for lock in map(source_provenance, _made_from(config)):
        if lock is not None:
            patients, images = patients | set(lock.patient_hashes), images | set(lock.content_hashes)
    if probe is not None and config.stop_when is not None:
        probe_patients, probe_images = probe.seen()
        patients, images = patients | probe_patients, images | probe_images
    return SourceLock.of(patients, images)


def _made_from(config: PretrainingConfig) -> tuple[Path | None, Path | None]:
    """The weights file that this pretraining starts from, and its teacher's; None where there is none."""
    given = None if config.weights == "published" else Path(config.weights)
    start = None if config.weights == "random" else weights_file(config.backbone, given)
    if config.method != "distillation":
        return start, None
    return start, weights_file(config.distillation.teacher, config.distillation.teacher_weights)


def _inherited_licences(config: PretrainingConfig) -> set[str]:
    return {licence for weights in _made_from(config) for licence in source_licences(weights)}


def _refuse_another_run(
    out: Path, config: PretrainingConfig, networks: _Networks, group: ProcessGroup, device: torch.device
) -> None:
    """Refuse a folder of another run before hours of reading; the scans are compared when they have been read."""
    read_checkpoint(out, _origin(config, SourceScans(()), networks, None, group).settings(), device.type)
    file = out / CONFIG_FILE
    try:
        if file.exists():
            load_config(PretrainingConfig, file)
    except ConfigError as error:
        raise UsageError(
            f"the folder holds something other than a pretraining ({error.found})",
            where=file,
            expected="a new folder, or that of this run",
            action="Choose another -o",
        ) from error


def _write_beginning(out: Path, config: PretrainingConfig, origin: Origin, source: Source) -> None:
    """Write config, lock and left-out scans before training, so that an unfinished run has them too.

    Source features of an earlier encoder are removed.
    """
    source_features_path(out / ENCODER_FILE).unlink(missing_ok=True)
    dump_config(config, out / CONFIG_FILE)
    origin.lock.write(out / SOURCE_LOCK_FILE)
    left_out = [{"scan": scan.scan, "reason": scan.reason} for scan in source.left_out]
    write_csv(out / LEFT_OUT_FILE, ("scan", "reason"), left_out)


def _device(name: str) -> str:
    available = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if name == "auto":
        return available[-1]
    if name not in available:
        raise ConfigError(f"device {name!r}", expected=f"one of auto, {', '.join(available)} on this machine")
    return name
