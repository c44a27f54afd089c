"""Preparation, classifier, model folder, and the arithmetic of torch that training relies on."""

import pytest
import torch
import torch.nn.functional as F
from network_helpers import file_of_2018, published_state, small_card, small_classifier

from cryoclass.backbones.resnet3d import ResNet3d
from cryoclass.classifier import Classifier, WholeModel, load_model, save_model, start_classifier
from cryoclass.errors import ModelError, OutputError, UsageError
from cryoclass.preparation import Preparer
from cryoclass.settings import Preparation

# ------------------------------------------------------------------------------------------- preparation


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1.0, 1e20])
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_standard_gives_mean_0_and_deviation_1_at_any_scale(scale, offset):
    preparer = Preparer(Preparation(input_size=(8, 8, 8), intensity="standard"))
    raw = (torch.randn(3, 7, 8, 9, generator=torch.Generator().manual_seed(0)) + offset) * scale
    grey = preparer.grey(raw)
    assert grey.shape == (3, 1, 7, 8, 9)
    torch.testing.assert_close(grey.mean(dim=(1, 2, 3, 4)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(grey.std(dim=(1, 2, 3, 4), correction=0), torch.ones(3), rtol=1e-5, atol=0)


def test_unit_stretches_each_box_on_its_own():
    preparer = Preparer(Preparation(input_size=(8, 8, 8), intensity="unit"))
    raw = torch.stack([torch.arange(8.0).view(2, 2, 2), -5 * torch.arange(8.0).view(2, 2, 2)])
    grey = preparer.grey(raw)[:, 0]
    torch.testing.assert_close(grey[0], torch.arange(8.0).view(2, 2, 2) / 7)
    torch.testing.assert_close(grey[1], 1 - grey[0])


@pytest.mark.parametrize("intensity", ["standard", "unit"])
@pytest.mark.parametrize("value", [0.0, -3.7, 1e-30, 123456.78])
def test_a_constant_box_becomes_even(intensity, value):
    preparer = Preparer(Preparation(input_size=(8, 8, 8), intensity=intensity))
    prepared = preparer(torch.full((1, 9, 10, 11), value))
    assert prepared.shape == (1, 1, 8, 8, 8)
    assert prepared.abs().max() < 0.2


def test_resize_is_trilinear_between_voxel_centres():
    preparer = Preparer(Preparation(input_size=(8, 10, 12), intensity="unit"))
    z, y, x = torch.meshgrid(torch.arange(4.0), torch.arange(5.0), torch.arange(6.0), indexing="ij")
    resized = preparer.resize((100 * z + 10 * y + x)[None, None])[0, 0]
    # A voxel of half the size, with its centre a quarter inside the first one; ends are repeated.
    along = [(torch.arange(2.0 * n) / 2 - 0.25).clamp(0, n - 1) for n in (4, 5, 6)]
    z, y, x = torch.meshgrid(*along, indexing="ij")
    torch.testing.assert_close(resized, 100 * z + 10 * y + x)


def test_boxes_do_not_see_each_other():
    preparer = Preparer(Preparation(input_size=(8, 16, 16), intensity="standard"))
    raw = torch.randn(3, 6, 6, 6)
    torch.testing.assert_close(preparer(raw)[1:2], preparer(raw[1:2]))


# -------------------------------------------------------------------------------------------- classifier


def test_whole_model_is_the_sum_of_its_parts():
    classifier = small_classifier()
    preparer = Preparer(small_card().preparation)
    raw = torch.randn(2, 12, 12, 12)
    with torch.inference_mode():
        whole = WholeModel(classifier, small_card())(raw)
        parts = classifier(preparer(raw), preparer.grey(raw))
    assert torch.equal(whole["logits"], parts["logits"])
    assert torch.equal(whole["embedding"], parts["embedding"])
    torch.testing.assert_close(whole["probabilities"].sum(dim=1), torch.ones(2))
    assert whole["logits"].shape == (2, 3)
    assert whole["embedding"].shape == (2, 512)


def test_start_takes_the_backbone_of_a_model_folder(tmp_path):
    classifier = small_classifier(classes=3)
    save_model(tmp_path, classifier, small_card())
    start = start_classifier(Classifier("r3d10", 5), init=tmp_path)
    assert start.head.weight.shape == (5, 512)
    assert torch.equal(start.backbone.bn1.running_var, classifier.backbone.bn1.running_var)
    with pytest.raises(ModelError, match="holds a r3d10, which does not fit"):
        start_classifier(Classifier("r3d18", 5), init=tmp_path)
    with pytest.raises(UsageError, match="contradict"):
        start_classifier(Classifier("r3d10", 5), init=tmp_path, weights=tmp_path / "file.pth")


def test_start_takes_a_weight_file(tmp_path):
    state = published_state(ResNet3d(10, channels=3))
    (tmp_path / "file.pth").write_bytes(file_of_2018(state, "resnet-10"))
    start = start_classifier(Classifier("r3d10", 2), weights=tmp_path / "file.pth")
    assert torch.equal(start.backbone.layer4[0].conv2.weight, state["layer4.0.conv2.weight"])


# ------------------------------------------------------------------------------------------ model folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    classifier = small_classifier()
    return folder, classifier, save_model(folder, classifier, small_card())


@pytest.fixture
def folder(saved, tmp_path):
    """Return a copy of the model folder that may be damaged."""
    for path in saved[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_model_folder_round_trip(saved):
    folder, classifier, card = saved
    loaded, read = load_model(folder)
    assert read == card
    assert read == small_card(weights_sha256=card.weights_sha256, bytes=card.bytes)
    assert not loaded.training
    assert all(
        torch.equal(loaded.state_dict()[name], value) for name, value in classifier.state_dict().items()
    )
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]


def test_saving_again_gives_the_same_bytes(saved, tmp_path):
    save_model(tmp_path, saved[1], small_card())
    for path in saved[0].iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        save_model(tmp_path / "file", small_classifier(), small_card())


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ModelError, match=name) as caught:
        load_model(folder)
    assert "cryoclass finetune" in caught.value.hint


def test_weights_that_were_cut_or_altered_are_refused(folder):
    path = folder / "model.safetensors"
    weights = bytearray(path.read_bytes())
    weights[-5] ^= 1
    for damaged in (weights, weights[:1000], b""):
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match=r"model\.safetensors is damaged or altered"):
            load_model(folder)


# ------------------------------------------------------------------------------- arithmetic of torch on CPU


def kernel_gradient_error(kind):
    """Return the largest error, relative to the largest value, of the weight gradient on a 2x2x2 map."""
    draw = torch.Generator().manual_seed(0)
    x, w, out = (
        torch.randn(shape, generator=draw, dtype=torch.float64)
        for shape in [(4, 64, 2, 2, 2), (64, 64, 3, 3, 3), (4, 64, 2, 2, 2)]
    )

    def gradient(kind):
        kernel = w.to(kind, copy=True).requires_grad_()
        F.conv3d(x.to(kind), kernel, padding=1).backward(out.to(kind))
        return kernel.grad.double()

    expected = gradient(torch.float64)
    return float((gradient(kind) - expected).abs().max() / expected.abs().max())


def test_kernel_gradient_is_right_in_float32():
    assert kernel_gradient_error(torch.float32) < 1e-5
