"""CONTRIBUTING.md followed literally: its steps are applied to a copy of the package, which then works."""

import json
import re
import shutil
import textwrap
from pathlib import Path

import pytest
from forked import python

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
_BLOCK = re.compile(r"(?P<before>(?:(?!```).)*)\n\n *```(?P<language>\w+)\n(?P<code>.*?)\n *```", re.DOTALL)


def apply(heading: str, copy: Path) -> None:
    """Do what the blocks below a heading say; a block without a file's name before it goes on in the last one."""
    file, text = None, PAGE.split(f"### {heading}\n")[1].split("\n## ")[0].split("\n### ")[0]
    for block in _BLOCK.finditer(text):
        named = re.findall(r"`(med_transfer/\S+\.\w+)`:$", block["before"])
        file = copy / named[-1] if named else file
        code = textwrap.dedent(block["code"]) + "\n"
        if block["language"] == "diff":
            add_lines(file, code.splitlines())
        else:
            file.write_text(code, encoding="utf-8")


def add_lines(file: Path, diff: list[str]) -> None:
    """The lines with a plus, between those without, which must stand in the file exactly once."""
    before, after = ("\n".join(line[1:] for line in diff if line[:1] in kinds) for kinds in (" ", " +"))
    content = file.read_text(encoding="utf-8")
    assert content.count(before) == 1, f"{file.name} has {content.count(before)} times:\n{before}"
    file.write_text(content.replace(before, after), encoding="utf-8")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the package in which all the examples of the page have been added."""
    folder = tmp_path_factory.mktemp("contributed")
    shutil.copytree(ROOT / "med_transfer", folder / "med_transfer", ignore=shutil.ignore_patterns("__pycache__"))
    for heading in ("A backbone", "An augmentation", "A report section"):
        apply(heading, folder)
    return folder


SCRIPTS = {  # each prints what its test below looks at
    "list": """
        from command_line import run_command
        print(run_command("backbones", "list").out)
        """,
    "features": """
        import torch
        from med_transfer.backbones import load_backbone
        encoder = load_backbone("two-convolutions", scratch=True).encoder
        maps = encoder(torch.rand(2, 1, 8, 8, 8))
        print([tuple(m.shape) for m in maps], tuple(encoder.pool(maps, (0, -1)).shape))
        """,
    "augmentation": """
        import torch
        from med_transfer.config import load_config
        from med_transfer.finetuning import FinetuneConfig
        from med_transfer.finetuning.augmentation import augmentation

        def view(*settings):
            config = load_config(FinetuneConfig, None, settings).augmentation
            steps = augmentation(config, (16, 16, 16), (-1.0, 1.0))
            steps.set_random_state(0)
            return torch.as_tensor(steps(torch.rand(1, 20, 20, 20, generator=torch.Generator().manual_seed(0))))

        ringing = "augmentation.ringing=1"
        print(torch.equal(view(ringing), view(ringing)), torch.equal(view(ringing), view()))
        print(torch.equal(view("augmentation.ringing=0"), view()))
        print(torch.equal(view(ringing, "augmentation.strength=0"), view("augmentation.strength=0")))
        """,
    "report": """
        from pathlib import Path
        from report_samples import sample, write
        print(write(Path(COPY) / "report.html", sample()))
        """,
}
RUN = """
import contextlib, io, json, sys
import pytest
scripts, copy, words = json.loads(sys.argv[1])
for name in [name for name in sys.modules if name.partition(".")[0] == "med_transfer"]:
    del sys.modules[name]
sys.path.insert(0, copy)
said = {}
for name, script in scripts.items():
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(script, {"COPY": copy})
    said[name] = out.getvalue()
with contextlib.redirect_stdout(io.StringIO()) as out:
    code = pytest.main(words)
assert code == 0, out.getvalue()
print(json.dumps({**said, "tests": out.getvalue()}))
"""


@pytest.fixture(scope="module")
def printed(copy):
    """What each script printed, and then what pytest said of the tests of every backbone and every section.

    In one process, in which the copy takes the package's place: to import what both need takes longer than all of them.
    """
    scripts = {name: textwrap.dedent(script) for name, script in SCRIPTS.items()}
    names = ("backbones/test_encoders", "backbones/test_registry_entries", "report/test_translation")
    files = (str(ROOT / "tests" / f"{name}.py") for name in names)
    words = ("-v", "--assert=plain", *files, "-k", "two-convolutions or class_shares")  # what it rewrites is loaded
    out, err = copy / "out", copy / "err"
    process = python("-c", RUN, json.dumps([scripts, str(copy), words]), out=out, err=err)
    process.join(500)
    assert process.exitcode == 0, out.read_text() + err.read_text()
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def passed(printed):
    """The tests that passed for what was added."""
    return [line for line in printed["tests"].splitlines() if "PASSED" in line]


def test_every_path_that_is_named_is_there(copy):
    paths = set(re.findall(r"`(\w+/[\w/.]*)`", PAGE.split("Where is ...")[1]))
    assert len(paths) >= 30
    missing = [path for path in paths if not any((at / path).exists() for at in (ROOT, copy, copy / "med_transfer"))]
    assert missing == []


def test_the_backbone_is_listed_gives_features_and_passes_what_every_backbone_passes(printed, passed):
    assert "two-convolutions" in printed["list"]
    assert printed["features"] == "[(2, 8, 4, 4, 4), (2, 16, 2, 2, 2)] (2, 24)\n"
    assert sum("two-convolutions" in line for line in passed) == 3


def test_the_augmentation_is_set_in_a_config_and_changes_an_image(printed):
    assert printed["augmentation"].split() == ["True", "False", "True", "True"]


def test_the_report_section_is_on_the_page_in_its_place_and_translated(copy, printed, passed):
    headings = re.findall(r"<h3[^>]*>(.*?)</h3>", printed["report"])
    assert headings.index("Shares of the classes") == headings.index("Rates by class") + 1
    assert (copy / "report_files" / "tables" / "class_shares-shares.csv").exists()
    assert sum("class_shares" in line for line in passed) == 3
