from __future__ import annotations

import pytest

from tests.batches import ENDPOINT, begin, group, input_lines, make_batch, open_store
from vbatch_jupyter.errors import BadRequestError, ConflictError, NotFoundError
from vbatch_jupyter.manager import Manager, lifecycle
from vbatch_jupyter.protocol.batch import RequestCounts

FILE = "file-" + "0" * 22


@pytest.fixture
def store(tmp_path):
    with open_store(tmp_path / "store", clock=lambda: 1000.5) as store:
        yield store


@pytest.fixture
def manager(store):
    return Manager(store)


def refused(call, **arguments):
    with pytest.raises(BadRequestError) as caught:
        call(**arguments)
    return str(caught.value), caught.value.param, caught.value.code


# ---------------------------------------------------------------------------------------------------------------- files


def test_an_uploaded_file_has_openais_fields_and_its_content(manager):
    data = b"".join(input_lines(3))
    file = manager.files.create([data[:10], data[10:]], filename="upload", purpose="batch", expires_after_seconds=3600)
    assert file.to_openai().to_dict() == {
        "id": file.id,
        "object": "file",
        "bytes": len(data),
        "created_at": 1000,
        "expires_at": 4600,
        "filename": "upload",
        "purpose": "batch",
        "status": "processed",
        "status_details": None,
    }
    assert manager.files.retrieve(file.id) == file
    with manager.files.content(file.id) as content:
        assert content.read() == data
    assert [listed.id for listed in manager.files.list().data] == [file.id]
    assert manager.files.delete(file.id) == file
    for verb in (manager.files.retrieve, manager.files.content, manager.files.delete):
        with pytest.raises(NotFoundError, match=f"^No such File object: {file.id}$"):
            verb(file.id)


@pytest.mark.parametrize(
    "chunks", [[], [b""], [b"\n\n"], [b"not json\n{}"], [b"col1,col2\n"], [b"{", b"\n}"], [b"[" * 100_000 + b"\n"]]
)
def test_a_file_for_a_batch_must_begin_with_a_line_of_json(manager, store, chunks):
    answer = refused(manager.files.create, chunks=chunks, filename="a.jsonl", purpose="batch")
    assert answer == ("Invalid file format for Batch API. Must be .jsonl", None, None)
    assert list(store.files.directory.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b'{"a": "\\ud800"}\n', "It has a lone surrogate, which is not valid in UTF-8."),
        (b'{"a": NaN}\n', "JSON has no NaN and no Infinity."),
        ('{"a": "é"}\n'.encode("latin-1"), "It is not UTF-8."),
        ('{"a": 1}\n'.encode("utf-16"), "The file is compressed or in UTF-16. Upload it as plain JSON lines in UTF-8."),
        (b'{"a": 1}\r{"a": 2}\r', "The file's lines end with a carriage return alone. End them with a line feed."),
    ],
)
def test_a_file_that_is_refused_says_why_its_first_line_cannot_be_read(manager, content, hint):
    message, _, _ = refused(manager.files.create, chunks=[content], filename="a.jsonl", purpose="batch")
    assert message == f"Invalid file format for Batch API. Must be .jsonl: {hint}"


@pytest.mark.parametrize(
    "chunks",
    [[b"{}"], [b"{", b"}", b"\nnot json, but not the first line"], [b"\xef\xbb\xbf", b"\r\n{}\r\n"], [b"\n \n{}\n"]],
)
def test_the_look_at_the_first_line_changes_nothing(manager, chunks):
    file = manager.files.create(chunks, filename="a", purpose="batch")
    with manager.files.content(file.id) as content:
        assert content.read() == b"".join(chunks)


def test_a_first_line_of_many_megabytes_is_left_to_validation(manager):
    chunks = [b'{"custom_id": "', *[b"a" * 500_000] * 6]
    assert manager.files.create(chunks, filename="a", purpose="batch").bytes == 3_000_015


