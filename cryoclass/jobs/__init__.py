"""One function per verb: a frozen request in, a result out, nothing printed; what ``import cryoclass`` offers.

The modules here import nothing heavy; each function imports what it needs when it runs.
"""

from cryoclass.jobs.doctor import DoctorRequest, DoctorResult, doctor
from cryoclass.jobs.embed import EmbedRequest, EmbedResult, embed
from cryoclass.jobs.export import ExportRequest, ExportResult, export
from cryoclass.jobs.extract import ExtractRequest, ExtractResult, extract
from cryoclass.jobs.finetune import FinetuneRequest, FinetuneResult, finetune
from cryoclass.jobs.predict import PredictRequest, PredictResult, predict
from cryoclass.jobs.pretrain import PretrainRequest, PretrainResult, pretrain
from cryoclass.jobs.select import SelectRequest, SelectResult, select
from cryoclass.jobs.simulate import SimulateRequest, simulate

__all__ = [
    "DoctorRequest",
    "DoctorResult",
    "EmbedRequest",
    "EmbedResult",
    "ExportRequest",
    "ExportResult",
    "ExtractRequest",
    "ExtractResult",
    "FinetuneRequest",
    "FinetuneResult",
    "PredictRequest",
    "PredictResult",
    "PretrainRequest",
    "PretrainResult",
    "SelectRequest",
    "SelectResult",
    "SimulateRequest",
    "doctor",
    "embed",
    "export",
    "extract",
    "finetune",
    "predict",
    "pretrain",
    "select",
    "simulate",
]
