"""The model card of the Coalition for Health AI: valid, true, and open about what only others can state."""

from __future__ import annotations

from pathlib import Path

import pytest
import xmlschema
from tiny_bundle import tiny_bundle

from med_transfer.bundle import read_record
from med_transfer.bundle.applied_model_card import NAMESPACE, TO_BE_FILLED_IN, applied_model_card
from med_transfer.metrics.records.decisions import ChosenPoint
from med_transfer.metrics.records.domain import CohortProfile
from med_transfer.metrics.records.estimate import Estimate
from med_transfer.model.calibration import TemperatureScaling

_METRIC = "MetricGoal Result Interpretation TestType TestingDataDescription ValidationProcessAndJustification"
# Elements of schema v0.1 in their order, "?" where one may be missing; every leaf is text.
OUTLINE: dict[str, str | dict[str, str]] = {
    "BasicInfo": "ModelName ModelDeveloper DeveloperContact",
    "ReleaseInfo": "ReleaseStage ReleaseDate ReleaseVersion GlobalAvailability RegulatoryApproval?",
    "ModelSummary": {"Summary": "", "Keywords": "Keyword*"},
    "UsesAndDirections": "IntendedUseAndWorkflow PrimaryIntendedUsers HowToUse TargetedPatientPopulation "
    "CautionedOutOfScopeSettings",
    "Warnings": "KnownRisksAndLimitations KnownBiasesOrEthicalConsiderations ClinicalRiskLevel",
    "TrustIngredients": {
        "AISystemFacts": "OutcomesAndOutputs ModelType FoundationModels? InputDataSource OutputAndInputDataTypes "
        "DevelopmentDataCharacterization BiasMitigationApproaches OngoingMaintenance Security? Transparency?",
        "TransparencyInformation": "FundingSource ThirdPartyInformation? StakeholdersConsulted",
    },
    "KeyMetrics": {"UsefulnessUsabilityEfficacy": _METRIC, "FairnessEquity": _METRIC, "SafetyReliability": _METRIC},
    "Resources": "EvaluationReferences? ClinicalTrial? PeerReviewedPublications ReimbursementStatus? "
    "PatientConsentOrDisclosure",
    "Bibliography": "",
}
NO_TEXT = "\x1f\t\ud7ff\ud800\udfff\ue000"  # the first, the fourth and the fifth have no place in XML
_HOW_OFTEN = {"?": ' minOccurs="0"', "*": ' minOccurs="0" maxOccurs="unbounded"'}


def _element(name: str, content: str | dict[str, str] | dict[str, str | dict[str, str]]) -> str:
    often = _HOW_OFTEN.get(name[-1], "")
    children = dict.fromkeys(content.split(), "") if isinstance(content, str) else content
    if not children:
        return f'<xs:element name="{name.rstrip("?*")}" type="xs:string"{often}/>'
    inside = "".join(_element(child, of_child) for child, of_child in children.items())
    return (
        f'<xs:element name="{name}"><xs:complexType><xs:sequence>{inside}</xs:sequence></xs:complexType></xs:element>'
    )


@pytest.fixture(scope="module")
def schema() -> xmlschema.XMLSchema:
    """Theirs in outline, less the signature."""
    head = f'<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema" targetNamespace="{NAMESPACE}" elementFormDefault='
    return xmlschema.XMLSchema(f'{head}"qualified">{_element("AppliedModelCard", OUTLINE)}</xs:schema>')


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("card") / "bundle")


def test_the_bundles_own_card_is_valid(bundle, schema):
    card = bundle / "docs/applied_model_card.xml"
    schema.validate(card)
    assert "docs/applied_model_card.xml" in read_record(bundle).files
    without = card.read_text().replace("<DeveloperContact>", "<Other>").replace("</DeveloperContact>", "</Other>")
    assert not schema.is_valid(without)


def test_it_claims_neither_abstention_nor_calibration_where_there_is_none(bundle, schema):
    record = read_record(bundle)
    plain = schema.to_dict(applied_model_card(record))["ModelSummary"]["Summary"]
    assert plain.endswith("Gives a probability of each class (benign, malignant) for one scan.")
    changes = {"abstain_above_novelty": 0.95, "calibration": TemperatureScaling(temperature=2.0)}
    other = schema.to_dict(applied_model_card(record.model_copy(update=changes)))["ModelSummary"]["Summary"]
    assert "Gives a calibrated probability of each class" in other
    assert other.endswith("for one scan, and abstains if the scan is unlike the development scans.")


def test_what_the_record_does_not_know_is_left_to_be_filled_in(bundle, schema):
    """An older bundle has neither a profile of its cohort nor rates at its operating point."""
    card = schema.to_dict(applied_model_card(read_record(bundle)))
    usefulness = card["KeyMetrics"]["UsefulnessUsabilityEfficacy"]
    assert {
        card["UsesAndDirections"]["TargetedPatientPopulation"],
        card["TrustIngredients"]["AISystemFacts"]["DevelopmentDataCharacterization"],
        *(usefulness["Result"], usefulness["TestingDataDescription"]),
    } == {TO_BE_FILLED_IN}


def test_what_it_says_is_what_the_record_says(bundle, schema):
    record, rate = read_record(bundle), Estimate(value=0.81, ci95=(0.7, 0.89), method="Wilson")
    point = ChosenPoint(
        rule="argmax",
        n_scans=80,
        n_patients=60,
        sensitivity={"malignant": rate},
        specificity={"malignant": Estimate(value=None, ci95=None, method="Wilson", reason="no scan")},
    )
    profile = CohortProfile(n_scans=100, n_patients=70, prevalence={"benign": 0.75, f"<malignant>{NO_TEXT}": 0.25})
    text = applied_model_card(record.model_copy(update={"chosen_point": point, "development": profile}))
    card = schema.to_dict(text)
    metrics = card["KeyMetrics"]["UsefulnessUsabilityEfficacy"]
    assert metrics["Result"] == (
        "sensitivity of malignant 0.810 (0.700 to 0.890, 95 %); specificity of malignant not known"
    )
    assert metrics["TestingDataDescription"] == "80 validation scans of 60 patients"
    population = card["UsesAndDirections"]["TargetedPatientPopulation"]
    assert population == "100 scans of 70 patients; share of the scans: benign 75%, <malignant>?\t\ud7ff??\ue000 25%"
    assert card["BasicInfo"]["ModelDeveloper"] == card["Warnings"]["ClinicalRiskLevel"] == TO_BE_FILLED_IN
    assert card["ReleaseInfo"]["ReleaseVersion"] == f"weights {record.weights_sha256[:16]}"
    assert NAMESPACE in text
