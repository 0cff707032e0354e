import json
import os
import re
import subprocess
import sys
import tempfile
from functools import partialmethod
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from medkd.distill import divergence
from medkd.distill.divergence import bernoulli_divergence, softmax_divergence
from medkd.models.activation import SUREST, TINY

triton = pytest.importorskip("triton")

from medkd.distill import fused  # noqa: E402  it imports triton

ROOT = Path(__file__).parents[2]
KERNELS = {"_divergence_kernel", "_scale_kernel"}
MAPS = {"softmax": softmax_divergence, "bernoulli": bernoulli_divergence}


@pytest.fixture
def interpreted(monkeypatch):
    """Kernels that Triton interprets on a CPU, in place of those that it compiles for a GPU."""
    from triton.runtime.interpreter import InterpretedFunction, InterpreterBuilder

    for name in KERNELS:
        monkeypatch.setattr(fused, name, InterpretedFunction(getattr(fused, name).fn))
    binary = InterpreterBuilder.binary_op
    for name, as_hardware in (("create_maxnumf", np.fmax), ("create_minnumf", np.fmin)):
        losing = partialmethod(binary, op=as_hardware)  # NaN, as that of a GPU does
        monkeypatch.setattr(InterpreterBuilder, name, losing)
    for name in ("sum", "max"):
        interpreted = InterpretedFunction(getattr(triton.language, name).fn)
        monkeypatch.setattr(triton.language, name, interpreted)


def drawn(*shape, seed=0):
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def differentiated(function, student, teacher, weights, *, temperature=2.0):
    leaf = student.detach().requires_grad_()
    value = function(leaf, teacher, weights, temperature=temperature)
    (3 * value).backward()
    return value.detach(), leaf.grad


@pytest.mark.parametrize("function", MAPS)
@pytest.mark.parametrize("shape", [(70, 3), (2, 5, 9, 11), (2, 14, 6, 7, 5), (3, 1, 130)])
@pytest.mark.parametrize("weighted", ["not", "by a mask", "by numbers"])
def test_it_is_what_the_blocks_are(monkeypatch, interpreted, function, shape, weighted):
    student, teacher = drawn(*shape), drawn(*shape, seed=1)
    teacher = teacher.softmax(1) if function == "softmax" else teacher.sigmoid()
    teacher[0, 0] = 0  # a probability without a logarithm
    weights = torch.rand(shape[0], *shape[2:])
    weights = {"not": None, "by a mask": weights > 0.4, "by numbers": weights}[weighted]
    expected = differentiated(MAPS[function], student, teacher, weights)
    monkeypatch.setattr(divergence, "fused_on", lambda _: fused)
    found = differentiated(MAPS[function], student, teacher, weights)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_the_gradient_has_the_students_type_and_layout(monkeypatch, interpreted, dtype, layout):
    student = drawn(2, 3, 4, 4, 4).to(dtype).contiguous(memory_format=layout)
    teacher = drawn(2, 3, 4, 4, 4, seed=1).softmax(1)
    expected = differentiated(softmax_divergence, student.float(), teacher, None)
    monkeypatch.setattr(divergence, "fused_on", lambda _: fused)
    value, gradient = differentiated(softmax_divergence, student, teacher, None)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    assert gradient.is_contiguous(memory_format=layout)
    torch.testing.assert_close((value, gradient.float()), expected, rtol=1e-2, atol=1e-4)


def test_small_gradients_survive_half_precision_when_the_loss_is_scaled(monkeypatch, interpreted):
    monkeypatch.setattr(divergence, "fused_on", lambda _: fused)
    student = drawn(1, 3, 64, 64, 32)
    teacher = (student + 0.1 * drawn(1, 3, 64, 64, 32, seed=1)).softmax(1)
    leaf = student.half().detach().requires_grad_()
    (65536 * softmax_divergence(leaf, teacher, temperature=1)).backward()
    assert (leaf.grad == 0).float().mean() < 0.01


@pytest.mark.parametrize("temperature", [1, 4])
@pytest.mark.parametrize("logit", [-60.0, -30.0, 0.0, 10.0, 20.0, 60.0])
@pytest.mark.parametrize("function", MAPS)
def test_it_is_zero_where_both_agree_however_sure(
    monkeypatch, interpreted, function, logit, temperature
):
    monkeypatch.setattr(divergence, "fused_on", lambda _: fused)
    student = torch.tensor([logit, 0.0]).repeat(1, 40, 1).transpose(1, 2)
    teacher = student.softmax(1) if function == "softmax" else student.sigmoid()
    loss, gradient = differentiated(MAPS[function], student, teacher, None, temperature=temperature)
    assert abs(loss.item()) < 1e-5
    assert gradient.abs().max() < 1e-5


@pytest.mark.parametrize("function", MAPS)
@pytest.mark.parametrize("whose", ["teacher", "student"])
def test_what_is_no_number_stays_none(monkeypatch, interpreted, function, whose):
    monkeypatch.setattr(divergence, "fused_on", lambda _: fused)
    student, teacher = drawn(1, 3, 40), drawn(1, 3, 40, seed=1).sigmoid()
    teacher[:, 1] = 1
    (teacher if whose == "teacher" else student)[0, 1, 7] = float("nan")
    value, gradient = differentiated(MAPS[function], student, teacher, None)
    assert value.isnan()
    assert gradient[0, 1, 7].isnan()


