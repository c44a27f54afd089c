"""Both engines on the same model, and what they refuse."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from network_helpers import small_card, small_classifier

from cryoclass.card import CARD_KEY
from cryoclass.classifier import WholeModel, load_model, save_model
from cryoclass.errors import ModelError
from cryoclass.exporting.onnx_file import export_onnx
from cryoclass.inference.engines import OnnxEngine, TorchEngine

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, small_classifier(), small_card())
    return folder


@pytest.fixture(scope="module")
def onnx_file(folder):
    export_onnx(folder, folder / "model.onnx")
    return folder / "model.onnx"


def torch_engine(folder, precision="auto"):
    classifier, card = load_model(folder)
    return TorchEngine(WholeModel(classifier, card), CPU, precision)


def voxels(*shape):
    return np.random.default_rng(1).standard_normal(shape, dtype=np.float32) * 40 + 7


@pytest.mark.parametrize("shape", [(1, 12, 12, 12), (2, 9, 10, 21), (5, 16, 16, 16), (1, 1, 2, 3)])
def test_engines_agree_on_any_box(folder, onnx_file, shape):
    raw = voxels(*shape)
    ours, theirs = torch_engine(folder).run(raw), OnnxEngine(onnx_file, "cpu").run(raw)
    assert [*ours] == [*theirs] == ["probabilities", "logits", "embedding"]
    for mine, other in zip(ours.values(), theirs.values(), strict=True):
        assert mine.dtype == other.dtype == np.float32
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)
    assert ours["probabilities"].shape == ours["logits"].shape == (shape[0], 3)
    assert ours["embedding"].shape == (shape[0], 512)


def test_torch_takes_a_read_only_box(folder):
    raw = voxels(2, 8, 8, 8)
    expected = torch_engine(folder).run(raw)["logits"]
    raw.flags.writeable = False
    assert np.array_equal(torch_engine(folder).run(raw)["logits"], expected)


def test_engines_know_their_model(folder, onnx_file):
    _, card = load_model(folder)
    assert torch_engine(folder).card == OnnxEngine(onnx_file, "cpu").card == card


def test_descriptions_say_what_runs_where(folder, onnx_file):
    assert torch_engine(folder).description == f"torch {torch.__version__} on cpu, fp32"
    assert OnnxEngine(onnx_file, "cpu").description == f"onnxruntime {onnxruntime.__version__} on cpu"


def test_bfloat16_predicts_nearly_the_same_on_cpu(folder):
    raw = voxels(4, 12, 12, 12)
    exact, rough = torch_engine(folder, "fp32").run(raw), torch_engine(folder, "bf16").run(raw)
    assert rough["logits"].dtype == np.float32
    assert not np.array_equal(exact["logits"], rough["logits"])
    np.testing.assert_allclose(rough["probabilities"], exact["probabilities"], atol=0.05)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", torch.device("cuda", 0)])
def test_a_lost_gpu_is_loud(onnx_file, device, capfd):
    with pytest.raises(ModelError, match=r"cannot use CUDA and would go on with the CPU: .+") as caught:
        OnnxEngine(onnx_file, device)
    assert "--device cpu" in caught.value.hint
    assert capfd.readouterr() == ("", ""), "onnxruntime's own words are for developers"


def test_auto_runs_without_a_word_on_a_cpu(onnx_file, capfd):
    OnnxEngine(onnx_file, "auto").run(voxels(1, 8, 8, 8))
    assert capfd.readouterr() == ("", "")


def test_missing_file_is_said(tmp_path):
    with pytest.raises(ModelError, match="There is no file"):
        OnnxEngine(tmp_path / "none.onnx", "cpu")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_file_is_refused(onnx_file, tmp_path, share):
    whole = onnx_file.read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ModelError, match=r"cut\.onnx is not an ONNX file, or is damaged"):
        OnnxEngine(tmp_path / "cut.onnx", "cpu")


def test_another_kind_of_file_is_refused(tmp_path):
    (tmp_path / "text.onnx").write_text("data_particles\n\nloop_\n_rlnImageName #1\n")
    with pytest.raises(ModelError, match="not an ONNX file"):
        OnnxEngine(tmp_path / "text.onnx", "cpu")


def identity_model(**metadata):
    helper = onnx.helper
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 2]) for name in ("x", "logits"))
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["logits"])], "identity", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, metadata)
    return model


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "not made by cryoclass"),
        ({CARD_KEY: "{"}, "not valid JSON"),
        ({CARD_KEY: small_card().to_json()}, "does not fit its own model card"),
    ],
)
def test_a_foreign_model_is_refused(tmp_path, metadata, message):
    onnx.save(identity_model(**metadata), tmp_path / "other.onnx")
    with pytest.raises(ModelError, match=message):
        OnnxEngine(tmp_path / "other.onnx", "cpu")


def test_a_batch_that_cannot_be_computed_is_said(onnx_file):
    with pytest.raises(ModelError, match="A batch of 2 boxes of 3x3 voxels could not be computed"):
        OnnxEngine(onnx_file, "cpu").run(voxels(2, 3, 3))


def test_a_lack_of_memory_on_a_cpu_is_said(folder):
    endless = np.broadcast_to(np.zeros((1, 8, 8, 8), np.float32), (10**13, 8, 8, 8))
    with pytest.raises(ModelError, match="could not be computed on cpu") as raised:
        torch_engine(folder).run(endless)
    assert raised.value.hint == "Use a smaller --batch-size."
