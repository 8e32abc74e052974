"""Check from headers what the images contain; values that are not measurements are rejected.

Images with values of different kinds (echoes, magnitude and phase, units) are not one volume, even if their positions
form one. Neither are images whose acquisition parameters alternate. A parameter that changes only once is a remark, as
is anything else that a user of the images should know.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from itertools import pairwise

from pydicom.uid import UID, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless

from med_transfer.errors.sentence import Sentence, few
from med_transfer.scans.dicom.header import Slice
from med_transfer.scans.dicom.sentences import mixed
from med_transfer.scans.dicom.slice_geometry import commonest
from med_transfer.scans.search.description import states_contrast
from med_transfer.scans.verdict import Verdict

MODALITIES = ("CT", "MR", "PT")
ECHO_TOLERANCE_SHARE = 0.05  # of the echo time, which scanners round differently from slice to slice
_LOSSY = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless)
# Values of ImageType (0008,0008) for parts of a complex signal, and for images computed from several.
_KINDS = re.compile(
    r"(SW_)?[MPRI](_(FFE|SE|IR|TSE|SPIR|B0|B1|PCA|ECHO))?|MAGNITUDE|PHASE|REAL|IMAGINARY|PHASE MAP|FIELD_?MAP|"
    r"WATER|FAT|W|F|IN_PHASE|OPP_PHASE|OUT_PHASE|ADC|TRACEW|EXP|FA|T1 MAP|T2 MAP|R2 MAP|T2_STAR MAP"
)
_PROJECTION = re.compile(r"MIP|MINIP|MAX_IP|MIN_IP|PROJECTION IMAGE|RAYSUM|VOLUME RENDERING|VRT|SSD")
_Check = Callable[[Sequence[Slice]], str]  # a sentence, or an empty string
_FARTHEST_VALUE = 1e12  # no scanner measures more, in any unit; greater values are corrupt


def content_verdict(slices: Sequence[Slice]) -> Verdict:
    """Reject images unless they are plain CT, MR or PT images."""
    return Verdict(rejections=tuple(reason for check in _CONTENT if (reason := check(slices))))


def mixture_verdict(slices: Sequence[Slice]) -> Verdict:
    """Reject ordered slices that hold values of different kinds; otherwise give remarks."""
    kinds = [sentence for what, values in _kinds(slices).items() if (sentence := mixed(what, values))]
    degrees = {what: values for what, values in _degrees(slices).items() if len(set(values)) > 1}
    rejections = [*kinds, *(mixed(what, values) for what, values in degrees.items() if _alternate(values))]
    remarks = [mixed(what, values) for what, values in degrees.items() if not _alternate(values)]
    if rejections:
        return Verdict(rejections=tuple(rejections))
    return Verdict(remarks=(*remarks, *(remark for check in _REMARKS if (remark := check(slices)))))


# Values that are not measurements -----------------------------------------------------------------------------


def _damage(slices: Sequence[Slice]) -> str:
    return few([Sentence("{name} is {damage}", name=s.path.name, damage=s.damage) for s in slices if s.damage])


def _modality(slices: Sequence[Slice]) -> str:
    modalities = sorted({s.modality or "none" for s in slices})
    if len(modalities) == 1 and modalities[0] in MODALITIES:
        return ""
    return Sentence("modality {names} is not one of CT, MR, PT", names=", ".join(modalities))


def _localizer(slices: Sequence[Slice]) -> str:
    return Sentence("localizer (scout) images, not a volume") if any(s.is_localizer for s in slices) else ""


def _colour(slices: Sequence[Slice]) -> str:
    if any(s.pixels.format.samples != 1 for s in slices):
        return Sentence("colour images, not measured values")
    odd = {_value(s, "PhotometricInterpretation") for s in slices} - {"", "MONOCHROME1", "MONOCHROME2"}
    return Sentence("{names} images, not measured values", names=", ".join(sorted(odd))) if odd else ""


def _frames(slices: Sequence[Slice]) -> str:
    if all(s.placed for s in slices):
        return ""
    return Sentence("multi-frame images that do not say where each frame lies; export single-frame or enhanced images")


def _mosaic(slices: Sequence[Slice]) -> str:
    makers = {"MOSAIC": "Siemens", "VFRAME": "United Imaging"}
    found = sorted(maker for word, maker in makers.items() if any(word in s.image_type for s in slices))
    if not found:
        return ""
    return Sentence("{maker} mosaic: each image holds a whole volume as tiles; export single images", maker=found[0])


def _lookup_table(slices: Sequence[Slice]) -> str:
    several = any(s.has_lookup_table for s in slices)
    return Sentence("values are coded through a Modality LUT Sequence, which is not supported") if several else ""


def _sign(slices: Sequence[Slice]) -> str:
    odd = {_value(s, "PixelRepresentation") for s in slices} - {"", "0", "1"}
    return Sentence("PixelRepresentation is {names}, neither 0 nor 1", names=", ".join(sorted(odd))) if odd else ""


def _no_slope(slices: Sequence[Slice]) -> str:
    flat = sum(abs(s.slope) < 1 / _FARTHEST_VALUE for s in slices)
    if not flat:
        return ""
    return Sentence("RescaleSlope is 0 in {flat} of {n} images, which makes all values one", flat=flat, n=len(slices))


def _too_far(slices: Sequence[Slice]) -> str:
    odd = any(max(abs(s.slope), abs(s.intercept)) > _FARTHEST_VALUE for s in slices)
    return Sentence("RescaleSlope or RescaleIntercept beyond {limit:g}", limit=_FARTHEST_VALUE) if odd else ""


_CONTENT: tuple[_Check, ...] = (
    *(_damage, _modality, _localizer, _colour, _frames),
    *(_mosaic, _lookup_table, _sign, _no_slope, _too_far),
)


# Values of several kinds --------------------------------------------------------------------------------------


def _kinds(slices: Sequence[Slice]) -> dict[str, list[Hashable]]:
    """Properties that all images of a volume must share: a value for each slice, by name."""
    echoes = [_number(s, "EchoTime") for s in slices]
    usual = commonest([echo for echo in echoes if echo is not None] or [0.0])
    near = [e is None or abs(e - usual) <= ECHO_TOLERANCE_SHARE * abs(usual) for e in echoes]
    return {
        "EchoTime": [usual if same else echo for same, echo in zip(near, echoes, strict=True)],
        "DiffusionBValue": _where_stated([_number(s, "DiffusionBValue") for s in slices]),
        "Units": _where_stated([_value(s, "Units") or None for s in slices]),
        Sentence("image types"): [_kind(s) for s in slices],
        Sentence("rescale"): [_is_raw(s) for s in slices],
    }


def _is_raw(slice_: Slice) -> str:
    """Whether a CT slice lacks a rescale; among slices that have one, it was lost."""
    is_raw = slice_.modality == "CT" and slice_.slope == 1 and slice_.intercept == 0
    return Sentence("none") if is_raw else Sentence("stated")


def _kind(slice_: Slice) -> str:
    words = {word for word in slice_.image_type[2:] if _KINDS.fullmatch(word)}
    return "\\".join(sorted(words | {_value(slice_, "ComplexImageComponent")} - {""})) or Sentence("of no stated kind")


def _degrees(slices: Sequence[Slice]) -> dict[str, list[Hashable]]:
    """Properties that may change along a volume but not alternate: a value for each slice, by name."""
    return {
        "KVP": _where_stated([_number(s, "KVP") for s in slices]),
        Sentence("kernels"): _where_stated([_value(s, "ConvolutionKernel") or None for s in slices]),
        Sentence("contrast"): [
            Sentence("agent") if states_contrast(dict(s.acquisition)) else Sentence("no agent") for s in slices
        ],
        "PhotometricInterpretation": _where_stated([_value(s, "PhotometricInterpretation") or None for s in slices]),
    }


def _alternate(values: Sequence[Hashable]) -> bool:
    """Whether a value returns after another one."""
    return sum(first != second for first, second in pairwise(values)) >= len(set(values))


def _where_stated(values: Sequence[Hashable]) -> list[Hashable]:
    """Replace missing values (None) by the most frequent one."""
    stated = [value for value in values if value is not None]
    usual = commonest(stated) if stated else None
    return [usual if value is None else value for value in values]


# Remarks ------------------------------------------------------------------------------------------------------


def _rescale_type(slices: Sequence[Slice]) -> str:
    odd = {s.rescale_type for s in slices if s.modality == "CT"} - {"", "HU"}
    if not odd:
        return ""
    return Sentence("RescaleType is {names}: values may not be Hounsfield units", names=", ".join(sorted(odd)))


def _rescales(slices: Sequence[Slice]) -> str:
    """Slopes are compared except in PET, where each image usually has its own."""
    slopes = ["" if s.modality == "PT" else f"slope {s.slope:g} " for s in slices]
    return mixed(
        Sentence("rescale"), [f"{slope}intercept {s.intercept:g}" for slope, s in zip(slopes, slices, strict=True)]
    )


def _signs(slices: Sequence[Slice]) -> str:
    """Each slice is read by its own header; a wrong sign turns values below 0 into values near 65536."""
    return mixed("PixelRepresentation", [str(int(s.pixels.format.signed)) for s in slices])


def _pet_units(slices: Sequence[Slice]) -> str:
    suv_by_body_weight = "GML"  # PS3.3 C.8.9.1
    units = {_value(s, "Units") for s in slices if s.modality == "PT"} - {"", suv_by_body_weight}
    if not units:
        return ""
    return Sentence(
        "PET values in {units}, not standardised uptake values (GML): they depend on dose and time",
        units=", ".join(sorted(units)),
    )


def _lossy(slices: Sequence[Slice]) -> str:
    lossy = [s for s in slices if s.pixels.format.syntax in _LOSSY or _value(s, "LossyImageCompression") == "01"]
    if not lossy:
        return ""
    syntaxes = sorted({UID(s.pixels.format.syntax).name for s in lossy})
    return Sentence(
        "lossy compression in {n} of {of} images ({names}): values are changed",
        n=len(lossy),
        of=len(slices),
        names=", ".join(syntaxes),
    )


def _derived(slices: Sequence[Slice]) -> str:
    derived = sorted({"\\".join(s.image_type) for s in slices if "DERIVED" in s.image_type[:1]})
    if not derived:
        return ""
    return Sentence("derived images ({derived}): computed from others, not as they were measured", derived=few(derived))


def _projections(slices: Sequence[Slice]) -> str:
    words = {word for s in slices for word in (*s.image_type[2:], _value(s, "VolumetricProperties"))}
    found = sorted(word for word in words if _PROJECTION.fullmatch(word))
    if not found:
        return ""
    return Sentence("projections through several slices ({names}), not the values of one place", names=", ".join(found))


def _burned_in(slices: Sequence[Slice]) -> str:
    several = any(_value(s, "BurnedInAnnotation").upper() == "YES" for s in slices)
    return Sentence("burned-in annotation: text lies in the pixels, and may name the patient") if several else ""


def _acquisitions(slices: Sequence[Slice]) -> str:
    numbers = _where_stated([dict(s.phase).get("AcquisitionNumber") for s in slices])
    return Sentence("slices of {n} acquisitions alternate", n=len(set(numbers))) if _alternate(numbers) else ""


def _image_types(slices: Sequence[Slice]) -> str:
    return mixed("ImageType", ["\\".join(s.image_type) for s in slices])


_REMARKS: tuple[_Check, ...] = (
    *(_rescale_type, _rescales, _signs, _pet_units, _lossy),
    *(_derived, _projections, _burned_in, _acquisitions, _image_types),
)


def _value(slice_: Slice, keyword: str) -> str:
    """A header value as text; empty if absent."""
    return next((text for name, text in (*slice_.content, *slice_.acquisition) if name == keyword), "")


def _number(slice_: Slice, keyword: str) -> float | None:
    stated = dict(slice_.phase).get(keyword) or _value(slice_, keyword)
    try:
        return float(stated)
    except ValueError:
        return None
