"""Whether particles fit what a model or weights have learnt from: pixel size, extent, contrast; said before anything is computed."""

from collections.abc import Iterator

from cryoclass.card import LearntFrom, ModelCard
from cryoclass.checks.findings import Finding, error, ok, unknown, warning
from cryoclass.errors import ModelError, UsageError
from cryoclass.settings import Preparation
from cryoclass.sources import Sample, Source
from cryoclass.volumes.contrast import Contrast
from cryoclass.volumes.pixels import TOLERANCE, agree


def fits(source: Source, card: ModelCard) -> bool:
    """Whether pixel size and box in angstroms are the model's, within 1 %, or it takes any."""
    if card.any_box:
        return True
    extent = card.box[0] * card.angpix
    return agree(source.angpix, card.angpix) and agree(source.box * source.angpix, extent)


def check_fit(source: Source, card: ModelCard, *, rescale: bool) -> Iterator[Finding]:
    """Compare pixel size and box with the model's; with ``rescale``, boxes are brought to them."""
    model, wanted = "model's size", card.size_in_words
    if fits(source, card):
        yield ok(model, wanted)
    elif rescale:
        yield ok(model, f"boxes are brought to {wanted}")
    else:
        yield error(
            model,
            f"the boxes are {source.box} pixels of {source.angpix:.4g} A, but the model learnt from {wanted}",
            "Add --rescale; or, where the STAR file's pixel size is wrong, give the right one with --angpix.",
            ModelError,
        )


def check_contrast(
    sample: Sample, card: ModelCard, invert: str, *, flipped: bool = False
) -> Iterator[Finding]:
    """Compare the contrast of some boxes with what the model learnt from; ``--invert yes`` or ``no`` settles it.

    Parameters
    ----------
    sample
        Of the boxes as the model will see them.
    card
        The model's.
    invert
        What the user says: ``auto``, ``yes`` or ``no``.
    flipped
        Whether ``auto`` has flipped them already, for the tomograms' sake.
    """
    found, wanted = sample.contrast, card.contrast
    if invert != "auto":
        yield ok("contrast", f"as --invert {invert} says; the mean of {len(sample.rows)} boxes is {found}")
    elif found == "unknown":
        yield no_blob(sample)
    elif wanted == "unknown":
        yield unknown("contrast", f"these particles are {found}; what the model learnt from is not known")
    elif found == wanted:
        yield ok("contrast", f"these particles are {found}, as those that the model learnt from")
    else:
        yield error(
            "contrast",
            f"these particles are {found}, but the model learnt from {wanted} ones",
            "Add --invert no to leave them unflipped, or --invert yes to go on as they are."
            if flipped
            else "Add --invert yes to flip them, or --invert no to go on as they are.",
            ModelError,
        )


def no_blob(sample: Sample) -> Finding:
    """Say that the contrast of a sample could not be told."""
    return unknown(
        "contrast", f"could not be told: no blob stands out in the mean of {len(sample.rows)} boxes"
    )


def check_same_boxes(examples: Source, source: Source) -> Iterator[Finding]:
    """Hold examples against the particles that are compared with them: pixel size and box in angstroms, within 1 %."""
    ours, theirs = ((s.angpix, s.box * s.angpix) for s in (source, examples))
    if all(agree(a, b) for a, b in zip(theirs, ours, strict=True)):
        yield ok("examples", "as large as the particles that are compared with them")
    else:
        yield error(
            "examples",
            f"the examples are boxes of {examples.box} pixels of {examples.angpix:.4g} A, the particles of {source.box} "
            f"pixels of {source.angpix:.4g} A; they can be compared only where both are the same",
            "Extract both with the same --box and --angpix.",
            UsageError,
        )


def check_domain(
    source: Source, contrast: Contrast, name: str, learnt_from: LearntFrom, preparation: Preparation
) -> Iterator[Finding]:
    """Compare boxes with those that weights have learnt from; nothing is said of weights of which nothing is known.

    Parameters
    ----------
    source, contrast
        The boxes, and whether their particles are bright.
    name
        What the network is called.
    learnt_from
        What its weights have learnt from, as far as that is known.
    preparation
        What turns boxes into its input.
    """
    if not learnt_from.known:
        return
    width = preparation.input_size[2]
    voxel = source.box * source.angpix / width
    least, most = learnt_from.pixel_range or (voxel, voxel)
    inside = least * (1 - TOLERANCE) <= voxel <= most * (1 + TOLERANCE)
    if not inside:
        yield warning(
            "network",
            f"{name} sees these boxes in voxels of {voxel:.3g} A, and has learnt from {least:g} to {most:g} A: expect "
            "less of it",
            f"Cut boxes of {least * width:g} to {most * width:g} A, about twice as wide as a particle.",
        )
    dark = {contrast, learnt_from.contrast} == {"bright", "dark"}
    if dark:
        yield warning(
            "network",
            f"these particles look {contrast}, and {name} has learnt from {learnt_from.contrast} ones",
            "Add --invert yes to flip them.",
        )
    if inside and not dark and "unknown" in (contrast, learnt_from.contrast):
        yield unknown(
            "network",
            f"{name} has learnt from boxes of this pixel size, and from {learnt_from.contrast} particles; whether these "
            "are so could not be told",
        )
    elif inside and not dark:
        yield ok("network", f"{name} has learnt from boxes of this pixel size and contrast")
