"""Every loss that a config may name keeps the same promises, and they compose as it says."""

import inspect

import pytest
import torch
from torch.nn import functional as F

from medkd.distill.losses.region import region_affinity
from medkd.distill.objective import (
    FEATURE_LOSSES,
    IDLE_STEPS,
    LOSSES,
    RELATIONS,
    Objective,
    standardised,
)
from medkd.errors import ConfigError, TrainingError
from medkd.models.activation import TINY
from medkd.options import DistillOptions, LossOptions, NamedOptions
from medkd.types import UNLABELLED, Activation

SPACES = [(), (6, 5), (4, 3, 5)]
TEMPERED = {"pixel_kd", "cwd", "dist", "dkd"}
SPACELESS = {"cwd", "affinity", "region_affinity"}  # losses that compare places
CASES = [(n, s) for n in LOSSES for s in SPACES if s or n not in SPACELESS]


def drawn(*shape, seed=0, scale=2.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def total(name, student, teacher, weights=None, label=None, **options):
    function = LOSSES.factory(name, options)
    more = {}
    if "label" in inspect.signature(function).parameters:
        more = {"label": teacher.argmax(1) if label is None else label}
    if function in RELATIONS:
        student, teacher = student.float().log_softmax(1), teacher.clamp_min(TINY).log()
    found = function(student, teacher, weights=weights, **more, **options)
    return torch.stack(list(found.values())).sum()


def gradient(name, student, *args, **options):
    student = student.detach().clone().requires_grad_()
    total(name, student, *args, **options).backward()
    return student.grad


@pytest.mark.parametrize(("name", "space"), CASES)
class TestContract:
    @pytest.mark.parametrize("batch", [1, 3])
    def test_is_zero_where_the_student_agrees_and_pulls_nowhere(self, name, space, batch):
        logits = drawn(batch, 4, *space)
        teacher = logits.softmax(1)
        assert abs(total(name, logits, teacher).item()) < 1e-5
        if name != "soft_dice":  # which has a corner there, as |p - q| has
            assert gradient(name, logits, teacher).abs().max() < 1e-4

    def test_is_positive_and_teaches_where_the_student_differs(self, name, space):
        student, teacher = drawn(3, 4, *space), drawn(3, 4, *space, seed=1).softmax(1)
        assert total(name, student, teacher) > 1e-3
        assert gradient(name, student, teacher).abs().max() > 1e-4

    def test_a_step_along_the_gradient_brings_the_student_nearer(self, name, space):
        student, teacher = drawn(3, 4, *space), drawn(3, 4, *space, seed=1).softmax(1)
        moved = gradient(name, student, teacher)
        nearer = student - 0.01 * moved / moved.abs().max()
        assert total(name, nearer, teacher) < total(name, student, teacher)

    def test_does_not_change_when_the_batch_is_repeated(self, name, space):
        student, teacher = drawn(3, 4, *space), drawn(3, 4, *space, seed=1).softmax(1)
        often = [x.repeat(3, *[1] * (x.ndim - 1)) for x in (student, teacher)]
        torch.testing.assert_close(total(name, *often), total(name, student, teacher))

    def test_does_not_grow_with_the_patch(self, name, space):
        student, teacher = drawn(2, 4, *space), drawn(2, 4, *space, seed=1).softmax(1)
        often = [x.repeat(1, 1, *[2] * len(space)) for x in (student, teacher)]
        torch.testing.assert_close(total(name, *often), total(name, student, teacher))

    def test_a_class_that_is_absent_leaves_it_finite(self, name, space):
        student, teacher = drawn(2, 4, *space), drawn(2, 4, *space, seed=1).softmax(1)
        teacher[:, 2] = 0
        teacher = teacher / teacher.sum(1, keepdim=True)
        assert total(name, student, teacher).isfinite()
        assert gradient(name, student, teacher).isfinite().all()

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_stays_finite_in_half_precision_at_large_logits(self, name, space, dtype):
        student = drawn(3, 4, *space, scale=40).to(dtype)
        teacher = drawn(3, 4, *space, seed=1, scale=40).softmax(1)
        assert total(name, student, teacher).dtype == torch.float32
        assert total(name, student, teacher).isfinite()
        assert gradient(name, student, teacher).isfinite().all()

    def test_voxels_without_weight_move_neither_value_nor_gradient(self, name, space):
        student, teacher = drawn(8, 4, *space), drawn(8, 4, *space, seed=1).softmax(1)
        counts = torch.rand(8, *space, generator=torch.Generator().manual_seed(2)) < 0.5
        other = torch.where(counts[:, None], student, drawn(8, 4, *space, seed=3))
        value = total(name, student, teacher, counts)
        torch.testing.assert_close(total(name, other, teacher, counts), value)
        moved = gradient(name, student, teacher, counts)
        assert moved[~counts[:, None].expand_as(moved)].abs().max() < 1e-7
        assert moved.isfinite().all()

    def test_weights_that_are_all_alike_are_none(self, name, space):
        student, teacher = drawn(3, 4, *space), drawn(3, 4, *space, seed=1).softmax(1)
        alike = torch.full((3, *space), 0.3)
        torch.testing.assert_close(
            total(name, student, teacher, alike), total(name, student, teacher)
        )

    def test_where_nothing_counts_it_is_zero_without_a_gradient(self, name, space):
        student, teacher = drawn(3, 4, *space), drawn(3, 4, *space, seed=1).softmax(1)
        nothing = torch.zeros(3, *space, dtype=torch.bool)
        assert total(name, student, teacher, nothing) == 0
        assert not gradient(name, student, teacher, nothing).any()


@pytest.mark.parametrize("name", [n for n in LOSSES if n in TEMPERED])
class TestTemperature:
    @pytest.mark.parametrize("temperature", [0, -1.0])
    def test_that_is_not_positive_is_refused(self, name, temperature):
        with pytest.raises(ValueError, match="temperature must be positive"):
            total(name, drawn(2, 4, 3), drawn(2, 4, 3).softmax(1), temperature=temperature)

    def test_the_gradient_keeps_its_size_when_it_grows(self, name):
        student, teacher = drawn(4, 5, 16), drawn(4, 5, 16, seed=1).softmax(1)
        sizes = [
            gradient(name, student, teacher, temperature=t).norm().item() for t in (10, 20, 40)
        ]
        assert sizes == pytest.approx([sizes[-1]] * 3, rel=0.15)


@pytest.mark.parametrize("name", list(LOSSES))
def test_the_arguments_of_a_loss_are_no_options(name):
    options = NamedOptions.model_validate({"name": name, "teacher": 1})
    with pytest.raises(ConfigError, match="has no option 'teacher'"):
        LOSSES.factory(name, options.options)


@pytest.fixture
def batch():
    halves = torch.tensor([0, 0, 0, 8, 8, 8]) * torch.tensor([1, 0, 0])[:, None, None]
    teacher = (drawn(2, 3, 6, 6, seed=1, scale=1) + halves).softmax(1)
    valid = torch.rand(2, 6, 6, generator=torch.Generator().manual_seed(2)) < 0.7
    return {"soft": teacher, "label": teacher.argmax(1), "valid": valid}


@pytest.fixture
def logits():
    return drawn(2, 3, 6, 6).requires_grad_()


def objective(*losses, activation=Activation.SOFTMAX, **options):
    entries = [LossOptions.model_validate(loss) for loss in losses]
    return Objective(DistillOptions(losses=entries, **options), activation)


def test_is_the_weighted_sum_of_its_terms(logits, batch):
    composed = objective({"name": "pixel_kd", "weight": 2}, {"name": "dkd", "weight": 0.5})
    loss, terms = composed(logits, batch, 0)
    assert set(terms) == {"pixel_kd", "dkd/target", "dkd/others"}
    by_hand = 2 * terms["pixel_kd"] + 0.5 * (terms["dkd/target"] + terms["dkd/others"])
    torch.testing.assert_close(loss, by_hand)


@pytest.mark.parametrize(("step", "share"), [(0, 0.25), (1, 0.5), (3, 1.0), (9, 1.0)])
def test_warms_up_linearly(logits, batch, step, share):
    loss, terms = objective({"name": "cwd"}, warmup_steps=4)(logits, batch, step)
    torch.testing.assert_close(loss, share * terms["cwd"])


def test_only_valid_voxels_count(logits, batch):
    loss, _ = objective({"name": "pixel_kd"})(logits, batch, 0)
    elsewhere = torch.where(batch["valid"][:, None], logits, drawn(2, 3, 6, 6, seed=9))
    torch.testing.assert_close(objective({"name": "pixel_kd"})(elsewhere, batch, 0)[0], loss)


@pytest.mark.parametrize(
    "option", [{"boundary": 3}, {"confidence": 1}, {"class_weights": (0, 1, 1)}]
)
def test_weighting_changes_the_loss_and_not_its_zero(logits, batch, option):
    plain, _ = objective({"name": "pixel_kd"})(logits, batch, 0)
    weighted, _ = objective({"name": "pixel_kd", **option})(logits, batch, 0)
    assert abs(weighted - plain) > 1e-4
    agrees = batch["soft"].log().requires_grad_()
    assert abs(objective({"name": "pixel_kd", **option})(agrees, batch, 0)[0].item()) < 1e-5


def test_where_there_is_no_label_the_teachers_answer_is_the_target(logits, batch):
    without = batch | {"label": torch.full_like(batch["label"], UNLABELLED)}
    composed = objective({"name": "dkd"})
    torch.testing.assert_close(composed(logits, without, 0), composed(logits, batch, 0))


@pytest.mark.parametrize(
    ("loss", "terms"),
    [
        ({"name": "dist", "beta": 0}, {"dist/intra"}),
        ({"name": "dist", "gamma": 0}, {"dist/inter"}),
        ({"name": "dkd", "alpha": 0}, {"dkd/others"}),
        ({"name": "dkd", "beta": 0}, {"dkd/target"}),
    ],
)
def test_half_of_a_loss_can_be_left_out(logits, batch, loss, terms):
    assert set(objective(loss)(logits, batch, 0)[1]) == terms


@pytest.mark.parametrize(
    "loss", [{"name": "dist", "beta": 0, "gamma": 0}, {"name": "dkd", "alpha": 0, "beta": 0}]
)
def test_both_halves_cannot(logits, batch, loss):
    with pytest.raises(ValueError, match=r"teach.* nothing"):
        objective(loss)(logits, batch, 0)


@pytest.mark.parametrize("activation", list(Activation))
def test_nobody_says_sigmoid_to_a_loss(activation):
    with pytest.raises(ConfigError, match="sigmoid follows from"):
        objective({"name": "pixel_kd", "sigmoid": True}, activation=activation)


INDEPENDENT = [
    {"name": "pixel_kd", "temperature": 2, "boundary": 2.0, "confidence": 1.0},
    *({"name": name} for name in ("soft_dice", "cwd", "dist", "affinity")),
]


@pytest.mark.parametrize("loss", INDEPENDENT, ids=[loss["name"] for loss in INDEPENDENT])
def test_structures_that_overlap_are_compared_each_by_itself(loss):
    composed = objective(loss, activation=Activation.SIGMOID)
    student = drawn(2, 3, 6, 5).requires_grad_()
    soft, valid = drawn(2, 3, 6, 5, seed=1).sigmoid(), torch.ones(2, 6, 5, dtype=torch.bool)
    batch = {"soft": soft, "valid": valid, "label": torch.zeros(2, 3, 6, 5, dtype=torch.uint8)}
    value, _ = composed(student, batch, 0)
    value.backward()
    assert value > 1e-3
    assert (student.grad.flatten(2).abs().sum(dim=2) > 0).all()
    agreed, _ = composed(soft.logit(), batch, 0)
    assert abs(agreed.item()) < 1e-5
    with torch.no_grad():  # a shift of all classes is nothing to a softmax, and here it is
        assert composed(soft.logit() + 2, batch, 0)[0] > 1e-3


def test_regions_that_overlap_are_those_of_the_label_or_where_there_is_none_of_the_teacher():
    composed = objective({"name": "region_affinity"}, activation=Activation.SIGMOID)
    soft = drawn(2, 3, 6, 5, seed=1).sigmoid()
    label = (drawn(2, 3, 6, 5, seed=2) > 0).to(torch.uint8)
    label[:, 1] = UNLABELLED
    batch = {"soft": soft, "valid": torch.ones(2, 6, 5, dtype=torch.bool), "label": label}
    student = drawn(2, 3, 6, 5).requires_grad_()
    found, _ = composed(student, batch, 0)
    told = label.clone()
    told[:, 1] = soft[:, 1] >= 0.5
    expected = region_affinity(F.logsigmoid(student), soft.log(), told)["region_affinity"]
    torch.testing.assert_close(found, expected)
    found.backward()
    assert student.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        ({"name": "dkd"}, "the true class against all others"),
        ({"name": "pixel_kd", "standardise": True}, "a question of its own"),
    ],
)
def test_what_makes_no_sense_where_structures_overlap_is_refused(loss, reason):
    with pytest.raises(ConfigError, match=reason):
        objective(loss, activation=Activation.SIGMOID)


