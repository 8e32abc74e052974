"""What a user installs: names, start-up time, the wheel and its metadata, the set-up files."""

import ast
import gzip
import importlib.metadata
import inspect
import json
import re
import resource
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import med_transfer
from med_transfer.backbones import backbones

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "med_transfer"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
HEAVY = {"torch", "monai", "numpy", "scipy", "pandas", "sklearn", "lightning", "matplotlib", "pydicom", "nibabel"}
COMES_WITH = {  # parts of a declared package, versioned by it
    "pydantic-core": "pydantic",
    "markupsafe": "jinja2",
    "starlette": "fastapi",
    "h11": "uvicorn",
    "anyio": "fastapi",
}
PROMISED = {
    "find_series",
    "read_scan",
    "Series",
    "Volume",
    "Cohort",
    "list_backbones",
    "load_backbone",
    "finetune",
    "FinetuneConfig",
    "Run",
    "evaluate",
    "explain",
    "compare",
    "load_bundle",
    "Predictor",
    "TransferClassifier",
    "plan",
    "pretrain",
    "preview",
    "select_backbone",
    "datasets",
    "view_of",
}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=ROOT, stdin=subprocess.DEVNULL)


# Start-up


def processor_seconds(*arguments: str) -> float:
    """Of Python with these arguments. Unlike the clock on the wall, it hardly depends on what else the machine does."""
    before, answer, after = (
        resource.getrusage(resource.RUSAGE_CHILDREN),
        run(sys.executable, *arguments),
        resource.getrusage(resource.RUSAGE_CHILDREN),
    )
    assert answer.stdout.count("finetune") or arguments[0] == "-c"
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_answers_in_half_a_second():
    """Of a machine that loads a part of Python's own library in a tenth of one; a slower one takes as many tenths."""
    tenth = min(processor_seconds("-c", "import asyncio, email.message, http.client, unittest") for _ in range(3))
    allowed, seconds = max(0.5, 5 * tenth), []
    while len(seconds) < 5 and min(seconds, default=allowed) >= allowed:
        seconds.append(processor_seconds("-m", "med_transfer", "--help"))
    assert 0 < min(seconds) < allowed, f"best of five: {min(seconds):.2f} s of {allowed:.2f}"


def test_help_of_every_command_loads_no_heavy_package():
    script = """
import contextlib, io, json, sys
import typer
from med_transfer.cli.app import app
command = typer.main.get_command(app)
for words in [[], *([name] for name in command.commands)]:
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        command([*words, "--help"], standalone_mode=False)
    assert "Usage" in shown.getvalue(), words
print(json.dumps([len(command.commands), sorted({name.partition(".")[0] for name in sys.modules})]))
"""
    n_commands, loaded = json.loads(run(sys.executable, "-c", script).stdout)
    assert n_commands >= 9
    assert not HEAVY & set(loaded)


def test_import_loads_nothing_but_itself():
    script = "import json, sys; import med_transfer; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(run(sys.executable, "-c", script).stdout)
    assert not HEAVY & set(loaded)
    assert [name for name in loaded if name.startswith("med_transfer")] == ["med_transfer", "med_transfer.processor"]


# Names


def test_public_names_are_the_promised_ones():
    assert set(med_transfer.__all__) == PROMISED
    assert med_transfer.__all__ == sorted(med_transfer.__all__)
    assert set(dir(med_transfer)) == PROMISED | {"__version__"}


@pytest.mark.parametrize("name", med_transfer.__all__)
def test_public_name_resolves_and_says_what_it_is(name):
    assert inspect.getdoc(getattr(med_transfer, name))


def test_no_public_name_is_a_module():
    modules = {path.stem for path in PACKAGE.iterdir()}
    assert not modules & set(med_transfer.__all__)


@pytest.mark.parametrize("stub", sorted(PACKAGE.rglob("*.pyi")), ids=lambda path: path.parent.name)
def test_type_checkers_see_the_names_that_a_package_gives(stub):
    *imports, names = [node for node in ast.parse(stub.read_text()).body if not isinstance(node, ast.AnnAssign)]
    assert isinstance(names, ast.Assign)
    assert sorted(alias.name for node in imports for alias in node.names) == sorted(ast.literal_eval(names.value))


