"""Folds changelog/*.md into CHANGELOG.md: `<topic>.<feature|fix|change>.md`, one change a file."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEADINGS = {"feature": "New", "change": "Changed", "fix": "Mended"}


def fold(root: Path, version: str) -> str:
    """The new CHANGELOG text; the fragments that went into it are the caller's to remove."""
    sections = []
    for kind, heading in HEADINGS.items():
        fragments = sorted((root / "changelog").glob(f"*.{kind}.md"))
        if fragments:
            sections.append(f"### {heading}\n\n" + "\n".join(f"- {path.read_text().strip()}" for path in fragments))
    text = (root / "CHANGELOG.md").read_text()
    title, _, rest = text.partition("\n\n")
    return f"{title}\n\n## {version}\n\n" + "\n\n".join(sections) + f"\n\n{rest}"


def main() -> int:
    from daemon.version import VERSION

    fragments = [path for kind in HEADINGS for path in (ROOT / "changelog").glob(f"*.{kind}.md")]
    if not fragments:
        return 0
    (ROOT / "CHANGELOG.md").write_text(fold(ROOT, VERSION))
    for path in fragments:
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
