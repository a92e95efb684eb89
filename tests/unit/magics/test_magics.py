"""``%vbatch`` and ``%%vbatch`` in a real IPython shell, on the echo engine."""

from __future__ import annotations

import json
import re
import time

import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell

from tests.unit.session_surface import interrupt, open_session
from tests.waiting import wait_for
from vbatch_jupyter.engine.echo import EchoEngine
from vbatch_jupyter.engine.flags import RemoteFlags
from vbatch_jupyter.frames.ask import Ask
from vbatch_jupyter.magics.grammar import line_parser
from vbatch_jupyter.session.batch import Batch

VERBS = "load unload engine build list show attach cancel resume results retry run export check env clean".split()  # noqa: SIM905


class Shell:
    """An IPython shell, and what its cells print."""

    def __init__(self, capsys) -> None:
        self.shell = InteractiveShell()
        self.capsys = capsys
        self.names = self.shell.user_ns
        self.run("%load_ext vbatch_jupyter")

    def run(self, cell: str) -> tuple[str, str, object]:
        self.capsys.readouterr()
        result = self.shell.run_cell(cell)
        printed = self.capsys.readouterr()
        return printed.out, printed.err, result.result


@pytest.fixture
def session(tmp_path, as_current):
    session = as_current(open_session(tmp_path, load=False, refusing="refuse me"))
    yield session
    session.close()


@pytest.fixture
def shell(session, capsys):
    shell = Shell(capsys)
    shell.names["df"] = pd.DataFrame({"text": ["a", "refuse me"], "name": ["x", "y"]})
    shell.run("%vbatch load echo")
    return shell


def test_a_cell_sends_a_frame_and_keeps_the_result(shell):
    out, _, value = shell.run("%%vbatch df -o labelled\nSay {{ text }} {not a column}")
    assert value is None
    assert "completed 1/2 completed, 1 failed" in out
    assert shell.names["labelled"]["response"].iloc[0] == "Say a {not a column}"
    assert "refused" in shell.names["labelled"]["error"].iloc[1]
    _, _, value = shell.run("%%vbatch df --sample 1 --custom-id name --output said --max-tokens 3\n{{ text }}")
    assert list(value.columns) == ["text", "name", "said", "said_error"]


def sent_by(shell, batch="batch"):
    """Return the body of the first request of a batch."""
    with shell.names[batch]._manager.files.content(shell.names[batch].to_openai().input_file_id) as lines:
        return json.loads(lines.readline())["body"]


def test_a_cell_with_roles_is_a_conversation(shell):
    shell.run("%%vbatch df -b -o batch\n--- system\nBe {{ name }}.\n--- user\nSay {{ text }}")
    assert sent_by(shell)["messages"] == [
        {"role": "system", "content": "Be x."},
        {"role": "user", "content": "Say a"},
    ]


def test_a_column_of_messages_needs_no_text_in_the_cell(shell):
    shell.names["df"]["past"] = [[{"role": "user", "content": "Hi"}]] * 2
    shell.run("%%vbatch df -b -o batch --messages past\n ")
    assert sent_by(shell)["messages"] == [{"role": "user", "content": "Hi"}]
    shell.run("%%vbatch df -b -o batch --messages past\nAnd {{ text }}?")
    assert [turn["content"] for turn in sent_by(shell)["messages"]] == ["Hi", "And a?"]


def test_parameters_come_from_columns(shell):
    shell.names["df"]["limit"] = [3, 4]
    shell.run("%%vbatch df -b -o batch --col max-tokens=limit --col user=name\n{{ text }}")
    assert (sent_by(shell)["max_tokens"], sent_by(shell)["user"]) == (3, "x")
    for line, message in (
        ("--col limit", "argument --col: not of the form KEY=COLUMN: limit. See %%vbatch -h."),
        ("--col user=name --col user=text", "argument --col: 'user' is given twice. See %%vbatch -h."),
        ("--max-tokens 3 --col max_tokens=limit", "'max_tokens' is both a parameter and taken from a column."),
    ):
        assert message in "".join(shell.run(f"%%vbatch df {line}\n{{{{ text }}}}")[:2])


