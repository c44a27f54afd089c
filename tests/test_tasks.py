"""Tasks: what telling classes is made of, and that another task finds all it needs beside it."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from network_helpers import shake, small_card, small_classifier
from torch import nn

from cryoclass.backbones.registry import BACKBONES, build_backbone
from cryoclass.card import CLASSES, PARTICLES
from cryoclass.classifier import Classifier, WholeModel, load_card, load_model, save_model
from cryoclass.errors import ModelError, UsageError
from cryoclass.exporting.graph import build_graph
from cryoclass.exporting.onnx_file import export_onnx
from cryoclass.inference.engines import OnnxEngine, TorchEngine
from cryoclass.results import decide_all, prediction_columns
from cryoclass.settings import Recipe
from cryoclass.tasks import CLASSIFY, TASKS, Features, Task, task_named
from cryoclass.tasks.classify import Classify

CPU = torch.device("cpu")
RAW = np.random.default_rng(1).standard_normal((3, 12, 12, 12), dtype=np.float32)
LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.0, 3.0, 0.0]])
RECIPE = Recipe(name="r", epochs=1, lr=1e-3, label_smoothing=0.1)


# --------------------------------------------------------------------------------------------- classify


def test_classify_is_a_linear_layer_softmax_and_cross_entropy():
    head = CLASSIFY.make_head(build_backbone("r3d10"), 3)
    vector = torch.randn(2, 512)
    assert torch.equal(CLASSIFY.say(head, Features(vector))["logits"], head(vector))
    finished = CLASSIFY.finish({"logits": LOGITS.double()})
    assert [*finished] == [*CLASSIFY.outputs] == ["probabilities", "logits"]
    assert {value.dtype for value in finished.values()} == {torch.float32}
    torch.testing.assert_close(finished["probabilities"], LOGITS.softmax(1))
    target = CLASSIFY.target(np.array([0, 2], np.int16))
    wanted = F.cross_entropy(LOGITS, torch.tensor([0, 2]), label_smoothing=0.1)
    torch.testing.assert_close(CLASSIFY.loss({"logits": LOGITS}, target, RECIPE), wanted)


def test_epochs_are_ranked_by_auc_then_by_loss():
    rank = CLASSIFY.rank
    better = rank({"auc": 0.9, "accuracy": 0.1, "loss": 9.0})
    assert better > rank({"auc": 0.8, "accuracy": 1.0, "loss": 0.1})
    assert better < rank({"auc": 0.9, "accuracy": 0.0, "loss": 8.0})
    assert rank({"accuracy": 0.7, "loss": 1.0}) > rank({"accuracy": 0.6, "loss": 0.5})


def test_classify_writes_the_columns_and_counts_of_classes(tmp_path):
    decisions = decide_all(LOGITS.softmax(1).numpy())
    names = ("ribosome", "proteasome", "junk")
    assert CLASSIFY.columns(decisions, names) == prediction_columns(decisions, names)
    CLASSIFY.write_files(tmp_path, decisions, names)
    assert [path.name for path in tmp_path.iterdir()] == ["classes.star"]


@pytest.mark.parametrize(
    ("found", "difference", "same"),
    [([0.5, 0.5], 0.1, False), ([0.56, 0.44], 0.04, True), ([0.48, 0.52], 0.12, True)],
)
def test_two_answers_are_compared_by_probabilities(found, difference, same):
    one, other = ({"probabilities": np.array([values])} for values in (found, [0.6, 0.4]))
    assert CLASSIFY.difference(one, other) == pytest.approx(difference)
    tie = 0.05 if same else -1.0
    assert CLASSIFY.same(one, other, tie) is same
    assert np.isnan(CLASSIFY.difference({"probabilities": np.array([[np.nan, 1]])}, other))


def test_an_unknown_task_is_refused_by_name(tmp_path):
    assert task_named("classify") is CLASSIFY
    save_model(tmp_path, small_classifier(), small_card(tasks=("classify", "guess")))
    with pytest.raises(ModelError, match=r"model\.json: There is no task named 'guess'"):
        load_model(tmp_path)


def test_outputs_that_the_tasks_do_not_give_are_refused(tmp_path):
    outputs = {**small_card().outputs, "mask": (PARTICLES, "D", "H", "W")}
    save_model(tmp_path, small_classifier(), small_card(outputs=outputs))
    with pytest.raises(ModelError, match=r"does not fit its own model card: .*the card says .*mask NxDxHxW"):
        load_model(tmp_path)


def test_a_model_folder_of_format_1_is_loaded(tmp_path):
    """Its card has no number and no outputs, and its one head another name."""
    import hashlib
    import json

    import safetensors.torch

    classifier = small_classifier()
    state = {name.replace("heads.classify.", "head."): v for name, v in classifier.state_dict().items()}
    weights = safetensors.torch.save(state)
    new = {"format", "natural_units", "learnt_from", "outputs", "bytes", "tasks"}
    card = {name: value for name, value in json.loads(small_card().to_json()).items() if name not in new}
    card["weights_sha256"] = hashlib.sha256(weights).hexdigest()
    (tmp_path / "model.json").write_text(json.dumps(card))
    (tmp_path / "model.safetensors").write_bytes(weights)
    loaded, read = load_model(tmp_path)
    found = TorchEngine(WholeModel(loaded, read), CPU).run(RAW)
    wanted = TorchEngine(WholeModel(classifier, small_card()), CPU).run(RAW)
    assert all(np.array_equal(found[name], value) for name, value in wanted.items())


# --------------------------------------------------------------------------------------------- another task


class Brightness(Classify):
    """A task for this test: a map per particle from the finest and the deepest feature maps, between 0 and 1."""

    name = "brighten"
    outputs = {"mask": (PARTICLES, "D", "H", "W")}  # noqa: RUF012 - as tasks have it
    needs_maps = True

    def make_head(self, backbone, classes):  # noqa: ARG002
        finest, *_, deepest = backbone.map_channels
        return nn.ModuleList([nn.Conv3d(finest, 1, 1), nn.Conv3d(deepest, 1, 1)])

    def say(self, head, features):
        finest = head[0](features.maps[0])
        deepest = F.interpolate(head[1](features.maps[-1]), size=finest.shape[2:], mode="trilinear")
        return {"mask": (finest + deepest)[:, 0]}

    def finish(self, said):
        return {"mask": said["mask"].float().sigmoid()}

    def difference(self, found, expected):
        return float(np.abs(found["mask"] - expected["mask"]).max())

    def same(self, found, expected, tie):
        return self.difference(found, expected) <= tie


@pytest.fixture
def brighten(monkeypatch) -> Task:
    task = Brightness()
    monkeypatch.setitem(TASKS, task.name, task)
    return task


@pytest.fixture
def folder(tmp_path, brighten) -> Path:
    """A model folder of a classifier with both tasks."""
    torch.manual_seed(0)
    classifier = shake(Classifier("res32", 3, (CLASSIFY, brighten)))
    card = small_card(backbone="res32", outputs=classifier.outputs, tasks=tuple(classifier.heads))
    save_model(tmp_path, classifier, card)
    return tmp_path


def test_tasks_stand_side_by_side_from_the_card_to_the_engine(folder):
    card = load_card(folder)
    assert card.outputs == {
        "probabilities": (PARTICLES, CLASSES),
        "logits": (PARTICLES, CLASSES),
        "mask": (PARTICLES, "D", "H", "W"),
        "embedding": (PARTICLES, 256),
    }
    classifier, _ = load_model(folder)
    said = TorchEngine(WholeModel(classifier, card), CPU).run(RAW)
    assert [*said] == [*card.outputs]
    assert said["mask"].shape == (3, 4, 8, 8)
    assert 0 < said["mask"].min() < said["mask"].max() < 1
    alone = small_classifier(backbone="res32")
    alone.backbone.load_state_dict(classifier.backbone.state_dict())
    alone.head.load_state_dict(classifier.head.state_dict())
    expected = TorchEngine(WholeModel(alone, small_card(backbone="res32")), CPU).run(RAW)
    for name in ("logits", "embedding"):
        np.testing.assert_allclose(said[name], expected[name], rtol=1e-5, atol=1e-5)


def test_tasks_are_exported_side_by_side(folder):
    parity = export_onnx(folder, folder / "model.onnx")
    assert parity.max_probability_difference <= 1e-4
    classifier, card = load_model(folder)
    said = OnnxEngine(folder / "model.onnx", "cpu").run(RAW)
    wanted = TorchEngine(WholeModel(classifier, card), CPU).run(RAW)
    assert [*said] == [*wanted]
    for name, value in wanted.items():
        np.testing.assert_allclose(said[name], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("order", [["embedding", "logits", "probabilities"], ["logits", "embedding"]])
def test_the_order_and_choice_of_outputs_are_the_cards(order):
    outputs = {name: small_card().outputs[name] for name in order}
    whole = WholeModel(small_classifier(), small_card(outputs=outputs)).eval()
    assert [*TorchEngine(whole, CPU).run(RAW)] == order
    session = onnxruntime.InferenceSession(build_graph(whole, "fp32").SerializeToString())
    assert [output.name for output in session.get_outputs()] == order
    for name, found in zip(order, session.run(order, {"subtomogram": RAW}), strict=True):
        np.testing.assert_allclose(found, whole(torch.from_numpy(RAW))[name].detach(), rtol=1e-4, atol=1e-4)


def test_an_output_of_another_shape_than_on_the_card_is_refused():
    outputs = {**small_card().outputs, "embedding": (PARTICLES, 511)}
    engine = TorchEngine(WholeModel(small_classifier(), small_card(outputs=outputs)), CPU)
    with pytest.raises(ModelError, match=r"embedding 3x512, and the card says .*embedding Nx511"):
        engine.run(RAW)


# ----------------------------------------------------------------------------------------- feature maps

WITH_MAPS = [name for name in BACKBONES if name.startswith(("res32", "r3d", "tv-r3d", "mc3", "r2plus1d-18"))]


@pytest.mark.parametrize("name", WITH_MAPS)
def test_feature_maps_come_finest_first_and_make_the_vector(name):
    with torch.device("meta"):
        backbone = build_backbone(name).eval()
        maps = backbone.feature_maps(torch.empty(2, 1, 32, 64, 64))
        assert tuple(made.shape[1] for made in maps) == backbone.map_channels
        assert backbone.pool(maps[-1]).shape == (2, backbone.width)
    sizes = [made[0, 0].numel() for made in maps]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes) >= 4


@pytest.mark.parametrize("name", ["res32-species", "r3d10"])
def test_feature_maps_are_those_that_forward_goes_through(name):
    torch.manual_seed(0)
    backbone = shake(build_backbone(name))
    x = torch.randn(2, 1, 16, 16, 16)
    with torch.inference_mode():
        assert torch.equal(backbone.pool(backbone.feature_maps(x)[-1]), backbone(x))


def test_a_backbone_without_feature_maps_says_so(brighten):
    with pytest.raises(UsageError, match="Rb3d hands out no feature maps") as caught:
        build_backbone("rb3d").feature_maps(torch.zeros(1, 1, 8, 8, 8))
    assert "res32-species" in caught.value.hint
    with pytest.raises(UsageError, match="Rb3d hands out no feature maps"):
        Classifier("rb3d", 2, (CLASSIFY, brighten))