def test_a_file_for_another_purpose_may_hold_anything(manager):
    assert manager.files.create([b"\x89PNG"], filename="a.png", purpose="vision").purpose == "vision"


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (
            {"purpose": "batch_output"},
            (
                (
                    "Invalid value: 'batch_output'. Supported values are: 'assistants', 'batch', "
                    "'fine-tune', 'vision', 'user_data', and 'evals'."
                ),
                "purpose",
                "invalid_value",
            ),
        ),
        (
            {"purpose": None},
            ("Missing required parameter: 'purpose'.", "purpose", "missing_required_parameter"),
        ),
        (
            {"filename": "a\ud800"},
            (
                "Invalid 'filename': it has a character that is not valid Unicode ('\\ud800').",
                "filename",
                "invalid_value",
            ),
        ),
        (
            {"expires_after_seconds": 3599},
            (
                (
                    "Invalid 'expires_after.seconds': integer below minimum value. Expected a value >= 3600, but "
                    "got 3599 instead."
                ),
                "expires_after.seconds",
                "integer_below_min_value",
            ),
        ),
        (
            {"expires_after_seconds": "1 day"},
            (
                "Invalid type for 'expires_after.seconds': expected an integer, but got a string instead.",
                "expires_after.seconds",
                "invalid_type",
            ),
        ),
    ],
)
def test_a_wrong_parameter_of_an_upload_is_named(manager, arguments, answer):
    assert refused(manager.files.create, **{"chunks": [b"{}"], "filename": "a", "purpose": "batch", **arguments}) == (
        answer
    )


@pytest.mark.parametrize("limit", [0, 10_001, True, "5"])
def test_a_limit_of_files_out_of_range_is_refused(manager, limit):
    assert refused(manager.files.list, limit=limit)[1] == "limit"


# -------------------------------------------------------------------------------------------------------------- batches


def create(manager, **arguments):
    return manager.batches.create(**{"input_file_id": FILE, "endpoint": ENDPOINT, **arguments})


def test_a_new_batch_has_openais_fields(manager):
    batch = create(manager, metadata={"team": "a"}, output_expires_after_seconds=7200, frame="{}")
    assert manager.batches.retrieve(batch.id) == batch
    unset = (
        "in_progress_at finalizing_at completed_at failed_at expired_at cancelling_at cancelled_at errors model "
        "output_file_id error_file_id usage"
    )
    assert batch.to_openai().to_dict() == {
        "id": batch.id,
        "object": "batch",
        "endpoint": ENDPOINT,
        "input_file_id": FILE,
        "completion_window": "24h",
        "status": "validating",
        "created_at": 1000,
        "expires_at": 1000 + 86_400,
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "metadata": {"team": "a"},
        **dict.fromkeys(unset.split()),
    }
    assert (batch.output_expires_after_seconds, batch.profile, batch.frame) == (7200, "openai", "{}")


def test_the_runner_is_woken_after_the_batch_can_be_seen(store):
    seen: list[list[str]] = []
    manager = Manager(store, wake=lambda: seen.append([record.status for record in store.batches.unfinished()]))
    batch = create(manager)
    manager.batches.cancel(batch.id)
    assert seen == [["validating"], ["cancelling"]]


def test_a_profile_may_be_chosen_for_one_batch(manager):
    assert create(manager, profile="local").profile == "local"
    hour = create(manager, profile="parasail", completion_window="1h")
    assert (hour.profile, hour.expires_at) == ("parasail", 1000 + 3600)


