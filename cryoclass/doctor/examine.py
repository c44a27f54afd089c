"""The whole examination, in the order in which a run would fail."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from cryoclass.backbones.registry import build_backbone, spec
from cryoclass.card import ModelCard
from cryoclass.cutting import TomogramSource
from cryoclass.doctor import disk, effort, machine, neighbours, pixels
from cryoclass.doctor.boxes import SECONDS, check_boxes, check_contrast
from cryoclass.doctor.findings import Finding, Sheet, warning
from cryoclass.doctor.inside import check_inside
from cryoclass.doctor.model import check_domain, check_model
from cryoclass.doctor.rules import check_rules
from cryoclass.doctor.table import check_coordinates, check_labels, check_table, count_labels
from cryoclass.doctor.tomograms import check_names, readable
from cryoclass.errors import UsageError
from cryoclass.images import FileSource
from cryoclass.inference.engines import BackboneEngine, Engine, load_engine
from cryoclass.machine import available_memory, choose_device, cores, memory
from cryoclass.particles import Particles, read_particles
from cryoclass.settings import Extraction
from cryoclass.sources import InvertedSource, Sample, take_sample
from cryoclass.tomograms import look_up

if TYPE_CHECKING:
    from cryoclass.jobs.doctor import DoctorRequest

ASSUMED_BOX = 32
DIAMETER = 1 / 3  # of the box

Step = Literal["extract", "finetune", "predict", "embed"]


class Examination:
    """One visit to the doctor: :meth:`run` does it all; what a check could not get, later ones do without.

    Parameters
    ----------
    request
        What to look at.
    tell
        Called with every finding as it is made.

    Attributes
    ----------
    findings
        All of them, in order.
    step
        What can be done next with what was given; ``None`` where there are no particles to do it with.
    """

    def __init__(self, request: "DoctorRequest", tell: Callable[[Finding], None]) -> None:
        self.request = request
        self.sheet = Sheet(tell)
        self.cores = request.num_workers or cores()
        self.particles: Particles | None = None
        self.engine: Engine | None = None
        self.source: FileSource | TomogramSource | None = None
        self.sample: Sample | None = None
        self.device = torch.device("cpu")

    @property
    def findings(self) -> list[Finding]:
        """All findings, in order."""
        return self.sheet.findings

    @property
    def card(self) -> ModelCard | None:
        """The card of the model, where there is one."""
        return self.engine.card if self.engine else None

    def run(self) -> None:
        """Look at the table, the model, the boxes, the machine and the next step."""
        if self.request.particles is not None:
            self._look_at_table(self.request.particles)
        self._open_model()
        if self.particles is not None:
            self._open_boxes(self.particles)
            in_place = self._look_at_positions(self.particles)
            self._look_at_boxes(in_place=in_place)
        self._look_at_machine()
        self._estimate()

    # ---------------------------------------------------------------------------------------- steps

    def _look_at_table(self, path: Path) -> None:
        with self.sheet.surviving("table"):
            self.particles = read_particles(path)
        if self.particles is None:
            return
        self.sheet.run("table", check_table(self.particles))
        self.sheet.run("coordinates", check_coordinates(self.particles, self.request.cutting))
        self.sheet.run("RELION", check_rules(self.particles))
        self.sheet.run("labels", check_labels(self.particles, self.request.label_column))

    def _open_model(self) -> None:
        request, wish = self.request, self.request.device
        try:
            self.device = choose_device(wish)
        except UsageError:  # said by the look at the GPU
            wish = "cpu"
        if request.choice.model is None and request.choice.onnx is None:
            return
        with self.sheet.surviving("model"):
            self.engine = load_engine(request.choice.model, request.choice.onnx, wish)
            self.sheet.run("model", check_model(self.engine.card, self.engine.description))

    def _open_boxes(self, particles: Particles) -> None:
        cut = self.request.boxes.tomograms is not None or not particles.has_images
        with self.sheet.surviving("tomograms" if cut else "boxes"):
            if cut:
                self.source = self._tomogram_source(particles)
            else:
                # Given a pixel size, FileSource does not refuse headers that say another: check_files names them all.
                stated = None if particles.angpix is None else float(particles.angpix[0])
                self.source = FileSource(particles, self.request.boxes.angpix or stated)

    def _tomogram_source(self, particles: Particles) -> TomogramSource | None:
        request, names = self.request, list(dict.fromkeys(particles.tomograms))
        together = particles.optimisation_set  # names the tomograms too
        where = request.boxes.tomograms or (together.path if together else None)
        found, files = look_up(names, where, particles.path)
        if not found and where is None:
            words = f"not looked at: the {len(names)} names do not lead to volumes by themselves"
            self.sheet.run("tomograms", [warning("tomograms", words, "Give --tomograms.")])
            return None
        self.sheet.run("tomograms", check_names(names, found, files, skip_missing=request.boxes.skip_missing))
        good, problems = readable(found)
        self.sheet.run("tomograms", problems)
        if not good:
            return None
        angpix = request.boxes.angpix or (self.card.angpix if self.card else None)
        settings = Extraction.of(request.cutting, self._box(particles), angpix)
        return TomogramSource(particles, good, settings, request.boxes.tomogram_angpix)

    def _box(self, particles: Particles) -> int:
        """Return the box to cut: as asked, else the model's, else that of the table's images, made even."""
        if self.request.box is not None:
            return self.request.box
        side = self.card.box[0] if self.card else _image_size(particles) or ASSUMED_BOX
        return side + side % 2

    def _look_at_positions(self, particles: Particles) -> bool:
        """Look for positions outside the volumes and for doubles; return whether the frame can be right."""
        in_place = True
        if isinstance(self.source, TomogramSource):
            in_place = self.sheet.run("inside", check_inside(self.source))
        if in_place and particles.frame is not None:
            with self.sheet.surviving("duplicates"):
                self._look_for_doubles(particles)
        return in_place

    def _look_for_doubles(self, particles: Particles) -> None:
        diameter, origin = self.request.diameter, "--diameter"
        if diameter is None and self.source is not None:
            diameter, origin = DIAMETER * self.source.box * self.source.angpix, "a third of the box"
        if isinstance(self.source, TomogramSource):
            positions = neighbours.placed(self.source.placements)
        else:
            positions = neighbours.from_table(particles, self.request.cutting)
        if diameter is not None and positions:
            self.sheet.run("duplicates", neighbours.check_neighbours(positions, diameter, origin))

    def _look_at_boxes(self, *, in_place: bool) -> None:
        if self.source is not None and in_place:
            with self.sheet.surviving("boxes"):
                self._read_sample(self.source)
        if self.source is not None:
            self._look_at_pixel_sizes(self.source)
        if self.source is not None and self.sample is not None and self.sample.rows:
            invert = self.request.cutting.invert
            self.sheet.run("contrast", check_contrast(self.sample, self.source, self.card, invert))

    def _read_sample(self, source: FileSource | TomogramSource) -> None:
        inverted = isinstance(source, FileSource) and self.request.cutting.invert == "yes"
        self.sample = take_sample(InvertedSource(source) if inverted else source, most_seconds=SECONDS)
        self.sheet.run("boxes", check_boxes(self.sample, source))

    def _look_at_pixel_sizes(self, source: FileSource | TomogramSource) -> None:
        request = self.request
        asked = (request.boxes.angpix, request.boxes.tomogram_angpix, request.cutting.coords_angpix)
        if isinstance(source, FileSource):
            check = pixels.check_files(
                source, self.card, asked=asked[0] is not None, rescale=request.choice.rescale
            )
        else:
            check = pixels.check_tomograms(source, self.card, asked=any(asked[1:]))
        self.sheet.run("pixel size", check)

    def _look_at_machine(self) -> None:
        self.sheet.run("computer", machine.check_computer(self.cores, memory()))
        self.sheet.run("torch", machine.check_torch())
        self.sheet.run("GPU", machine.check_gpu(self.request.device))
        self.sheet.run("onnxruntime", machine.check_onnxruntime())
        self.sheet.run("weights", machine.check_weights(self.request.backbone))

    def _estimate(self) -> None:
        if self.step == "extract" and isinstance(self.source, TomogramSource):
            self._estimate_extraction(self.source)
        else:
            self.sheet.run("disk", disk.check_disk(self.request.outdir, 0))
            if self.engine is None and self.source is not None:
                self.sheet.run(
                    "network",
                    check_domain(
                        self.source,
                        self.sample.contrast if self.sample else "unknown",
                        spec(self.request.backbone),
                    ),
                )
            if self.step is not None or self.engine is not None:
                with self.sheet.surviving("next step"):
                    self._estimate_network()

    # ------------------------------------------------------------------------------------- estimates

    @property
    def step(self) -> Step | None:
        """What can be done next with what was given."""
        if self.source is None or self.particles is None:
            return None
        if self.engine is not None:
            return "predict"
        if isinstance(self.source, TomogramSource):
            return "extract"
        return "finetune" if len(self._labels()) > 1 else "embed"

    def _labels(self) -> dict[str, int]:
        return count_labels(self.particles, self.request.label_column) if self.particles else {}

    def _estimate_extraction(self, source: TomogramSource) -> None:
        count, settings = len(source.order), source.settings
        needed = disk.extraction_bytes(count, settings)
        self.sheet.run("disk", disk.check_disk(self.request.outdir, needed))
        if self.sample is not None:
            check = effort.check_extraction(count, needed, self.sample.seconds, self.cores)
            self.sheet.run("next step", check)

    def _estimate_network(self) -> None:
        cost = effort.measure(self.engine or self._untrained())
        on_gpu = self.device.type == "cuda"
        free = torch.cuda.mem_get_info(self.device)[0] if on_gpu else available_memory()
        count = len(self.particles) if self.particles else 1
        if self.step == "finetune":
            labelled = sum(self._labels().values())
            check = effort.check_training(cost, labelled, self.request.backbone, free)
        else:
            check = effort.check_prediction(cost, count, self.step or "predict", free)
        self.sheet.run("next step", check)

    def _untrained(self) -> Engine:
        """Return the backbone with random weights, which is as fast as with the pretrained ones."""
        assert self.source is not None  # there is a next step  # noqa: S101
        name = self.request.backbone
        preparation = spec(name).resolve()
        return BackboneEngine(name, build_backbone(name), preparation, self.source, self.device)


def _image_size(particles: Particles) -> int | None:
    return None if particles.image_size is None else int(particles.image_size[0])
