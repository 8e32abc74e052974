"""A Ray cluster: run functions of this package on its machines, which share a folder at the same path.

::

    with cluster("head:6379") as machines:
        for job, result in machines.each(function, jobs, shared):
            ...

Each job is a Ray Core task, which Ray runs again elsewhere if its process or machine is lost. Every machine must have
the same version of this package installed.
"""

from __future__ import annotations

import io
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO, TypeVar

import torch

from med_transfer.bundle import versions
from med_transfer.errors import MedTransferError, UsageError, not_installed
from med_transfer.scans.isolation.limits import GIB, SECONDS
from med_transfer.scans.isolation.remarks import Remarks, collected_remarks, repeat_remarks
from med_transfer.scans.search.links import FOLLOW

log = logging.getLogger(__name__)

Job = TypeVar("Job")
Shared = TypeVar("Shared")
Result = TypeVar("Result")
AUTO = "auto"  # the cluster that runs on this machine, or that RAY_ADDRESS names
_ATTEMPTS = 3  # at a job whose process or machine is lost each time
_AHEAD = 2  # jobs per processor that are in progress, or done and not yet taken
_ANSWER_SECONDS, _CONNECT_SECONDS = 5.0, 60.0
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_task_oom_retries": str(_ATTEMPTS - 1),  # else a job that runs out of memory is retried for ever
}
_CONNECT = "import logging, sys, ray; ray.init({}, log_to_driver=False, logging_level=logging.CRITICAL)"


@dataclass(frozen=True)
class TaskLost:
    """Takes the place of a result if the job's process or machine was lost at every attempt."""

    why: str


def _settings() -> dict[str, str]:
    """This package's environment variables. Those that affect results are set to empty, which counts as unset, if they
    are not set here, so that they override a machine's own."""
    own = {name: text for name, text in os.environ.items() if name.startswith("MED_TRANSFER_")}
    return dict.fromkeys((SECONDS, GIB, FOLLOW), "") | own


@dataclass(frozen=True)
class Caller:
    """The calling process's working folder, package versions and environment, which a job needs on its machine, too."""

    folder: Path = field(default_factory=Path.cwd)
    versions: dict[str, str] = field(default_factory=versions)
    environment: dict[str, str] = field(default_factory=_settings)


