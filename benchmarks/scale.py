"""What the path of a request costs without the engine: batches of 1,000 to 1,000,000 requests through a null engine.

Each size runs in a process of its own, from ``batches.create`` to ``completed``: validation, plan, feed, spool and
finalising, on the store's real files; then `Batch.results` of all rows. ``x time`` and ``x growth`` say how many times
the row before each row's time and memory are; the requests are ten times as many. Three more figures follow: the
validation of a file of 200 MB and 50,000 lines, and a cell of 10,000 rows that is run again unchanged. All of it is
printed again as JSON; the exit status is 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from vbatch_jupyter.engine.echo import EchoEngine
from vbatch_jupyter.frames.ask import Ask
from vbatch_jupyter.manager import Manager
from vbatch_jupyter.protocol.batch import TERMINAL_STATUSES, BatchRecord
from vbatch_jupyter.protocol.lines import encode_request_line
from vbatch_jupyter.protocol.profiles import PROFILES
from vbatch_jupyter.protocol.validation import validate
from vbatch_jupyter.runner import Runner
from vbatch_jupyter.session.batch import Batch
from vbatch_jupyter.session.session import Session
from vbatch_jupyter.store import Store

SIZES = (1_000, 10_000, 100_000, 1_000_000)
MOST_GROWTH_MB = 400.0
MOST_TIMES_LINEAR = 1.5
"""How much longer a request of the largest size may take than one of the second largest."""

MOST_RESULTS_SECONDS = 20.0
MOST_VALIDATION_SECONDS = 5.0
MOST_AGAIN_SECONDS = 1.0

_FILE_LINES, _FILE_BYTES = 50_000, 200_000_000
_AGAIN_ROWS = 10_000

_ENDPOINT = "/v1/chat/completions"
_POLL_SECONDS = 0.02


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """One batch.

    Parameters
    ----------
    requests
        In the batch.
    seconds
        From ``batches.create`` to ``completed``.
    validating, in_progress, finalizing
        Seconds of them, to the nearest 20 ms.
    requests_per_second
        All of it included.
    growth_mb
        The largest resident set since the engine and the runner were there, less what it was then, in MB of 10**6
        bytes.
    payload_bytes
        Of the output file.
    written_per_request
        Bytes that the process wrote to the disk; 0 where the disk is the memory.
    results_seconds
        `Batch.results`.
    """

    requests: int
    seconds: float
    validating: float
    in_progress: float
    finalizing: float
    requests_per_second: float
    growth_mb: float
    payload_bytes: int
    written_per_request: float
    results_seconds: float


def _lines(requests: int) -> Iterator[bytes]:
    for position in range(requests):
        content = f"Answer question {position} in one word."
        body = {"model": "echo", "messages": [{"role": "user", "content": content}], "max_tokens": 1}
        yield encode_request_line(f"row-{position}", _ENDPOINT, body) + b"\n"


def _memory_mb(key: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024 / 1e6


def _forget_peak() -> None:
    # The upload's; proc(5) has the number.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _written_bytes() -> int:
    counted = Path("/proc/self/io").read_text(encoding="ascii")
    (line,) = (line for line in counted.splitlines() if line.startswith("write_bytes"))
    return int(line.split()[1])


async def measure(directory: Path, requests: int) -> Measured:
    """Bring one batch to its end.

    Parameters
    ----------
    directory
        Empty; the store is made in it.
    requests
        In the batch.
    """
    with Store(directory / "store") as store:
        manager = Manager(store, profile="local")
        file = manager.files.create(_lines(requests), filename="input.jsonl", purpose="batch")
        engine = EchoEngine()
        await engine.start()
        runner = Runner(store)
        await runner.attach(engine)
        running = asyncio.create_task(runner.run())
        _forget_peak()
        memory, written = _memory_mb("VmRSS"), _written_bytes()
        begun = time.perf_counter()
        record = manager.batches.create(input_file_id=file.id, endpoint=_ENDPOINT)
        runner.wake()
        since = {"validating": begun}
        while (record := manager.batches.retrieve(record.id)).status not in TERMINAL_STATUSES:
            since.setdefault(record.status, time.perf_counter())
            await asyncio.sleep(_POLL_SECONDS)
        ended = time.perf_counter()
        growth, written = _memory_mb("VmHWM") - memory, _written_bytes() - written
        await runner.stop()
        await running
        payload = _payload(manager, record, requests)
        results_seconds = await asyncio.to_thread(_results, manager, record, requests)
    in_progress = since.get("in_progress", ended)
    finalizing = since.get("finalizing", ended)
    return Measured(
        requests=requests,
        seconds=ended - begun,
        validating=in_progress - begun,
        in_progress=finalizing - in_progress,
        finalizing=ended - finalizing,
        requests_per_second=requests / (ended - begun),
        growth_mb=growth,
        payload_bytes=payload,
        written_per_request=written / requests,
        results_seconds=results_seconds,
    )


def _results(manager: Manager, record: BatchRecord, requests: int) -> float:
    batch = Batch(manager, record.id, engine_stats=lambda: None, latest=lambda _: None, draws_widgets=lambda: False)
    begun = time.perf_counter()
    frame = batch.results()
    seconds = time.perf_counter() - begun
    last = f"Answer question {requests - 1} in one word."
    if len(frame) != requests or frame["response"].iloc[-1] != last or frame["error"].notna().any():
        raise SystemExit(f"The result is not whole: {frame}")
    return seconds


def validation_seconds() -> float:
    """Validate a file of `_FILE_LINES` lines and `_FILE_BYTES` bytes; give the seconds."""
    sentence = "All of the words of a document stand here, one after the other, as they do in any other. "
    with tempfile.TemporaryFile() as file:
        for position in range(_FILE_LINES):
            content = f"Document {position}. {sentence * (_FILE_BYTES // _FILE_LINES // len(sentence))}"
            body = {"model": "m", "messages": [{"role": "user", "content": content}]}
            file.write(encode_request_line(f"row-{position}", _ENDPOINT, body) + b"\n")
        size = file.tell()
        begun = time.perf_counter()
        # The profile of OpenAI has a limit of as many bytes.
        checked = validate(file, endpoint=_ENDPOINT, profile=PROFILES["local"])
        seconds = time.perf_counter() - begun
    if checked.errors or len(checked.index) != _FILE_LINES or size < 0.95 * _FILE_BYTES:
        raise SystemExit(f"The file of {size:,} bytes did not validate: {checked.errors[:3]}")
    return seconds


def again_seconds(directory: Path) -> tuple[float, int]:
    """Run a cell of `_AGAIN_ROWS` rows twice; give the second time's seconds and its requests to the engine."""
    engine = EchoEngine()
    session = Session(Store(directory / "store"), make_engine=lambda *_, **__: engine)
    session.progress = "none"
    try:
        session.load("echo")
        df = pd.DataFrame({"n": range(_AGAIN_ROWS)})
        session.run(df, Ask.of("Answer question {{ n }}.", max_tokens=1))
        asked = engine.requests
        begun = time.perf_counter()
        out = session.run(df, Ask.of("Answer question {{ n }}.", max_tokens=1))
        seconds = time.perf_counter() - begun
    finally:
        session.close()
    if out["error"].notna().any() or len(out) != _AGAIN_ROWS:
        raise SystemExit(f"The result is not whole: {out}")
    return seconds, engine.requests - asked


