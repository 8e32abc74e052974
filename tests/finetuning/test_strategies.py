"""What each strategy freezes, what it trains and when, and which combinations are refused."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from small_network import SmallEncoder, small_classifier, small_images
from torch import nn

from med_transfer.api.planned import with_quick
from med_transfer.config import load_config
from med_transfer.errors import ConfigError, UnknownKey
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.initialisation import check_transfer
from med_transfer.finetuning.lightning_module import FinetuningModule, LossTerms
from med_transfer.finetuning.strategies import STRATEGIES, Scratch
from med_transfer.finetuning.strategies.by_stage import GradualUnfreezing, LayerwiseLRDecay
from med_transfer.finetuning.transfer_config import TransferConfig
from med_transfer.finetuning.unread_settings import ignored_settings
from med_transfer.model.classifier import Classifier
from med_transfer.predictions.labels import Labels

STEM, FIRST, SECOND = ("encoder.conv1", "encoder.bn1"), ("encoder.layer1",), ("encoder.layer2",)
EXAMPLES = Path(__file__).parents[2] / "configs/transfer"
EVERYTHING = (*STEM, *FIRST, *SECOND, "head")


def config(strategy: str, from_source: bool = True, **sections) -> FinetuneConfig:
    settings = {"name": strategy, "learning_rate": 0.01} | sections.pop("settings", {})
    transfer = {"strategy": settings} | sections.pop("transfer", {})
    training = {"epochs": 4, "warmup_epochs": 0, "dropout": 0} | sections.pop("training", {})
    values = {"transfer": transfer, "training": training, "augmentation": {"mixup": 0}} | sections
    return FinetuneConfig.model_validate(values).resolved(from_source=from_source)


def train(classifier: Classifier, settings: FinetuneConfig, penalties=(), steps: int = 3) -> FinetuningModule:
    """A few steps as Lightning makes them, in the first epoch."""
    module = FinetuningModule(
        classifier,
        settings,
        LossTerms(torch.ones(2), penalties),
        labels=Labels(("a", "b")),
        steps_per_epoch=steps,
        seed=0,
    )
    adamw = module.configure_optimizers()["optimizer"]
    module.train()
    module.on_train_epoch_start()
    images, truth = small_images(), torch.eye(2)[torch.arange(8) % 2].bool()
    for _ in range(steps):
        adamw.zero_grad()
        module.training_step((images, truth), 0).backward()
        adamw.step()
    return module


def moved(classifier: Classifier, before: dict[str, torch.Tensor]) -> set[str]:
    """Names of the tensors that are no longer what they were."""
    return {name for name, tensor in classifier.state_dict().items() if not tensor.equal(before[name])}


def state(classifier: Classifier) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in classifier.state_dict().items()}


@pytest.mark.parametrize(
    ("strategy", "options", "learns"),
    [
        ("full", {}, EVERYTHING),
        ("layerwise_lr_decay", {}, EVERYTHING),
        ("lp_ft", {}, EVERYTHING),
        ("gradual_unfreezing", {}, ("head",)),
        ("surgical", {"stages": [0]}, (*STEM, "head")),
        ("surgical", {"stages": [1, 2]}, (*FIRST, *SECOND, "head")),
    ],
)
def test_what_learns_learns_and_what_is_frozen_stays(strategy, options, learns):
    classifier = small_classifier()
    before = state(classifier)
    train(classifier, config(strategy, settings=options))
    weights = {name for name, _ in classifier.named_parameters()}
    assert moved(classifier, before) & weights == {name for name in weights if name.startswith(learns)}
    assert not moved(classifier, before) - weights  # BatchNorm's statistics are the source's


def test_from_scratch_everything_learns_statistics_too():
    classifier = small_classifier()
    before = state(classifier)
    train(classifier, config("scratch", from_source=False))
    assert moved(classifier, before) == set(before)


@pytest.mark.parametrize(("stages", "follows"), [([2], SECOND), ([0], STEM)])
def test_statistics_of_a_frozen_stage_stay_even_when_batch_norm_trains(stages, follows):
    classifier = small_classifier()
    before = state(classifier)
    train(classifier, config("surgical", transfer={"batch_norm": "train"}, settings={"stages": stages}))
    statistics = {name for name in moved(classifier, before) if "running" in name}
    assert statistics
    assert all(name.startswith(follows) for name in statistics)


@pytest.mark.parametrize("strategy", ["full", "lora"])
def test_batch_norm_train_moves_statistics(strategy):
    classifier = small_classifier()
    chosen = STRATEGIES[strategy]()
    chosen.build(classifier)
    chosen.prepare(classifier)
    before = state(classifier)
    train(classifier, config(strategy, transfer={"batch_norm": "train"}))
    assert all(name in moved(classifier, before) for name in before if "running" in name)


def test_gradual_unfreezing_goes_from_the_head_to_the_stem():
    strategy = GradualUnfreezing(epochs_per_stage=2)
    schedule = [sorted(strategy.learning_stages(epoch, 3)) for epoch in range(8)]
    assert schedule == [[], [], [2], [2], [1, 2], [1, 2], [0, 1, 2], [0, 1, 2]]
    classifier = small_classifier()
    strategy.set_learning(classifier, epoch=2)
    assert [p.requires_grad for p in classifier.encoder.layer2.parameters()] == [True] * 4
    assert not any(p.requires_grad for p in classifier.encoder.layer1.parameters())
    assert classifier.head.weight.requires_grad


def test_frozen_stages_stay_frozen_whatever_the_schedule():
    classifier = small_classifier()
    GradualUnfreezing(freeze_stages=2).set_learning(classifier, epoch=9)
    assert [any(p.requires_grad for p in stage.parameters()) for stage in classifier.encoder.stages()] == [
        False,
        False,
        True,
    ]


def test_the_optimiser_holds_from_the_start_what_is_unfrozen_later():
    classifier = small_classifier()
    module = train(classifier, config("gradual_unfreezing", training={"epochs": 4}), steps=1)
    held = {id(p) for group in module.configure_optimizers()["optimizer"].param_groups for p in group["params"]}
    assert held == {id(p) for p in classifier.parameters()}


def test_automatic_is_what_it_always_was():
    found = FinetuneConfig().resolved(from_source=True)
    assert (found.transfer.strategy.name, found.transfer.batch_norm) == ("layerwise_lr_decay", "source")
    assert [found.transfer.strategy.rate(depth) for depth in (0, 1)] == [3e-4, 3e-4 * 0.7]
    scratch = FinetuneConfig().resolved(from_source=False)
    assert (scratch.transfer.strategy.name, scratch.transfer.batch_norm) == ("scratch", "train")
    assert [scratch.transfer.strategy.rate(depth) for depth in (0, 1)] == [1e-3, 1e-3]


def test_rates_are_the_strategys_own_unless_set():
    assert config("full").transfer.strategy.rate(2) == 0.01
    assert config("full", settings={"stage_decay": 0.5}).transfer.strategy.rate(2) == 0.0025
    assert config("lora", settings={"learning_rate": None}).transfer.strategy.rate() == 1e-3


def test_the_from_scratch_baseline_has_the_budget_and_nothing_of_the_source():
    settings = FinetuneConfig.model_validate(
        {
            "transfer": {
                "strategy": {"name": "lp_ft", "stage_decay": 0.3, "freeze_stages": 2},
                "regularise": ["l2_sp", "bss"],
                "batch_norm": "bn_adapt",
            },
            "training": {"epochs": 7, "averaging": "ema"},
            "backbone": {"weights": "somewhere"},
        }
    )
    baseline = settings.from_scratch_config().resolved(from_source=False)
    assert (baseline.transfer.strategy.name, baseline.transfer.regularise, baseline.transfer.batch_norm) == (
        "scratch",
        (),
        "train",
    )
    assert baseline.transfer.strategy == Scratch()
    assert baseline.backbone.weights is None
    assert (baseline.training.epochs, baseline.training.averaging) == (7, "ema")
    assert (baseline.augmentation, baseline.split, baseline.seed) == (
        settings.augmentation,
        settings.split,
        settings.seed,
    )


def test_a_rate_that_was_stated_is_the_baselines_too():
    stated = FinetuneConfig.model_validate({"transfer": {"strategy": {"name": "lora", "learning_rate": 2e-4}}})
    assert stated.from_scratch_config().transfer.strategy == Scratch(learning_rate=2e-4)
    assert FinetuneConfig().from_scratch_config().transfer.strategy.rate() == 1e-3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"transfer": {"strategy": "linear_probe", "regularise": ["l2_sp"]}}, "l2_sp with linear_probe: its features"),
        ({"transfer": {"strategy": "linear_probe", "regularise": ["bss"]}}, "bss with linear_probe"),
        ({"transfer": {"strategy": "linear_probe", "batch_norm": "train"}}, "batch_norm train with linear_probe"),
        ({"transfer": {"strategy": "adapters", "batch_norm": "train"}}, "batch_norm train with adapters: every stage"),
        ({"transfer": {"strategy": "lora", "regularise": ["l2_sp"]}}, "l2_sp with lora: the source's weights are fro"),
        ({"transfer": {"strategy": "adapters", "regularise": ["l2_sp"]}}, "l2_sp with adapters"),
        ({"transfer": {"strategy": "scratch", "regularise": ["delta"]}}, "delta with scratch: there is no source"),
        ({"transfer": {"strategy": "scratch", "batch_norm": "bn_adapt"}}, "batch_norm bn_adapt with scratch"),
        ({"transfer": {"strategy": "scratch", "on_harm": "fallback"}}, "fallback with scratch: nothing is transferred"),
        ({"transfer": {"regularise": ["bss", "bss"]}}, "regularise names one penalty twice: bss, bss"),
        ({"transfer": {"strategy": "surgical"}}, "transfer.strategy.surgical.stages\n  Field required"),
        (
            {"transfer": {"on_harm": "fallback"}, "from_scratch_baseline": False},
            "fallback without from_scratch_baseline: there is no ne",
        ),
        ({"transfer": {"strategy": "scratch"}, "backbone": {"weights": "x"}}, "scratch with backbone.weights"),
        (
            {"transfer": {"strategy": "linear_probe"}, "training": {"averaging": "swa"}},
            "averaging swa with linear_prob",
        ),
        ({"transfer": {"strategy": {"name": "layerwise_lr_decay", "stage_decay": 1}}}, "stage_decay\n.* less than 1"),
        ({"transfer": {"strategy": {"name": "lora", "freeze_stages": 1}}}, "lora.freeze_stages\n  Extra inputs"),
        (
            {"transfer": {"strategy": {"name": "surgical", "stages": [1], "freeze_stages": 1}}},
            "surgical.freeze_stages\n  Extra inputs",
        ),
    ],
)
def test_combinations_that_make_no_sense_are_refused_with_the_reason(values, message):
    with pytest.raises(ValidationError, match=message):
        FinetuneConfig.model_validate(values)


@pytest.mark.parametrize("transfer", [{"strategy": "full"}, {"regularise": ["l2_sp"]}, {"batch_norm": "source"}])
def test_a_source_strategy_needs_a_source(transfer):
    with pytest.raises(
        ConfigError, match="^transfer: .*random values: there is nothing to transfer; expected strategy auto or scr"
    ):
        FinetuneConfig.model_validate({"transfer": transfer}).resolved(from_source=False)


def test_a_probe_without_a_source_names_quick_which_chooses_it():
    settings = with_quick([], quick=True)
    with pytest.raises(
        ConfigError, match=r"^transfer: .*give backbone\.weights, or leave out --quick, which chooses linear_probe"
    ):
        load_config(FinetuneConfig, None, settings).resolved(from_source=False)


def test_a_refusal_and_a_wrong_key_read_well_on_the_command_line():
    message = (
        r"^--set transfer\.strategy and --set transfer\.regularise: l2_sp with linear_probe: its features are frozen"
    )
    with pytest.raises(ConfigError, match=message):
        load_config(FinetuneConfig, None, ["transfer.strategy=linear_probe", "transfer.regularise=[l2_sp]"])
    with pytest.raises(UnknownKey, match="transfer.stragety: no such key; expected transfer.strategy perhaps"):
        load_config(FinetuneConfig, None, ["transfer.stragety=full"])
    with pytest.raises(
        ConfigError, match="^--set transfer.strategy: found 'lpft'; expected 'auto', 'scratch', 'linear_probe'"
    ):
        load_config(FinetuneConfig, None, ["transfer.strategy=lpft"])


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_examples_are_valid_and_resolve(path):
    assert load_config(FinetuneConfig, path).resolved(from_source=True).transfer.strategy.name in STRATEGIES


def test_the_written_config_says_what_automatic_became_and_is_read_again():
    written = FinetuneConfig().resolved(from_source=True)
    again = FinetuneConfig.model_validate(written.model_dump(mode="json"))
    assert again == written == again.resolved(from_source=True)


def every_config(from_source: bool) -> Iterator[FinetuneConfig]:
    """All that goes together of what the strategy, BatchNorm, freezing and falling back can be set to."""
    strategies = set(STRATEGIES) - ({"scratch"} if from_source else set())
    choices = itertools.product(
        sorted(strategies),
        ["auto", "source", "bn_adapt", "train"],
        ["report", "fallback"],
        [(), ("l2_sp",)],
        [None, 0.5, 1],
        [0, 1],
        [None, 1e-4],
    )
    for strategy, batch_norm, on_harm, regularise, decay, frozen, rate in choices:
        settings = {"name": strategy, "stage_decay": decay, "freeze_stages": frozen, "learning_rate": rate}
        settings |= {"stages": [1]}
        settings = {key: value for key, value in settings.items() if key in STRATEGIES[strategy].model_fields}
        transfer = {"batch_norm": batch_norm, "on_harm": on_harm, "regularise": regularise, "strategy": settings}
        with contextlib.suppress(ValidationError):
            yield FinetuneConfig.model_validate({"transfer": transfer})


@pytest.mark.parametrize("from_source", [True, False])
def test_whatever_can_be_asked_for_is_written_as_a_config_that_can_be_read_again(from_source):
    """Else a run that was killed could not go on."""
    n_resolved, refused = 0, set()
    for asked in every_config(from_source):
        try:
            written = asked.resolved(from_source=from_source)
        except ConfigError as error:
            refused.add(str(error))
            continue
        n_resolved += 1
        assert written.resolved(from_source=from_source) == written
        baseline = asked.from_scratch_config()
        for config in (written, baseline, baseline.resolved(from_source=False)):
            assert FinetuneConfig.model_validate(config.model_dump(mode="json")) == config
    assert n_resolved > 50
    assert bool(refused) != from_source
    assert all("nothing to transfer" in reason for reason in refused)


def test_automatic_with_no_stage_slower_is_full():
    asked = FinetuneConfig.model_validate({"transfer": {"strategy": {"stage_decay": 1}}})
    assert asked.resolved(from_source=True).transfer.strategy.name == "full"
    assert asked.resolved(from_source=False).transfer.strategy.name == "scratch"


def test_a_config_that_was_changed_in_python_into_one_that_makes_no_sense_is_refused():
    fallback = FinetuneConfig(transfer=TransferConfig(on_harm="fallback"))
    without_baseline = fallback.model_copy(update={"from_scratch_baseline": False})
    with pytest.raises(
        ConfigError, match="on_harm fallback without from_scratch_baseline: there is no network to fall back to"
    ):
        without_baseline.resolved(from_source=True)


def test_what_holds_back_a_source_is_without_effect_where_there_is_none():
    settings = {"freeze_stages": 2, "stage_decay": 0.5}
    asked = FinetuneConfig.model_validate({"transfer": {"on_harm": "fallback", "strategy": settings}})
    found = asked.resolved(from_source=False)
    assert (found.transfer.on_harm, found.transfer.strategy) == ("report", Scratch())
    assert ignored_settings(asked, found, SmallEncoder()) == [
        "transfer.on_harm, transfer.strategy.stage_decay, transfer.strategy.freeze_stages without effect: the network "
        "starts from random values"
    ]
    transferred = asked.resolved(from_source=True)
    assert (transferred.transfer.on_harm, transferred.transfer.strategy) == ("fallback", LayerwiseLRDecay(**settings))
    assert ignored_settings(asked, transferred, SmallEncoder()) == []


@pytest.mark.parametrize(
    ("settings", "switch"),
    [
        ({"training": {"ema_decay": 0.9}}, {"training": {"averaging": "ema"}}),
        ({"training": {"swa_start": 0.5}}, {"training": {"averaging": "swa"}}),
        ({"transfer": {"delta": {"strength": 2.0}}}, {"transfer": {"regularise": ["delta"]}}),
        ({"backbone": {"pretraining": {"steps": 9}}}, {"backbone": {"pretrain": "painted_lesions"}}),
        ({"split": {"folds": 3, "kind": "holdout"}}, {"split": {"kind": "kfold"}}),
    ],
)
def test_settings_of_what_is_not_switched_on_are_told_to_be_without_effect(settings, switch):
    (section, values), of_switch = *settings.items(), *switch.values()
    alone, both = (FinetuneConfig.model_validate({section: each}) for each in (values, values | of_switch))
    said = ignored_settings(alone, alone.resolved(from_source=True), SmallEncoder())
    key, chosen = f"{section}.{next(iter(values))}", f"{section}.{next(iter(of_switch))}="
    assert len(said) == 1
    assert said[0].startswith(f"{key} without effect: it is of {chosen}")
    assert ignored_settings(both, both.resolved(from_source=True), SmallEncoder()) == []


ALONE = {"from_scratch_baseline": False}
CORAL = {"method": "coral", "unlabelled": "."}


@pytest.mark.parametrize(
    ("sections", "unread", "read_with"),
    [
        (
            ALONE
            | {"strategy": "linear_probe", "training": {"epochs": 9, "patience": 3}, "augmentation": {"mixup": 1}},
            "training.epochs, training.patience, augmentation.mixup without effect: linear_probe trains a head only",
            {"from_scratch_baseline": True},
        ),
        (
            {"strategy": "full", "training": {"averaging": "swa", "patience": 3}},
            "training.patience without effect: training.averaging=swa trains for all epochs",
            {"training": {"averaging": "ema", "patience": 3}},
        ),
        (
            {"strategy": "full", "backbone": {"runtime": "openvino"}},
            "backbone.runtime without effect: a network in training is computed by torch",
            {"strategy": "lp_ft"},
        ),
        (
            {"strategy": "lora", "probe": {"inverse_strengths": (1.0,)}},
            "transfer.probe without effect: lora fits no logistic regression",
            {"regularise": ("delta",), "delta": {"attention": True}},
        ),
        (
            {"strategy": "linear_probe", "mapping": CORAL | {"steps": 3, "bottleneck": 4}},
            "transfer.mapping.bottleneck, transfer.mapping.steps without effect: transfer.mapping.method is coral",
            {"mapping": {"method": "autoencoder", "steps": 3, "bottleneck": 4}},
        ),
    ],
)
def test_settings_that_the_strategy_does_not_read_are_told_to_be_without_effect(sections, unread, read_with):
    def told(sections: dict) -> list[str]:
        of_transfer = {key: sections[key] for key in sections.keys() & TransferConfig.model_fields.keys()}
        others = {key: sections[key] for key in sections.keys() - of_transfer.keys()}
        asked = FinetuneConfig.model_validate(others | {"transfer": of_transfer})
        return ignored_settings(asked, asked.resolved(from_source=True), SmallEncoder())

    (said,) = told(sections)
    assert said.startswith(unread)
    assert told(sections | read_with) == []


def test_no_config_that_comes_with_the_program_has_settings_without_effect():
    for path in sorted(EXAMPLES.parent.rglob("*.yaml")):
        with contextlib.suppress(ConfigError, UnknownKey):  # of another command
            given = load_config(FinetuneConfig, path).resolved(from_source=True)
            assert ignored_settings(given, given, SmallEncoder()) == [], path


@pytest.mark.parametrize(
    ("epochs", "pace", "frozen", "warning"),
    [
        (4, 4, 0, "4 epochs a stage: in 4 epochs only the head ever learns; all stages need 13 epochs"),
        (5, 4, 0, "in 5 epochs only the deepest 1 of 3 stages ever learn; all stages need 13 epochs"),
        (12, 4, 0, "only the deepest 2 of 3 stages ever learn; all stages need 13 epochs"),
        (13, 4, 0, ""),
        (8, 4, 1, "only the deepest 1 of 3 stages ever learn; all stages need 9 epochs"),
        (9, 4, 1, ""),
        (1, 4, 3, ""),  # all frozen: as asked
    ],
)
def test_gradual_unfreezing_that_ends_before_its_last_stage_is_warned_of(epochs, pace, frozen, warning):
    settings = config(
        "gradual_unfreezing",
        settings={"epochs_per_stage": pace, "freeze_stages": frozen},
        training={"epochs": epochs},
    )
    found = ignored_settings(settings, settings, SmallEncoder())
    assert len(found) == bool(warning)
    assert warning in "".join(found)
    classifier, learned = small_classifier(), set()
    for epoch in range(epochs):  # what the schedule itself does
        settings.transfer.strategy.set_learning(classifier, epoch)
        stages = classifier.encoder.stages()
        learned |= {n for n, stage in enumerate(stages) if any(p.requires_grad for p in stage.parameters())}
    assert (len(learned) < 3 - frozen) == bool(warning)


def test_what_the_backbone_lacks_is_refused():
    with pytest.raises(ConfigError, match=r"transfer.strategy.stages: stages \[7\]; expected numbers from 0 to 2"):
        check_transfer(config("surgical", settings={"stages": [7]}), SmallEncoder())
    pooled = config("full", backbone={"name": "resnet18-w8", "pooled_stages": [0, 2]})
    message = r"backbone.pooled_stages: pooled stages \[0, 2\]; expected different numbers from -2 to 1 for resnet18-w8"
    with pytest.raises(ConfigError, match=message):
        check_transfer(pooled, SmallEncoder())
    without = SmallEncoder()
    without.bn1, without.layer1[1], without.layer2[1] = nn.Identity(), nn.Identity(), nn.Identity()
    with pytest.raises(ConfigError, match=r"^transfer\.batch_norm: bn_adapt with a backbone that has no BatchNorm"):
        check_transfer(config("full", transfer={"batch_norm": "bn_adapt"}), without)
