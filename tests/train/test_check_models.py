import json
from contextlib import nullcontext as no_error

import pytest

from medkd.config import load
from medkd.errors import ConfigError
from medkd.train.check_models import check_models
from medkd.types import Task

HINT = {"name": "hint", "student_layer": "model.0", "teacher_layer": "input_block"}


@pytest.fixture
def config(make_config):
    path = make_config(dims=3)
    return lambda *overrides: load(path, overrides=overrides)


def test_a_sound_config_passes(config):
    check_models(config(), task=Task.SEGMENTATION)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("teacher.model.name=dynunt", r"teacher\.model: unknown .* did you mean 'dynunet'"),
        ("student.model.chanels=[4, 8]", r"student\.model: .* did you mean 'channels'"),
        ("student.model.classes=7", r"student\.model: .* has no option 'classes'"),
        ("preprocess.window=[16, 16, 17]", "cannot take|choose a window that every level"),
        ("distill.losses=[{name: pixl_kd}]", r"distill\.losses: .* did you mean 'pixel_kd'"),
        ("distill.losses=[{name: pixel_kd, temperature: 0}]", "temperature must be positive"),
        ("distill.losses=[{name: pixel_kd, temperature: hot}]", r"distill\.losses: "),
    ],
)
def test_what_cannot_be_trained_is_named_before_anything_is(config, override, message):
    with pytest.raises(ConfigError, match=message):
        check_models(config(override))


@pytest.mark.parametrize(("window", "is_refused"), [(8, True), (16, False)])
def test_one_image_that_a_batch_norm_cannot_see_is_refused(config, window, is_refused):
    given = config(
        "student.model={name: plain_unet, channels: [4, 4, 4, 4]}",
        "student.train.batch=1",
        f"preprocess.window=[{window}, {window}, {window}]",
    )
    with (
        pytest.raises(ConfigError, match="batch: 1 leaves one image") if is_refused else no_error()
    ):
        check_models(given)


def test_another_pipeline_is_named(config):
    with pytest.raises(ConfigError, match=r"run pipelines/segmentation\.py"):
        check_models(config(), task=Task.CLASSIFICATION)


@pytest.mark.parametrize("key", ["student_layer", "teacher_layer"])
def test_a_layer_that_a_network_does_not_have_is_named(config, key):
    losses = f"distill.losses={json.dumps([HINT | {key: 'model.9'}])}"
    check_models(config("distill.online=true", f"distill.losses={json.dumps([HINT])}"))
    with pytest.raises(ConfigError, match=r"distill\.losses: no layer 'model\.9' in "):
        check_models(config("distill.online=true", losses))


@pytest.mark.parametrize("key", ["teacher", "student"])
def test_a_layer_for_deep_supervision_that_a_network_does_not_have_is_named(config, key):
    message = rf"{key}\.train\.deep_supervision: no layer 'model\.9' in "
    with pytest.raises(ConfigError, match=message):
        check_models(config(f"{key}.train.deep_supervision=[model.9]"))


def test_a_batch_that_processes_cannot_share_is_refused(config, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match=r"train\.batch: 2 cannot be shared evenly by 3"):
        check_models(config())


def test_a_teacher_that_is_brought_along_needs_no_network_here(config):
    teacher = json.dumps({"external": [{"kind": "onnx", "path": "model.onnx"}]})
    check_models(config(f"teacher={teacher}"))
    losses = f"distill.losses={json.dumps([HINT])}"
    check_models(config(f"teacher={teacher}", "distill.online=true", losses))
