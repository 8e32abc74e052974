from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from med_transfer.config import _known_keys, dump_config, given_config, load_config
from med_transfer.errors import ConfigError, OutputError, UnknownKey, UsageError
from med_transfer.finetuning import FinetuneConfig
from med_transfer.pretraining import PretrainingConfig
from med_transfer.tuning.config import TuningConfig


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Adam(Strict):
    kind: Literal["adam"] = "adam"
    beta: float = 0.9


class Sgd(Strict):
    kind: Literal["sgd"] = "sgd"
    momentum: float = 0.9


class Split(Strict):
    folds: int = Field(default=5, ge=2)
    window_hu: tuple[float, float] = (-1000.0, 400.0)

    @model_validator(mode="after")
    def _rises(self):
        if self.window_hu[0] >= self.window_hu[1]:
            raise ValueError("window_hu must rise")
        return self


class Config(Strict):
    name: str = "resnet"
    learning_rate: float = Field(default=1e-3, gt=0)
    mixed: bool = False
    weights: Path | None = None
    split: Split = Split()
    pair: Split | None = None
    optimiser: Annotated[Adam | Sgd, Field(discriminator="kind")] = Adam()
    stages: tuple[int, ...] = ()


def write(folder: Path, text: str) -> Path:
    (folder / "c.yaml").write_text(text)
    return folder / "c.yaml"


def test_nothing_gives_the_defaults(tmp_path):
    assert load_config(Config, None) == Config()
    assert load_config(Config, write(tmp_path, "# nothing but a remark\n")) == Config()


def test_file_then_overrides(tmp_path):
    path = write(tmp_path, "name: swin\nsplit:\n  folds: 3\nstages: [1, 2]\n")
    config = load_config(
        Config, path, ["split.folds=4", "learning_rate=1e-4", "mixed=true", "split.window_hu=[-500, 100]"]
    )
    assert config.name == "swin"
    assert config.stages == (1, 2)
    assert config.split == Split(folds=4, window_hu=(-500, 100))
    assert (config.learning_rate, config.mixed) == (1e-4, True)


def test_overrides_open_a_section_that_is_empty_or_absent(tmp_path):
    assert load_config(Config, write(tmp_path, "pair:\n"), ["pair.folds=2"]).pair == Split(folds=2)
    assert load_config(Config, None, ["pair.folds=2"]).pair == Split(folds=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate: true", "learning_rate: found True; expected a number"),
        ("split: {window_hu: [false, 400]}", r"split\.window_hu\.0: found False; expected a number"),
        ("stages: [2, true]", r"stages\.1: found True; expected a number"),
        ("optimiser: {kind: sgd, momentum: true}", r"optimiser\.momentum: found True; expected a number"),
    ],
)
def test_true_and_false_are_no_numbers(tmp_path, text, message):
    """Pydantic takes them for 1 and 0."""
    with pytest.raises(ConfigError, match=message):
        load_config(Config, write(tmp_path, text))
    with pytest.raises(ConfigError, match=r"^--set pair\.window_hu\.0: found False; expected a number"):
        load_config(Config, None, ["mixed=true", "pair.window_hu=[false, true]"])


@pytest.mark.parametrize("text", ["no", "010", "2024-01-01", "12:30", "off", "1_000", "<<"])
def test_text_stays_text(tmp_path, text):
    assert load_config(Config, write(tmp_path, f"name: {text}\n")).name == text
    assert load_config(Config, None, [f"name={text}"]).name == text


