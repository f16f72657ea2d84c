"""Jobs as lines of a table."""

import pytest

from multicri_proxy.jobs.table import elapsed_text, table

JOB = {
    "pod": "default/web",
    "container": "main",
    "job_id": "17",
    "state": "RUNNING",
    "reason": "",
    "node": "cn[1-2]",
    "elapsed_s": 3723,
    "exit_code": None,
    "cluster": "alice@login:22",
}


def cells(**facts: object) -> list[str]:
    _, row = table([JOB | facts]).splitlines()
    return row.split("  ")


def test_columns_are_as_wide_as_their_widest_cell_and_a_dash_stands_for_nothing() -> None:
    assert table([JOB, JOB | {"pod": "default/a-longer-name", "job_id": "", "elapsed_s": None}]) == (
        "POD                    CONTAINER  JOB  STATE    REASON  NODE     ELAPSED   CLUSTER\n"
        "default/web            main       17   RUNNING  -       cn[1-2]  01:02:03  alice@login:22\n"
        "default/a-longer-name  main       -    RUNNING  -       cn[1-2]  -         alice@login:22\n"
    )


def test_an_exit_code_stands_beside_the_reason() -> None:
    assert "Error (3)" in cells(reason="Error", exit_code=3)
    assert "Completed" in cells(reason="Completed", exit_code=0)


def test_nothing_moves_the_cursor_or_fills_the_screen() -> None:
    text = table([JOB | {"reason": "\x1b[2Jgone\n", "node": "n" * 1000}])
    assert "?[2Jgone?" in text
    assert max(map(len, text.splitlines())) < 200


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, ""), (0, "00:00:00"), (59, "00:00:59"), (86_400 * 3 + 3600, "3-01:00:00")]
)
def test_time_is_written_as_squeue_does(seconds: int | None, text: str) -> None:
    assert elapsed_text(seconds) == text
