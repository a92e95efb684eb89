"""One rule of how a cell is written, at every depth and in every backing: pandas 3.1.1, numpy 2.3.5, pyarrow 26.0.1."""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from vbatch_jupyter.errors import FrameError
from vbatch_jupyter.frames.ask import Ask
from vbatch_jupyter.frames.frame import fingerprint
from vbatch_jupyter.frames.render import requests_of
from vbatch_jupyter.frames.template import Template

DAY, TIME = dt.date(2024, 5, 1), dt.datetime(2024, 5, 1, 13, 30)  # noqa: DTZ001 - as Arrow gives it
COLUMNS: dict[str, tuple[str, Any, str, str]] = {
    # The type in Arrow, a value, its text, its JSON.
    "texts": ("list<string>", ["a", None], "['a', None]", '["a", null]'),
    "nested": ("list<list<string>>", [["a", "b"], []], "[['a', 'b'], []]", '[["a", "b"], []]'),
    "long": ("list<int64>", list(range(1500)), str(list(range(1500))), str(list(range(1500)))),
    "short floats": ("list<float>", [0.1, None, 2.0], "[0.1, None, 2.0]", "[0.1, null, 2.0]"),
    "infinite": ("list<double>", [float("inf"), float("nan")], "[inf, None]", '["inf", null]'),
    "times": (
        "list<timestamp>",
        [TIME, None],
        "['2024-05-01 13:30:00', None]",
        '["2024-05-01 13:30:00", null]',
    ),
    "days": ("list<date>", [DAY], "['2024-05-01']", '["2024-05-01"]'),
    "prices": ("list<decimal>", [decimal.Decimal("12.50")], "['12.50']", '["12.50"]'),
    "struct": (
        "struct",
        {"tags": ["x"] * 1200, "n": None, "day": DAY},
        f"{{'tags': {['x'] * 1200}, 'n': None, 'day': '2024-05-01'}}",
        json.dumps({"tags": ["x"] * 1200, "n": None, "day": "2024-05-01"}),
    ),
    "map": ("map<float>", [("k", 0.5), ("l", None)], "[('k', 0.5), ('l', None)]", '[["k", 0.5], ["l", null]]'),
    "price": ("decimal", decimal.Decimal("12.50"), "12.50", '"12.50"'),
    "day": ("date", DAY, "2024-05-01", '"2024-05-01"'),
    "time": ("timestamp", TIME, "2024-05-01 13:30:00", '"2024-05-01 13:30:00"'),
    "float": ("float", 0.1, "0.1", "0.1"),
    "infinity": ("double", float("inf"), "inf", '"inf"'),
    "category": ("dictionary", "x", "x", '"x"'),
}


def arrow_types() -> dict[str, Any]:
    pa = pytest.importorskip("pyarrow", reason="the wheel is tested without pyarrow, the repository with it")
    return {
        "list<string>": pa.list_(pa.string()),
        "list<list<string>>": pa.list_(pa.list_(pa.string())),
        "list<int64>": pa.list_(pa.int64()),
        "list<float>": pa.list_(pa.float32()),
        "list<double>": pa.list_(pa.float64()),
        "list<timestamp>": pa.list_(pa.timestamp("us")),
        "list<date>": pa.list_(pa.date32()),
        "list<decimal>": pa.list_(pa.decimal128(5, 2)),
        "struct": pa.struct([("tags", pa.list_(pa.string())), ("n", pa.int64()), ("day", pa.date32())]),
        "map<float>": pa.map_(pa.string(), pa.float32()),
        "decimal": pa.decimal128(5, 2),
        "date": pa.date32(),
        "timestamp": pa.timestamp("us"),
        "float": pa.float32(),
        "double": pa.float64(),
        "dictionary": pa.dictionary(pa.int32(), pa.string()),
    }


def read_parquet(tmp_path, **options):
    types = arrow_types()
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: pa.array([value, None], types[kind]) for name, (kind, value, _, _) in COLUMNS.items()})
    pq.write_table(table, tmp_path / "frame.parquet")
    return pd.read_parquet(tmp_path / "frame.parquet", **options)


def prompts(df, template, **fields):
    lines = requests_of(df, Ask(template=template, model="m", endpoint="completions", **fields)).lines
    return [json.loads(line)["body"]["prompt"] for line in lines]


@pytest.mark.parametrize("backend", [None, "pyarrow", "numpy_nullable"])
def test_what_a_parquet_file_holds_is_what_the_prompt_holds(tmp_path, backend):
    df = read_parquet(tmp_path, **({} if backend is None else {"dtype_backend": backend}))
    for name, (_, _, text, as_json) in COLUMNS.items():
        assert prompts(df, f"<{{{{ row['{name}'] }}}}>") == [f"<{text}>", "<>"], name
        assert prompts(df, f"{{{{ row['{name}'] | tojson }}}}") == [as_json, "null"], name
    whole = [json.loads(prompt) for prompt in prompts(df, "{{ row | tojson }}")]
    assert whole == [
        {name: json.loads(as_json) for name, (_, _, _, as_json) in COLUMNS.items()},
        dict.fromkeys(COLUMNS),
    ]


