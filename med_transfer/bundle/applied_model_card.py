"""The bundle's docs/applied_model_card.xml: the Coalition for Health AI's model card, filled in from the bundle.

Source: Applied Model Card, schema v0.1 (mc.chai.org, 2024). The schema requires every field; fields that only the
developer or the site can answer say so, and must be filled in before the card is published.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping

from med_transfer.bundle.record import BundleRecord
from med_transfer.errors.numbers import counted, rounded, threshold, whole_percent
from med_transfer.metrics.records.estimate import Estimate

NAMESPACE = "https://mc.chai.org/v0.1/schema.xsd"
TO_BE_FILLED_IN = "Not stated: to be filled in by whoever releases the model."
_REPORT = "report.html and metrics.json of the run"

Fields = Mapping[str, "str | Fields"]


def applied_model_card(record: BundleRecord) -> str:
    """Return the model card as XML; it contains no patient name and no path."""
    ElementTree.register_namespace("", NAMESPACE)
    root = ElementTree.Element(f"{{{NAMESPACE}}}AppliedModelCard")
    _add(root, _fields(record))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _add(parent: ElementTree.Element, fields: Fields) -> None:
    for name, value in fields.items():
        child = ElementTree.SubElement(parent, f"{{{NAMESPACE}}}{name}")
        if isinstance(value, str):
            child.text = _characters(value)
        else:
            _add(child, value)


def _characters(text: str) -> str:
    """Replace characters that XML 1.0 does not allow, which a class name may contain."""
    return "".join(one if one in "\t\n\r" or 0x20 <= ord(one) < 0xD800 or ord(one) > 0xDFFF else "?" for one in text)


def _fields(record: BundleRecord) -> Fields:
    classes = ", ".join(record.classes)
    return {
        "BasicInfo": {
            "ModelName": f"Classifier of {classes}",
            "ModelDeveloper": TO_BE_FILLED_IN,
            "DeveloperContact": TO_BE_FILLED_IN,
        },
        "ReleaseInfo": {
            "ReleaseStage": "Research",
            "ReleaseDate": TO_BE_FILLED_IN,
            "ReleaseVersion": f"weights {record.weights_sha256[:16]}",
            "GlobalAvailability": TO_BE_FILLED_IN,
            "RegulatoryApproval": "None. Not a medical device.",
        },
        "ModelSummary": {
            "Summary": _summary(record),
            "Keywords": {"Keyword": "medical imaging classification"},
        },
        "UsesAndDirections": {
            "IntendedUseAndWorkflow": record.intended_use,
            "PrimaryIntendedUsers": "Researchers. Every answer must be reviewed by a physician who sees the images.",
            "HowToUse": "med-transfer predict BUNDLE SCANS -o OUT; behind a PACS: serve BUNDLE -c node.yaml",
            "TargetedPatientPopulation": _population(record),
            "CautionedOutOfScopeSettings": "Scans that differ from the cohort in spacing, scanner, body part or "
            f"disease. The network accepts {record.preprocessing.modality or 'any modality'}.",
        },
        "Warnings": {
            "KnownRisksAndLimitations": "May be wrong, even when confident. Wrong answers at the operating point are "
            f"as frequent as KeyMetrics says, on other scans more frequent: {_REPORT}.",
            "KnownBiasesOrEthicalConsiderations": f"Rates by subgroup: {_REPORT}. Groups that are not in the "
            "cohort were not examined.",
            "ClinicalRiskLevel": TO_BE_FILLED_IN,
        },
        "TrustIngredients": {"AISystemFacts": _facts(record), "TransparencyInformation": _transparency(record)},
        "KeyMetrics": _metrics(record),
        "Resources": {
            "EvaluationReferences": f"{_REPORT}; cohort {record.trained_on.cohort_hash}",
            "PeerReviewedPublications": TO_BE_FILLED_IN,
            "PatientConsentOrDisclosure": TO_BE_FILLED_IN,
        },
        "Bibliography": TO_BE_FILLED_IN,
    }


def _summary(record: BundleRecord) -> str:
    calibrated = "a probability" if record.calibration.method == "none" else "a calibrated probability"
    abstains = ", and abstains if the scan is unlike the development scans"
    return (
        f"{record.intended_use} Gives {calibrated} of each class ({', '.join(record.classes)}) for one scan"
        f"{'' if record.abstain_above_novelty is None else abstains}."
    )


def _facts(record: BundleRecord) -> Fields:
    backbone, preprocessing = record.backbone, record.preprocessing
    foundation = (
        f"{backbone.name}, weights {backbone.weights}, licence {backbone.licence}" if backbone.weights else "none"
    )
    return {
        "OutcomesAndOutputs": f"Probability of {', '.join(record.classes)}; a call by {record.operating_point}",
        "ModelType": f"Neural network ({backbone.name}), {record.n_fold_models} averaged, {record.calibration}",
        "FoundationModels": foundation,
        "InputDataSource": "CT or other volumetric scans, as DICOM or NIfTI",
        "OutputAndInputDataTypes": f"In: {' x '.join(map(str, preprocessing.shape))} voxels. Out: numbers and a class.",
        "DevelopmentDataCharacterization": _population(record),
        "BiasMitigationApproaches": "Patients are kept apart between folds. What prevalence alone, handcrafted "
        f"features and a network from scratch would do: {_REPORT}.",
        "OngoingMaintenance": (
            "None by itself: the bundle does not change. predict --monitor watches for drift; node use replaces the "
            "bundle, and node rollback restores the previous one."
        ),
        "Security": "No pickle; hashes of all files in the record; may be signed (bundle sign).",
        "Transparency": "med_transfer.json in the bundle contains every decision, and a lock on them.",
    }


def _transparency(record: BundleRecord) -> Fields:
    return {
        "FundingSource": TO_BE_FILLED_IN,
        "ThirdPartyInformation": f"Backbone from {record.backbone.source}, licence {record.backbone.licence}",
        "StakeholdersConsulted": TO_BE_FILLED_IN,
    }


def _population(record: BundleRecord) -> str:
    profile = record.development
    if profile is None:
        return TO_BE_FILLED_IN
    shares = ", ".join(f"{name} {whole_percent(share)}" for name, share in profile.prevalence.items())
    return (
        f"{counted(profile.n_scans, 'scan')} of {counted(profile.n_patients, 'patient')}; share of the scans: {shares}"
    )


def _metrics(record: BundleRecord) -> Fields:
    point = record.chosen_point
    process = "Each validation scan predicted by a network that was not trained on any scan of its patient."
    if point is None:
        known, data, goal = TO_BE_FILLED_IN, TO_BE_FILLED_IN, str(record.operating_point)
    else:
        rates = [("sensitivity", point.sensitivity), ("specificity", point.specificity)]
        known = "; ".join(f"{what} of {name} {_rate_text(rate)}" for what, of in rates for name, rate in of.items())
        data, goal = f"{counted(point.n_scans, 'validation scan')} of {counted(point.n_patients, 'patient')}", point.aim
    elsewhere = {
        "TestType": "Internal",
        "TestingDataDescription": _REPORT,
        "ValidationProcessAndJustification": _REPORT,
    }
    novelty = record.abstain_above_novelty
    return {
        "UsefulnessUsabilityEfficacy": {
            "MetricGoal": goal,
            "Result": known,
            "Interpretation": "If the operating point was chosen on these scans, the rates tend to be too high.",
            "TestType": "Internal",
            "TestingDataDescription": data,
            "ValidationProcessAndJustification": process,
        },
        "FairnessEquity": {
            "MetricGoal": "Rates of each subgroup with their intervals",
            "Result": f"Not in the bundle: {_REPORT}.",
            "Interpretation": "A small subgroup has a wide interval, which does not show equality.",
            **elsewhere,
        },
        "SafetyReliability": {
            "MetricGoal": "No answer if the scan is unlike the development scans",
            "Result": f"Abstains above novelty {threshold(novelty)}"
            if novelty is not None
            else "Does not abstain for novelty.",
            "Interpretation": "Novelty detects some unlike scans, not all.",
            **elsewhere,
        },
    }


def _rate_text(rate: Estimate) -> str:
    if rate.value is None:
        return "not known"
    limits = " to ".join(rounded(limit, 3) for limit in rate.interval or ())
    return rounded(rate.value, 3) + (f" ({limits}, 95 %)" if limits else "")
