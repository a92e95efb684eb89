"""What feels native about the magics: help, semicolons, assignment, defaults, exports, dry runs and lazy loading."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from tests.unit.session_surface import open_session
from vbatch_jupyter.magics import VBatchMagics
from vbatch_jupyter.magics.defaults import Defaults
from vbatch_jupyter.magics.grammar import cell_parser, expanded, verb_parsers


@pytest.fixture
def session(tmp_path, monkeypatch, as_current):
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "configuration"))
    session = as_current(open_session(tmp_path))
    yield session
    session.close()


@pytest.fixture
def shell(session):
    shell = InteractiveShell()
    shell.user_ns["df"] = pd.DataFrame({"text": ["a", "b"]})
    shell.run_cell("%load_ext vbatch_jupyter")
    return shell


def requests_of(session):
    with session.manager.files.content(next(session.batches()).input_file_id) as lines:
        return [json.loads(line) for line in lines]


def exported_to(name):
    return [json.loads(line) for line in Path(name).read_text().splitlines()]


def test_help_by_question_mark_says_all_of_the_grammar(shell):
    for kind in ("line", "cell"):
        info = shell.object_inspect("%vbatch" if kind == "line" else "%%vbatch")
        for part in ("%%vbatch", "--temperature", "%vbatch retry", "%vbatch export", "--dry-run"):
            assert part in info["docstring"]


def test_every_flag_that_many_use_has_a_short_form_and_each_verb_its_help():
    flags = cell_parser()._option_string_actions
    for short, long in (
        ("-o", "--out"),
        ("-b", "--background"),
        ("-s", "--system"),
        ("-n", "--sample"),
        ("-m", "--model"),
        ("-t", "--target"),
        ("-h", "--help"),
    ):
        assert flags[short] is flags[long]
    assert list(verb_parsers()) == [
        *"load unload engine build list show attach cancel resume results retry run export check env clean".split(),  # noqa: SIM905
    ]
    assert all("-h" in parser._option_string_actions for parser in verb_parsers().values())


def test_a_semicolon_silences_lines_and_first_lines_and_is_no_part_of_an_id(shell, session):
    assert shell.run_cell("%%vbatch df;\n{{ text }}").result is None
    (record,) = session.batches()
    assert shell.run_cell(f"%vbatch results {record.id};").result is None
    assert len(shell.run_cell(f"%vbatch results {record.id}").result) == 2
    # The prompt's own semicolon is the prompt's.
    assert list(shell.run_cell("%%vbatch df\n{{ text }};").result["response"]) == ["a;", "b;"]


def test_what_a_line_gives_can_be_assigned(shell):
    shell.run_cell("%%vbatch df -b -o batch\n{{ text }}")
    shell.user_ns["batch"].wait(60)
    shell.run_cell("full = %vbatch results --full -d df")
    assert list(shell.user_ns["full"].columns[-2:]) == ["latency", "reused"]
    shell.run_cell("followed = %vbatch attach")
    assert shell.user_ns["followed"].id == shell.user_ns["batch"].id


def test_a_bug_keeps_its_traceback(shell, monkeypatch, capsys):
    def trip(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("vbatch_jupyter.session.session.Session.run", trip)
    done = shell.run_cell("%%vbatch df\n{{ text }}")
    assert isinstance(done.error_in_exec, ZeroDivisionError)
    assert "Traceback" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------------- defaults


def test_the_traits_and_the_keys_of_the_files_are_the_same_and_all_have_help():
    traits = VBatchMagics.class_own_traits(config=True)
    assert sorted(traits) == sorted(Defaults.__struct_fields__)
    assert all(trait.help for trait in traits.values())


def test_config_sets_defaults_and_flags_go_before_them(shell, session):
    shell.run_cell("%config VBatchMagics.max_tokens = 7")
    shell.run_cell("%config VBatchMagics.temperature = 0.5")
    shell.run_cell("%config VBatchMagics.sample = 1")
    shell.run_cell("%%vbatch df --temperature 0\n{{ text }}")
    (request,) = requests_of(session)
    assert (request["body"]["max_tokens"], request["body"]["temperature"]) == (7, 0.0)
    shell.run_cell("%%vbatch df -n 2 --endpoint embeddings\n{{ text }}")
    assert set(requests_of(session)[1]["body"]) == {"model", "input"}


def test_a_wrong_key_of_config_is_answered_with_near_misses(shell, caplog, capsys):
    shell.run_cell("%config VBatchMagics.max_tokenz = 7")
    said = caplog.text + "".join(capsys.readouterr())
    assert "max_tokens" in said


def test_the_projects_file_goes_before_the_users_and_config_before_both(shell, session, tmp_path):
    (tmp_path / "configuration").mkdir()
    (tmp_path / "configuration" / "vbatch.toml").write_text('max_tokens = 1\nseed = 2\nsystem = "user"\n')
    (tmp_path / "pyproject.toml").write_text(
        '[tool.vbatch]\nmax_tokens = 3\nsystem = "project"\n[tool.vbatch.targets.ours]\nbase_url = "https://x/v1"\n'
    )
    shell.run_cell("%config VBatchMagics.max_tokens = 5")
    shell.run_cell("%%vbatch df\n{{ text }}")
    body = requests_of(session)[0]["body"]
    assert (body["max_tokens"], body["seed"], body["messages"][0]["content"]) == (5, 2, "project")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "[tool.vbatch]\nmax_tokenz = 3",
            "Unknown key 'max_tokenz' in [tool.vbatch] in PATH. Did you mean max_tokens?",
        ),
        ("[tool.vbatch]\nzzz = 3", "Unknown key 'zzz' in [tool.vbatch] in PATH. The keys are background, body,"),
        ('[tool.vbatch]\nmax_tokens = "many"', "is not valid: Expected `int | null`, got `str` - at `$.max_tokens`."),
        ("[tool.vbatch", "cannot be read:"),
    ],
)
def test_a_mistake_in_the_projects_file_is_one_sentence(shell, session, capsys, text, sentence):
    Path("pyproject.toml").write_text(text)
    shell.run_cell("%%vbatch df\n{{ text }}")
    err = capsys.readouterr().err
    assert err.startswith("UsageError: ")
    assert sentence.replace("PATH", str(Path("pyproject.toml").resolve())) in err
    assert list(session.batches()) == []


def test_a_default_of_background_and_fresh_is_taken_back_by_a_flag(shell, session):
    shell.run_cell("%config VBatchMagics.background = True")
    shell.run_cell("%config VBatchMagics.fresh = True")
    batch = shell.run_cell("%%vbatch df\n{{ text }}").result
    assert batch.wait(60).snapshot().batch.fresh is True
    out = shell.run_cell("%%vbatch df --no-background --no-fresh\n{{ text }}").result
    assert list(out["response"]) == ["a", "b"]
    assert session.engine.requests == 2


# ----------------------------------------------------------------------------------------------- dry runs and exports


def test_a_dry_run_of_a_cell_runs_nothing_and_can_be_kept(shell, session):
    dry = shell.run_cell("%%vbatch df --dry-run --max-tokens 4\nSay {{ text }}").result
    assert (dry.total, dry.prompt_tokens) == (2, 4)
    shell.run_cell("%%vbatch df --dry-run -o kept -n 1\nSay {{ text }}")
    assert shell.user_ns["kept"].total == 1
    assert session.engine.requests == 0
    assert list(session.batches()) == []


def test_an_export_writes_the_input_file_that_a_run_would_have_and_runs_nothing(shell, session, capsys):
    shell.run_cell("%%vbatch df --export 'in put.jsonl' --system 'Be brief' --max-tokens 4\nSay {{ text }}")
    assert "Wrote 2 requests to in put.jsonl." in capsys.readouterr().out
    assert list(session.batches()) == []
    exported = exported_to("in put.jsonl")
    shell.run_cell("%%vbatch df --system 'Be brief' --max-tokens 4\nSay {{ text }}")
    assert exported == requests_of(session)
    shell.run_cell("template = 'Say {{ text }}'")
    for number, prompt in enumerate(("template", "'Say {{ text }}'")):
        line = f"%vbatch export df {number}.jsonl -p {prompt} -s 'Be brief' --max-tokens 4"
        assert shell.run_cell(line).result is None
        assert exported_to(f"{number}.jsonl") == exported


def test_an_export_for_another_model_needs_no_engine_and_a_mistake_leaves_the_file_alone(
    shell, session, tmp_path, capsys
):
    session.unload()
    shell.run_cell("%vbatch export df in.jsonl -m other -n 1 -p '{{ text }}'")
    (request,) = exported_to("in.jsonl")
    assert request["body"] == {"model": "other", "messages": [{"role": "user", "content": "a"}]}
    capsys.readouterr()
    shell.run_cell("%vbatch export df in.jsonl -m other -p '{{ tixt }}'")
    assert "Did you mean 'text'?" in capsys.readouterr().err
    shell.run_cell("%vbatch export df no/such/in.jsonl -m other -p '{{ text }}'")
    assert capsys.readouterr().err == (
        "UsageError: The file no/such/in.jsonl cannot be written: No such file or directory.\n"
    )
    assert len(exported_to("in.jsonl")) == 1


# ------------------------------------------------------------------------------------------------------------- loading


@pytest.mark.parametrize("cell", ["%vbatch list", "%%vbatch df\n{{ text }}"])
def test_the_magics_load_themselves_where_ipython_is_told_to(session, cell):
    shell = InteractiveShell(config=Config({"MagicsManager": {"lazy_magics": {"vbatch": "vbatch_jupyter"}}}))
    shell.user_ns["df"] = pd.DataFrame({"text": ["a"]})
    done = shell.run_cell(cell)
    assert done.success
    assert done.result is not None


def test_the_fields_of_whole_rows_are_reordered_where_it_is_asked_for(shell, session):
    shell.run_cell("import pandas as pd\ndf = pd.DataFrame({'id': ['x', 'y'], 'text': ['the same'] * 2})")
    plain = shell.run_cell("%%vbatch df\n{{ row | tojson }}").result
    out = shell.run_cell("%%vbatch df --reorder-fields\n{{ row | tojson }}").result
    assert list(plain["response"]) == ['{"id": "x", "text": "the same"}', '{"id": "y", "text": "the same"}']
    assert list(out["response"]) == ['{"text": "the same", "id": "x"}', '{"text": "the same", "id": "y"}']
    assert list(out.columns) == ["id", "text", "response", "error"]


@pytest.mark.parametrize(
    ("line", "filled", "literals"),
    [
        ("load $model --max-model-len {n * 2}", "load demo --max-model-len 6", []),
        ("load {model!r} $model.upper", "load 'demo' <", []),
        ("load $$model '$model' \"$model\"", "load $model '$model' \"demo\"", []),
        ("-s '{{ n }} {% if n %} {# n #}'", "-s '{{ n }} {% if n %} {# n #}'", []),
        ("""--body '{"top_k": 5, "x": {"n": [1]}}'""", """--body '{"top_k": 5, "x": {"n": [1]}}'""", []),
        ("""--body '{"top_k": {n}}'""", """--body '{"top_k": 3}'""", []),
        (
            "-s 'one {list} of {other} at $5 or {1}'",
            "-s 'one {list} of {other} at $5 or {1}'",
            ["{list}", "{other}"],
        ),
        ("load $modle {missing[0]} {n / 0}", "load $modle {missing[0]} {n / 0}", ["$modle", "{missing[0]}", "{n / 0}"]),
    ],
)
def test_a_line_is_filled_as_ipython_fills_others_but_for_jinja_and_json(line, filled, literals):
    text, left = expanded(line, {"model": "demo", "n": 3})
    assert text.partition("<built-in")[0] == filled.removesuffix("<")
    assert left == literals
