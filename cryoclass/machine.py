"""The machine as this process may use it: cores, memory, device and number type."""

import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from cryoclass.errors import UsageError
from cryoclass.settings import Precision

if TYPE_CHECKING:
    import torch

NumberType = Literal["fp32", "bf16"]

ROOT = Path("/")  # of the files in which Linux says what there is; tests have trees of their own
UNITS = {"": 2**20, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}  # SLURM's; a plain number is in MB


# --------------------------------------------------------------------------------------------- memory


class Memory(NamedTuple):
    """Bytes that this process may still take, and the most that it could ever have."""

    free: int
    total: int


def available_memory(root: Path = ROOT, environment: Mapping[str, str] = os.environ) -> int:
    """Return the bytes that this process may still take: what the machine has free, within the limits of a job."""
    return memory(root, environment).free


def memory(root: Path = ROOT, environment: Mapping[str, str] = os.environ) -> Memory:
    """Return free and total bytes: of the machine, or of the container or job where that has less.

    Parameters
    ----------
    root
        Where ``proc`` and ``sys`` lie.
    environment
        In which SLURM says what a job asked for.
    """
    limits = [_machine_memory(root), *_group_memory(root), *_slurm_memory(environment)]
    return Memory(
        free=max(0, min(limit.free for limit in limits)), total=min(limit.total for limit in limits)
    )


