"""Loop: the one loop that trains every network of a study."""

import logging
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from medkd.errors import TrainingError
from medkd.models.memory import remedy_for_memory
from medkd.options import TrainOptions
from medkd.progress import console, progress
from medkd.seeding import derive_seed
from medkd.track.tracker import Tracker
from medkd.train.distributed import agreed, mean, rank, world_size
from medkd.train.distributed import average as average_over_processes
from medkd.train.optim import WeightAverage, adamw, learning_rate, precision
from medkd.train.remarks import say_validation, warn_if_nothing_was_learned
from medkd.train.steps import Step
from medkd.train.stop import stopping

LOG_EVERY = 25  # steps over which the curves are averaged; a validation ends an average too
SAVE_EVERY_S = 60.0  # how much work a kill can cost
OVERFLOWS = 50  # steps on end that 16-mixed may skip: each halves what the loss is scaled with
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}  # by a weight's axes
# (first step, device that trains) -> batches from there on, there or on the CPU
Batches = Callable[[int, torch.device], Generator[dict[str, Tensor]]]
Validate = Callable[[nn.Module], dict[str, float]]


@dataclass(frozen=True)
class Fit:
    """What a training run needs beside the network and its options.

    Attributes:
        name: shown beside the progress bar.
        step: from a batch to named loss terms. If it is a module, its parameters are trained too;
            they come back after a kill but are no part of the result.
        batches: the batches from a given step on.
        validate: figures of a network on the validation split; the first one is maximised.
        folder: holds ``last.pt`` (to resume) and ``best.pt`` while training.
        tracker: receives the curves.
        seed: of the network's own draws.
        epoch_steps: steps that make one pass over the training cases.
        cases: ids of the cases in the batch of a step, to name them when it goes wrong.
        show: draws what a network answers, after a validation that followed so many steps.
    """

    name: str
    step: Step
    batches: Batches
    validate: Validate
    folder: Path
    tracker: Tracker
    seed: int
    epoch_steps: int
    cases: Callable[[int], Sequence[str]] = lambda _: ()
    show: Callable[[nn.Module, int], None] = lambda *_: None


def fit(model: nn.Module, options: TrainOptions, run: Fit) -> dict[str, float]:
    """Train ``model`` in place; it ends with the best averaged weights. Return their figures.

    A run that was killed goes on from where it was last saved (at a validation, once a minute, and
    when it is asked to stop) and ends with the same weights as one that was not: on a CPU bit by
    bit, on a GPU but for rounding.
    Several processes train together, each on its share of a batch; the first one validates and
    saves.

    Raises:
        TrainingError: the loss is not finite, the validation figure is undefined, or the device's
            memory is too small. What was saved at the last validation stays.
    """
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces precision
    fabric = _fabric(options)
    _lay_out(model)
    adapters = _adapters(run.step, fabric.device)
    trained = [*model.parameters(), *adapters.values()]
    wrapped, optimizer = fabric.setup(model, adamw(trained, options))
    average = WeightAverage(model, decay=options.ema)
    idle = getattr(run.step, "idle", {})
    state = _State(fabric, wrapped, optimizer, average, adapters, idle)
    first, is_first = state.resume(run.folder), rank() == 0
    curves = _Curves(run)
    batches = run.batches(first, fabric.device)
    numbered = enumerate(curves.awaited(batches), start=first)
    todo = progress(numbered, run.name, total=options.steps, done=first) if is_first else numbered
    if first and is_first:
        console.print(f"{run.name}: goes on from step {first}")
    # an error that nobody catches keeps all frames, and workers that wait would keep the process
    remedy = _remedy(f"{run.name}: a batch", options)
    with closing(batches), remedy, stopping() as stop:
        ended = _is_validated(first, options) and state.is_over(options)
        for step, batch in () if ended else todo:
            rate = learning_rate(step, options)
            terms = _update(
                state, run, fabric.to_device(batch), step=step, rate=rate, options=options
            )
            average.update(wrapped.module, step=step)
            curves.add(terms, rate)
            if _settle(state, run, curves, step=step, options=options, asked=stop.asked):
                break
            stop.leave_if_asked()
    if not is_first:
        return {}
    best = torch.load(run.folder / "best.pt", weights_only=True, map_location="cpu")
    model.load_state_dict(best["weights"])
    warn_if_nothing_was_learned(run.name, best["figures"])
    return best["figures"]


