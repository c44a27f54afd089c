"""The exported file: self-contained, dynamic, repeatable, and proven equal to torch."""

import json

import numpy as np
import onnx
import pytest
import torch
from network_helpers import small_card, small_classifier

from cryoclass.card import CARD_KEY, ModelCard
from cryoclass.classifier import WholeModel, load_model, save_model
from cryoclass.errors import ModelError
from cryoclass.exporting.metadata import PARITY_KEY, PRECISION_KEY
from cryoclass.exporting.onnx_file import export_onnx
from cryoclass.exporting.parity import check_parity, generate_boxes
from cryoclass.inference.engines import OnnxEngine
from cryoclass.settings import Preparation


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, small_classifier(), small_card())
    return folder


@pytest.fixture(scope="module")
def exported(folder):
    parity = export_onnx(folder, folder / "model.onnx")
    return folder / "model.onnx", parity


def props(model):
    return {entry.key: entry.value for entry in model.metadata_props}


def axes(value):
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


def test_graph_takes_any_number_of_boxes_of_any_size(exported):
    model = onnx.load(exported[0])
    (raw,) = model.graph.input
    assert (raw.name, axes(raw)) == ("subtomogram", ["N", "D", "H", "W"])
    assert raw.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    outputs = {output.name: axes(output) for output in model.graph.output}
    assert outputs == {"probabilities": ["N", 3], "logits": ["N", 3], "embedding": ["N", 512]}


def test_parity_is_measured_and_stored(exported):
    path, parity = exported
    assert parity.batches == (1, 3, 32)
    assert parity.boxes == ((12, 12, 12), (14, 16, 18))
    assert 0 <= parity.max_probability_difference <= 1e-4 == parity.tolerance
    assert parity.same_class
    assert json.loads(props(onnx.load(path))[PARITY_KEY]) == json.loads(json.dumps(parity.to_dict()))


def test_file_is_alone_and_carries_its_card(exported, folder):
    path, _ = exported
    assert [found.name for found in folder.glob("*onnx*")] == ["model.onnx"]
    model = onnx.load(path)
    assert ModelCard.from_json(props(model)[CARD_KEY], "card") == load_model(folder)[1]
    assert props(model)[PRECISION_KEY] == "fp32"
    assert model.producer_name == "cryoclass"


def test_file_names_no_folder_of_this_computer(exported):
    model = onnx.load(exported[0])
    model.graph.ClearField("initializer")  # any three bytes turn up among millions of weights
    assert ".py" not in str(model)
    assert "/site-packages/" not in str(model)


def test_exporting_again_gives_the_same_bytes(exported, folder, tmp_path, capfd):
    export_onnx(folder, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == exported[0].read_bytes()
    assert capfd.readouterr() == ("", "")


def test_half_precision_halves_the_file_and_keeps_the_answer(exported, folder, tmp_path):
    boxes = 1e6 * generate_boxes(
        5, (9, 9, 9)
    )  # infinite in half precision: the preparation must stay in float32
    parity = export_onnx(folder, tmp_path / "half.onnx", "fp16", boxes)
    assert 0 < parity.max_probability_difference <= 1e-2 == parity.tolerance
    assert parity.boxes[-1] == (9, 9, 9)
    assert (tmp_path / "half.onnx").stat().st_size < 0.51 * exported[0].stat().st_size
    model = onnx.load(tmp_path / "half.onnx")
    kinds = {value.type.tensor_type.elem_type for value in [*model.graph.input, *model.graph.output]}
    assert kinds == {onnx.TensorProto.FLOAT}
    half, full = (OnnxEngine(path, "cpu").run(boxes) for path in (tmp_path / "half.onnx", exported[0]))
    np.testing.assert_allclose(half["probabilities"], full["probabilities"], atol=1e-2)


def whole_model(seed):
    classifier = small_classifier(seed=seed)
    return WholeModel(classifier, small_card()).eval()


def test_a_graph_of_another_model_is_refused(exported):
    with pytest.raises(ModelError, match="does not agree with torch"):
        check_parity(whole_model(seed=7), exported[0].read_bytes(), small_card(), "fp32")


def test_nan_is_refused(exported, folder):
    whole = WholeModel(load_model(folder)[0], small_card()).eval()
    with torch.no_grad():
        whole.classifier.head.bias[0] = torch.nan
    with pytest.raises(ModelError, match="differ by up to nan"):
        check_parity(whole, exported[0].read_bytes(), small_card(), "fp32")


def test_large_batches_are_spared_where_they_would_take_minutes(exported, folder):
    large = small_card(preparation=Preparation(input_size=(128, 512, 512), intensity="standard"))
    whole = WholeModel(load_model(folder)[0], small_card()).eval()
    assert check_parity(whole, exported[0].read_bytes(), large, "fp32").batches == (1, 3)


def test_a_failed_export_leaves_nothing(folder, tmp_path):
    (tmp_path / "model.json").write_bytes((folder / "model.json").read_bytes())
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        export_onnx(tmp_path, tmp_path / "out.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]
