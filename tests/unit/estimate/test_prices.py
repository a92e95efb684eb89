"""The table of prices: what it holds, and how its reader corrects it."""

from __future__ import annotations

import datetime as dt

import pytest

from vbatch_jupyter.errors import BadRequestError
from vbatch_jupyter.estimate import prices


def test_the_table_that_comes_along_has_a_date_and_sources_for_each_service(tmp_path):
    table = prices.load(tmp_path / "none.toml")
    assert set(table) == {"openai", "parasail"}
    for service in table.values():
        assert service.read_on <= dt.date(2027, 1, 1)
        assert all(source.startswith("https://") for source in service.sources)
        assert service.sources
        assert service.models
        assert all(price.input > 0 for price in service.models.values())
    assert table["openai"].models["text-embedding-3-small"].output is None


def test_a_batch_costs_a_share_of_the_list_price(tmp_path):
    table = prices.load(tmp_path / "none.toml")
    assert table["openai"].cost("gpt-4.1-nano", 2_000_000, 1_000_000) == pytest.approx((0.2 + 0.4) / 2)
    assert table["openai"].cost("text-embedding-3-small", 1_000_000, 1_000_000) == pytest.approx(0.01)


def test_a_file_of_the_user_goes_before_it_and_leaves_the_rest(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path))
    (tmp_path / prices.FILE_NAME).write_text(
        """
        [openai]
        read_on = 2027-02-01
        [openai.models]
        "gpt-4.1-nano" = { input = 9.0 }
        [ours]
        read_on = 2027-02-02
        sources = ["https://ours.example.org"]
        batch_share = 1.0
        models = { m = { input = 1.0, output = 2.0 } }
        """
    )
    table = prices.load()
    assert table["openai"].read_on == dt.date(2027, 2, 1)
    assert table["openai"].models["gpt-4.1-nano"] == prices.Price(input=9.0)
    assert "gpt-4.1-mini" in table["openai"].models
    assert table["ours"].cost("m", 1_000_000, 1_000_000) == 3.0
    assert "parasail" in table


@pytest.mark.parametrize("text", ["[openai", '[openai]\nread_on = "soon"', "[openai.models]\nm = { inputs = 1 }"])
def test_a_file_that_is_wrong_is_named(tmp_path, text):
    path = tmp_path / "prices.toml"
    path.write_text(text)
    with pytest.raises(BadRequestError, match=r"The prices in .*prices\.toml cannot be read"):
        prices.load(path)
