"""How a job's stage gets another name."""

from med_transfer.progress import named


def test_a_stage_is_renamed_or_wrapped_and_all_else_is_passed_on():
    told = []

    def listener(stage: str, done: int, total: int, note: str = "") -> None:
        told.append((stage, done, total, note))

    named(listener, "reading unlabelled scans")("reading scans", 1, 4)
    named(listener, "source: {stage}")("fine-tuning", 2, 8, "epoch 1")
    assert told == [("reading unlabelled scans", 1, 4, ""), ("source: fine-tuning", 2, 8, "epoch 1")]
