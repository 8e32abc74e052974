"""The bundles that the node uses: copied into its folder, named in its record, and replaceable while it runs.

Earlier bundles stay there, so that ``node rollback`` needs only a mark. A restart continues with the bundles in use.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from pathlib import Path

from med_transfer.atomic import output_error, sha256_of
from med_transfer.atomic.partial_files import partial_path
from med_transfer.bundle import bundle_folder
from med_transfer.errors import ConfigError, MedTransferError
from med_transfer.hospital.analysis import require_usable
from med_transfer.hospital.config import NodeConfig, place_of, require_route
from med_transfer.hospital.queue import Queue
from med_transfer.hospital.updates import switch_bundle
from med_transfer.inference import Predictor, load_bundle

log = logging.getLogger(__name__)


def bundle_mark(bundle: Path) -> str:
    """Hash of the names and contents of a bundle's files, 16 hexadecimal digits; the node's name for the bundle."""
    folder = bundle_folder(bundle)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{path.relative_to(folder).as_posix()} {sha256_of(path)}" for path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def use(node: NodeConfig, queue: Queue, bundle: Path, route: str = "", key: Path | None = None) -> str:
    """Copy a bundle into the node's folder and put it into use; return its mark.

    Raises:
        ConfigError: node.yaml has no such route, or the bundle needs more than images, see :func:`require_usable`.
        BundleError: it is not a bundle, or is not signed with that key.
        OutputError: the copy cannot be written.
    """
    require_route(node, route)
    require_usable(load_bundle(bundle, "cpu", key), bundle)
    mark = bundle_mark(bundle)
    copy = node.bundle_copy(mark)
    if not copy.exists():
        unfinished = partial_path(copy)
        try:
            shutil.copytree(bundle_folder(bundle), unfinished)
            unfinished.rename(copy)
        except OSError as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise output_error(copy, error) from error
    if queue.bundles(route)[:1] != [mark]:
        switch_bundle(node, queue, route, mark, "bundle in use")
    return mark


class Bundles:
    """The loaded predictors of the bundles in use.

    Args:
        node: node.yaml.
        queue: stores which bundles are in use.
        bundle: the bundle to start with if none is in use yet; None: the one in use.
        device: auto, cpu or cuda.
        key: public key that every bundle must be signed with; None: any.

    Raises:
        ConfigError: no bundle is in use for a route, a bundle other than ``bundle`` is in use, or one needs more than
            images.
        BundleError: a bundle cannot be loaded.
    """

    def __init__(
        self, node: NodeConfig, queue: Queue, bundle: Path | None = None, device: str = "auto", key: Path | None = None
    ) -> None:
        self._node, self._queue, self._device, self._key = node, queue, device, key
        self._loaded: dict[str, tuple[str, Predictor]] = {}
        self._failed: dict[str, int] = {}  # by route, the use of a bundle that could not be loaded; not tried again
        if bundle is not None:
            self._begin_with(bundle)
        for route in node.rules_by_route:
            marks = queue.bundles(route)
            if not marks:
                option = f" --route {route}" if route else ""
                action = f"Run: med-transfer node use BUNDLE{option} -c node.yaml"
                raise ConfigError("no bundle is in use", where=place_of(node, route), action=action)
            self._load(route, marks[0])

    def _begin_with(self, bundle: Path) -> None:
        known = self._queue.bundles("")
        if self._node.routes or not known:
            use(self._node, self._queue, bundle, "", self._key)
        elif known[0] != bundle_mark(bundle):
            raise ConfigError(
                f"the node uses another bundle ({known[0]})",
                where=bundle,
                action="Run med-transfer node use with this one, or serve without naming one",
            )

    def _load(self, route: str, mark: str) -> None:
        folder = self._node.bundle_copy(mark)
        predictor = load_bundle(folder, self._device, self._key)
        require_usable(predictor, folder)
        self._loaded[route] = mark, predictor

    def refresh(self) -> None:
        """Load bundles that have been put into use since; if one cannot be loaded, its predecessor stays at work."""
        for route, (mark, _) in list(self._loaded.items()):
            wanted, use_number = self._queue.bundles(route)[0], self._queue.latest_use(route)
            if wanted == mark or use_number == self._failed.get(route):
                continue
            try:
                self._load(route, wanted)
                log.info("bundle %s is at work", wanted)
            except Exception as error:  # also MemoryError, as both are loaded: predictions must go on
                self._failed[route] = use_number
                why = error.found if isinstance(error, MedTransferError) else type(error).__name__
                log.error("bundle %s cannot be used, the node continues with %s: %s", wanted, mark, why)

    @property
    def predictors(self) -> dict[str, Predictor]:
        """The predictor at work for each route."""
        return {route: predictor for route, (_, predictor) in self._loaded.items()}

    @property
    def marks(self) -> dict[str, str]:
        """The mark of the bundle at work for each route."""
        return {route: mark for route, (mark, _) in self._loaded.items()}
