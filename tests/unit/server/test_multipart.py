from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given, strategies

from vbatch_jupyter.errors import BadRequestError, TooLargeError
from vbatch_jupyter.server.multipart import FormReader

CONTENT_TYPE = "multipart/form-data; boundary=b"
HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'


class Kept(bytearray):
    write, discard = bytearray.extend, bytearray.clear


def reader(content_type=CONTENT_TYPE):
    return FormReader(content_type, file_field="file", begin=Kept)


@given(content=strategies.binary(max_size=300), cuts=strategies.sets(strategies.integers(0, 500)))
def test_a_file_comes_out_as_it_went_in_wherever_the_body_is_cut(content, cuts):
    body = HEAD + content + b'\r\n--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b--\r\nrest'
    form = reader()
    places = [0, *sorted(cut for cut in cuts if cut < len(body)), len(body)]
    try:
        for start, end in itertools.pairwise(places):
            form.write(body[start:end])
        form.finish()
    except BadRequestError:
        # The content may hold the boundary by itself.
        assert b"\r\n--b" in content
        return
    assert form.sink == content or b"\r\n--b" in content
    assert form.fields["purpose"] == "batch"


@given(strategies.binary(max_size=500))
def test_whatever_a_body_holds_it_is_a_form_or_a_clients_mistake(body):
    form = reader()
    try:
        form.write(body)
        form.finish()
    except BadRequestError:
        return
    assert form.sink is not None


@pytest.mark.parametrize("unit", [b"\r", b"\n", b"\r\n", b"\r\n-", b"\r\n--", b"\r\n--c", b"-"])
def test_a_body_made_to_be_slow_is_read_at_speed(unit):
    form = reader()
    form.write(HEAD)
    body = (unit * 2**20)[: 2**20]
    began = time.process_time()
    form.write(body)
    assert time.process_time() - began < 0.5


def test_a_large_field_and_many_parts_are_refused_as_they_come():
    form = reader()
    form.write(b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n')
    with pytest.raises(TooLargeError, match="'purpose' is too large"):
        form.write(b"x" * 100_000)
    form = reader()
    with pytest.raises(BadRequestError, match="too many parts: the maximum is 8"):
        form.write(b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n\r\n' * 9)


@pytest.mark.parametrize(
    ("disposition", "filename"),
    [
        (b'name="file"', "upload"),
        (b'name="file"; filename=""', "upload"),
        (b'name="file"; filename="../x"', "../x"),
        (b'name="file"; filename="a\\"b"', 'a"b'),
        ('name="file"; filename="sn\N{SNOWMAN}w"'.encode(), "sn\N{SNOWMAN}w"),
        (b'name="file"; filename="\xff"', "\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_a_filename_is_read_as_clients_write_it(disposition, filename):
    form = reader()
    form.write(b"--b\r\nContent-Disposition: form-data; " + disposition + b"\r\n\r\nx\r\n--b--\r\n")
    form.finish()
    assert form.filename == filename
