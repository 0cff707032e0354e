import numpy as np
import pytest
import torch
from PIL import Image

from medkd.data.samples import load_samples
from medkd.train import preview
from medkd.train.preview import PREVIEWS, draw_preview, is_shown


@pytest.mark.parametrize(("steps", "every"), [(6, 3), (100, 30), (20000, 250), (7, 100)])
def test_pictures_are_few_and_end_with_the_training(steps, every, make_study):
    study, _ = make_study(dims=2)
    options = study.config.student.train.model_copy(
        update={"steps": steps, "validate_every": every}
    )
    validated = {*range(every, steps + 1, every), steps}
    shown = [step for step in sorted(validated) if is_shown(step, options)]
    assert 1 <= len(shown) <= PREVIEWS + 1
    assert shown[-1] == steps


@pytest.mark.parametrize("dims", [2, 3])
def test_reference_stands_left_and_answer_right(dims, make_study, monkeypatch, tmp_path):
    study, cohort = make_study(dims=dims)
    samples = load_samples(cohort.of(cohort.split.validation), study.config)

    def told(answers):
        def log_p(_, image, __):
            sample = next(s for s in samples if np.array_equal(s.image, image))
            return np.stack([answers(sample.label[0]) == i for i in range(3)]).astype(float)

        monkeypatch.setattr(preview, "predict_logits", log_p)
        draw_preview(tmp_path / "x" / "a.png", torch.nn.Identity(), samples, study.config)
        with Image.open(tmp_path / "x" / "a.png") as picture:
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        coloured = np.ptp(pixels, axis=-1) > 60
        width = pixels.shape[1] // 2
        return coloured[:, : width - 20].sum(), coloured[:, -width + 20 :].sum()

    left, right = told(lambda label: label)
    assert left == pytest.approx(right, rel=0.1)
    assert left > 0
    left, right = told(np.zeros_like)
    assert left > 0 == right
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["a.png"]
