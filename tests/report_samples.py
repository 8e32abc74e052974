"""Reports of simulated scans, and what a browser would find in one."""

import functools
import io
import re
from html.parser import HTMLParser

import numpy as np
from matplotlib.figure import Figure
from simulated_scores import findings, three_classes

from med_transfer.metrics.compute_metrics import KnownFigures, compute_metrics
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.records.metrics import Bootstrap
from med_transfer.metrics.transfer_gain import transfer_gain
from med_transfer.report.evidence import Evidence
from med_transfer.report.run_summary import LearningCurve, MapChecks, Miss, RunSummary, cohort_counts
from med_transfer.report.writing import write_report

VOID = {"meta", "link", "img", "br", "hr", "input", "col", "area", "base", "embed", "source", "track", "wbr"}


class Page(HTMLParser):
    """What a browser would find: tags, what is loaded from where, text; tags must close in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.words, self.references = [], [], [], []
        self.after_words = self.goes_on = False  # a word with a tooltip stands within its sentence
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.goes_on, self.after_words = tag == "button" and self.after_words, False
        self.tags.append((tag, dict(attrs)))
        self.references += [value for name, value in attrs if name in {"src", "href", "xlink:href", "srcset", "data"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        self.goes_on, self.after_words = tag == "button", False
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in {"style"}:
            if self.goes_on:
                self.words[-1] += data
            else:
                self.words.append(data)
        self.goes_on, self.after_words = False, True

    def having(self, name):
        return [attrs for tag, attrs in self.tags if tag == name]


def without_tooltips(text):
    """HTML in which sentences are whole: the words that have a tooltip are a button."""
    return re.sub(r'<button[^>]* class="term"[^>]*>(.*?)</button>', r"\1", text)


def picture():
    figure, stream = Figure(figsize=(1, 0.3)), io.BytesIO()
    figure.savefig(stream, format="png", dpi=30)
    return stream.getvalue()


def metrics_of(data, **options):
    rng = np.random.default_rng(0)
    noise = rng.random(data.truth.shape)
    noise = noise if data.labels.multilabel else noise / noise.sum(axis=1, keepdims=True)
    point = options.pop("operating_point", None)
    predictions = LabelledPredictions.of(data.truth, data.probabilities, data.patients, data.labels, point)
    gain = options.pop("transfer_gain", transfer_gain(predictions, noise, n_boot=200))
    known = KnownFigures(transfer_gain=gain, **options.pop("known", {}))
    given = {"baselines": {"handcrafted": noise, "prevalence": noise * 0 + 1 / len(data.labels)}} | options
    return compute_metrics(predictions, known, resampling=Bootstrap(n_boot=200), **given)


def summary(data, **options):
    splits = [("train", "val", "test")[k % 3] for k in range(len(data.patients))]
    cohort = cohort_counts(data.truth, data.patients, splits, data.labels)
    given = {
        "title": "Nodules",
        "question": "Is the nodule malignant?",
        "backbone": "resnet18",
        "backbone_licence": "MIT",
        "cohort": cohort,
        "config": [("learning_rate", "0.0003")],
        "seconds": 75,
        "software": {"torch": "2.13"},
        "model_card": [("Intended use", "research")],
    }
    return RunSummary(**given | options)


CURVES = [
    LearningCurve(f"member {k}", [0, 1, 2], [1.0, 0.6, 0.4], [1.1, 0.8, 0.9], [0.5, 0.7, 0.65], "macro AUC", 1)
    for k in range(2)
]
MISSES = [Miss(7, "<b>7</b>", "malignant", "malignant", 0.91, "confident", picture(), "peak")]
CHECKS = MapChecks(
    n=6,
    n_empty=1,
    element_mm=(4.0, 3.0, 3.0),
    hidden_share=0.05,
    drop=0.31,
    random_drop=-0.001,
    n_no_better=1,
    correlation=0.12,
    correlation_limit=0.5,
)


def evidence(data, metrics, **options):
    """Everything a report can speak of."""
    return Evidence(
        **{
            "metrics": metrics,
            "run": summary(data),
            "curves": CURVES,
            "misses": MISSES,
            "map_checks": CHECKS,
            "truth": data.truth,
            "probabilities": data.probabilities,
            "patients": data.patients,
        }
        | options
    )


@functools.cache
def sample(kind="three_classes"):
    """Evidence of 120 simulated scans: ``three_classes`` or several ``findings`` a scan."""
    data = {"three_classes": three_classes, "findings": findings}[kind]()
    return evidence(data, metrics_of(data))


def write(path, evidence):
    """The report's text."""
    write_report(path, evidence)
    return path.read_text(encoding="utf-8")
