from __future__ import annotations

import datetime as dt
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbatch_jupyter.errors import TemplateError
from vbatch_jupyter.frames.template import Template


def render(source, values):
    return Template(source, list(values)).render(values)


def refusal(source, columns, values=None):
    with pytest.raises(TemplateError) as caught:
        Template(source, columns).render(values if values is not None else dict.fromkeys(columns, "x"))
    assert caught.value.param == "template"
    return caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "{{ text }}",
        "{% if x %}",
        "{# gone? #}",
        "\"'",
        "a\nb\r\n",
        "\u2028\u0085",
        "naïve 🦊",
        "<b>&amp;</b>",
        "\\n",
        "",
    ],
)
def test_a_cell_is_data_and_never_a_template(text):
    assert render("[{{ text }}]", {"text": text}) == f"[{text}]"


@given(st.text(), st.text())
def test_any_text_comes_through_unchanged(first, second):
    assert render("{{ a }}|{{ row['b c'] }}", {"a": first, "b c": second}) == f"{first}|{second}"


def test_braces_of_json_in_the_template_survive():
    assert render('{"mood": "{{ mood }}", "of": {"n": 1}}', {"mood": "good"}) == '{"mood": "good", "of": {"n": 1}}'


def test_one_final_newline_of_a_cell_body_is_dropped():
    assert render("Classify {{ a }}\n", {"a": 1}) == "Classify 1"
    assert render("Classify {{ a }}\n\n", {"a": 1}) == "Classify 1\n"


def test_a_template_may_use_no_column():
    template = Template("Tell a joke.", ["text"])
    assert template.positions == ()
    assert template.render({}) == "Tell a joke."


@pytest.mark.parametrize("missing", [None, float("nan"), np.nan, np.float32("nan"), pd.NaT, pd.NA])
def test_a_missing_value_is_empty_in_every_place(missing):
    source = "[{{ a }}{{ a.strip() }}{{ a[:9] }}{{ a.b.c }}{{ a | upper }}{{ a ~ a }}{{ row['a'] }}{{ row.a }}]"
    assert render(source, {"a": missing}) == "[]"
    assert render("{% if a %}yes{% else %}no{% endif %}", {"a": missing}) == "no"
    assert render("{{ a is none }} {{ a == none }} {{ a | default('n/a') }}", {"a": missing}) == "True True n/a"


def test_a_missing_value_inside_of_a_cell_is_empty():
    assert render("[{{ a.x }}{{ a.y }}]", {"a": {"x": None, "y": float("nan")}}) == "[]"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "7"),
        (1.0, "1.0"),
        (np.int8(3), "3"),
        (np.float32(0.1), "0.1"),
        (np.True_, "True"),
        (pd.Timestamp("2024-05-01 13:30"), "2024-05-01 13:30:00"),
        (dt.date(2024, 5, 1), "2024-05-01"),
        (pd.Timedelta(days=1), "1 days 00:00:00"),
        (pd.Period("2024-05"), "2024-05"),
        (pd.Interval(0, 10), "(0, 10]"),
        (["a", None], "['a', None]"),
        (np.arange(1500)[:3], "[0, 1, 2]"),
    ],
)
def test_values_that_are_no_text_are_written_as_a_reader_expects(value, text):
    assert render("{{ a }}", {"a": value}) == text


def test_a_long_array_is_written_whole():
    assert render("{{ a }}", {"a": np.arange(2000)}) == str(list(range(2000)))


def test_row_reaches_labels_that_are_no_identifiers():
    day = pd.Timestamp("2024-01-01")
    values = {"Review text": "r", 0: "zero", ("a", "b"): "pair", day: "day", 1.5: "half", None: "none"}
    source = (
        "{{ row['Review text'] }} {{ row[0] }} {{ row.0 }} {{ row['0'] }} {{ row['a', 'b'] }} "
        "{{ row['2024-01-01 00:00:00'] }} {{ row[1.5] }} {{ row[none] }}"
    )
    assert render(source, values) == "r zero zero zero pair day half none"


def test_row_is_a_whole_row():
    source = "{% for name, value in row.items() %}{{ name }}={{ value }};{% endfor %}{{ row | tojson }}"
    values = {"a": None, "b": "it's <{{ c }}>", "t": pd.Timestamp("2024-01-01")}
    assert render(source, values) == (
        'a=;b=it\'s <{{ c }}>;t=2024-01-01 00:00:00;{"a": null, "b": "it\'s <{{ c }}>", "t": "2024-01-01 00:00:00"}'
    )


def test_columns_shadow_row_and_every_name_of_jinja():
    assert render("{{ row }} {{ range }} {{ dict }}", {"row": 1, "range": 2, "dict": 3}) == "1 2 3"
    assert render("{{ row.items }} {{ row.keys }}", {"items": "i", "keys": "k"}) == "i k"


