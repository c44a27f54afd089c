"""Every registered backbone: the numbers of its original, its published file, the sizes it takes, and its whole life.

The networks are too large to compute all of them here. Names, shapes and sizes are checked on the real ones, without
values (torch's meta device); values on the real ones where that takes a second, else on siblings: the same classes, and
the same originals, with fewer and narrower layers (``family_helpers.SIBLINGS``).
"""

import dataclasses
import functools
import importlib
import sys
import warnings

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
import torchvision
from family_helpers import (
    FEW_LAYERS,
    SIBLINGS,
    sibling_of,
    small_mvit,
    small_swin2d,
    small_swin3d,
)
from network_helpers import by_formula, shake, small_card
from torch import nn
from torchvision.models import video

from cryoclass.backbones import r2plus1d34
from cryoclass.backbones.inflated import InflatedSwin
from cryoclass.backbones.registry import BACKBONES, build_backbone, spec
from cryoclass.backbones.torchvision_video import Mvit, stretch, torchvision_module
from cryoclass.backbones.vivit import Vivit
from cryoclass.backbones.vjepa2 import Vjepa2
from cryoclass.backbones.weights import load_weights
from cryoclass.classifier import Classifier, WholeModel, load_model, save_model, start_classifier
from cryoclass.errors import UsageError
from cryoclass.exporting.onnx_file import export_onnx
from cryoclass.inference.engines import BackboneEngine, OnnxEngine, TorchEngine
from cryoclass.settings import Preparation, Recipe
from cryoclass.training.loop import LabelledBoxes, Run, fit

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what it says on import is not ours
    import transformers

CPU = torch.device("cpu")


def original(function, **settings):
    """Return one of torchvision's networks with numbers of its own everywhere; fresh ones are too alike."""
    torch.manual_seed(0)
    network = shake(getattr(video, function)(**settings))
    for name, value in network.named_parameters():
        if "pos" in name or name.endswith("relative_position_bias_table"):
            nn.init.normal_(value, std=0.5)
    return network


def saved(network, folder):
    """Write a network as its authors publish it: the whole state_dict, head and all."""
    path = folder / "published.pth"
    torch.save(network.state_dict(), path)
    return path


def assert_same(backbone, expected_logits, head, x):
    """Hold ``backbone`` with the original's head against the logits of the original for three equal channels."""
    with torch.inference_mode():
        found = head(backbone(x))
        torch.testing.assert_close(
            found, expected_logits, rtol=0, atol=1e-5 * float(expected_logits.abs().max())
        )


def colours(x):
    return x.expand(-1, 3, -1, -1, -1)


# ------------------------------------------------------------------- the same numbers as the originals

# S3D has a pool for maps of 2x7x7, so that the original itself takes no less than 224x224.
CONVOLUTIONAL = [
    ("tv-r3d18-k400", "r3d_18", (6, 24, 24)),
    ("mc3-18-k400", "mc3_18", (6, 24, 24)),
    ("r2plus1d-18-k400", "r2plus1d_18", (6, 24, 24)),
    ("s3d-k400", "s3d", (16, 224, 224)),
    ("swin3d-t-k400", "swin3d_t", (18, 36, 44)),
]


def head_of(network):
    if hasattr(network, "classifier"):  # S3D: a convolution on the pooled map
        return lambda embedding: network.classifier(embedding[:, :, None, None, None]).flatten(1)
    return network.fc if hasattr(network, "fc") else network.head


@pytest.mark.parametrize(("name", "function", "size"), CONVOLUTIONAL)
def test_torchvision_networks_say_what_the_originals_say(name, function, size, tmp_path):
    network = original(function)
    backbone = load_weights(spec(name), saved(network, tmp_path)).eval()
    x = torch.rand(1, 1, *size)
    with torch.inference_mode():
        expected = network(colours(x))
    assert_same(backbone, expected, head_of(network), x)


