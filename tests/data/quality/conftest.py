import pytest


@pytest.fixture
def cohort():
    """Return a maker of cases and of what is known of them, ``count`` alike with ``changes``."""
    from pathlib import Path

    from medkd.data.quality.examine import Examined, Intensities
    from medkd.types import Case

    def make(count, *, changes=None, patients=None, names="c{:03d}"):
        spread = {"least": 0.0, "low": 1.0, "median": 50.0, "high": 99.0, "most": 100.0}
        cases, examined = {}, {}
        for number in range(count):
            name = names.format(number)
            told = {
                "pixels": f"pixels-{number}",
                "shape": (40, 50, 30),
                "spacing_mm": (1.0, 1.0, 2.0),
                "orientation": "RAS",
                "channels": 1,
                "stored": "int16",
                "intensities": Intensities(**spread, mean=50.0, std=20.0),
                "voxels": {0: 900, 1: 100, 5: 60},
            }
            told |= (changes or {}).get(number, {})
            examined[name] = Examined(**told)
            patient = patients[number] if patients else f"p{number}"
            cases[name] = Case(name, Path(f"{name}.nii"), Path(f"{name}-label.nii"), patient)
        return cases, examined

    return make


@pytest.fixture
def config(make_study):
    return make_study().config
