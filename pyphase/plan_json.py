"""Plans as JSON: writing, reading, hashing, comparing."""

from __future__ import annotations

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
_TRACK_ARGUMENTS = {"lr": "lr", "momentum": "momentum"}


class Named:
    """Stand for a function or loader that a JSON file knows by name only."""

    def __init__(self, name: str, kind: str) -> None:
        self.name, self.kind, self.__name__ = name, kind, name

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


def load(text: str) -> dict[str, Any]:
    """Return the arguments of ``Plan`` from its JSON text."""
    if not isinstance(text, str):
        raise TypeError(f"`text` must be a str of JSON, got {shown(text)}")
    try:
        record = json.loads(text)
    except ValueError as error:
        raise PhaseError(f"not a plan: {error}") from None
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        raise PhaseError(f"not a plan: `format` must be {_FORMAT!r}")
    names: dict[str, Named] = {}
    try:
        phases = [_read_phase(phase, names) for phase in record["phases"]]
        sizes = [phase["steps_per_epoch"] for phase in record["phases"]]
        batches = [phase["batch_size"] for phase in record["phases"]]
    except (KeyError, AttributeError, TypeError) as error:
        raise PhaseError(f"not a plan: {type(error).__name__}: {error}") from None
    return {"phases": phases, "steps_per_epoch": sizes, "batch_size": batches}


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
                texts = [_curve_of(plan, index, key) for plan in (a, b)]
                lines.append(f"{a.label(index)}: {key}: {texts[0]} != {texts[1]}")
    return lines


def _curve_of(plan: Plan, index: int, name: str) -> str:
    for key, label in plan.keys.items():
        if label == name and key in plan.phases[index].tracks:
            return curve_text(plan.phases[index].tracks[key])
    return "not set"


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
                "batch_size": plan.batch_sizes[index],
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
    fields = dataclasses.fields(curve)
    return {"curve": type(curve).__name__} | {f.name: getattr(curve, f.name) for f in fields}


def _read_curve(record: dict[str, Any]) -> curves.Curve:
    kind = record["curve"]
    if kind not in curves.__all__ or kind == "Curve":
        raise PhaseError(f"not a plan: there is no curve {shown(kind)}")
    arguments = {k: v for k, v in record.items() if k not in ("curve", "function")}
    curve = getattr(curves, kind)(**arguments)
    assert isinstance(curve, curves.Curve)
    return curve


def _read_phase(record: dict[str, Any], names: dict[str, Named]) -> TrainingPhase:
    def named(kind: str, name: str | None) -> Named | None:
        return None if name is None else names.setdefault(f"{kind} {name}", Named(name, kind))

    tracks = {name: _read_curve(value) for name, value in record["values"].items()}
    arguments: dict[str, Any] = {k: tracks.pop(k) for k in _TRACK_ARGUMENTS if k in tracks}
    decoupled = tracks.pop("decoupled_weight_decay", None)
    weight_decay = tracks.pop("weight_decay", None)
    decay = weight_decay if decoupled is None else decoupled
    if isinstance(decay, curves.Constant):
        arguments["wds"] = _as_list(decay.value)
    elif decay is not None:
        tracks["weight_decay"] = decay
    beta = tracks.pop("beta", None)
    if isinstance(beta, curves.Constant):
        arguments["beta"] = _as_list(beta.value)
    values: dict[Key, Any] = {}
    for name, curve in tracks.items():
        function = record["values"][name]["function"]
        key = named("function", name) if function else name
        assert key is not None
        values[key] = curve
    return TrainingPhase(
        opt_fn=_read_opt_fn(record["optimizer"], names),
        wd_loss=record["wd_loss"],
        values=values or None,
        data=named("data", record["data"]),
        opt_state=record["opt_state"],
        name=record["name"],
        on_enter=named("function", record["on_enter"]),
        **{"epochs": None} | record["length"],
        **arguments,
    )


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _write_opt_fn(opt_fn: OptFn | None) -> dict[str, Any] | None:
    if opt_fn is None:
        return None
    function, args, keywords = bound(opt_fn)
    record: dict[str, Any] = {"name": name_of(opt_fn)}
    if isinstance(function, type) and not args:
        try:
            plain = json.loads(json.dumps(keywords, allow_nan=False))
        except (TypeError, ValueError):
            return record
        record |= {"class": f"{function.__module__}:{function.__qualname__}", "keywords": plain}
    return record


def _read_opt_fn(record: dict[str, Any] | None, names: dict[str, Named]) -> OptFn | None:
    if record is None:
        return None
    module_name, _, qualname = record.get("class", "").partition(":")
    # Only torch's and pyphase's own modules are imported on a file's word.
    if module_name.split(".")[:2] == ["torch", "optim"] or module_name == "pyphase.optim":
        importlib.import_module(module_name)
    found = getattr(sys.modules.get(module_name), qualname, None)
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        name = record["name"]
        return names.setdefault(f"optimizer {name}", Named(name, "optimizer"))
    keywords: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in record["keywords"].items()
    }
    make: OptFn = found
    return functools.partial(make, **keywords) if keywords else make
