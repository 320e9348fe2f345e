"""App secrets: the value comes in, is sealed under the mesh's data key, and never goes out again."""

from __future__ import annotations

import re

from starlette.responses import Response

from consensus.ledger_entries import PutSecret, RemoveSecret
from consensus.records import SecretRecord
from daemon.api.answers import document, when
from daemon.api.body import read_json
from daemon.api.clock import wall_ms
from daemon.api.operations import Call, Operation, schema
from daemon.api.patience import change_deadline
from daemon.keys import DATA, seal_secret
from mesh.errors import UsageError
from scheduler.manifest import decode_manifest

SET = schema(("value",), value="string")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


async def list_secrets(call: Call) -> Response:
    state = call.services.ledger.state
    users: dict[str, list[str]] = {}
    for app in state.apps.values():
        release = state.releases[app.name, app.current]
        for name in decode_manifest(release.manifest).secrets:
            users.setdefault(name, []).append(app.name)
    return document(
        {
            "secrets": [
                {"name": secret.name, "updated": when(secret.updated_ms), "apps": users.get(secret.name, [])}
                for secret in sorted(state.secrets.values(), key=lambda secret: secret.name)
            ]
        }
    )


async def set_secret(call: Call) -> Response:
    name = call.path("name")
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot be a secret's name", why="letters, digits and _, at most 63")
    value = (await read_json(call.request, SET))["value"].encode()
    generation, key = call.services.keys.newest(call.services.ledger.state.keys, DATA)
    record = SecretRecord(name, generation, seal_secret(key, name, value), wall_ms())
    await call.services.ledger.propose(PutSecret(record), deadline=change_deadline(call.services))
    return document({"name": name})


async def remove_secret(call: Call) -> Response:
    await call.services.ledger.propose(RemoveSecret(call.path("name")), deadline=change_deadline(call.services))
    return document({"name": call.path("name")})


OPERATIONS = (
    Operation("GET", "/v1/secrets", "read", "names of secrets and who uses them", list_secrets),
    Operation("PUT", "/v1/secrets/{name}", "deploy", "set a secret", set_secret, SET),
    Operation("DELETE", "/v1/secrets/{name}", "deploy", "remove a secret", remove_secret),
)
