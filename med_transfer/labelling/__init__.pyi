from .budget import Budget, BudgetSettings, label_budget
from .next_labels import NextLabels, next_labels

__all__ = [
    "Budget",
    "BudgetSettings",
    "NextLabels",
    "label_budget",
    "next_labels",
]
