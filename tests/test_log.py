"""Log lines: readable, safe, and never in anybody's way."""

import logging
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from multicri_proxy.api.log import Log

STUCK = """
import logging, sys
from multicri_proxy.api.log import Log, writing_to_stderr
with writing_to_stderr("info"):
    for number in range(100_000):
        Log("test").info("x" * 100, number=number)
    print("not stuck", flush=True)
"""


def test_a_line_has_time_level_name_message_and_facts() -> None:
    program = STUCK.replace('"x" * 100', '"job submitted"').replace("100_000", "1")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    time, rest = done.stderr.strip().split("Z ", 1)
    assert rest == "INFO test: job submitted number=0"
    assert len(time) == len("2026-11-21T23:32:24.123")


def test_a_reader_that_is_stuck_delays_nobody_and_keeps_nobody_from_ending() -> None:
    """stderr is a pipe that is never read: 10 MB of lines do not fit in it."""
    with subprocess.Popen(
        [sys.executable, "-c", STUCK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"not stuck\n"
        assert process.wait(20) == 0


@given(st.text(max_size=2000))
def test_no_value_can_begin_a_line_or_fill_the_log(value: str) -> None:
    records: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record.getMessage())

    logger, keep = logging.getLogger("multicri.hostile"), Keep()
    logger.addHandler(keep)
    logger.setLevel(logging.INFO)
    try:
        Log("hostile").info("said", value=value)
    finally:
        logger.removeHandler(keep)
    [line] = records
    assert line.isprintable()
    assert len(line) < 7000
