"""Augmentation: what is drawn lies within the settings, and is applied exactly, alike alone and in a batch."""

import math

import pytest
import torch

from cryoclass.preparation import Preparer
from cryoclass.settings import Augmentation, Preparation
from cryoclass.training.augmentation import AugmentationDraw, draw, resample

NO_AUGMENTATION = Augmentation(probability=0.0)

SAME = Preparation(input_size=(8, 12, 12))  # as the boxes
LARGER = Preparation(input_size=(10, 20, 20))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def boxes():
    return torch.randn(5, 1, 8, 12, 12, generator=generator(9))


def placed(x_from, y_from, mirror_z=False):
    """Return one draw that shows at (x, y) what lies at ``x_from``, ``y_from``: (factor of x, of y, offset) each."""
    return AugmentationDraw(plane=torch.tensor([[x_from, y_from]]), mirror_z=torch.tensor([mirror_z]))


@pytest.mark.parametrize("size", [(8, 12, 12), (16, 24, 24), (9, 31, 17), (8, 9, 8)])
def test_without_augmentation_it_is_the_resize_of_the_preparation(boxes, size):
    settings = Preparation(input_size=size)
    plain = resample(boxes, draw(5, NO_AUGMENTATION, generator()), settings)
    assert torch.allclose(plain, Preparer(settings).resize(boxes), atol=1e-5)


@pytest.mark.parametrize("depth", ["resize", "keep", "repeat-last"])
def test_training_and_prediction_treat_the_slices_alike(boxes, depth):
    settings = Preparation(input_size=(11, 20, 20), depth=depth)
    wanted = Preparer(settings).resize(boxes)
    assert torch.allclose(resample(boxes, draw(5, NO_AUGMENTATION, generator()), settings), wanted, atol=1e-5)


def test_a_mirrored_box_repeats_what_is_its_last_slice_then(boxes):
    drawn = placed([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], mirror_z=True)
    found = resample(boxes[:1], drawn, Preparation(input_size=(11, 12, 12), depth="repeat-last"))
    assert torch.allclose(found[:, :, :8], boxes[:1].flip(2), atol=1e-5)
    assert torch.allclose(found[:, :, 8:], boxes[:1, :, :1].expand(-1, -1, 3, -1, -1), atol=1e-5)


def test_a_batch_is_treated_like_its_particles_one_by_one(boxes):
    drawn = draw(5, Augmentation(probability=0.8, flip=True), generator(2))
    together = resample(boxes, drawn, LARGER)
    for n in range(5):
        alone = AugmentationDraw(plane=drawn.plane[n : n + 1], mirror_z=drawn.mirror_z[n : n + 1])
        assert torch.allclose(resample(boxes[n : n + 1], alone, LARGER)[0], together[n], atol=1e-5)


def test_a_quarter_turn_is_rot90_in_the_plane(boxes):
    box = boxes[:1]
    quarter = placed([0.0, -1.0, 0.0], [1.0, 0.0, 0.0])  # rot90 shows at (y, x) what lies at (x, N - 1 - y)
    assert torch.allclose(resample(box, quarter, SAME), box.rot90(1, (3, 4)), atol=1e-5)


def test_a_shift_moves_x_along_the_last_axis(boxes):
    box = boxes[:1]
    shifted = resample(box, placed([1.0, 0.0, 2 / 12], [0.0, 1.0, 0.0]), SAME)
    assert torch.allclose(shifted[..., :-1], box[..., 1:], atol=1e-5)
    assert torch.allclose(shifted[..., -1], box[..., -1], atol=1e-5)  # the edge is repeated


def test_mirrors(boxes):
    box = boxes[:1]
    mirrored = resample(box, placed([-1.0, 0.0, 0.0], [0.0, 1.0, 0.0], mirror_z=True), SAME)
    assert torch.allclose(mirrored, box.flip(2, 4), atol=1e-5)


def test_angles_stay_true_in_a_plane_that_is_not_square():
    box = torch.zeros(1, 1, 8, 20, 40)
    box[..., 9:11, :] = 1  # a line along x through the centre
    eighth = math.sqrt(0.5)
    turned = resample(
        box, placed([eighth, -eighth, 0.0], [eighth, eighth, 0.0]), Preparation(input_size=(8, 20, 40))
    )[0, 0, 0]
    height, width = torch.nonzero(turned > 0.9, as_tuple=True)
    far = (height - 9.5).abs() > 5
    slope = (height - 9.5)[far] / (width - 19.5)[far]
    assert len(slope) > 4
    assert torch.allclose(slope.abs(), torch.ones(()), atol=0.2)


def test_the_same_seed_draws_the_same():
    one, two, other = (draw(50, Augmentation(), generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.plane, two.plane)
    assert not torch.equal(one.plane, other.plane)


def test_each_step_is_drawn_with_its_probability():
    same = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    never = draw(100, NO_AUGMENTATION, generator())
    assert torch.equal(never.plane, same.expand(100, 2, 3))
    changed = (draw(4000, Augmentation(), generator()).plane - same).abs().amax((1, 2)) > 0
    assert changed.float().mean() == pytest.approx(0.75, abs=0.03)  # two steps, each with probability 0.5


def test_crops_stay_inside_and_keep_their_share():
    settings = Augmentation(probability=1, rotation=0, shift=0, zoom=0)
    plane = draw(4000, settings, generator()).plane
    width, height = plane[:, 0, 0], plane[:, 1, 1]
    area, ratio = width * height, width / height
    assert plane[:, 0, 1].abs().max() == plane[:, 1, 0].abs().max() == 0
    assert area.min() >= 0.5 - 1e-5
    assert area.min() < 0.55
    assert area.max() > 0.95
    assert ratio.min() >= 0.75 - 1e-5
    assert ratio.max() <= 4 / 3 + 1e-5
    assert (plane[:, 0, 2].abs() + width).max() <= 1 + 1e-5
    assert (plane[:, 1, 2].abs() + height).max() <= 1 + 1e-5


def test_affine_changes_stay_within_their_limits():
    settings = Augmentation(probability=1, crop_area=(1, 1), crop_ratio=(1, 1))
    plane = draw(4000, settings, generator()).plane
    zoom = 1 / torch.linalg.det(plane[:, :, :2]).sqrt()
    angle = torch.atan2(plane[:, 0, 1], plane[:, 0, 0]).rad2deg()
    shift = torch.linalg.solve(plane[:, :, :2], -plane[:, :, 2]) / 2  # share of the box
    assert (zoom.min(), zoom.max()) == (pytest.approx(0.9, abs=0.01), pytest.approx(1.1, abs=0.01))
    assert (angle.min(), angle.max()) == (pytest.approx(-45, abs=1), pytest.approx(45, abs=1))
    assert shift.abs().max() == pytest.approx(0.1, abs=0.005)


def test_flips_mirror_each_axis_half_of_the_time():
    settings = NO_AUGMENTATION.replace(flip=True)
    drawn = draw(2000, settings, generator())
    mirrored = torch.stack([drawn.plane[:, 0, 0] < 0, drawn.plane[:, 1, 1] < 0, drawn.mirror_z], dim=1)
    assert mirrored.float().mean(0).tolist() == pytest.approx([0.5] * 3, abs=0.05)
