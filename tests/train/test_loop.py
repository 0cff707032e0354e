import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from medkd.errors import TrainingError
from medkd.options import TrainOptions
from medkd.seeding import derive_seed
from medkd.track.tracker import RecordingTracker
from medkd.train import loop
from medkd.train.loop import Fit, fit

CPU = torch.device("cpu")
OPTIONS = TrainOptions(steps=8, validate_every=3, learning_rate=0.05, precision="32-true", batch=4)


class Killed(BaseException):
    """Stands in for the end of the process."""


def network():
    """Batch norm and dropout: buffers and random draws must come back too."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2)
    )


def batches(first, device=CPU):
    for number in range(first, OPTIONS.steps):
        rng = torch.Generator().manual_seed(derive_seed(0, "batch", number))
        image = torch.randn(OPTIONS.batch, 3, generator=rng)
        yield {"image": image, "label": (image.sum(1) > 0).long()}


def step(model, batch, number):
    del number
    return {"loss": nn.functional.cross_entropy(model(batch["image"]), batch["label"])}


def validate(model):
    rng = torch.Generator().manual_seed(99)
    image = torch.randn(64, 3, generator=rng)
    with torch.no_grad():
        right = model(image).argmax(1) == (image.sum(1) > 0)
    return {"accuracy": right.float().mean().item(), "cases": 64.0}


@pytest.fixture
def run(tmp_path):
    return Fit(
        name="student",
        step=step,
        batches=batches,
        validate=validate,
        folder=tmp_path,
        tracker=RecordingTracker(),
        seed=5,
        epoch_steps=2,
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Weights and figures of a run that nobody killed."""
    model = network()
    whole = Fit(
        "student", step, batches, validate, tmp_path_factory.mktemp("a"), RecordingTracker(), 5, 2
    )
    return fit(model, OPTIONS, whole), model.state_dict()


def killed_at(function, number):
    """Return ``function`` that kills the run when it is called for the ``number``th time."""
    calls = iter(range(number))

    def wrapped(*args):
        if next(calls, None) is None:
            raise Killed
        return function(*args)

    return wrapped


@pytest.mark.parametrize("number", range(OPTIONS.steps))
def test_a_run_killed_in_any_step_ends_with_the_same_weights(run, undisturbed, number):
    with pytest.raises(Killed):
        fit(network(), OPTIONS, replace(run, step=killed_at(step, number)))
    assert_resumes_to(undisturbed, run)


@pytest.mark.parametrize("number", range(3))
def test_a_run_killed_in_any_validation_ends_with_the_same_weights(run, undisturbed, number):
    with pytest.raises(Killed):
        fit(network(), OPTIONS, replace(run, validate=killed_at(validate, number)))
    assert_resumes_to(undisturbed, run)


@pytest.mark.parametrize("precision", ["bf16-mixed"])
def test_a_run_in_half_precision_is_resumed_as_exactly(tmp_path, run, precision):
    options = OPTIONS.model_copy(update={"precision": precision})
    whole = network()
    (tmp_path / "whole").mkdir()
    figures = fit(whole, options, replace(run, folder=tmp_path / "whole"))
    with pytest.raises(Killed):
        fit(network(), options, replace(run, step=killed_at(step, 4)))
    resumed = network()
    assert fit(resumed, options, run) == figures
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name])


def test_a_run_killed_again_and_again_ends_with_the_same_weights(run, undisturbed):
    for _ in range(3):
        with pytest.raises(Killed):
            fit(network(), OPTIONS, replace(run, step=killed_at(step, 4)))
        if (run.folder / "last.pt").exists() and _steps_done(run.folder) + 4 >= OPTIONS.steps:
            break
    assert_resumes_to(undisturbed, run)


def test_a_run_killed_after_its_last_step_only_reads_its_result(run, undisturbed):
    fit(network(), OPTIONS, run)
    assert_resumes_to(undisturbed, replace(run, step=killed_at(step, 0)))


