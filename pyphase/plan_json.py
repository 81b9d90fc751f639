"""Plans as JSON: writing, reading, hashing, comparing."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import json
import sys
from typing import TYPE_CHECKING, Any

import torch

from pyphase import curves
from pyphase.errors import PhaseError, shown
from pyphase.opt_fn import OptFn, bound, name_of
from pyphase.phase import Key, TrainingPhase
from pyphase.plan_text import curve_text, data_name, key_name

if TYPE_CHECKING:
    from pyphase.plan import Plan

__all__ = ["Named", "diff", "digest", "dump", "load"]

_FORMAT = "pyphase plan 1"
_LENGTHS = ("epochs", "steps", "samples")


class Named:
    """Stand for a function or loader that a JSON file knows by name only."""

    def __init__(self, name: str, kind: str, record: dict[str, Any] | None = None) -> None:
        if not isinstance(name, str):
            raise TypeError(f"the name of a {kind} must be a str, got {shown(name)}")
        self.name, self.kind, self.__name__ = name, kind, name
        self.record = record  # an optimizer's, to be written as it was read

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise PhaseError(
            f"the plan was read from JSON, which holds the {self.kind} {self.name!r} by name only: "
            "declare the phases in Python to train"
        )

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name!r}, by name only>"


def dump(plan: Plan) -> str:
    """Return the JSON text of a plan."""
    record = {"format": _FORMAT, "total_steps": plan.total_steps, "digest": digest(plan)}
    return json.dumps(record | {"phases": _records(plan)}, indent=1, allow_nan=False)


def digest(plan: Plan) -> str:
    """Return a SHA-256 of the plan's JSON without the phases' names."""
    records = [{k: v for k, v in record.items() if k != "name"} for record in _records(plan)]
    text = json.dumps(records, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def load(text: str) -> tuple[dict[str, Any], list[tuple[int, int]]]:
    """Return the arguments of ``Plan`` from its JSON text, and the spans that they must make."""
    if not isinstance(text, str):
        raise TypeError(f"`text` must be a str of JSON, got {shown(text)}")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PhaseError(f"not a plan: {error}") from None
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        raise PhaseError(f"not a plan: `format` must be {_FORMAT!r}")
    names: dict[str, Named] = {}
    try:
        phases = [_read_phase(phase, names) for phase in record["phases"]]
        sizes = [phase["steps_per_epoch"] for phase in record["phases"]]
        batches = [phase["batch_size"] for phase in record["phases"]]
        spans = [(phase["begin"], phase["end"]) for phase in record["phases"]]
    except (KeyError, AttributeError, TypeError, RecursionError) as error:
        raise PhaseError(f"not a plan: {type(error).__name__}: {error}") from None
    if spans and record.get("total_steps") != spans[-1][1]:
        raise PhaseError("not a plan: `total_steps` is not the `end` of the last phase")
    return {"phases": phases, "steps_per_epoch": sizes, "batch_size": batches}, spans


def diff(a: Plan, b: Plan) -> list[str]:
    """Return one line for each field in which two plans differ, names aside."""
    records_a, records_b = _records(a), _records(b)
    lines = []
    if len(records_a) != len(records_b):
        lines.append(f"number of phases: {len(records_a)} != {len(records_b)}")
    for index, (one, two) in enumerate(zip(records_a, records_b, strict=False)):
        for field in one:
            if field in ("name", "values") or one[field] == two[field]:
                continue
            lines.append(f"{a.label(index)}: {field}: {one[field]} != {two[field]}")
        for key in dict.fromkeys([*one["values"], *two["values"]]):
            if one["values"].get(key) != two["values"].get(key):
                pair = [_curve_of(plan, index, key) for plan in (a, b)]
                texts = ["not set" if curve is None else curve_text(curve) for curve in pair]
                if texts[0] == texts[1]:  # equal to three digits
                    texts = [repr(curve) for curve in pair]
                lines.append(f"{a.label(index)}: {key}: {texts[0]} != {texts[1]}")
    return lines


def _curve_of(plan: Plan, index: int, name: str) -> curves.Curve | None:
    key = next((key for key, label in plan.keys.items() if label == name), name)
    return plan.phases[index].tracks.get(key)


def _step_size(plan: Plan, index: int) -> int | None:
    """Return the samples of one step of a phase."""
    size = plan.batch_sizes[index]
    return None if size is None else size * plan.accumulate


def _records(plan: Plan) -> list[dict[str, Any]]:
    records = []
    for index, phase in enumerate(plan.phases):
        begin, end = plan.spans[index]
        values = {
            plan.keys[key]: _write_curve(curve) | {"function": callable(key)}
            for key, curve in phase.tracks.items()
        }
        records.append(
            {
                "name": phase.name,
                "begin": begin,
                "end": end,
                "length": {n: getattr(phase, n) for n in _LENGTHS if getattr(phase, n) is not None},
                "steps_per_epoch": plan.steps_per_epoch[index],
                "batch_size": _step_size(plan, index),
                "optimizer": _write_opt_fn(phase.opt_fn),
                "opt_state": phase.opt_state,
                "wd_loss": phase.wd_loss,
                "values": values,
                "data": data_name(phase.data),
                "on_enter": None if phase.on_enter is None else key_name(phase.on_enter),
            }
        )
    return records


def _write_curve(curve: curves.Curve) -> dict[str, Any]:
    values = {field.name: getattr(curve, field.name) for field in dataclasses.fields(curve)}
    if isinstance(curve, curves.Part):
        values["curve"] = _write_curve(curve.curve)
    return {"shape": type(curve).__name__} | values


def _read_curve(record: dict[str, Any]) -> curves.Curve:
    kind = record["shape"]
    if kind not in curves.__all__ or kind == "Curve":
        raise PhaseError(f"not a plan: there is no curve {shown(kind)}")
    arguments = {k: v for k, v in record.items() if k not in ("shape", "function")}
    if kind == "Part":
        arguments["curve"] = _read_curve(arguments["curve"])
    curve = getattr(curves, kind)(**arguments)
    assert isinstance(curve, curves.Curve)
    return curve


def _read_phase(record: dict[str, Any], names: dict[str, Named]) -> TrainingPhase:
    def named(kind: str, name: str | None) -> Named | None:
        return None if name is None else names.setdefault(f"{kind} {name}", Named(name, kind))

    values: dict[Key, Any] = {}
    for name, value in record["values"].items():
        key = named("function", name) if value["function"] else name
        assert key is not None
        values[key] = _read_curve(value)
    arguments: dict[str, Any] = {"lr": values.pop("lr"), "momentum": values.pop("momentum", None)}
    if "beta" in values:
        arguments["beta"] = _constant("beta", values.pop("beta"))
    if not record["wd_loss"] and {"decoupled_weight_decay", "weight_decay"} <= values.keys():
        arguments["wds"] = _constant("wds", values.pop("decoupled_weight_decay"))
        values.pop("weight_decay")  # 0: TrainingPhase puts it back
    return TrainingPhase(
        opt_fn=_read_opt_fn(record["optimizer"], names),
        wd_loss=record["wd_loss"],
        values=values or None,
        data=named("data", record["data"]),
        opt_state=record["opt_state"],
        name=record["name"],
        on_enter=named("function", record["on_enter"]),
        **{unit: record["length"].get(unit) for unit in _LENGTHS},
        **arguments,
    )


def _constant(name: str, curve: curves.Curve) -> Any:
    if not isinstance(curve, curves.Constant):
        raise PhaseError(f"not a plan: `{name}` must be constant, got {curve}")
    return list(curve.value) if isinstance(curve.value, tuple) else curve.value


def _write_opt_fn(opt_fn: OptFn | None) -> dict[str, Any] | None:
    if opt_fn is None:
        return None
    if isinstance(opt_fn, Named):
        return opt_fn.record
    function, args, keywords = bound(opt_fn)
    record: dict[str, Any] = {"name": name_of(opt_fn)}
    if isinstance(function, type) and not args:
        try:
            plain = json.loads(json.dumps(keywords, allow_nan=False))
        except (TypeError, ValueError):
            return record
        record["name"] = name_of(functools.partial(function, **plain))  # as it will be read
        record |= {"class": f"{function.__module__}:{function.__qualname__}", "keywords": plain}
    return record


def _read_opt_fn(record: dict[str, Any] | None, names: dict[str, Named]) -> OptFn | None:
    if record is None:
        return None
    module_name, _, qualname = record.get("class", "").partition(":")
    # Only torch's and pyphase's own modules are imported on a file's word.
    if module_name.split(".")[:2] == ["torch", "optim"] or module_name == "pyphase.optim":
        with contextlib.suppress(ImportError, ValueError):  # another version's module
            importlib.import_module(module_name)
    found = getattr(sys.modules.get(module_name), qualname, None)
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        stand_in = Named(record["name"], "optimizer", record)
        return names.setdefault(f"optimizer {json.dumps(record, sort_keys=True)}", stand_in)
    keywords: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in record["keywords"].items()
    }
    make: OptFn = found
    return functools.partial(make, **keywords) if keywords else make
