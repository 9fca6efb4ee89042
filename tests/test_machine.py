import os

import pytest

from kaggle_runner.machine.gpu import GIB
from kaggle_runner.machine.limits import disk_free_bytes, nearest_existing, read_cpu_count, read_ram

CORES = len(os.sched_getaffinity(0))


def machine(root, **files):
    """Write files under a root; `__` in a name stands for `/`."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def meminfo(total_gib, available_gib):
    return (f"MemTotal:       {total_gib * 2**20} kB\nMemFree:         1000 kB\n"
            f"MemAvailable:   {available_gib * 2**20} kB\nHugePages_Total:       0\n")


def put(root, path, text):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_a_machine_without_a_container_has_what_meminfo_says(tmp_path):
    ram = read_ram(machine(tmp_path, proc__meminfo=meminfo(32, 20)))
    assert (ram.total_bytes, ram.available_bytes, ram.reason) == (32 * GIB, 20 * GIB, "/proc/meminfo")


def test_a_container_of_version_2_has_its_limit_less_what_it_uses(tmp_path):
    root = machine(tmp_path, proc__meminfo=meminfo(64, 60), proc__self__cgroup="0::/docker/abc\n")
    put(root, "sys/fs/cgroup/memory.max", str(8 * GIB))  # a container sees its own cgroup as the root
    put(root, "sys/fs/cgroup/memory.current", str(5 * GIB))
    put(root, "sys/fs/cgroup/memory.stat", f"anon {3 * GIB}\ninactive_file {2 * GIB}\n")
    ram = read_ram(root)
    assert ram.total_bytes == 8 * GIB
    assert ram.available_bytes == 5 * GIB, "the file cache counts as free"
    assert ram.reason == "the container's limit, of the machine's 64.00 GiB"


def test_a_container_of_version_1_has_its_limit_less_what_it_uses(tmp_path):
    root = machine(tmp_path, proc__meminfo=meminfo(64, 60), proc__self__cgroup="4:cpu:/\n3:blkio,memory:/job\n")
    put(root, "sys/fs/cgroup/memory/job/memory.limit_in_bytes", str(12 * GIB))
    (root / "sys/fs/cgroup/blkio,memory").symlink_to("memory")
    put(root, "sys/fs/cgroup/memory/job/memory.usage_in_bytes", str(2 * GIB))
    assert (read_ram(root).total_bytes, read_ram(root).available_bytes) == (12 * GIB, 10 * GIB)


def test_the_limit_of_an_outer_cgroup_counts_too(tmp_path):
    root = machine(tmp_path, proc__meminfo=meminfo(64, 60), proc__self__cgroup="0::/user/job\n")
    put(root, "sys/fs/cgroup/user/job/memory.max", "max")
    put(root, "sys/fs/cgroup/user/memory.max", str(6 * GIB))
    assert read_ram(root).total_bytes == 6 * GIB


def test_no_limit_is_no_limit(tmp_path):
    root = machine(tmp_path, proc__meminfo=meminfo(24, 22), proc__self__cgroup="4:memory:/\n")
    put(root, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712")
    put(root, "sys/fs/cgroup/memory/memory.usage_in_bytes", str(GIB))
    assert (read_ram(root).total_bytes, read_ram(root).available_bytes) == (24 * GIB, 22 * GIB)


def test_a_container_over_its_limit_has_nothing_free(tmp_path):
    root = machine(tmp_path, proc__meminfo=meminfo(24, 22), proc__self__cgroup="0::/\n")
    put(root, "sys/fs/cgroup/memory.max", str(GIB))
    put(root, "sys/fs/cgroup/memory.current", str(2 * GIB))
    assert read_ram(root).available_bytes == 0


def test_a_system_without_proc_still_has_a_size(tmp_path):
    assert read_ram(tmp_path).total_bytes > 0


def test_cores_are_those_this_process_may_run_on(tmp_path):
    assert read_cpu_count(tmp_path) == (CORES, "the cores this process may run on")


@pytest.mark.parametrize(("text", "cores"), [("100000 100000", 1), ("50000 100000", 1), ("max 100000", CORES),
                                             ("6400000 100000", CORES)])
def test_a_quota_of_version_2_lowers_the_cores(tmp_path, text, cores):
    put(tmp_path, "proc/self/cgroup", "0::/\n")
    put(tmp_path, "sys/fs/cgroup/cpu.max", text + "\n")
    assert read_cpu_count(tmp_path)[0] == cores


def test_a_quota_of_version_1_lowers_the_cores_and_is_the_reason(tmp_path):
    put(tmp_path, "proc/self/cgroup", "2:cpu:/\n")
    put(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000\n")
    put(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert read_cpu_count(tmp_path) == (1, "the container's quota of 0.5 CPU cores")


def test_no_quota_of_version_1_is_minus_one(tmp_path):
    put(tmp_path, "proc/self/cgroup", "2:cpu:/\n")
    put(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    put(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert read_cpu_count(tmp_path)[0] == CORES


def test_disk_space_is_that_of_the_nearest_directory_there_is(tmp_path):
    assert nearest_existing(tmp_path / "a/b/c") == tmp_path
    assert disk_free_bytes(tmp_path / "a/b/c") > 0
