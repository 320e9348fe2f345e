"""`python -m bench`: every claim, listed and run; names choose some, `--full` takes the sizes they are made with."""

from __future__ import annotations

import argparse
import subprocess
import sys

from bench.claims import CLAIMS
from bench.machine import ROOT


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *CLAIMS], metavar="NAME", help=", ".join(CLAIMS))
    parser.add_argument("--full", action="store_true", help="the sizes that the claims are made with")
    parser.add_argument("--list", action="store_true", help="say what is claimed and run nothing")
    options = parser.parse_args()
    names = options.names or list(CLAIMS)
    for name in names:
        print(f"{name.ljust(14)} {CLAIMS[name].text.splitlines()[0]}", flush=True)
    if options.list:
        return 0
    # Each in a process of its own: none inherits another's memory, priority or children.
    size = ["--full"] if options.full else []
    statuses = [subprocess.run([sys.executable, "-m", f"bench.{name}", *size], cwd=ROOT).returncode for name in names]
    return max(statuses)


if __name__ == "__main__":
    sys.exit(main())
