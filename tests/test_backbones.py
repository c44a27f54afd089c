"""Backbones: the published network, the grey stem, and weight files of every make, sound and broken."""

import contextlib
import dataclasses
import functools
import hashlib
import http.server
import io
import json
import os
import pickle
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import ClassVar

import onnx
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from network_helpers import (
    TinyBackbone,
    by_formula,
    file_of_2018,
    formula_box,
    published_state,
    shake,
    tiny_spec,
)
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cryoclass.backbones.registry import BACKBONES, load_backbone, spec
from cryoclass.backbones.resnet3d import (
    SCALE_2018,
    SCALE_2020,
    BasicBlock,
    ResNet3d,
    Subsample,
    detach_shortcuts,
)
from cryoclass.backbones.spec import Scale, Stem
from cryoclass.backbones.stem import grey_stem, sum_channels
from cryoclass.backbones.weights import (
    cached_weights,
    fetch_weights,
    import_weights,
    load_weights,
    verify_weights,
)
from cryoclass.errors import ModelError, UsageError

GOLDEN = json.loads((Path(__file__).parent / "golden" / "resnet3d.json").read_text())
GOLDEN_NETWORKS = {
    "2018 depth 18 A": (18, "A", 400),
    "2018 depth 34 A": (34, "A", 400),
    "2018 depth 50 B": (50, "B", 400),
    "2020 depth 18 B": (18, "B", 700),
}

# ------------------------------------------------------------------------------------------- the network


@pytest.mark.parametrize("name", BACKBONES)
def test_registry_says_what_the_network_has(name):
    entry = spec(name)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = build_or_skip(entry).eval()
        embedding = network(torch.empty(1, 1, *entry.input_size))
    assert sum(value.numel() for value in network.parameters()) == entry.parameters
    assert embedding.shape == (1, entry.width)
    assert counter.get_total_flops() / 1e9 == pytest.approx(entry.gflop, rel=0.02, abs=0.05)
    assert bool(entry.trained_on) == (entry.packaged or entry.weights is not None)
    assert not (entry.packaged and entry.weights)
    assert entry.onnx is True or entry.onnx


@pytest.mark.parametrize("name", BACKBONES)
def test_texts_fit_the_tables(name):
    entry = spec(name)
    assert len(entry.name) <= 23
    assert 0 < len(entry.licence) <= 20
    assert entry.summary
    assert entry.weights is None or entry.weights.addresses or entry.weights.by_hand


@pytest.mark.parametrize("name", BACKBONES)
def test_the_default_input_size_is_allowed(name):
    assert spec(name).refuse(spec(name).input_size) == ""


def build_or_skip(entry):
    try:
        return entry.build(1)
    except UsageError as error:
        assert entry.extra
        pytest.skip(str(error))


def test_r3d34_has_the_published_numbers():
    with torch.device("meta"):
        network = ResNet3d(34, channels=3)
    parameters = sum(value.numel() for value in network.parameters())
    assert parameters == 63_339_712
    assert parameters + 512 * 400 + 400 == 63_544_912
    assert sum(isinstance(part, nn.Conv3d) for part in network.modules()) == 33
    assert sum(isinstance(part, nn.BatchNorm3d) for part in network.modules()) == 33
    assert len(published_state(network)) == 167
    assert not [name for name in network.state_dict() if "downsample" in name]


@pytest.mark.parametrize(
    ("depth", "grids"),
    [
        (32, [(32, 64, 64), (16, 32, 32), (16, 32, 32), (8, 16, 16), (4, 8, 8), (2, 4, 4)]),
        (28, [(28, 64, 64), (14, 32, 32), (14, 32, 32), (7, 16, 16), (4, 8, 8), (2, 4, 4)]),
    ],
)
def test_r3d34_has_the_published_grids(depth, grids):
    seen = []
    with torch.device("meta"):
        network = ResNet3d(34, channels=3)
        for name in ("conv1", "maxpool", "layer1", "layer2", "layer3", "layer4"):
            network.get_submodule(name).register_forward_hook(lambda *call: seen.append(call[2].shape[2:]))
        assert network(torch.empty(1, 3, depth, 128, 128)).shape == (1, 512)
    assert seen == [torch.Size(grid) for grid in grids]


