"""Everything at its full size, written down: `python -m bench.soak` makes docs/measurements.md.

The simulator's seeds, hunt, effects and branches come first, then every claim, each a process of its own: none
inherits another's memory, priority or children. A part that fails is written down as it ended, and the run goes on.
`--smoke` takes small sizes and shows that the page is made; `--only NAME` runs some parts and keeps the other sections.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.claims import CLAIMS
from bench.machine import ROOT, this_machine

PAGE = ROOT / "docs" / "measurements.md"
TAIL_LINES = 40
"""Of a part's output: the simulator's progress is of no use afterwards, its summary is."""

HEAD = """\
# Measurements

Written by `make soak`, section by section; each says on which commit, machine and day it was taken. A figure stands
beside a peer that ran in the same minute, or beside its target. "Undecided" means that others kept the machine busy.
"""

SECTION = re.compile(r"^## (\S+)\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Part:
    """One section: a name, the command that makes it, and whether the command says the machine itself."""

    name: str
    command: tuple[str, ...]
    about: str


def parts(smoke: bool) -> tuple[Part, ...]:
    """All sections, in the order of the page."""

    def sim(name: str, about: str, *words: str) -> Part:
        return Part(f"sim.{name}", ("-m", f"tests.sim.{name}", *words), about)

    size = () if smoke else ("--full",)
    return (
        sim("run", "Whole nodes under faults, every checker on.", "--seeds", "4" if smoke else "20000"),
        sim("hunt", "Each planted bug, and the first seed that catches it.", *(("--budget", "2") if smoke else ())),
        sim("effects", "In how many seeds each kind of fault changes an outcome.", "--seeds", "2" if smoke else "300"),
        sim("branches", "Branches of the cores that seeds take by themselves.", "--seeds", "1" if smoke else "200"),
        *(Part(name, ("-m", f"bench.{name}", *size), claim.text) for name, claim in CLAIMS.items()),
    )


def take(part: Part) -> tuple[str, int]:
    """Run one part. Returns its section and its exit status; what it says on stderr is shown meanwhile."""
    began = time.monotonic()
    done = subprocess.run([sys.executable, *part.command], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    lines = [line.rstrip() for line in done.stdout.splitlines()][-TAIL_LINES:]
    print("\n".join(lines), flush=True)
    how = "" if done.returncode == 0 else f" It ended with status {done.returncode}."
    command = " ".join(("python", *part.command))
    return (
        f"## {part.name}\n\n{' '.join(part.about.split())}\n\n`{command}`, {time.monotonic() - began:.0f} s, "
        f"{this_machine().text()}.{how}\n\n```text\n" + "\n".join(lines) + "\n```\n\n"
    ), done.returncode


def merged(page: str, sections: dict[str, str], order: Sequence[str]) -> str:
    """The page with these sections in place of the old ones of the same name; sections of no part are gone."""
    kept = {match[1]: match[0].rstrip("\n") + "\n\n" for match in SECTION.finditer(page)}
    kept.update(sections)
    return (HEAD + "\n" + "".join(kept[name] for name in order if name in kept)).rstrip("\n") + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    every = parts(smoke=False)
    parser.add_argument("--smoke", action="store_true", help="small sizes")
    parser.add_argument("--only", action="append", choices=[part.name for part in every], metavar="NAME")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    statuses = []
    for part in parts(options.smoke):
        if options.only and part.name not in options.only:
            continue
        section, status = take(part)
        statuses.append(status)
        page = options.page.read_text() if options.page.exists() else ""
        options.page.write_text(merged(page, {part.name: section}, [each.name for each in every]))
    return max(statuses)


if __name__ == "__main__":
    sys.exit(main())
