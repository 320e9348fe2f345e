"""The key under a passphrase: sealed on the disk, whole in memory, and nobody's without the passphrase."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

import pytest

from mesh.errors import DamagedError, FreecloudError, RefusedError
from mesh.identity import KEY_FILE, create_identity, load_identity

WORDS = b"correct horse battery staple"


def test_a_sealed_key_opens_with_its_passphrase_alone(tmp_path: Path) -> None:
    made = create_identity(tmp_path, WORDS)
    text = (tmp_path / KEY_FILE).read_text()
    assert "PRIVATE KEY" not in text
    assert "CERTIFICATE" not in text
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600
    again = load_identity(tmp_path, WORDS)
    assert again == made or (again.node_id, again.certificate) == (made.node_id, made.certificate)
    assert again.derive_key("log") == made.derive_key("log")
    for wrong in (b"", b"x", WORDS + b" "):
        with pytest.raises(RefusedError) as refused:
            load_identity(tmp_path, wrong)
        assert refused.value.stable_code == "key.passphrase"
        assert refused.value.hint


def test_tls_takes_the_key_from_memory(tmp_path: Path) -> None:
    identity = create_identity(tmp_path, WORDS)
    for each in (identity, load_identity(tmp_path, WORDS)):
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(each.pem_path)
        assert not each.pem_path.is_relative_to(tmp_path)
        assert "memfd:freecloud-key" in str(each.pem_path.readlink())
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]


def test_a_key_in_clear_is_sealed_by_the_first_start_with_a_passphrase(tmp_path: Path) -> None:
    made = create_identity(tmp_path)
    assert "PRIVATE KEY" in (tmp_path / KEY_FILE).read_text()
    assert load_identity(tmp_path, WORDS).node_id == made.node_id
    assert "PRIVATE KEY" not in (tmp_path / KEY_FILE).read_text()
    with pytest.raises(RefusedError):
        load_identity(tmp_path)
    assert load_identity(tmp_path, WORDS).node_id == made.node_id


def test_a_changed_key_file_is_never_another_key(tmp_path: Path) -> None:
    create_identity(tmp_path, WORDS)
    path = tmp_path / KEY_FILE
    whole = path.read_text()
    for at in range(0, len(whole), 97):
        path.write_text(whole[:at] + ("A" if whole[at] != "A" else "B") + whole[at + 1 :])
        with pytest.raises(FreecloudError) as told:
            load_identity(tmp_path, WORDS)
        assert isinstance(told.value, (DamagedError, RefusedError))
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises((DamagedError, RefusedError)):
        load_identity(tmp_path, WORDS)
