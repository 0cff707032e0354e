import json

import pytest
import yaml

from medkd.config import Config, dump, expand, load, shareable
from medkd.errors import ConfigError
from medkd.options import GateOptions
from medkd.types import Activation, Task


@pytest.fixture
def values(make_config):
    """The YAML tree of a config that is right."""
    return yaml.safe_load(make_config().read_text())


@pytest.fixture
def load_values(tmp_path):
    def read(tree, **options):
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(tree, sort_keys=False))
        return load(path, **options)

    return read


def test_what_is_dumped_loads_as_the_same_config(values, load_values):
    config = load_values(values)
    assert load_values(yaml.safe_load(dump(config))) == config


def test_override_reaches_a_deep_key_and_keeps_its_neighbours(values, load_values):
    config = load_values(values, overrides=["teacher.train.steps=7", "data.labels.core=9"])
    assert config.teacher.train.steps == 7
    assert config.teacher.train.validate_every == 3
    assert config.data.labels == {"ball": 1, "core": 9}


def test_a_later_override_wins(values, load_values):
    config = load_values(values, overrides=["study.seed=1", "study.seed=2"])
    assert config.study.seed == 2


def test_budget_is_merged_over_the_config_and_overrides_over_the_budget(values, load_values):
    values["budgets"] = {"quick": None, "full": {"student": {"train": {"steps": 70, "batch": 3}}}}
    assert load_values(values).student.train.steps == 6
    train = load_values(values, budget="full", overrides=["student.train.steps=8"]).student.train
    assert (train.steps, train.batch) == (8, 3)


def test_classes_follow_the_values_of_the_labels(values, load_values):
    values["data"]["labels"] = {"late": 7, "early": 3}
    config = load_values(values)
    assert config.classes == ("background", "early", "late")
    assert config.label_values == (0, 3, 7)


def test_classification_has_no_background(values, load_values):
    values |= {"task": "classification"}
    values["data"]["labels"] = {"ill": 1, "well": 0}
    config = load_values(values)
    assert config.task is Task.CLASSIFICATION
    assert config.classes == ("well", "ill")


SAVED = {"kind": "probabilities", "path": "saved"}
HINT = {"name": "hint", "student_layer": "a", "teacher_layer": "b"}


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([{"name": "pixel_kd"}], "saved probabilities cannot be asked in every step"),
        ([HINT], "saved probabilities cannot be asked"),
    ],
)
def test_saved_answers_cannot_be_asked_in_every_step(values, load_values, losses, message):
    values["teacher"] = {"external": [SAVED]}
    values["distill"] = {"losses": losses, "online": True}
    with pytest.raises(ConfigError, match=message):
        load_values(values)


def test_layers_are_those_of_one_teacher(values, load_values):
    values["teacher"]["external"] = [SAVED | {"kind": "checkpoint"}]
    values["distill"] = {"losses": [HINT], "online": True}
    with pytest.raises(ConfigError, match="layers are those of one teacher"):
        load_values(values)
    values["distill"]["losses"] = [{"name": "pixel_kd"}]
    assert load_values(values).distill.online


def test_channels_of_folds_are_not_compared_through_one_adapter(values, load_values):
    values["teacher"]["folds"] = 3
    values["distill"] = {"losses": [HINT], "online": True}
    with pytest.raises(ConfigError, match="hint compares channel by channel"):
        load_values(values)
    values["distill"]["losses"] = [HINT | {"name": "attention"}]
    assert load_values(values).teacher.folds == 3
    values["distill"]["losses"] = [HINT]
    values["teacher"] = {"external": [SAVED | {"kind": "checkpoint"}], "folds": 3}  # trains none
    assert load_values(values)


def test_a_classifier_has_two_classes_or_more(values, load_values):
    values |= {"task": "classification"}
    values["data"]["labels"] = {"ill": 0}
    with pytest.raises(ConfigError, match="a classifier tells two classes or more apart"):
        load_values(values)


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_classifier_has_no_heads_for_voxels(values, load_values, role):
    values[role]["train"] = values[role]["train"] | {"deep_supervision": ["a"]}
    assert load_values(values)
    values |= {"task": "classification"}
    values["data"]["labels"] = {"well": 0, "ill": 1}
    with pytest.raises(ConfigError, match=rf"{role}\.train\.deep_supervision: .* leave it out"):
        load_values(values)


