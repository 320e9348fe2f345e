"""Done when, line 2, what is raced: a one-use token admits exactly one, whoever asks at once and whatever is cut off.

Tokens that admit nobody are told apart in test_first_mesh.py; strangers and removed nodes are met in test_who_may.py;
how long a join takes is a figure of `bench`.
"""

from __future__ import annotations

import concurrent.futures
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.home import Home
from tests.e2e.cluster import Cluster, Daemon, Done, cluster, wait_until

AT_ONCE = 10
ACROSS = 5
ESTABLISHED = "01"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that an app's own user can pass through, with a path short enough for a socket."""
    made = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def mesh(folder: Path) -> Iterator[Cluster]:
    with cluster(folder) as made:
        yield made


def joiners_of(mesh: Cluster, folder: Path, count: int) -> list[Daemon]:
    made = [Daemon(f"j{number}", folder / f"j{number}") for number in range(count)]
    mesh.nodes.extend(made)  # so that they are gone afterwards, whoever was admitted
    return made


def all_join(joiners: list[Daemon], token: str) -> list[Done]:
    with concurrent.futures.ThreadPoolExecutor(len(joiners)) as pool:
        return list(pool.map(lambda joiner: joiner.join(token), joiners))


def members(node: Daemon) -> set[str]:
    return {str(row["name"]) for row in node.client.get("/v1/nodes")["nodes"]}


@pytest.mark.deadline(180)
def test_a_one_use_token_used_by_ten_at_once_admits_exactly_one(mesh: Cluster, folder: Path) -> None:
    first, *others = mesh.start(3)  # three vote: the one that is admitted can be killed, and they still decide
    token = mesh.token(uses=1)
    joiners = joiners_of(mesh, folder, AT_ONCE)
    ends = all_join(joiners, token)
    assert sorted(end.status for end in ends) == [0] + [4] * (AT_ONCE - 1), [end.err for end in ends]
    assert all("used up" in end.err and end.err.count("\n") == 1 for end in ends if end.status == 4)
    (admitted,) = (joiner for joiner, end in zip(joiners, ends, strict=True) if end.status == 0)
    assert members(first) == {first.name, *(other.name for other in others), admitted.name}
    again_with_the_answer_lost(first, admitted, token)


def again_with_the_answer_lost(asked: Daemon, admitted: Daemon, token: str) -> None:
    """The same joiner's retry gets the same answer, though the token's one use is spent."""
    before = members(asked)
    known = admitted.status()["node"]["id"]
    admitted.kill_daemon()
    Home(admitted.home).mesh.unlink()
    assert admitted.join(token).status == 0
    assert admitted.status()["node"]["id"] == known
    assert members(asked) == before
    wait_until("it is a member as before", lambda: admitted.status()["quorum"]["has_quorum"])


@pytest.mark.deadline(240)
def test_a_one_use_token_used_while_the_majority_is_gone_admits_exactly_one_when_it_is_back(
    mesh: Cluster, folder: Path
) -> None:
    nodes = list(mesh.start(3))
    for node in nodes:
        wait_until("all vote", lambda node=node: len(node.status()["quorum"]["voters"]) == 3)
    leader = mesh.leader()
    alone, other = (node for node in nodes if node is not leader)
    token = alone.run("invite", "--uses", "1").out.strip()
    joiners = joiners_of(mesh, folder, ACROSS)
    paused = [leader, other]
    before, asked = askers(alone), set[str]()

    def all_ask() -> bool:
        asked.update(askers(alone) - before)
        return len(asked) >= ACROSS

    for node in paused:
        os.kill(node.pid or 0, signal.SIGSTOP)
    try:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            joining = pool.submit(all_join, joiners, token)
            wait_until("all of them ask", all_ask)
            for node in paused:
                os.kill(node.pid or 0, signal.SIGCONT)
            ends = joining.result(timeout=120)
    finally:
        for node in paused:
            os.kill(node.pid or 0, signal.SIGCONT)
    # Whoever gave up before there was a quorum asks again, and may be the one that was admitted.
    again = {
        number: joiners[number].join(token) for number, end in enumerate(ends) if end.status not in (0, 4)
    }
    final = [again.get(number, end) for number, end in enumerate(ends)]
    assert sorted(end.status for end in final) == [0] + [4] * (ACROSS - 1), [end.err for end in final]
    assert all("used up" in end.err for end in final if end.status == 4)
    (admitted,) = (joiner for joiner, end in zip(joiners, final, strict=True) if end.status == 0)
    for node in nodes:
        wait_until("all agree", lambda node=node: members(node) == {*(n.name for n in nodes), admitted.name})


def askers(node: Daemon) -> set[str]:
    """The other ends of what this node's mesh port has open, by the kernel's word."""
    port = int(node.addresses["mesh"].rpartition(":")[2])
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {there for _, here, there, state, *_ in lines if here.endswith(f":{port:04X}") and state == ESTABLISHED}
