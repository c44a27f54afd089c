"""What an exported file knows about itself."""

import json

import onnx

from cryoclass.card import CARD_KEY, ModelCard, cryoclass_version
from cryoclass.exporting.graph import ExportPrecision
from cryoclass.exporting.parity import Parity

PRECISION_KEY = "cryoclass_precision"
PARITY_KEY = "cryoclass_parity"


def write_metadata(
    model: onnx.ModelProto, card: ModelCard, precision: ExportPrecision, parity: Parity
) -> None:
    """Put the card, the precision and the parity with torch into the metadata of a graph; no date, no path."""
    model.producer_name, model.producer_version = "cryoclass", cryoclass_version()
    onnx.helper.set_model_props(
        model,
        {
            CARD_KEY: card.to_json(),
            PRECISION_KEY: precision,
            PARITY_KEY: json.dumps(parity.to_dict()),
        },
    )