@pytest.mark.parametrize("detach", [False, True])
def test_shortcut_subsamples_appends_zeros_and_lets_gradient_through_unless_told(detach):
    block = BasicBlock(2, 5, 2, Subsample(2, 3, detach)).eval()
    nn.init.zeros_(block.bn2.weight)  # leaves the shortcut alone
    x = torch.rand(1, 2, 5, 6, 7, requires_grad=True)
    y = block(x)
    plain = F.avg_pool3d(x, kernel_size=1, stride=2)  # as the public code writes it
    torch.testing.assert_close(y, torch.cat([plain, torch.zeros(1, 3, 3, 3, 4)], dim=1))
    y.sum().backward()
    assert x.grad.sum() == (0 if detach else plain.numel())


def test_detached_shortcuts_give_the_same_numbers_and_other_gradients():
    network = shake(ResNet3d(10, 1))
    x = torch.rand(1, 1, 8, 16, 16)
    before = network(x)
    before.sum().backward()
    gradient = network.conv1.weight.grad.clone()
    detach_shortcuts(network)
    network.zero_grad()
    after = network(x)
    after.sum().backward()
    assert torch.equal(before, after)
    assert not torch.allclose(network.conv1.weight.grad, gradient)
    with pytest.raises(UsageError, match="shortcut A only"):
        detach_shortcuts(ResNet3d(10, 1, "B"))


@pytest.mark.parametrize("case", GOLDEN)
def test_same_numbers_as_the_public_code(case):
    """Compare with golden numbers of the reference implementation.

    They were computed once, on 2026-11-20 with torch 2.15 on a CPU, by running kenshohara/3D-ResNets-PyTorch (MIT):
    ``models/resnet.py`` of the branch CVPR2018 (d9847ea; sample_size 64, sample_duration 32, 400 classes) and of master
    (540a0ea; ``generate_model``, 700 classes), in evaluation mode, every tensor of the network filled by
    ``network_helpers.by_formula`` and shown ``formula_box(3, 32, 64, 64)``. Kept is every fourth number of the input of
    ``fc`` and every eighth logit.
    """
    depth, shortcut, classes = GOLDEN_NETWORKS[case]
    network = ResNet3d(depth, 3, shortcut).eval()
    network.load_state_dict(by_formula(network.state_dict()), strict=True)
    head = {"fc.weight": torch.empty(classes, network.width), "fc.bias": torch.empty(classes)}
    with torch.inference_mode():
        embedding = network(formula_box(3, 32, 64, 64))
        logits = F.linear(embedding, *by_formula(head).values())
    for found, kept in ((embedding[0, ::4], "embedding"), (logits[0, ::8], "logits")):
        wanted = torch.tensor(GOLDEN[case][kept])
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize(
    ("name", "classes", "tensors"),
    [("r3d18-k400", 400, 87), ("r3d50-k400", 400, 267), ("r3d101-k400", 400, 522), ("r3d18-k700", 700, 102)],
)
def test_layouts_of_the_published_files(name, classes, tensors):
    """Hold the numbers of tensors that follow from the public code: 5 per convolution with batch normalisation, and fc."""
    with torch.device("meta"):
        network = spec(name).build(3)
    state = published_state(network, classes)
    assert len(state) == tensors
    convolutions = sum(isinstance(part, nn.Conv3d) for part in network.modules())
    assert len(state) == 5 * convolutions + 2
    shortcuts = {name for name in state if "downsample" in name}
    assert {name.rsplit(".", 2)[1] for name in shortcuts} == (set() if name == "r3d18-k400" else {"0", "1"})


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(UsageError, match="r3d34-k40") as caught:
        spec("r3d34-k40")
    assert "Did you mean r3d34-k400?" in caught.value.hint


# ---------------------------------------------------------------------------------------------- the stem