def test_an_export_takes_a_variable_with_messages(shell, tmp_path):
    shell.names["turns"] = [{"role": "user", "content": "Say {{ text }}"}]
    shell.run(f"%vbatch export df {tmp_path / 'asked.jsonl'} -p turns")
    line = (tmp_path / "asked.jsonl").read_text().splitlines()[1]
    assert json.loads(line)["body"]["messages"] == [{"role": "user", "content": "Say refuse me"}]


def test_a_background_cell_gives_the_batch(shell):
    shell.run("%%vbatch df -b -o batch --system 'Be brief, {text}'\n{{ text }}")
    batch = shell.names["batch"]
    assert isinstance(batch, Batch)
    assert batch.wait(60).request_counts.failed == 1
    with batch._manager.files.content(batch.to_openai().input_file_id) as lines:
        line = lines.readline()
    assert json.loads(line)["body"]["messages"][0] == {"role": "system", "content": "Be brief, {text}"}


def test_the_verbs_show_keep_and_complete_batches(shell, session):
    shell.run("%%vbatch df -o out\n{{ text }}")
    (record,) = session.batches()
    header, row = repr(shell.run("%vbatch list")[2]).splitlines()
    assert header.split() == ["id", "status", "requests", "model", "endpoint", "created", "ended", "note"]
    assert row.split()[:8] == [
        record.id,
        "completed",
        "1/2",
        "completed,",
        "1",
        "failed",
        "echo",
        "/v1/chat/completions",
    ]
    shown = shell.run("%vbatch show")[0]
    assert f'"id": "{record.id}"' in shown
    assert '"cancelled_at": null' in shown
    assert "row-1" in shown
    assert shell.run("value = %vbatch results")[1] == ""
    assert list(shell.names["value"]["response"].fillna("-")) == ["a", "-"]
    session.engine._refusing = None
    shell.run("%vbatch retry -d df -o completed")
    assert list(shell.names["completed"]["response"]) == ["a", "refuse me"]
    assert shell.run(f"%vbatch attach {record.id}")[2].id == record.id
    assert "running                0" in shell.run("%vbatch engine")[0]
    shell.run("%vbatch unload")
    assert session.engine is None


