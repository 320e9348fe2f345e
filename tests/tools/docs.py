"""Rewrites the generated parts of docs/: the code map (from the modules' first lines) and the API's operations.

`python -m tests.tools.docs` writes them; a test says when they are out of date.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("mesh", "gossip", "consensus", "scheduler", "storage", "query", "daemon", "cli")
BEGIN = "<!-- generated: {name} -->"
END = "<!-- end: {name} -->"


def code_map() -> str:
    """One line a file: its path and the first sentence of its docstring."""
    lines = []
    for package in PACKAGES:
        lines.append(f"\n**{package}/**\n")
        for path in sorted((ROOT / package).rglob("*.py")):
            text = path.read_text()
            documentation = ast.get_docstring(ast.parse(text)) or ""
            if path.name == "__init__.py" or not documentation:
                continue
            first = " ".join(documentation.split("\n\n")[0].split())
            lines.append(f"- `{path.relative_to(ROOT).as_posix()}`: {first}")
    return "\n".join(lines)


def operations() -> str:
    """Every operation of the API with the scope it asks."""
    from daemon.api.app import OPERATIONS

    rows = [f"| {op.method} | `{op.path}` | {op.scope} | {op.summary} |" for op in OPERATIONS]
    return "\n".join(["| method | path | scope | what |", "|---|---|---|---|", *rows])


GENERATED = {"docs/architecture.md": ("code map", code_map), "docs/api.md": ("operations", operations)}


def rewritten(page: str) -> str:
    """The page as it should be."""
    name, make = GENERATED[page]
    text = (ROOT / page).read_text()
    begin, end = BEGIN.format(name=name), END.format(name=name)
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{make()}\n{end}{after}"


def main() -> int:
    for page in GENERATED:
        (ROOT / page).write_text(rewritten(page))
    return 0


if __name__ == "__main__":
    sys.exit(main())
