"""What a network can be asked of a particle. A new task is one file beside these, and one entry in ``TASKS``."""

from cryoclass.errors import ModelError
from cryoclass.tasks.classify import CLASSIFY
from cryoclass.tasks.task import Features, Said, Task

__all__ = ["CLASSIFY", "TASKS", "Features", "Said", "Task", "task_named"]

TASKS: dict[str, Task] = {task.name: task for task in (CLASSIFY,)}


def task_named(name: str) -> Task:
    """Return a task by its name.

    Raises
    ------
    ModelError
        There is none of this name.
    """
    if name not in TASKS:
        raise ModelError(
            f"There is no task named {name!r}; known are {', '.join(TASKS)}.",
            "Use the version of cryoclass that made the model.",
        )
    return TASKS[name]