def _machine_memory(root: Path) -> Memory:
    """Return what Linux would give, caches included; elsewhere half of all memory counts as free."""
    text = _text(root / "proc/meminfo")
    said = {name: 1024 * int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    if "MemAvailable" in said:
        return Memory(free=said["MemAvailable"], total=said["MemTotal"])
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Memory(free=total // 2, total=total)


def _group_memory(root: Path) -> Iterator[Memory]:
    """Yield what each control group leaves that this process is in: a container, a job, and what holds them."""
    for folder in _groups(root, "memory"):
        limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
        if limit is None:
            continue
        used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes") or 0
        yield Memory(free=limit - used + _file_cache(folder), total=limit)


def _file_cache(folder: Path) -> int:
    """Return the bytes of a group that only hold files, which the kernel takes back before it kills anything."""
    text = _text(folder / "memory.stat")
    version = "total_" if "total_inactive_file" in text else ""  # version 1 counts the groups below apart
    pages = re.findall(rf"^{version}(?:in)?active_file (\d+)$", text, re.MULTILINE)
    return sum(map(int, pages))


def _slurm_memory(environment: Mapping[str, str]) -> Iterator[Memory]:
    """Yield what a SLURM job asked for on this node; 0 means all that the node has."""
    node = _slurm_bytes(environment.get("SLURM_MEM_PER_NODE", ""))
    if node:
        yield Memory(free=node, total=node)
    processors = environment.get("SLURM_CPUS_ON_NODE") or environment.get("SLURM_CPUS_PER_TASK") or "1"
    each = _slurm_bytes(environment.get("SLURM_MEM_PER_CPU", ""))
    if each and processors.isdecimal():
        yield Memory(free=each * int(processors), total=each * int(processors))


def _slurm_bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+)([KMGT]?)B?", text.strip().upper())
    return int(found[1]) * UNITS[found[2]] if found else 0


def short_of_memory(error: BaseException) -> Literal["", "GPU", "computer"]:
    """Return what an error says has too little memory; empty where it says something else."""
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return "GPU"
    cpu = isinstance(error, RuntimeError) and re.search("can't allocate memory|not enough memory", str(error))
    return "computer" if cpu or isinstance(error, MemoryError) else ""


# ---------------------------------------------------------------------------------------------- cores


def cores(root: Path = ROOT) -> int:
    """Return how many cores this process may use: SLURM, taskset and the quota of a container are obeyed."""
    quotas = [_quota(folder) for folder in _groups(root, "cpu")]
    return max(1, int(min([_own_cores(), *quotas])))


def _own_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quota(folder: Path) -> float:
    """Return the processors' time that a control group may take, in cores."""
    quota, _, period = _text(folder / "cpu.max").partition(" ")
    if not quota:
        quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
    given = quota.strip().isdecimal() and period.strip().isdecimal() and int(period) > 0  # not "max", not -1
    return int(quota) / int(period) if given else math.inf


# ------------------------------------------------------------------------------------- control groups


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control groups, of version 1 and 2, each followed by those that hold it.

    Within a container the file may name groups as the host sees them, which do not exist here; those that hold them do.
    """
    mounted = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number == "0" and not names:
            top = mounted
        elif controller in names.split(","):
            top = next((mounted / name for name in (controller, names) if (mounted / name).is_dir()), mounted)
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        yield from (top.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1))


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


# --------------------------------------------------------------------------------------------- copies

# What says how many copies of a command were started: torchrun, srun, and the mpirun of Open MPI and of MPICH. A batch script
# has SLURM_NTASKS too, where one copy runs; srun alone sets the one here.
COPIES = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


def copies(environment: Mapping[str, str] = os.environ) -> int:
    """Return how many copies of this command were started together."""
    return max(int(environment[name]) if environment.get(name, "").isdecimal() else 1 for name in COPIES)


def check_one_copy(environment: Mapping[str, str] = os.environ) -> None:
    """Raise a UsageError where copies of a command run that would each do all the work, and write the same files."""
    count = copies(environment)
    if count > 1:
        names = [name for name in COPIES if environment.get(name, "") == str(count)]
        raise UsageError(
            f"{count} copies of this command were started (by torchrun, srun or mpirun: {names[0]} is {count}); they cannot "
            "share work, and would write the same files.",
            "Start it once (srun -n 1, --nproc-per-node 1); it uses all cores of its job. If each copy has work of its own: "
            f"env -u {names[0]} cryoclass ...",
        )


# ---------------------------------------------------------------------------- devices and number types


def choose_device(wish: str = "auto") -> "torch.device":
    """Turn ``--device`` into a device that exists.

    Parameters
    ----------
    wish
        ``auto`` (the first CUDA GPU, or else the CPU), ``cpu``, ``cuda`` or ``cuda:1``.

    Raises
    ------
    UsageError
        An unknown name, or a CUDA GPU that is not there; says why.
    """
    import torch

    check_name(wish)
    if wish == "cpu":
        return torch.device("cpu")
    absent = why_no_cuda()
    if absent and wish == "auto":
        return torch.device("cpu")
    if absent:
        raise UsageError(
            f"--device is {wish}, but there is no CUDA GPU to use: {absent}.", "Use --device cpu."
        )
    device = torch.device("cuda:0" if wish == "auto" else wish)
    if (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"--device is {wish}, but there are only {torch.cuda.device_count()} CUDA GPUs, counted from 0."
        )
    return device


def check_name(wish: str) -> None:
    """Raise a UsageError where ``wish`` is no name of a device."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", wish):
        raise UsageError(f"--device is {wish!r}; it must be auto, cpu, cuda or cuda:N.")


def why_no_cuda() -> str:
    """Return the reason why CUDA cannot be used, or an empty string where it can."""
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return ""
    reason = (
        str(said[0].message).partition("\n")[0].rstrip(".") if said else "torch finds no NVIDIA GPU or driver"
    )
    return f"{reason} (torch {torch.__version__})"


def number_type(device: "torch.device", wish: Precision = "auto") -> NumberType:
    """Return what to compute in: bfloat16 on GPUs made for it, else float32.

    On a CPU nobody gets bfloat16 unasked: its weight gradients of small maps are garbage.
    """
    import torch

    if wish != "auto":
        return wish
    able = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if able else "fp32"


def computing_in(device: "torch.device", wish: Precision = "auto") -> "torch.autocast":
    """Return the context in which torch computes in :func:`number_type`'s numbers."""
    import torch

    half = number_type(device, wish) == "bf16"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=half)