@contextmanager
def cluster(address: str = AUTO) -> Iterator[Cluster]:
    """Connect to a running cluster.

    Args:
        address: host:port of its head node, or ``auto`` for the cluster that this machine is part of.

    If this process is connected to it already, the connection is used and stays.

    Raises:
        MissingExtra: Ray is not installed.
        UsageError: no cluster answers there, this machine cannot join it, or this process is connected to another one.
    """
    ray = _import_ray()
    if address != AUTO:
        _require_port(address)
    with _messages_to_log():
        connected = ray.is_initialized()  # by the user's own Python code
        if connected:
            _require_same_cluster(ray, address)
        else:
            _connect(ray, address)
        try:
            yield Cluster(ray, address)
        finally:
            if not connected:
                ray.shutdown()
                _handle_sigterm(signal.getsignal(signal.SIGTERM))


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process is connected to."""

    _ray: ModuleType
    address: str

    def each(
        self,
        function: Callable[[Job, Shared], Result],
        jobs: Iterable[Job],
        shared: Shared,
        *,
        cores: int = 1,
        gpus: float = 0.0,
        max_in_flight: int | None = None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Generator[tuple[Job, Result | TaskLost], None, None]:
        """Yield each job once with its result, in order of completion.

        The number of jobs in flight is bounded, however many there are; machines that join later get jobs, too.

        Args:
            function: module-level function, called with the job and ``shared`` on some machine.
            jobs: picklable objects, read only as they are needed.
            shared: sent to each machine once.
            cores: processor cores per job, and the number of threads that torch uses in it.
            gpus: GPUs per job.
            max_in_flight: maximum number of jobs in flight; None: twice as many as the cluster can run at once.
            meanwhile: called about once a second or more often; an exception that it raises ends the iteration.

        Raises:
            UsageError: no machine has that many cores, or one lacks this package or has another version of it.
            MedTransferError: raised by the function.
        """
        self._require_cores(cores)
        options = {"num_cpus": cores, "num_gpus": gpus, "max_retries": _ATTEMPTS - 1, "scheduling_strategy": "SPREAD"}
        task = self._ray.remote(**options)(_run)
        given, jobs, waiting = self._ray.put(shared), iter(jobs), {}
        caller = self._ray.put(Caller())
        try:
            while True:
                room = (max_in_flight or _AHEAD * max(1, self._n_cores() // cores)) - len(waiting)
                for job in islice(jobs, max(0, room)):
                    waiting[task.remote(function, job, given, caller, cores)] = job
                if not waiting:
                    return
                done, _ = self._ray.wait(list(waiting), timeout=1.0)
                meanwhile()
                for reference in done:
                    yield waiting.pop(reference), self._result(reference)
        finally:
            for reference in waiting:
                with suppress(Exception):  # the job, or the cluster, may just have ended
                    self._ray.cancel(reference, force=True)

    @property
    def n_machines(self) -> int:
        """Number of machines that are alive."""
        return sum(node["Alive"] for node in self._ray.nodes())

    def _result(self, reference: Any) -> Any:
        errors = self._ray.exceptions
        try:
            result, remarks = self._ray.get(reference)
        except errors.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, MedTransferError):
                raise cause from None
            raise _cannot_run(self.address, cause) from error
        except errors.RayError as error:
            return TaskLost(_first_sentence(error))
        repeat_remarks(remarks)
        return result

    def _n_cores(self) -> int:
        return int(self._ray.cluster_resources().get("CPU", 0))

    def _require_cores(self, cores: int) -> None:
        most_cores = max(
            (int(node["Resources"].get("CPU", 0)) for node in self._ray.nodes() if node["Alive"]), default=0
        )
        if most_cores < cores:
            raise UsageError(
                f"no machine of the cluster gives {cores} cores to its work, the largest {most_cores}",
                where=self.address,
                expected="a machine with as many as one job takes",
                action="ray start --num-cpus says how many a machine gives, OMP_NUM_THREADS how many a training takes",
            )


def _run(
    function: Callable[[Job, Shared], Result], job: Job, shared: Shared, caller: Caller, cores: int
) -> tuple[Result, Remarks]:
    """Run one job; executed on a machine of the cluster."""
    name = socket.gethostname()
    if (own := _own_versions()) != caller.versions:
        theirs = ", ".join(f"{package} {version}" for package, version in own.items())
        ours = ", ".join(f"{package} {version}" for package, version in caller.versions.items())
        raise UsageError(f"{theirs} installed", where=f"machine {name}", expected=f"{ours}, as where the run started")
    require_on_machine(caller.folder)
    os.chdir(caller.folder)
    os.environ.update(caller.environment)
    torch.set_num_threads(cores)
    with collected_remarks() as remarks:
        return function(job, shared), remarks


_own_versions = lru_cache(versions)


def require_on_machine(path: Path) -> None:
    """Raise UsageError if this machine of the cluster lacks a file or folder."""
    if not path.exists():
        raise UsageError(
            f"{path} is not there",
            where=f"machine {socket.gethostname()}",
            expected="scans, bundle, results and the folder that the command is started in at the same path on all",
            action="Put them on a drive that all machines of the cluster share",
        )


# Connecting ---------------------------------------------------------------------------------------------------


def _import_ray() -> ModuleType:
    for name, text in _ENVIRONMENT.items():
        os.environ.setdefault(name, text)
    try:
        import ray
    except ImportError as error:
        raise not_installed("ray", "ray", "--engine ray", instead="use --engine local") from error
    return ray


def _connect(ray: ModuleType, address: str) -> None:
    """Connect, after a trial in a separate process: if nothing answers, Ray retries for two minutes and then ends the
    process."""
    arguments = [sys.executable, "-c", _CONNECT.format(repr(address))]
    try:
        tried = subprocess.run(arguments, capture_output=True, text=True, timeout=_CONNECT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise _no_cluster(address, f"no answer of Ray within {_CONNECT_SECONDS:g} s") from None
    if tried.returncode:
        raise _no_cluster(address, _last_line(tried.stderr))
    before = signal.getsignal(signal.SIGTERM)
    ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, configure_logging=False)
    _handle_sigterm(before)


def _require_same_cluster(ray: ModuleType, address: str) -> None:
    """Raise UsageError if the process is connected to another cluster than that of the address."""
    here = ray.get_runtime_context().gcs_address
    if address == AUTO or _same_head(address, here):
        return
    raise UsageError(
        f"this process is already connected to the Ray cluster {here}",
        where=f"--ray-address {address}",
        expected=f"{here}, or {AUTO}",
        action="Call ray.shutdown() first, or leave the address out",
    )


def _same_head(address: str, here: str) -> bool:
    """Whether both are one head node; a loopback address is taken for this machine's, whose head has another one."""
    (host, _, port), (host_here, _, port_here) = address.rpartition(":"), here.rpartition(":")
    ip, ip_here = (ip_address(socket.getaddrinfo(name.strip("[]"), None)[0][4][0]) for name in (host, host_here))
    return port == port_here and (ip == ip_here or ip.is_loopback)


def _handle_sigterm(handler: Any) -> None:
    """Restore a SIGTERM handler. Ray replaces it, and on shutdown sets the system's default, which
    ``signal.getsignal`` does not show."""
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _require_port(address: str) -> None:
    """Raise UsageError if the address is malformed or nothing listens there."""
    parts = re.fullmatch(r"([^\s:/]+|\[[0-9a-fA-F:]+\]):(\d{1,5})", address)
    if parts is None:
        raise UsageError(repr(address), where="--ray-address", expected=f"HOST:PORT, or {AUTO}")
    try:
        socket.create_connection((parts[1].strip("[]"), int(parts[2])), timeout=_ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, str(error)) from error


def _no_cluster(address: str, why: str) -> UsageError:
    return UsageError(
        f"no Ray cluster there ({why})",
        where=f"--ray-address {address}",
        expected="the address of a running cluster that this machine is part of",
        action="Start one with: ray start --head; or use --engine local",
    )


def _cannot_run(address: str, error: BaseException) -> UsageError:
    return UsageError(
        f"a machine of the cluster cannot do its part ({type(error).__name__}: {_first_sentence(error)})",
        where=address,
        expected="med-transfer, of the same version and with the same packages, on every machine",
    )


def _first_sentence(error: BaseException) -> str:
    return re.split(r"\n|(?<=\w)\. ", str(error).strip(), maxsplit=1)[0][:300]


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no reason given"


@contextmanager
def _messages_to_log() -> Iterator[None]:
    """Send Ray's messages about lost machines to the log, to keep them out of the results on standard output."""
    with redirect_stdout(_Filtered(sys.stdout)):
        yield


class _Filtered(io.TextIOBase):
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Log a message of Ray, pass on any other text. Ray writes each message in a single call."""
        found = re.search(r"\((?:raylet|autoscaler)[^)]*\)\S* (.*)", text)
        if found is None:
            return self._stream.write(text)
        log.info("Ray: %s", found[1][:300])
        return len(text)

    def flush(self) -> None:
        self._stream.flush()
