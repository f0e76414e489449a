"""How much memory there is to use, and sizes as people write them."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


def available_bytes() -> int:
    """Memory a process may still take, or 8 GiB where the system does not tell.

    On Linux what the kernel calls available (file caches that it would give back included), and no
    more than a container's limit (cgroup v2) leaves.
    """
    free = _from_meminfo()
    if free is None:
        try:
            free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (ValueError, OSError, AttributeError):
            free = 8 * 2**30
    limit = _read_number(_CGROUP / "memory.max")
    used = _read_number(_CGROUP / "memory.current")
    if limit is not None and used is not None:
        free = min(free, max(limit - used, 0))
    return free


def readable_bytes(count: float) -> str:
    """`312 MB`, `5.3 GB`: powers of 1024, as memory is sold.

    Example:
        >>> readable_bytes(327_155_712), readable_bytes(5_690_000_000), readable_bytes(100)
        ('312 MB', '5.3 GB', '0 MB')
    """
    if count < 1000 * 2**20:
        return f"{count / 2**20:.0f} MB"
    return f"{count / 2**30:.1f} GB"


def _from_meminfo() -> int | None:
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * 1024
    return None


def _read_number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