def test_a_run_killed_by_the_system_ends_with_the_same_weights(run, undisturbed):
    code = (
        "import os, signal, sys; sys.path.insert(0, os.getcwd());"
        "from pathlib import Path; from medkd.track.tracker import NullTracker;"
        "from tests.train.test_loop import *;"
        "die = lambda *_: os.kill(os.getpid(), signal.SIGKILL);"
        "last = lambda m, b, n: step(m, b, n) if n < 5 else die();"
        "fit(network(), OPTIONS,"
        " Fit('student', last, batches, validate, Path(sys.argv[1]), NullTracker(), 5, 2))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, run.folder],
        check=False,
        capture_output=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert _steps_done(run.folder) == 3
    assert_resumes_to(undisturbed, run)


def _steps_done(folder):
    return torch.load(folder / "last.pt", weights_only=True)["step"]


def assert_resumes_to(undisturbed, run):
    figures, weights = undisturbed
    resumed = network()
    assert fit(resumed, OPTIONS, run) == figures
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_an_error_that_nobody_foresaw_ends_the_batches(run):
    """Its traceback keeps the frames, and workers that wait for them would keep the process."""
    ended = []

    def watched(first, device=CPU):
        try:
            yield from batches(first)
        finally:
            ended.append(True)

    with pytest.raises(ZeroDivisionError) as caught:
        fit(network(), OPTIONS, replace(run, batches=watched, validate=lambda _: 1 / 0))
    assert ended, caught


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_with_a_remedy(run, bad):
    def explode(model, batch, number):
        terms = step(model, batch, number)
        return terms if number < 2 else {"loss": terms["loss"] * bad}

    model = network()
    named = replace(run, step=explode, cases=lambda step: [f"case-{step}a", f"case-{step}b"])
    message = r"student: step 2: .* on the cases case-2a, case-2b; .*lower train\.learning_rate"
    with pytest.raises(TrainingError, match=message):
        fit(model, OPTIONS, named)
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_run_that_goes_on_knows_how_long_a_term_has_taught_nothing(run):
    class Watching(nn.Module):
        def __init__(self):
            super().__init__()
            self.idle = {}

        def forward(self, model, batch, number):
            self.idle["dist"] = self.idle.get("dist", 0) + 1
            if number == 5 and self.killed:
                raise Killed
            return step(model, batch, number)

    first, second = Watching(), Watching()
    first.killed, second.killed = True, False
    with pytest.raises(Killed):
        fit(network(), OPTIONS, replace(run, step=first))
    fit(network(), OPTIONS, replace(run, step=second))
    assert second.idle == {"dist": OPTIONS.steps}


def test_a_gradient_that_is_not_finite_stops_the_run_before_it_harms_the_weights(run):
    def cornered(model, batch, number):
        terms = step(model, batch, number)
        (weight, *_) = model.parameters()
        root = (weight - weight.detach()).square().sum().sqrt()  # 0, with a slope of 0 / 0
        return terms if number < 4 else {"loss": terms["loss"] + root}

    model = network()
    named = replace(run, step=cornered, cases=lambda step: [f"case-{step}"])
    message = r"step 4: the gradient is not finite, though the loss is on the cases case-4; look"
    with pytest.raises(TrainingError, match=message):
        fit(model, OPTIONS, named)
    assert all(p.isfinite().all() for p in model.parameters())
    assert _steps_done(run.folder) == 3


def test_in_16_bits_too_a_gradient_that_never_is_finite_stops_the_run(run, monkeypatch):
    def cornered(model, batch, number):
        (weight, *_) = model.parameters()
        root = (weight - weight.detach()).square().sum().sqrt()
        return {"loss": step(model, batch, number)["loss"] + root}

    def skipping(*args):  # as the scaler of a GPU skips such a step
        optimizer = adamw(*args)
        monkeypatch.setattr(optimizer, "step", lambda *_, **__: None)
        return optimizer

    adamw, cpu = loop.adamw, loop.Fabric(accelerator="cpu", devices=1)
    monkeypatch.setattr(loop, "adamw", skipping)
    monkeypatch.setattr(loop, "_fabric", lambda _: cpu)
    monkeypatch.setattr(loop, "precision", lambda _: "16-mixed")
    monkeypatch.setattr(loop, "OVERFLOWS", 4)
    with pytest.raises(TrainingError, match=r"step 4: the gradient is not finite"):
        fit(network(), OPTIONS, replace(run, step=cornered))


def take_too_much_of_a_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")


def test_too_little_memory_names_the_knobs_and_keeps_what_was_saved(run):
    def overflow(model, batch, number):
        if number == 4:
            take_too_much_of_a_gpu()
        return step(model, batch, number)

    message = r"step 4: out of memory \(CUDA.*\); lower train\.batch \(4\) or preproc"
    with pytest.raises(TrainingError, match=message):
        fit(network(), OPTIONS, replace(run, step=overflow))
    assert _steps_done(run.folder) == 3


def test_too_little_memory_for_a_batch_names_the_knobs_too(run):
    def overflowing(first, device=CPU):
        yield from [next(batches(first))] * 4
        take_too_much_of_a_gpu()

    with pytest.raises(
        TrainingError, match=r"a batch: out of memory \(CUDA.*\); lower train\.batch"
    ):
        fit(network(), OPTIONS, replace(run, batches=overflowing))
    assert _steps_done(run.folder) == 3


def test_training_ends_when_patience_runs_out_and_not_before(run):
    scores = iter([0.5, 0.4, 0.6, 0.1, 0.2, 0.9])
    options = OPTIONS.model_copy(update={"patience": 2, "validate_every": 1})
    patient = replace(run, validate=lambda _: {"dice": next(scores)})
    assert fit(network(), options, patient) == {"dice": 0.6}
    assert list(run.tracker.curve("validation/dice")) == [1, 2, 3, 4, 5]


def test_patience_is_remembered_over_a_kill(run):
    scores = iter([0.5, 0.4, 0.3, 0.9])
    options = OPTIONS.model_copy(update={"patience": 2, "validate_every": 1})
    patient = replace(run, validate=lambda _: {"dice": next(scores)})
    with pytest.raises(Killed):
        fit(network(), options, replace(patient, step=killed_at(step, 2)))
    assert fit(network(), options, patient) == {"dice": 0.5}
    assert list(run.tracker.curve("validation/dice")) == [1, 2, 3]


def test_training_ends_at_the_first_validation_after_its_time(run):
    options = OPTIONS.model_copy(update={"minutes": 1e-9})
    fit(network(), options, run)
    assert _steps_done(run.folder) == OPTIONS.validate_every
    again = replace(run, step=killed_at(step, 0))
    fit(network(), options, again)
    assert _steps_done(run.folder) == OPTIONS.validate_every


def test_a_run_killed_before_its_first_validation_goes_on_to_it_though_its_time_is_over(
    run, monkeypatch
):
    options = OPTIONS.model_copy(update={"minutes": 1e-9})
    monkeypatch.setattr("medkd.train.loop.SAVE_EVERY_S", -1.0)
    with pytest.raises(Killed):
        fit(network(), options, replace(run, step=killed_at(step, 1)))
    assert _steps_done(run.folder) == 1
    fit(network(), options, run)
    assert _steps_done(run.folder) == OPTIONS.validate_every


def test_time_spent_before_a_kill_counts(run):
    options = OPTIONS.model_copy(update={"minutes": 5.0})
    with pytest.raises(Killed):
        fit(network(), options, replace(run, step=killed_at(step, 4)))
    saved = torch.load(run.folder / "last.pt", weights_only=True)
    torch.save(saved | {"spent_s": 301.0}, run.folder / "last.pt")
    fit(network(), options, replace(run, step=killed_at(step, 0)))
    assert _steps_done(run.folder) == 3


def test_a_figure_that_is_undefined_stops_the_run_with_a_remedy(run):
    undefined = replace(run, validate=lambda _: {"auroc": float("nan")})
    with pytest.raises(TrainingError, match=r"student: step 2: auroc is undefined .*data\.split"):
        fit(network(), OPTIONS, undefined)


def test_the_best_validated_weights_are_kept(run):
    seen = []

    def rank(model):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"dice": [0.1, 0.9, 0.3][len(seen) - 1], "nll": float(len(seen))}

    model = network()
    assert fit(model, OPTIONS, replace(run, validate=rank)) == {"dice": 0.9, "nll": 2.0}
    torch.testing.assert_close(model.state_dict(), seen[1], rtol=0, atol=0)