def test_grey_stem_equals_three_equal_channels():
    torch.manual_seed(0)
    colour = shake(ResNet3d(10, channels=3))
    grey = ResNet3d(10, channels=1).eval()
    state = colour.state_dict()
    grey.load_state_dict({**state, "conv1.weight": sum_channels(state["conv1.weight"])})
    x = torch.rand(2, 1, 8, 16, 16)
    with torch.inference_mode():
        expected = colour(x.expand(-1, 3, -1, -1, -1))
        torch.testing.assert_close(grey(x), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def pretrained_view(grey, scale):
    """Return what a network over colours is shown: ``grey`` from 0 to 1, in each channel as its weights expect it."""
    mean, std = (torch.tensor(value)[:, None, None, None] for value in (scale.mean, scale.std))
    return (scale.highest * grey - mean) / std


def grey_view(grey, scale):
    low, high = scale.limits
    return grey * (high - low) + low


SCALES = {
    "2018": SCALE_2018,
    "2020": SCALE_2020,
    "torchvision": Scale(mean=(0.43216, 0.394666, 0.37645), std=(0.22803, 0.22145, 0.216989)),
    "equal": Scale(mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225)),
}


@pytest.mark.parametrize("scale", SCALES)
def test_grey_stem_as_pretrained_is_exact_without_padding(scale):
    torch.manual_seed(0)
    scale = SCALES[scale]
    colour = nn.Conv3d(3, 6, kernel_size=(2, 4, 4), stride=(2, 4, 4)).requires_grad_(
        False
    )  # a patch embedding
    state = grey_stem(colour.state_dict(), Stem(weight="weight", offset="bias"), scale)
    grey = torch.rand(2, 1, 8, 16, 16)
    wanted = colour(pretrained_view(grey, scale))
    found = F.conv3d(grey_view(grey, scale), state["weight"], state["bias"], stride=(2, 4, 4))
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6 * float(wanted.abs().max()))


@pytest.mark.parametrize("scale", ["2018", "2020", "torchvision"])
def test_grey_stem_as_pretrained_differs_at_the_zero_padded_rim_only(scale):
    """State the size of the difference: none inside; at the rim less than what the plain sum of the weights would have."""
    torch.manual_seed(0)
    scale, stem = SCALES[scale], Stem(weight="0.weight", offset="1.running_mean")
    colour = nn.Sequential(
        nn.Conv3d(3, 16, kernel_size=7, padding=3, bias=False), shake(nn.BatchNorm3d(16))
    ).eval()
    grey = nn.Sequential(nn.Conv3d(1, 16, kernel_size=7, padding=3, bias=False), nn.BatchNorm3d(16)).eval()
    box = torch.rand(1, 1, 16, 24, 24)
    wanted = colour(pretrained_view(box, scale))
    errors = {}
    folded = grey_stem(colour.state_dict(), stem, scale)
    for way in ("folded", "mean offset"):
        plain = folded if way == "folded" else {**folded, stem.offset: colour[1].running_mean}
        grey.load_state_dict(plain, strict=True)
        errors[way] = ((grey(grey_view(box, scale)) - wanted) / wanted.std()).abs()
    inside = (..., *(slice(3, -3),) * 3)
    assert errors["folded"][inside].max() < 1e-4
    assert errors["mean offset"][inside].max() > 100 * errors["folded"][inside].max()
    assert errors["folded"].mean() < errors["mean offset"].mean()
    assert errors["folded"].mean() < 0.03  # of the deviation of the stem's output, over this small box


def test_grey_stem_as_pretrained_is_exact_everywhere_with_equal_offsets():
    torch.manual_seed(0)
    colour = nn.Conv3d(3, 6, kernel_size=7, padding=3).requires_grad_(False)
    state = grey_stem(colour.state_dict(), Stem(weight="weight", offset="bias"), SCALES["equal"])
    box = torch.rand(1, 1, 9, 9, 9)
    wanted = colour(pretrained_view(box, SCALES["equal"]))
    found = F.conv3d(grey_view(box, SCALES["equal"]), state["weight"], state["bias"], padding=3)
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6 * float(wanted.abs().max()))


