"""Is every series read as dcm2niix reads it? Real scanner files, compared with an independent reader.

For each folder below ``FOLDER`` (for example clones of the ``dcm_qa_*`` repositories of github.com/neurolabusc, which
were made to test converters), every DICOM series that we can read is compared with the volumes that dcm2niix writes
for the same SeriesInstanceUID. Both are reoriented to RAS. They count as the same if corners agree within 0.05 mm and
values within 1e-3 of the largest one; anything else is listed. dcm2niix is asked for display values (``-p n``), as
given by the standard's Rescale Slope.

    apt-get install dcm2niix
    python benchmarks/against_dcm2niix.py FOLDER --out OUT
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from med_transfer.errors import ScanError
from med_transfer.scans import Series, Volume, read_scan, survey

LARGEST_MM, LARGEST_SHARE = 0.05, 1e-3
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def converted(scans: Path, out: Path) -> dict[str, list[Path]]:
    """dcm2niix's files by SeriesInstanceUID."""
    if not out.exists():
        out.mkdir(parents=True)
        words = ["-z", "n", "-b", "y", "-ba", "n", "-p", "n", "-d", "9", "-f", "%f_%s_%d", "-o", str(out), str(scans)]
        subprocess.run(["dcm2niix", *words], capture_output=True, check=False)
    files = defaultdict(list)
    for record in sorted(out.glob("*.json")):
        uid = json.loads(record.read_text(errors="replace")).get("SeriesInstanceUID", "")
        files[uid] += [image for image in [record.with_suffix(".nii")] if image.exists()]
    return files


def as_ras(volume: Volume) -> nibabel.Nifti1Image:
    voxels = np.transpose(volume.voxels, (2, 1, 0)).astype(np.float32)
    return nibabel.as_closest_canonical(nibabel.Nifti1Image(voxels, LPS_TO_RAS @ volume.affine))


def volumes(file: Path) -> Iterator[tuple[NDArray, NDArray]]:
    """Voxels of each volume of a file, with its affine."""
    image = nibabel.as_closest_canonical(nibabel.load(file))  # type: ignore[arg-type]
    voxels = np.asarray(image.dataobj, dtype=np.float32)
    for number in range(int(np.prod(voxels.shape[3:]))):
        yield voxels.reshape(*voxels.shape[:3], -1)[..., number], image.affine


def difference(ours: nibabel.Nifti1Image, voxels: NDArray, affine: NDArray) -> tuple[float, float] | None:
    """Differences of the corners in mm, and of the values as a share of the largest; None if the sizes differ."""
    own = np.asarray(ours.dataobj)
    if own.shape != voxels.shape:
        return None
    corners = np.array([[0, 0, 0, 1], [*(size - 1 for size in own.shape), 1]]).T
    mm = np.abs(affine @ corners - ours.affine @ corners).max()
    return float(mm), float(np.abs(voxels - own).max() / max(1, np.abs(own).max()))


def compared(series: Series, files: list[Path]) -> str:
    """``same``, or the difference from the most similar volume."""
    if not series.verdict.usable:
        return "rejected"
    try:
        ours = as_ras(read_scan(series))
    except ScanError as error:
        return f"rejected when read ({type(error).__name__})"
    found = [difference(ours, *theirs) for file in files for theirs in volumes(file)]
    alike = sorted(one for one in found if one is not None)
    if any(mm <= LARGEST_MM and share <= LARGEST_SHARE for mm, share in alike):
        return "same"
    if not found:
        return "not written by dcm2niix"
    if not alike:
        return f"another size: {' x '.join(map(str, ours.shape))}"
    return f"differs: corners {alike[0][0]:.3g} mm, values {alike[0][1]:.2g}"


def main() -> None:
    arguments = parse()
    total = Counter()
    for folder in sorted(path for path in arguments.folder.iterdir() if path.is_dir()):
        scans = folder / "In" if (folder / "In").is_dir() else folder
        files, counts = converted(scans, arguments.out / folder.name), Counter()
        for series in (found for found in survey(scans).series if found.format == "dicom"):
            said = compared(series, files.get(series.series_uid, []))
            counts[said.partition(":")[0]] += 1
            if said.startswith(("differs", "another")):
                print(f"  {series.name} ({series.modality}): {said}; {series.verdict}", flush=True)
        print(f"{folder.name}: {', '.join(f'{n} {said}' for said, n in counts.most_common())}", flush=True)
        total += counts
    print(f"all: {', '.join(f'{n} {said}' for said, n in total.most_common())}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="one folder per collection of scans")
    parser.add_argument("--out", type=Path, default=Path("against_dcm2niix"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
