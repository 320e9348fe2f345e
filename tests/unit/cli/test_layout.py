"""What is fitted to a terminal: nothing is cut, nothing is wider than the room unless a single word is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cli.layout import fitted, width, wrapped

WORDS = st.text(alphabet=st.characters(codec="utf-8", categories=("L", "N", "P")), min_size=1, max_size=9)
SENTENCES = st.lists(WORDS, max_size=12).map(" ".join)


@given(SENTENCES, st.integers(20, 80))
def test_a_wrapped_sentence_has_all_its_words_and_fits(text: str, room: int) -> None:
    lines = wrapped(text, room, first="> ", rest="  ")
    assert " ".join(line[2:] for line in lines).split() == text.split()
    assert all(width(line) <= room for line in lines)


TABLES = st.integers(1, 7).flatmap(
    lambda count: st.lists(st.lists(SENTENCES, min_size=count, max_size=count), min_size=1, max_size=5)
)


@given(TABLES)
def test_a_table_says_everything_however_narrow_it_is(rows: list[list[str]]) -> None:
    headings = [f"COLUMN{number}" for number in range(len(rows[0]))]
    for room in (20, 60, 10_000):
        (_, nothing), *lines = fitted(headings, rows, room)
        assert nothing == []
        assert len(lines) == len(rows)
        for row, (cells, below) in zip(rows, lines, strict=True):
            told = " ".join([*cells, *below]).split()
            for cell in row:
                assert cell == "-" or all(word in told for word in cell.split())
            if max(map(width, row)) <= 9:  # beside its name, of 11 with all around it, in 20
                assert all(width(line) <= room for line in ["  ".join(cells).rstrip(), *below])


def test_columns_that_do_not_fit_go_below_under_their_name() -> None:
    rows = [["web", "stable", "http://web.localhost:6781/ and then"]]
    assert list(fitted(["NAME", "STATE", "ADDRESS"], rows, 38)) == [
        (["NAME", "STATE "], []),
        (["web ", "stable"], ["  address: http://web.localhost:6781/", "    and then"]),
    ]


def test_the_last_column_is_wrapped_in_its_place_where_it_has_room() -> None:
    rows = [["web", "one two three four five six seven eight"]]
    assert list(fitted(["NAME", "TEXT"], rows, 26))[1] == (
        ["web ", "one two three four  "],
        ["      five six seven eight"],
    )


def test_wide_characters_count_twice() -> None:
    assert (width("雲"), width("e\u0301"), width("abc")) == (2, 1, 3)
