from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Form = tuple[int, float, float, float, list[float], float, float]
_Slot = tuple[int, str, int, list[Any]]
_Address = int | None  # of a tensor's first element

def phase_ends(lengths: Sequence[float]) -> list[int]: ...
def evaluate(form: _Form, fraction: float) -> float: ...

class Plan:
    def __init__(
        self, ends: Sequence[int], num_groups: int, tracks: Sequence[Sequence[Sequence[_Form]]]
    ) -> None: ...
    @property
    def total_steps(self) -> int: ...
    @property
    def num_groups(self) -> int: ...
    def phase_at(self, step: int) -> int: ...
    def values(self, track: int, step: int) -> list[float]: ...
    def table(self, track: int, begin: int, end: int) -> NDArray[np.float64]: ...
    def gather(self, track: int, steps: NDArray[np.int64]) -> NDArray[np.float64]: ...
    def writer(self, slots: Sequence[_Slot]) -> Callable[[list[dict[str, Any]], int], None]: ...

class ConvPair:
    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        weight1_shape: Sequence[int],
        weight2_shape: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: Sequence[int],
        activation: str,
        dtype: str,
        channels_last: bool,
    ) -> None: ...
    @property
    def output_shape(self) -> list[int]: ...
    @property
    def kernel(self) -> str: ...
    def wins(self, backward: bool) -> bool: ...
    def forward(
        self, x: _Address, w1: _Address, w2: _Address, b1: _Address, b2: _Address, y: _Address
    ) -> None: ...
    def backward(
        self,
        x: _Address,
        w1: _Address,
        w2: _Address,
        b1: _Address,
        grad_y: _Address,
        grad_x: _Address,
        grad_w1: _Address,
        grad_w2: _Address,
        grad_b1: _Address,
        grad_b2: _Address,
    ) -> None: ...

class ConvStrips:
    def __init__(self, *, pairs: Sequence[ConvPair], residual: bool) -> None: ...
    @property
    def kernel(self) -> str: ...
    def wins(self, backward: bool) -> bool: ...
    def forward(
        self,
        x: _Address,
        w1: Sequence[_Address],
        w2: Sequence[_Address],
        b1: Sequence[_Address],
        b2: Sequence[_Address],
        y: _Address,
    ) -> None: ...
    def backward(
        self,
        x: _Address,
        w1: Sequence[_Address],
        w2: Sequence[_Address],
        b1: Sequence[_Address],
        grad_y: _Address,
        grad_x: _Address,
        grad_w1: Sequence[_Address],
        grad_w2: Sequence[_Address],
        grad_b1: Sequence[_Address],
        grad_b2: Sequence[_Address],
    ) -> None: ...

def isa() -> str: ...
def isas() -> list[str]: ...
