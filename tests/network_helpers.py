"""Small networks and weight files for the tests, made from formulas and seeds."""

import contextlib
import io
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cryoclass.backbones.spec import Address, Backbone, BackboneSpec, Scale, Stem, Weights
from cryoclass.card import ModelCard, current_versions
from cryoclass.classifier import Classifier
from cryoclass.settings import Preparation
from cryoclass.training import checkpoint


class TinyBackbone(Backbone):
    width = 4

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, 4, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm3d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn1(self.conv1(x)).mean(dim=(2, 3, 4))


def tiny_spec(*urls: str, hashes: dict[str, str] | None = None) -> BackboneSpec:
    known = hashes or {}
    return BackboneSpec(
        name="tiny",
        summary="for tests",
        build=TinyBackbone,
        width=4,
        parameters=116,
        gflop=0.1,
        stem=Stem(weight="conv1.weight", offset="bn1.running_mean"),
        discard=("fc.",),
        trained_on="noise",
        scale=Scale(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3)),
        weights=Weights(
            filename="tiny.pth",
            addresses=tuple(Address(url=url, hash=known.get(url, "")) for url in urls),
            size=2_000_000,
            by_hand="https://example.org/folder",
        ),
    )


def shake(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give batch normalisation numbers of its own, as training does; a fresh one does next to nothing."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm3d):
            part.running_mean.copy_(torch.randn(part.num_features, generator=generator) / 5)
            part.running_var.copy_(torch.rand(part.num_features, generator=generator) + 0.5)
            nn.init.uniform_(part.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(part.bias, std=0.2, generator=generator)
    return module.eval()


def published_state(network: nn.Module, classes: int = 400) -> dict[str, Tensor]:
    """Lay tensors out as the 2018 files do: no batch counters, a head at the end."""
    state = {name: value for name, value in network.state_dict().items() if "num_batches" not in name}
    return state | {"fc.weight": torch.zeros(classes, network.width), "fc.bias": torch.zeros(classes)}


class _OldTensor:
    """Pickles itself as PyTorch 0.3 did a tensor: without requires_grad and hooks."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __reduce__(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old storages are deprecated, which is the point
            storage = self.tensor.storage()
        return torch._utils._rebuild_tensor, (storage, 0, tuple(self.tensor.shape), self.tensor.stride())


def file_of_2018(state: dict[str, Tensor], arch: str) -> bytes:
    """Return a checkpoint as a GPU wrote it in 2018: old serialisation, CUDA storages, a wrapper, an optimizer."""
    momentum = {"state": {0: {"momentum_buffer": _OldTensor(torch.ones(3))}}, "param_groups": [{"lr": 0.1}]}
    content = {"epoch": 151, "arch": arch, "optimizer": momentum}
    content["state_dict"] = {name: _OldTensor(value.contiguous()) for name, value in state.items()}
    out = io.BytesIO()
    torch.save(content, out, _use_new_zipfile_serialization=False)
    written = out.getvalue().replace(b"ctorch\nFloatStorage\n", b"ctorch.cuda\nFloatStorage\n")
    return written.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")


def small_classifier(classes: int = 3, backbone: str = "r3d10", seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return shake(Classifier(backbone, classes), seed)


def small_card(**changes) -> ModelCard:
    fields = {
        "backbone": "r3d10",
        "classes": ("ribosome", "proteasome", "junk"),
        "angpix": 10.0,
        "box": (12, 12, 12),
        "contrast": "bright",
        "preparation": Preparation(input_size=(8, 16, 16), intensity="standard"),
        "training": {"seed": 3},
        "versions": current_versions(),
    }
    return ModelCard(**{**fields, **changes})


def by_formula(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fill tensors by a formula of their name and index; the scale is that of a healthy network."""
    return {name: _filled(name, value) for name, value in state.items()}


def _filled(name: str, value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value
    number = 1 + zlib.crc32(name.encode()) % 500
    wave = torch.sin(torch.arange(value.numel(), dtype=torch.float64) * (0.7 + 0.013 * number) + number)
    if value.ndim > 1:
        wave = wave * (3.0 / value[0].numel()) ** 0.5
    elif name.endswith("running_var"):
        wave = 1 + 0.5 * wave
    elif name.endswith("weight"):
        wave = 1 + 0.2 * wave
    else:
        wave = 0.1 * wave
    return wave.reshape(value.shape).to(value.dtype)


def formula_box(channels: int, depth: int, height: int, width: int) -> Tensor:
    """Return one box ``(1, channels, depth, height, width)``, every voxel by a formula of its place."""
    count = channels * depth * height * width
    place = torch.arange(count, dtype=torch.float64)
    box = torch.sin(0.37 * place) + torch.cos(0.011 * place)
    return box.reshape(1, channels, depth, height, width).float()


def edit_checkpoint(path: Path, edit: Callable[[dict[str, Any]], object], *, hashed: bool = True) -> None:
    """Change what a checkpoint holds, with the hash that belongs to it, as a version of ours with a fault would write it."""
    content = torch.load(path)
    edit(content)
    if hashed:
        with contextlib.suppress(checkpoint.Misfit, KeyError):
            content["digest"] = checkpoint._digest(
                {name: content[name] for name in ("settings", "place", "state")}
            )
    torch.save(content, path)
