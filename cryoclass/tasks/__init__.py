"""What a network can be asked of a particle. A new task is one file beside these, and one entry in ``TASKS``."""

from collections.abc import Iterable

from cryoclass.errors import ModelError, UsageError
from cryoclass.tasks.classify import CLASSIFY
from cryoclass.tasks.recover import RECOVER
from cryoclass.tasks.segment import SEGMENT
from cryoclass.tasks.task import Features, Said, Scores, Task, Truth

__all__ = [
    "CLASSIFY",
    "RECOVER",
    "SEGMENT",
    "TASKS",
    "Features",
    "Said",
    "Scores",
    "Task",
    "Truth",
    "task_named",
    "tasks_typed",
]

TASKS: dict[str, Task] = {task.name: task for task in (CLASSIFY, SEGMENT, RECOVER)}


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


def tasks_typed(words: str, known: Iterable[str] = TASKS) -> tuple[Task, ...]:
    """Return the tasks of a list such as ``classify,segment``, in the order of ``TASKS``.

    Raises
    ------
    UsageError
        One of them is not known, or there is none.
    """
    possible, wished = [*known], [word.strip() for word in words.split(",") if word.strip()]
    strange = next((word for word in wished if word not in possible), None)
    if strange is not None or not wished:
        raise UsageError(
            f"--tasks is {words}; it must be one or more of {','.join(possible)}, with commas between them."
        )
    return tuple(task for name, task in TASKS.items() if name in wished)
