"""The whole examination, in the order in which a run would fail."""

from collections.abc import Callable
from pathlib import Path

import torch

from cryoclass.backbones.registry import build_backbone, facts_of_weights, spec
from cryoclass.card import ModelCard
from cryoclass.checks import disk, machine, neighbours
from cryoclass.checks.boxes import check_boxes, check_brightness, flips
from cryoclass.checks.classes import check_class_names
from cryoclass.checks.findings import Finding, Sheet, ok, unknown, warning
from cryoclass.checks.fit import check_contrast, check_domain, check_fit, fits
from cryoclass.checks.frame import check_frame
from cryoclass.checks.identity import check_identity, same_particles
from cryoclass.checks.inside import check_inside
from cryoclass.checks.model import check_model
from cryoclass.checks.pixels import check_files, check_tomograms, check_volumes
from cryoclass.checks.rules import check_rules
from cryoclass.checks.table import check_coordinates, check_table, count_labels, label_words
from cryoclass.checks.tomograms import check_choice, check_names, readable
from cryoclass.claims import check_folder
from cryoclass.cutting import TomogramSource
from cryoclass.errors import CryoclassError, ParticleError, UsageError
from cryoclass.images import FileSource
from cryoclass.inference import engines
from cryoclass.jobs import effort
from cryoclass.jobs.doctor import ASSUMED_BOX, DoctorRequest, Step
from cryoclass.jobs.opening import needed_box
from cryoclass.labels import Labelled, from_column
from cryoclass.machine import available_memory, choose_device, cores, memory
from cryoclass.particles import Particles, read_particles
from cryoclass.settings import Extraction, Split
from cryoclass.sources import InvertedSource, RescaledSource, Sample, Source, take_sample
from cryoclass.tomograms import look_up
from cryoclass.training.splits import assign_parts

