"""All that the package uses of vLLM is in the contract; read from the syntax trees, without vLLM."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import vbatch_jupyter
from vbatch_jupyter.engine.vllm.contract import CONTRACT, ELSEWHERE, MOVED, REQUIREMENT, VERSIONS

PACKAGE = Path(vbatch_jupyter.__file__).parent
FOLDER = PACKAGE / "engine" / "vllm"
TOUCHES = [touch for use in (*CONTRACT.values(), *ELSEWHERE.values()) for touch in use.touches]
MODULES = {touch.module for touch in TOUCHES} | {*MOVED.values()}
NAMES = {(touch.module, name.partition("(")[0]) for touch in TOUCHES for name in touch.names}
WORDS = {part for _, name in NAMES for part in name.split(".")} | {text for touch in TOUCHES for text in touch.texts}

# What holds an object of vLLM, by file: its attributes must be known. `self` is one where the class is vLLM's.
OBJECTS = {
    "arguments.py": "arguments engine_args engine_args.create_model_config() cli_args current_platform torch.cpu",
    "engine.py": "llm self._llm built.llm built.llm.vllm_config built.arguments scheduling",
    "process.py": "llm built.llm built.llm.renderer built.arguments config engine_args arguments executor vllm_app envs"
    " AsyncLLM UsageContext config.scheduler_config",
    "routes.py": "app.state.args",
    "scheduler.py": "self scheduler request victim config scheduler.kv_cache_manager scheduler.scheduler_config super()"
    " scheduler.kv_cache_manager.block_pool self.scheduler_config PauseState RequestStatus SchedulingPolicy",
    "stats.py": "scheduler_stats iteration_stats iteration_stats.prompt_token_stats cache",
}


def unknown(source: str, objects: str) -> Iterator[str]:
    """Yield what a module touches of vLLM that does not stand in the contract."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant() as text):
                text.value = None  # a docstring
            case ast.Import(names=names):
                yield from (one.name for one in names if _is_theirs(one.name) and one.name not in {*MODULES, "torch"})
            case ast.ImportFrom(module=str(module), names=names) if _is_theirs(module):
                for one in names:
                    roots = {name.split(".")[0] for place, name in NAMES if place == module}
                    if one.name not in roots and f"{module}.{one.name}" not in MODULES:
                        yield f"{module}.{one.name}"
            case ast.Attribute(value=value, attr=name):
                holder = ast.unparse(value)
                is_private = name.startswith("_") and not name.startswith("__") and holder not in {"self", "cls"}
                if (holder in objects.split() or is_private) and name not in WORDS and not name.startswith("vbatch_"):
                    yield f"{holder}.{name}"
            case ast.Constant(value=str(text)):
                for word in re.findall(r"\bVLLM_[A-Z_]+\b|(?<!\S)--[a-z][a-z-]*[a-z](?![\w-])|\bvllm:\w+", text):
                    plain = word.removeprefix("--").replace("-", "_") if word.startswith("--") else word
                    if plain.removesuffix("_total") not in WORDS:
                        yield word


def _is_theirs(module: str) -> bool:
    return module.partition(".")[0] in {"vllm", "torch"}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_a_file_of_the_folder_touches_nothing_of_vllm_that_is_not_in_the_contract(path):
    assert sorted(set(unknown(path.read_text(), OBJECTS.get(path.name, "")))) == []


def test_the_names_of_metrics_are_in_the_contract_too():
    source = (PACKAGE / "engine" / "remote_stats.py").read_text()
    assert len(re.findall("vllm:", source)) > 7
    assert list(unknown(source, "")) == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("from vllm.new.place import thing", "vllm.new.place.thing"),
        ("from vllm.v1.request import StreamingUpdate", "vllm.v1.request.StreamingUpdate"),
        ("import vllm.beam", "vllm.beam"),
        ("request.num_preemptions", "request.num_preemptions"),
        ("built._secret", "built._secret"),
        ("environment['VLLM_NEW_SWITCH']", "VLLM_NEW_SWITCH"),
        ("flags = ['--new-flag', '3']", "--new-flag"),
    ],
)
def test_a_name_that_is_not_in_the_contract_is_found(line, found):
    assert list(unknown(line, "request")) == [found]


def test_the_contract_has_no_name_that_nothing_touches():
    sources = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py") if path.name != "contract.py")
    names = {
        name.partition("(")[0].split(".")[-1]
        for use in CONTRACT.values()
        for touch in use.touches
        for name in touch.names
    }
    assert len(names) > 70
    # vLLM's names behind a route, a header, a reason and a cache are nowhere else.
    assert {name for name in names if not re.search(rf"(?<![a-z]){name}\b", sources.replace("-", "_"))} == {
        "FINISH_REASON_STRINGS",
        "PRIORITY_HEADER",
        "_supports_kw",
        "cached_get_processor",
        "cached_get_tokenizer",
        "cached_resolve_tokenizer_args",
        "create_chat_completion",
        "create_completion",
        "create_embedding",
        "create_responses",
    }


def test_the_requirement_admits_the_versions_that_work_and_no_other():
    from packaging.specifiers import SpecifierSet

    admitted = SpecifierSet(REQUIREMENT.removeprefix("vllm"))
    minors = [int(version.split(".")[1]) for version in VERSIONS]
    assert minors == list(range(minors[0], minors[-1] + 1))
    assert all(admitted.contains(f"0.{minor}.0") for minor in minors)
    assert not any(admitted.contains(f"0.{minor}.0") for minor in (minors[0] - 1, minors[-1] + 1))
