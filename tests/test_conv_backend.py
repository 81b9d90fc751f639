"""The setting of the backend: who sees it, when it is restored, what serves."""

from __future__ import annotations

import asyncio
import threading

import conv_reference as reference
import pytest
import torch
from conv_reference import PROBLEMS

from pyphase import conv
from pyphase.conv.backend import current_backend
from pyphase.conv.options import make_options
from pyphase.conv.problem import PairProblem


@pytest.fixture(autouse=True)
def restored():
    before = current_backend()
    yield
    conv.backend(before)


def problem_of(name, dtype=torch.float32):
    problem = PROBLEMS[name]
    kernel = problem.kernel
    options = make_options(*problem.options.values(), kernel)
    return PairProblem(*reference.tensors(problem, dtype), options)


def test_is_auto_at_first():
    assert current_backend() == "auto"


def test_sets_until_the_next_one():
    conv.backend("torch")
    assert current_backend() == "torch"
    conv.backend("native")
    assert current_backend() == "native"


def test_restores_after_a_block():
    conv.backend("native")
    with conv.backend("torch") as context:
        assert repr(context) == "backend('torch')"
        with conv.backend("auto"):
            assert current_backend() == "auto"
        assert current_backend() == "torch"
    assert current_backend() == "native"
    with pytest.raises(KeyError), conv.backend("torch"):
        raise KeyError
    assert current_backend() == "native"


@pytest.mark.parametrize("name", ["cuda", "", None, 1, ["auto"]])
def test_unknown_names(name):
    with pytest.raises(ValueError, match=r"`name` .* must be one of \('auto', 'native', 'torch'\)"):
        conv.backend(name)
    assert current_backend() == "auto"


def test_is_a_threads_own():
    seen = []

    def work():
        seen.append(current_backend())
        conv.backend("native")

    with conv.backend("torch"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert current_backend() == "torch"
    assert seen == ["auto"]


def test_is_a_tasks_own():
    async def task(name):
        with conv.backend(name):
            await asyncio.sleep(0)
            return current_backend()

    async def both():
        return await asyncio.gather(task("native"), task("torch"))

    assert asyncio.run(both()) == ["native", "torch"]
    assert current_backend() == "auto"


@pytest.mark.parametrize("backward", [False, True])
def test_what_serves(backward):
    covered, uncovered = problem_of("depthwise"), problem_of("grouped")
    with conv.backend("torch"):
        assert covered.native(backward) is None
    with conv.backend("native"):
        assert covered.native(backward).kernel == "depthwise"
        dense = problem_of("dense")
        assert (dense.native(backward) is not None) == (dense.make_native().kernel == "dense")
        assert uncovered.native(backward) is None
    with conv.backend("auto"):
        assert (covered.native(backward) is not None) == covered.make_native().wins(backward)
        assert uncovered.native(backward) is None


def test_training_is_wholly_torchs_where_its_backward_pass_wins():
    """Else the intermediate would be computed twice, once by either."""
    x, row, column = torch.randn(1, 64, 8, 8), torch.randn(64, 64, 1, 5), torch.randn(64, 64, 5, 1)
    problem = PairProblem(x, row, column, None, None, make_options(1, 2, 1, 1, "none", None))
    assert problem.native(backward=False) is not None
    assert problem.native(backward=True) is None
    assert problem.is_native(with_grad=False)
    assert not problem.is_native(with_grad=True)
    output = conv.factorized_conv2d(x, row.requires_grad_(), column, padding=2)
    assert type(output.grad_fn).__name__ == "ConvolutionBackward0"
    with conv.backend("native"):
        output = conv.factorized_conv2d(x, row, column, padding=2)
    assert "PairFunction" in type(output.grad_fn).__name__


def test_no_fused_kernel_is_no_error():
    problem = PROBLEMS["grouped"]
    tensors = reference.tensors(problem)
    with conv.backend("native"):
        output = conv.factorized_conv2d(*tensors, **problem.options)
    with conv.backend("torch"):
        expected = conv.factorized_conv2d(*tensors, **problem.options)
    assert torch.equal(output, expected)


def test_other_devices_are_torchs():
    options = make_options(1, "same", 1, 6, "none", (3, 5))
    tensors = [t.to("meta") for t in reference.tensors(PROBLEMS["depthwise"])]
    with conv.backend("native"):
        assert PairProblem(*tensors, options).native(False) is None


def test_the_backward_pass_has_the_setting_of_its_own_time():
    """A change between the passes changes who serves, not the gradients."""
    problem = PROBLEMS["depthwise, column first"]
    results = []
    for first, second in (("torch", "native"), ("native", "torch"), ("auto", "auto")):
        tensors = reference.tensors(problem, grad=True)
        with conv.backend(first):
            output = conv.factorized_conv2d(*tensors, **problem.options)
        with conv.backend(second):
            results.append(torch.autograd.grad(output.sum(), tensors))
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[0], results[2])


def test_auto_gives_the_same_results():
    for name, problem in PROBLEMS.items():
        tensors = reference.tensors(problem)
        with conv.backend("auto"):
            output = conv.factorized_conv2d(*tensors, **problem.options)
        expected = reference.torch_pair(problem, *tensors)
        torch.testing.assert_close(output, expected, msg=name)


def test_a_backend_can_be_entered_again():
    once = conv.backend("torch")
    with once:
        pass
    assert current_backend() == "auto"
    with once:
        assert current_backend() == "torch"
    assert current_backend() == "auto"