def test_unknown_name():
    with pytest.raises(AttributeError, match="No med_transfer attribute backbone"):
        _ = med_transfer.backbone


# Metadata


def test_the_oldest_versions_are_those_of_the_project():
    constraints = dict(line.split("==") for line in run(sys.executable, ".ci/lower_bounds.py").stdout.split())
    for text in [*PROJECT["dependencies"], *(text for extra in EXTRAS.values() for text in extra)]:
        if (requirement := Requirement(text)).name != PROJECT["name"]:
            (bound,) = (clause.version for clause in requirement.specifier)
            assert Version(constraints[requirement.name.lower()].removesuffix(".*")) >= Version(bound), text
    assert constraints["torch"] == "2.10.*"


def test_one_version_everywhere():
    assert PROJECT["version"] == med_transfer.__version__ == importlib.metadata.version("med-transfer")
    assert f"ARG VERSION={PROJECT['version']}\n" in (ROOT / "docker/Dockerfile").read_text()
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == PROJECT["version"]


def test_changelog_starts_with_this_version():
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] in {"Unreleased", PROJECT["version"]}


def test_command_is_installed():
    done = run(str(Path(sys.executable).with_name("med-transfer")), "--version")
    assert done.stdout == f"med-transfer {med_transfer.__version__}\n"


@pytest.mark.parametrize("group", ["dependencies", *EXTRAS])
def test_requirements_are_ranges_with_a_floor(group):
    for text in PROJECT["dependencies"] if group == "dependencies" else EXTRAS[group]:
        requirement = Requirement(text)
        if requirement.name == PROJECT["name"]:
            assert requirement.extras <= set(EXTRAS)
        else:
            assert [clause.operator for clause in requirement.specifier] == [">="], text


LOCKED = {
    name: re.findall(r"^(\S+)==(\S+)", (ROOT / f"docker/{name}.lock").read_text(), re.M) for name in ("batch", "node")
}


@pytest.mark.parametrize(("image", "extras"), [("batch", ()), ("node", ("hospital",))])
def test_images_hold_what_is_asked_for(image, extras):
    """The lock and the Dockerfile's torch satisfy pyproject.toml, and hold nothing that brings CUDA."""
    of_index = dict(re.findall(r"ARG (TORCH(?:VISION)?)_VERSION=(\S+)", (ROOT / "docker/Dockerfile").read_text()))
    versions = {canonicalize_name(name): version for name, version in LOCKED[image]} | {"torch": of_index["TORCH"]}
    wanted = [*PROJECT["dependencies"], *(text for extra in extras for text in EXTRAS[extra])]
    for requirement in map(Requirement, wanted):
        assert versions[canonicalize_name(requirement.name)] in requirement.specifier, requirement
    assert not [name for name in versions if name.startswith(("nvidia", "triton", "cuda"))]
    assert "torchvision" not in versions  # PyPI's is built for CUDA
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"{name} ?= {version}\n" in makefile for name, version in of_index.items())


def test_every_locked_file_has_its_hash():
    for lock in (ROOT / "docker").glob("*.lock"):
        packages = re.split(r"^(?=\w)", lock.read_text(), flags=re.M)[1:]
        assert packages
        assert not [package for package in packages if "--hash=sha256:" not in package]