def test_where_a_teacher_lies_and_whom_it_knows_is_not_shared(values, load_values):
    values["teacher"] = {"external": [SAVED | {"path": "/home/doe", "patients": ["DOE"]}]}
    shared = yaml.safe_dump(shareable(load_values(values)))
    assert "probabilities" in shared
    assert "doe" not in shared.lower()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("teacher.trian.steps=3", "teacher.trian: unknown key; did you mean 'train'?"),
        ("distill.losses=[{name: pixel_kd, weight: -1}]", "distill.losses.0.weight: Input should"),
        ("distill.losses=[]", "distill.losses: Tuple should have at least 1 item"),
        ("distill.losses=[{name: a}, {name: a}]", "the same loss twice"),
        ("data.split.test=1.5", "data.split.test: Input should be less than 1"),
        ("study.name=a/b", "study.name: String should match pattern"),
        ("preprocess.size=[8, 8, 8]", "give size or spacing_mm, not both"),
        ("preprocess.spacing_mm=[1, 1]", "spacing_mm and window need the same number of axes"),
        ("preprocess.orientation=RAX", "three axis codes"),
        ("preprocess.orientation=RAL", "three axis codes"),
        ("teacher.flip_axes=[3]", r"teacher.flip_axes: \[3\] are no axes of preprocess.window"),
        ("evaluate.specificity=0", "evaluate.specificity: Input should be greater than 0"),
        ("data.labels.core=70000", "values lie between 0 and 65535"),
        ("gates=[{figure: dcie, at_least: 1}]", "no figure 'dcie'; did you mean 'dice'"),
        ("gates=[{figure: dice/cor, at_least: 1}]", "did you mean 'dice/core'"),
        ("gates=[{figure: dice, over: teacher, at_least: 1}]", "judge the difference with minus"),
        ("data.labels.core=1", "two labels share one value"),
        ("data.ignore=1", "data.ignore: 1 is one of data.labels"),
        ("data.annotated=label", "data.annotated: 'label' is another column; rename it"),
        ("data={annotated: a, source: phantom, labels: {x: 1}}", "source phantom has no such"),
        ("data={annotated: a, source: x.csv, labels: {x;y: 1}}", "hold the `;` that separates"),
        ("student.train.class_weights={cor: 2}", r"train.class_weights: \['cor'\] are no classes"),
        ("student.train.class_weights={core: 0}", "class_weights.core: Input should be greater"),
        ("data.labels.core=0", "0 is the background and is not listed"),
        ("task=classification", r"class indices must be 0, 1, 2, …; got \[1, 2\]"),
        ("gates=[{figure: dice}]", "a gate needs exactly one of at_least and at_most"),
        ("gates=[{figure: dice, at_most: 1, minus: teacher, over: teacher}]", "not both"),
        ("study.seed", "--set study.seed: write key.path=value"),
        ("study.seed=[", r"--set study.seed=\[: the value is not valid YAML"),
    ],
)
def test_what_is_wrong_is_named(values, load_values, override, message):
    values["preprocess"]["spacing_mm"] = [1, 1, 1]
    with pytest.raises(ConfigError, match=message):
        load_values(values, overrides=[override])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["preprocess.channels=3"], "channels is 3, modalities names 2"),
        (["preprocess.modalities=[t1, T1]"], "give each a name of its own"),
        (["preprocess.modalities=[t1, label]"], r"\['label'\] are other columns"),
        (["preprocess.intensity=unit"], "modalities share no unit of intensity"),
        (["preprocess.reading.series_of={t2: {uid: '1'}}"], r"series_of: \['t2'\] are not in"),
        (
            ["preprocess.window=[8, 8]", "export.variants=[onnx, bundle]"],
            "a bundle reads pictures from one file",
        ),
    ],
)
def test_modalities_fit_the_rest_of_a_config(values, load_values, overrides, message):
    values["preprocess"] |= {"channels": 2, "modalities": ["t1", "flair"]}
    assert load_values(values).preprocess.modalities == ("t1", "flair")
    with pytest.raises(ConfigError, match=message):
        load_values(values, overrides=overrides)


def test_every_mistake_is_named_at_once(values, load_values):
    with pytest.raises(ConfigError) as error:
        load_values(values, overrides=["studi.name=x", "teacher.folds=0", "evaluate.nsd_mm=1"])
    for key in ("studi: unknown key; did you mean 'study'?", "teacher.folds", "evaluate.nsd_mm"):
        assert key in str(error.value)


def test_a_missing_section_is_named(values, load_values):
    del values["student"]
    with pytest.raises(ConfigError, match="student: missing"):
        load_values(values)


