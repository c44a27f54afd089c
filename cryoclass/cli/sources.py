"""Opening the boxes that a command works on: files, or crops out of tomograms on the fly."""

from pathlib import Path
from typing import TYPE_CHECKING

from cryoclass.cli import console
from cryoclass.cutting import TomogramSource
from cryoclass.doctor.start import check_start
from cryoclass.errors import UsageError
from cryoclass.images import FileSource
from cryoclass.particles import Particles
from cryoclass.settings import BoxOrigin, Cutting, Extraction
from cryoclass.sources import InvertedSource, Source
from cryoclass.tomograms import find_tomograms

if TYPE_CHECKING:
    from cryoclass.classifier import ModelCard


def open_source(particles: Particles, boxes: BoxOrigin, cutting: Cutting, box: int | None) -> Source:
    """Return the particles' boxes and say where they come from.

    Parameters
    ----------
    particles
        The table.
    boxes
        Where to take them from.
    cutting
        How to cut; of it, files obey ``invert`` alone.
    box
        Side in pixels of the boxes to cut.

    Raises
    ------
    UsageError
        Tomograms were given, but no box.
    """
    console.note(f"{particles.path}: {particles.dialect.in_words()}, {len(particles)} particles")
    if boxes.tomograms is None:
        source = FileSource(particles, boxes.angpix)
        warn_at_start(source)
        console.note(f"boxes: {source.box} pixels of {source.angpix:.4g} A, from files")
        return InvertedSource(source) if cutting.invert == "yes" else source
    if box is None:
        raise UsageError(
            "--tomograms needs --box, the side of the boxes to cut.", "Add --box 32, for example."
        )
    found = find_tomograms(
        particles.tomograms, boxes.tomograms, particles.path, skip_missing=boxes.skip_missing
    )
    cut = TomogramSource(particles, found, Extraction.of(cutting, box, boxes.angpix), boxes.tomogram_angpix)
    warn_at_start(cut)
    console.note(f"boxes: {cut.box} pixels of {cut.angpix:.4g} A, cut from {len(found)} tomograms on the fly")
    for line in contrast_words(cut):
        console.note(line)
    return cut


def open_model_source(
    particles: Particles, boxes: BoxOrigin, cutting: Cutting, card: "ModelCard", *, rescale: bool
) -> Source:
    """Return boxes that fit a model: cut at its size, or read from files and compared with its card.

    Raises
    ------
    ModelError
        Pixel size, box or contrast are not the model's, and nothing says what to do about it.
    """
    from cryoclass.inference.compatibility import check_contrast, fit_to_model

    if boxes.tomograms is not None and boxes.angpix is None:
        boxes = boxes.replace(angpix=card.angpix)
    source = open_source(particles, boxes, cutting, card.box[0])
    fitting = fit_to_model(source, card, rescale=rescale)
    if cutting.invert == "auto":
        check_contrast(fitting, card)
    return fitting


def warn_at_start(source: FileSource | TomogramSource, writes_to: Path | None = None) -> None:
    """Say what the doctor would warn of, as far as that reads no voxels.

    Raises
    ------
    ParticleError
        Most boxes would lie outside their tomograms.
    """
    for finding in check_start(source, writes_to):
        console.warn(f"{finding.words}. {finding.way_out}".strip())


def contrast_words(source: TomogramSource) -> list[str]:
    """Say for which tomograms the contrast is flipped, and why."""
    bright = [p.tomogram.is_bright(source.particles.dialect) for p in source.placements]
    if source.settings.invert != "auto":
        return [f"contrast: {'flipped' if source.settings.invert == 'yes' else 'left as it is'}, as asked"]
    words = []
    if not all(bright):
        words.append(f"contrast: flipped for {bright.count(False)} tomograms (RELION, IMOD: protein is dark)")
    if any(bright):
        words.append(
            f"contrast: left as it is for {bright.count(True)} tomograms (Warp, M: protein is bright)"
        )
    return words
