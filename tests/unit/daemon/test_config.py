"""Flags over environment over freecloud.toml over defaults, and a clear word for what cannot be meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.config import default_home, is_loopback, load_config, split_address
from mesh.errors import UsageError


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "freecloud.toml").write_text('zone = "file"\nprovider = "file"\nname = "file"\n')
    environment = {"FREECLOUD_ZONE": "environment", "FREECLOUD_PROVIDER": "environment"}
    config = load_config({"home": str(tmp_path), "zone": "flag"}, environment)
    assert (config.zone, config.provider, config.name) == ("flag", "environment", "file")


def test_nothing_named_means_loopback_and_ports_that_may_give_way(tmp_path: Path) -> None:
    config = load_config({"home": str(tmp_path)}, {})
    assert (config.listen, config.http, config.ingress) == (None, None, None)


@pytest.mark.parametrize(
    "flags",
    [
        {"listen": "here"},
        {"listen": "127.0.0.1:99999"},
        {"listen": ":6700"},
        {"name": "Upper"},
        {"name": "-x"},
        {"name": "x" * 41},
        {"zone": "z" * 64},
        {"zone": "a\nb"},
        {"labels": "novalue"},
        {"labels": "a b=c"},
        {"unsandboxed": "perhaps"},
    ],
)
def test_a_value_that_cannot_be_meant_is_a_usage_error(tmp_path: Path, flags: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        load_config({"home": str(tmp_path), **flags}, {})


@pytest.mark.parametrize("content", ["zone = ", "zoo = 1", "\x00"])
def test_a_wrong_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "freecloud.toml").write_text(content)
    with pytest.raises(UsageError, match=r"freecloud\.toml"):
        load_config({"home": str(tmp_path)}, {})


def test_labels_come_sorted_from_flags_and_from_a_table(tmp_path: Path) -> None:
    assert load_config({"home": str(tmp_path), "labels": "b=2,a=1"}, {}).labels == (("a", "1"), ("b", "2"))
    (tmp_path / "freecloud.toml").write_text('[labels]\ndisk = "ssd"\n')
    assert load_config({"home": str(tmp_path)}, {}).labels == (("disk", "ssd"),)


def test_a_bare_port_is_on_loopback(tmp_path: Path) -> None:
    assert load_config({"home": str(tmp_path), "listen": "7000"}, {}).listen == "127.0.0.1:7000"
    assert split_address("[::1]:80") == ("::1", 80)
    assert is_loopback("127.0.0.9:1")
    assert not is_loopback("0.0.0.0:1")


def test_the_home_is_the_users_data_folder_unless_named() -> None:
    assert default_home({"XDG_DATA_HOME": "/data"}) == Path("/data/freecloud")
    assert default_home({"FREECLOUD_HOME": "/elsewhere", "XDG_DATA_HOME": "/data"}) == Path("/elsewhere")
