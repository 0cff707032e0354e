"""Doctor: what this machine has, what is missing, and what to install."""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from medkd.environment import environment
from medkd.extras import installing

EXTRAS = {
    "device": ("onnxruntime", "nibabel", "pydicom", "PIL"),
    "dicom": ("highdicom", "pynetdicom", "gdcm", "pylibjpeg", "jpeg_ls"),
    "train": ("torch", "monai", "mlflow", "albumentations", "onnxscript", "matplotlib", "jinja2"),
    "dev": ("pytest", "ruff", "mypy"),
}


def doctor() -> Table:
    """Return a table of findings, each with a remedy where one is needed."""
    table = Table("what", "found", "remedy", box=None, title="medkd doctor", title_justify="left")
    here = environment()
    table.add_row("medkd", f"{here['medkd']} on Python {here['python']}", "")
    table.add_row("processor", f"{here['processor']}, {here['cores']} cores", "")
    fast = "avx512_bf16" in here["processor_flags"]
    table.add_row(
        "bf16 on this CPU", "yes" if fast else "no", "" if fast else "training runs in fp32"
    )
    table.add_row("memory", f"{here['memory_gib']} GiB", "")
    free_gib = shutil.disk_usage(Path.cwd()).free / 2**30
    table.add_row("free disk here", f"{free_gib:.0f} GiB", "" if free_gib > 5 else "make room")
    for extra, modules in EXTRAS.items():
        table.add_row(*_extra(extra, modules))
    data = os.environ.get("MEDKD_DATA")
    table.add_row("MEDKD_DATA", data or "not set", "" if data else "export MEDKD_DATA=FOLDER")
    return table


def _extra(extra: str, modules: tuple[str, ...]) -> tuple[str, str, str]:
    missing = [name for name in modules if find_spec(name) is None]
    if not missing:
        return f"extra {extra}", "complete", ""
    remedy = installing(None if extra == "device" else extra)  # what a device needs is no extra
    return f"extra {extra}", f"missing {', '.join(missing)}", escape(remedy)
