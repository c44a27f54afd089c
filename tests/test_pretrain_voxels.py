"""Masks and densities without any label: ``pretrain --tasks``, and the model that comes with cryoclass."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from cryoclass import PretrainRequest, pretrain
from cryoclass.backbones import packaged
from cryoclass.backbones.packaged import VOXEL_MODEL, packaged_weights, voxel_card, write_voxel_model
from cryoclass.backbones.registry import spec
from cryoclass.classifier import Classifier, load_card, load_model, start_classifier
from cryoclass.errors import ModelError
from cryoclass.particles import read_particles
from cryoclass.pretraining.batches import draw_true_boxes
from cryoclass.progress import Listener
from cryoclass.settings import Invention, Learner, Pretraining, Yardsticks
from cryoclass.tasks import CLASSIFY, RECOVER, SEGMENT
from cryoclass.tasks.recover import correlation
from cryoclass.volumes.mask import particle_mask
from cryoclass.volumes.mrc import open_volume
from cryoclass.volumes.normalise import standard_density

FEW = Yardsticks(held_out_species=6, held_out_views=2)
SHORT = PretrainRequest(
    device="cpu",
    num_workers=1,
    tasks="segment,recover",
    pretraining=Pretraining(steps=4, species=4),
    learner=Learner(input_size=(16, 16, 16)),
    yardsticks=FEW,
)
VOXELS = ("--tasks", "segment,recover")


class Heard(Listener):
    """Plays Ctrl-C after a step."""

    def __init__(self, stop_after=None):
        self.stop_after = stop_after

    def tell(self, event):
        if event.step == self.stop_after:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of an unbroken run."""
    folder = tmp_path_factory.mktemp("finished") / "P"
    pretrain(SHORT.replace(outdir=folder))
    return folder


def written(star: Path, column: str) -> np.ndarray:
    """Return the volumes that a table names, (n, D, H, W)."""
    particles = read_particles(star)
    return np.stack([open_volume(particles.find(cell)).data for cell in particles.cells(column)])


# ------------------------------------------------------------------------------------------- what is shown


def test_what_is_true_of_invented_boxes_follows_the_rules_for_densities():
    invention = Invention(diameter=(40.0, 100.0), shift=0.0)  # all of a particle lies within the box
    drawn = draw_true_boxes(3, 2, (0.1, 0.1), invention, torch.Generator().manual_seed(0))
    assert len(drawn) == 6
    for mask, density in zip(drawn.masks.numpy(), drawn.densities.numpy(), strict=True):
        assert np.array_equal(mask, particle_mask(density))
        np.testing.assert_allclose(density, standard_density(density), atol=0.02)
        assert 0 < mask.mean() < 0.5


def test_the_truth_shows_the_particle_alone_and_as_it_lies():
    """Without noise and neighbours, and with nearly all of the wedge, the box is nearly its own truth."""
    bare = Invention(
        neighbours=0,
        membrane_chance=0,
        tilt=(89.0, 89.0),
        b_factor=(0.0, 0.0),
        low_pass=(2.0, 2.0),
        coloured=0,
        defocus=(0.0, 0.0),
        amplitude_contrast=(1.0, 1.0),
    )
    drawn = draw_true_boxes(4, 2, (1e6, 1e6), bare, torch.Generator().manual_seed(1))
    assert correlation(drawn.boxes, drawn.densities).min() > 0.88
    crowded = bare.replace(neighbours=3, neighbour_chance=1.0)
    drawn = draw_true_boxes(4, 2, (1e6, 1e6), crowded, torch.Generator().manual_seed(1))
    assert correlation(drawn.boxes, drawn.densities).mean() < 0.75


# ---------------------------------------------------------------------------------------------- whole runs


def test_a_run_leaves_a_model_that_takes_boxes_of_any_size(finished):
    card, history = (
        load_card(finished),
        list(csv.DictReader((finished / "history.csv").read_text().splitlines())),
    )
    assert (card.classes, card.tasks, card.any_box) == ((), ("segment", "recover"), True)
    assert card.learnt_from.pixel_range == (
        8.0,
        32.0,
    )  # of the 16 voxels that the network sees of a box of 32
    assert card.contrast == "bright"
    assert card.training["boxes"] == 16
    assert {"segment", "recover", "iou", "correlation"} <= history[0].keys()
    assert len(history) == 4
    scores = card.metrics["by_snr"]
    assert [*scores] == ["0.3", "0.1", "0.03"]
    for means in scores.values():
        assert {"iou", "correlation", "correlation_raw", "correlation_low_passed"} <= means.keys()
        assert means["correlation_raw"]["low"] < means["correlation_raw"]["mean"]
    assert scores["0.03"]["correlation_raw"]["mean"] < scores["0.3"]["correlation_raw"]["mean"]


