"""Progress in a real terminal, in a real notebook, and in a log file."""

import fcntl
import io
import os
import pty
import struct
import sys
import termios
import threading

import nbclient
import nbformat
import pytest
from torch import nn
from training import loader, net, seed_all

from pyphase import Learner, TrainingPhase
from pyphase.bars import LogLines, open_bar


def fit():
    seed_all(1)
    learn = Learner(net(), (loader(12), loader(4)), nn.functional.mse_loss)
    return learn.fit_opt_sched([TrainingPhase(2, lr=1e-3, name="warm")])


def test_a_terminal_has_one_line_that_is_drawn_over(monkeypatch, capsys):
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    shown = bytearray()

    def read():
        while True:
            try:
                shown.extend(os.read(master, 4096))
            except OSError:  # the other end is closed
                return

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(slave, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        fit()
    reader.join()
    os.close(master)
    text = shown.decode()
    frames = [frame for frame in text.split("\r") if frame.strip()]
    assert frames[0].startswith("phase 0 warm:   0%|")
    assert max(map(len, frames)) <= 80
    assert "\n" not in text
    assert text.endswith("\r")


def test_a_log_file_has_whole_lines(monkeypatch, capsys):
    log = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", log)
        fit()
    assert log.getvalue() == ""  # nothing to say within half a minute
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_lines_of_a_log_come_at_intervals(monkeypatch, capsys):
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    bar = open_bar("phase 1 cool", 90, 10)
    assert type(bar) is LogLines
    for _ in range(80):
        clock[0] += 1.0
        bar.set_postfix_str("loss 0.1234, lr 1.0e-02", refresh=False)
        bar.update()
    bar.close()
    assert capsys.readouterr().err.splitlines() == [
        "phase 1 cool: 40/90, loss 0.1234, lr 1.0e-02, 30 s",
        "phase 1 cool: 70/90, loss 0.1234, lr 1.0e-02, 60 s",
    ]


def test_a_disabled_bar_shows_nothing(capsys):
    bar = open_bar("x", 3, enabled=False)
    bar.update(3)
    assert capsys.readouterr() == ("", "")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_notebook_has_a_widget_and_a_table(monkeypatch, tmp_path):
    """In a folder of its own: a kernel imports from where it stands first."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.path.dirname(__file__), *sys.path]))
    cell = nbformat.v4.new_code_cell("from test_bars import fit\nfit()")
    notebook = nbformat.v4.new_notebook(cells=[cell])
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources=where).execute()
    outputs = notebook.cells[0].outputs
    assert not [o for o in outputs if o.get("name") == "stderr"], outputs
    state = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
    bars = [w for w in state.values() if w["model_name"] == "FloatProgressModel"]
    assert bars
    table = outputs[-1]["data"]["text/html"]
    assert table.startswith("<table><tr><th>epoch</th>")
    assert table.count("<tr>") == 3
