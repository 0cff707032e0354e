"""The promises of the package as a whole: its layers, and what importing it costs."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = (
    "torch monai mlflow onnx onnxruntime openvino matplotlib pandas scipy sklearn albumentations"
)
ROOT = Path(__file__).parents[1]


def python(code):
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    "module", ["medkd", "medkd.cli", "medkd.config", "medkd.options", "medkd.results"]
)
def test_importing_loads_no_heavy_library(module):
    code = f"import sys, {module}; print(sorted(set({HEAVY!r}.split()) & set(sys.modules)))"
    assert python(code) == "[]"


def test_the_help_of_the_command_line_loads_no_heavy_library():
    code = (
        "import sys; from typer.testing import CliRunner; from medkd.cli import app; "
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0; "
        f"print(sorted(set({HEAVY!r}.split()) & set(sys.modules)))"
    )
    assert python(code) == "[]"


def test_a_device_runs_without_the_training_libraries():
    code = (
        "import sys, medkd.device.answer, medkd.device.latency; "
        "print(sorted({'torch', 'monai', 'mlflow', 'jaxtyping'} & set(sys.modules)))"
    )
    assert python(code) == "[]"


def test_the_layers_are_kept():
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [lint, "--no-cache"], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_every_module_has_a_test_of_its_name():
    modules = [path.relative_to(ROOT / "medkd") for path in (ROOT / "medkd").rglob("*.py")]
    missing = {
        module.as_posix()
        for module in modules
        if module.name != "__init__.py"
        and not (ROOT / "tests" / module.parent / f"test_{module.name}").exists()
    }
    assert missing == set()