def test_of_weights_that_score_alike_the_likelier_are_kept(run):
    found = iter(
        [{"auroc": 1.0, "nll": 0.3}, {"auroc": 1.0, "nll": 0.1}, {"auroc": 1.0, "nll": 0.2}]
    )
    assert fit(network(), OPTIONS, replace(run, validate=lambda _: next(found)))["nll"] == 0.1


def test_a_run_that_a_former_version_left_goes_on(run, undisturbed):
    with pytest.raises(Killed):
        fit(network(), OPTIONS, replace(run, validate=killed_at(validate, 2)))
    saved = torch.load(run.folder / "last.pt", weights_only=True)
    del saved["likelihood"]
    torch.save(saved, run.folder / "last.pt")
    assert_resumes_to(undisturbed, run)


def test_validation_sees_the_averaged_weights_in_evaluation_and_training_goes_on_with_its_own(run):
    modes, trained = [], []

    def note(model):
        modes.append(model.training)
        return {"dice": 0.0}

    def watch(model, batch, number):
        trained.append((number, model.training))
        return step(model, batch, number)

    fit(network(), OPTIONS, replace(run, step=watch, validate=note))
    assert modes == [False] * 3
    assert trained == [(number, True) for number in range(OPTIONS.steps)]


def test_curves_are_averages_and_the_last_step_is_validated(run):
    options = TrainOptions(steps=30, validate_every=20, precision="32-true", batch=1)

    def count(model, batch, number):
        return {"loss": 0 * step(model, batch, number)["loss"] + number}

    def thirty(first, device=CPU):
        yield from [next(batches(0))] * (30 - first)

    fit(network(), options, replace(run, step=count, batches=thirty))
    assert run.tracker.curve("train/loss") == {20: 9.5, 25: 22.0, 30: 27.0}
    assert list(run.tracker.curve("validation/accuracy")) == [20, 30]
    assert run.tracker.curve("time/epoch_s").keys() == {20, 25, 30}