def _settle(
    state: "_State", run: Fit, curves: "_Curves", *, step: int, options: TrainOptions, asked: bool
) -> bool:
    """Log, validate and save after a step where it is time to; return whether training is over."""
    is_validated = _is_validated(step + 1, options)
    if is_validated or (step + 1) % LOG_EVERY == 0:
        curves.log(step)
    if rank() == 0:
        if is_validated:
            with _remedy(f"{run.name}: validation after step {step + 1}", options):
                _validate(state, run, step)
        if is_validated or asked or state.is_unsaved(SAVE_EVERY_S):
            state.save(run.folder, step + 1)
    if not is_validated:
        return False
    curves.restart()
    is_over = agreed(state.is_over(options))
    if is_over:
        console.print(f"{run.name}: ends after step {step + 1} (train.patience or minutes)")
    return is_over


def _is_validated(steps: int, options: TrainOptions) -> bool:
    """Whether a validation follows so many steps."""
    return steps > 0 and (steps % options.validate_every == 0 or steps == options.steps)


def _fabric(options: TrainOptions) -> Fabric:
    if world_size() == 1:
        return Fabric(accelerator="auto", devices=1, precision=precision(options))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))
    fabric = Fabric(
        accelerator="auto",
        strategy="ddp",
        devices=here,
        num_nodes=world_size() // here,
        precision=precision(options),
    )
    fabric.launch()
    return fabric


def _update(
    state: "_State",
    run: Fit,
    batch: dict[str, Tensor],
    *,
    step: int,
    rate: float,
    options: TrainOptions,
) -> dict[str, float]:
    # dropout resumes where it was, and differs from process to process
    torch.manual_seed(derive_seed(run.seed, "step", step, *([rank()] if rank() else [])))
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    with _remedy(f"{run.name}: step {step}", options):
        terms = run.step(state.model.train(), batch, step)
        values = mean(terms)
        if not all(map(math.isfinite, values.values())):
            bad = ", ".join(name for name, value in values.items() if not math.isfinite(value))
            raise _not_finite(f"loss is not finite ({bad})", run, step)
        state.optimizer.zero_grad()
        state.fabric.backward(terms["loss"])
        for adapter in state.adapters.values():
            if adapter.grad is not None:
                average_over_processes(adapter.grad)
        norm = state.fabric.clip_gradients(
            state.model, state.optimizer, max_norm=options.clip_norm, error_if_nonfinite=False
        )
        assert norm is not None
        state.overflows = 0 if math.isfinite(norm) else state.overflows + 1
        # in 16-mixed it is the scaled loss that is too large; the scaler skips the step
        if state.overflows > (OVERFLOWS if precision(options) == "16-mixed" else 0):
            raise _not_finite("gradient is not finite, though the loss is", run, step)
        state.optimizer.step()
    return values


def _not_finite(what: str, run: Fit, step: int) -> TrainingError:
    return TrainingError(
        f"{run.name}: step {step}: the {what} on the cases {', '.join(run.cases(step))}; look at "
        f"them, lower train.learning_rate or set train.precision: 32-true"
    )


def _remedy(place: str, options: TrainOptions) -> AbstractContextManager[None]:
    return remedy_for_memory(place, f"lower train.batch ({options.batch}) or preprocess.window")


@dataclass
class _State:
    """All that changes while training, and how it comes back after a kill."""

    fabric: Fabric
    model: Any  # as wrapped by fabric; ``model.module`` is the network itself
    optimizer: Any
    average: WeightAverage
    adapters: dict[str, nn.Parameter]
    idle: dict[str, int]  # of a step that watches its terms
    best: float = -math.inf
    likelihood: float = -math.inf  # of the best one
    stale: int = 0  # validations since the best one
    overflows: int = 0  # steps on end whose gradient is not finite
    spent_s: float = 0.0  # before this process
    began: float = field(default_factory=time.monotonic)
    saved: float = field(default_factory=time.monotonic)

    def is_over(self, options: TrainOptions) -> bool:
        """Whether patience or time has run out."""
        impatient = options.patience is not None and self.stale >= options.patience
        late = options.minutes is not None and self._spent_s() >= 60 * options.minutes
        return impatient or late

    def is_unsaved(self, seconds: float) -> bool:
        """Whether the last save was so long ago."""
        return time.monotonic() - self.saved > seconds

    def _spent_s(self) -> float:
        return self.spent_s + time.monotonic() - self.began

    def resume(self, folder: Path) -> int:
        if not (folder / "last.pt").exists():
            return 0
        saved = torch.load(folder / "last.pt", weights_only=True, map_location="cpu")
        self.model.module.load_state_dict(saved["weights"])
        for name, parameter in self.adapters.items():
            parameter.data.copy_(saved["adapters"][name])
        for name, weight in self.average.weights.items():
            weight.copy_(saved["average"][name])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.fabric.strategy.precision.load_state_dict(saved["scaler"])
        self.best, self.stale, self.spent_s = saved["best"], saved["stale"], saved["spent_s"]
        self.likelihood = saved.get("likelihood", -math.inf)  # former versions saved none
        self.idle.update(saved.get("idle", {}))
        return saved["step"]

    def save(self, folder: Path, step: int) -> None:
        saved = {
            "step": step,
            "weights": self.model.module.state_dict(),
            "adapters": {name: p.data for name, p in self.adapters.items()},
            "average": self.average.weights,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.fabric.strategy.precision.state_dict(),
            "best": self.best,
            "likelihood": self.likelihood,
            "stale": self.stale,
            "idle": self.idle,
            "spent_s": self._spent_s(),
        }
        _save(saved, folder / "last.pt")
        self.saved = time.monotonic()


