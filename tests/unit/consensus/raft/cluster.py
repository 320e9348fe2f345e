"""A small cluster of the real Raft machine, driven by a heap and a seed, watched by oracles after every output.

The world may lose, double, delay and reorder messages, cut pairs, crash a node (its unsynced write then is lost,
torn or done), restart it, stall its disk, and change the membership. `Cluster.check_*` raise `OracleError`.

This is the unit tests' own little world; the simulator of whole nodes is `tests/sim`.
"""

from __future__ import annotations

import functools
import heapq
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from consensus.raft.config import RaftConfig
from consensus.raft.messages import (
    RAFT,
    Configuration,
    EntryKind,
    Envelope,
    HardState,
    LogEntry,
    ReplicaMark,
    SnapshotMeta,
    configuration_of,
)
from consensus.raft.outputs import (
    BecameLeader,
    NeedSnapshot,
    Outgoing,
    Output,
    Persist,
    RaftRole,
    ReadReady,
)
from consensus.raft.raft import Raft
from mesh.names import NodeId

GROUP = 1
CHUNK_BYTES = 256
STRAGGLER_S = (0.05, 3.0)
"""How long a message may be on its way that took the long road: beyond any election."""


class OracleError(AssertionError):
    """A promise of Raft was broken."""


@dataclass
class Stored:
    """What a node's disk has for sure."""

    store_id: bytes
    hard_state: HardState = field(default_factory=lambda: HardState(0, None))
    snapshot: SnapshotMeta = field(default_factory=lambda: SnapshotMeta(0, 0, configuration_of(frozenset())))
    snapshot_bytes: bytes = b"[]"
    entries: list[LogEntry] = field(default_factory=list)
    boots: int = 0

    def write(self, persist: Persist, *, parts: int | None = None) -> None:
        """Do a persist, or only its first `parts` parts (each entry is one): a torn write."""
        steps: list[Callable[[], None]] = []
        if persist.hard_state is not None:
            steps.append(lambda: setattr(self, "hard_state", persist.hard_state))
        if persist.reset_to is not None:
            steps.append(self.entries.clear)
        if persist.truncate_from is not None:
            steps.append(lambda: self._truncate(persist.truncate_from or 0))
        steps.extend(functools.partial(self._put, entry) for entry in persist.entries)
        for step in steps[:parts]:
            step()

    def _truncate(self, index: int) -> None:
        self.entries = [entry for entry in self.entries if entry.index < index]

    def _put(self, entry: LogEntry) -> None:
        expected = self.entries[-1].index + 1 if self.entries else self.snapshot.index + 1
        if entry.index != expected and self.entries:
            raise OracleError(f"entry {entry.index} was written where {expected} belongs")
        self.entries.append(entry)


class Node:
    """One replica with its disk and its state machine (the list of applied payloads)."""

    def __init__(self, cluster: Cluster, node_id: NodeId, stored: Stored) -> None:
        self.cluster = cluster
        self.node_id = node_id
        self.stored = stored
        self.may_vote = True
        self.raft: Raft | None = None
        self.applied: list[tuple[int, str]] = []
        self.writing: Persist | None = None
        self.gathered = b""
        self.wake_at = float("inf")
        self.promotion: tuple[int, int] | None = None  # index and term of the entry that re-admits it

    @property
    def is_up(self) -> bool:
        return self.raft is not None

    def start(self) -> None:
        stored = self.stored
        stored.boots += 1
        mark = ReplicaMark(self.node_id, stored.store_id, stored.boots, stored.boots.to_bytes(8, "big"))
        self.applied = [(index, text) for index, text in json.loads(stored.snapshot_bytes)]
        self.raft = Raft(
            self.cluster.config,
            mark,
            group=GROUP,
            epoch=1,
            hard_state=stored.hard_state,
            snapshot=stored.snapshot,
            entries=tuple(stored.entries),
            applied=stored.snapshot.index,
            rng=random.Random(self.cluster.rng.random()),
            now=self.cluster.now,
            may_vote=self.may_vote,
        )
        self.raft.set_known_marks(self.cluster.known)
        self.cluster.drain(self)

    def crash(self) -> None:
        """Power off: the write under way is lost, torn or done; memory is gone."""
        if self.writing is not None:
            rng = self.cluster.rng
            parts = rng.choice([0, None, rng.randrange(0, 4)])
            self.stored.write(self.writing, parts=parts)
        self.raft = None
        self.writing = None
        self.gathered = b""
        self.wake_at = float("inf")

    def restart(self) -> None:
        self.crash()
        self.start()

    def leads(self) -> bool:
        return self.raft is not None and self.raft.status().role is RaftRole.LEADER


