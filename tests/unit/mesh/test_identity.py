"""A node's key: what is written, what is read back, what it signs and seals."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from mesh.errors import DamagedError, MissingError, ProtocolError
from mesh.identity import (
    certificate_public_key,
    create_identity,
    load_identity,
    seal_to,
    verify_signature,
)
from mesh.names import node_id_of


def test_an_identity_is_read_back_as_it_was_made_and_only_its_owner_can_read_the_file(tmp_path: Path) -> None:
    made = create_identity(tmp_path / "identity")
    assert load_identity(tmp_path / "identity") == made
    assert made.node_id == node_id_of(made.public_key)
    assert certificate_public_key(made.certificate) == made.public_key
    assert stat.S_IMODE(made.pem_path.stat().st_mode) == 0o600
    assert [path.name for path in made.pem_path.parent.iterdir()] == ["node.pem"]
    assert "SigningKey" not in repr(made)


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    made = create_identity(tmp_path)
    with pytest.raises(FileExistsError):
        create_identity(tmp_path)
    assert load_identity(tmp_path) == made


def test_a_missing_or_damaged_file_says_which(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        load_identity(tmp_path)
    made = create_identity(tmp_path / "a")
    other = create_identity(tmp_path / "b")
    text = made.pem_path.read_text()
    foreign_certificate = other.pem_path.read_text().split("-----BEGIN PRIVATE KEY")[0]
    for damaged in (
        text[:200],
        text.replace("PRIVATE", "PUBLIC"),
        foreign_certificate + text[text.index("-----BEGIN PRIVATE KEY") :],
        "",
        "\xe9" * 100,
    ):
        made.pem_path.write_text(damaged, encoding="latin-1")
        with pytest.raises(DamagedError):
            load_identity(tmp_path / "a")


def test_a_signature_holds_for_its_key_domain_and_message_alone(tmp_path: Path) -> None:
    one, other = create_identity(tmp_path / "a"), create_identity(tmp_path / "b")
    signature = one.sign(b"domain-1", b"message")
    assert verify_signature(one.public_key, b"domain-1", b"message", signature)
    assert not verify_signature(one.public_key, b"domain-2", b"message", signature)
    assert not verify_signature(one.public_key, b"domain-1", b"massage", signature)
    assert not verify_signature(other.public_key, b"domain-1", b"message", signature)
    assert not verify_signature(one.public_key, b"domain-1m", b"essage", signature)
    assert not verify_signature(b"short", b"domain-1", b"message", signature)
    assert not verify_signature(one.public_key, b"domain-1", b"message", b"short")


def test_what_is_sealed_to_a_node_only_it_can_open(tmp_path: Path) -> None:
    one, other = create_identity(tmp_path / "a"), create_identity(tmp_path / "b")
    sealed = seal_to(one.public_key, b"the data key")
    assert b"the data key" not in sealed
    assert one.open_sealed(sealed) == b"the data key"
    with pytest.raises(DamagedError):
        other.open_sealed(sealed)
    with pytest.raises(DamagedError):
        one.open_sealed(sealed[:-1] + bytes([sealed[-1] ^ 1]))
    with pytest.raises(DamagedError):
        one.open_sealed(b"")
    with pytest.raises(ProtocolError):
        seal_to(b"no key", b"x")


def test_keys_at_rest_differ_by_purpose_and_node_and_stay(tmp_path: Path) -> None:
    one, other = create_identity(tmp_path / "a"), create_identity(tmp_path / "b")
    keys = [one.derive_key("log"), one.derive_key("bundles"), other.derive_key("log")]
    assert len(set(keys)) == 3 and all(len(key) == 32 for key in keys)
    assert load_identity(tmp_path / "a").derive_key("log") == keys[0]


def test_no_changed_certificate_is_taken_for_one_of_another_key(tmp_path: Path) -> None:
    """Whatever byte is changed: either the key is still the same one, or it is not taken for a certificate at all."""
    made = create_identity(tmp_path)
    start = made.certificate.index(made.public_key)
    for position in range(len(made.certificate)):
        changed = bytearray(made.certificate)
        changed[position] ^= 0x55
        try:
            key = certificate_public_key(bytes(changed))
        except ProtocolError:
            continue
        assert (key == made.public_key) is not (start <= position < start + 32)
    for length in range(len(made.certificate)):
        with pytest.raises(ProtocolError):
            certificate_public_key(made.certificate[:length])


def test_a_key_file_with_any_one_byte_altered_is_damaged_and_says_what_to_do(tmp_path: Path) -> None:
    made = create_identity(tmp_path)
    whole = made.pem_path.read_bytes()
    for place in range(len(whole)):
        altered = bytearray(whole)
        altered[place] ^= 1
        made.pem_path.write_bytes(altered)
        with pytest.raises(DamagedError, match="restore it from a backup"):
            load_identity(tmp_path)
