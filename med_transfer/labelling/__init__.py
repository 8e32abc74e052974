"""Labels are the dearest part of a cohort: how many more are needed, and which scans to label next."""

from med_transfer.labelling.budget import Budget, BudgetSettings, label_budget
from med_transfer.labelling.next_labels import NextLabels, next_labels

__all__ = ["Budget", "BudgetSettings", "NextLabels", "label_budget", "next_labels"]
