"""Reading logs: the end, what comes after, across rotations, and nothing that a terminal would obey."""

from __future__ import annotations

from pathlib import Path

from scheduler.runtimes.logs import (
    ENDED_LOGS_MAX,
    KEPT_AFTER_END_S,
    LogPosition,
    escape_controls,
    log_path,
    parse_record,
    prune_logs,
    read_on,
    read_tail,
)
from scheduler.runtimes.shim_log import RotatedLog


def writer(path: Path, file_bytes_max: int = 1000) -> RotatedLog:
    return RotatedLog(str(path), file_bytes_max=file_bytes_max, files=3, line_bytes_max=100)


def test_the_tail_is_the_newest_lines_in_order_across_files(tmp_path: Path) -> None:
    path = tmp_path / "web-1.log"
    log = writer(path)
    for number in range(60):
        log.feed("o", b"line %d\n" % number)
    assert (tmp_path / "web-1.log.1").exists()
    records, _ = read_tail(path, 50, 1 << 20)
    assert [record.text for record in records] == [f"line {number}" for number in range(10, 60)]


def test_the_tail_reads_no_more_bytes_than_it_may(tmp_path: Path) -> None:
    path = tmp_path / "web-1.log"
    log = writer(path, 1 << 20)
    for number in range(1000):
        log.feed("o", b"line %d\n" % number)
    records, _ = read_tail(path, 1000, 500)
    assert records[-1].text == "line 999"
    assert len(records) < 25


def test_a_follower_gets_every_line_once_across_rotations(tmp_path: Path) -> None:
    path = tmp_path / "web-1.log"
    log = writer(path)
    log.feed("o", b"before\n")
    records, position = read_tail(path, 10, 1 << 20)
    seen = [record.text for record in records]
    for number in range(100):
        log.feed("e", b"line %d\n" % number)
        if number % 7 == 0:
            for _ in range(4):
                records, position = read_on(path, position, 200)
                seen += [record.text for record in records]
    for _ in range(10):
        records, position = read_on(path, position, 1000)
        seen += [record.text for record in records]
    assert seen == ["before", *[f"line {number}" for number in range(100)]]


def test_a_follower_that_slept_through_all_files_goes_on_with_the_oldest_there_is(tmp_path: Path) -> None:
    path = tmp_path / "web-1.log"
    log = writer(path)
    log.feed("o", b"old\n")
    records, position = read_on(path, LogPosition(999_999_999, 5), 1 << 20)
    assert [record.text for record in records] == ["old"]
    assert read_on(path, position, 1 << 20)[0] == []


def test_a_log_that_does_not_exist_is_empty(tmp_path: Path) -> None:
    records, position = read_tail(tmp_path / "none.log", 10, 1000)
    assert records == []
    assert read_on(tmp_path / "none.log", position, 1000)[0] == []


def test_half_a_line_is_held_back_until_its_end(tmp_path: Path) -> None:
    path = tmp_path / "web-1.log"
    log = writer(path)
    log.feed("o", b"half")
    assert read_tail(path, 10, 1000)[0] == []
    log.feed("o", b" and half\nrest")
    log.finish()
    assert [record.text for record in read_tail(path, 10, 1000)[0]] == ["half and half", "rest"]


def test_damaged_lines_are_passed_over() -> None:
    assert parse_record(b"12 o hello") is not None
    for damaged in (b"", b"o hello", b"12", b"12 x hello", b"12 ohello", b"\xff\xfe 1 2"):
        assert parse_record(damaged) is None


def test_a_terminal_is_told_nothing_by_a_log_line() -> None:
    hostile = "a\x1b[2Jb\rc\x00d\x9be\u202ef\tg é 字"
    assert escape_controls(hostile) == "a\\x1b[2Jb\\x0dc\\x00d\\x9be\\u202ef\tg é 字"


def test_a_disk_that_is_full_costs_lines_and_says_how_many() -> None:
    log = writer(Path("/dev/full"))
    log.feed("o", b"lost\n")
    assert log.dropped_bytes > 0


def test_logs_of_the_gone_are_kept_for_a_day_and_the_newest_only(tmp_path: Path) -> None:
    names = [f"web-{number}" for number in range(ENDED_LOGS_MAX + 3)]
    for number, name in enumerate(names):
        path = log_path(tmp_path, "web", name)
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
        path.with_name(f"{name}.log.1").write_text("x")
        import os

        os.utime(path, (1000 + number, 1000 + number))
    assert prune_logs(tmp_path, frozenset({"web-0"}), 2000.0) == 2  # of the gone, the two oldest
    assert log_path(tmp_path, "web", "web-0").exists()
    assert not log_path(tmp_path, "web", "web-1").exists()
    assert not (tmp_path / "web" / "web-1.log.1").exists()
    prune_logs(tmp_path, frozenset({"web-0"}), 1100.0 + KEPT_AFTER_END_S)
    assert [path.name for path in (tmp_path / "web").iterdir() if path.suffix == ".log"] == ["web-0.log"]