def test_the_share_of_waiting_for_data_is_told(run, tmp_path):
    def shares(get_s, work_s):
        def slowly(first, device=CPU):
            for batch in batches(first):
                time.sleep(get_s)
                yield batch

        def work(model, batch, number):
            time.sleep(work_s)
            return step(model, batch, number)

        folder, tracker = tmp_path / f"{get_s}", RecordingTracker()
        folder.mkdir()
        slow = replace(run, folder=folder, tracker=tracker, step=work, batches=slowly)
        fit(network(), OPTIONS, slow)
        return tracker.curve("time/wait_share").values()

    waiting, working = shares(0.1, 0.0), shares(0.0, 0.1)
    assert 0 <= max(working) < min(waiting) <= 1


def test_a_run_killed_on_its_way_draws_the_curves_of_one_that_was_not(run, tmp_path):
    whole = replace(run, folder=tmp_path / "whole", tracker=RecordingTracker())
    whole.folder.mkdir()
    fit(network(), OPTIONS, whole)
    with pytest.raises(Killed):
        fit(network(), OPTIONS, replace(run, step=killed_at(step, 5)))
    fit(network(), OPTIONS, run)
    assert run.tracker.curve("train/loss") == whole.tracker.curve("train/loss")
    assert list(run.tracker.curve("train/loss")) == [3, 6, 8]


def test_fewer_steps_than_a_validation_are_validated_once(run):
    options = TrainOptions(steps=1, validate_every=100, precision="32-true", batch=1)

    def one(first, device=CPU):
        yield next(batches(first))

    fit(network(), options, replace(run, batches=one))
    assert list(run.tracker.curve("validation/accuracy")) == [1]


def convolutional(norm):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(3, 4, 3), norm(4), nn.Flatten(), nn.Linear(32, 2))


def volumes(first, device=CPU):
    for batch in batches(first):
        column = batch["image"][:, :, None, None, None]
        yield {**batch, "image": column + torch.arange(64.0).reshape(1, 1, 4, 4, 4).sin()}


