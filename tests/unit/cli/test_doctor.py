"""What the doctor finds on this machine, by itself."""

from __future__ import annotations

import socket
from pathlib import Path

from cli.doctor import LACKS, _closed, _home, _port
from daemon.home import Home
from scheduler.runtimes.sandbox import Rung


def test_a_home_that_others_can_read_is_told_with_what_to_do(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.prepare()
    assert _closed(home.root)["ok"]
    assert all(finding["ok"] for finding in _home(home.root))
    home.identity.chmod(0o755)
    finding = _closed(home.root)
    assert not finding["ok"]
    assert "identity" in finding["text"]
    assert f"chmod -R go-rw {home.root}" in finding["hint"]
    assert not next(_home(tmp_path / "nowhere"))["ok"]


def test_a_port_is_tried_and_how_far_it_reaches_is_told() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        closed = _port("mesh", address)
        assert (closed["ok"], "firewall" in closed["hint"]) == (False, True)
        listener.listen()
        assert _port("mesh", address)["text"].endswith("from this machine alone")
        assert _port("mesh", f"0.0.0.0:{listener.getsockname()[1]}")["text"].endswith("can be reached")


def test_every_rung_of_the_ladder_is_told_with_what_it_lacks() -> None:
    assert set(LACKS) == {rung.value for rung in Rung}