def rebuilt_mvit(network, function, spatial, temporal):
    """Return torchvision's network made for another input, its tables resized as they are for fine-tuning."""
    settings = {}
    capture = lambda **given: settings.update(given)  # noqa: E731
    module = sys.modules["torchvision.models.video.mvit"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_mvit", capture)
        getattr(module, function)()
    unused = {"weights", "progress"}
    settings = {key: value for key, value in settings.items() if key not in unused}
    settings |= {"spatial_size": spatial, "temporal_size": temporal}
    settings = {"residual_with_cls_embed": True, "rel_pos_embed": False, "proj_after_attn": False} | settings
    other = module.MViT(**settings).eval()
    shapes = {name: value.shape for name, value in other.state_dict().items()}
    other.load_state_dict(
        {name: resized(name, value, shapes[name], spatial) for name, value in network.state_dict().items()}
    )
    return other


def resized(name, value, shape, spatial):
    if value.shape == shape:
        return value
    if name.endswith("spatial_pos"):
        side, to = round(len(value) ** 0.5), (spatial[0] // 4, spatial[1] // 4)
        plane = value.T.reshape(1, -1, side, side)
        return F.interpolate(plane, size=to, mode="bilinear").flatten(2)[0].T
    return F.interpolate(value.T[None], size=shape[0], mode="linear")[0].T


@pytest.mark.parametrize(
    ("name", "function"), [("mvit-v1-b-k400", "mvit_v1_b"), ("mvit-v2-s-k400", "mvit_v2_s")]
)
def test_mvit_says_what_torchvision_rebuilt_for_the_size_says(name, function, tmp_path):
    network = original(function)
    backbone = load_weights(spec(name), saved(network, tmp_path)).eval()
    smaller = rebuilt_mvit(network, function, (64, 64), 8)
    assert {value.shape for value in smaller.state_dict().values()} != {
        value.shape for value in network.state_dict().values()
    }
    x = torch.rand(1, 1, 8, 64, 64)
    with torch.inference_mode():
        expected = smaller(colours(x))
    assert_same(backbone, expected, network.head[1], x)


@pytest.mark.parametrize("version", [1, 2])
def test_mvit_says_what_the_original_says_at_its_own_size(version):
    torch.manual_seed(1)
    network = small_mvit(version, (48, 48), 8).eval()
    x = torch.rand(1, 1, 8, 48, 48)
    with torch.inference_mode():
        expected = network(colours(x))
        backbone = Mvit(network, 3).eval()
        assert_same(lambda grey: backbone(colours(grey)), expected, network.head[1], x)


@functools.cache
def vivit_file(folder):
    """Return a small ViViT of transformers, and the file that transformers writes: with the names of the published one."""
    torch.manual_seed(2)
    network = transformers.VivitForVideoClassification(
        transformers.VivitConfig(**FEW_LAYERS, intermediate_size=64, num_labels=5)
    ).eval()
    network.load_state_dict(by_formula(network.state_dict()))
    network.save_pretrained(folder)
    return network, folder / "model.safetensors"


@pytest.fixture(scope="module")
def small_vivit(tmp_path_factory):
    network, path = vivit_file(tmp_path_factory.mktemp("vivit"))
    small = dataclasses.replace(spec("vivit-b-k400"), build=SIBLINGS["vivit"])
    return network, path, small


def test_the_vivit_file_has_the_published_names(small_vivit):
    names = set(safetensors.torch.load_file(small_vivit[1]))
    assert "vivit.encoder.layer.1.attention.attention.query.weight" in names
    assert "vivit.encoder.layer.1.output.dense.bias" in names
    assert "classifier.weight" in names


def test_vivit_says_what_transformers_says(small_vivit):
    network, path, small = small_vivit
    x = torch.rand(1, 1, 32, 224, 224)
    with torch.inference_mode():
        expected = network(colours(x).transpose(1, 2)).logits
    assert_same(load_weights(small, path).eval(), expected, network.classifier, x)


def test_vivit_takes_names_old_and_new(small_vivit, tmp_path):
    network, path, small = small_vivit
    new = load_weights(small, saved(network, tmp_path)).state_dict()
    old = load_weights(small, path).state_dict()
    assert all(torch.equal(old[name], new[name]) for name in old)


def test_vivit_stretches_its_table_to_the_input(small_vivit):
    network, path, small = small_vivit
    settings = {**FEW_LAYERS, "intermediate_size": 64, "image_size": 128, "num_frames": 28, "num_labels": 5}
    other = transformers.VivitForVideoClassification(transformers.VivitConfig(**settings)).eval()
    state = network.state_dict()
    key = "vivit.embeddings.position_embeddings"
    start, places = state[key][:, :1], state[key][:, 1:]
    volume = places.reshape(1, 16, 14, 14, -1).permute(0, 4, 1, 2, 3)
    stretched = F.interpolate(volume, size=(14, 8, 8), mode="trilinear").flatten(2).transpose(1, 2)
    other.load_state_dict({**state, key: torch.cat([start, stretched], dim=1)})
    x = torch.rand(2, 1, 28, 128, 128)
    with torch.inference_mode():
        expected = other(colours(x).transpose(1, 2)).logits
    assert_same(load_weights(small, path).eval(), expected, network.classifier, x)


@pytest.mark.parametrize("side", [64, 256])
def test_vjepa2_says_what_transformers_says(side, tmp_path):
    torch.manual_seed(3)
    config = transformers.VJEPA2Config(
        **FEW_LAYERS,
        crop_size=side,
        pred_num_hidden_layers=2,
        pred_hidden_size=48,
        pred_num_attention_heads=2,
    )
    network = transformers.VJEPA2Model(config).eval()
    network.load_state_dict(by_formula(network.state_dict()))
    network.save_pretrained(tmp_path)
    small = dataclasses.replace(spec("vjepa2-l"), build=SIBLINGS["vjepa2"])
    backbone = load_weights(small, tmp_path / "model.safetensors").eval()
    x = torch.rand(1, 1, 6, side, side)
    with torch.inference_mode():
        expected = network(colours(x).transpose(1, 2), skip_predictor=True).last_hidden_state.mean(dim=1)
    assert_same(backbone, expected, nn.Identity(), x)


def test_vjepa2_knows_rows_from_columns():
    """Counted on, as on the published grid, the tokens of a small frame would all lie in one row."""
    torch.manual_seed(4)
    backbone = Vjepa2(1, **FEW_LAYERS).eval()
    x = torch.rand(1, 1, 2, 32, 64)
    one_row = torch.cat([x[:, :, :, :16], x[:, :, :, 16:]], dim=4)
    with torch.inference_mode():
        assert (backbone(x) - backbone(one_row)).abs().max() > 1e-6


@pytest.fixture
def swin_of_images(tmp_path):
    torch.manual_seed(5)
    network = small_swin2d().eval()
    for name, value in network.named_parameters():
        if name.endswith("relative_position_bias_table"):
            nn.init.normal_(value, std=0.5)
    inflated = dataclasses.replace(
        spec("swin-t-in1k"), build=lambda channels: InflatedSwin(small_swin3d(), channels)
    )
    return network, load_weights(inflated, saved(network, tmp_path)).eval()


@pytest.mark.parametrize("depth", [2, 8, 16, 32])
def test_a_stack_of_equal_slices_is_one_image_to_an_inflated_network(depth, swin_of_images):
    network, backbone = swin_of_images
    image = torch.rand(1, 1, 64, 80)
    with torch.inference_mode():
        expected = network(image.expand(-1, 3, -1, -1))
    assert_same(backbone, expected, network.head, image[:, :, None].expand(-1, -1, depth, -1, -1))


def test_an_inflated_network_sees_depth(swin_of_images):
    _, backbone = swin_of_images
    x = torch.rand(1, 1, 16, 56, 56)
    with torch.inference_mode():
        assert not torch.allclose(backbone(x), backbone(x[:, :, torch.randperm(16)]), atol=1e-3)


def test_r2plus1d34_has_the_published_numbers(tmp_path):
    torch.manual_seed(6)
    build = r2plus1d34.build
    network = shake(build(3))
    assert sum(value.numel() for value in network.parameters()) + 513 * 400 == 63_697_175  # 63.7 M published
    assert {part.eps for part in network.modules() if isinstance(part, nn.BatchNorm3d)} == {1e-3}
    inside = [network.get_submodule(f"layer{n}")[0].conv2[0][0].out_channels for n in (1, 2, 3, 4)]
    assert inside == [144, 288, 576, 1152]
    head = {"fc.weight": torch.zeros(400, 512), "fc.bias": torch.zeros(400)}
    torch.save(network.state_dict() | head, tmp_path / "file.pth")
    backbone = load_weights(spec("r2plus1d34-ig65m32-k400"), tmp_path / "file.pth").eval()
    x = torch.rand(1, 1, 4, 16, 16)
    with torch.inference_mode():
        expected = network(colours(x))
    assert_same(backbone, expected, nn.Identity(), x)


# ----------------------------------------------------------------------- the published files of the large ones


def meta_original(name):
    """Return the tensors of a published file, without values."""
    with torch.device("meta"):
        if name == "vivit-b-k400":
            return transformers.VivitForVideoClassification(
                transformers.VivitConfig(num_labels=400)
            ).state_dict()
        if name == "vjepa2-l":
            return transformers.VJEPA2Model(transformers.VJEPA2Config()).state_dict()
        return torchvision.models.get_model(enum_of(name)[0]).state_dict()


def enum_of(name):
    """Return torchvision's name of a network, and its entry for the file that we name."""
    url = spec(name).weights.addresses[0].url
    for function in torchvision.models.list_models():
        for entry in torchvision.models.get_model_weights(function):
            if entry.url == url:
                return function, entry
    raise AssertionError(f"torchvision does not publish {url}")


FROM_TORCHVISION = [
    name
    for name, entry in BACKBONES.items()
    if entry.weights and any("pytorch.org" in address.url for address in entry.weights.addresses)
]
PARAMETERS = {"vivit-b-k400": 88_954_000}


def test_twelve_files_come_from_torchvision():
    assert len(FROM_TORCHVISION) == 12


@pytest.mark.parametrize("name", [*FROM_TORCHVISION, "vivit-b-k400", "vjepa2-l"])
def test_the_published_file_fits(name):
    entry, state = spec(name), meta_original(name)
    with torch.device("meta"):
        layout = entry.build(3).state_dict()
    found = {key: value for key, value in entry.convert(state).items() if not key.startswith(entry.discard)}
    assert {key: value.shape for key, value in found.items()} == {
        key: value.shape for key, value in layout.items()
    }
    assert entry.stem.weight in found
    assert entry.stem.offset in found
    assert entry.convert(found) == found
    count = sum(value.numel() for value in state.values() if value.is_floating_point())
    if name in PARAMETERS:
        assert count == PARAMETERS[name]
    assert abs(4 * count - entry.weights.size) < 0.15 * entry.weights.size


@pytest.mark.parametrize("name", FROM_TORCHVISION)
def test_address_and_scale_are_those_of_torchvision(name):
    _, entry = enum_of(name)
    (address,) = spec(name).weights.addresses
    assert address.url == entry.url
    assert address.hash == f"sha256:{entry.url[-12:-4]}"
    transform = entry.transforms()
    assert spec(name).scale.mean == tuple(transform.mean)
    assert spec(name).scale.std == tuple(transform.std)
    assert spec(name).scale.highest == 1


# -------------------------------------------------------------------------------------------------- sizes

REFUSED = {
    ("vivit-b-k400", (28, 28, 28)): "2x16x16",
    ("vjepa2-l", (28, 28, 28)): "2x16x16",
    ("mtl-cect", (28, 128, 128)): "8x8x8",
    ("mtl-cect", (28, 28, 28)): "8x8x8",
}


@pytest.mark.parametrize("name", BACKBONES)
def test_networks_take_the_sizes_of_the_paper_or_say_why_not(name):
    with torch.device("meta"):
        network = build_backbone(name).eval()
        for size in ((32, 128, 128), (28, 128, 128), (28, 28, 28)):
            if (name, size) in REFUSED:
                with pytest.raises(UsageError, match=f"must be a multiple of {REFUSED[name, size]}"):
                    spec(name).allowed(size)
                continue
            spec(name).allowed(size)
            assert network(torch.empty(1, 1, *size)).shape == (1, spec(name).width)


@pytest.mark.parametrize(
    ("name", "smallest"), [("s3d-k400", (5, 17, 17)), ("rb3d", (4, 4, 4)), ("autoencoding3d", (4, 4, 4))]
)
def test_the_smallest_size_runs_and_a_smaller_one_is_refused(name, smallest):
    with torch.device("meta"):
        assert build_backbone(name)(torch.empty(2, 1, *smallest)).shape == (2, spec(name).width)
    spec(name).allowed(smallest)
    for axis in range(3):
        smaller = [side - (place == axis) for place, side in enumerate(smallest)]
        with pytest.raises(UsageError, match="must be at least"):
            spec(name).allowed(tuple(smaller))


@pytest.mark.parametrize(
    ("name", "size"),
    [("vivit-b-k400", (31, 128, 128)), ("vjepa2-l", (32, 128, 120)), ("vjepa2-l", (32, 272, 128))],
)
def test_patches_must_fit(name, size):
    with pytest.raises(UsageError, match="multiple of 2x16x16"):
        spec(name).allowed(size)


def test_stretch_keeps_what_fits_and_goes_through_cells():
    table = torch.rand(4, 6, 5)
    assert stretch(table, (4, 6)) is table
    ramp = torch.arange(4.0)[:, None]
    assert stretch(ramp, (8,)).flatten().tolist() == [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]
    assert stretch(table.half(), (2, 3)).dtype == torch.float16


# ------------------------------------------------------------------------------------- baselines of the papers


def test_rb3d_has_the_published_number_of_values():
    with torch.device("meta"):
        network = build_backbone("rb3d")
    head = 256 * 10 + 10
    assert sum(value.numel() for value in network.parameters()) + head == 118_474


@pytest.mark.parametrize("side", [8, 9])
def test_rb3d_pools_to_halves(side):
    torch.manual_seed(10)
    network = build_backbone("rb3d").eval()
    x = torch.rand(2, 1, 2 * side, 2 * side + 2, 2 * side)
    with torch.inference_mode():
        maps = network.blocks(network.maxpool(network.conv1(x).relu()))
        torch.testing.assert_close(network(x), F.adaptive_avg_pool3d(maps, 2).flatten(1))


def test_autoencoding_has_the_published_number_of_values():
    """At 28x28x28 with 7 classes, 4.35 M with the code and the decoder that are not here."""
    side = 28 // 4
    flat = 32 * side**3
    code, grown = flat * 128 + 128, 128 * flat + flat
    decoder = 2 * (32 * 32 * 27 + 32) + 32 * 27 + 1
    with torch.device("meta"):
        network = build_backbone("autoencoding3d")
    ours = sum(value.numel() for value in network.parameters()) + 7 * 128 + 7
    assert round((ours + code + grown + decoder) / 1e6, 2) == 4.35


def test_autoencoding_flattens_the_maps_of_its_own_box():
    torch.manual_seed(7)
    network = build_backbone("autoencoding3d").eval()
    x = torch.rand(2, 1, 28, 28, 28)
    with torch.inference_mode():
        maps = network.maxpool(network.conv1(x).relu())
        maps = network.maxpool(network.conv2(maps).relu())
        expected = network.dense2(network.dense1(network.bn(maps.flatten(1))).relu()).relu()
        torch.testing.assert_close(network(x), expected)


# ------------------------------------------------------------------------------------------ optional packages


@pytest.mark.parametrize("build", [Vivit, Vjepa2])
def test_a_missing_extra_is_said(build, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match="needs the package transformers") as caught:
        build(1)
    assert "pip install 'cryoclass[vivit]'" in caught.value.hint


def test_a_torchvision_that_does_not_match_is_said(monkeypatch):
    def refuse(_name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(UsageError, match="nms does not exist"):
        torchvision_module("torchvision.models.video")


# -------------------------------------------------------------------------------- the whole life of a backbone

SIZE = (8, 32, 32)
RECIPE = Recipe(
    name="two steps",
    epochs=1,
    lr=1e-4,
    batch_size=4,
    preparation=Preparation(input_size=SIZE, intensity="standard"),
)


# The class token, which alone leaves MViT's last block, asks for no place there; so that these play no part in it.
QUERIES = ("backbone.blocks.1.attn.pool_q.", "backbone.blocks.1.attn.rel_pos_")


class Boxes:
    """Noise with and without a ball."""

    angpix, box = 10.0, 10

    def __init__(self):
        self.labels = np.arange(12) % 2
        self.voxels = np.random.default_rng(8).normal(size=(12, 10, 10, 10)).astype(np.float32)
        self.voxels[self.labels == 1, 3:7, 3:7, 3:7] += 2
        self.order = np.arange(12)

    def __len__(self):
        return len(self.voxels)

    def read(self, index):
        return self.voxels[index]

    def fingerprint(self):
        return "toys"


@functools.cache
def life(kind, name, folder):
    """Fine-tune, save, load, predict, embed and export the sibling of a backbone under its registered name."""
    boxes, build = Boxes(), SIBLINGS[kind]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, name, dataclasses.replace(BACKBONES[name], build=build))
        torch.manual_seed(9)
        classifier = start_classifier(Classifier(name, 2), init="random")
        before = {key: value.clone() for key, value in classifier.named_parameters()}
        parts = np.array(["train"] * 8 + ["val"] * 4)
        history = fit(
            classifier,
            LabelledBoxes(source=boxes, labels=boxes.labels, parts=parts, classes=("noise", "ball")),
            RECIPE,
            Run(device=CPU),
        )
        moved = {key for key, value in classifier.named_parameters() if not torch.equal(value, before[key])}
        card = small_card(
            backbone=name,
            classes=("noise", "ball"),
            box=(10, 10, 10),
            preparation=RECIPE.preparation,
            outputs=classifier.outputs,
        )
        save_model(folder, classifier, card)
        loaded, card = load_model(folder)
        predicted = TorchEngine(WholeModel(loaded, card), CPU).run(boxes.voxels)
        embedded = BackboneEngine(name, loaded.backbone, card.preparation, boxes, CPU).run(boxes.voxels)
        offered = BACKBONES[name].onnx is True
        parity = export_onnx(folder, folder / "model.onnx") if offered else None
        exported = (
            [OnnxEngine(folder / "model.onnx").run(boxes.voxels[:n]) for n in (1, 5)] if offered else []
        )
    return history, set(before) - moved, predicted, embedded["embedding"], parity, exported


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return functools.cache(tmp_path_factory.mktemp)


@functools.cache
def namesake(kind):
    """Return the first backbone with a sibling; those that share one live its life."""
    return next(name for name in BACKBONES if sibling_of(name) == kind)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_is_trained_saved_used_and_exported(name, folders):
    kind = sibling_of(name)
    history, unmoved, predicted, embedding, parity, exported = life(kind, namesake(kind), folders(kind))
    assert np.isfinite(history.records[0].train_loss)
    assert not {key for key in unmoved if not (kind.startswith("mvit") and key.startswith(QUERIES))}
    assert predicted["probabilities"].shape == (12, 2)
    np.testing.assert_allclose(predicted["probabilities"][8:], history.probabilities, atol=1e-5)
    np.testing.assert_allclose(embedding, predicted["embedding"], atol=1e-5)
    assert np.ptp(embedding, axis=0).max() > 1e-4
    assert spec(name).onnx == spec(namesake(kind)).onnx
    if spec(name).onnx is not True:
        assert spec(name).onnx
        return
    assert parity.max_probability_difference <= 1e-4
    for batch in exported:
        count = len(batch["logits"])
        np.testing.assert_allclose(batch["logits"], predicted["logits"][:count], atol=1e-4)
        np.testing.assert_allclose(batch["embedding"], predicted["embedding"][:count], atol=1e-4)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_sibling_is_of_the_same_class(name):
    with torch.device("meta"):
        assert type(SIBLINGS[sibling_of(name)](1)) is type(build_backbone(name))
