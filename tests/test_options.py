import pytest
from pydantic import ValidationError

from medkd.options import DistillOptions, LossOptions, TeacherOptions

MODEL, TRAIN = {"name": "dynunet"}, {"steps": 1}
ONNX = {"kind": "onnx", "path": "a.onnx"}
HINT = {"name": "hint", "student_layer": "a", "teacher_layer": "b"}


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (TeacherOptions, {}, "name a model to train, or bring a teacher"),
        (TeacherOptions, {"model": MODEL}, "model and train belong together"),
        (TeacherOptions, {"train": TRAIN, "external": [ONNX]}, "model and train belong together"),
        (TeacherOptions, {"external": [ONNX | {"kind": "pickle"}]}, "checkpoint.*probabilities"),
        (LossOptions, {"name": "hint", "student_layer": "a"}, "belong together"),
        (LossOptions, HINT | {"standardise": True}, "are for answers, not layers"),
        (LossOptions, {"name": "pixel_kd", "weight": 0}, "greater than 0"),
        (DistillOptions, {"losses": [HINT]}, "set distill.online: true"),
    ],
)
def test_what_contradicts_itself_is_refused(section, values, message):
    with pytest.raises(ValidationError, match=message):
        section.model_validate(values)


def test_a_loss_of_layers_is_called_by_the_students():
    assert LossOptions.model_validate(HINT).label == "hint/a"
    assert LossOptions.model_validate({"name": "cwd", "temperature": 3}).label == "cwd"
    assert LossOptions.model_validate({"name": "cwd", "temperature": 3}).options == {
        "temperature": 3
    }