@pytest.mark.parametrize("name", ["pixel_kd", "soft_dice", "cwd", "dist"])
def test_structures_that_overlap_weigh_each_in_its_own_question(name):
    soft = drawn(1, 2, 4, 4, seed=1).sigmoid().detach()
    batch = {"soft": soft, "valid": torch.ones(1, 4, 4, dtype=torch.bool)}
    logits = drawn(1, 2, 4, 4)

    def loss(*weights):
        entry = {"name": name, "class_weights": weights or None}
        return objective(entry, activation=Activation.SIGMOID)(logits, batch, 0)[0]

    whole, core = loss(1, 0), loss(0, 1)
    assert abs(whole - core) > 1e-3
    torch.testing.assert_close(loss(), (whole + core) / 2)
    torch.testing.assert_close(loss(1, 3), (whole + 3 * core) / 4)


def test_places_have_no_class_weights_where_structures_overlap():
    entry = {"name": "affinity", "class_weights": (1, 2)}
    with pytest.raises(ConfigError, match="affinity: class_weights are of classes"):
        objective(entry, activation=Activation.SIGMOID)


def test_standardised_the_size_of_the_logits_does_not_matter(logits, batch):
    composed = objective({"name": "pixel_kd", "standardise": True})
    larger = (3 * logits + 7).detach().requires_grad_()
    torch.testing.assert_close(composed(larger, batch, 0)[0], composed(logits, batch, 0)[0])
    assert abs(composed(5 * batch["soft"].log(), batch, 0)[0].item()) < 1e-5