class Cluster:
    """The world. Everything random comes from `seed`."""

    def __init__(
        self,
        seed: int,
        size: int = 3,
        *,
        config: RaftConfig | None = None,
        loss: float = 0.0,
        duplicates: float = 0.0,
        delay_s: tuple[float, float] = (0.0005, 0.002),
        write_s: tuple[float, float] = (0.0005, 0.002),
        stragglers: float = 0.0,
        crashes: float = 0.0,
        snapshot_every: int = 0,
    ) -> None:
        self.rng = random.Random(seed)
        self.config = config or RaftConfig()
        self.loss = loss
        self.duplicates = duplicates
        self.delay_s = delay_s
        self.write_s = write_s
        self.snapshot_every = snapshot_every
        self.stragglers = stragglers
        self.crashes = crashes
        self.at_peace = False
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self.cuts: set[tuple[NodeId, NodeId]] = set()
        self.stalled: set[NodeId] = set()
        self.nodes: dict[NodeId, Node] = {}
        self.known: dict[NodeId, ReplicaMark] = {}  # the ledger's word: stores, no start
        self.leaders: dict[int, NodeId] = {}
        self.committed: dict[int, LogEntry] = {}
        self.acknowledged = 0
        self.proposed: dict[tuple[int, int], str] = {}
        self._tokens: dict[int, int] = {}
        self._next_token = 0
        self.reads_ready = 0
        self.delivered = 0
        self.wiretap: Callable[[Outgoing], None] | None = None
        voters = frozenset(node_name(number) for number in range(1, size + 1))
        for number in range(1, size + 1):
            self.add(number, configuration_of(voters))

    # --- nodes ------------------------------------------------------------------------------------------------

    def add(self, number: int, configuration: Configuration | None = None) -> Node:
        """A new node; without a configuration it knows nobody and waits to be told."""
        node_id = node_name(number)
        stored = Stored(store_id=number.to_bytes(16, "big"))
        stored.snapshot = SnapshotMeta(0, 0, configuration or configuration_of(frozenset()))
        node = Node(self, node_id, stored)
        self.nodes[node_id] = node
        self.known[node_id] = ReplicaMark(node_id, stored.store_id, 0, b"")
        node.start()
        return node

    def node(self, number: int) -> Node:
        return self.nodes[node_name(number)]

    def leader(self) -> Node | None:
        """The leader of the highest term among those that are up."""
        leading = [node for node in self.nodes.values() if node.leads()]
        return max(leading, key=lambda node: status(node).term, default=None)

    def ready_leader(self) -> Node | None:
        leader = self.leader()
        return leader if leader is not None and status(leader).ready else None

    # --- time -------------------------------------------------------------------------------------------------

    def at(self, when: float, act: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (when, self._sequence, act))

    def step(self) -> None:
        when, _, act = heapq.heappop(self._heap)
        self.now = max(self.now, when)
        act()

    def run_for(self, seconds: float) -> None:
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            self.step()
        self.now = end

    def run_until(self, condition: Callable[[], object], *, limit_s: float) -> bool:
        """Run until the condition holds after some event; False if the limit came first."""
        end = self.now + limit_s
        while not condition():
            if not self._heap or self._heap[0][0] > end:
                self.now = end
                return bool(condition())
            self.step()
        return True

    def elect(self) -> Node:
        """Run until a leader is ready."""
        if not self.run_until(self.ready_leader, limit_s=20):
            raise OracleError("no leader was found in 20 s")
        leader = self.ready_leader()
        assert leader is not None
        return leader

    # --- driving one node -------------------------------------------------------------------------------------

    def touch(self, node: Node, act: Callable[[Raft], object]) -> object:
        """Feed a node if it is up, and carry out what it says."""
        if node.raft is None:
            return None
        result = act(node.raft)
        self.drain(node)
        return result

    def drain(self, node: Node) -> None:
        raft = node.raft
        while raft is not None and node.raft is raft:
            output = raft.take_output()
            if output == EMPTY:
                break
            self._perform(node, raft, output)
        self._plan_wake(node)

    def _plan_wake(self, node: Node) -> None:
        if node.raft is None:
            return
        wanted = max(node.raft.next_deadline(), self.now)
        if wanted < node.wake_at:
            node.wake_at = wanted
            raft = node.raft
            self.at(wanted, lambda: self._wake(node, raft, wanted))

    def _wake(self, node: Node, raft: Raft, planned: float) -> None:
        if node.raft is raft and node.wake_at == planned:
            node.wake_at = float("inf")
            self.touch(node, lambda raft: raft.tick(self.now))

    def _perform(self, node: Node, raft: Raft, output: Output) -> None:
        for event in output.events:
            if isinstance(event, BecameLeader):
                self._check_leader(node, event.term)
        if output.persist is not None:
            self._write(node, raft, output.persist, output.send_after_persist)
            if self.rng.random() < self.crashes:
                self.at(self.now + self.rng.uniform(0, self.write_s[1]), lambda: self._crash_and_start(node, raft))
        elif output.send_after_persist:
            raise OracleError("something waits for a write that does not exist")
        for outgoing in output.send:
            self._send(node.node_id, outgoing)
        for chunk in output.chunks:
            node.gathered = chunk.payload if chunk.offset == 0 else node.gathered + chunk.payload
        if output.install is not None:
            self._install(node, raft, output.install.meta)
        for need in output.snapshot_needed:
            self._serve_snapshot(node, raft, need)
        for entry in output.committed:
            self._apply(node, raft, entry)
        if output.compact_to:
            node.stored.entries = [entry for entry in node.stored.entries if entry.index > output.compact_to]
        for answer in output.reads:
            self._finish_read(node, answer)

    def _write(self, node: Node, raft: Raft, persist: Persist, after: tuple[Outgoing, ...]) -> None:
        if node.writing is not None:
            raise OracleError("two writes are outstanding")
        node.writing = persist

        def done() -> None:
            if node.raft is not raft or node.writing is not persist:
                return
            if node.node_id in self.stalled:
                self.at(self.now + 0.05, done)
                return
            node.stored.write(persist)
            node.writing = None
            for outgoing in after:
                self._send(node.node_id, outgoing)
            self.touch(node, lambda raft: raft.persisted(self.now, persist.ticket))

        self.at(self.now + self.rng.uniform(*self.write_s), done)

    def _send(self, sender: NodeId, outgoing: Outgoing) -> None:
        if self.wiretap is not None:
            self.wiretap(outgoing)
        copies = 2 if self.rng.random() < self.duplicates else 1
        for _ in range(copies):
            if (sender, outgoing.to) not in self.cuts and self.rng.random() >= self.loss:
                straggles = self.rng.random() < self.stragglers
                when = self.now + self.rng.uniform(*(STRAGGLER_S if straggles else self.delay_s))
                self.at(when, lambda: self._deliver(outgoing.to, outgoing.envelope))

    def _deliver(self, to: NodeId, envelope: Envelope) -> None:
        node = self.nodes.get(to)
        if node is None:
            return
        self.delivered += 1
        self.touch(node, lambda raft: raft.receive(self.now, envelope))

    def _crash_and_start(self, node: Node, raft: Raft) -> None:
        if node.raft is raft:
            node.crash()
            pause = self.rng.choice([0.0, 0.01, 0.3])
            self.at(self.now + pause, lambda: None if node.is_up else node.start())

    # --- the state machine ------------------------------------------------------------------------------------

    def _apply(self, node: Node, raft: Raft, entry: LogEntry) -> None:
        known = self.committed.setdefault(entry.index, entry)
        if known != entry:
            raise OracleError(f"{node.node_id} applied {entry} where {known} was committed")
        if node.applied and entry.index <= node.applied[-1][0]:
            raise OracleError(f"{node.node_id} applied {entry.index} after {node.applied[-1][0]}")
        if not any(stored.index == entry.index and stored.term == entry.term for stored in node.stored.entries):
            raise OracleError(f"{node.node_id} applied {entry.index}, which its disk does not have")
        text = entry.payload.decode() if entry.kind is EntryKind.NORMAL else ""
        node.applied.append((entry.index, text))
        raft.applied_to(self.now, entry.index)
        if node.leads() and (entry.index, entry.term) in self.proposed:
            self.acknowledged = max(self.acknowledged, entry.index)
        if self.snapshot_every and entry.index % self.snapshot_every == 0:
            self._take_snapshot(node, raft, entry.index)

    def _take_snapshot(self, node: Node, raft: Raft, index: int) -> None:
        meta = raft.snapshot_meta(index)
        node.stored.snapshot = meta
        node.stored.snapshot_bytes = json.dumps(node.applied).encode()
        raft.snapshot_taken(self.now, meta)

    def _serve_snapshot(self, node: Node, raft: Raft, need: NeedSnapshot) -> None:
        stored = node.stored
        offset = need.offset if need.index == stored.snapshot.index else 0
        payload = stored.snapshot_bytes[offset : offset + CHUNK_BYTES]
        done = offset + len(payload) >= len(stored.snapshot_bytes)
        raft.snapshot_chunk(self.now, need.to, stored.snapshot, offset, payload, done=done)

    def _install(self, node: Node, raft: Raft, meta: SnapshotMeta) -> None:
        gathered = node.gathered

        def done() -> None:
            if node.raft is not raft:
                return
            node.stored.snapshot = meta
            node.stored.snapshot_bytes = gathered
            node.applied = [(index, text) for index, text in json.loads(gathered)]
            for index, text in node.applied:
                known = self.committed.get(index)
                if known is None or (known.kind is EntryKind.NORMAL and known.payload.decode() != text):
                    raise OracleError(f"the snapshot of {node.node_id} holds what was not committed at {index}")
            self.touch(node, lambda raft: raft.snapshot_installed(self.now, meta))

        self.at(self.now + self.rng.uniform(*self.write_s) * 4, done)

    # --- clients ----------------------------------------------------------------------------------------------

    def propose(self, text: str, node: Node | None = None) -> tuple[int, int] | None:
        """Through this node, or the leader; None if it was refused."""
        node = node or self.leader()
        if node is None:
            return None
        result = self.touch(node, lambda raft: raft.propose(self.now, [text.encode()]))
        if not isinstance(result, tuple):
            return None
        self.proposed[result] = text
        return result

    def read(self, node: Node) -> None:
        """Ask for a linearizable read, and remember what had been acknowledged before."""
        self._next_token += 1
        token = self._next_token
        self._tokens[token] = self.acknowledged
        self.touch(node, lambda raft: raft.read_index(self.now, token))

    def _finish_read(self, node: Node, answer: object) -> None:
        if not isinstance(answer, ReadReady):
            return
        floor = self._tokens.pop(answer.token)
        if answer.index < floor:
            raise OracleError(f"a read at {node.node_id} saw {answer.index}, and {floor} was acknowledged before it")
        applied = node.applied[-1][0] if node.applied else node.stored.snapshot.index
        if applied < floor:
            raise OracleError(f"a read at {node.node_id} was ready before its state was")
        self.reads_ready += 1

    def change(self, voters: set[int], learners: set[int]) -> object:
        leader = self.leader()
        if leader is None:
            return None
        return self._change(leader, frozenset(map(node_name, voters)), frozenset(map(node_name, learners)))

    def _change(self, leader: Node, voters: frozenset[NodeId], learners: frozenset[NodeId]) -> object:
        return self.touch(leader, lambda raft: raft.change_membership(self.now, voters, learners))

    # --- faults -----------------------------------------------------------------------------------------------

    def cut(self, one: int, other: int, *, both: bool = True) -> None:
        if self.at_peace:
            return  # planned before the faults stopped
        self.cuts.add((node_name(one), node_name(other)))
        if both:
            self.cuts.add((node_name(other), node_name(one)))

    def isolate(self, number: int) -> None:
        for other in self.nodes:
            self.cuts.add((node_name(number), other))
            self.cuts.add((other, node_name(number)))

    def wipe(self, node: Node) -> None:
        """Its disk is lost: it returns with a new store, which the ledger learns, and may not vote (fault D5)."""
        node.crash()
        serial = int.from_bytes(node.stored.store_id, "big") + 1000
        node.stored = Stored(store_id=serial.to_bytes(16, "big"))
        node.may_vote = False
        node.promotion = None
        node.start()
        self.known[node.node_id] = ReplicaMark(node.node_id, node.stored.store_id, 0, b"")
        for other in list(self.nodes.values()):
            if other.raft is not None:
                other.raft.set_known_marks(self.known)

    def readmit(self) -> None:
        """The leader's duty: whose store is new becomes a learner, then a voter; then it may vote again (rule T3)."""
        leader = self.ready_leader()
        for node in list(self.nodes.values()):
            if node.may_vote or node.raft is None or leader is None or leader.raft is None:
                continue
            if node.promotion is not None and self._has_applied(node, *node.promotion):
                node.may_vote = True
                node.raft.allow_votes(self.now)
                continue
            current = leader.raft.status().configuration
            voters, learners = current.voters, current.learners
            if node.node_id in voters and node.promotion is None:
                self._change(leader, voters - {node.node_id}, learners | {node.node_id})
            elif node.node_id in learners:
                index = self._change(leader, voters | {node.node_id}, learners - {node.node_id})
                node.promotion = (index, leader.raft.status().term) if isinstance(index, int) else None

    def _has_applied(self, node: Node, index: int, term: int) -> bool:
        entry = self.committed.get(index)
        return entry is not None and entry.term == term and status(node).applied >= index

    def close_links(self, number: int) -> None:
        """The kernel of this node's machine closes all its links: the others notice at almost the same time."""
        closed = node_name(number)
        for other in list(self.nodes.values()):
            if other.node_id != closed:
                when = self.now + self.rng.uniform(0, 0.002)
                self.at(when, lambda other=other: self.touch(other, lambda r: r.peer_link_closed(self.now, closed)))

    def make_peace(self) -> None:
        """All faults stop, for good."""
        self.at_peace = True
        self.cuts.clear()
        self.stalled.clear()
        self.loss = self.duplicates = self.stragglers = self.crashes = 0.0

    # --- oracles ----------------------------------------------------------------------------------------------

    def _check_leader(self, node: Node, term: int) -> None:
        """At most one leader a term; and it has all that was committed in earlier ones (leader completeness)."""
        known = self.leaders.setdefault(term, node.node_id)
        if known != node.node_id:
            raise OracleError(f"term {term} has two leaders: {known} and {node.node_id}")
        if node.raft is None:
            return
        log = node.raft._core.log
        for index, entry in self.committed.items():
            if entry.term < term and index >= log.first_index and log.term_at(index) != entry.term:
                raise OracleError(f"{node.node_id} leads term {term} without the committed entry {index}")

    def check_logs(self) -> None:
        """Log matching: two logs with the same term at an index are the same up to it."""
        up = [node.raft._core.log for node in self.nodes.values() if node.raft is not None]
        for at, one in enumerate(up):
            for other in up[at + 1 :]:
                agreed = False
                for index in range(min(one.last_index, other.last_index), max(one.first_index, other.first_index), -1):
                    same = one.term_at(index) == other.term_at(index)
                    if agreed and one.entries(index, index) != other.entries(index, index):
                        raise OracleError(f"two logs agree above {index} and differ there")
                    agreed = agreed or same
        for node in self.nodes.values():
            if node.raft is not None:
                self._check_committed(node, node.raft)

    def _check_committed(self, node: Node, raft: Raft) -> None:
        log = raft._core.log
        for index in range(log.first_index, log.commit + 1):
            known = self.committed.get(index)
            if known is not None and log.entries(index, index)[0] != known:
                raise OracleError(f"{node.node_id} holds another committed entry at {index}")

    def check_rest(self, away: NodeId | None = None) -> None:
        """At rest every counter of flow control is back at zero (pitfall 25)."""
        leader = self.ready_leader()
        if leader is None:
            raise OracleError("there is no leader at rest")
        seen = status(leader)
        if seen.uncommitted_bytes != 0:
            raise OracleError(f"{seen.uncommitted_bytes} uncommitted bytes are counted at rest")
        for peer in seen.progress:
            if peer.node_id != away and (peer.inflight_messages or peer.inflight_bytes):
                raise OracleError(f"{peer.node_id} has messages in flight at rest")


EMPTY = Output(None, (), (), (), (), (), (), None, 0, ())


def node_name(number: int) -> NodeId:
    return NodeId(f"n{number}")


def status(node: Node):  # type: ignore[no-untyped-def]
    assert node.raft is not None, f"{node.node_id} is down"
    return node.raft.status()


def through_the_wire(outgoing: Outgoing) -> None:
    """A wiretap that proves that each message survives its codec."""
    if RAFT.decode(RAFT.encode(outgoing.envelope), Envelope) != outgoing.envelope:
        raise OracleError(f"{outgoing.envelope} does not survive the wire")
