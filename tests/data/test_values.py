"""Values: conversions of the ids of one row group."""

import polars as pl
import pytest

from recemb.data.values import IdKind, ValueAtError, raw_ids

FROM_TEXT = IdKind(is_text=False, from_text=True)


def test_integers_of_a_text_file_are_those_that_are_written() -> None:
    values = pl.Series(["7", "0", None, "10", str(2**63 - 1)])
    assert raw_ids(values, FROM_TEXT).to_list() == [7, 0, None, 10, 2**63 - 1]


@pytest.mark.parametrize("text", ["007", "00", "+7", "-0", "-07", " 7", "7.0", str(2**63)])
def test_text_that_its_integer_is_not_written_as_is_refused_at_its_place(text: str) -> None:
    with pytest.raises(ValueAtError, match="ids must be integers as in training") as caught:
        raw_ids(pl.Series(["7", "0", None, text, "8"]), FROM_TEXT)
    assert caught.value.place == 3
