"""The last step of a training: probabilities that mean what they say, and a score for what no class is like."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cryoclass.calibration import at_temperature, fit_temperature
from cryoclass.classifier import Classifier
from cryoclass.familiarity import UNKNOWN_SCORE, Learnt, Usual, fit_familiarity

Said = Mapping[str, NDArray[np.float32]]
How = Literal["validation", "cross-validation", "nothing"]


@dataclass(frozen=True, kw_only=True)
class Trust:
    """On what calibration and unknown score rest.

    Attributes
    ----------
    temperature
        What the numbers of the head were divided by.
    how, count
        On which particles it was fitted, and on how many.
    usual
        What says how far particles of known classes lie from their class; None where there is no unknown score.
    """

    temperature: float
    how: How
    count: int
    usual: Usual | None

    @property
    def calibration(self) -> dict[str, Any]:
        """What the card says of the calibration."""
        if self.how == "nothing":
            return {}
        return {"temperature": self.temperature, "fitted_on": self.how, "particles": self.count}

    @property
    def familiarity(self) -> dict[str, Any]:
        """What the card says of the unknown score."""
        if self.usual is None:
            return {}
        return {"particles": self.usual.count, "left_out_in_turn": self.usual.crossed}


NO_TRUST = Trust(temperature=1.0, how="nothing", count=0, usual=None)


@torch.no_grad()
def calibrate(head: nn.Linear, said: Said, temperature: float) -> dict[str, NDArray[np.float32]]:
    """Divide what a head says by a temperature, and what it has said before; return that."""
    head.weight.div_(temperature)
    head.bias.div_(temperature)
    changed = {"probabilities": at_temperature(said["probabilities"], temperature)}
    if "logits" in said:
        changed["logits"] = said["logits"] / np.float32(temperature)
    return {**said, **changed}


def temperature_of(said: Said, labels: NDArray[np.integer]) -> tuple[float, int]:
    """Return the temperature that suits the labelled of some particles that a network has spoken of, and how many they are; 1 for none."""
    known = labels >= 0
    if not known.any():
        return 1.0, 0
    logs = np.log(np.maximum(said["probabilities"][known], np.finfo(np.float32).tiny))
    return fit_temperature(logs, labels[known]), int(known.sum())


def get_familiar(classifier: Classifier, learnt: Learnt, *, frozen: bool) -> Usual | None:
    """Give a classifier what tells how unlike everything learnt a particle is, where that can be known; return on what it rests."""
    found = fit_familiarity(learnt, frozen=frozen)
    if found is None:
        return None
    model, usual = found
    classifier.familiarity = model.to(next(classifier.parameters()).device)
    return usual


@torch.no_grad()
def unknown_scores(classifier: Classifier, embedding: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Return the unknown score of embeddings (m, E), by its name; nothing where there is none."""
    if classifier.familiarity is None:
        return {}
    device = classifier.familiarity.means.device
    return {UNKNOWN_SCORE: classifier.familiarity(torch.from_numpy(embedding).to(device)).cpu().numpy()}