# ------------------------------------------------------------------------------------------ weight files


def write_2018(state, path):
    path.write_bytes(file_of_2018({f"module.{name}": value for name, value in state.items()}, "resnet-10"))


def write_bare(state, path):
    torch.save(state, path)


def write_old_bare(state, path):
    torch.save(state, path, _use_new_zipfile_serialization=False)


def write_safetensors(state, path):
    safetensors.torch.save_file(state, path)


def write_wrapped(state, path):
    torch.save({"model": {f"module.{name}": value for name, value in state.items()}, "epoch": 3}, path)


WRITERS = [write_2018, write_bare, write_old_bare, write_safetensors, write_wrapped]


@pytest.mark.parametrize("write", WRITERS)
def test_every_make_of_file_gives_the_same_backbone(write, tmp_path):
    torch.manual_seed(1)
    published = shake(ResNet3d(10, channels=3))
    write(published_state(published), tmp_path / "file")
    backbone = load_weights(spec("r3d10"), tmp_path / "file").eval()
    x = torch.rand(1, 1, 8, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(backbone(x), published(x.expand(-1, 3, -1, -1, -1)), rtol=1e-4, atol=1e-5)


def test_grey_weights_load_as_they_are(tmp_path):
    write_safetensors(TinyBackbone(1).state_dict(), tmp_path / "grey")
    before = safetensors.torch.load_file(tmp_path / "grey")["conv1.weight"]
    assert torch.equal(load_weights(tiny_spec(), tmp_path / "grey").conv1.weight, before)


def test_r3d34_reads_the_layout_of_the_published_file(tmp_path):
    state = published_state(ResNet3d(34, channels=3))
    assert len(state) == 167
    write_2018(state, tmp_path / "resnet-34-kinetics.pth")
    backbone = load_backbone("r3d34-k400", weights=tmp_path / "resnet-34-kinetics.pth")
    assert torch.equal(backbone.layer4[2].conv2.weight, state["layer4.2.conv2.weight"])


def test_as_pretrained_weights_are_made_for_the_scale_they_were_trained_with(tmp_path):
    torch.manual_seed(2)
    published = shake(TinyBackbone(3))
    write_bare(published.state_dict(), tmp_path / "tiny.pth")
    entry = tiny_spec()
    backbone = load_weights(entry, tmp_path / "tiny.pth", as_pretrained=True).eval()
    box = torch.rand(1, 1, 20, 20, 20)
    found, wanted = backbone(grey_view(box, entry.scale)), published(pretrained_view(box, entry.scale))
    plain = load_weights(entry, tmp_path / "tiny.pth").eval()(grey_view(box, entry.scale))
    assert (found - wanted).abs().max() < 0.05 * wanted.abs().max()  # the rim
    assert (found - wanted).abs().max() < 0.5 * (plain - wanted).abs().max()


def write_onnx(network, path, fold=False):
    """Write a network with a head as OpenCV's copy is: an opset of old, names that say nothing, nothing folded."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        whole = nn.Sequential(network, nn.Linear(network.width, 400)).eval()
        model = torch.onnx.export(
            whole,
            (torch.rand(1, 3, 8, 16, 16),),
            dynamo=True,
            optimize=fold,
            verbose=False,
            external_data=False,
        ).model_proto
    for number, tensor in enumerate(model.graph.initializer):
        for node in model.graph.node:
            names = [str(number) if name == tensor.name else name for name in node.input]
            node.ClearField("input")
            node.input.extend(names)
        tensor.name = str(number)
    onnx.save(model, path)


@pytest.fixture(scope="module", params=["A", "B"])
def copied(request, tmp_path_factory):
    """A network with an ONNX copy of it, and its entry."""
    torch.manual_seed(3)
    published = shake(ResNet3d(10, 3, request.param))
    path = tmp_path_factory.mktemp("copy") / f"{request.param}.onnx"
    write_onnx(published, path)
    build = functools.partial(ResNet3d, 10, shortcut=request.param)
    return published, path, dataclasses.replace(spec("r3d10"), build=build)


def test_an_onnx_copy_gives_the_same_backbone(copied):
    published, path, entry = copied
    state = load_weights(entry, path).state_dict()
    wanted = published.state_dict()
    wanted["conv1.weight"] = sum_channels(wanted["conv1.weight"])
    assert list(state) == list(wanted)
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)


def test_an_onnx_copy_of_another_network_is_refused(copied):
    with pytest.raises(ModelError, match=r"holds (45|60) tensors .* this backbone has 85"):
        load_weights(spec("r3d18"), copied[1])


def test_an_onnx_copy_with_folded_normalisation_is_refused(tmp_path):
    write_onnx(shake(ResNet3d(10, 3)), tmp_path / "copy.onnx", fold=True)
    with pytest.raises(ModelError) as caught:
        load_weights(spec("r3d10"), tmp_path / "copy.onnx")
    assert "batch normalisation must not be folded away" in caught.value.hint


def test_a_damaged_onnx_copy_is_refused(tmp_path):
    (tmp_path / "copy.onnx").write_bytes(b"\x08\x07\x12\xff garbage")
    with pytest.raises(ModelError, match="damaged ONNX file"):
        load_weights(spec("r3d10"), tmp_path / "copy.onnx")


def test_a_flipped_byte_of_a_torch_file_is_noticed(tmp_path):
    """Torch itself reads such a file without a word, and gives other numbers."""
    write_bare(TinyBackbone(1).state_dict(), tmp_path / "tiny.pth")
    content = bytearray((tmp_path / "tiny.pth").read_bytes())
    weight = torch.load(tmp_path / "tiny.pth")["conv1.weight"].numpy().tobytes()
    content[content.index(weight) + 40] ^= 1
    (tmp_path / "tiny.pth").write_bytes(content)
    torch.load(tmp_path / "tiny.pth")
    with pytest.raises(ModelError, match=r"tiny\.pth is damaged: .*data/0 does not fit its checksum"):
        load_weights(tiny_spec(), tmp_path / "tiny.pth")


FAULTS = {
    "missing": (lambda state: state.pop("bn1.running_var"), "lacks the tensor bn1.running_var"),
    "no stem": (lambda state: state.pop("conv1.weight"), "lacks the tensor conv1.weight"),
    "unknown": (lambda state: state.update(extra=torch.ones(1)), "holds the tensor extra"),
    "shape": (lambda state: state.update({"bn1.bias": torch.ones(5)}), "bn1.bias has the shape"),
    "channels": (lambda state: state.update({"conv1.weight": torch.ones(4, 2, 3, 3, 3)}), "1 or 3 channels"),
    "nan": (lambda state: state["conv1.weight"].view(-1)[7].fill_(torch.nan), "conv1.weight holds values"),
    "variance": (lambda state: state["bn1.running_var"][2].fill_(0), "bn1.running_var holds variances"),
    "type": (lambda state: state.update({"bn1.bias": torch.ones(4, dtype=torch.int32)}), "bn1.bias has the type"),
    "no tensor": (lambda state: state.update({"bn1.bias": 3}), "bn1.bias is a int"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_tensor_is_named(fault, tmp_path):
    break_it, message = FAULTS[fault]
    state = TinyBackbone(3).state_dict()
    break_it(state)
    torch.save({"state_dict": state}, tmp_path / "file.pth")
    with pytest.raises(ModelError, match=message):
        load_weights(tiny_spec(), tmp_path / "file.pth")


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_truncated_files_are_refused(write, share, tmp_path):
    path = tmp_path / "file.pth"
    write(TinyBackbone(3).state_dict(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ModelError, match=r"file\.pth"):
        load_weights(tiny_spec(), path)


@pytest.mark.parametrize("content", [b"data_\n\nloop_\n_rlnImageName\n", b"{}", pickle.dumps([1, 2])])
def test_other_files_are_refused(content, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ModelError, match="file"):
        load_weights(tiny_spec(), tmp_path / "file")


@pytest.mark.parametrize("path", ["nothing.pth", "."])
def test_a_path_that_is_no_file_is_said(path, tmp_path):
    with pytest.raises(ModelError, match="cannot be read"):
        load_weights(tiny_spec(), tmp_path / path)


class Intruder:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("old", [False, True])
def test_a_pickle_that_runs_code_is_refused(old, tmp_path):
    trace, path = tmp_path / "intruder-was-here", tmp_path / "weights.pth"
    content = {"state_dict": TinyBackbone(3).state_dict(), "arch": Intruder(trace)}
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    with pytest.raises(ModelError, match="asks to run code, which is refused"):
        load_weights(tiny_spec(), path)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists(), "the file was harmless, so the test showed nothing"


# --------------------------------------------------------------------------------- download and the cache


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CRYOCLASS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "*")
    return tmp_path / "cache"


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served(folder, handler=QuietHandler, port=0):
    handler = functools.partial(handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def mirror(tmp_path):
    folder = tmp_path / "mirror"
    folder.mkdir()
    write_bare(TinyBackbone(3).state_dict(), folder / "tiny.pth")
    return folder


def test_download_tries_addresses_in_order_and_serves_offline_afterwards(cache, mirror):
    with served(mirror) as address:
        entry = tiny_spec(f"{address}/nowhere.pth", f"{address}/tiny.pth")
        assert cached_weights(entry) is None
        path = fetch_weights(entry)
    assert path == cache / "tiny.pth" == cached_weights(entry)
    record = json.loads((cache / "tiny.pth.json").read_text())
    assert len(record["sha256"]) == 64
    assert record["source"] == f"{address}/tiny.pth"
    assert fetch_weights(entry) == path  # the server is gone


class BreakingHandler(QuietHandler):
    """Serves ranges, and hangs up after ``allowance`` bytes of each answer."""

    allowance, ranges, tag = 700, True, '"one"'
    asked: ClassVar[list] = []

    def do_GET(self):
        content = Path(self.translate_path(self.path)).read_bytes()
        wish = self.headers.get("Range")
        self.asked.append(wish)
        resumed = self.ranges and wish is not None and self.headers.get("If-Range") == self.tag
        start = int(wish.removeprefix("bytes=").rstrip("-")) if resumed else 0
        self.send_response(206 if resumed else 200)
        self.send_header("ETag", self.tag)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : start + self.allowance])


def breaking(**changes):
    return type("Handler", (BreakingHandler,), {"asked": [], **changes})


def test_a_broken_download_goes_on_where_it_broke_off(cache, mirror):
    whole = (mirror / "tiny.pth").read_bytes()
    handler, seen = breaking(allowance=len(whole) // 3 + 1), []

    def track(items, *words):
        for item in items:
            seen.append((len(item), *words[1:2]))
            yield item

    with served(mirror, handler) as address:
        path = fetch_weights(tiny_spec(f"{address}/tiny.pth"), track)
    assert path.read_bytes() == whole
    assert handler.asked == [
        None,
        *(f"bytes={share}-" for share in (len(whole) // 3 + 1, 2 * (len(whole) // 3 + 1))),
    ]
    assert sum(size for size, _ in seen) == len(whole)
    assert seen[0][1] == -(-len(whole) // 1024)  # of so many kB
    assert sorted(path.name for path in cache.iterdir()) == ["tiny.pth", "tiny.pth.json"]


@pytest.mark.usefixtures("cache")
def test_a_later_fetch_goes_on_too_unless_the_file_has_changed(mirror):
    whole = (mirror / "tiny.pth").read_bytes()
    with served(mirror, breaking(allowance=1)) as address:
        entry = tiny_spec(f"{address}/tiny.pth")
        with pytest.raises(ModelError, match=f"broke off after 4 of {len(whole)} bytes; what came is kept"):
            fetch_weights(entry)
        port = int(address.rpartition(":")[2])
    with served(mirror, breaking(allowance=10**9, tag='"two"'), port):
        assert fetch_weights(entry).read_bytes() == whole


FETCH = """
import sys
from network_helpers import tiny_spec
from cryoclass.backbones.weights import fetch_weights
print(fetch_weights(tiny_spec(sys.argv[1])))
"""


class SlowHandler(QuietHandler):
    """Sends a half, waits until it is told to go on, and sends the rest."""

    asked: ClassVar[list] = []
    begun, go_on = threading.Event(), threading.Event()

    def do_GET(self):
        content = Path(self.translate_path(self.path)).read_bytes()
        self.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        self.wfile.flush()
        self.begun.set()
        self.go_on.wait(60)
        with contextlib.suppress(OSError):
            self.wfile.write(content[len(content) // 2 :])


def fetching(cache, url):
    """Start a process of its own that fetches the weights."""
    here = Path(__file__).parent
    places = {"PYTHONPATH": f"{here}:{here.parent}", "CRYOCLASS_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    argv = [sys.executable, "-c", FETCH, url]
    return subprocess.Popen(argv, env={**os.environ, **places}, stdout=subprocess.PIPE, text=True)


def test_of_first_downloads_at_once_one_brings_the_file_and_a_killed_one_blocks_nobody(cache, mirror):
    asked = []
    events = {"begun": threading.Event(), "go_on": threading.Event()}
    handler = type("Handler", (SlowHandler,), {"asked": asked, **events})
    with served(mirror, handler) as address:
        killed, *others = (fetching(cache, f"{address}/tiny.pth") for _ in range(3))
        assert events["begun"].wait(120)
        # Whichever of the three came first holds the lock; it is killed in the middle of its download.
        with pytest.raises(subprocess.TimeoutExpired):
            killed.wait(5)  # the others have come so far too
        assert asked == ["/tiny.pth"]
        killed.kill()
        events["go_on"].set()
        said = [process.communicate(timeout=120)[0].strip() for process in others]
    killed.communicate()
    assert said == [str(cache / "tiny.pth")] * 2
    assert len(asked) <= 2, "the killed one, and one of the others"
    assert (cache / "tiny.pth").read_bytes() == (mirror / "tiny.pth").read_bytes()
    assert sorted(path.name for path in cache.iterdir()) == ["tiny.pth", "tiny.pth.json"]


def test_a_hash_that_is_known_is_held_and_the_next_address_tried(cache, mirror):
    write_bare(TinyBackbone(3).state_dict(), mirror / "other.pth")
    with served(mirror) as address:
        digest = hashlib.sha1((mirror / "tiny.pth").read_bytes(), usedforsecurity=False).hexdigest()
        urls = (f"{address}/other.pth", f"{address}/tiny.pth")
        entry = tiny_spec(*urls, hashes={urls[0]: "sha256:0123abcd", urls[1]: f"sha1:{digest[:8]}"})
        path = fetch_weights(entry)
        assert path.read_bytes() == (mirror / "tiny.pth").read_bytes()
        assert (cache / "tiny.pth.refused").read_bytes() == (mirror / "other.pth").read_bytes()
        path.unlink()
        only = tiny_spec(urls[0], hashes={urls[0]: "sha256:0123abcd"})
        with pytest.raises(ModelError, match=r"Its sha256 is [0-9a-f]{64}; it must be 0123abcd\.\.\."):
            fetch_weights(only)


def test_weights_without_an_address_are_fetched_by_hand(cache, mirror):
    with pytest.raises(ModelError, match="lie at no address that a program can use") as caught:
        fetch_weights(tiny_spec())
    assert "https://example.org/folder" in caught.value.hint
    assert "cryoclass backbones import tiny FILE" in caught.value.hint
    import_weights(tiny_spec(), mirror / "tiny.pth")
    assert fetch_weights(tiny_spec()) == cache / "tiny.pth"
    assert verify_weights(tiny_spec()) == cache / "tiny.pth"


def test_verify_says_what_is_wrong(cache, mirror):
    with pytest.raises(UsageError, match="is not in the cache"):
        verify_weights(tiny_spec())
    import_weights(tiny_spec(), mirror / "tiny.pth")
    (cache / "tiny.pth").write_bytes(b"damaged")
    with pytest.raises(ModelError, match="its sha256 differs"):
        verify_weights(tiny_spec())


def test_without_network_says_what_was_tried_and_what_to_do(cache, mirror):
    with served(mirror) as address:
        pass
    with pytest.raises(ModelError, match="cannot be downloaded") as caught:
        fetch_weights(tiny_spec(f"{address}/a.pth", f"{address}/b.pth"))
    assert f"{address}/a.pth" in str(caught.value)
    assert f"{address}/b.pth" in str(caught.value)
    assert "--weights FILE" in caught.value.hint
    assert "cryoclass backbones import tiny FILE" in caught.value.hint
    assert list(cache.glob("*")) == []


def test_an_altered_file_in_the_cache_is_moved_aside(cache, mirror):
    with served(mirror) as address:
        entry = tiny_spec(f"{address}/tiny.pth")
        path = fetch_weights(entry)
        write_bare(TinyBackbone(3).state_dict(), path)  # sound, but another one
        with pytest.raises(ModelError, match="its sha256 differs"):
            fetch_weights(entry)
        assert not path.exists()
        assert (cache / "tiny.pth.refused").exists()
        assert fetch_weights(entry) == path


def test_a_broken_download_is_moved_aside_and_never_recorded(cache, mirror):
    (mirror / "tiny.pth").write_bytes(b"<html>quota exceeded</html>")
    with served(mirror) as address, pytest.raises(ModelError, match=r"moved to tiny\.pth\.refused"):
        fetch_weights(tiny_spec(f"{address}/tiny.pth"))
    assert sorted(path.name for path in cache.iterdir()) == ["tiny.pth.refused"]


def test_a_damaged_record_is_said(cache, mirror):
    entry = tiny_spec()
    import_weights(entry, mirror / "tiny.pth")
    (cache / "tiny.pth.json").write_text("{")
    with pytest.raises(ModelError, match=r"tiny\.pth\.json is damaged"):
        fetch_weights(entry)


def test_import_stands_for_the_download(cache, mirror):
    entry = tiny_spec("http://127.0.0.1:9/none.pth")
    path = import_weights(entry, mirror / "tiny.pth")
    assert path.parent == cache
    assert path.read_bytes() == (mirror / "tiny.pth").read_bytes()
    assert fetch_weights(entry) == path


def test_import_refuses_what_does_not_fit(cache, tmp_path):
    torch.save({"conv1.weight": torch.ones(4, 3, 3, 3, 3)}, tmp_path / "half.pth")
    with pytest.raises(ModelError, match=r"lacks the tensor bn1\.weight and 3 more"):
        import_weights(tiny_spec(), tmp_path / "half.pth")
    assert not cache.exists()


def test_a_random_start_is_never_silent():
    with pytest.raises(UsageError, match="r3d10 has no weights from video"):
        load_backbone("r3d10", init="video")
    with pytest.raises(UsageError, match="contradict"):
        load_backbone("r3d34-k400", init="random", weights=Path("file.pth"))
    with pytest.raises(ModelError, match="no published weights"):
        fetch_weights(spec("r3d10"))


def test_a_random_start_follows_the_seed():
    kernels = []
    for _ in range(2):
        torch.manual_seed(5)
        kernels.append(load_backbone("r3d10").conv1.weight)
    assert torch.equal(*kernels)


def test_bytes_of_2018_are_what_they_claim():
    written = file_of_2018({"a": torch.ones(2)}, "resnet-34")
    assert b"torch.cuda\nFloatStorage" in written
    assert b"cuda:0" in written
    assert b"_rebuild_tensor\n" in written
    assert not written.startswith(b"PK")
    content = torch.load(io.BytesIO(written), map_location="cpu", weights_only=True)
    assert content["arch"] == "resnet-34"
