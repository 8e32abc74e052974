"""The fusion is scikit-learn's own regression; it adds information where there is some, and nothing otherwise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_up_scans import NAMES, fit, made_up
from scipy.special import expit, logit, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight

from med_transfer.bundle import BundleRecord
from med_transfer.errors import TooFewPatients
from med_transfer.fusion import Fusion
from med_transfer.fusion.fitting import INVERSE_PENALTIES
from med_transfer.fusion.model import network_features
from med_transfer.metrics.fusion import fusion_figures

COLUMNS = ("marker", "site")


def own_matrix(train, scans, multilabel):
    """The inputs made with pandas: medians and levels of ``train``."""
    p, known = scans.probabilities, pd.DataFrame(train.columns).replace("", np.nan)
    network = np.log(p / (1 - p)) if multilabel else np.log(p) - np.log(p).mean(1, keepdims=True)
    frame = pd.DataFrame(scans.columns).replace("", np.nan)
    marker = frame.marker.astype(float)
    site = pd.get_dummies(pd.Categorical(frame.site.fillna("other"), ["north", "south", "west", "other"])).to_numpy()
    median = known.marker.astype(float).median()
    return np.column_stack([network, scans.handcrafted, marker.fillna(median), marker.isna(), site]).astype(float)


@pytest.mark.parametrize("kind", ["three", "two", "findings"])
@pytest.mark.parametrize("balanced", [True, False])
def test_the_fusion_is_scikit_learns_regression_on_the_same_matrix(kind, balanced):
    data, new = made_up(kind, seed=1), made_up(kind, seed=2)
    fusion = fit(data, *COLUMNS, penalty=0.3, balanced=balanced)
    x, x_new = (own_matrix(data.scans, d.scans, data.labels.multilabel) for d in (data, new))
    weights = "balanced" if balanced else None
    targets = data.truth.T if data.labels.multilabel else [data.truth.argmax(1)]
    models = [
        make_pipeline(StandardScaler(), LogisticRegression(C=0.3, class_weight=weights, max_iter=2000)).fit(x, target)
        for target in targets
    ]
    expected = [model.predict_proba(x_new) for model in models]
    expected = np.stack([p[:, 1] for p in expected], 1) if data.labels.multilabel else expected[0]
    if balanced and data.labels.multilabel:  # brought to the shares of the scans; classes are equally frequent here
        expected = expit(logit(expected) + logit(data.truth.mean(axis=0)))
    fused = fusion.fuse(new.scans)
    assert fused.done.all()
    np.testing.assert_allclose(fused.probabilities, expected, atol=1e-6)

    whole = fusion.combinations[0]
    assert whole.features[-4:] == ("site=north", "site=south", "site=west", "site=other/missing")
    assert len(whole.features) == x.shape[1]
    weight = np.array(whole.weight)
    if kind == "three":
        np.testing.assert_allclose(weight, models[0][-1].coef_, atol=1e-6)
    if kind == "two":  # scikit-learn has one row for both classes
        np.testing.assert_allclose(weight[1] - weight[0], models[0][-1].coef_[0], atol=1e-6)
    if kind == "findings":
        np.testing.assert_allclose(weight, [model[-1].coef_[0] for model in models], atol=1e-6)


@pytest.mark.parametrize("kind", ["two", "findings"])
def test_probabilities_hold_at_the_shares_of_all_development_scans_whichever_have_an_output(kind):
    """As where the table's validation rows have more of a class than its training rows: calls go by those shares."""
    data = made_up(kind, n=200, seed=3)
    with_output = data.truth[:, 0] | (np.arange(200) % 4 == 0)
    probabilities = np.where(with_output[:, None], data.scans.probabilities, np.nan)
    fusion = fit(data, penalty=0.3, scans=replace(data.scans, probabilities=probabilities))
    alone = replace(data, truth=data.truth[with_output], patients=np.array(data.patients)[with_output].tolist())
    few = fit(alone, penalty=0.3, scans=data.scans.take(np.flatnonzero(with_output)))
    shares, of_few = np.array(fusion.shares), np.array(few.shares)
    np.testing.assert_allclose(shares, data.truth.mean(axis=0))
    moved = logit(shares) - logit(of_few) if kind == "findings" else np.log(shares) - np.log(of_few)
    found, before = (each.combinations[0] for each in (fusion, few))
    np.testing.assert_allclose(np.array(found.bias) - before.bias, moved, atol=1e-9)
    np.testing.assert_allclose(found.weight, before.weight)


