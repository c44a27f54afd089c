"""Small networks and weight files for the tests, made from formulas and seeds."""

import io
import warnings

import torch
from torch import Tensor, nn

from cryoclass.backbones.spec import Backbone, BackboneSpec, Weights
from cryoclass.classifier import Classifier, ModelCard, current_versions
from cryoclass.settings import Preparation


class TinyBackbone(Backbone):
    width = 4

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, 4, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm3d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn1(self.conv1(x)).mean(dim=(2, 3, 4))


def tiny_spec(*addresses: str) -> BackboneSpec:
    return BackboneSpec(
        name="tiny",
        summary="for tests",
        build=TinyBackbone,
        width=4,
        parameters=116,
        stem="conv1.weight",
        discard=("fc.",),
        trained_on="noise",
        weights=Weights(filename="tiny.pth", addresses=addresses, size=2_000_000),
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


def published_state(network: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """Lay tensors out as the 2018 files do: no batch counters, a head for 400 classes at the end."""
    state = {name: value for name, value in network.state_dict().items() if "num_batches" not in name}
    state |= {"fc.weight": torch.zeros(400, 512), "fc.bias": torch.zeros(400)}
    return {prefix + name: value for name, value in state.items()}


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
