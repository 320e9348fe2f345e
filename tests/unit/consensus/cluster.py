"""Groups on disks in memory, wired by a lossless network with a clock that jumps: small enough to follow by hand."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

from consensus.beginnings import founding_write
from consensus.group import Group
from consensus.group_effects import GroupConfig, GroupOutput, PeerFact, PeerFacts, Settled, StateMachine
from consensus.log_store import LogOptions, LogStore
from consensus.pull import Pull, PullRequest
from consensus.raft.messages import RAFT, Envelope, ReplicaMark
from consensus.raft.outputs import ReadReady, ReadRefused, Refusal
from consensus.snapshot_store import SnapshotStore
from mesh.errors import DamagedError, FreecloudError
from mesh.names import MeshId, NodeId
from tests.unit.consensus.memory_disk import MemoryDisk

KEY = b"k" * 32
MESH = MeshId("mesh")
OPTIONS = LogOptions(segment_bytes=16 * 1024, ballast_bytes=0)


class Tape:
    """A state machine that remembers what was applied, in order."""

    def __init__(self) -> None:
        self.applied = 0
        self.tape: list[bytes] = []

    def apply(self, index: int, term: int, payload: bytes) -> bytes:
        assert index > self.applied
        self.applied = index
        self.tape.append(payload)
        return b"done:" + payload

    def advance(self, index: int) -> None:
        self.applied = max(self.applied, index)

    def snapshot(self) -> bytes:
        return b"|".join([str(self.applied).encode(), *self.tape])

    def restore(self, payload: bytes) -> None:
        applied, *tape = payload.split(b"|")
        if not applied.isdigit():
            raise DamagedError("no tape")
        self.applied, self.tape = int(applied), tape


def no_facts(machine: StateMachine) -> PeerFacts:
    return lambda node_id: None


class Node:
    """One node: its disks outlive its `Group`."""

    def __init__(self, name: str, cluster: Cluster) -> None:
        self.name = NodeId(name)
        self.cluster = cluster
        self.log_disk, self.snapshot_disk = MemoryDisk(), MemoryDisk()
        self.boots = 0
        self.group: Group | None = None
        self.store: LogStore
        self.snapshots: SnapshotStore
        self.settled: list[Settled] = []
        self.reads: list[ReadReady | ReadRefused] = []
        self.events: list[object] = []

    def start(self, *, found: bool = False) -> None:
        rng = random.Random(f"{self.name}{self.boots}")
        self.boots += 1
        self.store = LogStore.open(self.log_disk, KEY, random_bytes=rng.randbytes, options=OPTIONS)
        self.snapshots = SnapshotStore(self.snapshot_disk, KEY, random_bytes=rng.randbytes)
        if found:
            self.store.write([founding_write(self.name)])
            self.store.close()
            self.store = LogStore.open(self.log_disk, KEY, random_bytes=rng.randbytes, options=OPTIONS)
        recovered = self.store.recovered(0)
        self.group = Group(
            self.cluster.config,
            ReplicaMark(self.name, self.store.store_id, self.boots, rng.randbytes(8)),
            group=0,
            mesh_id=MESH,
            recovered=recovered,
            snapshot=self.snapshots.newest(0, covering=recovered.base),
            new_machine=Tape,
            facts=self.cluster.facts,
            rng=rng,
            now=self.cluster.now,
        )

    def crash(self, *, wipe: bool = False) -> None:
        rng = random.Random(self.boots)
        self.log_disk = MemoryDisk() if wipe else self.log_disk.crash(rng)
        self.snapshot_disk = MemoryDisk() if wipe else self.snapshot_disk.crash(rng)
        self.group = None

    @property
    def tape(self) -> list[bytes]:
        assert self.group is not None
        machine = self.group.machine
        assert isinstance(machine, Tape)
        return machine.tape

    def perform(self) -> None:
        """Do what the group wants; the disk is done at once."""
        while self.group is not None:
            output = self.group.take_output()
            self.settled += output.settled
            self.reads += output.reads
            self.events += output.events
            for outgoing in output.send:
                self.cluster.post(self.name, outgoing.to, outgoing.envelope)
            if output.pull is not None:
                self.cluster.ask(self, output.pull)
            if not self._write(output):
                return

    def _write(self, output: GroupOutput) -> bool:
        assert self.group is not None
        if output.compact_to:
            self.store.compact(0, output.compact_to)
        if output.save is not None:
            self.snapshots.save(0, output.save.meta, output.save.payload)
            self.group.snapshot_saved(self.cluster.now, output.save.meta)
        if output.write is not None:
            self.store.write([output.write])
            self.group.written(self.cluster.now)
        return output.write is not None or output.save is not None


class Cluster:
    """Nodes by name, and the network between them."""

    def __init__(self, *names: str, config: GroupConfig | None = None) -> None:
        self.config = config or GroupConfig()
        self.now = 100.0
        self.facts: Callable[[StateMachine], PeerFacts] = no_facts
        self.cut: set[str] = set()  # from everybody
        self.apart: set[frozenset[str]] = set()  # pairs that do not hear each other
        self._posted: deque[tuple[NodeId, NodeId, bytes]] = deque()
        self._asked: deque[tuple[Node, Pull]] = deque()
        self._open: list[tuple[Node, Pull, float]] = []
        self.nodes = {name: Node(name, self) for name in names}

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def post(self, source: NodeId, to: NodeId, envelope: Envelope) -> None:
        self._posted.append((source, to, RAFT.encode(envelope)))

    def ask(self, node: Node, pull: Pull) -> None:
        self._asked.append((node, pull))

    def _reaches(self, source: str, to: str) -> bool:
        return to in self.nodes and self.nodes[to].group is not None and self._hears(source, to)

    def _hears(self, source: str, to: str) -> bool:
        return not {source, to} & self.cut and frozenset((source, to)) not in self.apart

    def _deliver(self) -> bool:
        if self._posted:
            source, to, payload = self._posted.popleft()
            group = self.nodes[to].group if to in self.nodes else None
            if group is not None and self._reaches(source, to):
                group.receive(self.now, RAFT.decode(payload, Envelope))
                self.nodes[to].perform()
            return True
        if self._asked:
            node, pull = self._asked.popleft()
            wait_s = pull.request.wait_ms / 1000 if isinstance(pull.request, PullRequest) else 0.0
            self._answer(node, pull, self.now + wait_s)
            return True
        return False

    def _reopen(self) -> bool:
        """Look again at the questions that peers keep open."""
        opened, self._open = self._open, []
        before = len(self._posted)
        for node, pull, until in opened:
            self._answer(node, pull, until)
        return len(self._posted) > before or len(self._open) < len(opened)

    def _answer(self, node: Node, pull: Pull, pull_until: float) -> None:
        if node.group is None:
            return
        group = self.nodes[pull.to].group
        if group is None or not self._reaches(node.name, pull.to):
            node.group.pull_failed(self.now, pull.number, "unreachable")
        else:
            try:
                if isinstance(pull.request, PullRequest):
                    answer = group.serve_pull(self.now, pull.request)
                    if not answer.entries and not answer.use_snapshot and self.now < pull_until:
                        self._open.append((node, pull, pull_until))
                        return
                    node.group.pull_answered(self.now, pull.number, answer)
                else:
                    node.group.pull_answered(self.now, pull.number, group.serve_piece(self.now, pull.request))
            except FreecloudError as error:
                node.group.pull_failed(self.now, pull.number, error.stable_code)
        node.perform()

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Let it run; stops early when `until` holds."""
        end = self.now + seconds
        steps = 0
        while not until():
            steps += 1
            assert steps < 200_000, "it never rests"
            if self._deliver():
                continue
            live = [node for node in self.nodes.values() if node.group is not None]
            for node in live:
                assert node.group is not None
                others = [name for name in self.nodes if self._reaches(node.name, name) and name != node.name]
                node.group.set_sources(self.now, [NodeId(name) for name in others])
                node.perform()
            if self._posted or self._asked or self._reopen():
                continue
            due = min((node.group.next_deadline() for node in live if node.group is not None), default=end)
            due = min([due, *(until for _, _, until in self._open)])
            if due > end:
                self.now = end
                return
            self.now = max(self.now, due)
            for node in live:
                if node.group is not None and node.group.next_deadline() <= self.now:
                    node.group.tick(self.now)
                    node.perform()

    def leader(self) -> Node:
        """The one node that leads, once there is one."""
        self.run(10, lambda: self._leading() is not None)
        found = self._leading()
        assert found is not None, "nobody leads"
        return found

    def _leading(self) -> Node | None:
        heard = [node for node in self.nodes.values() if node.name not in self.cut]
        leading = [node for node in heard if node.group is not None and node.group.is_leader]
        return leading[0] if len(leading) == 1 else None

    def propose(self, payload: bytes) -> bytes | None:
        """Through whoever leads; returns the result."""
        leader = self.leader()
        assert leader.group is not None
        token = len(leader.settled) + 1000
        refusal = leader.group.propose(self.now, token, payload)
        assert not isinstance(refusal, Refusal), refusal
        leader.perform()
        self.run(5, lambda: any(settled.token == token for settled in leader.settled))
        return next(settled.result for settled in leader.settled if settled.token == token)

    def set_members(self, voters: str, learners: str = "") -> None:
        """Have these voters and learners; each a letter."""
        leader = self.leader()
        assert leader.group is not None
        wanted = (frozenset(map(NodeId, voters)), frozenset(map(NodeId, learners)))
        answer: int | Refusal = Refusal(None, "not asked yet")

        def taken() -> bool:
            nonlocal answer
            if isinstance(answer, Refusal):
                answer = leader.group.change_membership(self.now, *wanted) if leader.group else answer
                leader.perform()
            return not isinstance(answer, Refusal)

        self.run(5, taken)
        assert not isinstance(answer, Refusal), answer
        self.run(3, lambda: self._rests(wanted))
        assert self._rests(wanted)
        self.run(0.5)  # the others hear of it, too

    def _rests(self, wanted: tuple[frozenset[NodeId], frozenset[NodeId]]) -> bool:
        leader = self._leading()
        if leader is None or leader.group is None:
            return False
        members = leader.group.configuration
        return (members.voters, members.learners) == wanted and not members.is_joint


def founded(voters: str, *others: str, config: GroupConfig | None = None) -> Cluster:
    """A cluster in which these letters are voters, made as a mesh is made: one founder, the others one by one."""
    cluster = Cluster(*voters, *others, config=config)
    cluster[voters[0]].start(found=True)
    cluster.leader()
    for name in [*voters[1:], *others]:
        cluster[name].start()
    for count in range(2, len(voters) + 1):
        cluster.set_members(voters[: count - 1], voters[count - 1])
        cluster.set_members(voters[:count])
    return cluster


__all__ = ["Cluster", "PeerFact", "Tape", "founded"]
