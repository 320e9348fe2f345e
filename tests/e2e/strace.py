"""strace as a tool: which calls of a daemon write, and making the N-th of them kill or fail.

A point is "the N-th call of this name by one thread", because that is what strace counts. Points are drawn from what a
run without a fault was seen to do, each of its calls alike.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.cluster import wait_until

WRITING = ("pwrite64", "write", "fdatasync", "fsync", "rename", "unlink", "mkdir", "ftruncate", "chmod")
"""What changes a disk, or promises that it has changed."""

ZEROES = "\\0" * 32
"""How strace prints the beginning of a piece of zeroes."""

NOBODY_READS = "fc-strace-"

BIRTHS = ("clone", "clone3", "fork", "vfork")

_LINE = re.compile(r"(?P<thread>\d+) +(?P<call>\w+)\((?P<rest>.*)")
_RESUMED = re.compile(r"(?P<thread>\d+) +<\.\.\. (?P<call>\w+) resumed>(?P<rest>.*)")
_ANSWER = re.compile(r"= (\d+)\b")


def has_strace() -> bool:
    """Whether strace is there and may trace."""
    if shutil.which("strace") is None:
        return False
    probe = ["strace", "-o", os.devnull, "-e", "trace=fsync", "true"]
    return subprocess.run(probe, capture_output=True).returncode == 0


@dataclass(frozen=True, slots=True)
class Point:
    """The `number`-th call of this name by one thread."""

    call: str
    number: int

    def kill(self) -> list[str]:
        return ["-e", f"trace={self.call}", "-e", f"inject={self.call}:signal=KILL:when={self.number}"]

    def fail(self, error: str) -> list[str]:
        """This call, and each after it."""
        return ["-e", f"trace={self.call}", "-e", f"inject={self.call}:error={error}:when={self.number}+"]

    def __str__(self) -> str:
        return f"{self.call} {self.number}"


def watch() -> list[str]:
    """Options that record what is written, and which threads are the process's own."""
    return ["-y", "-e", f"trace={','.join(WRITING + BIRTHS)}"]


def points_in(record: Path, home: Path, threads: Collection[str] = ()) -> list[Point]:
    """The calls on files of this home by the traced process itself, not by those that it started.

    Args:
        record: What strace wrote.
        home: Its files count.
        threads: Of the process, where strace came later; else the first one seen, and those it starts.
    """
    own = set(threads)
    counts: Counter[tuple[str, str]] = Counter()
    points: list[Point] = []
    for line in record.read_text(errors="replace").splitlines():
        found = _LINE.match(line) or _RESUMED.match(line)
        if found is None:
            continue
        thread, call, rest = found["thread"], found["call"], found["rest"]
        own = own or {thread}
        if call in BIRTHS:
            born = _ANSWER.search(rest)
            # A clone that is told in two lines names its flags in the first; only threads of Python come that way.
            if born is not None and thread in own and ("CLONE_THREAD" in rest or "resumed" in line):
                own.add(born[1])
        elif "resumed" not in line:
            counts[thread, call] += 1
            point = Point(call, counts[thread, call])
            if thread in own and str(home) in rest and not _changes_nothing(rest, point):
                points.append(point)
    return points


def _changes_nothing(rest: str, point: Point) -> bool:
    """A folder that was there already; and of the zeroes of a new segment only every eighth piece counts."""
    return " = -1 " in rest or (f', "{ZEROES}' in rest and point.number % 8 != 0)


@dataclass(slots=True)
class Traced:
    """A program in the foreground with its lines on stderr, and the strace that looks at it, if one does."""

    process: subprocess.Popen[str]
    record: Path
    lines: list[str] = field(default_factory=list)

    @property
    def status(self) -> int | None:
        return self.process.poll()

    def gather(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(line.rstrip("\n") for line in self.process.stderr)

    def wait_ready(self, limit_s: float = 60.0) -> bool:
        """Until the daemon serves (True) or has ended (False)."""
        wait_until("ready or gone", lambda: "ready" in self.lines or self.status is not None, limit_s, poll_s=0.02)
        return "ready" in self.lines


def start(
    options: Sequence[str],
    home: Path,
    *words: str,
    stdin: str = "",
    record: Path | None = None,
    module: str = "cli.main",
) -> Traced:
    """`freecloud WORDS` in the foreground, under strace from its first instruction if there are options for it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FREECLOUD_")}
    record = record or _nowhere()
    # -D: the process is the daemon, not strace, which stays for as long as anything lives that the daemon began.
    tracer = ["strace", "-D", "-f", "-o", str(record), *options, "--"] if options else []
    process = subprocess.Popen(
        [*tracer, sys.executable, "-m", module, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, "FREECLOUD_HOME": str(home)},
    )
    assert process.stdin is not None
    process.stdin.write(stdin)
    process.stdin.close()
    return _gathered(process, record)


@contextmanager
def attached(options: Sequence[str], pid: int, *, record: Path | None = None) -> Iterator[Traced]:
    """strace on a process that runs; it lets go at the end if the process still lives."""
    record = record or _nowhere()
    process = subprocess.Popen(
        ["strace", "-f", "-o", str(record), *options, "-p", str(pid)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    traced = _gathered(process, record)
    try:
        wait_until("strace is attached", lambda: any("attached" in line for line in traced.lines), poll_s=0.02)
        yield traced
    finally:
        release(traced)


def release(traced: Traced) -> None:
    """Let go of what is traced, and wait until strace is gone; the program itself must have ended."""
    tracers = named(str(traced.record))
    for pid in tracers:
        with suppress(ProcessLookupError):  # it ended meanwhile
            os.kill(pid, signal.SIGTERM)
    wait_until("strace let go", lambda: not named(str(traced.record)))
    if traced.record.name.startswith(NOBODY_READS):
        traced.record.unlink(missing_ok=True)  # whoever let go first did it
    traced.process.wait(timeout=10)


def named(text: str) -> list[int]:
    """The processes, other than this one, that have this text in their command line."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            with suppress(OSError):  # it ended meanwhile
                if text.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
    return found


def _nowhere() -> Path:
    """A record that nobody reads; its name finds its strace."""
    descriptor, name = tempfile.mkstemp(prefix=NOBODY_READS)
    os.close(descriptor)
    return Path(name)


def _gathered(process: subprocess.Popen[str], record: Path) -> Traced:
    traced = Traced(process, record)
    threading.Thread(target=traced.gather, daemon=True).start()
    return traced
