"""Whether particles fit a model: pixel size, box and contrast are compared before anything is computed."""

from cryoclass.card import LearntFrom, ModelCard
from cryoclass.errors import ModelError, UsageError
from cryoclass.settings import Preparation
from cryoclass.sources import RescaledSource, Source
from cryoclass.volumes.contrast import Contrast
from cryoclass.volumes.pixels import TOLERANCE, agree


def fit_to_model(source: Source, card: ModelCard, *, rescale: bool) -> Source:
    """Return boxes of the model's size: the source itself where it fits, a rescaled one where that was asked for.

    Raises
    ------
    ModelError
        Pixel size or box in angstroms differ from the model's by more than 1 %, and ``rescale`` is off.
    """
    wanted, extent = card.angpix, card.box[0] * card.angpix
    same_pixel = agree(source.angpix, wanted)
    same_extent = agree(source.box * source.angpix, extent)
    if same_pixel and same_extent:
        return source
    if rescale:
        return RescaledSource(source, card.box[0], wanted)
    raise ModelError(
        f"the boxes are {source.box} pixels of {source.angpix:.4g} A, but the model learnt from {card.box[0]} pixels of "
        f"{wanted:.4g} A.",
        "Add --rescale; or, where the STAR file's pixel size is wrong, give the right one with --angpix.",
    )


def check_contrast(found: Contrast, card: ModelCard) -> None:
    """Compare the contrast of some boxes with what the model learnt from.

    Raises
    ------
    ModelError
        One is bright and the other dark. Where either is unknown, nothing is said.
    """
    if {found, card.contrast} == {"bright", "dark"}:
        raise ModelError(
            f"these particles are {found}, but the model learnt from {card.contrast} ones.",
            "Add --invert yes to flip them, or --invert no to go on as they are.",
        )


def check_same_boxes(examples: Source, source: Source) -> None:
    """Hold examples against the particles that are compared with them.

    Raises
    ------
    UsageError
        Pixel size or box in angstroms differ by more than 1 %.
    """
    ours, theirs = ((s.angpix, s.box * s.angpix) for s in (source, examples))
    if not all(agree(a, b) for a, b in zip(theirs, ours, strict=True)):
        raise UsageError(
            f"the examples are boxes of {examples.box} pixels of {examples.angpix:.4g} A, the particles of {source.box} pixels "
            f"of {source.angpix:.4g} A; they can be compared only where both are the same.",
            "Extract both with the same --box and --angpix.",
        )


def outside_domain(
    source: Source, contrast: Contrast, name: str, learnt_from: LearntFrom, preparation: Preparation
) -> list[str]:
    """Say what boxes have that weights have not learnt from; empty where nothing is said.

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
    said = []
    width = preparation.input_size[2]
    voxel = source.box * source.angpix / width
    least, most = learnt_from.pixel_range or (voxel, voxel)
    if not least * (1 - TOLERANCE) <= voxel <= most * (1 + TOLERANCE):
        said.append(
            f"{name} sees these boxes in voxels of {voxel:.3g} A, and has learnt from {least:g} to {most:g} A: "
            f"expect less of it. Cut boxes of {least * width:g} to {most * width:g} A, about twice as wide as a particle."
        )
    if {contrast, learnt_from.contrast} == {"bright", "dark"}:
        said.append(
            f"these particles look {contrast}, and {name} has learnt from {learnt_from.contrast} ones. "
            "Add --invert yes to flip them."
        )
    return said