def test_an_override_takes_the_place_of_what_was_there(values, load_values):
    model = load_values(values, overrides=["student.model={name: segresnet}"]).student.model
    assert (model.name, model.options) == ("segresnet", {})
    labels = load_values(values, overrides=["data.labels={tumour: 1}", "gates=[]"]).data.labels
    assert labels == {"tumour": 1}
    deeper = load_values(values, overrides=["latency.queries=3", "augment.flip_axes=[0]"])
    assert (deeper.latency.queries, deeper.latency.threads) == (3, 1)
    assert deeper.augment.flip_axes == (0,)


def test_an_override_reaches_into_a_list_and_keeps_its_neighbours(values, load_values):
    values["distill"]["losses"] = [{"name": "pixel_kd", "weight": 3}, {"name": "cwd"}]
    overrides = ["distill.losses.0.temperature=4", "distill.losses.1.weight=2"]
    first, second = load_values(values, overrides=overrides).distill.losses
    assert (first.weight, first.options) == (3, {"temperature": 4})
    assert (second.name, second.weight) == ("cwd", 2)
    window = load_values(values, overrides=["preprocess.window.2=32"]).preprocess.window
    assert window == (16, 16, 32)


@pytest.mark.parametrize("entry", ["1", "-1", "first"])
def test_an_entry_that_a_list_lacks_is_named(values, load_values, entry):
    message = f"--set gates.{entry}.at_most=1: no entry {entry} in a list of 1, counted from 0"
    with pytest.raises(ConfigError, match=message):
        load_values(values, overrides=[f"gates.{entry}.at_most=1"])


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_images_are_augmented_by_workers(make_config, role):
    values = yaml.safe_load(make_config(dims=2).read_text())
    values[role]["train"] = values[role]["train"] | {"augment_on": "workers"}
    Config.model_validate(values)
    values[role]["train"]["augment_on"] = "device"
    message = f"{role}.train.augment_on: images are augmented on the CPU alone, by workers"
    with pytest.raises(ValueError, match=message):
        Config.model_validate(values)


def test_a_classifier_looks_at_whole_images(make_config):
    values = yaml.safe_load(make_config(dims=2, task="classification").read_text())
    values["preprocess"]["size"] = [32, 32]
    with pytest.raises(ValueError, match="a classifier looks at whole images"):
        Config.model_validate(values)


@pytest.mark.parametrize("budgets", [None, {"quick": {}, "full": {}}])
def test_an_unknown_budget_is_refused(values, load_values, budgets):
    if budgets:
        values["budgets"] = budgets
    with pytest.raises(ConfigError, match="no budget 'ful'; known: quick, full"):
        load_values(values, budget="ful")


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "not valid YAML"), ("- a", "a mapping of sections"), ("", "a mapping of sections")],
)
def test_what_is_no_config_is_refused(tmp_path, text, message):
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(tmp_path / "study.yaml")


def test_yaml_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("study: !!python/object/apply:os.getcwd []")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: no such config file"):
        load(tmp_path / "none.yaml")


def test_a_folder_in_place_of_a_config_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r": a folder; name the config"):
        load(tmp_path)


def test_expand_takes_variables_home_and_root(monkeypatch, tmp_path):
    monkeypatch.setenv("MEDKD_TEST", "/data")
    assert str(expand("$MEDKD_TEST/x", key="data.root")) == "/data/x"
    assert str(expand("${MEDKD_TEST}/x", key="data.root", root=tmp_path)) == "/data/x"
    assert expand("x", key="data.root", root=tmp_path) == tmp_path / "x"
    assert "~" not in str(expand("~/x", key="data.root"))


def test_a_variable_that_is_not_set_is_named_with_its_remedy(monkeypatch):
    monkeypatch.delenv("MEDKD_TEST", raising=False)
    with pytest.raises(ConfigError, match="MEDKD_TEST is not set; export MEDKD_TEST=FOLDER"):
        expand("$MEDKD_TEST/x", key="data.root")


def test_a_gate_reads_aloud_what_it_asks():
    assert str(GateOptions(figure="dice", at_least=0.8)) == "student dice >= 0.8"
    ratio = GateOptions(figure="network_ms", over="teacher", at_most=0.2)
    assert str(ratio) == "student network_ms / teacher network_ms <= 0.2"


def test_a_config_cannot_be_changed(values):
    config = Config.model_validate(values)
    with pytest.raises(ValueError, match="frozen"):
        config.study = config.study


def test_what_is_shared_names_no_place_on_this_machine(make_config):
    path = make_config()
    shared = shareable(load(path, overrides=[f"data.image={path.parent}/{{case}}.nii.gz"]))
    assert str(path.parent) not in json.dumps(shared)
    assert shared["teacher"] == load(path).model_dump(mode="json")["teacher"]


