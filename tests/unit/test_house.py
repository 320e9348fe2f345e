"""The house's own rules, held by a test: sizes with a ratchet, machines without I/O, documents that agree with code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("mesh", "gossip", "consensus", "scheduler", "storage", "query", "daemon", "cli")

FILE_LINES_MAX = 450
FUNCTION_LINES_MAX = 60

LONGER_FILES: dict[str, int] = {}
"""Files over the limit with the size they may have; only ever smaller (the ratchet)."""

MACHINES = (
    "gossip/*.py",
    "consensus/raft/*.py",
    "consensus/apply_*.py",
    "consensus/group.py",
    "consensus/ledger_*.py",
    "consensus/proposer.py",
    "consensus/records.py",
    "consensus/segments.py",
    "scheduler/filters.py",
    "scheduler/forecast.py",
    "scheduler/manifest.py",
    "scheduler/model.py",
    "scheduler/placement.py",
    "scheduler/reconcile.py",
    "scheduler/rollout.py",
    "scheduler/scores.py",
    "scheduler/ingress/balance.py",
    "scheduler/ingress/routes.py",
    "mesh/framing.py",
    "mesh/keepalive.py",
    "mesh/mux_events.py",
    "mesh/mux_state.py",
    "mesh/notices.py",
    "mesh/invite.py",
    "mesh/machine.py",
    "mesh/mux.py",
    "mesh/names.py",
    "mesh/trust.py",
    "mesh/versioned.py",
    "mesh/http/http1.py",
)
SHELLS = ("gossip/datagrams.py", "gossip/service.py", "gossip/watchers.py")
"""What the patterns above catch and is a shell all the same."""

IMPURE = {"trio", "socket", "ssl", "os", "time", "lmdb", "subprocess", "select", "threading", "pathlib", "tempfile"}
IMPURE_CALLS = {"datetime.now", "datetime.utcnow", "random.random", "random.choice", "random.randint", "random.shuffle"}


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def machines() -> list[Path]:
    found = {path for pattern in MACHINES for path in ROOT.glob(pattern)}
    return sorted(path for path in found if name(path) not in SHELLS)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_no_file_is_longer_than_one_subject_needs() -> None:
    lengths = {name(path): path.read_text().count("\n") for path in sources()}
    too_long = {path: length for path, length in lengths.items() if length > LONGER_FILES.get(path, FILE_LINES_MAX)}
    assert not too_long, "split by subject, or argue it in LONGER_FILES"
    slack = {path: limit for path, limit in LONGER_FILES.items() if lengths.get(path, 0) <= FILE_LINES_MAX}
    assert not slack, "these have become short enough: take them off LONGER_FILES"


def test_every_function_fits_on_a_screen() -> None:
    too_long = [
        f"{name(path)}:{node.lineno} {node.name} {length}"
        for path in sources()
        for node in functions(ast.parse(path.read_text()))
        if (length := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]
    assert not too_long


@pytest.mark.parametrize("path", machines(), ids=name)
def test_a_machine_does_no_io_and_asks_no_clock(path: Path) -> None:
    tree = ast.parse(path.read_text())
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            imported.add(node.module.split(".")[0])
    assert not imported & IMPURE
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not called & IMPURE_CALLS


@pytest.mark.parametrize("path", sources(), ids=name)
def test_every_module_says_what_it_is(path: Path) -> None:
    text = path.read_text()
    assert not text.strip() or ast.get_docstring(ast.parse(text))


def test_no_error_is_swallowed_below_the_edge() -> None:
    bare = re.compile(r"except( Exception| BaseException)?:\s*\n\s*(pass|continue)\b")
    guilty = [name(path) for path in sources() if bare.search(path.read_text())]
    assert not guilty


def test_secrets_are_compared_in_constant_time() -> None:
    """`==` on something called a secret, mac, hash or signature is a timing leak (attack 16)."""
    guilty = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare) and any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops):
                sides = [ast.unparse(side) for side in (node.left, *node.comparators)]
                if any(re.search(r"\b(secret|secret_hash|mac|signature|password)$", side) for side in sides):
                    guilty.append(f"{name(path)}:{node.lineno}")
    assert not guilty


def test_every_command_is_named_in_the_readme_or_its_help() -> None:
    from cli.main import COMMANDS, overview

    for command in COMMANDS:
        assert f"  {command} " in overview()


def test_every_dependency_has_its_reason() -> None:
    reasons = (ROOT / "docs" / "dependencies.md").read_text().lower()
    wanted = [line.strip().lower() for line in (ROOT / "requirements.in").read_text().splitlines() if line.strip()]
    assert not [package for package in wanted if f"| {package} |" not in reasons]


def test_the_locks_name_no_address_and_have_hashes() -> None:
    for lock in ("requirements.txt", "requirements-dev.txt"):
        text = (ROOT / lock).read_text()
        assert "://" not in text
        assert "--find-links" not in text
        pinned = [line for line in text.splitlines() if re.match(r"^[a-z0-9._-]+==", line, re.IGNORECASE)]
        assert pinned
        assert text.count("--hash=") >= len(pinned)


def test_every_settings_flag_of_the_daemon_is_documented() -> None:
    from daemon.config import SETTINGS

    text = (ROOT / "docs" / "configuration.md").read_text()
    assert not [setting for setting in SETTINGS if f"`{setting}`" not in text]


def test_every_error_code_is_documented() -> None:
    from mesh.errors import error_classes

    text = (ROOT / "docs" / "errors.md").read_text()
    assert not [cls.code for cls in error_classes() if f"`{cls.code}`" not in text]


def test_the_generated_parts_of_the_documents_are_current() -> None:
    from tests.tools.docs import GENERATED, rewritten

    stale = [page for page in GENERATED if (ROOT / page).read_text() != rewritten(page)]
    assert not stale, "run `make docs`"


def test_every_public_error_code_family_is_documented() -> None:
    """Codes are given where errors are raised; the family of each, up to its first dot, stands in errors.md."""
    text = (ROOT / "docs" / "errors.md").read_text()
    codes: set[str] = set()
    for path in sources():
        codes |= set(re.findall(r'code="([a-z]+(?:[.-][a-z-]+)*)"', path.read_text()))
    families = {code.split(".")[0] for code in codes if "." in code}
    assert not sorted(family for family in families if f"`{family}." not in text)
