from .kinds import (
    FHIR,
    Added,
    Delivery,
    Described,
    Feedback,
    Instance,
    Judgement,
    RemovedRouteAnswer,
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
    "Described",
    "Feedback",
    "Instance",
    "Judgement",
    "Queue",
    "RemovedRouteAnswer",
    "ResultFile",
    "SeriesAnswer",
    "State",
    "Study",
]
