from __future__ import annotations

import io

from vbatch_jupyter.display.line import Line


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_no_more_than_fits_in_its_width_and_the_end_is_whole(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    terminal = Terminal()
    line = Line(terminal)
    line.draw("x" * 30)
    assert terminal.getvalue() == "\r" + "x" * 19
    line.end("y" * 30)
    assert terminal.getvalue() == "\r" + "x" * 19 + "\r" + "y" * 30 + "\n"


def test_what_goes_to_a_file_is_printed_now_and_then_and_whole(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    times = iter([0.0, 5.0, 10.0])
    file = io.StringIO()
    line = Line(file, clock=lambda: next(times))
    for number in range(3):
        line.draw(f"{number}" * 30)
    assert file.getvalue() == "0" * 30 + "\n" + "2" * 30 + "\n"