def test_without_arrow_the_same_values_are_written_in_the_same_way():
    df = pd.DataFrame({name: pd.Series([value, None], dtype=object) for name, (_, value, _, _) in COLUMNS.items()})
    for name, (_, _, text, as_json) in COLUMNS.items():
        assert prompts(df, f"<{{{{ row['{name}'] }}}}>") == [f"<{text}>", "<>"], name
        assert prompts(df, f"{{{{ row['{name}'] | tojson }}}}") == [as_json, "null"], name


def test_a_float_of_32_bits_inside_of_a_struct_of_arrow_reads_as_it_is_written():
    arrow_types()
    import pyarrow as pa

    kind = pd.ArrowDtype(pa.struct([("x", pa.float32()), ("in", pa.list_(pa.struct([("y", pa.float16())])))]))
    df = pd.DataFrame({"s": pd.Series([{"x": 0.1, "in": [{"y": 0.1}]}, {"x": None, "in": None}], dtype=kind)})
    assert prompts(df, "{{ s }}") == ["{'x': 0.1, 'in': [{'y': 0.1}]}", "{'x': None, 'in': None}"]


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        (pd.array([0.1, None], dtype="Float32"), ["0.1", ""]),
        (pd.arrays.SparseArray(np.array([0.1, np.nan], dtype="float32")), ["0.1", ""]),
        (pd.Categorical(np.array([0.1, np.nan], dtype="float32")), ["0.1", ""]),
        (pd.Series([0.0, 1.0], dtype="Float64") / 0, ["", "inf"]),
    ],
)
def test_short_floats_are_short_in_every_dtype(column, texts):
    assert prompts(pd.DataFrame({"x": column}), "{{ x }}") == texts


def test_not_a_number_of_arrow_is_missing():
    """With pandas 3.1.1, isna() of a double[pyarrow] NaN is False."""
    arrow_types()
    df = pd.DataFrame({"x": pd.array([1.5, np.nan], dtype="double[pyarrow]")})
    assert prompts(df, "{% if x %}{{ x }}{% else %}none{% endif %} {{ row | tojson }}") == [
        '1.5 {"x": 1.5}',
        'none {"x": null}',
    ]


def test_a_time_in_nanoseconds_in_a_struct_is_a_date_only_where_arrow_keeps_it():
    """With pyarrow 26.0.1, a struct becomes a dict in which it is a whole number; in microseconds it is a datetime."""
    pa = pytest.importorskip("pyarrow", reason="the wheel is tested without pyarrow, the repository with it")
    times = [
        pa.array([{"at": pd.Timestamp("2024-05-01")}], pa.struct([("at", pa.timestamp(unit))])) for unit in ("us", "ns")
    ]
    table = pa.table(times, names=["us", "ns"])
    template = "{{ us.at }} {{ ns.at }}"
    assert prompts(table.to_pandas(), template) == ["2024-05-01 00:00:00 1714521600000000000"]
    assert prompts(table.to_pandas(types_mapper=pd.ArrowDtype), template) == ["2024-05-01 00:00:00 2024-05-01 00:00:00"]


@pytest.mark.parametrize(
    ("value", "text", "as_json"),
    [
        ([pd.NA, pd.NaT, np.nan], "[None, None, None]", "[null, null, null]"),
        ([np.datetime64("2024-05-01T13:30", "ns")], "['2024-05-01 13:30:00']", '["2024-05-01 13:30:00"]'),
        (np.array(["2024-05-01"], dtype="datetime64[ns]"), "['2024-05-01 00:00:00']", '["2024-05-01 00:00:00"]'),
        (np.array([[1.5, np.nan], [0, 1]], dtype="float32"), "[[1.5, None], [0.0, 1.0]]", "[[1.5, null], [0.0, 1.0]]"),
        (pd.Series(range(100)), str(list(range(100))), str(list(range(100)))),
        (pd.DataFrame({"a": range(2)}), "[{'a': 0}, {'a': 1}]", '[{"a": 0}, {"a": 1}]'),
        ({"b", "a"}, "{'a', 'b'}", '["a", "b"]'),
        (("a",), "('a',)", '["a"]'),
        (collections.OrderedDict({DAY: np.int8(1)}), "{'2024-05-01': 1}", '{"2024-05-01": 1}'),
        ({"nan": [float("inf"), np.float32(0.1)]}, "{'nan': [inf, 0.1]}", '{"nan": ["inf", 0.1]}'),
        (np.str_("it's"), "it's", '"it\'s"'),
    ],
)
def test_what_python_and_numpy_write_otherwise_follows_the_rule(value, text, as_json):
    assert Template("{{ a }}|{{ a | tojson }}", ["a"]).render({"a": value}) == f"{text}|{as_json}"


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("a ~ b", "[None, '2024-05-01']"),
        ("a | string", "[None, '2024-05-01']"),
        ("a | trim | upper", "[NONE, '2024-05-01']"),
        ("a | join(';')", ";2024-05-01"),
        ("a | map('string') | list", "['', '2024-05-01']"),
        ("s.a ~ '!'", "!"),
        ("s.items", "field"),
        ("{'x': a}", "{'x': [None, '2024-05-01']}"),
        ("[a, b]", "[[None, '2024-05-01'], None]"),
    ],
)
def test_every_way_to_write_a_value_follows_the_rule(expression, text):
    values: dict[Any, object] = {"a": [pd.NA, DAY], "b": None, "s": {"a": None, "items": "field"}}
    assert Template(f"{{{{ {expression} }}}}", list(values)).render(values) == text


