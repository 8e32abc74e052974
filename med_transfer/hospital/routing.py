"""Predictions of a study by each route's bundle, and withdrawal of the answers of routes that were removed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from med_transfer.bundle import BundleRecord, read_record
from med_transfer.errors import MedTransferError
from med_transfer.hospital.analysis import Analysis, analyse, withdrawal
from med_transfer.hospital.bundles import Bundles
from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.drift import drift_predictions
from med_transfer.hospital.pictures import keep_map
from med_transfer.hospital.queue import Queue, RemovedRouteAnswer, ResultFile, SeriesAnswer, Study
from med_transfer.hospital.result_header import ResultHeader
from med_transfer.hospital.results import basis_of, facts, write_results
from med_transfer.inference import Predictor
from med_transfer.predictions.record import Prediction

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RouteResults:
    """One route's result files, its answer for each series, and the predictions for its drift monitor."""

    results: Sequence[ResultFile] = ()
    answers: Sequence[SeriesAnswer] = ()
    predictions: Sequence[Prediction] = ()


@dataclass(frozen=True)
class _Route:
    """Name of a route, and mark, record and identity of its bundle."""

    name: str
    mark: str
    record: BundleRecord
    identity: str


def removed_routes_message(answers: Sequence[RemovedRouteAnswer]) -> str:
    """Message to the operator about answers of removed routes; empty if there are none. Renamed routes do not count."""
    answers = [one for one in answers if one.heir is None]
    if not answers:
        return ""
    routes = ", ".join(repr(route) for route in sorted({one.route for one in answers}))
    return (
        f"{len({one.study for one in answers})} studies have answers of routes that node.yaml does not name "
        f"({routes}); each stays as it is until its study is predicted anew, as by med-transfer node withdraw"
    )


class Routing:
    """Answers of all routes of one node."""

    def __init__(self, config: NodeConfig, queue: Queue, bundles: Bundles) -> None:
        self._config, self._queue, self._bundles = config, queue, bundles

    def answers(self, study: Study) -> dict[str, RouteResults]:
        """Answers by route: of the routes in node.yaml, and withdrawals for removed routes that have an answer."""
        gone = self._queue.follow_renamed_routes(self._bundles.marks, study.id)
        made = {route: self._predict_route(study, route, bundle) for route, bundle in self._bundles.predictors.items()}
        return made | {one.route: self._withdrawn(study, one) for one in gone}

    def _predict_route(self, study: Study, route: str, predictor: Predictor) -> RouteResults:
        """Predict for a route; empty if its rules choose no series and it has no earlier answer to withdraw."""
        config, rules = self._config, self._config.rules_by_route[route]
        missing = self._queue.missing(study.id)
        basis = basis_of(self._queue.instances(study.id), predictor.identity, config.results, rules, missing)
        others = bool(config.routes) and not self._queue.earlier_results(study, route)
        analyses = analyse(self._images(study), predictor, rules, config.results.heat_map, others)
        if not analyses:
            return RouteResults()
        analyses = [analysis.with_missing_images(missing) for analysis in analyses]
        own = _Route(route, self._bundles.marks[route], predictor.record, predictor.identity)
        return replace(
            self._written(study, own, basis, analyses), predictions=drift_predictions(analyses, study.study_uid)
        )

    def _withdrawn(self, study: Study, gone: RemovedRouteAnswer) -> RouteResults:
        """Withdraw a removed route's answer; empty if its bundle is gone, so that other routes still answer."""
        try:
            record = read_record(self._config.bundle_copy(gone.bundle))
        except MedTransferError as error:
            text = "study %s: the answer of route %r cannot be taken back: %s"
            log.error(text, study.id, gone.route, error.found, extra={"study": study.id})
            return RouteResults()
        basis = basis_of(
            self._queue.instances(study.id), gone.identity, self._config.results, self._config.study.series
        )
        own = _Route(gone.route, gone.bundle, record, gone.identity)
        return self._written(study, own, f"{basis} taken back", [withdrawal(self._images(study))])

    def _images(self, study: Study) -> Path:
        return self._config.folder / "incoming" / study.id

    def _written(self, study: Study, own: _Route, basis: str, analyses: Sequence[Analysis]) -> RouteResults:
        config, earlier = self._config, self._queue.earlier_results(study, own.name)
        header = ResultHeader.of(
            *(own.record, own.identity),
            study_uid=study.study_uid,
            basis=basis,
            revision=study.revision,
            station=config.ae_title,
        ).following(earlier)
        results = write_results(config.folder, analyses, header, config.results, earlier)
        answers = [
            SeriesAnswer(
                facts(analysis, own.identity, basis, results),
                *(own.name, own.mark, analysis.prediction.series_uid),
                keep_map(config.folder, study.id, basis, n, analysis),
            )
            for n, analysis in enumerate(analyses)
        ]
        return RouteResults([replace(result, route=own.name) for result in results], answers)
