"""The boxes themselves: a sample of them is read, for damage and contrast."""

from collections.abc import Iterator

from cryoclass.checks.findings import Finding, failure, ok, warning
from cryoclass.checks.fit import no_blob
from cryoclass.cutting import TomogramSource
from cryoclass.sources import Sample, Source, none_readable


def check_boxes(sample: Sample, source: Source) -> Iterator[Finding]:
    """Say how many of a sample can be used, and why the others cannot; an error where that is true of all there are."""
    size = f"{source.box} pixels of {source.angpix:.4g} A"
    if not sample.rows and sample.size == len(source.order):
        yield failure("boxes", none_readable(len(source), sample.problems[0]))
    elif sample.problems:
        words = f"{len(sample.problems)} of {sample.size} sampled boxes cannot be used, such as: {sample.problems[0]}"
        yield warning(
            "boxes", words, "Such particles are skipped and listed in skipped.csv, with the reason."
        )
    elif source.box % 2:
        yield warning("boxes", f"{size}; RELION and Warp refuse odd boxes", "cryoclass itself takes any box.")
    else:
        yield ok("boxes", f"{size}; {sample.size} were read, and none is damaged")


def check_brightness(sample: Sample, source: Source, invert: str) -> Iterator[Finding]:
    """Say whether particles are bright, as is usual where no model says otherwise."""
    found = sample.contrast
    words = f"the mean of {len(sample.rows)} boxes is {found}{_habit(source, invert)}"
    if found == "unknown":
        yield no_blob(sample)
    elif found == "bright":
        yield ok("contrast", words)
    else:
        way_out = (
            "Add --invert no."
            if invert == "yes" or (invert == "auto" and flips(source))
            else "Add --invert yes."
        )
        yield warning("contrast", f"{words}, where particles should be bright", way_out)


def _habit(source: Source, invert: str) -> str:
    if invert != "auto":
        return f" with --invert {invert}"
    if not isinstance(source, TomogramSource):
        return ""
    return ", flipped from dark (RELION, IMOD)" if flips(source) else ", as Warp and M leave it"


def flips(source: Source) -> bool:
    """Whether ``--invert auto`` flips boxes of this source: crops out of tomograms in which particles are dark."""
    return isinstance(source, TomogramSource) and not all(
        p.tomogram.is_bright(by_table=source.particles.bright) for p in source.placements
    )
