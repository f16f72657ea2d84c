"""Records as rows of the ledger."""

import pytest

from multicri_proxy.api.adapter import OutputStream
from multicri_proxy.api.errors import FailedPrecondition
from multicri_proxy.runtime.records import LogPosition
from multicri_proxy.runtime.rows import container_from_row, log_position_from_row, row_of, sandbox_from_row
from runtime.test_records import CONTAINER, SANDBOX


def test_rows_give_back_what_was_written() -> None:
    assert container_from_row(row_of(CONTAINER)) == CONTAINER
    assert sandbox_from_row(row_of(SANDBOX)) == SANDBOX
    both = {OutputStream.STDOUT: 5, OutputStream.STDERR: 7}
    ended = frozenset({OutputStream.STDERR})
    position = LogPosition(inode=1, size_bytes=2, read_bytes=both, start_bytes=0, start_read_bytes=both, ended=ended)
    assert log_position_from_row(row_of(position)) == position


@pytest.mark.parametrize("row", [b"", b"{}", b"[]", row_of(CONTAINER).replace(b'"created"', b'"flying"')])
def test_a_row_that_cannot_be_read_is_refused(row: bytes) -> None:
    with pytest.raises(FailedPrecondition, match="a row that this version cannot read"):
        container_from_row(row)


def test_a_row_with_more_in_it_can_be_read() -> None:
    assert container_from_row(row_of(CONTAINER).replace(b"{", b'{"of_later_versions":1,', 1)) == CONTAINER


@pytest.mark.parametrize("field", [b'"mounts": ["', b'"state": "'])
def test_a_row_whose_value_was_changed_is_refused(field: bytes) -> None:
    with pytest.raises(FailedPrecondition, match="a row that this version cannot read"):
        container_from_row(row_of(CONTAINER).replace(field, field + b"!"))
