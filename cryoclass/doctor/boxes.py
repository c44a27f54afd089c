"""The boxes themselves: a sample of them is read, for damage and contrast."""

from collections.abc import Iterator

from cryoclass.card import ModelCard
from cryoclass.cutting import TomogramSource
from cryoclass.doctor.findings import Finding, error, ok, warning
from cryoclass.sources import Sample, Source

SECONDS = 10.0  # of reading a sample; one of compressed tomograms may take long


def check_boxes(sample: Sample, source: Source) -> Iterator[Finding]:
    """Say how many of the sample can be used, and why the others cannot."""
    size = f"{source.box} pixels of {source.angpix:.4g} A"
    if sample.problems:
        words = f"{len(sample.problems)} of {sample.size} sampled boxes cannot be used, such as: {sample.problems[0]}"
        level = warning if len(sample.problems) < len(sample.rows) else error
        yield level("boxes", words, "Such particles are skipped and listed in skipped.csv, with the reason.")
    elif source.box % 2:
        yield warning("boxes", f"{size}; RELION and Warp refuse odd boxes", "cryoclass itself takes any box.")
    else:
        yield ok("boxes", f"{size}; {sample.size} were read, and none is damaged")


def check_contrast(sample: Sample, source: Source, card: ModelCard | None, invert: str) -> Iterator[Finding]:
    """Compare the contrast of the mean box with what the model learnt from, or with bright, the usual one."""
    found, wanted = sample.contrast, card.contrast if card else "bright"
    words = f"the mean of {len(sample.rows)} boxes is {found}{_habit(source, invert)}"
    if found == "unknown":
        yield ok(
            "contrast", f"no blob stands out in the mean of {len(sample.rows)} boxes{_habit(source, invert)}"
        )
    elif wanted in ("unknown", found):
        yield ok("contrast", words)
    elif card is not None:
        yield error("contrast", f"{words}, but the model learnt from {wanted} ones", _way_out(source, invert))
    else:
        yield warning("contrast", f"{words}, where particles should be {wanted}", _way_out(source, invert))


def _habit(source: Source, invert: str) -> str:
    if invert != "auto":
        return f" with --invert {invert}"
    if not isinstance(source, TomogramSource):
        return ""
    return ", flipped from dark (RELION, IMOD)" if _flips(source) else ", as Warp and M leave it"


def _flips(source: TomogramSource) -> bool:
    return not all(p.tomogram.is_bright(by_table=source.particles.bright) for p in source.placements)


def _way_out(source: Source, invert: str) -> str:
    flipped = invert == "yes" or (invert == "auto" and isinstance(source, TomogramSource) and _flips(source))
    return "Add --invert no." if flipped else "Add --invert yes."
