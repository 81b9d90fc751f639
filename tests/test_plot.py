"""Figures: what they show is what the plan holds, and every text can be read.

The fifteen plans that are drawn serve all of the tests.
"""

from __future__ import annotations

import functools
import sys
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from pyphase import DecayType, PhaseError, Plan, TrainingPhase
from pyphase.curves import Linear
from pyphase.plot import plot_plan
from pyphase.plot_loss import plot_finder, plot_losses

ADAM = functools.partial(torch.optim.Adam, betas=(0.9, 0.99), amsgrad=True)
ADAM_NAME = "Adam(amsgrad=True, betas=(0.9, 0.99))"


class Data:
    def __init__(self, name: str) -> None:
        self.name = name

    def __iter__(self) -> Any:
        return iter([])


def set_dropout(value: float) -> None:
    pass


def ramp(steps: int, **fields: Any) -> TrainingPhase:
    return TrainingPhase(
        steps=steps, lr=(0.1, 0.4), lr_decay=DecayType.LINEAR, momentum=0.9, **fields
    )


def one_cycle() -> Plan:
    linear = {"lr_decay": DecayType.LINEAR, "momentum_decay": DecayType.LINEAR}
    return Plan(
        [
            TrainingPhase(steps=1350, lr=(0.08, 0.8), momentum=(0.95, 0.85), name="up", **linear),
            TrainingPhase(steps=1350, lr=(0.8, 0.08), momentum=(0.85, 0.95), name="down", **linear),
            TrainingPhase(
                steps=300, lr=0.08, lr_decay=DecayType.LINEAR, momentum=0.95, name="annihilate"
            ),
        ]
    )


def sgdr() -> Plan:
    return Plan(
        [TrainingPhase(steps=98 * 2**i, lr=1e-2, lr_decay=DecayType.COSINE) for i in range(6)]
    )