def test_the_engine_shows_what_fails_in_this_kernel(shell, session, monkeypatch):
    def fail() -> None:
        raise OSError(28, "No space left on device")

    runner = next(loop for loop in session.loops() if loop.name == "runner")
    with monkeypatch.context() as patch:
        patch.setattr(session.store.batches, "unfinished", fail)
        runner.looked()
        printed = shell.run("%vbatch engine")[0]
    assert "problem: runner: OSError: [Errno 28] No space left on device (since " in printed
    assert "model                  echo" in printed
    runner.looked()
    assert "problem" not in shell.run("%vbatch engine")[0]


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        ("%vbatch lode echo", "Unknown verb 'lode'. Did you mean load or unload?"),
        ("%vbatch x", f"Unknown verb 'x'. The verbs are {', '.join(VERBS)}."),
        ("%vbatch build", "%vbatch build needs widgets, which only a notebook has. See %%vbatch -h."),
        ("%vbatch cancel", "the following arguments are required: id. See %vbatch cancel -h."),
        ("%vbatch results batch_0", "No batch found with id 'batch_0'."),
        (
            "%vbatch results --frame df",
            "unrecognized arguments: --frame. See %vbatch results -h.",
        ),
        (
            "%vbatch retry --otu x",
            "unrecognized arguments: --otu. Did you mean --out? See %vbatch retry -h.",
        ),
        (
            "%vbatch results -o 1x",
            "argument -o/--out: not a valid variable name: 1x. See %vbatch results -h.",
        ),
        (
            "%%vbatch df -o class\n{{ text }}",
            "argument -o/--out: not a valid variable name: class. See %%vbatch -h.",
        ),
        ("%%vbatch\n{{ text }}", "the following arguments are required: df. See %%vbatch -h."),
        ("%%vbatch dff\n{{ text }}", "There is no variable 'dff' for the DataFrame. Did you mean df?"),
        (
            "%%vbatch df --schema Mod\n{{ text }}",
            "There is no variable 'Mod' for the schema. Did you mean Mood?",
        ),
        ("%%vbatch Mood\n{{ text }}", "A dict is not a pandas DataFrame; convert it first."),
        ("%%vbatch df\n{{ tixt }}", "Unknown column 'tixt' in the template. Did you mean 'text'?"),
        (
            "%%vbatch df --max-tokenz 3\n{{ text }}",
            "unrecognized arguments: --max-tokenz 3. Did you mean --max-tokens? See %%vbatch -h.",
        ),
        (
            "%%vbatch df --sample some\n{{ text }}",
            "argument -n/--sample: invalid int value: 'some'. See %%vbatch -h.",
        ),
        (
            "%%vbatch df --system 'open\n{{ text }}",
            "Cannot read the line: No closing quotation. Put text with spaces in quotes.",
        ),
        (
            "%%vbatch df --body '[1]'\n{{ text }}",
            "argument --body: not a JSON object: [1]. See %%vbatch -h.",
        ),
        (
            "%%vbatch df --body {n:1}\n{{ text }}",
            "argument --body: not valid JSON: {n:1} (put it in single quotes). See %%vbatch -h.",
        ),
        (
            '%%vbatch df --body \'{"max_tokens": 1, "model": "other"}\'\n{{ text }}',
            "'model' is both in --body and in another flag. See --model in %%vbatch -h.",
        ),
        (
            "%%vbatch df --body '{\"temprature\": 1}'\n{{ text }}",
            "Neither OpenAI nor vLLM knows the key 'temprature' for /v1/chat/completions. Did you mean 'temperature'?",
        ),
    ],
)
def test_a_users_mistake_is_one_sentence_and_neither_a_traceback_nor_a_batch(shell, session, cell, sentence):
    shell.names["Mood"] = {"type": "object", "properties": {"mood": {"type": "string"}}}
    _, err, value = shell.run(cell)
    assert err == f"UsageError: {sentence}\n"
    assert value is None
    assert list(session.batches()) == []


def test_a_batch_that_has_ended_cannot_be_cancelled_and_one_without_failures_not_retried(shell, session):
    shell.run("%%vbatch df --sample 1\n{{ text }}")
    (record,) = session.batches()
    err = shell.run(f"%vbatch cancel {record.id}")[1]
    assert err == "UsageError: Cannot cancel a batch with status 'completed'.\n"
    err = shell.run("%vbatch retry")[1]
    assert err == f"UsageError: There is nothing to retry: every request of batch {record.id} has an answer.\n"


def test_braces_and_quotes_of_a_cell_reach_the_prompt_whatever_variables_the_notebook_has(shell, session):
    shell.names["text"] = "a variable of the notebook"
    cell = """%%vbatch df --sample 1 --system "Don't say {text} or $$text"
{"answer": "{text} $text {{ text }}"}
"""
    _, _, value = shell.run(cell)
    assert value["response"].tolist() == ['{"answer": "{text} $text a"}']
    (record,) = session.batches()
    with session.manager.files.content(record.input_file_id) as lines:
        body = json.loads(lines.readline())["body"]
    # The line is filled, as IPython fills it for other magics; the cell is not.
    assert body["messages"][0]["content"] == "Don't say a variable of the notebook or $text"


