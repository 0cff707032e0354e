import pytest
import torch
from torch import nn
from torch.nn import functional as F

from medkd.config import Config
from medkd.distill.losses.pixel import pixel_kd
from medkd.errors import ConfigError
from medkd.train.independent import independent
from medkd.train.steps import DistillStep, SupervisedStep
from medkd.types import UNLABELLED, Task
from tests.conftest import tiny_values


@pytest.fixture
def options(tmp_path):
    def make(**distill):
        values = tiny_values(tmp_path, dims=2, task="segmentation")
        values["distill"] |= distill
        return Config.model_validate(values)

    return make


@pytest.fixture
def batch():
    rng = torch.Generator().manual_seed(0)
    return {
        "image": torch.randn(2, 3, 8, 8, generator=rng),
        "label": torch.randint(0, 3, (2, 8, 8), generator=rng),
        "valid": torch.rand(2, 8, 8, generator=rng) < 0.7,
        "soft": torch.randn(2, 3, 8, 8, generator=rng).softmax(1),
    }


def supervised(config, task=None):
    config = config.model_copy(update={"task": task or config.task})
    return SupervisedStep(config, config.student.train)


def by_hand(logits, label):
    """Return Dice loss over the foreground, the batch as one image, and the cross-entropy."""
    p, truth = logits.softmax(1)[:, 1:], F.one_hot(label, 3).movedim(-1, 1)[:, 1:]
    space = (0, 2, 3)
    dice = (2 * (p * truth).sum(space) + 1e-5) / (p.sum(space) + truth.sum(space) + 1e-5)
    return {"dice_loss": 1 - dice.mean(), "cross_entropy": F.cross_entropy(logits, label)}


def test_labels_alone_give_dice_and_cross_entropy(options, batch):
    terms = supervised(options())(nn.Identity(), batch, 0)
    expected = by_hand(batch["image"], batch["label"])
    assert terms.keys() == {"loss", *expected}
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value)
    torch.testing.assert_close(terms["loss"], sum(expected.values()))


def test_class_weights_are_those_of_the_networks_own_training(options, batch):
    config = options()
    train = config.student.train.model_copy(update={"class_weights": {"core": 4.0}})
    step = SupervisedStep(config, train)
    assert not step.state_dict()  # they are no part of what is saved to go on from
    terms = step(nn.Identity(), batch, 0)
    weights = torch.tensor([1.0, 1.0, 4.0])
    expected = F.cross_entropy(batch["image"], batch["label"], weight=weights)
    torch.testing.assert_close(terms["cross_entropy"], expected)
    student = config.student.model_copy(update={"train": train})
    distilled = DistillStep(config.model_copy(update={"student": student}))(nn.Identity(), batch, 0)
    torch.testing.assert_close(distilled["cross_entropy"], expected)


def test_classification_has_no_dice(options):
    batch = {"image": torch.randn(4, 3), "label": torch.tensor([0, 1, 2, 0])}
    terms = supervised(options(), Task.CLASSIFICATION)(nn.Identity(), batch, 0)
    assert terms.keys() == {"loss", "cross_entropy"}
    torch.testing.assert_close(terms["loss"], F.cross_entropy(batch["image"], batch["label"]))


def test_distillation_adds_its_weighted_terms_over_valid_voxels(options, batch):
    losses = [{"name": "pixel_kd", "weight": 3, "temperature": 4}]
    terms = DistillStep(options(losses=losses, supervised=0.5))(nn.Identity(), batch, 0)
    hard = by_hand(batch["image"], batch["label"])
    soft = pixel_kd(batch["image"], batch["soft"], batch["valid"], temperature=4.0)["pixel_kd"]
    torch.testing.assert_close(terms["pixel_kd"], soft)
    torch.testing.assert_close(terms["loss"], 0.5 * sum(hard.values()) + 3 * soft)


@pytest.mark.parametrize(("number", "share"), [(0, 0.25), (1, 0.5), (3, 1.0), (9, 1.0)])
def test_the_terms_warm_up(options, batch, number, share):
    step = DistillStep(options(warmup_steps=4, supervised=0))
    terms = step(nn.Identity(), batch, number)
    torch.testing.assert_close(terms["loss"], share * terms["pixel_kd"])


def test_without_the_term_distillation_is_supervision(options, batch):
    losses = [{"name": "pixel_kd", "weight": 1e-12}]
    distilled = DistillStep(options(losses=losses))(nn.Identity(), batch, 0)
    alone = supervised(options())(nn.Identity(), batch, 0)
    torch.testing.assert_close(distilled["loss"], alone["loss"])


