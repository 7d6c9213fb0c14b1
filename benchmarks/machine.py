"""What the machine is: without it a timing means nothing."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from benchmarks.contenders import versions

__all__ = ["cores", "facts", "load"]


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load() -> str:
    """The load averages of the last 1, 5 and 15 minutes, or "unknown"."""
    return " ".join(f"{value:.2f}" for value in os.getloadavg()) if hasattr(os, "getloadavg") else "unknown"


def facts(threads: int) -> dict[str, Any]:
    """Processor, cores, threads, load at the start, and versions."""
    return {
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "cores": cores(),
        "threads": threads,
        "load at the start": load(),
        "versions": versions(),
    }


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
