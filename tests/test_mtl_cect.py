"""The multi-task network of Liu et al. 2018: its published number of values, its grids, learning and export with all tasks."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from network_helpers import small_card
from torch import nn

from cryoclass.backbones.registry import build_backbone, spec
from cryoclass.classifier import Classifier, WholeModel, load_model, save_model, start_classifier
from cryoclass.errors import UsageError
from cryoclass.exporting.onnx_file import export_onnx
from cryoclass.inference.engines import OnnxEngine, TorchEngine
from cryoclass.settings import NetworkInput, Preparation, Recipe
from cryoclass.tasks import CLASSIFY, RECOVER, SEGMENT

CPU = torch.device("cpu")
EVERY = (CLASSIFY, SEGMENT, RECOVER)
RECIPE = Recipe(name="r", epochs=1, lr=1e-3)


def count(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def speaking(classifier: Classifier) -> Classifier:
    """Give the heads for voxels numbers of their own: a fresh one says the same of all voxels."""
    for task in (SEGMENT, RECOVER):
        nn.init.normal_(classifier.heads[task.name].voxels.weight)
    return classifier.eval()


def three_tasks(seed: int = 0, backbone: str = "mtl-cect", classes: int = 3) -> Classifier:
    torch.manual_seed(seed)
    return speaking(Classifier(backbone, classes, EVERY))


def card_of(classifier: Classifier, **changes):
    size = Preparation(input_size=(16, 16, 16), intensity="standard")
    facts = {"backbone": classifier.backbone_name, "preparation": size, "outputs": classifier.outputs}
    return small_card(**facts, tasks=tuple(classifier.heads), **changes)


# ------------------------------------------------------------------------------------------- the network


def test_it_has_the_published_number_of_values():
    """With a last convolution to 2 maps, the mask of the public code; ours goes to the 32 that heads read from."""
    backbone = build_backbone("mtl-cect")
    decoder = backbone.make_decoder()
    last, published = decoder.from_half[-1], nn.Conv3d(decoder.width, 2, 3, padding=1)
    assert last.kernel_size == published.kernel_size
    assert count(backbone) + count(decoder) - count(last) + count(published) == 2_857_762


def test_its_size_and_grey_values_are_its_own():
    entry = spec("mtl-cect")
    for size in ((32, 32, 32), (24, 40, 8)):
        entry.allowed(size)
    for axis in range(3):
        size = tuple(28 if place == axis else 32 for place in range(3))
        with pytest.raises(UsageError, match="must be a multiple of 8x8x8"):
            entry.allowed(size)
    recipe = Preparation(input_size=(32, 128, 128), intensity="unit")
    shown = entry.resolve(NetworkInput(), recipe)
    assert (shown.input_size, shown.intensity) == ((32, 32, 32), "standard")


def test_the_command_line_refuses_a_size_in_words(cryoclass, here):
    argv = "finetune Extract/particles.star --backbone mtl-cect --input-size 32 28 32 -o F"
    ran = cryoclass(*argv.split())
    assert ran.status != 0
    assert "mtl-cect cannot take an input of 32x28x32; it must be a multiple of 8x8x8." in ran.err
    assert "--input-size 32 32 32" in ran.err
    assert not (here / "F").exists()


def test_maps_are_the_pooled_ones_and_the_decoder_doubles_them():
    backbone = build_backbone("mtl-cect")
    x = torch.randn(2, 1, 16, 24, 32)
    with torch.inference_mode():
        maps = backbone.feature_maps(x)
        assert [tuple(made.shape[1:]) for made in maps] == [(32, 8, 12, 16), (64, 4, 6, 8), (128, 2, 3, 4)]
        assert torch.equal(backbone(x), maps[-1].mean((2, 3, 4)))
        assert torch.equal(backbone(x), backbone.pool(maps[-1]))
        decoder = backbone.make_decoder()
        assert decoder(maps, x).shape == (2, decoder.width, 16, 24, 32)


def test_skips_and_the_deepest_map_all_count():
    backbone = build_backbone("mtl-cect")
    decoder = backbone.make_decoder()
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.inference_mode():
        maps = backbone.feature_maps(x)
        whole = decoder(maps, x)
        for level in range(3):
            without = [torch.zeros_like(made) if level == place else made for place, made in enumerate(maps)]
            assert not torch.allclose(decoder(without, x), whole, atol=1e-3)


@pytest.mark.parametrize("side", [16, 12, 20])
def test_the_decoders_map_is_resized_where_the_box_has_another_grid(side):
    backbone = build_backbone("mtl-cect")
    decoder = backbone.make_decoder()
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.inference_mode():
        maps = backbone.feature_maps(x)
        own = decoder(maps, x)
        found = decoder(maps, torch.zeros(1, 1, side, side, side))
        wanted = F.interpolate(own, size=[side] * 3, mode="trilinear", align_corners=False)
    assert torch.equal(found, own if side == 16 else wanted)


@pytest.mark.parametrize("box", [24, 32, 40])
def test_masks_and_densities_lie_on_the_boxes_own_grid(box):
    classifier = three_tasks()
    preparation = spec("mtl-cect").resolve()
    assert preparation.input_size == (32, 32, 32)
    card = card_of(classifier).replace(preparation=preparation, box=(box, box, box))
    raw = np.random.default_rng(0).standard_normal((1, box, box, box), dtype=np.float32)
    said = TorchEngine(WholeModel(classifier, card), CPU).run(raw)
    assert said["mask"].shape == said["density"].shape == raw.shape
    assert said["mask"].std() > 0


def test_all_three_tasks_teach_every_weight():
    classifier = three_tasks().train()
    x = torch.randn(3, 1, 16, 16, 16)
    said = classifier(x, x)
    classes, voxels = torch.tensor([0, 1, 2]), torch.rand(3, 16, 16, 16)
    truths = {CLASSIFY: classes, SEGMENT: voxels.round(), RECOVER: voxels}
    sum(task.loss(said, truth, RECIPE) for task, truth in truths.items()).backward()
    still = [name for name, value in classifier.named_parameters() if not value.grad.abs().max() > 0]
    assert not still


def test_it_is_exported_with_all_three_tasks(tmp_path):
    classifier = three_tasks()
    card = save_model(tmp_path, classifier, card_of(classifier))
    parity = export_onnx(tmp_path, tmp_path / "model.onnx")
    assert parity.max_probability_difference <= 1e-4
    engine = OnnxEngine(tmp_path / "model.onnx", "cpu")
    for sides in ((12, 12, 12), (16, 16, 16), (20, 18, 14)):
        raw = np.random.default_rng(1).standard_normal((3, *sides), dtype=np.float32)
        said, wanted = engine.run(raw), TorchEngine(WholeModel(classifier, card), CPU).run(raw)
        assert [*said] == [*wanted] == [*card.outputs]
        for name, value in wanted.items():
            np.testing.assert_allclose(said[name], value, rtol=1e-4, atol=1e-4 * max(1, np.abs(value).max()))


# ---------------------------------------------------------------------------------- a start from a model folder


def equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == also and torch.equal(value, expected) for (name, value), (also, expected) in pairs)


@pytest.mark.parametrize("backbone", ["mtl-cect", "res32"])
def test_a_start_takes_decoder_and_heads_for_voxels_but_not_the_head_for_classes(backbone, tmp_path):
    donor = three_tasks(backbone=backbone)
    save_model(tmp_path, donor, card_of(donor))
    fresh = three_tasks(1, backbone)
    own = fresh.head.weight.clone()
    start = start_classifier(fresh, init=tmp_path)
    assert equal(start.backbone, donor.backbone)
    assert equal(start.decoder, donor.decoder)
    assert equal(start.heads["segment"], donor.heads["segment"])
    assert equal(start.heads["recover"], donor.heads["recover"])
    assert torch.equal(start.head.weight, own)  # though the classes are as many
    assert not [*start.fresh_parameters()]


@pytest.mark.parametrize(
    ("given", "asked", "fresh"),
    [
        ((CLASSIFY,), EVERY, {"decoder", "segment", "recover"}),
        ((SEGMENT,), EVERY, {"recover"}),
        ((CLASSIFY, SEGMENT), (RECOVER,), {"recover"}),
        (EVERY, (CLASSIFY,), set()),
        (EVERY, (CLASSIFY, RECOVER), set()),
    ],
)
def test_a_start_takes_what_both_have(given, asked, fresh, tmp_path):
    torch.manual_seed(0)
    donor = Classifier("mtl-cect", 3, given)
    for task in {SEGMENT, RECOVER} & {*given}:
        nn.init.normal_(donor.heads[task.name].voxels.weight)
    classes = small_card().classes if CLASSIFY in given else ()
    save_model(tmp_path, donor, card_of(donor, classes=classes))
    start = start_classifier(Classifier("mtl-cect", 5, asked), init=tmp_path)
    assert equal(start.backbone, donor.backbone)
    parts, had = start.voxel_parts(), donor.voxel_parts()
    assert {name for name, part in parts.items() if name not in had or not equal(part, had[name])} == fresh
    random = [value for name in parts if name in fresh for value in parts[name].parameters()]
    assert {*map(id, start.fresh_parameters())} == {*map(id, random)}


SIMULATE = "simulate -o Sim --particles --truth --species 2 --per-species 12 --box 16 --angpix 20 --snr 50"
NETWORK = "--backbone mtl-cect --input-size 16 16 16 --recipe quick --device cpu"
LEARN = f"finetune Sim/particles.star {NETWORK} --tasks classify,recover"


def correlation_of(folder: str) -> float:
    """Return the validation correlation of the epoch whose weights the folder holds."""
    with Path(folder, "history.csv").open() as file:
        better = [row for row in csv.DictReader(file) if row["best"] == "True"]  # than all before
    return float(better[-1]["val_correlation"])


def test_finetune_goes_on_where_a_model_folder_with_the_same_tasks_stopped(cryoclass, tmp_path, monkeypatch):
    """At a rate too small to teach anything, the first epoch says what the donor said."""
    monkeypatch.chdir(tmp_path)
    still = "--epochs 1 --lr 1e-9"
    runs = {"Donor": "--epochs 6", "Fresh": still, "Start": f"{still} --init Donor"}
    for argv in (SIMULATE, *(f"{LEARN} {more} -o {folder}" for folder, more in runs.items())):
        ran = cryoclass(*argv.split())
        assert ran.status == 0, ran.err
    donor, card = load_model(Path("Donor"))
    start, _ = load_model(Path("Start"))
    assert card.tasks == ("classify", "recover")
    for name, value in donor.voxel_parts()["decoder"].named_parameters():
        torch.testing.assert_close(start.decoder.get_parameter(name), value, rtol=0, atol=1e-5)
    assert correlation_of("Start") == pytest.approx(correlation_of("Donor"), abs=1e-3)
    assert correlation_of("Fresh") < correlation_of("Donor") - 0.2
