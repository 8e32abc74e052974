"""Runs side by side: differences with paired intervals, tests as a second opinion, and a page to read."""

from med_transfer.evaluation.comparison.compare import Comparison as Comparison
from med_transfer.evaluation.comparison.compare import compare_runs as compare_runs