def test_what_is_carried_to_a_place_without_a_network_was_checked_by_its_hash():
    """Torch aside, whose index gives none; what builds our own wheel, too."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    told = ["make", "-n", "-o", ".venv/installed-dev", "bundle-offline"]
    lines = subprocess.run(told, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    brought = [line for line in lines if "pip " in line and " torch==" not in line]
    assert len(brought) == 3
    assert all("--require-hashes" in line or "PIP_NO_INDEX=1" in line for line in brought)


def test_what_is_in_a_batch_is_the_same_in_a_node():
    assert set(LOCKED["batch"]) < set(LOCKED["node"])


def test_every_extra_that_is_named_exists():
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("docker/*.*"), ROOT / "Makefile"]
    text = "\n".join(path.read_text() for path in documents)
    named = re.findall(r"""(?:med-transfer|pip install -e ["']?\.)\[([\w,-]+)\]""", text)
    named += [spec.extra for spec in backbones().values() if spec.extra]
    assert {extra for names in named for extra in names.split(",")} <= set(EXTRAS)


OF_AN_EXTRA = PACKAGE / "hospital"  # a room whose __init__ says what to install before anything in it is imported


def test_every_imported_package_is_declared():
    declared = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    optional = {canonicalize_name(Requirement(text).name) for extra in EXTRAS.values() for text in extra}
    homes = importlib.metadata.packages_distributions()
    undeclared = []
    for path in PACKAGE.rglob("*.py"):
        for name, at_once in imported_packages(path):
            found = {canonicalize_name(home) for home in homes.get(name, [name])}
            there = declared | optional if not at_once or OF_AN_EXTRA in path.parents else declared
            if not {COMES_WITH.get(home, home) for home in found} & there:
                undeclared.append(f"{path.relative_to(ROOT)}: {name}, of {', '.join(found)}")
    assert not undeclared


def imported_packages(path: Path):
    """Third-party packages that a module imports, and whether it does so as it loads."""
    tree = ast.parse(path.read_text())
    at_once = set(map(id, tree.body))
    for node in ast.walk(tree):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            modules = [node.module]
        for name in {module.partition(".")[0] for module in modules}:
            if name not in sys.stdlib_module_names | {"med_transfer"}:
                yield name, id(node) in at_once


# The wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder))
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        yield archive


def test_wheel_holds_the_package_and_nothing_else(wheel):
    source = {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"med_transfer/py.typed", "med_transfer/report/report.html.jinja"} <= source
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == source


def test_wheel_says_what_it_is(wheel):
    info = f"med_transfer-{med_transfer.__version__}.dist-info"
    metadata = wheel.read(f"{info}/METADATA").decode()
    for line in ("Name: med-transfer", f"Version: {med_transfer.__version__}", "License-Expression: Apache-2.0"):
        assert f"{line}\n" in metadata
    assert "Requires-Python: >=3.11\n" in metadata
    assert "med-transfer = med_transfer.__main__:main" in wheel.read(f"{info}/entry_points.txt").decode()
    assert f"{info}/licenses/LICENSE" in wheel.namelist()


def test_source_distribution_holds_no_data(tmp_path):
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path))
    (archive,) = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path / "out", filter="data")
    (folder,) = (tmp_path / "out").iterdir()
    kept = {path.name for path in folder.iterdir()}
    assert kept <= {
        "med_transfer",
        "configs",
        "docs",
        "tests",
        "pyproject.toml",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "PKG-INFO",
        ".gitignore",
    }
    weights = sum(path.stat().st_size for path in (PACKAGE / "backbones/shipped").iterdir())
    assert archive.stat().st_size < weights + 2**21


# The house around the code


