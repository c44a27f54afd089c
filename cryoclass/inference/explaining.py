"""What speaks for the class that a network gives a particle: Grad-CAM of a layer, as volumes on the boxes' own grid."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from cryoclass.backbones.decoder import resized
from cryoclass.backbones.spec import Backbone
from cryoclass.card import PARTICLES
from cryoclass.errors import UsageError
from cryoclass.files import digest
from cryoclass.inference.engines import Arrays, Engine, TorchEngine, Voxels, memory_said
from cryoclass.tasks import Task

EXPLANATION = "explanation"
AUTO = "auto"


class ExplainingEngine:
    """Another engine, whose outputs are joined by ``explanation``, (N, D, H, W): 0 to 1, the largest voxel of each box 1.

    Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391): the maps of a layer, weighted by how much the logit of the most probable class
    rises with each of them, where they speak for it; brought to the grid of the box, linear between the middles of voxels.

    Parameters
    ----------
    engine
        Runs a model that tells classes.
    layer
        Name of a layer of the backbone, or ``auto`` for the one that the backbone names.

    Raises
    ------
    UsageError
        The backbone has no such layer, or names none; or the engine is none of torch's.
    """

    def __init__(self, engine: Engine, layer: str) -> None:
        if not isinstance(engine, TorchEngine):
            raise UsageError(
                "--explain needs the network itself, which an ONNX file does not show.", "Use --model."
            )
        self.engine, self.wish = engine, layer
        self.layer = _layer(engine.whole.classifier.backbone, layer)
        outputs = {**engine.card.outputs, EXPLANATION: (PARTICLES, "D", "H", "W")}
        self.card = engine.card.replace(outputs=outputs)
        self.description = f"{engine.description}, explained by {layer}"

    def run(self, voxels: Voxels) -> Arrays:
        """Return the named outputs of ``(N, D, H, W)`` raw float32 voxels; errors as :meth:`Engine.run`."""
        said = self.engine.run(voxels)
        best = torch.from_numpy(said["probabilities"].argmax(axis=1)).to(self.engine.device)
        return {**said, EXPLANATION: self._explain(voxels, best)}

    def identity(self) -> str:
        """Return a hash of the weights, of what they are shown, and of the layer."""
        return digest(self.engine.identity(), self.wish)

    def asked(self, tasks: Sequence[Task]) -> "ExplainingEngine":
        """Return what explains the same model, asked for some of its tasks only."""
        return ExplainingEngine(self.engine.asked(tasks), self.wish)

    def _explain(self, voxels: Voxels, best: torch.Tensor) -> Voxels:
        from captum.attr import LayerGradCam

        classifier, preparer = self.engine.whole.classifier, self.engine.whole.preparer
        raw = torch.from_numpy(np.require(voxels, np.float32, "W")).to(self.engine.device)
        grey = preparer.grey(raw)

        def logits(x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = classifier(x, grey)["logits"]
            return found

        with torch.enable_grad(), memory_said(voxels, self.engine.device):
            x = preparer.resize(grey).requires_grad_()
            maps = LayerGradCam(logits, self.layer).attribute(x, target=best, relu_attributions=True)
        volumes = preparer.as_given(resized(maps.detach(), grey.shape[2:])[:, 0])
        largest = volumes.amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        explained: Voxels = (volumes / largest).cpu().numpy()
        return explained


def _layer(backbone: Backbone, wish: str) -> nn.Module:
    names = [name for name, _ in backbone.named_modules() if name and name.count(".") < 2]
    name = backbone.explained if wish == AUTO else wish
    if name not in names:
        what = (
            f"{wish}, which is no layer of this network" if name else "auto, and this network names no layer"
        )
        raise UsageError(f"--explain is {what}.", f"Its layers: {', '.join(names)}.")
    return backbone.get_submodule(name)
