"""How a program tells RELION (3.1, 4, 5) how an External job ended and what came out of it.

RELION starts the program in the project folder with ``--o External/job001/`` and then looks at files in that folder
alone, never at the exit status (RELION 5.0: ``pipeliner.cpp``, ``pipeline_control.cpp``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from cryoclass.errors import OutputError
from cryoclass.files import output_error

JOB = "job.star"
ABORT_NOW = "RELION_JOB_ABORT_NOW"
OUTPUT_NODES = "RELION_OUTPUT_NODES.star"


class End(Enum):
    """How a job ended: the empty file that says so."""

    SUCCESS = "RELION_JOB_EXIT_SUCCESS"
    FAILURE = "RELION_JOB_EXIT_FAILURE"
    ABORTED = "RELION_JOB_EXIT_ABORTED"


class Kind(Enum):
    """What an output is, as (number in RELION 3.1 and early 4, label in 4 and 5); ``pipeline_jobs.h`` of each."""

    PARTICLES = (3, "ParticleGroupMetadata.star.relion")
    OPTIMISATION_SET = (50, "TomoOptimisationSet.star.relion")


@dataclass(frozen=True, kw_only=True)
class Node:
    """An output that RELION offers to later jobs; ``path`` counts from the project folder."""

    path: Path
    kind: Kind


@dataclass(frozen=True, kw_only=True)
class ExternalJob:
    """A job folder of RELION, such as ``External/job001``."""

    folder: Path

    def start(self) -> None:
        """Make the folder where it is missing, and remove what an earlier run said of its end.

        A wish to abort stays, as in RELION's own programs: it may be younger than the job's place in a queue.

        Raises
        ------
        OutputError
            The folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for end in End:
                (self.folder / end.value).unlink(missing_ok=True)
        except OSError as error:
            raise output_error(error, self.folder) from error

    def abort_asked(self) -> bool:
        """Whether somebody pressed Abort."""
        return (self.folder / ABORT_NOW).exists()

    def write_nodes(self, nodes: Sequence[Node]) -> None:
        """List the outputs; 3.1 reads the numbers and 4 and 5 the labels, each ignores the other."""
        # The command line imports this module at once, and tables need pandas.
        from cryoclass.star.tables import write_tables

        table = {
            "rlnPipeLineNodeName": [node.path.as_posix() for node in nodes],
            "rlnPipeLineNodeType": [node.kind.value[0] for node in nodes],
            "rlnPipeLineNodeTypeLabel": [node.kind.value[1] for node in nodes],
        }
        write_tables(self.folder / OUTPUT_NODES, {"output_nodes": table})

    def end(self, how: End) -> None:
        """Say how the job ended. This comes last: RELION reads the outputs as soon as it sees success.

        Raises
        ------
        OutputError
            The file cannot be written, so RELION will think that the job goes on.
        """
        try:
            (self.folder / ABORT_NOW).unlink(missing_ok=True)
            (self.folder / how.value).touch()
        except OSError as error:
            raise OutputError(
                f"{self.folder / how.value} cannot be written: {error.strerror}; RELION will think that the job goes on.",
                "Mark it as finished or failed in RELION.",
            ) from error