def test_an_inner_array_is_true_if_it_has_elements():
    df = pd.DataFrame({"s": [{"tags": np.array(["x", "y"], dtype=object)}, {"tags": np.array([], dtype=object)}]})
    assert prompts(df, "{% if s.tags %}{{ s.tags[0] }}{% else %}none{% endif %}") == ["x", "none"]


class Picture:
    """Has no text of its own, as a picture of PIL or an image of datasets."""


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ data }}", "Bytes cannot be written into a prompt. If they are text, write {{ column.decode() }}."),
        ("{{ data | trim }}", "Bytes cannot be written into a prompt."),
        ("{{ 'a' ~ data }}", "Bytes cannot be written into a prompt."),
        ("{{ image }}", "Bytes cannot be written into a prompt."),
        ("{{ image | tojson }}", "Bytes cannot be written into a prompt."),
        ("{{ row | tojson }}", "Bytes cannot be written into a prompt."),
        ("{{ picture }}", "Picture cannot be written into a prompt."),
        ("{{ text | map('upper') }}", "A generator cannot be written into a prompt. If it is a function, call it;"),
        ("{{ text.upper }}", "cannot be written into a prompt. If it is a function, call it;"),
        (
            "{{ chat }}",
            "A list of messages cannot be written into a prompt. To write it as text, use | tojson or a loop.",
        ),
    ],
)
def test_what_has_no_text_is_an_error_that_says_how_it_is_sent(template, reason):
    df = pd.DataFrame(
        {
            "text": ["t"],
            "data": [b"\x89PNG"],
            "image": [{"bytes": b"\x89PNG", "path": None}],
            "picture": [Picture()],
            "chat": [[{"role": "user", "content": "Hello"}]],
        }
    )
    with pytest.raises(FrameError) as caught:
        prompts(df, template)
    assert reason in caught.value.message
    assert caught.value.message.endswith("This is in row 0, line 1 of the template.")
    assert "write the requests into an input file, and run it with %vbatch run" in caught.value.message


def test_a_picture_of_pillow_is_an_error_and_not_its_address():
    """Pillow 13.0.0: str() of a picture holds its address, so that each run would be another prompt."""
    pictures = pytest.importorskip("PIL.Image", reason="pandas does not need Pillow")
    picture = pictures.new("RGB", (2, 2))
    with pytest.raises(FrameError, match=r"A PIL\.Image\.Image cannot be written into a prompt"):
        prompts(pd.DataFrame({"picture": [picture]}), "{{ picture }}")
    assert prompts(pd.DataFrame({"picture": [picture]}), "{{ picture.width }}") == ["2"]
    assert fingerprint(pd.DataFrame({"p": [picture]})) == fingerprint(pd.DataFrame({"p": [picture.copy()]}))
    other = pictures.new("RGB", (2, 2), "red")
    assert fingerprint(pd.DataFrame({"p": [picture]})) != fingerprint(pd.DataFrame({"p": [other]}))


def test_messages_and_bytes_can_be_written_in_other_words():
    df = pd.DataFrame({"chat": [[{"role": "user", "content": "Hello"}]], "data": [b"caf\xc3\xa9"]})
    template = "{% for m in chat %}{{ m.role }}: {{ m.content }}{% endfor %}|{{ chat | tojson }}|{{ data.decode() }}"
    assert prompts(df, template) == ['user: Hello|[{"role": "user", "content": "Hello"}]|café']


def test_every_column_of_arrow_has_a_fingerprint(tmp_path):
    """With pandas 3.1.1, hash_array raises ValueError for lists and maps of Arrow, UnicodeDecodeError for bytes."""
    df = read_parquet(tmp_path, dtype_backend="pyarrow")
    df["data"] = pd.array([b"\xff\x00", None], dtype="binary[pyarrow]")
    assert fingerprint(df) == fingerprint(df.copy())
    for name in df:
        assert fingerprint(df[[name]]) != fingerprint(df[[name]].iloc[::-1]), name
    assert prompts(df.assign(text="x"), "{{ text }}") == ["x", "x"]
