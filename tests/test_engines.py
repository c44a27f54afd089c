"""Both engines on the same model, and what they refuse."""

import subprocess
import sys

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
from cryoclass.seal import SEAL_KEY, read_sealed, sealed

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
        ({}, "carries no model card"),
        ({CARD_KEY: "{"}, "not valid JSON"),
        ({CARD_KEY: small_card().to_json()}, "takes x tensor"),
    ],
)
def test_a_foreign_model_is_refused(tmp_path, metadata, message):
    (tmp_path / "other.onnx").write_bytes(sealed(identity_model(**metadata).SerializeToString()))
    with pytest.raises(ModelError, match=message):
        OnnxEngine(tmp_path / "other.onnx", "cpu")


FLOAT, DOUBLE = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE
CARD = small_card(outputs={"embedding": ("N", 2)}, classes=(), tasks=())
BOXES = ["N", "D", "H", "W"]


def means(inputs, output=("embedding", FLOAT, ["N", 2]), opset=20):
    """Return a sealed model with that card, which takes what a test wants of it and says zeros or so."""
    helper = onnx.helper
    values = [helper.make_tensor_value_info(*value) for value in inputs]
    name, kind, shape = output
    constant = helper.make_tensor("v", kind, [1, shape[-1]], range(shape[-1]))
    node = helper.make_node("Constant", [], [name], value=constant)
    graph = helper.make_graph([node], "means", values, [helper.make_tensor_value_info(name, kind, shape)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    helper.set_model_props(model, {CARD_KEY: CARD.to_json()})
    return sealed(model.SerializeToString())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (means([("voxels", FLOAT, BOXES)]), "takes voxels tensor.float. NxDxHxW; it must take subtomogram"),
        (means([("subtomogram", FLOAT, ["N", "D", "H"])]), "takes subtomogram tensor.float. NxDxH; it must"),
        (means([("subtomogram", DOUBLE, BOXES)]), "takes subtomogram tensor.double. NxDxHxW; it must"),
        (means([("subtomogram", FLOAT, ["N", 16, "H", "W"])]), "takes subtomogram tensor.float. Nx16xHxW"),
        (
            means([("subtomogram", FLOAT, BOXES), ("mask", FLOAT, ["N"])]),
            "takes .*, mask tensor.float. N; it",
        ),
        (means([]), "takes no input; it must"),
        (
            means([("subtomogram", FLOAT, BOXES)], ("embedding", DOUBLE, ["N", 2])),
            "gives embedding as tensor",
        ),
        (means([("subtomogram", FLOAT, BOXES)], ("embedding", FLOAT, ["N", 3])), "does not fit its own"),
        (
            means([("subtomogram", FLOAT, BOXES)], ("vector", FLOAT, ["N", 2])),
            "does not fit its own model card",
        ),
        (means([("subtomogram", FLOAT, BOXES)], opset=9999), "is not an ONNX file, or is damaged"),
    ],
)
def test_a_graph_with_another_door_is_refused_when_it_is_opened(tmp_path, content, message):
    (tmp_path / "other.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        OnnxEngine(tmp_path / "other.onnx", "cpu")


def test_a_batch_that_cannot_be_computed_is_not_said_to_lack_memory(onnx_file):
    with pytest.raises(ModelError, match="A batch of 2 boxes of 3x3 voxels could not be computed") as caught:
        OnnxEngine(onnx_file, "cpu").run(voxels(2, 3, 3))
    assert "batch-size" not in caught.value.hint


def test_a_lack_of_memory_on_a_cpu_is_said(folder):
    endless = np.broadcast_to(np.zeros((1, 8, 8, 8), np.float32), (10**13, 8, 8, 8))
    with pytest.raises(ModelError, match="could not be computed on cpu") as raised:
        torch_engine(folder).run(endless)
    assert raised.value.hint == "Use a smaller --batch-size."


HARDLY_ANY_ROOM = """
import resource, sys
from pathlib import Path
import numpy as np
from cryoclass.errors import ModelError
from cryoclass.inference.engines import OnnxEngine

engine, boxes = OnnxEngine(Path(sys.argv[1]), "cpu"), np.ones((40, 64, 64, 64), np.float32)
engine.run(boxes[:1, :12, :12, :12].copy())
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 20_000_000, resource.RLIM_INFINITY))
try:
    engine.run(boxes)
except ModelError as error:
    print(error, error.hint, sep="|")
"""


def test_a_lack_of_memory_is_told_with_its_way_out(onnx_file):
    """In a process of its own: what earlier tests gave back would be room enough for this one."""
    command = [sys.executable, "-c", HARDLY_ANY_ROOM, str(onnx_file)]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    said, hint = child.stdout.strip().split("|")
    assert "it does not fit into memory" in said
    assert hint == "Use a smaller --batch-size."


# ------------------------------------------------------------------------------------------- the seal


def test_zeros_over_the_weights_are_noticed(onnx_file, tmp_path):
    """The file runs without a word where nobody looks, and gives other numbers."""
    content = bytearray(onnx_file.read_bytes())
    content[200_000:265_536] = bytes(65_536)
    onnxruntime.InferenceSession(bytes(content), providers=["CPUExecutionProvider"])
    (tmp_path / "zeros.onnx").write_bytes(content)
    with pytest.raises(ModelError, match="is damaged or altered") as caught:
        OnnxEngine(tmp_path / "zeros.onnx", "cpu")
    assert "cryoclass export again" in caught.value.hint


def test_no_flipped_bit_goes_unnoticed_but_in_notes(tmp_path):
    whole, random = means([("subtomogram", FLOAT, BOXES)]), np.random.default_rng(0)
    for place in range(len(whole)):
        content = bytearray(whole)
        content[place] ^= 1 << int(random.integers(8))
        (tmp_path / "flipped.onnx").write_bytes(content)
        try:
            found = read_sealed(tmp_path / "flipped.onnx")
        except ModelError:
            continue
        assert _without_notes(found[0]) == _without_notes(whole), place


def _without_notes(content):
    model = onnx.load_from_string(content)
    props = [entry for entry in model.metadata_props if entry.key in (CARD_KEY, SEAL_KEY)]
    for name in (
        "producer_name",
        "producer_version",
        "doc_string",
        "domain",
        "model_version",
        "metadata_props",
    ):
        model.ClearField(name)
    model.metadata_props.extend(props)
    return model.SerializeToString(deterministic=True)


def test_a_file_without_a_seal_is_refused(onnx_file, tmp_path):
    model = onnx.load(onnx_file)
    props = {entry.key: entry.value for entry in model.metadata_props if entry.key != SEAL_KEY}
    model.ClearField("metadata_props")
    onnx.helper.set_model_props(model, props)
    onnx.save(model, tmp_path / "old.onnx")
    with pytest.raises(ModelError, match="without cryoclass's seal") as caught:
        OnnxEngine(tmp_path / "old.onnx", "cpu")
    assert "cryoclass export" in caught.value.hint


def test_notes_of_other_programs_do_not_break_the_seal_and_another_card_does(onnx_file, tmp_path):
    model = onnx.load(onnx_file)
    model.doc_string, model.producer_version = "seen by me", "9"
    model.metadata_props.add(key="author", value="somebody")
    onnx.save(model, tmp_path / "noted.onnx")
    assert OnnxEngine(tmp_path / "noted.onnx", "cpu").identity() == OnnxEngine(onnx_file, "cpu").identity()
    card = next(entry for entry in model.metadata_props if entry.key == CARD_KEY)
    card.value = card.value.replace("ribosome", "ribosomf")
    onnx.save(model, tmp_path / "noted.onnx")
    with pytest.raises(ModelError, match="is damaged or altered"):
        OnnxEngine(tmp_path / "noted.onnx", "cpu")
