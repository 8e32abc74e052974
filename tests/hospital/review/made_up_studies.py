"""Invented studies in a queue as the node would have them: for lists, searches and planted names."""

from __future__ import annotations

import random

from med_transfer.hospital.queue import Described, Feedback, Instance, Queue, ResultFile, SeriesAnswer

NAMES = (
    "Chen^Mei Ling",
    "Wang^Shu Fen=王^淑芬",
    "Garcia^Ana Maria",
    "Okafor^Chidi",
    "Lin^Jia Hao=林^家豪",
    "Novak^Petr",
)
DESCRIPTIONS = ("CT chest without contrast", "CT chest low dose", "Head CT after a fall", "CT thorax follow-up")
PACS = ("PACS@pacs:104", True)


def add_study(queue: Queue, number: int, described: Described | None = None, answer: dict | None = None) -> str:
    """Its id; with an answer it is predicted and waits for the PACS."""
    draw = random.Random(number)
    study, uid = f"{number:016x}", f"1.2.826.0.1.3680043.8.498.{number}"
    known = described or Described(
        patient_name=NAMES[number % len(NAMES)],
        patient_id=f"P{number:06d}",
        accession=f"A{20260000 + number}",
        study_date=f"2026{1 + number % 12:02d}{1 + number % 28:02d}",
        modality="CT",
        description=DESCRIPTIONS[number % len(DESCRIPTIONS)],
    )
    instance = Instance(
        f"{uid}.1", study, uid, f"{uid}.2", "mark", "ct", "syntax", "hash", f"incoming/{study}/1.dcm", known
    )
    queue.add(instance, 1.79e9 + 240 * number)
    if answer is not None:
        queue.complete(1e12, 0)
        waiting = queue.to_predict(1e12)
        assert waiting is not None
        facts = [{"status": "ok", "abstained": False} | answer]
        answers = [SeriesAnswer(facts[0], bundle="b", series_uid=f"{uid}.2")]
        results = [ResultFile(f"2.25.{number}", "sr", "x")]
        assert queue.predicted(waiting, results, [PACS], 1.79e9 + 240 * number + 90, facts, answers)
        if draw.random() < 0.3:
            queue.add_feedback(
                Feedback("ray", study, 1, 0, draw.choice(("agree", "disagree"))), 1.79e9 + 240 * number + 900
            )
    return study


def fill(queue: Queue, count: int) -> None:
    """So many, most of them predicted."""
    for number in range(1, count + 1):
        draw = random.Random(number)
        p = round(draw.betavariate(1, 2), 3)
        malignant = {
            "predicted": "malignant" if p > 0.4 else "benign",
            "probabilities": {"malignant": p, "benign": 1 - p},
        }
        abstained = {"abstained": True, "because": ["novelty"]}
        rejected = {"status": "rejected", "because": ["GeometryRejected"]}
        add_study(
            queue,
            number,
            answer=(malignant, malignant, malignant, malignant | abstained, rejected, malignant)[number % 6],
        )
    for number in range(count + 1, count + 4):
        add_study(queue, number)
