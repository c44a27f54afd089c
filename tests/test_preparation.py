"""Preparation: which axis is the beam, what becomes of the slices, grey values as pretrained; in torch and in ONNX."""

import dataclasses

import numpy as np
import pytest
import torch
from network_helpers import small_card, small_classifier

from cryoclass.backbones.registry import BACKBONES, spec
from cryoclass.backbones.spec import at_least, multiple_of
from cryoclass.classifier import WholeModel, load_model, save_model
from cryoclass.errors import UsageError
from cryoclass.exporting.onnx_file import export_onnx
from cryoclass.inference.engines import OnnxEngine, TorchEngine
from cryoclass.preparation import Preparer, beam_first, to_depth
from cryoclass.settings import NetworkInput, Preparation, Start, Training
from cryoclass.training.finetune import choose_recipe
from cryoclass.training.recipes import QUICK, recipe

CPU = torch.device("cpu")


@pytest.fixture
def raw():
    return torch.randn(2, 9, 10, 11, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize(("axis", "shape"), [("z", (9, 10, 11)), ("y", (10, 11, 9)), ("x", (11, 9, 10))])
def test_the_beam_axis_comes_first(raw, axis, shape):
    turned = beam_first(raw, axis)
    assert tuple(turned.shape[1:]) == shape
    plane = raw.select(1 + "zyx".index(axis), 3)
    assert torch.equal(turned[:, 3].flatten(1).sort().values, plane.flatten(1).sort().values)


@pytest.mark.parametrize("axis", "zyx")
def test_no_choice_of_axis_makes_a_mirror_image(axis):
    corner = torch.zeros(1, 3, 3, 3)
    corner[0, 0, 0, 0], corner[0, 1, 0, 0], corner[0, 0, 1, 0], corner[0, 0, 0, 1] = 9, 1, 2, 3
    turned = beam_first(corner, axis)[0]
    steps = [(turned == value).nonzero()[0].tolist() for value in (1, 2, 3)]
    assert round(float(np.linalg.det(steps))) == 1


@pytest.mark.parametrize("axis", "zyx")
def test_a_bar_along_the_beam_is_the_same_whichever_axis_that_is(axis):
    upright = torch.zeros(9, 9, 9)
    upright[:, 4, 4] = 1  # along z
    lying = {"z": upright, "y": upright.permute(1, 0, 2), "x": upright.permute(1, 2, 0)}[axis]
    assert lying.sum(dim="zyx".index(axis)).max() == 9
    prepared = Preparer(Preparation(input_size=(8, 16, 16), beam_axis=axis))(lying[None])
    assert torch.equal(prepared, Preparer(Preparation(input_size=(8, 16, 16)))(upright[None]))


def test_depth_is_resized_kept_or_filled_with_the_last_slice(raw):
    prepared = {
        policy: Preparer(Preparation(input_size=(12, 10, 11), depth=policy))(raw)
        for policy in ("resize", "keep", "repeat-last")
    }
    grey = Preparer(Preparation()).grey(raw)
    assert prepared["resize"].shape[2] == 12
    torch.testing.assert_close(prepared["keep"], grey)
    torch.testing.assert_close(prepared["repeat-last"][:, :, :9], grey)
    torch.testing.assert_close(prepared["repeat-last"][:, :, 9:], grey[:, :, 8:].expand(-1, -1, 3, -1, -1))


def test_a_box_deeper_than_the_network_cannot_be_filled_up(raw):
    with pytest.raises(UsageError, match="cannot make 8 slices of 9") as caught:
        Preparer(Preparation(input_size=(8, 8, 8), depth="repeat-last"))(raw)
    assert "--depth resize" in caught.value.hint


def test_as_many_slices_as_the_network_takes_stay_as_they_are(raw):
    settings = Preparation(input_size=(9, 10, 11), depth="repeat-last")
    torch.testing.assert_close(Preparer(settings)(raw), Preparer(Preparation()).grey(raw))


def ramp(side: int, axis: int, values: torch.Tensor) -> torch.Tensor:
    """Return a box (1, 1, D, H, W) whose values change along one axis alone."""
    return values.view([-1 if n == axis else 1 for n in range(5)]).expand(
        [1, 1, *(len(values) if n == axis else side for n in (2, 3, 4))]
    )


HALVED = (
    torch.arange(8) * 2 + 0.5
)  # of 16 voxels, each the mean of two: the faces of the box stay where they are


@pytest.mark.parametrize("axis", [2, 3, 4])
def test_voxels_are_resampled_as_cells(axis):
    found = Preparer(Preparation(input_size=(8, 8, 8))).resize(ramp(16, axis, torch.arange(16.0)))
    torch.testing.assert_close(found, ramp(8, axis, HALVED))


@pytest.mark.parametrize(
    ("policy", "depth", "slices"),
    [
        ("resize", 8, HALVED.tolist()),
        ("keep", 8, list(range(16))),
        ("repeat-last", 18, [*range(16), 15, 15]),
    ],
)
def test_depth_alone_is_brought_to_the_networks(policy, depth, slices):
    found = to_depth(ramp(5, 2, torch.arange(16.0)), Preparation(input_size=(depth, 8, 8), depth=policy))
    assert found.shape == (1, 1, len(slices), 5, 5)
    assert found[0, 0, :, 4, 4].tolist() == slices


@pytest.mark.parametrize("limits", [(0.0, 1.0), (0.0, 255.0), (-1.0, 1.0)])
def test_unit_stretches_each_box_to_its_limits(raw, limits):
    grey = Preparer(Preparation(limits=limits)).grey(raw * torch.tensor([1.0, 50.0])[:, None, None, None])
    assert (grey.amin((1, 2, 3, 4)).tolist(), grey.amax((1, 2, 3, 4)).tolist()) == (
        [pytest.approx(limits[0], abs=1e-4)] * 2,
        [pytest.approx(limits[1])] * 2,
    )


@pytest.mark.parametrize("intensity", ["standard", "unit"])
@pytest.mark.parametrize("scale", [1e-30, 1e-5, 1.0, 1e30])
def test_grey_values_do_not_depend_on_their_scale(raw, intensity, scale):
    grey = Preparer(Preparation(intensity=intensity)).grey
    torch.testing.assert_close(grey(raw * scale), grey(raw), rtol=0, atol=1e-4)


def test_each_box_gets_mean_0_and_deviation_1_by_itself(raw):
    grey = Preparer(Preparation(intensity="standard")).grey(
        raw + torch.tensor([0.0, 5.0])[:, None, None, None]
    )
    assert grey.mean((1, 2, 3, 4)).tolist() == pytest.approx([0, 0], abs=1e-5)
    assert grey.std((1, 2, 3, 4), correction=0).tolist() == pytest.approx([1, 1], abs=1e-4)


@pytest.mark.parametrize("intensity", ["standard", "unit"])
@pytest.mark.parametrize("value", [0.0, 0.1, -1000.0, 1e30])
def test_a_constant_box_becomes_zero(intensity, value):
    constant = torch.full((1, 8, 8, 8), value)
    assert not Preparer(Preparation(intensity=intensity)).grey(constant).any()


def test_rounding_errors_are_no_picture():
    constant = torch.full((1, 8, 8, 8), 1000.0)
    constant[:, ::2] = torch.nextafter(constant[:, ::2], torch.tensor(2000.0))
    assert Preparer(Preparation(intensity="standard")).grey(constant).abs().max() < 0.2


@pytest.mark.parametrize("name", ["r3d18-k400", "r3d18-k700"])
def test_as_pretrained_stretches_to_what_the_weights_saw(raw, name):
    scale = spec(name).scale
    settings = spec(name).prepare(Preparation(input_size=(8, 8, 8), intensity="as-pretrained"))
    unit = Preparer(Preparation()).grey(raw)
    wanted = (scale.highest * unit - sum(scale.mean) / 3) / (sum(scale.std) / 3)
    torch.testing.assert_close(Preparer(settings).grey(raw), wanted, rtol=0, atol=1e-4)
    assert spec(name).prepare(settings.replace(intensity="unit")).limits == (0.0, 1.0)


def test_kinetics_of_2018_is_255_times_minmax_minus_the_mean():
    settings = spec("r3d34-k400").prepare(Preparation(intensity="as-pretrained"))
    assert settings.limits == (pytest.approx(-107.3284), pytest.approx(255 - 107.3284))


@pytest.mark.parametrize(("depth", "axis"), [("resize", "y"), ("keep", "x"), ("repeat-last", "z")])
def test_torch_and_onnx_see_the_same(depth, axis, tmp_path):
    settings = Preparation(
        input_size=(14, 16, 16), depth=depth, beam_axis=axis, intensity="as-pretrained", limits=(-2.0, 3.0)
    )
    save_model(tmp_path, small_classifier(), small_card(preparation=settings))
    classifier, card = load_model(tmp_path)
    assert card.preparation == settings
    export_onnx(tmp_path, tmp_path / "model.onnx")
    torch_engine = TorchEngine(WholeModel(classifier, card), CPU)
    onnx_engine = OnnxEngine(tmp_path / "model.onnx", CPU)
    for shape in ((3, 12, 12, 12), (1, 9, 11, 10)):
        voxels = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
        found, wanted = onnx_engine.run(voxels), torch_engine.run(voxels)
        np.testing.assert_allclose(found["probabilities"], wanted["probabilities"], atol=1e-4)


def test_export_says_why_onnx_is_not_offered(tmp_path, monkeypatch):
    reason = "its attention has no ONNX operator"
    monkeypatch.setitem(BACKBONES, "r3d10", dataclasses.replace(spec("r3d10"), onnx=reason))
    save_model(tmp_path, small_classifier(), small_card())
    with pytest.raises(UsageError, match=f"r3d10 cannot be exported to ONNX: {reason}"):
        export_onnx(tmp_path, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_export_refuses_a_kept_depth_where_the_graph_would_freeze_it(tmp_path, monkeypatch):
    monkeypatch.setitem(BACKBONES, "r3d10", dataclasses.replace(spec("r3d10"), onnx_fixed_depth=True))
    keep = Preparation(input_size=(14, 16, 16), depth="keep")
    save_model(tmp_path, small_classifier(), small_card(preparation=keep))
    with pytest.raises(UsageError, match="--depth keep"):
        export_onnx(tmp_path, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


# ------------------------------------------------------------------------------------- sizes and wishes


@pytest.mark.parametrize(
    ("rule", "good", "bad", "words"),
    [
        (at_least(8, 32, 32), (8, 32, 40), (8, 31, 40), "at least 8x32x32"),
        (multiple_of(2, 16, 16), (4, 32, 16), (4, 32, 24), "a multiple of 2x16x16"),
    ],
)
def test_sizes_that_a_network_cannot_take_are_refused(rule, good, bad, words):
    entry = dataclasses.replace(spec("r3d10"), refuse=rule, input_size=good)
    entry.allowed(good)
    with pytest.raises(UsageError, match=f"r3d10 cannot take an input of .*; it must be {words}") as caught:
        entry.allowed(bad)
    assert f"--input-size {' '.join(map(str, good))}" in caught.value.hint


def test_kept_slices_count_as_the_depth_of_the_input():
    entry = dataclasses.replace(spec("r3d10"), refuse=multiple_of(4, 1, 1))
    settings = Preparation(input_size=(8, 16, 16), depth="keep")
    assert entry.prepare(settings, 12).input_size == (8, 16, 16)
    with pytest.raises(UsageError, match="cannot take an input of 13x16x16"):
        entry.prepare(settings, 13)


def test_the_users_wishes_reach_the_recipe(monkeypatch):
    start = Start(backbone="r3d18-k700", intensity="as-pretrained", depth="keep", beam_axis="y")
    settings = choose_recipe(start, Training()).preparation
    assert (settings.depth, settings.beam_axis, settings.input_size) == ("keep", "y", (32, 128, 128))
    assert settings.limits == spec("r3d18-k700").scale.limits
    picky = dataclasses.replace(spec("r3d10"), refuse=at_least(8, 224, 224), input_size=(16, 224, 224))
    monkeypatch.setitem(BACKBONES, "r3d10", picky)
    assert choose_recipe(Start(backbone="r3d10"), Training()).preparation.input_size == (16, 224, 224)
    with pytest.raises(UsageError, match="cannot take an input of 32x64x64"):
        choose_recipe(Start(backbone="r3d10", input_size=(32, 64, 64)), Training())


@pytest.mark.parametrize(
    ("name", "wish", "usual", "size", "intensity"),
    [
        ("r3d10", NetworkInput(), None, (32, 128, 128), "as-pretrained"),
        ("r3d10", NetworkInput(), QUICK.preparation, (24, 32, 32), "standard"),
        ("r3d10", NetworkInput(input_size=(16, 48, 48)), QUICK.preparation, (16, 48, 48), "standard"),
        ("r3d10", Start(intensity="unit"), QUICK.preparation, (24, 32, 32), "unit"),
        ("res32", NetworkInput(), QUICK.preparation, (32, 32, 32), "standard"),
        ("res32", NetworkInput(depth="keep", beam_axis="x"), None, (32, 32, 32), "standard"),
    ],
)
def test_what_a_network_is_shown_is_the_users_wish_then_the_recipes_then_its_own(
    name, wish, usual, size, intensity
):
    found = spec(name).resolve(wish, usual)
    assert (found.input_size, found.intensity) == (size, intensity)
    assert (found.depth, found.beam_axis) == (wish.depth, wish.beam_axis)


def test_a_network_that_cannot_take_a_recipes_size_is_shown_its_own():
    picky = dataclasses.replace(spec("r3d10"), refuse=multiple_of(14, 14, 14), input_size=(28, 28, 28))
    assert picky.resolve(recipe=recipe("quick", "random").preparation).input_size == (28, 28, 28)
    with pytest.raises(UsageError, match="cannot take an input of 32x32x32"):
        picky.resolve(NetworkInput(input_size=(32, 32, 32)))


@pytest.mark.parametrize("deviation", [1.0, 0.02])
def test_a_box_of_little_contrast_is_stretched_like_any_other(deviation):
    """A deviation of 2e-5 of the largest magnitude is a picture; only rounding errors count as constant."""
    noise = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    faint = 1000 + noise * deviation
    grey = Preparer(Preparation(input_size=(8, 8, 8), intensity="standard")).grey(faint)
    assert grey.std(correction=0) == pytest.approx(1, abs=1e-3)
    wanted = (noise - noise.mean()) / noise.std(correction=0)
    torch.testing.assert_close(grey[0, 0], wanted[0], rtol=0, atol=1e-2)