DIAMETER = 1 / 3  # of the box
SECONDS = 10.0  # of reading a sample; one of compressed tomograms may take long


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
        What is meant to be done next, or can be done with what was given; ``None`` where there are no particles for it.
    """

    def __init__(self, request: DoctorRequest, tell: Callable[[Finding], None]) -> None:
        self.request = request
        self.sheet = Sheet(tell)
        self.cores = request.num_workers or cores()
        self.particles: Particles | None = None
        self.engine: engines.Engine | None = None
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

    @property
    def step(self) -> Step | None:
        """What is meant to be done next, or can be done with what was given."""
        if self.source is None or self.particles is None:
            return None
        if self.request.command is not None:
            return self.request.command
        if self.engine is not None:
            return "predict"
        if isinstance(self.source, TomogramSource):
            return "extract"
        return "finetune" if self._classes > 1 else "embed"

    @property
    def _classes(self) -> int:
        """How many classes are labelled; 0 where that cannot be told, which the look at the labels says."""
        try:
            return len(count_labels(self.particles, self.request.label_column)) if self.particles else 0
        except CryoclassError:
            return 0

    def run(self) -> None:
        """Look at the table, the model, the boxes, the machine and the next step."""
        if self.request.particles is not None:
            self._look_at_table(self.request.particles)
        self._open_model()
        if self.particles is not None:
            self._open_boxes(self.particles)
            self._look_at_labels(self.particles)
            in_place = self._look_at_positions(self.particles)
            self._look_at_boxes(in_place=in_place)
        self._look_at_machine()
        self._estimate()

    # ----------------------------------------------------------------------------------- table, model

    def _look_at_table(self, path: Path) -> None:
        with self.sheet.surviving("table"):
            self.particles = read_particles(path)
        if self.particles is None:
            return
        self.sheet.run("table", check_table(self.particles))
        self.sheet.run("coordinates", check_coordinates(self.particles, self.request.cutting))
        self.sheet.run("RELION", check_rules(self.particles))

    def _open_model(self) -> None:
        choice, wish = self.request.choice, self.request.device
        try:
            self.device = choose_device(wish)
        except UsageError:  # said by the look at the GPU
            wish = wish if choice.onnx is not None else "cpu"
        if not choice.given and self.request.command != "predict":
            return
        with self.sheet.surviving("model"):
            self.engine = engines.load_engine(choice.model, choice.onnx, wish)
            self.sheet.run("model", check_model(self.engine.card, self.engine.description))

    def _look_at_labels(self, particles: Particles) -> None:
        """Say what labels there are; where finetune is meant, what it would refuse is an error."""
        with self.sheet.surviving("labels"):
            asked, needed = self.request.label_column, self.step == "finetune"
            words = label_words(particles, asked)
            if not needed and (not words or (asked is None and not self._classes) or self.step == "predict"):
                self.sheet.run("labels", [ok("labels", words)] if words else [])
                return
            labelled = from_column(particles, asked)
            self.sheet.run("labels", check_class_names(labelled.classes))
            try:
                self._share_out(labelled)
            except ParticleError as problem:
                if needed:
                    raise
                said = f"{words}; too little for finetune: {problem}".removesuffix(".")
                self.sheet.run("labels", [warning("labels", said, problem.hint)])
            else:
                self.sheet.run("labels", [ok("labels", words)])

    def _share_out(self, labelled: Labelled) -> None:
        """Raise what finetune would raise."""
        labels, classes, tables = labelled.labels, labelled.classes, labelled.tables
        same = same_particles(tables, self.source)
        for finding in check_identity(tables, same, labels, classes):
            if finding.level == "error":
                raise finding.kind(f"{finding.words}.", finding.way_out)
        assign_parts(labels, labelled.tomograms, Split(), 0, classes, same)

    # ------------------------------------------------------------------------------------------ boxes

    def _open_boxes(self, particles: Particles) -> None:
        asked = self.request.boxes.tomograms is not None or self.request.command == "extract"
        cut = asked or (self.request.command is None and not particles.has_images)
        with self.sheet.surviving("tomograms" if cut else "boxes"):
            if cut:
                self.source = self._tomogram_source(particles)
            else:
                self.source = FileSource(particles, self.request.boxes.angpix)

    def _tomogram_source(self, particles: Particles) -> TomogramSource | None:
        request, names = self.request, list(dict.fromkeys(particles.tomograms))
        angpix = request.boxes.angpix or (self.card.angpix if self.card and not self.card.any_box else None)
        settings = Extraction.of(request.cutting, self._box(particles), angpix)
        together = particles.optimisation_set  # names the tomograms too
        where = request.boxes.tomograms or (together.path if together else None)
        looked_up = look_up(names, where, particles.path, request.boxes.tomogram_angpix)
        if not looked_up[0] and where is None and request.command != "extract":
            words = f"not looked at: the {len(names)} names do not lead to volumes by themselves"
            self.sheet.run("tomograms", [unknown("tomograms", words, "Give --tomograms.")])
            return None
        skip = request.boxes.skip_missing
        self.sheet.run("tomograms", check_names(names, looked_up, where, skip_missing=skip))
        good, problems = readable(looked_up[0])
        self.sheet.run("tomograms", problems)
        if not good:
            return None
        self.sheet.run("tomograms", check_choice(good))
        return TomogramSource(particles, good, settings, request.boxes.tomogram_angpix)

    def _box(self, particles: Particles) -> int:
        """Return the box to cut: as asked, else the model's, else that of the table's images, made even."""
        if self.card is not None and not self.card.any_box:
            return self.card.box[0]
        if self.request.box is not None:
            return self.request.box
        if self.request.command in ("finetune", "embed") or self.card is not None:
            return needed_box(None)
        stated = None if particles.image_size is None else int(particles.image_size[0])
        side = stated or ASSUMED_BOX
        return side + side % 2

    def _look_at_positions(self, particles: Particles) -> bool:
        """Look for positions outside the volumes and for doubles; return whether the frame can be right."""
        in_place = True
        if isinstance(self.source, TomogramSource):
            in_place = self.sheet.run("coordinates", check_frame(self.source))
            in_place = self.sheet.run("inside", check_inside(self.source)) and in_place
        if particles.has_images or particles.frame is not None:
            with self.sheet.surviving("identity"):
                same = same_particles([particles], self.source)
                self.sheet.run("identity", check_identity([particles], same))
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
        else:
            missing = "how large a particle is" if diameter is None else "how large a pixel is"
            words = f"not looked for: nobody says {missing}"
            self.sheet.run("duplicates", [unknown("duplicates", words, "Give --tomograms, or --diameter.")])

    def _look_at_boxes(self, *, in_place: bool) -> None:
        if self.source is None:
            return
        self._look_at_sizes(self.source)
        if in_place:
            with self.sheet.surviving("boxes"):
                self.sample = take_sample(self._as_the_command_sees(self.source), self.cores, SECONDS)
                self.sheet.run("boxes", check_boxes(self.sample, self.source))
        if self.sample is not None and self.sample.rows:
            invert = self.request.cutting.invert
            check = (
                check_contrast(self.sample, self.card, invert, flipped=flips(self.source))
                if self.card
                else check_brightness(self.sample, self.source, invert)
            )
            self.sheet.run("contrast", check)

    def _as_the_command_sees(self, source: FileSource | TomogramSource) -> Source:
        seen: Source = source
        if isinstance(source, FileSource) and self.request.cutting.invert == "yes":
            seen = InvertedSource(seen)
        if self.card and self.request.choice.rescale and not fits(seen, self.card):
            seen = RescaledSource(seen, self.card.box[0], self.card.angpix)
        return seen

    def _look_at_sizes(self, source: FileSource | TomogramSource) -> None:
        request = self.request
        if isinstance(source, FileSource):
            check = check_files(source, request.boxes.angpix)
        else:
            self.sheet.run("tomograms", check_volumes(source))
            said = (request.boxes.tomogram_angpix, request.cutting.coords_angpix)
            check = check_tomograms(source, asked=any(said))
        self.sheet.run("pixel size", check)
        if self.card is not None:
            self.sheet.run("model's size", check_fit(source, self.card, rescale=request.choice.rescale))

    # ------------------------------------------------------------------------------ machine, estimates

    def _look_at_machine(self) -> None:
        self.sheet.run("computer", machine.check_computer(self.cores, memory()))
        self.sheet.run("torch", machine.check_torch())
        self.sheet.run("GPU", machine.check_gpu(self.request.device))
        self.sheet.run("onnxruntime", machine.check_onnxruntime(engines.why_onnxruntime_has_no_cuda()))
        self.sheet.run("weights", machine.check_weights(self.request.backbone))

    def _estimate(self) -> None:
        with self.sheet.surviving("disk"):
            check_folder(self.request.outdir)
        if self.step == "extract" and isinstance(self.source, TomogramSource):
            self._estimate_extraction(self.source)
            return
        self.sheet.run("disk", disk.check_disk(self.request.outdir, 0))
        if self.engine is None and self.source is not None:
            self._look_at_domain(self.source)
        if self.step is not None or self.engine is not None:
            with self.sheet.surviving("next step"):
                self._estimate_network()

    def _look_at_domain(self, source: Source) -> None:
        with self.sheet.surviving("network"):
            entry = spec(self.request.backbone)
            contrast = self.sample.contrast if self.sample else "unknown"
            learnt_from = facts_of_weights(entry.name).learnt_from
            check = check_domain(source, contrast, entry.name, learnt_from, entry.resolve())
            self.sheet.run("network", check)

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
        if self.step == "finetune" and self.particles is not None:
            labelled = count_labels(self.particles, self.request.label_column).total()
            check = effort.check_training(cost, labelled, self.request.backbone, free)
        else:
            check = effort.check_prediction(cost, count, self.step or "predict", free)
        self.sheet.run("next step", check)

    def _untrained(self) -> engines.Engine:
        """Return the backbone with random weights, which is as fast as with the pretrained ones."""
        assert self.source is not None  # there is a next step  # noqa: S101
        name = self.request.backbone
        backbone = build_backbone(name)
        return engines.BackboneEngine(name, backbone, spec(name).resolve(), self.source, self.device)