def test_standardising_gives_each_voxel_mean_0_and_deviation_1():
    flat = standardised(drawn(2, 5, 3, 4))
    torch.testing.assert_close(flat.mean(1), torch.zeros(2, 3, 4), atol=1e-6, rtol=0)
    torch.testing.assert_close(flat.std(1, correction=0), torch.ones(2, 3, 4))


def test_two_classes_cannot_be_standardised():
    with pytest.raises(ConfigError, match="3 classes or more"):
        standardised(drawn(2, 2, 4))


def test_a_term_that_does_not_depend_on_the_student_is_named(monkeypatch, logits, batch):
    def deaf(student, teacher, weights=None):
        return {"deaf": student.detach().mean() + 1}

    monkeypatch.setitem(LOSSES._factories, "deaf", deaf)
    with pytest.raises(TrainingError, match="deaf does not depend on the student"):
        objective({"name": "deaf"})(logits, batch, 0)


def test_a_term_that_is_always_zero_is_named(logits, batch):
    composed = objective({"name": "pixel_kd", "class_weights": (0, 0, 0)})
    for step in range(IDLE_STEPS - 1):
        composed(logits, batch, step)
    with pytest.raises(TrainingError, match="pixel_kd has been 0"):
        composed(logits, batch, IDLE_STEPS)