def test_the_flags_of_a_cell_go_into_every_request_and_a_schema_gives_its_columns(shell, session):
    shell.names["df"] = pd.DataFrame({"text": ['{"mood": "fine"}', '{"mood": 3}']})
    shell.names["Mood"] = {"type": "object", "properties": {"mood": {"type": "string"}}, "required": ["mood"]}
    flags = "--max-tokens 7 --temperature 0.5 --seed 11 --model echo --fresh --schema Mood"
    _, _, value = shell.run("%%vbatch df " + flags + "\n{{ text }}")
    assert list(value.columns) == ["text", "mood", "error"]
    assert value["mood"].fillna("-").tolist() == ["fine", "-"]
    (record,) = session.batches()
    assert record.fresh is True
    with session.manager.files.content(record.input_file_id) as lines:
        body = json.loads(lines.readline())["body"]
    assert (body["max_tokens"], body["temperature"], body["seed"], body["model"]) == (7, 0.5, 11, "echo")
    assert body["response_format"]["json_schema"]["schema"]["properties"] == {"mood": {"type": "string"}}


def test_the_flags_of_a_load_are_passed_on_as_they_stand():
    line = ["load", "org/model", "--max-model-len", "2048", "--served-model-name", "a", "b", "-h"]
    options = line_parser().parse_args(line)
    assert (options.model, options.flags) == ("org/model", line[2:])


def test_a_server_is_loaded_by_its_address_or_by_the_name_of_one_of_its_models(shell, monkeypatch):
    asked: list[RemoteFlags] = []

    def remote_engine(flags: RemoteFlags, **_: object) -> EchoEngine:
        asked.append(flags)
        return EchoEngine()

    monkeypatch.setattr("vbatch_jupyter.session.loader._remote_engine", remote_engine)
    for words in ("--api-key-env KEY --url http://host/v1", "--url=http://host", "qwen --url http://host/v1/"):
        _, wrong, _ = shell.run(f"%vbatch load {words}")
        assert wrong == ""
    assert [(flags.url, flags.api_key_env, flags.served_model_names) for flags in asked] == [
        ("http://host/v1", "KEY", ()),
        ("http://host/v1", None, ()),
        ("http://host/v1", None, ("qwen",)),
    ]
    assert "Or use a server as the engine: --url" in " ".join(shell.run("%vbatch load -h")[0].split())


def test_show_prints_openais_object_whole_and_the_failures_as_a_table(shell, session):
    shell.run("%%vbatch df\n{{ text }}")
    (record,) = session.batches()
    shown = shell.run(f"%vbatch show {record.id}")[0]
    end = shown.index("\n}\n") + 3
    batch = json.loads(shown[:end])
    assert batch == json.loads(record.to_openai().to_json(exclude_unset=False))
    assert batch["request_counts"] == {"completed": 1, "failed": 1, "total": 2}
    assert [batch[name] for name in ("errors", "expired_at", "cancelled_at", "metadata")] == [None] * 4
    header, row = shown[end:].splitlines()
    assert header.split() == ["custom_id", "status_code", "error"]
    assert row.split(maxsplit=2)[:2] == ["row-1", "400"]
    assert "This request is refused, as it asked to be." in row


def test_the_list_is_a_table_of_the_newest_or_of_all_and_its_text_is_text(shell, session, monkeypatch):
    monkeypatch.setattr("vbatch_jupyter.magics.verbs._LISTED", 3)
    for _ in range(5):
        session.submit(shell.names["df"], Ask.of("{{ text }}", sample=1)).wait(60)
    newest = [record.id for record in session.batches()]
    shell.run("%vbatch unload")
    session.submit(shell.names["df"], Ask.of("{{ text }}", model="<img src=x onerror=alert(1)>"))
    wait_for(lambda: next(session.batches()).status != "validating")
    listed = shell.run("%vbatch list")[2]
    assert [record.id for record in listed][1:] == newest[:2]
    assert repr(listed).splitlines()[-1] == "… and 3 older: %vbatch list --all"
    shell.run("everything = %vbatch list --all")
    assert [record.id for record in shell.names["everything"]][1:] == newest
    shown = listed._repr_html_()
    assert "<img" not in shown
    assert "&lt;img src=x onerror=alert(1)&gt;" in shown
    assert newest[0] in shown


