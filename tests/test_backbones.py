"""Backbones: the published network, the grey stem, and weight files of every make, sound and broken."""

import contextlib
import functools
import http.server
import io
import json
import pickle
import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from network_helpers import TinyBackbone, file_of_2018, published_state, shake, tiny_spec
from torch import nn

from cryoclass.backbones.registry import BACKBONES, build_backbone, load_backbone, spec
from cryoclass.backbones.resnet3d import BasicBlock, ResNet3d
from cryoclass.backbones.stem import sum_channels
from cryoclass.backbones.weights import cached_weights, fetch_weights, import_weights, load_weights
from cryoclass.errors import ModelError, UsageError

# ------------------------------------------------------------------------------------------- the network


@pytest.mark.parametrize("name", BACKBONES)
def test_registry_says_what_the_network_has(name):
    with torch.device("meta"):
        network = build_backbone(name)
        embedding = network(torch.empty(2, 1, 8, 8, 8))
    assert sum(value.numel() for value in network.parameters()) == spec(name).parameters
    assert embedding.shape == (2, spec(name).width)
    assert (spec(name).trained_on is None) == (spec(name).weights is None)


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


def test_shortcut_subsamples_appends_zeros_and_lets_gradient_through():
    block = BasicBlock(2, 5, stride=2).eval()
    nn.init.zeros_(block.bn2.weight)  # leaves the shortcut alone
    x = torch.rand(1, 2, 5, 6, 7, requires_grad=True)
    y = block(x)
    plain = F.avg_pool3d(x, kernel_size=1, stride=2)  # as the public code writes it
    torch.testing.assert_close(y, torch.cat([plain, torch.zeros(1, 3, 3, 3, 4)], dim=1))
    y.sum().backward()
    assert x.grad.sum() == plain.numel()


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


# ------------------------------------------------------------------------------------------ weight files


def write_2018(state, path):
    path.write_bytes(file_of_2018({f"module.{name}": value for name, value in state.items()}, "resnet-10"))


def write_bare(state, path):
    torch.save(state, path)


def write_old_bare(state, path):
    torch.save(state, path, _use_new_zipfile_serialization=False)


def write_safetensors(state, path):
    safetensors.torch.save_file(state, path)


WRITERS = [write_2018, write_bare, write_old_bare, write_safetensors]


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
def served(folder):
    handler = functools.partial(QuietHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
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
    assert [path.name for path in cache.iterdir()] == ["tiny.pth.refused"]


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
