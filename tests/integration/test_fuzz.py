"""Mutated and made-up inputs; ``make fuzz`` reads a million of them with another seed each time."""

from __future__ import annotations

import pytest

from tests.fuzzing import Server, fuzz

pytestmark = pytest.mark.timeout(300)


def test_no_input_is_an_exception_or_a_5xx_of_ours_or_holds_a_loop(default_server):
    before = default_server.log()
    server = Server(default_server)
    try:
        counts = fuzz(15, iter(range(20_000)), server)
    finally:
        server.close()
    assert counts.faults == []
    assert (counts.kinds.total(), counts.kinds["requests over HTTP"]) == (20_000, 400)
    # Most mutations are still refused and some still pass, so that both ways are taken.
    assert 5_000 < counts.refused < 15_000
    assert "Uncaught exception" not in default_server.log().removeprefix(before)
