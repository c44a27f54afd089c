"""What a fine-tuning leaves on the disk beside the model itself."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cryoclass.files import write_text
from cryoclass.labels import Labelled
from cryoclass.results import decide_all
from cryoclass.star.tables import write_tables
from cryoclass.tasks import CLASSIFY
from cryoclass.training.finetune import FineTuned


def write_history(path: Path, records: Sequence[Any]) -> None:
    """Write the dataclasses of a history, one line each, as CSV."""
    out = io.StringIO()
    table = csv.DictWriter(out, fieldnames=list(asdict(records[0])), lineterminator="\n")
    table.writeheader()
    table.writerows(asdict(record) for record in records)
    write_text(path, out.getvalue())


def write_predictions(path: Path, tuned: FineTuned, labelled: Labelled) -> None:
    """Write the validation and test particles with their part, their label and what the model says.

    From one STAR file, they are its own rows with all that stood in them; from one file per class, whose columns may
    differ, a table that names file and line of each.
    """
    rows, probabilities = tuned.history.rows, tuned.history.probabilities
    columns = CLASSIFY.columns(decide_all(probabilities), labelled.classes)
    columns["cryoclassLabel"] = [labelled.classes[number] for number in labelled.labels[rows]]
    columns["cryoclassSplit"] = tuned.assignment.parts[rows].tolist()
    if len(labelled.tables) == 1:
        labelled.tables[0].select(rows.tolist()).with_columns(columns).write(path)
        return
    starts = np.cumsum([0, *(len(table) for table in labelled.tables)])
    which = np.searchsorted(starts, rows, side="right") - 1
    lines = [labelled.tables[w].line(row - starts[w]) for w, row in zip(which, rows, strict=True)]
    origin = {"cryoclassFile": [str(labelled.tables[w].path) for w in which], "cryoclassLine": lines}
    write_tables(path, {"particles": {**origin, **columns}})