ENDPOINTS = "'/v1/chat/completions', '/v1/completions', '/v1/embeddings', and '/v1/responses'"


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (
            {"endpoint": "/v1/invalid/endpoint"},
            (
                f"Invalid value: '/v1/invalid/endpoint'. Supported values are: {ENDPOINTS}.",
                "endpoint",
                "invalid_value",
            ),
        ),
        ({"endpoint": None}, ("Missing required parameter: 'endpoint'.", "endpoint", "missing_required_parameter")),
        (
            {"input_file_id": None},
            ("Missing required parameter: 'input_file_id'.", "input_file_id", "missing_required_parameter"),
        ),
        (
            {"input_file_id": 3},
            (
                "Invalid type for 'input_file_id': expected a string, but got an integer instead.",
                "input_file_id",
                "invalid_type",
            ),
        ),
        (
            {"completion_window": "1h"},
            (
                "Invalid value for 'completion_window': '1h'. Supported values are: '24h'.",
                "completion_window",
                "invalid_value",
            ),
        ),
        (
            {"completion_window": ""},
            (
                "Invalid value for 'completion_window': ''. Supported values are: '24h'.",
                "completion_window",
                "invalid_value",
            ),
        ),
        (
            {"metadata": {"tags": ["a"]}},
            (
                "Invalid type for 'metadata.tags': expected a string, but got an array instead.",
                "metadata.tags",
                "invalid_type",
            ),
        ),
        (
            {"metadata": "a"},
            ("Invalid type for 'metadata': expected an object, but got a string instead.", "metadata", "invalid_type"),
        ),
        (
            {"metadata": {str(number): "a" for number in range(17)}},
            (
                (
                    "Invalid 'metadata': too many properties. Expected an object with at most 16 properties, but "
                    "got an object with 17 properties instead."
                ),
                "metadata",
                "object_above_max_properties",
            ),
        ),
        (
            {"metadata": {"k" * 65: "a"}},
            (
                (
                    "Invalid property name in 'metadata': string too long. Expected a string with maximum length "
                    "64, but got a string with length 65 instead."
                ),
                "metadata",
                "string_above_max_length",
            ),
        ),
        (
            {"metadata": {"k": "a" * 513}},
            (
                (
                    "Invalid 'metadata.k': string too long. Expected a string with maximum length 512, but got "
                    "a string with length 513 instead."
                ),
                "metadata.k",
                "string_above_max_length",
            ),
        ),
        (
            {"metadata": {"k": "\udfff"}},
            (
                "Invalid 'metadata.k': it has a character that is not valid Unicode ('\\udfff').",
                "metadata.k",
                "invalid_value",
            ),
        ),
        (
            {"output_expires_after_seconds": 2_592_001},
            (
                (
                    "Invalid 'output_expires_after.seconds': integer above maximum value. Expected a value <= 2592000, "
                    "but got 2592001 instead."
                ),
                "output_expires_after.seconds",
                "integer_above_max_value",
            ),
        ),
    ],
)
def test_a_wrong_parameter_of_a_batch_is_answered_as_openai_does_and_makes_none(manager, store, arguments, answer):
    assert refused(manager.batches.create, **{"input_file_id": FILE, "endpoint": ENDPOINT, **arguments}) == answer
    assert store.batches.unfinished() == []


def test_the_largest_metadata_is_taken(manager):
    metadata = {f"{number:02}" + "k" * 62: "v" * 512 for number in range(16)}
    assert manager.batches.retrieve(create(manager, metadata=metadata).id).metadata == metadata


def test_batches_are_listed_newest_first_a_page_at_a_time(manager):
    ids = [create(manager).id for _ in range(3)]
    page = manager.batches.list(limit=2)
    assert ([record.id for record in page.data], page.has_more) == ([ids[2], ids[1]], True)
    assert [record.id for record in manager.batches.list(after=page.last_id).data] == [ids[0]]
    assert refused(manager.batches.list, limit=101)[1:] == ("limit", "integer_above_max_value")
    assert refused(manager.batches.list, limit=0)[1:] == ("limit", "integer_below_min_value")


def test_a_cancelled_batch_may_be_cancelled_again_and_a_completed_one_may_not(manager, store):
    batch = make_batch(store, 1)
    assert manager.batches.cancel(batch.id).status == "cancelling"
    lifecycle.tend(store)
    assert manager.batches.cancel(batch.id).status == "cancelled"
    with begin(store, 1) as lease:
        lease.append(group(lease.id, [0]))
        lifecycle.finish(store, lease)
    with pytest.raises(ConflictError, match=r"^Cannot cancel a batch with status 'completed'\.$"):
        manager.batches.cancel(lease.id)
    with pytest.raises(NotFoundError, match=r"^No batch found with id 'batch_x'"):
        manager.batches.cancel("batch_x")
    assert manager.batches.retrieve(lease.id).request_counts == RequestCounts(1, 1, 0)
