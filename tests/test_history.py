"""Histories: rows in, a table and a CSV file out."""

import csv

from pyphase.history import History, header_line, row_line


def filled():
    history = History()
    for step in range(4):
        history.add_step(step, 1.0 / (step + 1))
    history.add_row({"epoch": 0, "step": 2, "phase": 0, "train_loss": 0.75})
    history.add_row({"epoch": 1, "step": 4, "phase": 1, "train_loss": 0.25, "mae": 3e-7})
    return history


def test_columns_come_in_order():
    assert History().columns == []
    assert filled().columns == ["epoch", "step", "phase", "train_loss", "mae"]


def test_table():
    assert repr(History()) == "no epoch yet"
    assert repr(filled()).splitlines() == [
        " epoch    step   phase  train_loss     mae",
        "     0       2       0      0.7500        ",
        "     1       4       1      0.2500  3.0e-07",
    ]


def test_numbers_of_any_size_keep_the_columns():
    columns = ["train_loss"]
    for loss in (0.0, -0.0, 1e-12, 1e-3, -9999.0, 1e4, -1e300, float("nan"), float("inf")):
        line = row_line({"train_loss": loss}, columns)
        assert len(line) == len(header_line(columns))
        assert float(line) == loss or loss != loss or abs(float(line) / loss - 1) < 1e-2


def test_csv_holds_the_exact_numbers(tmp_path):
    history = filled()
    history.rows[0]["train_loss"] = 0.1 + 0.2
    history.to_csv(tmp_path / "history.csv")
    with (tmp_path / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert float(rows[0]["train_loss"]) == 0.1 + 0.2
    assert rows[0]["mae"] == ""
    History().to_csv(tmp_path / "empty.csv")
    assert (tmp_path / "empty.csv").read_text().strip() == ""


def test_a_saved_history_is_a_copy():
    history, other = filled(), History()
    other.load_state_dict(history.state_dict())
    assert repr(other) == repr(history)
    other.add_step(4, 0.0)
    other.add_row({"epoch": 2})
    other.rows[0]["mae"] = 1.0
    assert history.state_dict() == filled().state_dict()