@pytest.mark.parametrize(("text", "value"), [("1e-4", 1e-4), ("5", 5.0), (".5", 0.5), ("2.", 2.0), ("1.5E+3", 1500.0)])
def test_numbers_are_numbers(text, value):
    class Free(Strict):
        x: int | float | str

    assert load_config(Free, None, [f"x={text}"]).x == value


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("split:\n  flods: 3\n", [], r"c\.yaml: split\.flods: no such key; expected split\.folds perhaps\."),
        ("folds: 3\n", [], r"c\.yaml: folds: no such key; expected split\.folds or pair\.folds perhaps"),
        ("", ["learning-rate=1"], r"--set learning-rate: no such key; expected learning_rate perhaps"),
        (
            "optimiser:\n  kind: sgd\n  momentun: 1\n",
            [],
            r"optimiser\.momentun: no such key; expected optimiser\.momentum",
        ),
        ("pair: {folds: 2, window: 3}\n", [], r"pair\.window: no such key; expected pair\.window_hu perhaps"),
        ("xyzzy: 1\nname: 3\n", [], r"c\.yaml: xyzzy: no such key\. Look also at name\."),
    ],
)
def test_unknown_keys_name_the_nearest(tmp_path, text, overrides, message):
    with pytest.raises(UnknownKey, match=message):
        load_config(Config, write(tmp_path, text), overrides)


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("split:\n  folds: 1\n", [], r"c\.yaml: split\.folds: found 1; expected a value greater than or equal to 2\."),
        ("split:\n  folds: many\n", [], r"c\.yaml: split\.folds: found 'many'; expected a valid integer"),
        ("split: 3\n", [], r"c\.yaml: split: found 3; expected a section with keys of its own"),
        ("split: {window_hu: [1, 0]}\n", [], r"c\.yaml: split: window_hu must rise\."),
        ("split: {window_hu: [1, x]}\n", [], r"c\.yaml: split\.window_hu\.1: found 'x'; expected a valid number"),
        ("optimiser: {beta: 1}\n", [], r"c\.yaml: optimiser: found .*expected"),
        ("name: a\n", ["learning_rate=-1"], r"^--set learning_rate: found -1; expected a value greater than 0"),
        (
            "split: {window_hu: [0, 9]}\n",
            ["name=b", "split.window_hu=[1, 0]"],
            r"c\.yaml: split, with --set split\.window_hu: window_hu must rise\.",
        ),
        ("", ["split.folds=1"], r"^--set split\.folds: found 1; "),
        (
            "optimiser: {kind: sgd}\n",
            ["optimiser.kind=lamb"],
            r"c\.yaml: optimiser, with --set optimiser\.kind: found 'lamb'; expected 'adam', 'sgd'",
        ),
        ("name: a\n", ["learning_rate"], r"--set: 'learning_rate'; expected section\.key=value"),
        ("name: a\n", ["a..b=1"], r"expected section\.key=value"),
        ("name: a\n", ["name.x=1"], r"--set name\.x=1: name is 'a'; expected a section"),
        ("name: a\n", ["name=[1"], r"--set name=\[1, line 1: not valid YAML"),
        ("name: a\nsplit: [1\nx: 2\n", [], r"c\.yaml, line 3: not valid YAML: expected ',' or ']'"),
        ("name: a\n\tx: 2\n", [], r"c\.yaml, line 2: not valid YAML"),
        ("name: a\nsplit:\n  folds: 2\n  folds: 3\n", [], r"c\.yaml, line 4: key 'folds' appears twice; expected each"),
        (
            "name: !!python/object/apply:os.getcwd []\n",
            [],
            r"line 1: not valid YAML: could not determine a constructor",
        ),
        ("- a\n- b\n", [], r"c\.yaml: found \['a', 'b'\]; expected keys and values"),
        ("? [a, b]\n: 1\n", [], r"c\.yaml"),
        ("1: 2\n", [], r"c\.yaml: 1: found"),
        ("name: *x\n", [], r"not valid YAML: found undefined alias"),
    ],
)
def test_wrong_values(tmp_path, text, overrides, message):
    with pytest.raises(ConfigError, match=message) as raised:
        load_config(Config, write(tmp_path, text), overrides)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("model", [FinetuneConfig, PretrainingConfig])
def test_of_every_key_an_error_names_it_and_where_it_was_set(model):
    """No key takes a list of lists of lists. Where the key's section lacks another, that one is named before it."""
    keys = [key for key in dict.fromkeys(_known_keys(model)) if not key.startswith("planned_for.")]  # all or none
    assert len(keys) > 90
    for key in keys:
        with pytest.raises(ConfigError) as raised:
            load_config(model, None, [f"{key}=[[[x]]]"])
        assert f"--set {key}" in raised.value.where or key in raised.value.action, key