def test_an_image_that_cannot_be_saved_stops_the_offline_bundle(tmp_path):
    """Else half an image would be packed, and the checksums written afterwards would confirm it."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    engine = tmp_path / "engine"
    engine.write_text('#!/bin/sh\n[ "$1" != save ] || { echo half an image; exit 1; }\n')
    engine.chmod(0o755)
    told = run("make", "-n", "-o", ".venv/installed-dev", "bundle-offline", f"ENGINE={engine}").stdout
    packing = told[told.index("if [") :].partition("\ncd ")[0]
    (tmp_path / "build/offline").mkdir(parents=True)
    packed = subprocess.run(["sh", "-e", "-c", packing], cwd=tmp_path, capture_output=True, check=False)
    assert packed.returncode == 1, packed
    engine.write_text('#!/bin/sh\n[ "$1" != save ] || echo an image > "$3"\n')
    subprocess.run(["sh", "-e", "-c", packing], cwd=tmp_path, check=True)
    assert gzip.decompress((tmp_path / "build/offline/med-transfer-node.tar.gz").read_bytes()) == b"an image\n"


def test_make_lists_every_target():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^\.PHONY: (\S+)$", makefile, re.M)
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    listed = re.findall(r"^  make (\S+) +\S", run("make").stdout, re.M)
    assert listed == targets
    assert {"demo", "test", "lint", "image", "clean"} <= set(targets)


def test_make_refuses_an_old_python(tmp_path):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2" && exit 0\nexit 1\n')
    old.chmod(0o755)
    answer = subprocess.run(
        ["make", "demo", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert answer.returncode == 2
    assert "needs Python 3.11 or newer" in answer.stderr
    assert "is Python 3.9.2" in answer.stderr
    assert not (tmp_path / "venv").exists()


def test_continuous_integration_is_a_script():
    script = ROOT / ".ci/run"
    assert script.stat().st_mode & 0o111
    run("bash", "-n", str(script))
    assert script.read_text().rstrip().endswith("make test")


@pytest.mark.parametrize("name", ["CT.dcm", "scan.nii", "scan.NII.GZ", "model.pt", "best.safetensors"])
def test_scans_and_weights_are_refused_at_commit(name):
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][-1]["hooks"]
    assert re.search(hooks[0]["files"], f"folder/{name}")
    assert not re.search(hooks[0]["files"], "med_transfer/scans/dicom/series.py")


def test_images_run_as_a_fixed_user_other_than_root():
    stages = {
        text.split("\n")[0].split()[-1]: text for text in (ROOT / "docker/Dockerfile").read_text().split("\nFROM ")[1:]
    }
    assert "\nUSER 10001:10001\n" in stages["runtime"]
    assert 'ENTRYPOINT ["med-transfer"]' in stages["runtime"]
    for image in ("batch", "node"):
        assert stages[image].startswith("runtime AS ")
        assert "USER" not in stages[image]
    assert "/live" in stages["node"]


def test_kubernetes_and_compose_take_every_right_away():
    documents = [one for path in (ROOT / "docker/k8s").glob("*.yaml") for one in yaml.safe_load_all(path.read_text())]
    by_kind = {one["kind"]: one for one in documents}
    pod = by_kind["StatefulSet"]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False is by_kind["ServiceAccount"]["automountServiceAccountToken"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    for container in (*pod["containers"], *pod["initContainers"]):
        rights = container["securityContext"]
        assert (rights["readOnlyRootFilesystem"], rights["allowPrivilegeEscalation"]) == (True, False)
        assert rights["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]
    nothing = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert nothing in [one["spec"] for one in documents if one["kind"] == "NetworkPolicy"]
    service = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]["node"]
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])


def test_a_node_that_may_not_take_more_is_not_restarted():
    """`/ready` says no while the disk is full, and a restart empties no disk but interrupts what is being sent."""
    documents = yaml.safe_load_all((ROOT / "docker/k8s/node.yaml").read_text())
    node = next(one for one in documents if one["kind"] == "StatefulSet")["spec"]["template"]["spec"]["containers"][0]
    paths = {name: node[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/live", "liveness": "/live", "readiness": "/ready"}


def test_a_bundle_is_installed_whole_or_not_at_all(tmp_path):
    """A part of one would count as installed for ever after, and an export that it lacks would not be missed."""
    documents = yaml.safe_load_all((ROOT / "docker/k8s/node.yaml").read_text())
    pod = next(one for one in documents if one["kind"] == "StatefulSet")["spec"]["template"]["spec"]
    data, given = tmp_path / "data", tmp_path / "given"
    (given / "models").mkdir(parents=True)
    (given / "med_transfer.json").touch()
    (given / "models/cut").symlink_to("nothing")  # cannot be copied
    script = pod["initContainers"][0]["args"][0].replace("/tmp/bundle", str(given))
    install = [sys.executable, "-c", script.replace("/var/lib/med-transfer", str(data))]
    data.mkdir()
    assert subprocess.run(install, capture_output=True, check=False).returncode
    assert not (data / "bundle").exists()
    (given / "models/cut").unlink()
    (given / "models/whole").touch()
    subprocess.run(install, check=True)
    assert [path.name for path in data.iterdir()] == ["bundle"]
    assert (data / "bundle/models/whole").exists()


def test_the_containers_configs_are_configs(tmp_path):
    pytest.importorskip("pynetdicom", reason="needs the extra [hospital]")
    from med_transfer.hospital.config import read_node_config

    documents = yaml.safe_load_all((ROOT / "docker/k8s/node.yaml").read_text())
    (tmp_path / "node.yaml").write_text(next(documents)["data"]["node.yaml"])
    of_kubernetes, of_compose = read_node_config(tmp_path / "node.yaml"), read_node_config(ROOT / "docker/node.yaml")
    assert of_kubernetes.tls
    for node in (of_kubernetes, of_compose):
        assert node.metrics
        assert node.metrics.port == 9464  # where the image's health check asks
        assert node.folder.is_relative_to("/var/lib/med-transfer")