def test_a_waiting_batch_is_cancelled_by_its_id(shell, session):
    shell.run("%vbatch unload")
    shell.run("%%vbatch df -b --model echo -o batch\n{{ text }}")
    batch = shell.names["batch"]
    assert shell.run(f"%vbatch cancel {batch.id}")[2].id == batch.id
    assert batch.wait(60).status == "cancelled"
    assert (
        shell.run("%vbatch results")[2]["error"].tolist()
        == ["This request was not executed: the batch was cancelled before it ran."] * 2
    )


def test_an_interrupt_while_a_batch_is_followed_gives_its_handle_and_leaves_it_running(shell, session):
    session.engine.latency_seconds = 3600
    shell.run("%%vbatch df -b --sample 1\n{{ text }}")
    interrupt()
    out, err, batch = shell.run("%vbatch attach")
    assert f"{batch.id}: no longer followed. It keeps running.\n" in out
    assert err == ""
    session.engine.latency_seconds = 0
    assert batch.wait(60).status == "completed"


def test_attach_without_an_engine_says_why_it_waits_and_so_does_its_interrupt(shell, session):
    why = "No engine has the model 'other' loaded. Load it in a notebook with %vbatch load."
    shell.run("%%vbatch df -b --model other\n{{ text }}")
    (record,) = session.batches()
    wait_for(lambda: session.attach(record.id).waiting == why, 20)
    for verb in ("attach", "results"):
        interrupt()
        out, err, _ = shell.run(f"%vbatch {verb}")
        assert f"{record.id} waits: {why} Interrupt this cell (■) to use this kernel meanwhile" in out
        assert f"{record.id}: no longer followed. {why}\n" in out
        assert "keeps running" not in out
        assert err == ""
    session.attach(record.id).cancel().wait(60)


@pytest.mark.parametrize("sample", [2, 1])
def test_results_have_the_rows_of_the_frame_in_the_kernel_or_name_the_flag_that_brings_it_back(shell, session, sample):
    shell.names["df"].index = ["i", "j"]
    shell.run(f"%%vbatch df -n {sample} -o out\n{{{{ text }}}}")
    (record,) = session.batches()
    out, _, value = shell.run("%vbatch results")
    assert list(value.index) == ["i", "j"][:sample]
    assert list(value.columns) == ["text", "name", "response", "error"]
    assert "The rows are those of df, which is what the batch was made from.\n" in out
    shell.names["df"] = shell.names["df"].assign(name="z")
    shell.names["out"] = None
    out, _, value = shell.run("%vbatch results")
    assert list(value.index) == [0, 1][:sample]
    assert f"For its index and columns: %vbatch results {record.id} -d FRAME\n" in out
    shell.names["same"] = pd.DataFrame({"text": ["a", "refuse me"], "name": ["x", "y"]}, index=["i", "j"])[:sample]
    out, _, value = shell.run(f"%vbatch results {record.id} -d same")
    assert list(value.index) == ["i", "j"][:sample]
    assert "rows are" not in out


def test_answers_that_do_not_fit_and_rows_that_were_not_sent_are_shown_without_an_error_file(shell, session):
    shell.names["SCHEMA"] = {"type": "object", "properties": {"stars": {"type": "integer"}}}
    shell.names["df"] = pd.DataFrame({"n": [1, 0, 2]})
    shell.run('%%vbatch df --schema SCHEMA -o out\n{"stars": {{ "x" | tojson if n == 2 else (1 / n) | int }}}')
    (record,) = session.batches()
    assert (record.request_counts.failed, record.error_file_id) == (0, None)
    shown = shell.run("%vbatch show")[0].rpartition("}\n")[2]
    assert "row-1" in shown
    assert "division by zero" in shown
    assert "The answer does not fit the schema (stars must be integer)" in shown
    session.manager.files.delete(record.output_file_id)
    assert "Its errors cannot be listed: No such File object" in shell.run("%vbatch show")[0]