@pytest.mark.parametrize("function", MAPS)
@pytest.mark.parametrize("shift", [-200, 60])
def test_logits_far_from_0_and_nearly_sure_are_what_float64_says(
    monkeypatch, interpreted, function, shift
):
    student, teacher = drawn(1, 3, 40), drawn(1, 3, 40, seed=1)
    if function == "bernoulli":
        student, teacher = -9 + student / 3, -9 + teacher / 3
    else:
        student = student + shift
    teacher = teacher.softmax(1) if function == "softmax" else teacher.sigmoid()
    expected = differentiated(MAPS[function], student.double(), teacher.double(), None)
    monkeypatch.setattr(divergence, "fused_on", lambda _: fused)
    value, gradient = differentiated(MAPS[function], student, teacher, None)
    assert value.item() == pytest.approx(expected[0].item(), rel=1e-3)
    torch.testing.assert_close(gradient.double(), expected[1], rtol=1e-3, atol=1e-7)


def test_of_more_classes_than_it_holds_the_blocks_are_asked(monkeypatch):
    monkeypatch.setattr(divergence, "fused_on", lambda _: fused)  # not interpreted: it would fail
    student, teacher = drawn(2, fused.MOST_CLASSES + 1, 3), drawn(2, fused.MOST_CLASSES + 1, 3)
    assert differentiated(softmax_divergence, student, teacher.softmax(1), None)[0] < 1e-5


def test_no_gradient_is_made_that_nobody_wants(monkeypatch, interpreted):
    monkeypatch.setattr(divergence, "fused_on", lambda _: fused)
    student, teacher = drawn(2, 3, 4), drawn(2, 3, 4, seed=1).softmax(1)
    value = softmax_divergence(student, teacher, temperature=2)
    assert not value.requires_grad
    torch.testing.assert_close(value, differentiated(softmax_divergence, student, teacher, None)[0])


def test_what_is_multiplied_by_one_is_not_touched(monkeypatch, interpreted):
    values = drawn(5000)
    assert torch.equal(fused.scale_(values.clone(), torch.tensor(1.0)), values)
    torch.testing.assert_close(fused.scale_(values.clone(), torch.tensor(0.3)), values * 0.3)


def test_it_is_trusted_only_where_it_agrees(monkeypatch, interpreted):
    cpu = torch.device("cpu")
    assert divergence._agrees(fused, cpu)
    scale_, right = fused.scale_, fused.divergence
    with monkeypatch.context() as patch:
        patch.setattr(fused, "scale_", lambda values, factor: scale_(values, 2 * factor))
        assert not divergence._agrees(fused, cpu)

    def turned(*args):
        total = right(*args)
        args[3].copy_(args[3].roll(1, dims=2))
        return total

    for wrong in (turned, lambda *args: 2 * right(*args)):
        with monkeypatch.context() as patch:
            patch.setattr(fused, "divergence", wrong)
            assert not divergence._agrees(fused, cpu)


@pytest.mark.parametrize("failure", [False, RuntimeError("no C compiler")])
def test_where_it_cannot_be_had_the_blocks_do_its_work(monkeypatch, caplog, failure):
    def agrees(module, device):
        if failure:
            raise failure
        return False

    monkeypatch.setattr(divergence, "_agrees", agrees)
    assert divergence.fused_on.__wrapped__(torch.device("cuda:0")) is None
    reason = "RuntimeError: no C compiler" if failure else "its results differ"
    assert caplog.messages == [
        f"soft targets are compared more slowly, without a kernel of their own: {reason}"
    ]


def test_compiled_for_gpus_it_reads_and_writes_each_value_once(tmp_path):
    # in a process of its own: the interpreter leaves Triton's language changed
    command, variables = [sys.executable, __file__], {"TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert len(made) == 15
    values = fused.TILE // 128  # of each tensor, by each of 4 warps' threads
    for name, kernel in made.items():
        assert (kernel["stack"], kernel["local"]) == (0, 0), f"{name} keeps values in memory"
        if name.startswith("softmax, fp32"):
            assert kernel["loads"] == values + values + 1, name  # and a factor
            assert kernel["stores"] == values + 1, name  # and a sum


def assembled():
    """Compile both kernels for old and new GPUs; yield their names and what they do."""
    strides = dict.fromkeys(("logits_voxel", "soft_voxel", "gradient_voxel"), 1)
    options = {"DIFFERENTIATED": True, "LEAST": TINY, "MOST": SUREST}
    constants = strides | options | {"CLASSES": 16, "VOXELS": fused.TILE // 16}
    types = {"share": "*i1", "temperature": "fp32"}
    types |= dict.fromkeys(("soft", "shares", "factor", "parts"), "*fp32")
    for dtype in ("fp32", "fp16", "bf16"):
        types |= dict.fromkeys(("logits", "gradient", "values"), f"*{dtype}")
        yield f"scale, {dtype}", compiled(fused._scale_kernel, types, {"SIZE": fused.SLICE}, 90)
        for capability, exclusive in product((75, 90), (True, False)):
            kernel, chosen = (
                fused._divergence_kernel,
                {"EXCLUSIVE": exclusive, "WEIGHTED": not exclusive},
            )
            name = f"{'softmax' if exclusive else 'bernoulli'}, {dtype}, {capability}"
            yield name, compiled(kernel, types, constants | chosen, capability)


def compiled(kernel, types, constants, capability):
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {name: types.get(name, "i32") for name in kernel.arg_names}
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(made["cubin"])
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {
        "stack": int(re.search(r"STACK:(\d+)", usage)[1]),
        "local": int(re.search(r"LOCAL:(\d+)", usage)[1]),
        "loads": made["ptx"].count("ld.global"),
        "stores": made["ptx"].count("st.global"),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(dict(assembled())))