def twelve(lengths: list[int], name: str) -> Plan:
    data = [Data("CIFAR-10 at 16 px"), Data("CIFAR-10 at 24 px"), Data("CIFAR-10 at 32 px")]
    opt_fns = [ADAM, ADAM, torch.optim.SGD, torch.optim.SGD]
    return Plan(
        [
            ramp(n, opt_fn=opt_fns[i % 4], data=data[i // 4], name=name.format(i))
            for i, n in enumerate(lengths)
        ]
    )


def grouped(groups: int) -> Plan:
    low, high = np.linspace(1e-4, 1e-3, groups), np.linspace(1e-3, 1e-2, groups)
    return Plan(
        [
            TrainingPhase(steps=50, lr=(low, high), lr_decay=DecayType.LINEAR, momentum=0.9),
            TrainingPhase(steps=150, lr=high, lr_decay=DecayType.COSINE, momentum=0.9),
        ]
    )


def with_values() -> Plan:
    dropout = {set_dropout: Linear(0.1, 0.5)}
    return Plan(
        [
            TrainingPhase(steps=100, lr=0.1, wds=1e-2, beta=0.9, values=dropout, name="$a_$b"),
            TrainingPhase(steps=100, lr=0.1, momentum=0.9, opt_fn=ADAM),
            TrainingPhase(steps=100, lr=0.01, wds=2e-2, values={"eps": 1e-8}),
        ]
    )


EVEN, UNEVEN = [100] * 12, [1, 1, 2, 3, 400, 5, 5, 1000, 20, 1, 300, 2]
PLANS: dict[str, Any] = {
    "one cycle": one_cycle,
    "sgdr": sgdr,
    "twelve": lambda: twelve(EVEN, "stage {}"),
    "twelve, long names": lambda: twelve(EVEN, "a long name that says it all, stage {}"),
    "twelve, uneven": lambda: twelve(UNEVEN, "stage {}"),
    "twelve, uneven, long names": lambda: twelve(UNEVEN, "a name far too long " * 8 + "{}"),
    "3 groups": lambda: grouped(3),
    "20 groups": lambda: grouped(20),
    "values": with_values,
    "one phase": lambda: Plan([TrainingPhase(steps=100, lr=0.1, lr_decay=DecayType.COSINE)]),
    "one step": lambda: Plan([TrainingPhase(steps=1)]),
    "12 steps": lambda: twelve([1] * 12, "{}"),
    "long": lambda: Plan([ramp(10**7, name="warmup"), ramp(10**9, opt_fn=ADAM, name="rest")]),
    "70 phases": lambda: Plan([ramp(3 + i % 3, opt_fn=ADAM, name=f"p{i}") for i in range(70)]),
    "40 phases": lambda: Plan([ramp(3 + i % 3, opt_fn=ADAM, name=f"p{i}") for i in range(40)]),
}


def drawn_texts(figure: Figure, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Return every text that drawing the figure shows, with its box in pixels."""
    found: list[tuple[str, Any]] = []
    draw = Text.draw

    def record(self: Text, renderer: Any, *args: Any, **kwargs: Any) -> None:
        if self.get_visible() and self.get_text().strip():
            found.append((self.get_text(), self.get_window_extent(renderer)))
        draw(self, renderer, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Text, "draw", record)
        FigureCanvasAgg(figure).draw()
    return found


def check_legible(figure: Figure, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts = drawn_texts(figure, monkeypatch)
    for text, box in texts:
        inside = box.x0 >= 0 and box.y0 >= 0
        inside = inside and box.x1 <= figure.bbox.width and box.y1 <= figure.bbox.height
        assert inside, f"{text!r} leaves the figure: {box}"
    for (a, box_a), (b, box_b) in combinations(texts, 2):
        wide = min(box_a.x1, box_b.x1) - max(box_a.x0, box_b.x0)
        high = min(box_a.y1, box_b.y1) - max(box_a.y0, box_b.y0)
        # A box has the font's full ascent and descent: lines of text may share a pixel of that.
        assert wide <= 0 or high <= 1.5, f"{a!r} at {box_a} overlaps {b!r} at {box_b}"
    return [text for text, _ in texts]


def panels(figure: Figure) -> dict[str, Any]:
    titled = {axes.get_title(loc="left"): axes for axes in figure.axes}
    return {title: axes for title, axes in titled.items() if title}


def borders(axes: Any) -> list[float]:
    return [segment[0][0] for lines in axes.collections for segment in lines.get_segments()]


def values_of(line: Any) -> dict[int, float]:
    """Return the last value that a line has at each abscissa: that of the step itself."""
    return dict(zip(line.get_xdata().tolist(), line.get_ydata().tolist(), strict=True))


@pytest.mark.parametrize("name", PLANS)
def test_every_text_is_legible(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = PLANS[name]().plot()
    assert check_legible(figure, monkeypatch)
    assert figure.get_size_inches()[0] * figure.dpi == 600
    assert figure.get_size_inches()[1] * figure.dpi >= 400


@pytest.mark.parametrize("name", ["one cycle", "sgdr", "twelve", "twelve, long names", "3 groups"])
def test_usual_plans_fit_600_by_400(name: str) -> None:
    figure = PLANS[name]().plot()
    assert (figure.get_size_inches() * figure.dpi).tolist() == [600, 400]


@pytest.mark.parametrize("name", PLANS)
def test_curves_are_the_plans_values(name: str) -> None:
    plan = PLANS[name]()
    for title, axes in panels(plan.plot()).items():
        lines = axes.get_lines()
        assert len(lines) in (1, plan.groups)
        for group, line in enumerate(lines):
            values = values_of(line)
            held = values.pop(plan.total_steps)
            steps = np.array(list(values))
            expected = plan.table(title, steps)[:, group]
            np.testing.assert_array_equal(list(values.values()), expected)
            np.testing.assert_array_equal(held, plan.table(title, [plan.total_steps - 1])[0, group])
            assert len(steps) <= 10_000
            for begin, end in plan.spans[:100]:
                assert {begin, end - 1} <= set(values)


def test_panels_are_in_order_and_rows_come_first() -> None:
    figure = with_values().plot()
    assert list(panels(figure)) == ["lr", "momentum", "beta", "weight_decay", "set_dropout", "eps"]
    assert len(figure.axes) == 7
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["phase", "optimizer"]


def test_momentum_and_text_can_be_left_out() -> None:
    assert list(panels(one_cycle().plot(show_moms=False))) == ["lr"]
    assert len(one_cycle().plot(show_text=False).axes) == 2
    assert len(one_cycle().plot().axes) == 3


def test_borders_are_red_dashed_lines_in_each_panel() -> None:
    for axes in panels(one_cycle().plot()).values():
        assert borders(axes) == [1350, 2700]
        (lines,) = axes.collections
        assert lines.get_color()[0].tolist() == [1, 0, 0, 1]
        assert lines.get_linestyle()[0][1] is not None


def test_a_jump_is_vertical_at_the_border() -> None:
    plan = Plan([ramp(100), ramp(100)])
    (line,) = panels(plan.plot())["lr"].get_lines()
    at_border = [y for x, y in zip(*line.get_data(), strict=True) if x == 100]
    assert at_border == [plan.values_at(99)["lr"], 0.1]
    assert line.get_drawstyle() == "default"


def test_a_short_plan_is_drawn_as_stairs() -> None:
    (line,) = panels(Plan([ramp(3)]).plot())["lr"].get_lines()
    assert line.get_drawstyle() == "steps-post"
    np.testing.assert_allclose(line.get_ydata(), [0.1, 0.2, 0.3, 0.3], rtol=1e-15)


def test_a_value_that_is_not_set_is_a_gap() -> None:
    drawn = panels(with_values().plot())
    (line,) = drawn["momentum"].get_lines()
    shown = [x for x, y in zip(*line.get_data(), strict=True) if not np.isnan(y)]
    assert (min(shown), max(shown)) == (100, 200)  # step 199 holds up to 200
    (line,) = drawn["weight_decay"].get_lines()
    assert np.isnan(values_of(line)[150])
    assert values_of(line)[250] == 0.02


def test_a_constant_has_one_tick_at_its_value() -> None:
    assert panels(grouped(3).plot())["momentum"].get_yticks().tolist() == [0.9]


def test_decoupled_weight_decay_has_no_panel_of_zeros_beside_it() -> None:
    plan = Plan([TrainingPhase(steps=9, wds=0.1, wd_loss=False)])
    assert list(panels(plan.plot())) == ["lr", "decoupled_weight_decay"]


def test_steps_cuts_the_plan() -> None:
    plan = one_cycle()
    figure = plot_plan(plan, steps=1400)
    axes = panels(figure)["lr"]
    (line,) = axes.get_lines()
    assert (line.get_xdata().min(), line.get_xdata().max()) == (0, 1400)
    assert line.get_ydata()[-1] == plan.values_at(1399)["lr"]
    assert axes.get_xlim() == (0, 1400)
    assert borders(axes) == [1350]
    assert "annihilate" not in " ".join(text.get_text() for text in figure.findobj(Text))
    assert borders(panels(plot_plan(plan, steps=1350))["lr"]) == []
    late = Plan([TrainingPhase(steps=5), TrainingPhase(steps=5, momentum=0.9)])
    assert list(panels(plot_plan(late, steps=5))) == ["lr"]


def test_text_names_phase_optimizer_and_data(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(
        [
            ramp(50, opt_fn=ADAM, data=Data("small"), name="first\nof two"),
            ramp(50, data=Data("small")),
        ]
    )
    texts = check_legible(plan.plot(), monkeypatch)
    assert {"first of two", ADAM_NAME, "small"} <= set(texts)
    assert texts.count(ADAM_NAME) == texts.count("small") == 1  # one span over both phases


def test_text_without_room_has_a_number_in_the_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = check_legible(twelve(EVEN, "a rather long name, {}").plot(), monkeypatch)
    assert {f"({i + 1})" for i in range(12)} <= set(texts)
    assert "(12) a rather long name, 11" in texts
    assert texts.count("Adam (13)") == 3
    assert f"(13) {ADAM_NAME}" in texts


def test_text_without_room_for_a_number_has_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan([ramp(3, opt_fn=ADAM, name="tiny"), ramp(997, opt_fn=torch.optim.SGD), ramp(1)])
    texts = check_legible(plan.plot(), monkeypatch)
    assert "tiny [steps 0..2]" in texts
    assert f"{ADAM_NAME} [steps 0..2]" in texts


def test_a_long_note_is_shortened_but_keeps_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan([ramp(3, name="a name far too long " * 20), ramp(997)])
    (note,) = [text for text in check_legible(plan.plot(), monkeypatch) if "..." in text]
    assert note.startswith("a name far too long")
    assert note.endswith("[steps 0..2]")


def test_optimizer_of_phases_that_name_none(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan([ramp(50), ramp(50, opt_fn=torch.optim.Adam)])
    assert "default (SGD)" in check_legible(plan.plot(), monkeypatch)
    assert "Lion" in check_legible(plot_plan(plan, opt_name="Lion"), monkeypatch)
    assert len(Plan([ramp(50)]).plot().axes) == 2  # nobody named an optimizer: no row
    assert len(plot_plan(Plan([ramp(50)]), opt_name="Lion").axes) == 3


def test_groups_have_one_curve_each_and_at_most_six_in_the_legend() -> None:
    for groups, named in [(3, [0, 1, 2]), (6, [0, 1, 2, 3, 4, 5]), (20, [0, 4, 8, 11, 15, 19])]:
        figure = grouped(groups).plot()
        drawn = panels(figure)
        assert len(drawn["lr"].get_lines()) == groups
        assert len(drawn["momentum"].get_lines()) == 1  # equal in all groups
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == [f"group {i}" for i in named]
        last = legend.get_lines()[-1].get_color()
        assert np.array_equal(last, drawn["lr"].get_lines()[-1].get_color())


def test_long_plans_are_drawn_by_few_points() -> None:
    many = Plan([ramp(3, opt_fn=ADAM, name="a"), ramp(3, name="b")] * (10**5 // 2))
    huge = Plan([ramp(10**9), ramp(10**12)])
    figures = [many.plot(), huge.plot()]
    for figure in figures:
        FigureCanvasAgg(figure).draw()
    lr = panels(figures[0])["lr"]
    assert borders(lr) == []
    x, y = lr.get_lines()[0].get_data()
    assert len(x) < 10**4
    at_border = np.flatnonzero(x[1:] == x[:-1])
    assert len(at_border) > 500
    np.testing.assert_array_equal(y[at_border], many.table("lr", x[at_border] - 1)[:, 0])
    assert borders(panels(figures[1])["lr"]) == [10**9]
    assert "100000 spans, too narrow to name" in [t.get_text() for t in figures[0].findobj(Text)]


def test_phases_beyond_the_limit_have_no_border_lines() -> None:
    assert len(borders(panels(Plan([ramp(9)] * 61).plot())["lr"])) == 60
    assert borders(panels(Plan([ramp(9)] * 62).plot())["lr"]) == []


def test_figures_leave_pyplot_alone(tmp_path: Any) -> None:
    had_pyplot = "matplotlib.pyplot" in sys.modules
    one_cycle().plot().savefig(tmp_path / "plan.png")
    assert ("matplotlib.pyplot" in sys.modules) == had_pyplot
    data = (tmp_path / "plan.png").read_bytes()
    assert (int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")) == (600, 400)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"plan": [ramp(3)]}, TypeError, "`plan` must be a Plan"),
        ({"steps": 0}, PhaseError, r"`steps` \(=0\) must be >= 1"),
        ({"steps": 3001}, PhaseError, r"`steps` \(=3001\) must be at most the plan's 3000"),
        ({"steps": 2.0}, TypeError, "`steps` must be an int"),
        ({"show_text": 1}, TypeError, "`show_text` must be a bool"),
        ({"show_moms": None}, TypeError, "`show_moms` must be a bool"),
        ({"opt_name": ADAM}, TypeError, "`opt_name` must be a str"),
    ],
)
def test_plan_errors(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        plot_plan(**{"plan": one_cycle(), **arguments})


RATES = np.geomspace(1e-5, 10, 100)
LOSSES = 2 - 0.2 * np.log10(RATES) + RATES**2 / 20
SUGGESTION = {"valley": 3e-3, "steep": 1e-3, "minimum": 2e-2, "slide": 7e-2}


@pytest.mark.parametrize("linear", [False, True])
def test_finder_draws_the_inner_points(linear: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = plot_finder(RATES, LOSSES, suggestion=SUGGESTION, linear=linear)
    (axes,) = figure.axes
    assert axes.get_xscale() == ("linear" if linear else "log")
    curve, *marks = axes.get_lines()
    np.testing.assert_array_equal(curve.get_xdata(), RATES[10:-5])
    np.testing.assert_array_equal(curve.get_ydata(), LOSSES[10:-5])
    assert [mark.get_xdata()[0] for mark in marks] == list(SUGGESTION.values())
    for mark in marks:
        scale = np.asarray if linear else np.log
        expected = np.interp(scale(mark.get_xdata()), scale(RATES), LOSSES)
        np.testing.assert_allclose(mark.get_ydata(), expected)
    texts = check_legible(figure, monkeypatch)
    assert {"valley: 0.003", "steep: 0.001", "minimum: 0.02", "slide: 0.07"} <= set(texts)


def test_finder_takes_the_last_group_and_tensors() -> None:
    rates = np.stack([RATES / 10, RATES], axis=1)
    figure = plot_finder(torch.tensor(rates), torch.tensor(LOSSES), n_skip=0, n_skip_end=0)
    np.testing.assert_array_equal(figure.axes[0].get_lines()[0].get_xdata(), RATES)


def test_finder_draws_a_rate_of_zero_on_a_linear_axis() -> None:
    figure = plot_finder([0.0, 0.1], [2.0, 1.0], suggestion={"steep": 0.05}, linear=True)
    curve, mark = figure.axes[0].get_lines()
    assert curve.get_xdata().tolist() == [0.0, 0.1]
    assert mark.get_ydata() == [1.5]


def test_finder_with_few_points_leaves_none_out() -> None:
    for count, kept in [(1, 1), (24, 24), (25, 10)]:
        figure = plot_finder(RATES[:count], LOSSES[:count])
        assert len(figure.axes[0].get_lines()[0].get_xdata()) == kept


def test_finder_with_losses_that_are_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = LOSSES.copy()
    losses[[50, 98, 99]] = [np.nan, np.inf, np.inf]
    figure = plot_finder(RATES, losses, suggestion={"steep": RATES[50]}, n_skip_end=0)
    assert np.isfinite(figure.axes[0].get_lines()[1].get_ydata()).all()
    check_legible(figure, monkeypatch)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"lrs": "many"}, TypeError, "`lrs` must be an array of numbers, got 'many'"),
        ({"lrs": [[1.0], [1.0, 2.0]]}, TypeError, "`lrs` must be an array of numbers"),
        ({"losses": [True] * 100}, TypeError, "`losses` must be an array of numbers"),
        ({"lrs": []}, PhaseError, r"`lrs` \(shape \(0,\)\) must be of shape \(n,\) or \(n, gr"),
        ({"losses": [[1.0]]}, PhaseError, r"`losses` \(shape \(1, 1\)\) must be of shape \(n,\)"),
        ({"losses": [1.0]}, PhaseError, r"`lrs` \(100\) and `losses` \(1\) must be equally many"),
        ({"lrs": [-1.0] * 100}, PhaseError, r"`lrs` .* must be finite and >= 0"),
        ({"lrs": [0.0] * 100}, PhaseError, r"`lrs` .* hold a 0, .* linear=True"),
        ({"n_skip": -1}, PhaseError, r"`n_skip` \(=-1\) must be >= 0"),
        ({"n_skip_end": 0.5}, TypeError, "`n_skip_end` must be an int"),
        ({"suggestion": 0.1}, TypeError, "`suggestion` must be a dict of name: rate, got 0.1"),
        ({"suggestion": {"steep": -1}}, PhaseError, r"`suggestion\['steep'\]` \(=-1\) must be > 0"),
        ({"linear": "no"}, TypeError, "`linear` must be a bool"),
    ],
)
def test_finder_errors(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        plot_finder(**{"lrs": RATES, "losses": LOSSES, **arguments})


def test_losses_and_validation_points(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = np.arange(1000)
    losses = np.exp(-steps / 300)
    figure = plot_losses(steps, losses, val_steps=[500, 1000], val_losses=[0.3, 0.1])
    training, validation = figure.axes[0].get_lines()
    np.testing.assert_array_equal(training.get_data(), (steps, losses))
    np.testing.assert_array_equal(validation.get_data(), ([500, 1000], [0.3, 0.1]))
    assert {"training", "validation", "step", "loss"} <= set(check_legible(figure, monkeypatch))
    assert plot_losses([0], [1.0]).axes[0].get_legend() is None


def test_many_losses_keep_their_extremes() -> None:
    losses = np.random.default_rng(0).normal(size=100_000)
    losses[[777, 54_321]] = [50, -50]
    losses[30_000:40_000] = np.nan
    (line,) = plot_losses(np.arange(100_000), losses).axes[0].get_lines()
    x, y = line.get_data()
    assert len(x) <= 4000
    assert np.all(np.diff(x) > 0)
    assert (x[np.nanargmax(y)], x[np.nanargmin(y)]) == (777, 54_321)
    np.testing.assert_array_equal(y, losses[x.astype(int)])
    assert np.isnan(y).any()


def test_losses_errors() -> None:
    with pytest.raises(PhaseError, match=r"`steps` \(2\) and `losses` \(1\) must be equally many"):
        plot_losses([0, 1], [1.0])
    with pytest.raises(PhaseError, match="both of `val_steps` and `val_losses`"):
        plot_losses([0], [1.0], val_steps=[1])
    with pytest.raises(PhaseError, match=r"`val_steps` \(1\) and `val_losses` \(2\)"):
        plot_losses([0], [1.0], val_steps=[1], val_losses=[1.0, 2.0])