@pytest.mark.parametrize(
    ("n", "seed", "balanced", "expected"),
    [
        (120, 5, True, 0.3),  # here the weights in the loss on left-out patients decide
        (120, 5, False, 0.1),
        (160, 10, True, 0.1),  # and here those in the fit
        (160, 10, False, 0.3),
    ],
)
def test_the_penalty_is_the_best_on_left_out_patients(n, seed, balanced, expected):
    """Of classes that are not equally frequent: of two of them a quarter of the patients."""
    data = made_up(seed=seed, n=n)
    rows = np.flatnonzero(data.truth[:, 0] | (np.arange(n) // 2 % 4 == 0))
    scans, truth, patients = data.scans.take(rows), data.truth[rows], [data.patients[row] for row in rows]
    x, y = own_matrix(data.scans, scans, False)[:, :5], truth.argmax(1)  # network and handcrafted
    divider = StratifiedGroupKFold(5, shuffle=True, random_state=4)
    folds = list(divider.split(x, 2 - y, patients))  # numbered so: chance in the folds hangs on the classes' order
    weights, losses = "balanced" if balanced else None, []
    for strength in INVERSE_PENALTIES:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, class_weight=weights, max_iter=2000))
        found = cross_val_predict(model, x, y, cv=folds, method="predict_proba")
        losses.append(log_loss(y, found, sample_weight=compute_sample_weight(weights, y)))
    fusion = fit(replace(data, scans=scans, truth=truth, patients=patients), balanced=balanced, seed=4)
    assert fusion.combinations[0].inverse_penalty == INVERSE_PENALTIES[int(np.argmin(losses))] == expected


def test_a_scan_without_an_out_of_fold_output_teaches_no_model_that_has_the_network():
    data = made_up(seed=5)
    holes = data.scans.probabilities.copy()
    holes[30:] = np.nan
    fusion = fit(data, scans=replace(data.scans, probabilities=holes), penalty=1.0)
    fitted = {one.parts: (one.n_scans, one.n_patients) for one in fusion.combinations}
    assert fitted == {("network", "handcrafted"): (30, 15), ("handcrafted",): (90, 45)}

    other = replace(data, truth=np.concatenate([data.truth[:30], np.roll(data.truth[30:], 1, axis=0)]))  # as frequent
    again = fit(other, scans=replace(data.scans, probabilities=holes), penalty=1.0)
    assert again.combinations[0] == fusion.combinations[0]
    assert again.combinations[1] != fusion.combinations[1]


def test_too_few_out_of_fold_scans_are_refused():
    data = made_up()
    holes = data.scans.probabilities.copy()
    holes[np.flatnonzero(data.truth[:, 1])[1:]] = np.nan
    with pytest.raises(TooFewPatients, match=r"class 'b' has 1 patient with a scan .*at least 5.*split.kind=kfold"):
        fit(data, scans=replace(data.scans, probabilities=holes))


