"""Tasks: what telling classes is made of, and that another task finds all it needs beside it."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from network_helpers import shake, small_card, small_classifier

from cryoclass.backbones.registry import BACKBONES, build_backbone
from cryoclass.card import CLASSES, PARTICLES
from cryoclass.classifier import Classifier, WholeModel, load_card, load_model, save_model
from cryoclass.errors import ModelError, UsageError
from cryoclass.exporting.graph import build_graph
from cryoclass.exporting.onnx_file import export_onnx
from cryoclass.inference.engines import OnnxEngine, TorchEngine
from cryoclass.results import Told, decide_all, prediction_columns
from cryoclass.settings import Preparation, Recipe
from cryoclass.tasks import CLASSIFY, RECOVER, SEGMENT, Features, task_named, tasks_typed
from cryoclass.training.history import EpochRecord

CPU = torch.device("cpu")
RAW = np.random.default_rng(1).standard_normal((3, 12, 12, 12), dtype=np.float32)
LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.0, 3.0, 0.0]])
RECIPE = Recipe(name="r", epochs=1, lr=1e-3, label_smoothing=0.1)


# --------------------------------------------------------------------------------------------- classify


def test_classify_is_a_linear_layer_softmax_and_cross_entropy():
    head = CLASSIFY.make_head(512, 3)
    vector = torch.randn(2, 512)
    assert torch.equal(CLASSIFY.say(head, Features(vector))["logits"], head(vector))
    finished = CLASSIFY.finish({"logits": LOGITS.double()})
    assert [*finished] == [*CLASSIFY.outputs] == ["probabilities", "logits"]
    assert {value.dtype for value in finished.values()} == {torch.float32}
    torch.testing.assert_close(finished["probabilities"], LOGITS.softmax(1))
    wanted = F.cross_entropy(LOGITS, torch.tensor([0, 2]), label_smoothing=0.1)
    torch.testing.assert_close(CLASSIFY.loss({"logits": LOGITS}, torch.tensor([0, 2]), RECIPE), wanted)


def test_particles_without_a_label_teach_no_class():
    both, none = torch.tensor([0, -1]), torch.tensor([-1, -1])
    wanted = F.cross_entropy(LOGITS[:1], torch.tensor([0]), label_smoothing=0.1)
    torch.testing.assert_close(CLASSIFY.loss({"logits": LOGITS}, both, RECIPE), wanted)
    assert CLASSIFY.loss({"logits": LOGITS}, none, RECIPE) == 0
    judged = {"probabilities": LOGITS.softmax(1).numpy()}
    assert CLASSIFY.score(judged, both.numpy(), ("a", "b", "c")).count == 1
    assert CLASSIFY.score(judged, none.numpy(), ("a", "b", "c")) is None


def epoch(**changes):
    fields = {"epoch": 1, "lr": 1.0, "train_loss": 1.0, "val_loss": 1.0, "val_accuracy": 0.5, "val_auc": None}
    return EpochRecord(**{**fields, "best": False, "seconds": 0.0, **changes})


def test_epochs_are_ranked_by_auc_then_by_loss():
    better = epoch(val_auc=0.9, val_accuracy=0.1, val_loss=9.0).rank
    assert better > epoch(val_auc=0.8, val_accuracy=1.0, val_loss=0.1).rank
    assert better < epoch(val_auc=0.9, val_accuracy=0.0, val_loss=8.0).rank
    assert epoch(val_accuracy=0.7).rank > epoch(val_accuracy=0.6, val_loss=0.5).rank
    assert epoch(figures={"grade": 0.95}, val_loss=9.0).rank > better  # of several tasks, their mean


def test_classify_writes_the_columns_and_counts_of_classes(tmp_path):
    decisions = decide_all(LOGITS.softmax(1).numpy())
    names = ("ribosome", "proteasome", "junk")
    told = Told(decisions=decisions, classes=names, volumes={})
    assert CLASSIFY.columns(told) == prediction_columns(decisions, names)
    CLASSIFY.write_files(tmp_path, told)
    assert {path.name for path in tmp_path.iterdir()} == {"classes.star", "thresholds.csv"}


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


# ------------------------------------------------------------------------------------------------ voxels


def ball(radius: float) -> torch.Tensor:
    axis = torch.arange(-5.0, 6.0)
    return (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 <= radius**2).float()


def test_a_mask_is_judged_by_its_overlap():
    true = torch.stack([ball(3), ball(3), torch.full((11, 11, 11), torch.nan)])
    found = torch.stack([ball(3), ball(4), ball(3)]) * 0.9 + 0.05
    judged = {name: value.numpy() for name, value in SEGMENT.judge({"mask": found}, true).items()}
    shared, wider = float(ball(3).sum()), float(ball(4).sum())
    np.testing.assert_allclose(judged["iou"], [1, shared / wider, np.nan], rtol=1e-6)
    np.testing.assert_allclose(judged["dice"], [1, 2 * shared / (shared + wider), np.nan], rtol=1e-6)
    np.testing.assert_allclose(judged["voxel_accuracy"], [1, 1 - (wider - shared) / 11**3, np.nan], rtol=1e-6)
    scores = SEGMENT.score(judged, np.zeros(3, int), ())
    assert scores.count == 2
    mean = scores.figures["iou"]
    assert SEGMENT.grade(scores) == mean.mean == pytest.approx((1 + shared / wider) / 2)
    assert mean.low < mean.mean < mean.high
    assert SEGMENT.score({name: value[2:] for name, value in judged.items()}, np.zeros(1, int), ()) is None


def mask_loss(logits: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    found = logits.sigmoid()
    both, together = (found * true).sum((1, 2, 3)), (found + true).sum((1, 2, 3))
    return F.binary_cross_entropy(found, true) + (1 - (2 * both + 1) / (together + 1)).mean()


def test_the_loss_of_a_mask_is_that_of_its_logits():
    """Probabilities in the place of logits would be squeezed a second time."""
    logits, true = torch.randn(2, 4, 4, 4), torch.rand(2, 4, 4, 4).round()
    torch.testing.assert_close(SEGMENT.loss({"mask": logits}, true, RECIPE), mask_loss(logits, true))
    half = torch.stack([true[0], torch.full((4, 4, 4), torch.nan)])
    found = SEGMENT.loss({"mask": logits}, half, RECIPE)
    torch.testing.assert_close(found, mask_loss(logits[:1], true[:1]))


def test_a_density_is_judged_by_its_correlation():
    true = torch.randn(3, 5, 5, 5)
    true[2] = torch.nan
    judged = RECOVER.judge({"density": torch.stack([2 * true[0] + 1, -true[1], true[0]])}, true)
    torch.testing.assert_close(judged["correlation"], torch.tensor([1.0, -1.0, torch.nan]), equal_nan=True)
    flat = RECOVER.judge({"density": torch.zeros(3, 5, 5, 5)}, true)["correlation"]
    torch.testing.assert_close(flat, torch.tensor([0.0, 0.0, torch.nan]), equal_nan=True)


def test_densities_are_compared_as_shares_of_the_highest_voxel():
    """Half precision is off by a share of a number, not by an amount."""
    true = np.zeros((1, 4, 4, 4), np.float32)
    true[0, 1, 1, 1] = 8.0
    assert RECOVER.difference({"density": true * 1.001}, {"density": true}) == pytest.approx(1e-3, rel=1e-3)
    assert RECOVER.difference({"density": true / 80 + 0.01}, {"density": true / 80}) == pytest.approx(0.01)
    assert np.isnan(RECOVER.difference({"density": true * np.nan}, {"density": true}))


def test_where_nothing_is_known_nothing_is_learnt():
    """A gradient of 0, not NaN, which would spoil the weights that all tasks share."""
    unknown = torch.full((2, 4, 4, 4), torch.nan)
    for task, name in ((SEGMENT, "mask"), (RECOVER, "density")):
        said = torch.randn(2, 4, 4, 4, requires_grad=True)
        loss = task.loss({name: said}, unknown, RECIPE)
        loss.backward()
        assert loss == 0
        assert torch.equal(said.grad, torch.zeros_like(said))


@pytest.mark.parametrize(
    ("typed", "words"), [("", "must be one"), ("classify,draw", "must be one"), (",", "must be one")]
)
def test_tasks_that_are_not_known_are_refused(typed, words):
    with pytest.raises(UsageError, match=words):
        tasks_typed(typed)


def test_tasks_are_typed_in_any_order():
    assert tasks_typed(" recover, classify") == (CLASSIFY, RECOVER)


# -------------------------------------------------------------------------------------------- several tasks


EVERY = (CLASSIFY, SEGMENT, RECOVER)


@pytest.fixture(params=["z", "x"])
def folder(tmp_path, request) -> Path:
    """A model folder of a classifier with all tasks, for both beam axes."""
    torch.manual_seed(0)
    classifier = shake(Classifier("res32", 3, EVERY))
    for task in (SEGMENT, RECOVER):  # which say the same of all voxels at first
        torch.nn.init.normal_(classifier.heads[task.name].voxels.weight)
    size = Preparation(input_size=(8, 16, 16), intensity="standard", beam_axis=request.param)
    card = small_card(
        backbone="res32", preparation=size, outputs=classifier.outputs, tasks=tuple(classifier.heads)
    )
    save_model(tmp_path, classifier, card)
    return tmp_path


def test_tasks_stand_side_by_side_from_the_card_to_the_engine(folder):
    card = load_card(folder)
    assert card.outputs == {
        "probabilities": (PARTICLES, CLASSES),
        "logits": (PARTICLES, CLASSES),
        "mask": (PARTICLES, "D", "H", "W"),
        "density": (PARTICLES, "D", "H", "W"),
        "embedding": (PARTICLES, 256),
    }
    classifier, _ = load_model(folder)
    raw = np.random.default_rng(1).standard_normal((3, 10, 12, 14), dtype=np.float32)
    engine = TorchEngine(WholeModel(classifier, card), CPU)
    said = engine.run(raw)
    assert [*said] == [*card.outputs]
    assert said["mask"].shape == said["density"].shape == raw.shape  # the boxes' own grid, not the network's
    assert 0 < said["mask"].min() < said["mask"].max() < 1
    alone = small_classifier(backbone="res32")
    alone.backbone.load_state_dict(classifier.backbone.state_dict())
    alone.head.load_state_dict(classifier.head.state_dict())
    expected = TorchEngine(
        WholeModel(alone, small_card(backbone="res32", preparation=card.preparation)), CPU
    ).run(raw)
    for name in ("logits", "embedding"):
        np.testing.assert_allclose(said[name], expected[name], rtol=1e-5, atol=1e-5)
    part = engine.asked((SEGMENT,))
    assert [*part.run(raw)] == ["mask", "embedding"]
    np.testing.assert_allclose(part.run(raw)["mask"], said["mask"], rtol=1e-5, atol=1e-6)


def test_a_box_that_is_turned_has_its_mask_and_density_turned(folder):
    """Whatever axis the beam runs along: outputs lie on the voxels that they speak of."""
    classifier, card = load_model(folder)
    raw = np.random.default_rng(1).standard_normal((1, 12, 12, 12), dtype=np.float32)
    whole = TorchEngine(WholeModel(classifier, card), CPU).run(raw)
    along_z = card.replace(preparation=card.preparation.replace(beam_axis="z"))
    cycle = (0, 3, 1, 2) if card.preparation.beam_axis == "x" else (0, 1, 2, 3)
    turned = TorchEngine(WholeModel(classifier, along_z), CPU).run(np.ascontiguousarray(raw.transpose(cycle)))
    for name in ("mask", "density"):
        np.testing.assert_allclose(whole[name].transpose(cycle), turned[name], atol=1e-5)


def test_tasks_are_exported_side_by_side(folder):
    parity = export_onnx(folder, folder / "model.onnx")
    assert parity.max_probability_difference <= 1e-4
    classifier, card = load_model(folder)
    said = OnnxEngine(folder / "model.onnx", "cpu").run(RAW)
    wanted = TorchEngine(WholeModel(classifier, card), CPU).run(RAW)
    assert [*said] == [*wanted]
    for name, value in wanted.items():
        np.testing.assert_allclose(said[name], value, rtol=1e-4, atol=1e-4)
    assert [*OnnxEngine(folder / "model.onnx", "cpu").asked((RECOVER,)).run(RAW)] == ["density", "embedding"]


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

MAKERS = ("res32", "r3d", "tv-r3d", "mc3", "r2plus1d-18", "mtl-cect")
WITH_MAPS = [name for name in BACKBONES if name.startswith(MAKERS)]


@pytest.mark.parametrize("name", WITH_MAPS)
def test_feature_maps_come_finest_first_and_make_the_vector(name):
    with torch.device("meta"):
        backbone = build_backbone(name).eval()
        maps = backbone.feature_maps(torch.empty(2, 1, 32, 64, 64))
        assert tuple(made.shape[1] for made in maps) == backbone.map_channels
        assert backbone.pool(maps[-1]).shape == (2, backbone.width)
    sizes = [made[0, 0].numel() for made in maps]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes) >= 3


@pytest.mark.parametrize("name", ["res32-species", "r3d10", "mtl-cect"])
def test_feature_maps_are_those_that_forward_goes_through(name):
    torch.manual_seed(0)
    backbone = shake(build_backbone(name))
    x = torch.randn(2, 1, 16, 16, 16)
    with torch.inference_mode():
        assert torch.equal(backbone.pool(backbone.feature_maps(x)[-1]), backbone(x))


def test_a_backbone_without_feature_maps_says_so():
    with pytest.raises(UsageError, match="Rb3d hands out no feature maps") as caught:
        build_backbone("rb3d").feature_maps(torch.zeros(1, 1, 8, 8, 8))
    assert "res32-species" in caught.value.hint
    with pytest.raises(UsageError, match="Rb3d hands out no feature maps"):
        Classifier("rb3d", 2, EVERY)