def test_the_backbone_stays_as_it_is_and_all_else_learns(finished):
    state = safetensors.torch.load_file(finished / "model.safetensors")
    before = safetensors.torch.load_file(packaged_weights(spec("res32-species")))
    for name, value in before.items():
        assert torch.equal(state[f"backbone.{name}"], value), name
    torch.manual_seed(0)
    fresh = Classifier("res32-species", 0, (SEGMENT, RECOVER)).state_dict()
    learnt = [name for name in fresh if name.startswith(("decoder", "heads")) and name.endswith("weight")]
    assert learnt
    assert all(not torch.equal(state[name], fresh[name]) for name in learnt)


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_stopped_run_ends_in_the_same_bytes(finished, tmp_path, stop_after):
    request = SHORT.replace(outdir=tmp_path / "P")
    with pytest.raises(KeyboardInterrupt):
        pretrain(request, Heard(stop_after))
    assert not (tmp_path / "P" / "model.json").exists()
    pretrain(request)
    for name in ("model.safetensors", "history.csv"):
        assert (tmp_path / "P" / name).read_bytes() == (finished / name).read_bytes()


def test_masks_and_densities_get_better(tmp_path):
    easy = Invention(box=16, pixel_range=(16, 16), snr=(1, 1), first_snr=(1, 1))
    pretraining = Pretraining(steps=40, species=8)
    found = pretrain(SHORT.replace(outdir=tmp_path / "P", pretraining=pretraining, invention=easy)).periods
    for name in ("segment", "recover"):
        losses = [period.figures[name] for period in found]
        assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])
    assert found[-1].figures["correlation"] > found[0].figures["correlation"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("--tasks classify", "--tasks is classify; it must be one or more of segment,recover"),
        ("--tasks segment Extract/particles.star", "nobody knows the masks and densities of your own"),
        ("--tasks segment --views 2 --contrast 0.1", "--contrast is of no use with --tasks"),
        ("--tasks segment --backbone res32", "res32 begins at random"),
        ("--tasks segment --diameter 1000 2000", "hold species of up to"),
    ],
)
def test_mistakes_are_told_before_anything_is_computed(cryoclass, here, argv, words):
    ran = cryoclass("pretrain", "-o", "P", "--device", "cpu", "-j", 1, *argv.split())
    assert ran.status in (1, 2)
    assert words in " ".join(ran.err.split())
    assert not (here / "P").exists()


# ------------------------------------------------------------------------------------- anybody's particles


@pytest.mark.usefixtures("here")
def test_the_packaged_model_tells_masks_and_densities_without_training(cryoclass):
    """Phantoms took no part in its training; their boxes have a size and pixels of their own."""
    simulated = "--particles --truth --species 3 --per-species 4 --tomograms 1 --box 24 --angpix 12 --snr 0.3"
    assert cryoclass("simulate", "-o", "S", *simulated.split()).status == 0
    ran = cryoclass("predict", "S/particles.star", *VOXELS, "-o", "P")
    assert ran.status == 0, ran.err
    assert "res32-species" in ran.err
    assert "boxes of any size" in ran.err
    assert "not classes of the model" not in ran.err, "it has none"
    said, true = Path("P/particles.star"), Path("S/particles.star")
    particles = read_particles(said)
    first = open_volume(particles.find(particles.cells("cryoclassMaskName")[0]))
    assert first.data.shape == (24, 24, 24)
    assert first.angpix == pytest.approx(12)
    found, wanted = (torch.tensor(written(star, "cryoclassDensityName")) for star in (said, true))
    boxes = torch.tensor(written(true, "rlnImageName"))
    assert correlation(found, wanted).mean() > 0.75 > correlation(boxes, wanted).mean() + 0.2
    masks = [torch.tensor(written(star, "cryoclassMaskName")) for star in (said, true)]
    assert SEGMENT.judge({"mask": masks[0]}, masks[1])["iou"].mean() > 0.5


def test_the_packaged_model_is_small_whole_and_known_by_its_name():
    assert sum(path.stat().st_size for path in packaged.FOLDER.glob("*.safetensors")) < 24e6
    classifier, card = load_model(Path(VOXEL_MODEL))
    assert (card.tasks, card.any_box, card.backbone) == (("segment", "recover"), True, "res32-species")
    state = safetensors.torch.load_file(packaged_weights(spec("res32-species")))
    assert torch.equal(classifier.backbone.state_dict()["conv1.weight"], state["conv1.weight"])
    assert card.weights_sha256 != voxel_card().weights_sha256, "the backbone counts too"


def test_a_folder_of_the_same_name_is_a_folder(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, VOXEL_MODEL)
    assert load_card(Path(VOXEL_MODEL)).training["boxes"] == 16


def test_an_altered_packaged_model_is_refused(finished, tmp_path, monkeypatch):
    write_voxel_model(finished, tmp_path)
    monkeypatch.setattr(packaged, "FOLDER", tmp_path)
    weights = tmp_path / f"{VOXEL_MODEL}.safetensors"
    assert safetensors.torch.load_file(weights).keys() == packaged.voxel_weights().keys()
    assert not any(name.startswith("backbone") for name in packaged.voxel_weights())
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match="sha256 differs"):
        packaged.voxel_weights()