def test_many_failures_are_shown_as_a_screenful_by_what_they_have_in_common(shell, session):
    session.engine._refusing = "refuse"
    texts = [f"refuse the text {n} {'of many words ' * 20}" for n in range(1_000)]
    shell.names["df"] = pd.DataFrame({"text": texts})
    shell.run("%%vbatch df -o out\n{{ text }}")
    (record,) = session.batches()
    shown = shell.run("%vbatch show")[0].rpartition("}\n")[2]
    assert len(shown.splitlines()) < 25
    assert f"The first 10 of 1,000; vb.attach('{record.id}').errors() lists them all:" in shown
    assert shown.split()[0] == "1,000"
    assert "row-9" in shown
    assert "row-10" not in shown
    assert max(map(len, shown.splitlines())) < 150


def test_the_accessor_comes_with_the_extension_and_the_magics_go_with_it(shell):
    assert list(shell.run("df.vbatch.run('{{ text }}', output='said')")[2]["said"].fillna("-")) == ["a", "-"]
    shell.run("%unload_ext vbatch_jupyter")
    assert "`%vbatch` not found" in "".join(shell.run("%vbatch list")[:2])


def test_help_is_printed_for_every_verb(shell):
    assert "usage: %vbatch" in shell.run("%vbatch")[0]
    assert "usage: %vbatch" in shell.run("%vbatch -h")[0]
    assert "--temperature" in shell.run("%%vbatch -h\nx")[0]
    for verb in ("load", "unload", "engine", "list", "show", "attach", "cancel", "results", "retry"):
        assert f"usage: %vbatch {verb}" in shell.run(f"%vbatch {verb} -h")[0]


def test_without_batch_or_engine_a_sentence_says_so(shell):
    shell.run("%vbatch unload")
    for verb in ("show", "attach", "results", "retry"):
        assert shell.run(f"%vbatch {verb}")[1] == "UsageError: There are no batches in the store yet.\n"
    assert repr(shell.run("%vbatch list")[2]) == "There are no batches in the store yet."
    assert "No engine is loaded in this kernel" in shell.run("%vbatch engine")[1]
    assert "No engine is loaded in this kernel" in shell.run("%%vbatch df\n{{ text }}")[1]


def test_a_file_is_run_and_its_answers_come_in_its_order_unless_it_would_wait_for_its_model(shell, session, tmp_path):
    body = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    path = tmp_path / "in put.jsonl"
    path.write_text(json.dumps(line) + "\n" + json.dumps({**line, "custom_id": "b"}))
    shell.run(f"%vbatch run '{path}' -o out")
    assert list(shell.names["out"]["response"]) == ["hello", "hello"]
    shell.run(f"%vbatch run '{path}' -b -o batch")
    assert shell.names["batch"].wait(60).request_counts.completed == 2
    assert session.engine.requests == 2
    shell.run(f"%vbatch run '{path}' --fresh -o out")
    assert list(shell.names["out"]["response"]) == ["hello", "hello"]
    assert session.engine.requests == 4
    path.write_text(json.dumps({**line, "body": {**body, "model": "ecco"}}))
    before = len(list(session.batches()))
    _, err, _ = shell.run(f"%vbatch run '{path}'")
    assert err == (
        "UsageError: The engine here serves 'echo', not 'ecco'. Load that model first, or use submit or -b to make a "
        "batch that waits for it.\n"
    )
    assert len(list(session.batches())) == before
    shell.run(f"%vbatch run '{path}' -b -o waits")
    wait_for(lambda: shell.names["waits"].waiting)
    assert (
        shell.names["waits"].waiting
        == "No engine has the model 'ecco' loaded. Load it in a notebook with %vbatch load."
    )
    assert shell.names["waits"].cancel().wait(60).status == "cancelled"
    _, err, _ = shell.run("%vbatch run none.jsonl")
    assert err == "UsageError: The file none.jsonl cannot be read: No such file or directory.\n"


