"""``node.yaml``: who may send, how studies are processed, and who gets results. By default nobody has access."""

from __future__ import annotations

import errno
import ipaddress
import itertools
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from med_transfer.config import load_config
from med_transfer.errors import ConfigError
from med_transfer.errors.numbers import counted
from med_transfer.hospital.settings.page import ReviewPage
from med_transfer.hospital.settings.peers import (
    AnyDestination,
    AnyPeer,
    Caller,
    FhirServer,
    Peer,
    Tls,
    WebPeer,
    WebServer,
)
from med_transfer.hospital.settings.value_types import Address, AETitle, CodedEntry, Port, Seconds, Section
from med_transfer.hospital.settings.workitems import Workitems
from med_transfer.scans.search.series_rules import SeriesRules

HeatMap = Literal["off", "plain", "checked"]


class Limits(Section):
    """What is too much.

    Attributes:
        associations: at one time.
        pdu_kib: largest PDU that is taken.
        network_seconds: without a byte from the other side, after which an association ends.
        instance_mib: largest instance.
        study_instances: most instances of a study.
        disk_free_gib: of the node's disk; below it nothing more is taken.
    """

    associations: Annotated[int, Field(ge=1, le=1000)] = 10
    pdu_kib: Annotated[int, Field(ge=4, le=1024)] = 128
    network_seconds: Seconds = 30.0
    instance_mib: Annotated[float, Field(gt=0)] = 256.0
    study_instances: Annotated[int, Field(ge=1)] = 20_000
    disk_free_gib: Annotated[float, Field(ge=0)] = 5.0


class StudyRules(Section):
    """When a study is complete, and which of its series are predicted.

    Attributes:
        quiet_seconds: without a new instance, after which a study counts as complete, unless more is expected: what a
            notification announced or the ``pacs`` has. One that was announced and is all here is not waited for.
        longest_seconds: without a new instance, after which a study is predicted although some is missing.
        series: rules as in ``configs/series``; None: every usable series is predicted.
        keep_days: after its end, for which a study's files are kept, and what was set aside; None: for good.
    """

    quiet_seconds: Seconds = 60.0
    longest_seconds: Seconds = 3600.0
    series: SeriesRules | None = None
    keep_days: Annotated[float, Field(ge=0)] | None = 7.0

    @model_validator(mode="after")
    def _check_longest_wait(self) -> StudyRules:
        if self.longest_seconds < self.quiet_seconds:
            raise ValueError(
                f"longest_seconds ({self.longest_seconds:g}) below quiet_seconds ({self.quiet_seconds:g}): a study "
                "would be predicted before its quiet time is over, and the PACS never asked what is missing"
            )
        return self


