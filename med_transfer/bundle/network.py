"""Build the network of a bundle and load its weights."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from med_transfer.backbones import backbones
from med_transfer.backbones.adapters import add_adapters
from med_transfer.backbones.channels import coloured, widened
from med_transfer.backbones.instance_choice import InstanceChoice
from med_transfer.backbones.instance_pooling import answering, built_with
from med_transfer.backbones.networks.nnunet import NNUNetEncoder
from med_transfer.backbones.weights.matching import all_finite
from med_transfer.backbones.weights.skip_initialisation import SkipInitialisation
from med_transfer.bundle.files import WEIGHTS_FILE, read_whole, run_folder
from med_transfer.bundle.record import RECORD_FILE, BundleRecord
from med_transfer.bundle.signature import verify_bundle
from med_transfer.errors import BundleError
from med_transfer.errors.sentence import few
from med_transfer.model.classifier import Classifier
from med_transfer.model.ensemble import Ensemble
from med_transfer.model.novelty import Novelty

log = logging.getLogger(__name__)


def load_network(bundle_root: Path | str, public_key: Path | str | None = None) -> Ensemble:
    """Load a bundle's network, in evaluation mode, on the CPU.

    An unsigned bundle outside the run that made it is logged as a warning, since it may come from anywhere.

    Args:
        bundle_root: the bundle's folder.
        public_key: public key file of the required signer; None also accepts an unsigned bundle.

    Raises:
        BundleError: weights are missing, changed, of another network, or not finite; or the signature is invalid, or
            not by the required key.
        UsageError: the public key cannot be read.
    """
    folder = Path(bundle_root)
    record, weights = read_whole(folder), folder / WEIGHTS_FILE
    signer = verify_bundle(folder, public_key)
    if signer is not None:
        log.info("%s is signed with key %s", folder, signer.fingerprint)
    elif run_folder(folder) is None:
        log.warning("%s is unsigned: nothing proves who made it or last changed it", folder)
    try:
        tensors = load_file(weights)
        tensors.pop("temperature", None)  # stored among the weights by versions that had no other calibration
        held = len({name.partition(".")[0] for name in tensors if name.startswith("member")})
        if held != record.n_fold_models:  # checked before any network is built
            raise RuntimeError(f"{held} networks, not {record.n_fold_models}")
        statistics = tensors.get("novelty0.input_mean", ())
        with SkipInitialisation():
            ensemble = _empty_network(record, len(statistics))
        if record.encoders:
            ensemble.share_encoders(record.encoders)
        _fill(ensemble, tensors)
    except (RuntimeError, ValueError, SafetensorError) as error:
        raise BundleError(f"weights do not fit {record.backbone.name}: {str(error)[:200]}", where=weights) from None
    broken = [name for name, tensor in tensors.items() if not all_finite(tensor)]
    if broken:
        raise BundleError(
            f"{broken[0]} has values that are NaN or infinite",
            where=weights,
            expected="finite weights",
            action="Train it again, with a lower learning rate",
        )
    return ensemble.eval() if record.encoders else ensemble.eval().share_encoders(ensemble.equal_encoders())


def _fill(ensemble: Ensemble, tensors: dict[str, Tensor]) -> None:
    """Load the weights, those of a shared encoder once. Raises RuntimeError if names do not match the network's."""
    shared = ensemble.state_dict().keys() - ensemble.distinct_tensors().keys()
    missing, unexpected = ensemble.load_state_dict(tensors, strict=False)
    others = {*unexpected, *missing} - shared | (shared & tensors.keys())
    if others:
        raise RuntimeError(f"{few(sorted(others), 3)} of the file or of the network alone")


def _empty_network(record: BundleRecord, n_statistics: int) -> Ensemble:
    spec = backbones().get(record.backbone.name)
    if spec is None:
        raise BundleError(
            f"backbone {record.backbone.name!r} is unknown to this version",
            where=RECORD_FILE,
            action="Update med-transfer",
        )
    pooled, plan = record.backbone.pooled_stages, record.backbone.plan
    plain = partial(NNUNetEncoder, plan.architecture) if plan else spec.build
    build = coloured(plain) if record.backbone.as_colours else widened(plain, record.preprocessing.n_channels)
    build = built_with(build, InstanceChoice(record.backbone.instance_pooling, record.backbone.tile_overlap))
    build = answering(build, published=record.backbone.published) if record.backbone.answers else build
    bottleneck = record.transfer.bottleneck if record.transfer else None
    classifiers = [
        Classifier(build(), len(record.classes), pooled, bottleneck=bottleneck) for _ in range(record.n_fold_models)
    ]
    if record.transfer and record.transfer.adapter_reduction:
        for classifier in classifiers:
            add_adapters(classifier.encoder, record.transfer.adapter_reduction)
    novelties = [Novelty(classifier.n_features, n_statistics) for classifier in classifiers]
    return Ensemble(classifiers, novelties, multilabel=record.multilabel, calibrator=record.calibration)
