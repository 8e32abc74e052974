"""The training loop of all methods: steps, running mean, measurements, checkpoints, early stopping."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from med_transfer.atomic import write_bytes, write_text
from med_transfer.backbones import Encoder, channels_last
from med_transfer.cohorts.left_behind import left_behind, sealed
from med_transfer.errors import TrainingDiverged
from med_transfer.model.features import effective_rank
from med_transfer.pretraining.checkpoint import (
    CHECKPOINT_FILE,
    State,
    is_of,
    read_checkpoint,
    require_encoder,
    save_checkpoint,
)
from med_transfer.pretraining.distributed import ProcessGroup
from med_transfer.pretraining.methods.method import HEAD, Figures, Method
from med_transfer.pretraining.optimisation import decay_groups, learning_rate_share, update_average
from med_transfer.pretraining.probe import LinearProbe
from med_transfer.pretraining.source.origin import Origin
from med_transfer.pretraining.training_state import TrainingState, draw_curve
from med_transfer.processor import keep_freed_memory
from med_transfer.progress import Progress, silent

ENCODER_FILE, CURVE_FILE, FIGURE_FILE = "encoder.safetensors", "curve.json", "curve.png"
log = logging.getLogger(__name__)
PROBE_FIGURE = "probe_auc"
PROGRESS_INTERVAL_STEPS = 10  # between two reports of progress
PLOT_INTERVAL_SECONDS = 30.0  # at least, between two plots of the curve, each of which takes as long as many steps


class Training:
    """One run of one method, which writes encoder, curve and checkpoint into ``out``."""

    def __init__(
        self,
        method: Method,
        origin: Origin,
        out: Path,
        probe: LinearProbe | None = None,
        group: ProcessGroup = ProcessGroup(),  # noqa: B008  frozen
        progress: Progress = silent,
    ) -> None:
        self.config, self.origin, self.out = method.config, origin, out
        self.probe, self.group, self.progress = probe, group, progress
        self.device = method.context.device
        self.method = method.to(self.device).train()
        if self.config.channels_last:
            channels_last(self.method)
        self.average = copy.deepcopy(method.encoder).eval().requires_grad_(False)
        self.parallel = group.data_parallel(method)
        groups = decay_groups(method.parameters(), self.config.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=self.config.learning_rate, betas=(0.9, 0.99))
        self.state, self._gradient = TrainingState(), torch.zeros(())
        self._drawn_at = 0.0  # seconds of training
        self._written: str | None = None  # SHA-256 of the encoder file

    @property
    def monitored(self) -> str:
        """Name of the figure for early stopping and the choice of the encoder: the probe's, else the method's."""
        return PROBE_FIGURE if self.probe else self.method.figure

    def run(self) -> Path:
        """Train until the budget is spent or early stopping ends it; returns the path of the encoder.

        Raises:
            BackboneError: the folder holds a checkpoint of another run.
            UsageError: the checkpoint, or the encoder of a finished run, is damaged.
            TrainingDiverged: a gradient is not finite.
            KeyboardInterrupt: after Ctrl-C, once the state is saved.
        """
        keep_freed_memory()
        if not self._restore():
            self.method.begin()
            self._measure()  # the initial weights, so that the curve shows what the training adds
        clock, saved_at = _Clock(self.device, self.state.seconds), self.state.seconds
        with _interruptible() as interrupted:
            while not self.state.ended:
                self._step()
                self.state.seconds, stop = self.group.broadcast([clock.seconds(), float(interrupted())])
                due = self.state.step % self.config.probe.every_steps == 0
                self.state.ended = self._spent() >= 1
                if due or self.state.ended:
                    self._measure()
                if due or stop or self.state.ended or self.state.seconds - saved_at > self.config.checkpoint_seconds:
                    self._save(last=bool(stop) or self.state.ended)
                    saved_at = self.state.seconds
                if stop and not self.state.ended:
                    raise KeyboardInterrupt
        return self.out / ENCODER_FILE

    def _step(self) -> None:
        rate = self.config.learning_rate * learning_rate_share(self._spent(), self.config.warm_up)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        losses = self.parallel(self.method.draw())
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        self._gradient = nn.utils.clip_grad_norm_(self.method.parameters(), self.config.gradient_clip)
        self.optimizer.step()
        self.state.add(losses)
        step = self.state.step
        update_average(self.average, self.method.encoder, min(self.config.ema, step / (step + 10)))
        self._report_progress(losses["loss"])

    def _spent(self) -> float:
        """Share of the budget that is spent, from 0 to 1."""
        if self.config.steps is not None:
            return self.state.step / self.config.steps
        return self.state.seconds / (60 * float(self.config.minutes or 0))

    def _report_progress(self, loss: Tensor) -> None:
        if self.state.step % PROGRESS_INTERVAL_STEPS and self.state.step != self.config.steps:
            return  # reading the loss waits for the device
        self._require_finite()
        note = f"loss {float(loss.detach()):.4f}"
        if self.config.steps is not None:
            self.progress("pretraining", self.state.step, self.config.steps, note)
        elif self.config.minutes is not None:
            done, total = round(self.state.seconds), round(60 * self.config.minutes)
            self.progress("pretraining (seconds)", min(done, total), total, note)

    def _require_finite(self) -> None:
        """Called before anything is reported or written: a finite gradient norm means that the weights are finite."""
        if not torch.isfinite(self._gradient):
            raise TrainingDiverged(
                f"the gradient is not finite at step {self.state.step}",
                where="learning_rate",
                expected="a training that converges",
                action="Lower learning_rate, or raise warm_up, and run the same command with another -o",
            )

    @torch.no_grad()
    def _measure(self) -> None:
        """Add figures to the curve, in the main process, and write the encoder unless an earlier one was better."""
        self._require_finite()
        ended = self.state.ended
        if self.group.is_main:
            self.method.eval()
            finished = self.method.finished(self.average)
            on = self.probe.identity if self.probe else ""
            best = self.state.measured(self._figures(finished), self.monitored, self.config.stop_when, on)
            self.method.train()
            if best:
                now = (self.state.step, self.state.seconds, self.device)
                tensors = half_precision_state(finished) | _named_heads(self.method)
                content = save(tensors, metadata=self.origin.metadata(*now))
                write_bytes(self.out / ENCODER_FILE, content)
                self._written = hashlib.sha256(content).hexdigest()
        (stopped,) = self.group.broadcast([float(self.state.ended)])
        self.state.ended = ended or bool(stopped)

    def _figures(self, finished: Encoder) -> Figures:
        figures = dict(self.method.quality(self.average))
        if self.method.held_out is not None:
            x = self.method.windowed(self.method.held_out.hu, degraded=False)
            figures["effective_rank"] = effective_rank(self.method.pooled(self.method.maps(x, finished)))
        if self.probe is not None:
            figures[PROBE_FIGURE] = self.probe(finished)
        return figures

    def _save(self, *, last: bool) -> None:
        """Write the checkpoint with everything that a resumed run needs, and the curve."""
        self._require_finite()
        generators = self.group.gather({name: g.get_state() for name, g in self.method.generators().items()})
        if not self.group.is_main:
            return
        record = self.origin.record(self.state.step, self.state.seconds, self.device)
        shown = record | {"monitored": self.monitored, "curve": self.state.curve}
        write_text(
            self.out / CURVE_FILE, json.dumps(sealed(shown), indent=1) + "\n"
        )  # before the checkpoint, which says whether the run has ended
        if last or self.state.seconds - self._drawn_at > PLOT_INTERVAL_SECONDS:
            draw_curve(self.state.curve, self.monitored, self.out / FIGURE_FILE)
            self._drawn_at = self.state.seconds
        method = {k: v for k, v in self.method.state_dict().items() if not k.startswith(self.method.not_saved)}
        save_checkpoint(
            self.out,
            {
                "settings": self.origin.settings(),
                "source_scans": sorted(self.origin.source_scans),
                "taught": list(self.origin.taught),
                "device": self.device.type,
                "method": method,
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "chance": generators,
                "course": self.state.to_json(),
                "encoder": self._written,
            },
        )

    def _restore(self) -> bool:
        origin, device = self.origin, self.device.type
        known = (sorted(origin.source_scans), list(origin.taught))
        checkpoint = read_checkpoint(self.out, origin.settings(), device, *known)
        if checkpoint is None:
            return False
        with left_behind(self.out / CHECKPOINT_FILE):
            self.method.load_state_dict(checkpoint["method"], strict=False)  # constant parts are not saved
            self.average.load_state_dict(checkpoint["average"])
            self.optimizer.load_state_dict(checkpoint["optimizer"])
            for name, generator in self.method.generators().items():
                generator.set_state(checkpoint["chance"][self.group.rank][name])
            self.state = TrainingState.from_json(checkpoint["course"])
        self._take_encoder(checkpoint)
        return True

    def _take_encoder(self, checkpoint: State) -> None:
        encoder, self._written = self.out / ENCODER_FILE, checkpoint.get("encoder")
        if self.state.ended:
            require_encoder(encoder, checkpoint)
        elif self.state.best is not None and not (encoder.is_file() and is_of(encoder, checkpoint)):
            log.warning("%s: the best one so far is lost: the next that is measured is kept instead", encoder)
            self.state.best = None


class _Clock:
    """Seconds of training, including those before an interruption; regularly waits for the device, to stay accurate."""

    def __init__(self, device: torch.device, spent: float) -> None:
        self._device, self._start, self._calls = device, time.perf_counter() - spent, 0

    def seconds(self) -> float:
        self._calls += 1
        if self._device.type == "cuda" and self._calls % 10 == 0:
            torch.cuda.synchronize(self._device)
        return time.perf_counter() - self._start


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Delay Ctrl-C to the end of the step, so that the state can be saved; a second Ctrl-C takes effect at once.

    Yields a function that says whether it was pressed.
    """
    pressed = False

    def remember(number: int, frame: object) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, before)

    try:
        before = signal.signal(signal.SIGINT, remember)
    except ValueError:  # only the main thread can handle signals
        yield lambda: False
        return
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _named_heads(method: Method) -> dict[str, Tensor]:
    """The kept heads in full precision, under names with a prefix that is ignored when an encoder is loaded."""
    return {f"{HEAD}{name}": tensor.float().cpu().contiguous() for name, tensor in method.kept_heads().items()}


def half_precision_state(encoder: nn.Module) -> dict[str, Tensor]:
    """The state of an encoder with convolutions and matrices in fp16.

    Vectors (norm layers, biases), a thousandth of the size, keep their precision, and integer tables (a Swin
    transformer's positions) their type.
    """
    state = encoder.state_dict()
    return {
        name: (v.half() if v.ndim > 1 and v.is_floating_point() else v).cpu().contiguous() for name, v in state.items()
    }
