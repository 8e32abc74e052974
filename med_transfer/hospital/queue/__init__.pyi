from .kinds import (
    FHIR,
    Added,
    Delivery,
    Departed,
    Described,
    Feedback,
    Instance,
    Judgement,
    ResultFile,
    SeriesAnswer,
    State,
    Study,
)
from .queue import Queue

__all__ = [
    "FHIR",
    "Added",
    "Delivery",
    "Departed",
    "Described",
    "Feedback",
    "Instance",
    "Judgement",
    "Queue",
    "ResultFile",
    "SeriesAnswer",
    "State",
    "Study",
]
