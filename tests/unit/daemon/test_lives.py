"""One home may see several lives in one start; which refusals begin another, and which end the program."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemon import lives
from daemon.config import Config
from daemon.home import Home
from daemon.lives import LIVES_MAX, run_node
from daemon.ready import Ready
from daemon.standing import StartOver
from mesh.errors import FencedError


@pytest.fixture(autouse=True)
def same_umask() -> Iterator[None]:
    """A node sets its process' own; here it is the tests'."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def lived(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Have the lives of a node end like this, one after the other; returns the stories they were begun with."""

    def ends(*outcomes: Exception | None) -> list[str]:
        stories: list[str] = []

        async def live(config: Config, home: Home, ready: Ready, story: str = "") -> None:
            stories.append(story)
            outcome = outcomes[min(len(stories), len(outcomes)) - 1]
            if outcome is not None:
                raise outcome

        monkeypatch.setattr(lives, "_live", live)
        return stories

    return ends


async def test_an_old_memory_is_moved_aside_once_and_told(lived: Callable[..., list[str]], tmp_path: Path) -> None:
    stories = lived(StartOver("it is old"), None)
    await run_node(Config(home=tmp_path / "h", name="n1"))
    first, second = stories
    assert (first, second.startswith("it is old")) == ("", True)
    assert any((tmp_path / "h" / "lost+found").iterdir())


async def test_a_memory_that_is_refused_anew_has_a_double(lived: Callable[..., list[str]], tmp_path: Path) -> None:
    lived(StartOver("it is old"))
    with pytest.raises(FencedError, match="again and again"):
        await run_node(Config(home=tmp_path / "h", name="n1"))


async def test_what_was_learnt_from_one_left_behind_is_learnt_again(
    lived: Callable[..., list[str]], tmp_path: Path
) -> None:
    given_up = StartOver("it belongs to an epoch that was given up", is_given_up=True)
    stories = lived(StartOver("it is old"), given_up, given_up, None)
    await run_node(Config(home=tmp_path / "h", name="n1"))
    assert len(stories) == 4


async def test_not_for_ever(lived: Callable[..., list[str]], tmp_path: Path) -> None:
    stories = lived(StartOver("given up", is_given_up=True))
    with pytest.raises(FencedError):
        await run_node(Config(home=tmp_path / "h", name="n1"))
    assert len(stories) == LIVES_MAX
