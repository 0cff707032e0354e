"""The pixel-wise divergence of a large map against the form that everybody writes."""

import json
import subprocess
import sys
from functools import partial
from itertools import product
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHAPE = (1, 14, 96, 96, 96)
TEMPERATURE, REPEATS = 2.0, 7


def measure(form):
    """Run one form in a process of its own, so that its peak memory is its own too."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.test_divergence", form],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def peak_kib():
    """Return this process's own peak memory; ``ru_maxrss`` would start with that of its parent."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def run(form):
    """Print time, extra memory and result of forward and backward as JSON."""
    import time

    import torch
    from torch.nn import functional as F

    from medkd.distill.divergence import softmax_divergence

    def usual(student, teacher):
        log_q = F.log_softmax(student / TEMPERATURE, dim=1)
        log_p = F.log_softmax(teacher.log() / TEMPERATURE, dim=1)
        by_voxel = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)
        return by_voxel.mean() * TEMPERATURE**2

    def ours(student, teacher):
        return softmax_divergence(student, teacher, temperature=TEMPERATURE)

    function = {"usual": usual, "ours": ours}[form]
    torch.manual_seed(0)
    student = (3 * torch.randn(SHAPE)).requires_grad_()
    teacher = torch.randn(SHAPE).mul_(3).exp_()
    teacher /= teacher.sum(dim=1, keepdim=True)
    small = [x.detach()[..., :8].contiguous() for x in (student, teacher)]
    function(small[0].requires_grad_(), small[1]).backward()  # threads and code are loaded
    before = peak_kib()
    times = []
    for _ in range(REPEATS):
        student.grad = None
        start = time.perf_counter()
        value = function(student, teacher)
        value.backward()
        times.append(1000 * (time.perf_counter() - start))
    extra = (peak_kib() - before) / 1024
    result = {"ms": sorted(times)[REPEATS // 2], "extra_mib": extra}
    result |= {"value": value.item(), "gradient": student.grad.norm().item()}
    sys.stdout.write(json.dumps(result))


def test_time_and_memory():
    usual, ours = measure("usual"), measure("ours")
    assert ours["value"] == pytest.approx(usual["value"], rel=1e-4)
    assert ours["gradient"] == pytest.approx(usual["gradient"], rel=1e-4)
    print(
        f"\npixel-wise KL of {list(SHAPE)}, forward and backward, median of {REPEATS}"
        f"\n  time: medkd {ours['ms']:.0f} ms, log_softmax and kl_div {usual['ms']:.0f} ms: "
        f"{ours['ms'] / usual['ms']:.2f}"
        f"\n  extra memory: medkd {ours['extra_mib']:.0f} MiB, log_softmax and kl_div "
        f"{usual['extra_mib']:.0f} MiB: {ours['extra_mib'] / usual['extra_mib']:.2f}"
    )


def test_time_on_a_gpu():
    """Against a device copy of as many bytes as must be moved: two tensors read, one written."""
    import torch

    from medkd.distill.divergence import fused_on, softmax_divergence

    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    print(f"\npixel-wise KL on {torch.cuda.get_device_name()}, forward and backward")
    for dtype, shape in product((torch.float32, torch.bfloat16), (SHAPE, (2, 14, 128, 128, 128))):
        student = torch.randn(shape, device="cuda", dtype=dtype).requires_grad_()
        teacher = torch.randn(shape, device="cuda").softmax(1)
        source = torch.empty(
            student.nbytes + teacher.nbytes // 2, dtype=torch.uint8, device="cuda"
        )  # a copy reads and writes it: as much as logits and gradient, and the soft target

        def step(weight, student=student, teacher=teacher):
            student.grad = None
            loss = softmax_divergence(student, teacher, temperature=TEMPERATURE)
            (weight * loss).backward()  # another than 1 moves the gradient once more

        copy = device_ms(source.clone)
        form = "one kernel" if fused_on(student.device) else "blocks"
        for weight in (1.0, 0.5):
            ours = device_ms(partial(step, weight))
            print(
                f"  {list(shape)}, {dtype}, weight {weight}, {form}: {ours:.3f} ms, "
                f"copy {copy:.3f}: {ours / copy:.2f}"
            )


def device_ms(function):
    """Return the GPU's time of a call, of many that were queued before it had to begin."""
    import torch

    for _ in range(5):
        function()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(200_000_000)  # clock cycles, in which all below is queued
    start.record()
    for _ in range(REPEATS):
        function()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / REPEATS


if __name__ == "__main__":
    run(sys.argv[1])