def test_a_term_may_be_zero_once_it_has_taught_something(logits, batch):
    composed = objective({"name": "pixel_kd"})
    composed(logits, batch, 0)
    nothing = batch | {"valid": torch.zeros(2, 6, 6, dtype=torch.bool)}
    for step in range(1, IDLE_STEPS + 2):
        composed(logits, nothing, step)


def test_a_term_that_is_0_in_all_of_a_short_training_is_named_at_its_end(logits, batch):
    nothing = batch | {"valid": torch.zeros(2, 6, 6, dtype=torch.bool)}
    entry = LossOptions(name="pixel_kd")
    composed = Objective(DistillOptions(losses=[entry]), steps=3)
    for step in range(2):
        composed(logits, nothing, step)
    with pytest.raises(TrainingError, match="pixel_kd has been 0 in each of the first 3 steps"):
        composed(logits, nothing, 2)


def test_a_run_that_goes_on_may_have_taught_something_before_it_was_killed(logits, batch):
    composed = objective({"name": "pixel_kd"})
    nothing = batch | {"valid": torch.zeros(2, 6, 6, dtype=torch.bool)}
    for step in range(500, 500 + IDLE_STEPS + 1):
        composed(logits, nothing, step)


def of_features(name, student, teacher, weights=None):
    function = FEATURE_LOSSES.factory(name, {})
    label = torch.zeros(len(student), *student.shape[2:], dtype=torch.long)
    label[..., : label.shape[-1] // 2] = 1
    asked = "label" in inspect.signature(function).parameters
    found = function(student, teacher, weights=weights, **({"label": label} if asked else {}))
    return torch.stack(list(found.values())).sum()


@pytest.mark.parametrize("space", SPACES[1:])
@pytest.mark.parametrize("name", list(FEATURE_LOSSES))
class TestFeatureContract:
    @pytest.mark.parametrize("batch", [1, 3])
    def test_is_zero_where_the_student_agrees(self, name, space, batch):
        features = drawn(batch, 4, *space)
        assert abs(of_features(name, features, features).item()) < 1e-5

    def test_is_positive_and_does_not_change_when_the_batch_is_repeated(self, name, space):
        features = drawn(2, 4, *space), drawn(2, 4, *space, seed=1)
        often = [maps.repeat(3, *[1] * (maps.ndim - 1)) for maps in features]
        assert of_features(name, *features) > 1e-3
        torch.testing.assert_close(of_features(name, *often), of_features(name, *features))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_stays_finite_in_half_precision_at_large_features(self, name, space, dtype):
        student = drawn(2, 4, *space, scale=40).to(dtype).requires_grad_()
        value = of_features(name, student, drawn(2, 4, *space, seed=1, scale=40).to(dtype))
        value.backward()
        assert value.dtype == torch.float32
        assert value.isfinite()
        assert student.grad.isfinite().all()

    def test_what_lies_beyond_the_image_teaches_nothing(self, name, space):
        student, teacher = drawn(2, 4, *space), drawn(2, 4, *space, seed=1)
        inside = torch.rand(2, *space, generator=torch.Generator().manual_seed(2)) < 0.7
        given = student.clone().requires_grad_()
        value = of_features(name, given, teacher, inside)
        value.backward()
        beyond = ~inside[:, None].expand_as(given)
        assert given.grad[beyond].abs().max() < 1e-7
        other = torch.where(beyond, drawn(2, 4, *space, seed=3), student)
        torch.testing.assert_close(of_features(name, other, teacher, inside), value.detach())


@pytest.mark.parametrize("name", ["attention", "affinity", "region_affinity", "cwd"])
def test_losses_that_compare_places_are_refused_where_there_is_no_space(name):
    with pytest.raises(ValueError, match="classification has none"):
        of_features(name, drawn(3, 4), drawn(3, 4))


class TestLayers:
    """Losses that compare features, through adapters where shapes differ."""

    HINT = {"name": "hint", "student_layer": "a", "teacher_layer": "b"}  # noqa: RUF012

    @pytest.fixture
    def features(self):
        student = drawn(2, 4, 3, 3, seed=5).requires_grad_()
        return {"a": student}, {"b": drawn(2, 6, 6, 6, seed=6)}

    @pytest.mark.parametrize("name", list(FEATURE_LOSSES))
    @pytest.mark.parametrize("by", ["boundary", "confidence"])
    def test_each_weighs_voxels_by_what_the_teacher_says_of_them(
        self, logits, batch, features, name, by
    ):
        soft = torch.full_like(batch["soft"], 0.1)
        soft[:, 0, :, :2], soft[:, 1, :, 2:] = 0.9, 0.6  # a boundary, and doubt beyond it
        batch, losses = batch | {"soft": soft / soft.sum(1, keepdim=True)}, []
        places = {"places": 1} if name == "affinity" else {}  # voxels weigh within a place
        for strength in (0, 5):
            torch.manual_seed(0)  # the adapter's
            composed = objective(self.HINT | places | {"name": name, by: strength}, online=True)
            composed.adapt(*features)
            losses.append(composed(logits, batch, 0, student=features[0], teacher=features[1])[0])
        assert abs(losses[1] - losses[0]) > 1e-6 * losses[0]

    @pytest.mark.parametrize("name", list(FEATURE_LOSSES))
    def test_each_teaches_the_students_layer(self, logits, batch, features, name):
        student, teacher = features
        composed = objective(self.HINT | {"name": name}, online=True)
        composed.adapt(student, teacher)
        loss, terms = composed(logits, batch, 0, student=student, teacher=teacher)
        assert set(terms) == {f"{name}/a"}
        loss.backward()
        assert student["a"].grad.abs().max() > 0

    def test_adapters_are_made_where_channels_are_compared_and_are_trained(self, batch, features):
        student, teacher = features
        named = [self.HINT | {"name": name} for name in FEATURE_LOSSES]
        composed = objective(*named, online=True)
        composed.adapt(student, teacher)
        shapes = sorted(tuple(p.shape) for p in composed.parameters())
        assert shapes == [(6,), (6,), (6, 4, 1, 1), (6, 4, 1, 1)]
        assert composed.student_layers == ["a"] * len(named)
        assert composed.teacher_layers == ["b"] * len(named)

    def test_the_same_loss_of_two_layers_makes_two_terms(self, logits, batch, features):
        student, teacher = features
        student = student | {"c": drawn(2, 5, 6, 6, seed=7).requires_grad_()}
        composed = objective(self.HINT, self.HINT | {"student_layer": "c"}, online=True)
        composed.adapt(student, teacher)
        _, terms = composed(logits, batch, 0, student=student, teacher=teacher)
        assert set(terms) == {"hint/a", "hint/c"}

    def test_a_layer_that_puts_out_no_features_is_named(self, features):
        composed = objective(self.HINT | {"student_layer": "head"}, online=True)
        with pytest.raises(ConfigError, match="layer 'head' puts out no features"):
            composed.adapt(*features)

    def test_a_loss_of_layers_needs_them(self):
        with pytest.raises(ConfigError, match="hint compares layers; give it student_layer"):
            objective({"name": "hint"})

    def test_layers_need_the_teacher_at_hand(self):
        with pytest.raises(ValueError, match=r"set distill\.online: true"):
            objective(self.HINT)


def test_where_a_label_covers_a_part_the_target_is_the_teachers_among_the_rest(logits, batch):
    covered = torch.ones(len(logits), logits.shape[1], dtype=torch.bool)
    covered[0, 2:] = False
    label = batch["label"].clone()
    label[0] = torch.where(label[0] == 1, 1, 0)
    rest = batch["soft"].clone()
    rest[0, 1] = -1  # a structure that is covered is not there where the label is background
    expected = torch.where(label == 1, label, rest.argmax(1))
    expected[1:] = label[1:]
    composed = objective({"name": "dkd"})
    partly = composed(logits, batch | {"label": label, "covered": covered}, 0)
    torch.testing.assert_close(partly, composed(logits, batch | {"label": expected}, 0))