class Route(Section):
    """Which series go to one of several bundles; ``med-transfer node use BUNDLE --route NAME`` says which bundle.

    Attributes:
        name: of the route, in small letters.
        series: rules as in ``configs/series``; a study of which they choose nothing is none of this bundle's business.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
    series: SeriesRules


class Results(Section):
    """Which objects are made.

    Attributes:
        structured_report: Comprehensive 3D SR.
        secondary_capture: a page that every viewer shows.
        heat_map: of the page, by Grad-CAM: costs about three predictions; ``checked``: the page says when hiding what
            the map shows changes no more than hiding anything else does, for some twenty predictions more.
        segmentation: of what the map shows above half of its strongest value, which need not be a finding.
        parametric_map: the map itself; few viewers show it.
        key_objects: the slice where the map is strongest, of each series.
        encapsulated_pdf: the pages as a document.
        fhir: the answers as a FHIR R4 bundle of DiagnosticReport and Observations, for the servers of ``fhir``.
        of_rejected: an object also of a study that could not be predicted; in any case where it takes back an answer.
        codes: of classes, by name; one without gets a code of the private scheme 99MEDTRANSFER.
    """

    structured_report: bool = True
    secondary_capture: bool = True
    heat_map: HeatMap = "checked"
    segmentation: bool = False
    parametric_map: bool = False
    key_objects: bool = False
    encapsulated_pdf: bool = False
    fhir: bool = False
    of_rejected: bool = True
    codes: dict[str, CodedEntry] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_heat_map(self) -> Results:
        if self.heat_map == "off" and (self.segmentation or self.parametric_map or self.key_objects):
            raise ValueError("segmentation, parametric_map and key_objects are of the heat map, and heat_map is off")
        return self


class Retries(Section):
    """Of what fails but may do better later: the wait doubles from try to try, and is drawn from its upper half.

    Attributes:
        attempts: to send, after which a result is a dead letter; 100 take four days.
        predictions: attempts to predict, after which a study is one.
        first_seconds, longest_seconds: of the wait.
        commitment_seconds: for which an answer to a request for commitment is awaited.
    """

    attempts: Annotated[int, Field(ge=1)] = 100
    predictions: Annotated[int, Field(ge=1)] = 3
    first_seconds: Seconds = 10.0
    longest_seconds: Seconds = 3600.0
    commitment_seconds: Seconds = 300.0


class Metrics(Section):
    """What a monitor asks, by HTTP: ``/metrics`` for Prometheus, ``/live`` and ``/ready``. None of it names a patient.

    Attributes:
        bind, port: it listens on the loopback interface unless told.
        stuck_seconds: after which a thread that does not come back from its work is stuck, and ``/live`` says no.
    """

    bind: Address = "127.0.0.1"
    port: Port = 9464
    stuck_seconds: Seconds = 3600.0


class Log(Section):
    """What ``serve`` writes on stderr; no patient is named in it at any level.

    Attributes:
        format: ``json``: an object a line.
        level: from which on; ``debug`` shows where in the code something unexpected came from.
    """

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "warning"


class NodeConfig(Section):
    """All of it.

    Attributes:
        folder: for everything that the node keeps; made with access for its owner only.
        ae_title, bind, port: of the node; it listens on the loopback interface unless told.
        callers: who may send; nobody unless told.
        pacs: asked what a study holds (C-FIND, QIDO-RS) and for studies (C-MOVE, WADO-RS); may send what it was asked.
        web: takes images by STOW-RS, too.
        workitems: a worklist elsewhere whose items the node performs; none unless told.
        page: where people review results; none unless told.
        routes: which series go to which of several bundles; none: all that ``study.series`` chooses go to the only one.
        destinations: who gets results; nobody unless told.
        fhir: who gets results as FHIR resources; nobody unless told, and only with ``results.fhir``.
        shadow: predict and keep the results, and send none.
        metrics: figures, liveness and readiness for a monitor; nobody is told unless there is such a section.
        log: what is written on stderr.
        stop_seconds: for what is being done when the node is told to stop; the rest stays in the queue.
    """

    folder: Path
    ae_title: AETitle = "MEDTRANSFER"
    bind: Address = "127.0.0.1"
    port: Port = 11112
    callers: tuple[Caller, ...] = ()
    pacs: AnyPeer | None = None
    web: WebServer | None = None
    workitems: Workitems | None = None
    page: ReviewPage | None = None
    tls: Tls | None = None
    limits: Limits = Limits()
    study: StudyRules = StudyRules()
    routes: tuple[Route, ...] = ()
    destinations: tuple[AnyDestination, ...] = ()
    fhir: tuple[FhirServer, ...] = ()
    results: Results = Results()
    retries: Retries = Retries()
    shadow: bool = False
    metrics: Metrics | None = None
    log: Log = Log()
    stop_seconds: Seconds = 20.0

    @model_validator(mode="after")
    def _check_sections(self) -> NodeConfig:
        if any(peer.tls for peer in self.dicom_peers) and self.tls is None:
            raise ValueError("a destination or pacs with tls, and no section tls with the node's certificate")
        if self.workitems and (self.shadow or not self.destinations):
            raise ValueError("workitems without a destination, or in shadow: their results would go nowhere")
        if self.fhir and not self.results.fhir:
            raise ValueError("servers in fhir, and results.fhir is off")
        names = [destination.name for destination in self.receivers]
        if len(set(names)) < len(names):
            raise ValueError("a destination twice")
        if len({route.name for route in self.routes}) < len(self.routes):
            raise ValueError("a route twice")
        if self.routes and self.study.series:
            raise ValueError("routes and study.series; expected the rules of each bundle in its route")
        return self

    @model_validator(mode="after")
    def _check_ports(self) -> NodeConfig:
        for (one, first), (other, second) in itertools.combinations(self.servers.items(), 2):
            if first.port == second.port and _share_an_address(first.bind, second.bind):
                raise ValueError(f"port {first.port} twice: {one}, {other}; expected one each")
        return self

    @property
    def servers(self) -> dict[str, NodeConfig | WebServer | Metrics | ReviewPage]:
        """What listens on a port of its own, by its section of node.yaml."""
        sections = {"the node's": self, "web": self.web, "metrics": self.metrics, "page": self.page}
        return {name: section for name, section in sections.items() if section is not None}

    @property
    def dicom_peers(self) -> tuple[Peer, ...]:
        """Peers that the node calls by DIMSE, and that may call back."""
        return tuple(peer for peer in (self.pacs, *self.destinations) if isinstance(peer, Peer))

    @property
    def web_peers(self) -> tuple[WebPeer | FhirServer, ...]:
        """Services that the node calls by HTTP."""
        worklist = self.workitems.service if self.workitems else None
        called = (self.pacs, *self.destinations, *self.fhir, worklist)
        return tuple(peer for peer in called if isinstance(peer, WebPeer | FhirServer))

    @property
    def receivers(self) -> tuple[AnyDestination | FhirServer, ...]:
        """All who get results."""
        return (*self.destinations, *self.fhir)

    @property
    def rules_by_route(self) -> dict[str, SeriesRules | None]:
        """Series rules by name of the route; without routes, those of the only bundle under the empty name."""
        return {route.name: route.series for route in self.routes} or {"": self.study.series}

    @property
    def queue_file(self) -> Path:
        """The database of studies, deliveries and the record."""
        return self.folder / "queue.sqlite"

    @property
    def access_file(self) -> Path:
        """The database of the page's users, sessions and audit record."""
        return self.folder / "access.sqlite"

    def bundle_copy(self, mark: str) -> Path:
        """Folder of the node's copy of a bundle."""
        return self.folder / "bundles" / mark

    def drift_folder(self, mark: str) -> Path:
        """Folder of a bundle's drift monitor."""
        return self.folder / "drift" / mark


