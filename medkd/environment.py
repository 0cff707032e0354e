"""Environment: the machine and the software a figure was measured on."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from medkd import __version__

PACKAGES = (
    "torch",
    "monai",
    "mlflow",
    "onnx",
    "onnxruntime",
    "openvino",
    "nncf",
    "numpy",
    "scipy",
    "nibabel",
    "pydicom",
)

TOLD_FLAGS = {  # that decide how fast a network is
    *("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_bf16", "amx_int8"),
}


def environment() -> dict[str, Any]:
    """Describe processor, memory, load and versions; no host or user name."""
    return {
        "medkd": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "processor_flags": sorted(cpu_flags() & TOLD_FLAGS),
        "cores": os.cpu_count(),
        "memory_gib": round(memory_bytes() / 2**30, 1),
        "load_average": os.getloadavg()[0],
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def processor() -> str:
    """Return the processor's name."""
    return _cpuinfo("model name") or platform.processor()


def cpu_flags() -> set[str]:
    """Return the processor's feature flags; empty where the system does not tell."""
    return set(_cpuinfo("flags").split())


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpuinfo(field: str) -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def memory_bytes() -> int:
    """Return the machine's memory, or what a container may have of it (cgroup v2)."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    granted = Path("/sys/fs/cgroup/memory.max")
    limit = granted.read_text().strip() if granted.exists() else "max"
    return machine if limit == "max" else min(machine, int(limit))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