def test_codes_are_of_labels_and_fit_dicom(values, load_values):
    code = {"value": "5366008", "meaning": "Hippocampus"}
    values["data"]["codes"] = {"core": code}
    assert load_values(values).data.codes["core"].scheme == "SCT"
    values["data"]["codes"] = {"liver": code}
    with pytest.raises(
        ConfigError, match=r"data\.codes: \['liver'\] are not in data\.labels; known"
    ):
        load_values(values)
    values["data"]["codes"] = {"core": code | {"value": "1" * 17}}
    with pytest.raises(ConfigError, match=r"data\.codes\.core\.value"):
        load_values(values)


def test_a_class_of_the_whole_image_is_not_annotated_in_part(make_config, load_values):
    tree = yaml.safe_load(make_config(dims=2, task="classification").read_text())
    tree["data"]["annotated"] = "drawn"
    with pytest.raises(ConfigError, match=r"data\.annotated: a class is of the whole image"):
        load_values(tree)


OVERLAPPING = {"overlapping": True, "labels": {"ball": 1, "core": 2}}


def test_structures_that_may_overlap_have_no_background(values, load_values):
    values["data"] |= OVERLAPPING
    config = load_values(values)
    assert config.classes == config.structures == ("ball", "core")
    assert config.label_values == (1, 2)
    assert config.activation is Activation.SIGMOID
    assert {"dice/ball", "dice/core"} <= config.figures
    values["data"]["overlapping"] = False
    config = load_values(values)
    assert config.structures == config.classes[1:] == ("ball", "core")
    assert config.activation is Activation.SOFTMAX


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["data.overlapping=false", "data.includes={ball: [core]}"], "set overlapping"),
        (["data.labels={core: 2, ball: 1}"], "name the structures by rising value"),
        (["data.labels={ball: 2, core: 3}", "data.ignore=1"], "1 says that a voxel is of"),
        (["preprocess.reading.overlap=last"], "voxels are shared"),
        (["data.includes={ball: [rim]}"], r"\['rim'\] are not in data.labels"),
        (["data.includes={ball: [core], core: [ball]}"], "would lie within itself"),
    ],
)
def test_what_overlapping_structures_cannot_have_is_refused(values, load_values, overrides, reason):
    values["data"] |= OVERLAPPING
    with pytest.raises(ConfigError, match=reason):
        load_values(values, overrides=overrides)


def test_an_image_may_have_several_findings_or_none(make_config):
    config = load(
        make_config(dims=2, task="classification", overlapping=True),
        overrides=["data.annotated=judged", "export.variants=[bundle]"],
    )
    assert config.has_findings
    assert config.classes == config.questions == ("large", "marked")
    assert (config.structures, config.activation) == ((), Activation.SIGMOID)
    assert {"auroc/marked", "ece/large", "specificity/large"} <= config.figures
    assert "balanced_accuracy" not in config.figures


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["data.labels={large: 0, marked: 1}"], "findings have the values 1, 2, 3, .* got .0, 1"),
        (["data.labels={large: 1, marked: 3}"], "findings have the values 1, 2, 3"),
        (["data.labels={marked: 2, large: 1}"], "rising value"),
        (["data.labels={large: 1, 'a|b': 2}"], r"\['a\|b'\]: in the datalist `\|` separates"),
        (["data.labels={large: 1, None: 2}"], r"\['None'\]: .* says that there is none"),
        (["data.includes={large: [marked]}"], "regions of label maps; name each finding"),
        (["data.ignore=9"], "data.annotated names those judged"),
        (["postprocess.fill_holes=[large]"], "a classifier gives none"),
        (
            ["gates=[{figure: balanced_accuracy, at_least: 0.5}]"],
            "no figure 'balanced_accuracy'",
        ),
    ],
)
def test_what_findings_cannot_have_is_refused(make_config, overrides, reason):
    path = make_config(dims=2, task="classification", overlapping=True)
    with pytest.raises(ConfigError, match=reason):
        load(path, overrides=overrides)


def test_classes_that_exclude_each_other_are_all_judged_at_once(make_config):
    path = make_config(dims=2, task="classification")
    with pytest.raises(ConfigError, match=r"data\.annotated: a class is of the whole image"):
        load(path, overrides=["data.annotated=judged"])


def test_bundles_of_pictures_do_not_overlap(make_config):
    with pytest.raises(ConfigError, match="a bundle writes pictures, which hold one structure"):
        load(make_config(dims=2, overlapping=True), overrides=["export.variants=[bundle]"])
