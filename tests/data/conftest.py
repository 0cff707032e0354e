import pytest
from hypothesis import settings

from medkd.config import Config
from medkd.study import Study

settings.register_profile("files", deadline=None)  # disks and shared cores are slow at times
settings.load_profile("files")

MODEL = {"model": {"name": "plain_unet"}, "train": {"steps": 4, "workers": 0}}


@pytest.fixture
def make_study(tmp_path):
    """Return a maker of a study of ``tmp_path/cases.csv``; sections are merged over the rest."""

    def make(**sections):
        data = {"root": str(tmp_path), "source": "cases.csv", "labels": {"organ": 1, "lesion": 5}}
        values = {
            "study": {"name": "tiny", "root": str(tmp_path / "runs")},
            "preprocess": {"window": [8, 8, 8]},
            "teacher": MODEL,
            "student": MODEL,
            "distill": {"losses": [{"name": "pixel_kd"}]},
        }
        data |= sections.pop("data", {})
        config = Config.model_validate(values | {"data": data} | sections)
        return Study(config, config_path=tmp_path / "tiny.yaml")

    return make
