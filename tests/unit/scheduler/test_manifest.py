"""app.yaml: every key with its default, and each mistake with the place where it stands."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mesh.errors import ManifestError, ProtocolError
from scheduler.manifest import (
    Health,
    Manifest,
    Resources,
    Restart,
    Rollout,
    Spread,
    decode_manifest,
    encode_manifest,
    parse,
)

MINIMAL = "name: web\ncommand: python app.py\n"

WHOLE = """\
name: web                      # a comment
source: ./src
command: python app.py
runtime: process
install: requirements.txt
env: {MODE: prod, DEBUG: 1, LATE: yes}
secrets: [API_KEY]
replicas: 3
resources: {cpu: 0.5, memory: 256Mi, disk: 1Gi}
health: {path: /health, interval: 2s, timeout: 500ms, healthy_after: 1, unhealthy_after: 3}
constraints: {disk: ssd}
spread: node
rollout: {max_unavailable: 1, max_surge: 2, deadline: 1m, rollback: false}
restart: {backoff: 500ms..2m, give_up_after: 5}
exclusive: false
untrusted: false
"""


def test_every_key_has_the_default_of_the_contract() -> None:
    manifest = parse(MINIMAL)
    assert manifest == Manifest("web", "python app.py")
    assert manifest.resources == Resources(0.25, 128 * 1024**2, 512 * 1024**2)
    assert manifest.health == Health("", 2.0, 1.0, 1, 3)
    assert manifest.rollout == Rollout(0, 1, 60.0, True)
    assert manifest.restart == Restart(1.0, 60.0, 0)
    assert (manifest.replicas, manifest.runtime, manifest.spread) == (1, "process", Spread.ZONE)


def test_every_key_is_read() -> None:
    assert parse(WHOLE) == Manifest(
        name="web",
        command="python app.py",
        source="./src",
        install="requirements.txt",
        env=(("DEBUG", "1"), ("LATE", "yes"), ("MODE", "prod")),
        secrets=("API_KEY",),
        replicas=3,
        resources=Resources(0.5, 256 * 1024**2, 1024**3),
        health=Health("/health", 2.0, 0.5, 1, 3),
        constraints=(("disk", "ssd"),),
        spread=Spread.NODE,
        rollout=Rollout(1, 2, 60.0, False),
        restart=Restart(0.5, 120.0, 5),
    )


def test_a_command_given_as_a_list_is_quoted_for_the_shell() -> None:
    assert parse("name: a\ncommand: [python, -c, 'print(1, 2)']").command == "python -c 'print(1, 2)'"


def test_an_exclusive_app_stops_the_old_one_before_it_starts_the_new_one() -> None:
    assert parse(MINIMAL + "exclusive: true").rollout == Rollout(max_unavailable=1, max_surge=0)


MISTAKES = [
    ("", 1, 1, "empty"),
    ("just words", 1, 1, "a manifest is a mapping"),
    ("- a\n- b", 1, 1, "a manifest is a mapping"),
    ("name: web\ncommand: [a", 2, 12, "not YAML"),
    ("name: web\n\tcommand: x", 2, 1, "tab"),
    ("name: web\ncommand: x\n---\nname: b", 3, 1, "second document"),
    ("name: web\ncommand: a\x07b", 2, 11, "control character"),
    ("command: x", 1, 1, "name is missing"),
    ("name: web", 1, 1, "command is missing"),
    ("name: Web\ncommand: x", 1, 7, "is no name for an app"),
    ("name: -web\ncommand: x", 1, 7, "is no name for an app"),
    (f"name: {'a' * 41}\ncommand: x", 1, 7, "is no name for an app"),
    ("name:\ncommand: x", 1, 6, "name is a text: this is nothing"),
    ("name: [a]\ncommand: x", 1, 7, "name is a text: this is a list"),
    ("name: web\ncommand: ''", 2, 10, "command is empty"),
    (MINIMAL + "name: other", 3, 1, "'name' is given twice: first on line 1"),
    (MINIMAL + "replica: 3", 3, 1, "did you mean 'replicas'?"),
    (MINIMAL + "xyzzy: 3", 3, 1, "known are name, source"),
    (MINIMAL + "resources: {cpus: 1}", 3, 13, "unknown key 'resources.cpus' (did you mean 'cpu'?)"),
    (MINIMAL + "health:\n  path: /x\n  intervall: 2s", 5, 3, "did you mean 'interval'?"),
    (MINIMAL + "replicas: three", 3, 11, "replicas is a whole number"),
    (MINIMAL + "replicas: 1001", 3, 11, "it has to be 0 to 1000"),
    (MINIMAL + "replicas: -1", 3, 11, "it has to be 0 to 1000"),
    (MINIMAL + "replicas: 010", 3, 11, "replicas is a whole number"),
    (MINIMAL + "resources: 1Gi", 3, 12, "resources has to be a mapping: this is '1Gi'"),
    (MINIMAL + "resources: {memory: 256}", 3, 21, "a size with its unit: this is '256' (write 256Mi)"),
    (MINIMAL + "resources: {memory: 1Ki}", 3, 21, "it has to be 4Mi to 1Ti"),
    (MINIMAL + "resources: {cpu: 500m}", 3, 18, "write 0.5"),
    (MINIMAL + "resources: {cpu: 0}", 3, 18, "it has to be 0.01 to 256"),
    (MINIMAL + "health: {interval: 2}", 3, 20, "a duration with its unit: this is '2' (write 2s)"),
    (MINIMAL + "health: {interval: 1ms}", 3, 20, "it has to be 100ms to 1h"),
    (MINIMAL + "health: {path: health}", 3, 16, "begins with /"),
    (MINIMAL + "exclusive: maybe", 3, 12, "exclusive is true or false"),
    (MINIMAL + "spread: rack", 3, 9, "spread is one of zone, node, none"),
    (MINIMAL + "runtime: docker", 3, 10, "runtime docker is not in this version"),
    (MINIMAL + "runtime: java", 3, 10, "runtime is one of process"),
    (MINIMAL + "install: ../requirements.txt", 3, 10, "a file within the source"),
    (MINIMAL + "install: /etc/passwd", 3, 10, "a file within the source"),
    (MINIMAL + "env: [A=1]", 3, 6, "env is a mapping"),
    (MINIMAL + "env: {1A: x}", 3, 7, "no name of a variable"),
    (MINIMAL + "env: {PORT: 80}", 3, 7, "set by freecloud itself"),
    (MINIMAL + "env: {A: [1]}", 3, 10, "env.A is a text"),
    (MINIMAL + "env: {A: x}\nsecrets: [A]", 4, 11, "stands in both env and secrets"),
    (MINIMAL + "secrets: [A, A]", 3, 14, "secret A is named twice"),
    (MINIMAL + "secrets: API_KEY", 3, 10, "secrets is a list"),
    (MINIMAL + "constraints: {'bad label': x}", 3, 15, "is no label"),
    (MINIMAL + "rollout: {max_surge: 0}", 3, 10, "rollout lets nothing change"),
    (MINIMAL + "restart: {backoff: 1s}", 3, 20, "a range of durations"),
    (MINIMAL + "restart: {backoff: 60s..1s}", 3, 20, "ends before it begins (write 1s..60s)"),
    (MINIMAL + "restart: {give_up_after: never}", 3, 26, "a whole number"),
    (MINIMAL + "exclusive: true\nreplicas: 2", 4, 11, "an exclusive app has one replica"),
    (MINIMAL + "exclusive: true\nrollout: {max_surge: 1}", 4, 22, "has no surge"),
    (MINIMAL + "untrusted: true\nsecrets: [A]", 4, 10, "untrusted nodes has no secrets"),
    (MINIMAL + "env: &a {X: y}", 3, 6, "anchors"),
    ("a: &a [x]\nb: [*a, *a]", 1, 4, "anchors"),
    (MINIMAL + "env: *a", 3, 6, "aliases"),
    (MINIMAL + "env: !!python/object:os.system {}", 3, 6, "tags"),
    ("%YAML 1.1\n---\nname: a", 1, 1, "directives"),
    (MINIMAL + "env: " + "[" * 9, 3, 13, "nested deeper than 8"),
    (MINIMAL + "env: " + "[" * 60_000, 3, 13, "nested deeper than 8"),
    (MINIMAL + "env:\n  ? [a]\n  : b", 4, 5, "a key has to be a word"),
    ("#" * (64 * 1024 + 1), 1, 1, "the limit is 64 KiB"),
]


@pytest.mark.parametrize(("text", "line", "column", "words"), MISTAKES)
def test_a_mistake_is_told_with_its_place(text: str, line: int, column: int, words: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse(text)
    assert words in str(caught.value)
    assert (caught.value.line, caught.value.column) == (line, column)


def test_a_release_keeps_its_manifest() -> None:
    manifest = parse(WHOLE)
    assert decode_manifest(encode_manifest(manifest)) == manifest
    with pytest.raises(ProtocolError):
        decode_manifest(encode_manifest(manifest)[:-1])


YAML_LETTERS = "nam:e- \n[]{},&*!|>'\"#%\t?"


@given(st.text(st.characters(codec="utf-8"), max_size=200) | st.text(YAML_LETTERS, max_size=80))
@example("? a\n: b")
@example("name: !")
@example("\ufeffname: web")
def test_any_text_is_a_manifest_or_a_mistake_at_a_place(text: str) -> None:
    for candidate in (text, MINIMAL + text):
        try:
            parse(candidate)
        except ManifestError as error:
            assert error.line >= 1
            assert error.column >= 1