def test_missing_values_and_files(tmp_path):
    class Needs(Strict):
        cohort: Path

    with pytest.raises(ConfigError, match=r"^cohort: missing; expected a value"):
        load_config(Needs, None)
    with pytest.raises(ConfigError, match=r"none\.yaml: No such file or directory; expected a YAML file"):
        load_config(Config, tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.yaml: is not UTF-8 text"):
        load_config(Config, tmp_path / "binary.yaml")


def test_a_model_that_holds_itself():
    class Tree(Strict):
        leaf: int = 0
        child: "Tree | None" = None

    with pytest.raises(UnknownKey, match=r"child\.laef: no such key; expected leaf perhaps"):
        load_config(Tree, None, ["child.laef=1"])


@settings(max_examples=30)
@given(
    st.builds(
        Config,
        name=st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff\ufffe\uffff")),
        learning_rate=st.floats(min_value=1e-300, allow_nan=False),
        weights=st.none() | st.just(Path("a/b.safetensors")),
        pair=st.none() | st.builds(Split, folds=st.integers(2, 10**9)),
        optimiser=st.builds(Adam, beta=st.floats(allow_nan=False)) | st.just(Sgd()),
        stages=st.lists(st.integers()).map(tuple),
    )
)
def test_what_is_written_reads_back(tmp_path_factory, config):
    path = tmp_path_factory.mktemp("config") / "c.yaml"
    dump_config(config, path)
    assert load_config(Config, path) == config


@pytest.mark.parametrize(
    "name", ["1e-4", "no", "010", "null", "5", "2024-01-01", "", "a: b", " x ", "true", "~", "-", ".5"]
)
def test_text_that_looks_like_something_else_survives(tmp_path, name):
    dump_config(Config(name=name), tmp_path / "c.yaml")
    assert load_config(Config, tmp_path / "c.yaml").name == name
    assert isinstance(yaml.safe_load((tmp_path / "c.yaml").read_text()), dict)


def test_unwritable_config(tmp_path):
    (tmp_path / "c.yaml").mkdir()
    with pytest.raises(OutputError, match=r"c\.yaml: cannot be written"):
        dump_config(Config(), tmp_path / "c.yaml")


class Renamed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    renamed_keys: ClassVar[dict[str, str]] = {"old": "new", "part.rate": "section.learning_rate"}

    new: int = 0
    part: dict[str, int] = {}
    section: dict[str, float] = {}


def test_an_old_key_is_taken_once_with_a_message_that_names_the_new_one(tmp_path, caplog):
    path = tmp_path / "config.yaml"
    path.write_text("old: 3\npart: {rate: 1}\n")
    read = load_config(Renamed, path, ("part.rate=2",))
    assert (read.new, read.part, read.section) == (3, {}, {"learning_rate": 2})
    assert [record.getMessage() for record in caplog.records] == [
        "config key old is now called new",
        "config key part.rate is now called section.learning_rate",
    ]


def test_a_key_under_its_old_and_its_new_name_is_refused(tmp_path):
    with pytest.raises(UnknownKey, match="old"):
        load_config(Renamed, None, ("old=1", "new=2"))


def test_what_a_union_takes_is_all_told():
    message = r"--set input\.region: found 'heart'; expected 'auto', .* or 'whole', or 'head', 'brain' or 'lungs'\.$"
    with pytest.raises(ConfigError, match=message):
        load_config(FinetuneConfig, None, ["input.region=heart"])


def test_from_python_a_config_a_path_or_none(tmp_path):
    config = Config(name="a")
    assert given_config(Config, config) is config
    assert given_config(Config, write(tmp_path, "name: b\n"), ["learning_rate=1"]).learning_rate == 1
    assert given_config(Config, None, ["name=c"]).name == "c"
    with pytest.raises(UsageError, match=r"overrides \(learning_rate=1\) beside a Config; expected .* Set them in the"):
        given_config(Config, config, ["learning_rate=1"])
    with pytest.raises(UsageError, match=r"a config of type dict; expected a Config, the path of a YAML file, or None"):
        given_config(Config, {"name": "a"})


@pytest.mark.parametrize("word", ["linear_probe", '"linear_probe"', "{name: linear_probe}"])
def test_an_override_chooses_another_kind_however_it_is_written(tmp_path, word):
    """The decay in the file is of the kind that the override replaces."""
    file = tmp_path / "config.yaml"
    file.write_text("transfer: {strategy: {name: layerwise_lr_decay, stage_decay: 0.5}}")
    assert load_config(FinetuneConfig, file, [f"transfer.strategy={word}"]).transfer.strategy.name == "linear_probe"


def numeric_keys(values: object, inside: tuple[int | str, ...] = ()) -> Iterator[tuple[int | str, ...]]:
    """Locations of the numbers in a dumped config."""
    if isinstance(values, int | float) and not isinstance(values, bool):
        yield inside
    elif isinstance(values, dict | list):
        for key, value in values.items() if isinstance(values, dict) else enumerate(values):
            yield from numeric_keys(value, (*inside, key))


@pytest.mark.parametrize(
    "config", [FinetuneConfig(), PretrainingConfig(steps=1), TuningConfig()], ids=lambda config: type(config).__name__
)
def test_no_number_of_a_config_made_in_python_may_be_true(config):
    """``model_validate`` refuses it, as a YAML file is refused."""
    keys = list(numeric_keys(config.model_dump(mode="json")))
    assert len(keys) > 10
    for *sections, last in keys:
        values = config.model_dump(mode="json")
        type(config).model_validate(values)
        section = values
        for part in sections:
            section = section[part]
        section[last] = True
        with pytest.raises(ValidationError):
            type(config).model_validate(values)
