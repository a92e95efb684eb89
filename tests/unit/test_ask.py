"""Every face offers what the fields of `Ask` say: keywords, flags, traits, a file's keys, the builder, its cell."""

from __future__ import annotations

import dataclasses
import inspect
import json
from typing import Any, get_args

import pandas as pd
import pytest

import vbatch_jupyter as vb
from tests.unit.session_surface import open_session
from vbatch_jupyter.frames.accessor import VBatchAccessor
from vbatch_jupyter.frames.ask import OPTIONS, Ask, Face, offered
from vbatch_jupyter.magics import VBatchMagics
from vbatch_jupyter.magics.defaults import Defaults
from vbatch_jupyter.magics.grammar import cell_parser, flags_of, verb_parsers, words_of
from vbatch_jupyter.widgets.build import Builder
from vbatch_jupyter.widgets.cell_text import cell_text

OF_THE_CELL = {"df", "dry_run", "export", "background", "out", "help"}
VALUES: dict[str, Any] = {
    "messages": "the ticket",
    "system": 'It\'s "brief"',
    "schema": "MOOD",
    "endpoint": "responses",
    "model": "echo",
    "target": "parasail",
    "output": "mood",
    "custom_id": "the ticket",
    "fresh": True,
    "reorder_fields": True,
    "max_tokens": 5,
    "temperature": 0.0,
    "seed": 7,
    "body": {"top_p": 0.5, "stop": ["'", '"']},
    "col": {"min_tokens": "least", "logit_bias": 'it\'s "so"'},
}


@pytest.fixture
def builder(tmp_path):
    session = open_session(tmp_path)
    names = {"df": pd.DataFrame({"text": ["a"], "the ticket": [1]}), "MOOD": {"type": "object", "properties": {}}}
    yield Builder(session, names)
    session.close()


def flags(parser):
    return {action.dest: action for action in parser._actions}


def test_each_field_says_what_it_is_and_why_a_face_does_not_offer_it():
    assert {field.name for field in dataclasses.fields(Ask)} <= OPTIONS.keys()
    for name, option in OPTIONS.items():
        assert option.help, name
        assert option.absent.keys() <= set(get_args(Face)), name
        assert all(len(reason.split()) > 3 for reason in option.absent.values()), name
        assert len(option.absent) < len(get_args(Face)), f"nothing offers {name}"


@pytest.mark.parametrize("function", [vb.submit, vb.run, vb.dry_run])
def test_the_keywords_are_the_fields_with_their_defaults_and_help_says_what_each_means(function):
    of_frame, template, *keywords, body = inspect.signature(function).parameters.values()
    assert (of_frame.name, template.name, body.kind) == ("df", "template", inspect.Parameter.VAR_KEYWORD)
    assert [template.name, *(keyword.name for keyword in keywords)] == [
        name for name in offered("keyword") if not OPTIONS[name].of_body
    ]
    fields = {field.name: field for field in dataclasses.fields(Ask)}
    assert {keyword.name: (keyword.default, keyword.annotation) for keyword in keywords} == {
        keyword.name: (fields[keyword.name].default, fields[keyword.name].type) for keyword in keywords
    }
    # As `help` shows them: Python 3.13 leaves out the indentation by itself.
    documented = str(inspect.getdoc(vb.submit)).partition("Parameters")[2].partition("Raises")[0]
    assert documented in str(inspect.getdoc(function))


def test_the_functions_say_what_they_return():
    returned = [inspect.signature(function).return_annotation for function in (vb.submit, vb.run, vb.dry_run)]
    assert returned == ["Batch", "pd.DataFrame", "DryRun"]


@pytest.mark.parametrize("name", ["submit", "run", "dry_run"])
def test_a_frames_methods_have_the_arguments_of_the_functions(name):
    vb.register_accessor()
    method, function = (inspect.signature(getattr(owner, name)).parameters for owner in (VBatchAccessor, vb))
    assert list(method.values())[1:] == list(function.values())[1:]
    assert next(iter(method)) == "self"


def test_the_flags_are_the_options_with_their_help_and_an_export_has_all_but_those_of_a_run():
    cell, export, run = flags(cell_parser()), flags(verb_parsers()["export"]), flags(verb_parsers()["run"])
    assert cell.keys() - OF_THE_CELL == offered("flag").keys()
    assert export.keys() & OPTIONS.keys() == {name for name in offered("flag") if not OPTIONS[name].of_run}
    assert run.keys() & OPTIONS.keys() == {name for name in offered("flag") if OPTIONS[name].of_run}
    for name, option in offered("flag").items():
        assert cell[name].help == option.help
        assert cell[name].default is None
        assert flags_of(name, option)[-1] in cell[name].option_strings


def test_the_traits_and_the_keys_of_a_file_are_the_options_with_their_help():
    traits = VBatchMagics.class_own_traits(config=True)
    others = {"background", "progress", "engine_silence_seconds", "engine_rebuild_seconds"}
    assert traits.keys() == {*offered("trait"), *others} == set(Defaults.__struct_fields__)
    for name, option in offered("trait").items():
        assert traits[name].help.lower() == f"{option.help}.".lower()
        assert traits[name].default() is None


def test_the_builder_has_a_field_for_each_option_with_its_help(builder):
    assert builder._fields.keys() == offered("builder").keys()
    for name, option in offered("builder").items():
        assert builder._fields[name].tooltip == option.help


def test_the_builders_cell_says_what_its_fields_say(builder):
    assert VALUES.keys() == offered("builder").keys() - {"template"}
    for name, value in VALUES.items():
        builder._fields[name].value = (
            json.dumps(value) if isinstance(value, dict) else (value if isinstance(value, bool) else str(value))
        )
    assert builder._options() == VALUES
    cell = cell_text("df", "Say {{ text }}", builder._options(), out="out")
    options = vars(cell_parser().parse_args(words_of(cell.partition("\n")[0].removeprefix("%%vbatch "))))
    assert {name: options[name] for name in VALUES} == VALUES
    ask = builder._ask(builder._options())
    assert ask.schema is builder._names["MOOD"]
    assert ask.body == {"max_tokens": 5, "temperature": 0.0, "seed": 7, "top_p": 0.5, "stop": ["'", '"']}


@pytest.mark.parametrize("system", ["Two\nlines", "In {text}", "To $HOME", "For {{ text }}"])
def test_a_text_that_a_magic_would_read_otherwise_is_written_as_python_that_asks_the_same(system):
    cell = cell_text("df", "Say {{ text }}", VALUES | {"system": system}, out="out")
    asked = []

    class Frame:
        class vbatch:  # noqa: N801 - the accessor's name
            @staticmethod
            def run(template, **options):
                asked.append(Ask.of(template, **options))

    names = {"df": Frame, "MOOD": {"type": "object"}, "vb": vb}
    exec(cell, names)
    fields = {name: value for name, value in VALUES.items() if not OPTIONS[name].of_body and name != "body"}
    body = {name: value for name, value in VALUES.items() if OPTIONS[name].of_body} | VALUES["body"]
    assert asked == [Ask(template="Say {{ text }}", body=body, **fields | {"system": system, "schema": names["MOOD"]})]
