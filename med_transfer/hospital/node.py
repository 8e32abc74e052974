"""The running node: receive -> queue -> predict -> results -> send, in separate threads connected by the queue."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from med_transfer.errors import OutputError, ScanError
from med_transfer.errors.numbers import counted
from med_transfer.hospital.bundles import Bundles
from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.drift import DriftWatch
from med_transfer.hospital.health import HealthServer, Pulse
from med_transfer.hospital.incoming import describe_earlier, forget, forget_aside, sweep
from med_transfer.hospital.pacs import PacsFailed
from med_transfer.hospital.peers import pacs_of, sender_to
from med_transfer.hospital.queue import Queue, Study
from med_transfer.hospital.receiver import Receiver
from med_transfer.hospital.routing import Routing, removed_routes_message
from med_transfer.hospital.server import disk_is_full
from med_transfer.hospital.stow import StowServer
from med_transfer.hospital.workitems.performer import Performer

log = logging.getLogger(__name__)

_POLL_SECONDS, _TIDY_SECONDS = 0.25, 3600.0
_ANNOUNCED_SECONDS = 30 * 86400.0  # that announced images are remembered while none has arrived


class Node:
    """A bundle behind a PACS.

    Args:
        config: node.yaml.
        bundle: the bundle to start with if none is in use yet; None: the one in use.
        device: auto, cpu or cuda.
        key: public key that every bundle must be signed with; None: any.

    Raises:
        BundleError: a bundle cannot be loaded.
        ConfigError: no bundle is in use, or one needs more than images; or a token or certificate cannot be read.
        OutputError: the folder cannot be written.
    """

    def __init__(
        self, config: NodeConfig, bundle: Path | None = None, device: str = "auto", key: Path | None = None
    ) -> None:
        self._config, self._stopped = config, threading.Event()
        self.queue = Queue(config.queue_file, config.retries)
        self._bundles = Bundles(config, self.queue, bundle, device, key)
        self._routing = Routing(config, self.queue, self._bundles)
        self._warn_of_codes()
        if message := removed_routes_message(self.queue.follow_renamed_routes(self._bundles.marks)):
            log.warning(message)
        self._drift = DriftWatch(config)
        sweep(config.folder, self.queue)
        describe_earlier(config.folder, self.queue)
        senders = () if config.shadow else config.receivers
        self._senders = {one.name: sender_to(one, config, self.queue) for one in senders}
        self._pacs = pacs_of(config, self.queue)
        self._performer: Performer | None = None
        self._tidy_at = 0.0
        self._threads: list[threading.Thread] = []
        self._pulse = Pulse(config.metrics.stuck_seconds if config.metrics else float("inf"))

    def _warn_of_codes(self) -> None:
        """Warn of class names in node.yaml that no bundle has: a misspelt one would silently get a private code."""
        known = {name for predictor in self._bundles.predictors.values() for name in predictor.record.classes}
        if unknown := sorted(self._config.results.codes.keys() - known):
            log.warning("results.codes: %s, and no bundle has such a class", ", ".join(unknown))

    def start(self) -> None:
        """Open the ports and start all threads. Raises ConfigError if a port or certificate cannot be used."""
        self._receiver = Receiver(self._config, self.queue)
        self._servers: list[Receiver | StowServer | HealthServer | Performer] = [self._receiver]
        try:
            if self._config.web:
                self._servers.append(StowServer(self._config, self._config.web, self.queue))
            if self._config.metrics:
                self._servers.append(HealthServer(self._config, self._config.metrics, self.readiness, self._pulse))
            if self._config.workitems:
                self._performer = Performer(self._config, self._config.workitems, self.queue, self._pacs)
                self._servers.append(self._performer)
        except BaseException:
            self._close_servers()
            raise
        self.queue.listening(time.time())
        jobs: dict[str, Callable[[], object]] = {"predict": self._predict_due, "tidy": self._tidy_due}
        jobs |= {f"send to {name}": sender.send_due for name, sender in self._senders.items()}
        if self._pacs:
            jobs["ask the PACS"] = self._count_due
        if self._performer:
            jobs["perform work items"] = self._performer.work_due
        for name, job in jobs.items():
            self._pulse.beat(name)
            thread = threading.Thread(target=self._repeat, args=(job,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> bool:
        """Close the ports, finish the work in progress, and leave the rest in the queue.

        Returns False if work was still in progress after ``stop_seconds``. It stays in the queue, too, but its thread
        is still running, so that the process should exit.
        """
        self._stopped.set()
        self._close_servers()
        deadline = time.monotonic() + self._config.stop_seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        at_work = [thread.name for thread in self._threads if thread.is_alive()]
        if at_work:
            log.warning("stopped while at work, which is left in the queue: %s", ", ".join(at_work))
            return False
        self.queue.close()
        return True

    def _close_servers(self) -> None:
        for server in self._servers:
            server.close()

    def readiness(self) -> dict[str, bool]:
        """The conditions for receiving and processing a study, and whether each is met."""
        return {
            "bundle": set(self._bundles.predictors) == set(self._config.rules_by_route),
            "port": self._receiver.is_open and not self._stopped.is_set(),
            "disk": not disk_is_full(self._config),
        }

    def _repeat(self, job: Callable[[], object]) -> None:
        name = threading.current_thread().name
        while not self._stopped.is_set():
            self._pulse.beat(name)
            try:
                job()
            except Exception as error:  # if the thread ended, its job would never be done again
                log.error("unexpected %s; the node continues", type(error).__name__)
                log.debug("unexpected", exc_info=True)
                self._stopped.wait(_POLL_SECONDS * 10)
            self._stopped.wait(_POLL_SECONDS)

    def _predict_due(self) -> None:
        while not self._stopped.is_set() and (study := self._next_study()):
            self._pulse.beat(threading.current_thread().name)
            self.predict(study)

    def _tidy_due(self) -> None:
        """Once an hour, drop results without a destination, and delete files past their retention."""
        if time.monotonic() < self._tidy_at:
            return
        if abandoned := self.queue.abandon([one.name for one in self._config.receivers], time.time()):
            log.error("%d results are for destinations that node.yaml does not name", abandoned)
        self.queue.release([one.name for one in self._config.destinations if one.storage_commitment], time.time())
        self.queue.correct_times(time.time())
        self.queue.forget_announced(time.time() - _ANNOUNCED_SECONDS)
        if self._config.study.keep_days is not None:
            before = time.time() - self._config.study.keep_days * 86400
            forget(self._config.folder, self.queue, before)
            forget_aside(self._config.folder, self.queue, before)
        self._tidy_at = time.monotonic() + _TIDY_SECONDS

    def _next_study(self) -> Study | None:
        """The next study to predict, looked up anew each time, since an urgent one may have arrived."""
        now, rules = time.time(), self._config.study
        self.queue.complete(now, rules.quiet_seconds, rules.longest_seconds, counting=self._pacs is not None)
        return self.queue.to_predict(now)

    def _count_due(self) -> None:
        """Ask the PACS which images it has of studies whose quiet time is over."""
        assert self._pacs is not None
        for study in self.queue.to_count(time.time(), self._config.study.quiet_seconds):
            if self._stopped.is_set():
                return
            self._pulse.beat(threading.current_thread().name)  # each may take until the time-out
            try:
                self.queue.counted(study, self._pacs.images(study.study_uid), time.time())
            except Exception as error:  # one study must not block the others
                reason = error.reason if isinstance(error, PacsFailed) else f"unexpected_{type(error).__name__}"
                log.warning("the PACS does not say what a study holds: %s", reason)
                self.queue.not_counted(study, f"pacs_{reason}")
                self._stopped.wait(self._config.retries.first_seconds)

    def predict(self, study: Study) -> None:
        """Predict a complete study, and write its results for the senders."""
        if self._lost(study) or self.queue.deleted(study.id):
            self.queue.not_predicted(study, "images_deleted", time.time())
            return
        try:
            self._predict(study)
        except ScanError as error:
            log.warning("study %s: %s", study.id, type(error).__name__, extra={"study": study.id})
            self.queue.not_predicted(study, type(error).__name__, time.time())
        except OutputError:  # a full disk must not make the study a dead letter within a minute
            log.error("study %s: its results cannot be written", study.id, extra={"study": study.id})
            self.queue.not_predicted(study, "OutputError", time.time(), for_good=False)
        except Exception as error:
            log.error("study %s: unexpected %s", study.id, type(error).__name__, extra={"study": study.id})
            log.debug("unexpected", exc_info=True, extra={"study": study.id})
            self.queue.not_predicted(study, f"unexpected_{type(error).__name__}", time.time())

    def _lost(self, study: Study) -> bool:
        """Whether files that the queue lists are missing; an incomplete study must not be predicted as if complete."""
        lost = [file for file in self.queue.files(study.id) if not (self._config.folder / file).is_file()]
        if lost:
            what = counted(len(lost), "image")
            log.error("study %s: %s not on the disk", study.id, what, extra={"study": study.id})
            self.queue.lost(study.id, lost)
        return bool(lost)

    def _predict(self, study: Study) -> None:
        config = self._config
        self._bundles.refresh()
        made = self._routing.answers(study)
        results = [result for own in made.values() for result in own.results]
        answers = [answer for own in made.values() for answer in own.answers]
        destinations = [(d.name, d.storage_commitment) for d in config.destinations if not config.shadow]
        destinations += [(server.name, False) for server in config.fhir if not config.shadow]
        since = {"since_received": self._since_received(study)}
        not_wanted: list[Mapping[str, object]] = [{"status": "rejected", "reason": "no route wants it"}]
        entries = [{**facts, **since} for facts in [answer.facts for answer in answers] or not_wanted]
        counts = self.queue.predicted(study, results, destinations, time.time(), entries, answers)
        if counts and study.revision == 1:  # later revisions are not new scans of the stream
            for route, predictor in self._bundles.predictors.items():
                self._drift.observe(self._bundles.marks[route], predictor, made[route].predictions)

    def _since_received(self, study: Study) -> float:
        """Seconds since the latest image of a study was written."""
        written = [image.stat().st_mtime for image in (self._config.folder / "incoming" / study.id).iterdir()]
        return round(max(0.0, time.time() - max(written, default=time.time())), 3)