def test_a_check_prints_findings_for_a_target_and_a_summary(shell, tmp_path):
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "top_k": 1}
    line = {"method": "POST", "url": "/v1/chat/completions", "body": body}
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(json.dumps({**line, "custom_id": f"r{number}"}) for number in range(120)))
    out, _, value = shell.run(f"%vbatch check {path} --target parasail")
    assert value is None
    lines = out.splitlines()
    assert lines[0] == "line 1 ('r0'): vllm_only: unknown_parameter: Only vLLM knows the key 'top_k'."
    assert lines[100:] == [
        "… and 20 more: `python -m vbatch_jupyter check` lists them all",
        "parasail takes the file: 120 vllm_only.",
    ]
    _, err, _ = shell.run(f"%vbatch check {path} --target parasial")
    assert err.startswith("UsageError: There is no target 'parasial'. Did you mean parasail?")


def test_variables_are_filled_in_the_line_and_never_in_the_cell(shell, session):
    """As IPython 9.18.1 fills them for other magics; `text` is a variable here, and a column of the frame."""
    shell.names.update(rows=1, tone="kind", where="labelled", frame="df", text="a variable", limits={"n": 7})
    shell.run(
        "%%vbatch $frame -o {where} -n {rows} -s \"Be {tone} to {{ name }}\" --max-tokens {limits['n']}\n"
        "{text} {{ text }} $tone"
    )
    assert len(shell.names["labelled"]) == 1
    with session.manager.files.content(next(session.batches()).input_file_id) as lines:
        (body,) = (json.loads(line)["body"] for line in lines)
    assert [message["content"] for message in body["messages"]] == ["Be kind to x", "{text} a $tone"]
    assert body["max_tokens"] == 7


def test_what_papermill_injects_arrives_in_a_line(shell, session, tmp_path):
    # Papermill writes the parameters into a cell of their own, before the cells that use them.
    shell.run(f"# Parameters\nmodel = 'echo'\npath = {str(tmp_path / 'in.jsonl')!r}\nprompt = 'Say {{{{ text }}}}'\n")
    shell.run("%vbatch unload")
    shell.run("%vbatch load $model")
    assert session.served_model_names() == ("echo",)
    out, _, _ = shell.run('%vbatch export df $path -p "$prompt"')
    assert out.startswith(f"Wrote 2 requests to {tmp_path / 'in.jsonl'}.")
    out, _, _ = shell.run("%vbatch run {path} -o answered")
    assert shell.names["answered"]["response"].tolist()[0] == "Say a"


def test_variables_of_a_function_are_filled_as_well(shell):
    shell.run("def run(frame, most):\n    get_ipython().run_line_magic('vbatch', 'export $frame {most} -p x')")
    _, err, _ = shell.run("run('nowhere', 'f.jsonl')")
    assert "There is no variable 'nowhere' for the DataFrame." in err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("%vbatch show $last", "'$last'"),
        ("%%vbatch $frame\n{{ text }}", "The DataFrame must be the name of a variable, not '$frame'."),
        ("%%vbatch df -n {rows}\n{{ text }}", "invalid int value: '{rows}'"),
    ],
)
def test_a_literal_that_looks_like_a_variable_is_named_in_the_error(shell, line, message):
    _, err, _ = shell.run(line)
    assert message in err
    (literal,) = re.findall(r"\$\w+|\{rows\}", line)
    assert f"{literal} was taken as it is, because there is no such variable." in err


def test_an_expression_in_place_of_a_frame_is_told_what_to_do(shell):
    _, err, _ = shell.run("%%vbatch df.head(1)\n{{ text }}")
    assert "must be the name of a variable, not 'df.head(1)'. Assign it to a variable first." in err


def test_clean_says_what_would_go_and_removes_it_only_with_an_age(shell, session):
    shell.run("%%vbatch df -o out\n{{ text }}")
    (record,) = session.batches()
    session.store.clock = lambda: time.time() + 31 * 86_400
    batch, total, advice = shell.run("%vbatch clean")[0].splitlines()
    assert batch.startswith(f"{record.id}  completed  ended ")
    assert total.startswith("1 batch and 3 files (")
    assert total.endswith(" MiB) would be removed.")
    assert advice == "To remove them, add --older-than 30d."
    assert len(list(session.batches())) == 1
    assert shell.run("%vbatch clean --older-than 30d")[0].splitlines()[-1].endswith(" MiB) were removed.")
    assert list(session.batches()) == []
