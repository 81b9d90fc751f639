"""Several tracks of phases, each with its own boundaries, as one flat list."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from pyphase.curves import Constant, Curve, Part
from pyphase.errors import PhaseError, shown
from pyphase.phase import TrainingPhase

__all__ = ["overlay"]

_UNITS = ("epochs", "steps", "samples")
_VALUES = {"lr": "lr_decay", "momentum": "momentum_decay"}
_CONSTANTS = ("opt_fn", "beta", "wds", "wd_loss", "data")
_AT_START = ("opt_state", "on_enter")


def overlay(*tracks: Sequence[TrainingPhase]) -> list[TrainingPhase]:
    """Merge tracks with different boundaries into one list of phases.

    The rates may follow one list and the data another. The result has a boundary wherever a track
    has one. A curve that is cut goes on where it was (:class:`pyphase.curves.Part`), ``on_enter``
    and ``opt_state`` stay with the start of their own phase, names are joined by ``+``.

    Args:
        tracks: lists of phases with one unit of length (epochs, steps or samples) and the same
            total length. A track sets the fields in which its phases differ from the defaults.

    Raises:
        PhaseError: two tracks set the same field over the same span, their units or total lengths
            differ, or there is no track.
        TypeError: a track is not a sequence of :class:`TrainingPhase`.

    Example:
        >>> from pyphase import TrainingPhase
        >>> from pyphase.curves import Linear
        >>> rates = [TrainingPhase(steps=4, lr=Linear(0.0, 1.0))]
        >>> sizes = [TrainingPhase(steps=1, data=["14 px"]), TrainingPhase(steps=3, data=["28 px"])]
        >>> [(phase.steps, phase.lr, phase.data) for phase in overlay(rates, sizes)]
        ... # doctest: +NORMALIZE_WHITESPACE
        [(1, Part(curve=Linear(start=0.0, end=1.0), begin=0.0, end=0.25), ['14 px']),
         (3, Part(curve=Linear(start=0.0, end=1.0), begin=0.25, end=1.0), ['28 px'])]
    """
    if not tracks:
        raise PhaseError("`tracks` must hold at least one list of phases")
    unit = _common_unit(tracks)
    bounds = [_bounds(track, unit) for track in tracks]
    total = bounds[0][-1]
    slack = 1e-9 * total if unit == "epochs" else 0.0  # steps and samples add up exactly
    for index, track_bounds in enumerate(bounds):
        if abs(track_bounds[-1] - total) > slack:
            raise PhaseError(
                f"tracks[{index}] is {track_bounds[-1]:g} {unit} long, tracks[0] {total:g}; "
                "all tracks must end together"
            )
    edges = [0.0]
    for edge in sorted({edge for track_bounds in bounds for edge in track_bounds}):
        if edge - edges[-1] > slack:
            edges.append(edge)
    merged = []
    for begin, end in itertools.pairwise(edges):
        middle = (begin + end) / 2
        pieces = []
        for track, track_bounds in zip(tracks, bounds, strict=True):
            index = bisect.bisect(track_bounds, middle) - 1
            pieces.append((track[index], track_bounds[index], track_bounds[index + 1]))
        length = round(end - begin) if unit != "epochs" else end - begin
        merged.append(_merge(pieces, begin, end, {unit: length}, slack))
    return merged


def _common_unit(tracks: Sequence[Sequence[TrainingPhase]]) -> str:
    units = set()
    for index, track in enumerate(tracks):
        if not isinstance(track, Sequence) or not track:
            raise TypeError(f"tracks[{index}] must be a list of phases, got {shown(track)}")
        for phase in track:
            if not isinstance(phase, TrainingPhase):
                raise TypeError(f"tracks[{index}] must hold TrainingPhase, got {shown(phase)}")
            units.add(next(unit for unit in _UNITS if getattr(phase, unit) is not None))
    if len(units) > 1:
        raise PhaseError(f"all phases must have one unit of length, got {sorted(units)}")
    return units.pop()


def _bounds(track: Sequence[TrainingPhase], unit: str) -> list[float]:
    lengths = [float(getattr(phase, unit)) for phase in track]
    return list(itertools.accumulate(lengths, initial=0.0))


def _merge(
    pieces: Sequence[tuple[TrainingPhase, float, float]],
    begin: float,
    end: float,
    length: dict[str, float],
    slack: float,
) -> TrainingPhase:
    fields: dict[str, Any] = {}
    values: dict[Any, Any] = {}
    names = []
    for phase, phase_begin, phase_end in pieces:
        if phase.name is not None:
            names.append(phase.name)
        own = _set_fields(phase, starts=abs(begin - phase_begin) <= slack)
        window = (
            (begin - phase_begin) / (phase_end - phase_begin),
            (end - phase_begin) / (phase_end - phase_begin),
        )
        own |= {name: _cut(phase.tracks[name], *window) for name in _VALUES if name in own}
        extra = {key: _cut(phase.tracks[key], *window) for key in phase.values or {}}
        twice = sorted(fields.keys() & own.keys()) + [k for k in extra if k in values]
        if twice:
            raise PhaseError(
                f"`{twice[0]}` is set by two tracks over the same span ({begin:g} to {end:g})"
            )
        fields |= own
        values |= extra
    return TrainingPhase(
        **{"epochs": None} | length,  # type: ignore[arg-type]
        **fields,
        values=values or None,
        name=" + ".join(names) or None,
    )


def _set_fields(phase: TrainingPhase, *, starts: bool) -> dict[str, Any]:
    defaults = {field.name: field.default for field in dataclasses.fields(phase)}
    names = [*_CONSTANTS, *(_AT_START if starts else ())]
    differing = {name for name, default in defaults.items() if getattr(phase, name) is not default}
    differing |= {name for name, decay in _VALUES.items() if decay in differing}
    if phase.opt_state == defaults["opt_state"]:
        differing.discard("opt_state")
    return {name: getattr(phase, name) for name in [*_VALUES, *names] if name in differing}


def _cut(curve: Curve, begin: float, end: float) -> Curve:
    begin, end = (0.0 if begin < 1e-9 else begin), (1.0 if end > 1 - 1e-9 else end)
    if isinstance(curve, Constant) or (begin, end) == (0.0, 1.0):
        return curve
    if isinstance(curve, Part):
        span = curve.end - curve.begin
        return Part(curve.curve, curve.begin + span * begin, curve.begin + span * end)
    return Part(curve, begin, end)
