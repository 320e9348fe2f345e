"""The invite token as text."""

from __future__ import annotations

import string

import pytest

from mesh.errors import InviteRefused
from mesh.invite import InvitePin, InviteToken, decode_token, encode_token, invite_signing_key
from mesh.names import MeshId

TOKEN = InviteToken(
    MeshId("m" * 26),
    "0123456789abcdef",
    bytes(range(16)),
    tuple(
        InvitePin(
            bytes([number]) * 32, bytes([number + 10]) * 32, (f"192.168.1.{number}:6700", "home.example:6700")
        )
        for number in range(3)
    ),
)


def code_of(text: str) -> str:
    with pytest.raises(InviteRefused) as refused:
        decode_token(text)
    return refused.value.stable_code


def test_a_token_is_one_printable_line_under_a_kibibyte_and_comes_back() -> None:
    text = encode_token(TOKEN)
    assert text.startswith("fc1_") and len(text) <= 1024
    assert set(text) <= set(string.ascii_letters + string.digits + "-_")
    assert decode_token(text) == TOKEN
    assert decode_token(f"  {text}\n") == TOKEN


def test_each_character_changed_is_refused() -> None:
    text = encode_token(TOKEN)
    for position, character in enumerate(text):
        for other in (
            "A",
            "b",
            "7",
            "-",
            "_",
            " ",
            "\N{LATIN SMALL LETTER E WITH ACUTE}",
            chr(ord(character) ^ 1),
        ):
            if other == character:
                continue
            changed = text[:position] + other + text[position + 1 :]
            assert code_of(changed).startswith("invite.")


def test_the_last_character_has_one_value_whatever_bits_of_it_count() -> None:
    alphabet = string.ascii_letters + string.digits + "-_"
    for extra in range(4):  # the length modulo 3 decides how many bits of the last character are used
        text = encode_token(InviteToken(TOKEN.mesh_id, "t" * (4 + extra), TOKEN.secret, TOKEN.pins))
        for other in alphabet.replace(text[-1], ""):
            assert code_of(text[:-1] + other) == "invite.damaged"


def test_each_truncation_is_told_from_damage() -> None:
    text = encode_token(TOKEN)
    for length in range(len(text)):
        assert code_of(text[:length]) == "invite.truncated"


def test_something_appended_is_damage() -> None:
    text = encode_token(TOKEN)
    for more in ("A", "AA", "AAAA", "=", "x" * 2000):
        assert code_of(text + more) == "invite.damaged"


def test_another_version_is_told_as_such() -> None:
    text = encode_token(TOKEN)
    assert code_of("fc2_" + text[4:]) == "invite.version"
    assert code_of("hello") == "invite.damaged"


def test_the_secret_seeds_a_key_and_is_not_shown() -> None:
    public = bytes(invite_signing_key(TOKEN.secret).verify_key)
    assert public == bytes(invite_signing_key(TOKEN.secret).verify_key)
    assert public != bytes(invite_signing_key(bytes(16)).verify_key)
    assert repr(TOKEN.secret) not in repr(TOKEN) and TOKEN.secret.hex() not in repr(TOKEN)