def test_only_the_columns_in_use_are_asked_for():
    assert Template("{{ c }} {{ row['a'] }}", ["a", "b", "c"]).positions == (2, 0)
    assert Template("{{ row }}", ["a", "b", "c"]).positions == (0, 1, 2)
    assert Template("{% for k in ['a'] %}{{ row[k] }}{% endfor %}", ["a", "b"]).positions == (0, 1)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ txt }}", "Unknown column 'txt' in the template. Did you mean 'text'?"),
        ("{{ TEXT }}", "Unknown column 'TEXT' in the template. Did you mean 'text'?"),
        ("{{ star_rating }}", "Unknown column 'star_rating' in the template. Did you mean row['Star rating']?"),
        ("{{ row['txet'] }}", "Unknown column 'txet' in the template. Did you mean 'text'?"),
        ("{{ row.txet }}", "Unknown column 'txet' in the template. Did you mean 'text'?"),
        ("{{ row[8] }}", "Unknown column 8 in the template. The columns are 'text', 'Star rating', 7."),
        ("{{ zzz | default('x') }}", "Unknown column 'zzz' in the template. The columns are 'text', 'Star rating', 7."),
        ("{% if 0 %}{{ txt }}{% endif %}", "Unknown column 'txt' in the template. Did you mean 'text'?"),
    ],
)
def test_an_unknown_column_is_an_error_before_anything_is_rendered(source, message):
    with pytest.raises(TemplateError) as caught:
        Template(source, ["text", "Star rating", 7])
    assert caught.value.message == message


def test_every_unknown_column_is_named_at_once():
    message = refusal("{{ txt }} {{ nme }}", ["text", "name"])
    assert "'txt'" in message
    assert "'nme' in the template. Did you mean 'name'?" in message


def test_a_frame_without_columns_says_so():
    assert refusal("{{ a }}", []) == "Unknown column 'a' in the template. The DataFrame has no columns."


@pytest.mark.parametrize(
    ("source", "prompt"),
    [
        ("{% for t in tags %}{{ loop.index }}{{ t }}{% endfor %}", "1x2y"),
        ("{% set z = a %}{{ z }}", "A"),
        ("{% if a %}{% set z = 1 %}{% endif %}{{ z }}", "1"),
        ("{% macro f(p, q=2) %}{{ p }}{{ q }}{{ varargs }}{% endmacro %}{{ f(a) }}", "A2()"),
        ("{% macro f() %}<{{ caller() }}>{% endmacro %}{% call f() %}{{ a }}{% endcall %}", "<A>"),
        ("{% set ns = namespace(n=0) %}{% for t in tags %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2"),
        ("{% with b = a %}{{ b }}{% endwith %}{% filter lower %}{{ a }}{% endfilter %}", "Aa"),
        ("{% for i in range(3) %}{{ i }}{% endfor %}{{ tags | map('upper') | join(', ') }}", "012X, Y"),
        ("{% for row in rows %}{{ row.x }}{% endfor %}", "5"),
        (
            "{% for k, v in {'p': a}.items() %}{{ k }}{{ v }}{% endfor %}{# note #}{% raw %}{{ b }}{% endraw %}",
            "pA{{ b }}",
        ),
    ],
)
def test_the_rest_of_jinja_works_without_false_alarms(source, prompt):
    assert render(source, {"a": "A", "tags": ["x", "y"], "rows": [{"x": 5}]}) == prompt


def test_a_mistake_in_the_template_names_its_line():
    assert refusal("ok\n{{ a", ["a"]) == (
        "The template has an error in line 2: unexpected end of template, expected 'end of print statement'."
    )
    assert refusal("{{ a | uper }}", ["a"]) == "The template has an error in line 1: No filter named 'uper'."
    assert refusal("{{ my col }}", ["my col"]).endswith("is not an identifier as row['my col'].")


def test_a_bomb_of_parentheses_is_one_clear_error():
    assert "nested too deeply" in refusal("{{ " + "(" * 5000 + "a" + ")" * 5000 + " }}", ["a"])


@pytest.mark.parametrize(
    "source",
    [
        "{{ a.__class__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ a['__class__'] }}",
        "{{ '{0.__class__}'.format(a) }}",
        "{{ a | attr('__class__') }}",
        "{{ tags.append(1) }}",
        "{{ row.update({'a': 1}) }}",
        "{{ kept.frame.to_csv('stolen.csv') }}",
    ],
)
def test_the_sandbox_holds(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = {"a": "x", "tags": ["t"], "kept": SimpleNamespace(frame=pd.DataFrame({"q": [1]}))}
    message = refusal(source, list(values), values)
    assert message.startswith("The template cannot be rendered for this row, line 1 of the template: ")
    assert "unsafe" in message
    assert values["tags"] == ["t"]
    assert list(tmp_path.iterdir()) == []


def test_a_template_cannot_load_another():
    assert refusal("a\n{% include 'b' %}", []) == (
        "Line 2 of the template has 'include': a prompt cannot load other templates."
    )


def test_computing_with_a_missing_cell_says_which():
    assert refusal("ok\n{{ price * 2 }}", ["price"], {"price": None}) == (
        "The template cannot be rendered for this row, line 2 of the template: "
        "column 'price' is missing in this row; check it with {% if %}."
    )


def test_self_is_never_silently_jinjas():
    assert refusal("{{ self }}", ["self"]) == (
        "'self' is a reserved word in Jinja templates; write row[\"self\"] for the column."
    )


def test_a_column_that_stands_twice_is_refused_where_it_is_used():
    assert refusal("{{ a }}", ["a", "a", "b"]) == (
        "The template uses the column 'a', which the DataFrame has 2 times; rename them."
    )
    assert Template("{{ b }}", ["a", "a", "b"]).render({"b": 1}) == "1"


def test_no_module_is_in_reach_of_a_template():
    assert refusal("{{ os.system('true') }}", ["a"]) == "Unknown column 'os' in the template. The columns are 'a'."