def _share_an_address(one: str, other: str) -> bool:
    """Whether two servers on these addresses could not have the same port; the unspecified address is all of them."""
    return one == other or any(ipaddress.ip_address(address).is_unspecified for address in (one, other))


def port_error(error: OSError, bind: str, port: int, section: str = "") -> ConfigError:
    """The error for a port that is in use, or an address that is not this machine's."""
    where = f"{section}, {bind} port {port}" if section else f"{bind} port {port}"
    expected = "an address of this machine" if error.errno == errno.EADDRNOTAVAIL else "a free port"
    if error.errno == errno.EACCES:
        expected = "a port above 1023, or one that this user may open"
    return ConfigError(error.strerror or "cannot be opened", where=where, expected=expected)


def place_of(node: NodeConfig, route: str) -> str:
    """What an error names: the route, or the node's folder where there are no routes."""
    return f"route {route!r}" if route else str(node.folder)


def require_route(node: NodeConfig, route: str) -> None:
    """Raise ConfigError if node.yaml has no such route."""
    names = list(node.rules_by_route)
    if route not in names:
        if not route:
            found = f"has {counted(len(names), 'route')}, and none is named"
            raise ConfigError(found, where="node.yaml", expected=f"--route: {' or '.join(names)}")
        expected = f"one of {', '.join(names)}" if names != [""] else "no --route: node.yaml has no routes"
        raise ConfigError(f"no route {route!r}", where="node.yaml", expected=expected)


def read_node_config(path: Path) -> NodeConfig:
    """Read ``node.yaml``; relative paths in it are relative to its folder. Raises ConfigError."""
    return _resolve_paths(Path(os.path.abspath(path)).parent, load_config(NodeConfig, path))  # noqa: PTH100  no links


def _resolve_paths(base: Path, value: Any) -> Any:
    """Return the value with its relative paths made relative to ``base``."""
    if isinstance(value, Path):
        return base / value
    if isinstance(value, tuple):
        return tuple(_resolve_paths(base, item) for item in value)
    if isinstance(value, Section):
        return value.model_copy(update={name: _resolve_paths(base, item) for name, item in value})
    return value
