"""cryoclass: classify cryo-electron-tomography subtomograms with 3D networks that learnt from video.

One function per verb, each of which takes a frozen request and returns a result::

    import cryoclass

    cryoclass.predict(cryoclass.PredictRequest(particles=..., choice=cryoclass.ModelChoice(model=...)))

Nothing is imported before it is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_JOBS = (
    *("doctor", "DoctorRequest", "DoctorResult"),
    *("embed", "EmbedRequest", "EmbedResult"),
    *("export", "ExportRequest", "ExportResult"),
    *("extract", "ExtractRequest", "ExtractResult"),
    *("finetune", "FinetuneRequest", "FinetuneResult"),
    *("predict", "PredictRequest", "PredictResult"),
    *("pretrain", "PretrainRequest", "PretrainResult"),
    *("select", "SelectRequest", "SelectResult"),
    *("simulate", "SimulateRequest"),
)
_SETTINGS = (
    *("BareBackbone", "BoxOrigin", "Cutting", "Exemplars", "Extraction", "Invention", "Learner"),
    *("Mapping2d", "ModelChoice", "Pretraining", "Simulation", "Split", "Start", "TomogramFiles", "Training"),
)
_WHERE = {
    **dict.fromkeys(_JOBS, "cryoclass.jobs"),
    **dict.fromkeys(_SETTINGS, "cryoclass.settings"),
    "CryoclassError": "cryoclass.errors",
    "Listener": "cryoclass.progress",
}

__all__ = ["__version__", *sorted(_WHERE)]  # noqa: PLE0604 - all of them are texts

if TYPE_CHECKING:
    from cryoclass.errors import CryoclassError as CryoclassError
    from cryoclass.jobs import *  # noqa: F403
    from cryoclass.progress import Listener as Listener
    from cryoclass.settings import *  # noqa: F403


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for (PEP 562)."""
    if name not in _WHERE:
        raise AttributeError(f"module 'cryoclass' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return __all__
