"""Optimizer functions: their names, and when two are the same."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.optim import SGD, Adam, AdamW

from pyphase.opt_fn import bound, check_opt_fn, is_sgd, name_of, same


def make_optimizer(params, lr):
    return SGD(params, lr=lr)


class Factory:
    def __call__(self, params, lr):
        return SGD(params, lr=lr)

    def build(self, params, lr):
        return SGD(params, lr=lr)


@pytest.mark.parametrize(
    "opt_fn",
    [None, SGD, make_optimizer, partial(Adam, amsgrad=True), Factory(), Factory().build, min],
)
def test_takes_classes_and_functions(opt_fn):
    check_opt_fn(opt_fn)


@pytest.mark.parametrize("opt_fn", ["SGD", 3, int, torch.nn.Linear, [SGD], True])
def test_refuses_what_makes_no_optimizer(opt_fn):
    with pytest.raises(TypeError, match="`opt_fn` must be an optimizer class, or a function"):
        check_opt_fn(opt_fn)


def test_refuses_an_optimizer_that_is_made_already():
    with pytest.raises(TypeError, match="`opt_fn` must be an optimizer class"):
        check_opt_fn(SGD([torch.zeros(1)], lr=0.1))


def test_bound_unwraps_nested_partials():
    nested = partial(partial(Adam, amsgrad=True, eps=1e-6), eps=1e-4)
    assert bound(nested) == (Adam, (), {"amsgrad": True, "eps": 1e-4})


def test_same():
    assert same(Adam, Adam)
    assert same(partial(Adam), Adam)
    assert same(partial(Adam, eps=1e-4), partial(partial(Adam, eps=1), eps=1e-4))
    factory = Factory()
    assert same(factory.build, factory.build)
    assert not same(Adam, AdamW)
    assert not same(partial(Adam, eps=1e-4), Adam)
    assert not same(Factory().build, Factory().build)


def test_fault_optimizer_keywords_are_ignored():
    """fastai 0.7 compared types: partial(Adam, amsgrad=True) after Adam changed nothing."""
    assert not same(Adam, partial(Adam, amsgrad=True))
    assert not same(partial(Adam, amsgrad=False), partial(Adam, amsgrad=True))


def test_bound_arrays_are_compared_by_identity():
    array = np.ones(3)
    assert not same(partial(make_optimizer, lr=np.ones(3)), partial(make_optimizer, lr=np.ones(3)))
    assert same(partial(make_optimizer, lr=array), partial(make_optimizer, lr=array))


def test_is_sgd():
    assert is_sgd(SGD)
    assert is_sgd(partial(SGD, nesterov=True))
    assert not is_sgd(Adam)
    assert not is_sgd(make_optimizer)


@pytest.mark.parametrize(
    ("opt_fn", "name"),
    [
        (SGD, "SGD"),
        (make_optimizer, "make_optimizer"),
        (lambda params, lr: None, "lambda"),
        (Factory(), "Factory"),
        (Factory().build, "build"),
    ],
)
def test_names(opt_fn, name):
    assert name_of(opt_fn) == name


def test_fault_partial_has_no_name():
    """fastai 0.7's plot asked a functools.partial for its __name__."""
    assert name_of(partial(Adam, betas=(0.8, 0.9), amsgrad=True)) == (
        "Adam(amsgrad=True, betas=(0.8, 0.9))"
    )