@pytest.mark.parametrize("task", list(Task))
def test_images_without_a_label_teach_by_their_soft_targets_alone(options, batch, task):
    if task is Task.CLASSIFICATION:
        batch = {key: value[(..., *[0] * (value.ndim - 2))] for key, value in batch.items()}
        batch["label"] = torch.tensor([1, 0])
    logits = batch.pop("image").requires_grad_()
    half = batch | {"image": logits, "label": batch["label"].clone()}
    half["label"][1] = UNLABELLED
    config = options().model_copy(update={"task": task})
    terms = DistillStep(config)(nn.Identity(), half, 0)
    first = {key: value[:1] for key, value in (batch | {"image": logits}).items()}
    alone = supervised(config)(nn.Identity(), first, 0)
    torch.testing.assert_close(terms["cross_entropy"], alone["cross_entropy"])
    valid = half["valid"] if task is Task.SEGMENTATION else None
    soft = pixel_kd(logits, batch["soft"], valid)["pixel_kd"]
    torch.testing.assert_close(terms["loss"], alone["loss"] + soft)

    half["label"][:] = UNLABELLED
    terms = DistillStep(config)(nn.Identity(), half, 0)
    torch.testing.assert_close(terms["loss"], soft)
    terms["loss"].backward()
    assert logits.grad.isfinite().all()


def test_voxels_that_nobody_has_judged_teach_by_their_soft_targets_alone(options, batch):
    unjudged = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(1)) < 0.4
    marked = batch | {"label": batch["label"].masked_fill(unjudged, UNLABELLED)}
    terms = DistillStep(options())(nn.Identity(), marked, 0)
    judged = batch["image"].movedim(1, -1)[~unjudged].T[None, :, None]  # one image of one row
    expected = by_hand(judged, batch["label"][~unjudged][None, None])
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value)
    soft = pixel_kd(batch["image"], batch["soft"], batch["valid"])["pixel_kd"]
    torch.testing.assert_close(terms["pixel_kd"], soft)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"name": "pixl_kd"}, "unknown distillation loss 'pixl_kd'; did you mean 'pixel_kd'"),
        ({"name": "pixel_kd", "temprature": 2}, "did you mean 'temperature'"),
    ],
)
def test_an_unknown_loss_or_option_is_refused_before_training(options, loss, message):
    with pytest.raises(ConfigError, match=message):
        DistillStep(options(losses=[loss]))


class TestDeepSupervision:
    """A network whose second answer is half as fine."""

    @pytest.fixture
    def network(self):
        torch.manual_seed(0)
        down = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(2))
        return nn.Sequential(down, nn.ConvTranspose2d(4, 3, 2, stride=2))

    @pytest.fixture
    def config(self, options):
        train = options().student.train.model_copy(update={"deep_supervision": ("0",)})
        student = options().student.model_copy(update={"train": train})
        return options().model_copy(update={"student": student})

    @pytest.fixture
    def batch(self, batch):
        return batch | {"image": batch["image"][:, :1], "label": batch["label"].contiguous()}

    def test_each_head_learns_from_resized_targets_at_half_the_weight(self, config, network, batch):
        step = DistillStep(config)
        step.adapt(network)
        terms = step(network, batch, 0)
        (head,) = step.heads.values()
        deep = head(network[0](batch["image"]))
        label = batch["label"][:, 1::2, 1::2]  # nearest-exact of a grid half as fine
        soft = F.avg_pool2d(batch["soft"], 2)
        valid = batch["valid"][:, 1::2, 1::2]
        hard = by_hand(deep, label)
        expected = sum(hard.values()) + pixel_kd(deep, soft, valid)["pixel_kd"]
        torch.testing.assert_close(terms["deep_supervision/0"], expected)
        answer = terms["dice_loss"] + terms["cross_entropy"] + terms["pixel_kd"]
        torch.testing.assert_close(terms["loss"], answer + 0.5 * expected)

    def test_heads_are_trained_and_are_no_part_of_the_network(self, config, network, batch):
        step = SupervisedStep(config, config.student.train)
        step.adapt(network)
        step(network, batch, 0)["loss"].backward()
        assert [p.grad is not None for p in step.parameters()] == [True, True]
        assert not set(step.state_dict()) & set(network.state_dict())

    def test_a_layer_that_puts_out_no_map_is_refused(self, config, batch):
        step = SupervisedStep(config, config.student.train)
        flat = nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(256, 3)))
        with pytest.raises(ConfigError, match="deep_supervision: layer '0' puts out no features"):
            step.adapt(flat)

    def test_structures_that_overlap_are_resized_each_by_itself(self, config, network, batch):
        data = config.data.model_copy(update={"overlapping": True})
        config = config.model_copy(update={"data": data})
        network[1] = nn.ConvTranspose2d(4, 2, 2, stride=2)
        label = torch.randint(0, 2, (2, 2, 8, 8), dtype=torch.uint8)
        batch = batch | {"label": label, "soft": torch.rand(2, 2, 8, 8)}
        step = DistillStep(config)
        step.adapt(network)
        terms = step(network, batch, 0)
        (head,) = step.heads.values()
        deep = head(network[0](batch["image"]))
        hard = independent(deep, {"label": label[:, :, 1::2, 1::2]})
        soft, valid = F.avg_pool2d(batch["soft"], 2), batch["valid"][:, 1::2, 1::2]
        expected = sum(hard.values()) + pixel_kd(deep, soft, valid, sigmoid=True)["pixel_kd"]
        torch.testing.assert_close(terms["deep_supervision/0"], expected)
