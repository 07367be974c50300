"""The most memory a process has held."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

__all__ = ["forget_peak_memory", "peak_memory_mb"]


def forget_peak_memory() -> None:
    """Linux counts the peak anew from here; elsewhere it stays that of the whole process."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_memory_mb() -> float | None:
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)