@pytest.mark.parametrize(("norm", "last"), [(nn.BatchNorm3d, True), (nn.InstanceNorm3d, False)])
def test_a_network_with_batch_norm_trains_channels_last_to_the_same_answer(
    run, monkeypatch, norm, last
):
    layouts = []

    def watch(model, batch, number):
        weight = next(p for p in model.parameters() if p.ndim == 5)
        layouts.append(weight.is_contiguous(memory_format=torch.channels_last_3d))
        return step(model, batch, number)

    here = replace(run, batches=volumes, step=watch, validate=lambda _: {"dice": 0.0})
    model, plain = convolutional(norm), convolutional(norm)
    (run.folder / "plain").mkdir()
    options = OPTIONS.model_copy(update={"learning_rate": 0.001})
    fit(model, options, here)
    monkeypatch.setattr("medkd.train.loop.CHANNELS_LAST", {})
    fit(plain, options, replace(here, folder=run.folder / "plain"))
    assert layouts == [last] * OPTIONS.steps + [False] * OPTIONS.steps
    image = next(volumes(0))["image"]  # logits: weights that norm cancels drift with rounding
    torch.testing.assert_close(model.eval()(image), plain.eval()(image), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("channels", "last"), [(4, False), (8, True)])
def test_few_channels_into_a_strided_convolution_of_one_voxel_stay_first(run, channels, last):
    layouts = []

    class Strided(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv3d(3, channels, 3, padding=1)
            self.norm = nn.BatchNorm3d(channels)
            self.last = nn.Conv3d(channels, 3, 1, stride=2)

        def forward(self, image):
            return self.last(self.norm(self.first(image))).mean(dim=(2, 3, 4))

    def watch(model, batch, number):
        weight = next(p for p in model.parameters() if p.ndim == 5)
        layouts.append(weight.is_contiguous(memory_format=torch.channels_last_3d))
        return step(model, batch, number)

    fit(
        Strided(),
        OPTIONS,
        replace(run, batches=volumes, step=watch, validate=lambda _: {"dice": 0.0}),
    )
    assert layouts == [last] * OPTIONS.steps


class Adapted(nn.Module):
    """A step with parameters of its own."""

    def __init__(self, killed_at=None):
        super().__init__()
        torch.manual_seed(1)
        self.adapter = nn.Linear(2, 3)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.killed_at = killed_at

    def forward(self, model, batch, number):
        if number == self.killed_at:
            raise Killed
        hint = (self.adapter(model(batch["image"])) - batch["image"]).square().mean()
        return {"loss": step(model, batch, number)["loss"] + hint, "hint": hint}


def test_what_a_step_brings_along_is_trained_and_comes_back_after_a_kill(run, tmp_path):
    whole, start = Adapted(), Adapted()
    (tmp_path / "whole").mkdir()
    model = network()
    figures = fit(model, OPTIONS, replace(run, step=whole, folder=tmp_path / "whole"))
    assert not torch.equal(whole.adapter.weight, start.adapter.weight)
    assert torch.equal(whole.frozen.weight, start.frozen.weight)
    with pytest.raises(Killed):
        fit(network(), OPTIONS, replace(run, step=Adapted(killed_at=4)))
    resumed, again = network(), Adapted()
    assert fit(resumed, OPTIONS, replace(run, step=again)) == figures
    torch.testing.assert_close(again.state_dict(), whole.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(resumed.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_a_run_that_is_asked_to_stop_saves_the_step_it_is_in(run, undisturbed):
    def ask(model, batch, number):
        if number == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(model, batch, number)

    with pytest.raises(SystemExit):
        fit(network(), OPTIONS, replace(run, step=ask))
    assert _steps_done(run.folder) == 5
    assert_resumes_to(undisturbed, run)


def test_a_run_is_saved_once_in_a_while_between_validations(run, undisturbed, monkeypatch):
    monkeypatch.setattr("medkd.train.loop.SAVE_EVERY_S", 0.0)
    with pytest.raises(Killed):
        fit(network(), OPTIONS, replace(run, step=killed_at(step, 5)))
    assert _steps_done(run.folder) == 5
    assert_resumes_to(undisturbed, run)
