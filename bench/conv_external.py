"""The pair as an ONNX model in the runtimes that are installed; those that are not are named."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from conv_shapes import Problem

__all__ = ["AVAILABLE", "missing"]

Tensors = tuple[torch.Tensor | None, ...]
Run = Callable[..., torch.Tensor]


def onnx_model(problem: Problem, tensors: Tensors) -> bytes:
    """Return two Conv nodes, a Relu between them where the problem has one."""
    from onnx import TensorProto, helper, numpy_helper

    x, w1, b1, w2, b2 = tensors
    assert x is not None
    assert w1 is not None
    assert w2 is not None

    def node(source: str, target: str, weight: torch.Tensor, bias: Any, number: int) -> Any:
        kernel = list(weight.shape[2:])
        names = [source, f"w{number}"] + [f"b{number}"] * (bias is not None)
        return helper.make_node(
            "Conv",
            names,
            [target],
            kernel_shape=kernel,
            pads=2 * [problem.dilation * (k // 2) for k in kernel],
            strides=[problem.stride if k > 1 else 1 for k in kernel],
            dilations=[problem.dilation if k > 1 else 1 for k in kernel],
            group=problem.groups,
        )

    nodes = [node("x", "mid", w1, b1, 1)]
    if problem.activation == "relu":
        nodes.append(helper.make_node("Relu", ["mid"], ["active"]))
    nodes.append(node(nodes[-1].output[0], "y", w2, b2, 2))
    named = {"w1": w1, "b1": b1, "w2": w2, "b2": b2}
    constants = [
        numpy_helper.from_array(tensor.contiguous().numpy(), name)
        for name, tensor in named.items()
        if tensor is not None
    ]
    shape = [problem.batch, problem.channels[2], *problem.out_size]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, size)
        for name, size in (("x", list(x.shape)), ("y", shape))
    ]
    graph = helper.make_graph(nodes, "pair", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def onnxruntime_run(problem: Problem, tensors: Tensors) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    # Its threads would spin on, on the cores of whoever comes next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    model = onnx_model(problem, tensors)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda x, *_: torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


def openvino_run(problem: Problem, tensors: Tensors) -> Run:
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    model = core.read_model(onnx_model(problem, tensors), b"")
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def run(x: torch.Tensor, *_: object) -> torch.Tensor:
        found = request.infer({0: x.numpy()}, share_inputs=True, share_outputs=True)
        return torch.from_numpy(found[0])

    return run


RUNTIMES: dict[str, Callable[[Problem, Tensors], Run]] = {
    "onnxruntime": onnxruntime_run,
    "openvino": openvino_run,
}


def installed(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in modules)


AVAILABLE = {name: run for name, run in RUNTIMES.items() if installed("onnx", name)}


def missing() -> list[str]:
    """Return what is left out, with the reason."""
    needs = "onnx is not installed" if not installed("onnx") else "not installed"
    return [f"{name}: {needs}" for name in RUNTIMES if name not in AVAILABLE]