def _validate(state: _State, run: Fit, step: int) -> None:
    network = state.model.module
    trained = {k: v.clone() for k, v in network.state_dict().items()}
    network.load_state_dict(state.average.weights)
    figures = run.validate(network.eval())
    run.tracker.metrics({f"validation/{k}": v for k, v in figures.items()}, step=step + 1)
    say_validation(run.name, step + 1, figures)
    run.show(network, step + 1)
    name, score = next(iter(figures.items()))
    if math.isnan(score):
        raise TrainingError(
            f"{run.name}: step {step}: {name} is undefined on the validation cases; give every "
            f"class a validation case (data.split)"
        )
    state.stale += 1
    likelihood = -figures.get("nll", math.inf)
    if (score, likelihood) > (state.best, state.likelihood):
        state.best, state.likelihood, state.stale = score, likelihood, 0
        kept = {"weights": state.average.weights, "figures": figures, "step": step + 1}
        _save(kept, run.folder / "best.pt")
    network.load_state_dict(trained)


def _save(content: dict[str, Any], path: Path) -> None:
    temporary = path.with_suffix(".partial")
    with temporary.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())  # a machine that loses power keeps the one before
    temporary.replace(path)


def _adapters(step: Step, device: torch.device) -> dict[str, nn.Parameter]:
    """Return what is trained beside the network."""
    if not isinstance(step, nn.Module):
        return {}
    return {name: p for name, p in step.to(device).named_parameters() if p.requires_grad}


def _lay_out(model: nn.Module) -> None:
    """Store the weights of a network with batch norm channels last; activations follow them.

    It then trains up to 1.6 times faster on a CPU. Instance norm would copy every map back.
    """
    if any(map(_harms_memory, model.modules())):
        return
    if any(isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d) for module in model.modules()):
        for weight in model.parameters():
            if weight.ndim in CHANNELS_LAST:
                weight.data = weight.data.contiguous(memory_format=CHANNELS_LAST[weight.ndim])


def _harms_memory(module: nn.Module) -> bool:
    """Whether its gradient, channels last, writes where it must not.

    oneDNN on processors of AVX2 without AVX-512 does, for strided convolutions of one voxel whose
    channels do not fill a register of eight floats (torch 2.13).
    """
    if not isinstance(module, nn.Conv2d | nn.Conv3d):
        return False
    is_point = max(module.kernel_size) == 1
    return is_point and max(module.stride) > 1 and module.in_channels < 8


class _Curves:
    """Averages the loss terms over a few steps before they are logged."""

    def __init__(self, run: Fit) -> None:
        self._run = run
        self.restart()

    def restart(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._steps, self._since, self._waited_s = 0, time.perf_counter(), 0.0

    def awaited(self, batches: Iterator[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        """Yield batches, and count the time until each is there."""
        before = time.perf_counter()
        for batch in batches:
            self._waited_s += time.perf_counter() - before
            yield batch
            before = time.perf_counter()

    def add(self, terms: dict[str, float], rate: float) -> None:
        self._rate = rate
        for name, value in terms.items():
            self._sums[name] += value
        self._steps += 1

    def log(self, step: int) -> None:
        curves = {f"train/{name}": value / self._steps for name, value in self._sums.items()}
        step_s = (time.perf_counter() - self._since) / self._steps
        times = {"time/step_ms": 1000 * step_s, "time/epoch_s": step_s * self._run.epoch_steps}
        times["time/wait_share"] = self._waited_s / self._steps / step_s
        self._run.tracker.metrics(
            curves | times | {"train/learning_rate": self._rate}, step=step + 1
        )
        self.restart()
