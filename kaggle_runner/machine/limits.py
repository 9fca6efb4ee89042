"""RAM, cores and disk of this machine, and what a container allows of them: the lower figure counts.

Read from `/proc` and the cgroup files, so a fake root directory stands in for a machine in tests.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kaggle_runner.machine.gpu import in_gib


@dataclass(frozen=True, kw_only=True)
class Ram:
    """The RAM that the processes of this machine share."""

    total_bytes: int
    available_bytes: int
    """What can still be taken without swapping; file caches count as free."""
    reason: str


def read_ram(root: Path) -> Ram:
    """Read the memory of this machine, or of its container where that has less."""
    total, available, reason = _machine_ram(root)
    for limit, used in _memory_limits(root):
        if limit < total:
            total, reason = limit, f"the container's limit, of the machine's {in_gib(_machine_ram(root)[0])}"
        available = min(available, max(0, limit - used))
    return Ram(total_bytes=total, available_bytes=min(available, total), reason=reason)


def read_cpu_count(root: Path) -> tuple[int, str]:
    """Count the cores this process may use, with the reason: its affinity, or its container's quota in whole cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    reason = "the cores this process may run on"
    for directory in _cgroup_directories(root, "cpu"):
        quota, period = _cpu_quota(directory)
        if quota > 0 and period > 0 and quota / period < cores:
            cores = max(1, int(quota // period))
            reason = f"the container's quota of {quota / period:g} CPU cores"
    return cores, reason


def container_started(root: Path) -> float | None:
    """Return the Unix time at which this container's, or machine's, first process started; none if it does not say.

    Source: proc(5): field 22 of `/proc/[pid]/stat` in clock ticks since the boot, which is `btime` in `/proc/stat`.
    """
    try:
        ticks = int((root / "proc/1/stat").read_text().rpartition(")")[2].split()[19])
        lines = (root / "proc/stat").read_text().splitlines()
        boot = int(next(line for line in lines if line.startswith("btime")).split()[1])
        return boot + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def disk_free_bytes(directory: Path) -> int:
    """Return the bytes that can still be written where `directory` is, or would be made."""
    place = nearest_existing(directory)
    if not hasattr(os, "statvfs"):
        return 0
    status = os.statvfs(place)
    return status.f_bavail * status.f_frsize


def nearest_existing(directory: Path) -> Path:
    """Return the directory, or the nearest one above it that exists."""
    return next((place for place in (directory, *directory.parents) if place.is_dir()), Path("/"))


def _machine_ram(root: Path) -> tuple[int, int, str]:
    sizes = {}
    for line in _read(root / "proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        if name in ("MemTotal", "MemAvailable") and rest.split():
            sizes[name] = int(rest.split()[0]) * 1024
    if "MemTotal" in sizes:
        return sizes["MemTotal"], sizes.get("MemAvailable", sizes["MemTotal"]), "/proc/meminfo"
    # macOS has no /proc.
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return size, size, "sysconf, which does not tell what is in use"


def _memory_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Yield (limit, bytes in use without the file cache) of every cgroup above this process that has a limit."""
    for directory in _cgroup_directories(root, "memory"):
        for limit_file, used_file, cache_name in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit = _number(_read(directory / limit_file))
            if limit is not None:
                statistics = dict(line.split() for line in _read(directory / "memory.stat").splitlines() if " " in line)
                used = _number(_read(directory / used_file)) or 0
                yield limit, max(0, used - int(statistics.get(cache_name, 0)))


def _cpu_quota(directory: Path) -> tuple[int, int]:
    """Return (microseconds of CPU, in so many microseconds) of one cgroup, zeros where it has no quota."""
    quota, _, period = _read(directory / "cpu.max").strip().partition(" ")
    if not period:
        quota, period = _read(directory / "cpu.cfs_quota_us"), _read(directory / "cpu.cfs_period_us")
    return _number(quota) or 0, _number(period) or 0


def _cgroup_directories(root: Path, controller: str) -> Iterator[Path]:
    """Yield the cgroups this process is in, innermost first, of version 2 and 1: every one of them limits it.

    A container mostly sees its own cgroup as the root, whatever path /proc/self/cgroup names.
    """
    mount = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = mount / controller if controllers else mount
        inner = base / path.strip().lstrip("/")
        yield from (place for place in (inner, *inner.parents) if place == base or base in place.parents)


def _number(text: str) -> int | None:
    """Read a number of a cgroup file; none for `max`, -1 and a file that is not there."""
    try:
        number = int(text)
    except ValueError:
        return None
    return number if number >= 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