@pytest.mark.usefixtures("here")
def test_crops_for_a_model_of_any_size_need_a_box(cryoclass, extracted):
    cut = (extracted.coordinates, "--tomograms", extracted.tomograms)
    ran = cryoclass("predict", *cut, *VOXELS, "-o", "P")
    assert ran.status == 2
    assert "--tomograms needs --box" in ran.err
    assert cryoclass("predict", *cut, *VOXELS, "--box", 16, "-o", "P").status == 0
    assert written(Path("P/particles.star"), "cryoclassMaskName").shape[1:] == (16, 16, 16)


@pytest.mark.usefixtures("here")
def test_a_model_with_a_size_of_its_own_takes_no_other_box(cryoclass, trained):
    cut = (trained.coordinates, "--tomograms", trained.tomograms, "--model", trained.root / "Finetune")
    ran = cryoclass("predict", *cut, "--box", 18, "-o", "P")
    assert ran.status == 2
    assert "--box is 18, but the model has learnt from boxes of 16 pixels" in " ".join(ran.err.split())


@pytest.mark.usefixtures("here")
def test_boxes_far_from_what_it_has_learnt_are_said(cryoclass):
    ran = cryoclass("predict", "Extract/particles.star", *VOXELS, "--angpix", 60, "-o", "P")
    assert ran.status == 0
    assert "sees these boxes in voxels of 30 A, and has learnt from 4 to 16 A" in " ".join(ran.err.split())


@pytest.mark.usefixtures("here")
def test_classes_need_a_model_of_ones_own(cryoclass):
    for argv in ((), ("--tasks", "classify,segment")):
        ran = cryoclass("predict", "Extract/particles.star", *argv, "-o", "P")
        assert ran.status == 2
        assert "give one of --model and --onnx" in ran.err


@pytest.mark.usefixtures("here")
def test_the_packaged_model_goes_into_an_onnx_file_that_says_the_same(cryoclass):
    assert cryoclass("export", VOXEL_MODEL, "-o", "voxels.onnx").status == 0
    for name, model in (("T", ("--model", VOXEL_MODEL)), ("O", ("--onnx", "voxels.onnx"))):
        assert cryoclass("predict", "Extract/particles.star", *VOXELS, *model, "-o", name).status == 0
    for column in ("cryoclassMaskName", "cryoclassDensityName"):
        torch_said, onnx_said = (written(Path(name, "particles.star"), column) for name in "TO")
        assert np.abs(torch_said - onnx_said).max() < 1e-4 * max(1, np.abs(torch_said).max())


@pytest.mark.usefixtures("here")
def test_the_doctor_looks_at_boxes_for_a_model_of_any_size(cryoclass):
    ran = cryoclass("doctor", "Extract/particles.star", "--for", "predict", "--model", VOXEL_MODEL)
    assert "boxes of any size" in ran.out


# --------------------------------------------------------------------------------------------- fine-tuning


@pytest.mark.parametrize(
    ("init", "brought"), [("auto", {"decoder", "segment", "recover"}), ("random", set())]
)
def test_fine_tuning_starts_from_the_packaged_decoder(init, brought):
    tasks = (CLASSIFY, SEGMENT, RECOVER)
    classifier = start_classifier(Classifier("res32-species", 3, tasks), init=init)
    assert classifier.brought == brought
    donor = load_model(Path(VOXEL_MODEL))[0]
    same = torch.equal(
        classifier.decoder.state_dict()["last.0.weight"], donor.decoder.state_dict()["last.0.weight"]
    )
    assert same == bool(brought)


def test_classes_alone_bring_no_decoder():
    assert start_classifier(Classifier("res32-species", 3)).brought == frozenset()


@pytest.mark.usefixtures("here")
def test_the_card_of_a_fine_tuned_model_has_a_size(cryoclass):
    """What is learnt from the user's own boxes holds for those."""
    argv = "finetune S/particles.star --tasks segment --recipe quick -n 1 --device cpu -o F"
    simulated = "--particles --truth --species 2 --per-species 6 --tomograms 3 --box 16 --angpix 20 --snr 1"
    assert cryoclass("simulate", "-o", "S", *simulated.split()).status == 0
    assert cryoclass(*argv.split()).status == 0
    card = json.loads(Path("F/model.json").read_text())
    assert (card["any_box"], card["box"], card["angpix"]) == (False, [16, 16, 16], 20.0)


def test_yardsticks_belong_to_a_run(tmp_path):
    folder = tmp_path / "P"
    with pytest.raises(KeyboardInterrupt):
        pretrain(SHORT.replace(outdir=folder), Heard(1))
    other = dataclasses.replace(FEW, held_out_views=3)
    with pytest.raises(Exception, match="another run"):
        pretrain(SHORT.replace(outdir=folder, yardsticks=other))
