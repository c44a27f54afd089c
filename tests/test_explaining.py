"""Grad-CAM: that the volumes are what the article says, and lie on the voxels that they speak of."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from network_helpers import shake, small_card

from cryoclass.backbones.registry import BACKBONES, build_backbone
from cryoclass.classifier import Classifier, WholeModel
from cryoclass.errors import UsageError
from cryoclass.inference.engines import TorchEngine
from cryoclass.inference.explaining import EXPLANATION, ExplainingEngine
from cryoclass.settings import Preparation

RAW = np.random.default_rng(1).standard_normal((3, 12, 14, 16), dtype=np.float32)


def engine(axis="z", backbone="res32"):
    torch.manual_seed(0)
    preparation = Preparation(input_size=(16, 16, 16), intensity="standard", beam_axis=axis)
    classifier = shake(Classifier(backbone, 3))
    card = small_card(backbone=backbone, preparation=preparation, outputs=classifier.outputs)
    return TorchEngine(WholeModel(classifier, card), torch.device("cpu"))


def by_hand(whole: WholeModel, best: np.ndarray) -> np.ndarray:
    """The maps of the second block of Res32, weighted by the mean gradient of each."""
    x = whole.preparer(torch.from_numpy(RAW))
    backbone, head = whole.classifier.backbone, whole.classifier.head
    x = F.relu(backbone.bn1(backbone.conv1(x)))
    maps = backbone.blocks[:2](x)
    maps.retain_grad()
    logits = head(backbone.pool(backbone.blocks[2:](maps)))
    logits[torch.arange(3), torch.from_numpy(best)].sum().backward()
    weights = maps.grad.mean((2, 3, 4), keepdim=True)
    cam = (weights * maps).sum(1, keepdim=True).relu()
    cam = F.interpolate(cam, size=RAW.shape[1:], mode="trilinear", align_corners=False)[:, 0].detach().numpy()
    return cam / cam.max((1, 2, 3), keepdims=True)


def test_it_is_the_maps_weighted_by_their_mean_gradient():
    plain = engine()
    said = ExplainingEngine(plain, "auto").run(RAW)
    assert [*said] == [*plain.card.outputs, EXPLANATION]
    wanted = by_hand(plain.whole, said["probabilities"].argmax(1))
    np.testing.assert_allclose(said[EXPLANATION], wanted, atol=1e-4)
    assert np.ptp(wanted) > 0.5
    np.testing.assert_allclose(said["logits"], plain.run(RAW)["logits"])


def test_it_lies_on_the_axes_of_the_box():
    turned = np.ascontiguousarray(RAW.transpose(0, 2, 3, 1))  # y comes first, as the beam does
    along_y = ExplainingEngine(engine("y"), "blocks.2").run(RAW)[EXPLANATION]
    along_z = ExplainingEngine(engine("z"), "blocks.2").run(turned)[EXPLANATION]
    np.testing.assert_allclose(along_y.transpose(0, 2, 3, 1), along_z, atol=1e-5)


WITH_LAYER = [name for name in BACKBONES if name.startswith(("res32", "r3d", "tv-r3d", "mc3", "r2plus1d-18"))]


@pytest.mark.parametrize("name", WITH_LAYER)
def test_the_layer_that_a_backbone_names_is_there(name):
    with torch.device("meta"):
        backbone = build_backbone(name)
        assert backbone.get_submodule(backbone.explained)


def test_a_network_that_names_no_layer_says_which_it_has():
    with pytest.raises(UsageError, match="auto, and this network names no layer") as caught:
        ExplainingEngine(engine(backbone="rb3d"), "auto")
    assert "Its layers: " in caught.value.hint
