"""How good is it, on whom, and how sure are we: rates with intervals and metrics.json."""

from med_transfer.metrics.baselines import fit_handcrafted as fit_handcrafted
from med_transfer.metrics.baselines import prevalence_only as prevalence_only
from med_transfer.metrics.compute_metrics import compute_metrics as compute_metrics
from med_transfer.metrics.config import EvaluationConfig as EvaluationConfig
from med_transfer.metrics.estimate import Estimate as Estimate
from med_transfer.metrics.record import ClassMetrics as ClassMetrics
from med_transfer.metrics.record import Metrics as Metrics
from med_transfer.metrics.record import TransferGain as TransferGain