@pytest.mark.parametrize("kind", ["three", "two", "findings"])
@pytest.mark.parametrize("use", [("network", "handcrafted", "columns"), ("columns", "network", "handcrafted")])
def test_the_mean_is_half_the_network_and_half_scikit_learns_regression_on_the_rest(kind, use):
    data, new = made_up(kind, seed=1), made_up(kind, seed=2)
    fusion = fit(data, *COLUMNS, use=use, penalty=0.3, balanced=False, method="mean")
    n = len(data.labels)
    x, x_new = (own_matrix(data.scans, d.scans, data.labels.multilabel)[:, n:] for d in (data, new))
    targets = data.truth.T if data.labels.multilabel else [data.truth.argmax(1)]
    logits = []
    for target in targets:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=2000)).fit(x, target)
        logits.append(model.decision_function(x_new))
    own = network_features(new.scans.probabilities, multilabel=data.labels.multilabel)
    if kind == "findings":
        expected = expit((own + np.stack(logits, 1)) / 2)
    else:  # scikit-learn has one logit for two classes
        rest = logits[0] if kind == "three" else np.stack([-logits[0], logits[0]], 1) / 2
        expected = softmax((own + rest) / 2, axis=1)
    np.testing.assert_allclose(fusion.fuse(new.scans).probabilities, expected, atol=1e-6)
    assert {one.parts for one in fusion.combinations} == {
        one.parts for one in fit(data, *COLUMNS, use=use, penalty=0.3).combinations
    }
    assert fusion.method == "mean"


def test_the_mean_looks_at_no_output_of_the_network():
    data = made_up(seed=5)
    nothing = replace(data.scans, probabilities=np.full_like(data.scans.probabilities, np.nan))
    assert fit(data, scans=nothing, penalty=1.0, method="mean") == fit(data, penalty=1.0, method="mean")
    assert {one.n_scans for one in fit(data, scans=nothing, method="mean").combinations} == {90}


def test_a_mean_with_too_few_patients_is_refused():
    data = made_up(n=12)
    with pytest.raises(TooFewPatients, match="class 'a' has 3 patients to learn from, too few for fusion"):
        fit(data, method="mean")


def gains(kind, column, seeds, n=300, method="stacked", **options):
    """Fused minus image-only and what the column adds, on scans of the same kind that nothing was fitted on."""
    for seed in seeds:
        data, new = (made_up(kind, n, 100 * seed + part, **options) for part in (0, 1))
        fusion = fit(data, column, use=("network", "columns"), method=method)
        figures = fusion_figures(new.truth, fusion.by_parts(new.scans), new.patients, new.labels, n_boot=300)
        assert list(figures["models"]) == ["image-only", "columns-only", "fused"]
        yield figures["fused_minus"]["image-only"].macro_auc, figures["contributions"]["columns"].macro_auc


@pytest.mark.parametrize("method", ["mean", "stacked"])
@pytest.mark.parametrize("kind", ["three", "findings"])
def test_a_column_that_knows_something_adds_to_the_network(kind, method):
    found = list(gains(kind, "marker", range(4), method=method))
    assert [over.excludes_zero for over, _ in found] == [1, 1, 1, 1]
    assert all(over == column for over, column in found)  # without the column there is the network alone


@pytest.mark.parametrize("method", ["mean", "stacked"])
def test_a_column_of_noise_adds_nothing(method):
    found = [over for over, _ in gains("three", "noise", range(6), missing=0.0, method=method)]
    assert sum(over.excludes_zero == 0 for over in found) >= 5  # 95 % intervals
    assert all(over.excludes_zero < 1 for over in found)
    assert abs(np.mean([over.value for over in found])) < 0.01


def test_it_is_plain_text_in_a_bundles_record(tmp_path):
    data = made_up("findings", seed=7)
    fusion = fit(data, *COLUMNS, penalty=1.0)
    text = fusion.model_dump_json()
    back = Fusion.model_validate_json(text)
    assert back == fusion
    np.testing.assert_array_equal(back.fuse(data.scans).probabilities, fusion.fuse(data.scans).probabilities)
    assert BundleRecord.model_fields["fusion"].default is None  # older bundles have no such key
    assert fusion.inputs.names("handcrafted") == NAMES
