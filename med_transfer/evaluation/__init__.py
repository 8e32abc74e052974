"""How good is it, on whom, and how sure are we: rates with intervals and metrics.json."""

from med_transfer.evaluation.assessment import evaluate as evaluate
from med_transfer.evaluation.baselines import fit_handcrafted as fit_handcrafted
from med_transfer.evaluation.baselines import prevalence_only as prevalence_only
from med_transfer.evaluation.config import EvaluationConfig as EvaluationConfig
from med_transfer.evaluation.estimate import Estimate as Estimate
from med_transfer.evaluation.metrics import ClassMetrics as ClassMetrics
from med_transfer.evaluation.metrics import Metrics as Metrics
from med_transfer.evaluation.metrics import TransferGain as TransferGain
