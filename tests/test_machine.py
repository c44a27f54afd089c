"""What this process may use: memory, cores and devices, as Linux and batch systems say it in small files."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from cryoclass.checks.machine import check_computer
from cryoclass.errors import UsageError
from cryoclass.machine import (
    Memory,
    available_memory,
    choose_device,
    computing_in,
    cores,
    memory,
    number_type,
    short_of_memory,
)

MB, GB = 2**20, 2**30
CPU = torch.device("cpu")
NO_LIMIT = "9223372036854771712"  # what version 1 says


@pytest.fixture
def machine(tmp_path):
    """Make a computer with 64 GB, 40 of them free, and what else the test writes: text by path."""

    def make(files=()):
        everything = {
            "proc/meminfo": f"MemTotal: {64 * 2**20} kB\nMemFree: 1 kB\nMemAvailable: {40 * 2**20} kB\n",
            **dict(files),
        }
        for name, text in everything.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


def version_2(group="/job", **files):
    """Return the files of a control group of version 2; those of the groups above it are called ``up_...``."""
    home = f"sys/fs/cgroup{group}"
    return {"proc/self/cgroup": f"0::{group}\n"} | {
        f"{home}/{name.replace('_', '.', 1)}": f"{text}\n" for name, text in files.items()
    }


# --------------------------------------------------------------------------------------------- memory


def test_what_linux_calls_available_is_free(machine):
    assert memory(machine(), {}) == Memory(free=40 * GB, total=64 * GB)
    assert available_memory(machine(), {}) == 40 * GB


def test_this_machine_has_memory_and_cores():
    free, total = memory()
    assert 2**20 < free <= total
    assert 1 <= cores() <= os.cpu_count()


def test_elsewhere_half_of_all_memory_counts_as_free(tmp_path):
    free, total = memory(tmp_path, {})
    assert total == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert free == total // 2


def test_the_limit_of_a_container_less_what_it_uses_is_free(machine):
    root = machine(version_2(memory_max=8 * GB, memory_current=3 * GB))
    assert memory(root, {}) == Memory(free=5 * GB, total=8 * GB)


def test_files_that_the_kernel_keeps_for_speed_count_as_free(machine):
    stat = f"anon {GB}\ninactive_file {GB}\nactive_file {GB}\nshmem {GB}"
    root = machine(version_2(memory_max=8 * GB, memory_current=6 * GB, memory_stat=stat))
    assert available_memory(root, {}) == 4 * GB


def test_a_container_that_is_full_leaves_nothing(machine):
    assert available_memory(machine(version_2(memory_max=GB, memory_current=2 * GB)), {}) == 0


def test_the_machine_counts_where_a_container_may_take_more_or_all(machine):
    for limit in ("max", 500 * GB):
        root = machine(version_2(memory_max=limit, memory_current=GB))
        assert memory(root, {}) == Memory(free=40 * GB, total=64 * GB)


def test_a_group_that_holds_this_one_may_be_the_tighter(machine):
    files = version_2("/user/job/step_0", memory_max="max", memory_current=GB)
    above = {
        "sys/fs/cgroup/user/job/memory.max": f"{6 * GB}\n",
        "sys/fs/cgroup/user/job/memory.current": f"{2 * GB}\n",
    }
    assert available_memory(machine(files | above), {}) == 4 * GB


@pytest.mark.parametrize("group", ["/docker/0123abc", "/../../system.slice"])
def test_a_group_that_only_the_host_knows_is_the_top_one_here(machine, group):
    files = {
        "proc/self/cgroup": f"0::{group}\n",
        "sys/fs/cgroup/memory.max": f"{GB}",
        "sys/fs/cgroup/memory.current": f"{GB // 4}",
    }
    assert available_memory(machine(files), {}) == 3 * GB // 4


@pytest.mark.parametrize("inside", [True, False])
def test_version_1_of_control_groups(machine, inside):
    folder = "sys/fs/cgroup/memory" + ("/slurm/job_7" if inside else "")
    files = {
        "proc/self/cgroup": "12:cpu,cpuacct:/slurm/job_7\n7:memory:/slurm/job_7\n1:name=systemd:/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": NO_LIMIT,
        f"{folder}/memory.limit_in_bytes": f"{4 * GB}",
        f"{folder}/memory.usage_in_bytes": f"{3 * GB}",
        f"{folder}/memory.stat": f"inactive_file 1\nactive_file 1\ntotal_inactive_file {GB}\ntotal_active_file 0\n",
    }
    assert memory(machine(files), {}) == Memory(free=2 * GB, total=4 * GB)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"SLURM_MEM_PER_NODE": "3"}, 3 * MB),
        ({"SLURM_MEM_PER_NODE": "2G"}, 2 * GB),
        ({"SLURM_MEM_PER_NODE": "512K"}, 512 * 2**10),
        ({"SLURM_MEM_PER_CPU": "1000"}, 1000 * MB),
        ({"SLURM_MEM_PER_CPU": "1000", "SLURM_CPUS_ON_NODE": "6", "SLURM_CPUS_PER_TASK": "3"}, 6000 * MB),
        ({"SLURM_MEM_PER_CPU": "1g", "SLURM_CPUS_PER_TASK": "3"}, 3 * GB),
        ({"SLURM_MEM_PER_CPU": "1G", "SLURM_CPUS_ON_NODE": "200"}, 40 * GB),
        ({"SLURM_MEM_PER_NODE": "0"}, 40 * GB),  # all that the node has
        ({"SLURM_MEM_PER_NODE": "much"}, 40 * GB),
    ],
)
def test_a_job_of_slurm_limits_the_memory(machine, said, expected):
    assert available_memory(machine(), said) == expected


def test_the_tightest_of_all_limits_counts(machine):
    root = machine(version_2(memory_max=8 * GB, memory_current=5 * GB))
    assert available_memory(root, {"SLURM_MEM_PER_NODE": "2048"}) == 2 * GB
    assert available_memory(root, {"SLURM_MEM_PER_NODE": "4096"}) == 3 * GB


def test_the_doctor_says_the_same_and_warns_of_little():
    (finding,) = check_computer(2, Memory(free=3 * GB, total=8 * GB))
    assert (finding.level, finding.words.endswith("3.22 GB of 8.59 GB memory free")) == ("ok", True)
    (finding,) = check_computer(2, Memory(free=GB, total=8 * GB))
    assert finding.level == "warning"


# ---------------------------------------------------------------------------------------------- cores


def test_a_quota_limits_the_cores(machine):
    own = cores(machine())
    assert own == len(os.sched_getaffinity(0))
    for text, expected in (
        ("100000 100000", 1),
        ("50000 100000", 1),
        (f"{100000 * (own + 1)} 100000", own),
        ("max 100000", own),
    ):
        assert cores(machine(version_2(cpu_max=text))) == expected


@pytest.mark.parametrize("mounted", ["cpu", "cpu,cpuacct"])
def test_a_quota_of_version_1(machine, mounted):
    files = {
        "proc/self/cgroup": "4:cpu,cpuacct:/box\n",
        f"sys/fs/cgroup/{mounted}/box/cpu.cfs_quota_us": "100000\n",
        f"sys/fs/cgroup/{mounted}/box/cpu.cfs_period_us": "100000\n",
    }
    assert cores(machine(files)) == 1
    files[f"sys/fs/cgroup/{mounted}/box/cpu.cfs_quota_us"] = "-1\n"
    assert cores(machine(files)) == len(os.sched_getaffinity(0))


# ---------------------------------------------------------------------------- devices and number types


def test_choose_device():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for wrong in ("gpu", "cuda:", "cuda:x", "cpu:0", ""):
        with pytest.raises(UsageError, match="it must be auto, cpu, cuda or cuda:N"):
            choose_device(wrong)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_asking_for_an_absent_gpu_says_why():
    with pytest.raises(UsageError, match=r"there is no CUDA GPU to use: .*torch"):
        choose_device("cuda:1")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_asking_for_a_gpu_too_many_says_how_many_there_are():
    assert choose_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(UsageError, match="there are only"):
        choose_device("cuda:99")


def test_a_cpu_gets_bfloat16_only_where_it_is_asked_for():
    assert [number_type(CPU, wish) for wish in ("auto", "fp32", "bf16")] == ["fp32", "fp32", "bf16"]
    x = torch.ones(2, 2)
    with computing_in(CPU):
        assert (x @ x).dtype == torch.float32
    with computing_in(CPU, "bf16"):
        assert (x @ x).dtype == torch.bfloat16


def lacks(work):
    try:
        work()
    except (RuntimeError, MemoryError) as error:
        return short_of_memory(error)
    raise AssertionError("it did not fail")


def test_a_lack_of_memory_is_told_from_other_errors():
    def gpu():
        raise torch.OutOfMemoryError("CUDA out of memory.")

    assert lacks(lambda: torch.empty(10**15)) == "computer"
    assert lacks(lambda: np.empty(10**15)) == "computer"
    assert lacks(gpu) == "GPU"
    assert lacks(lambda: torch.zeros(2) + torch.zeros(3)) == ""


def test_nothing_heavy_is_imported_before_it_is_needed():
    code = "import cryoclass.machine as m, sys; m.cores(); m.memory(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