def _payload(manager: Manager, record: BatchRecord, requests: int) -> int:
    if record.request_counts.completed != requests or record.output_file_id is None:
        raise SystemExit(f"The batch did not complete: {record}")
    return manager.files.retrieve(record.output_file_id).bytes


def _measure_apart(requests: int, directory: str | None) -> Measured:
    command = [sys.executable, __file__, "--one", str(requests)]
    command += ["--directory", directory] if directory else []
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return Measured(**json.loads(answer.stdout))


def _missed(results: list[Measured]) -> list[str]:
    missed = [
        f"{result.requests:,} requests grew the process by {result.growth_mb:.0f} MB; the goal is less than "
        f"{MOST_GROWTH_MB:.0f} MB."
        for result in results
        if result.growth_mb >= MOST_GROWTH_MB
    ]
    missed += [
        f"The results of {result.requests:,} rows took {result.results_seconds:.1f} s; the goal is less than "
        f"{MOST_RESULTS_SECONDS:.0f} s."
        for result in results
        if result.results_seconds >= MOST_RESULTS_SECONDS
    ]
    if len(results) > 1:
        before, last = results[-2:]
        times = before.requests_per_second / last.requests_per_second
        if times > MOST_TIMES_LINEAR:
            missed.append(
                f"A request of {last.requests:,} took {times:.2f} times as long as one of {before.requests:,}; the "
                f"goal is {MOST_TIMES_LINEAR} times at most."
            )
    return missed


def main() -> int:
    """Measure all sizes, and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES, help="requests of each batch")
    parser.add_argument("--directory", help="where the stores are made; by default where temporary files are")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        with tempfile.TemporaryDirectory(dir=options.directory) as directory:
            print(json.dumps(dataclasses.asdict(asyncio.run(measure(Path(directory), options.one)))))
        return 0
    print(
        f"{'requests':>10} {'seconds':>8} {'x time':>7} {'valid.':>7} {'run':>7} {'final.':>7} {'requests/s':>11} "
        f"{'growth':>8} {'x growth':>9} {'written/request':>16} {'results()':>10}",
        flush=True,
    )
    results: list[Measured] = []
    for requests in options.sizes:
        result = _measure_apart(requests, options.directory)
        _print_row(result, results[-1] if results else None)
        results.append(result)
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        again, asked = again_seconds(Path(directory))
    validation = validation_seconds()
    print(f"validation of {_FILE_BYTES / 1e6:.0f} MB and {_FILE_LINES:,} lines: {validation:.2f} s")
    print(f"a cell of {_AGAIN_ROWS:,} rows, run again unchanged: {again:.2f} s, {asked} requests to the engine")
    figures = {"validation_seconds": validation, "again_seconds": again, "again_requests": asked}
    print(json.dumps({"sizes": [dataclasses.asdict(result) for result in results], **figures}))
    missed = _missed(results)
    if validation >= MOST_VALIDATION_SECONDS:
        missed.append(f"The validation took {validation:.1f} s; the goal is less than {MOST_VALIDATION_SECONDS:.0f} s.")
    if asked or again >= MOST_AGAIN_SECONDS:
        missed.append(f"The cell took {again:.2f} s again; the goal is less than {MOST_AGAIN_SECONDS:.0f} s.")
    for sentence in missed:
        print(sentence, file=sys.stderr)
    return 1 if missed else 0


def _print_row(result: Measured, before: Measured | None) -> None:
    times = f"{result.seconds / before.seconds:.1f}" if before else ""
    growth = f"{result.growth_mb / before.growth_mb:.1f}" if before else ""
    print(
        f"{result.requests:>10,} {result.seconds:>8.2f} {times:>7} {result.validating:>7.2f} "
        f"{result.in_progress:>7.2f} {result.finalizing:>7.2f} {result.requests_per_second:>11,.0f} "
        f"{result.growth_mb:>5.0f} MB {growth:>9} {result.written_per_request:>16,.0f} "
        f"{result.results_seconds:>8.2f} s",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
