"""API tokens: made once, shown once, kept as a hash in the ledger."""

from __future__ import annotations

from starlette.responses import Response

from consensus.ledger_entries import PutApiToken, RevokeApiToken
from consensus.records import ApiToken
from daemon.api.answers import document, when
from daemon.api.auth import SCOPES, make_token
from daemon.api.body import read_json
from daemon.api.clock import wall_ms
from daemon.api.operations import Call, Operation, schema
from daemon.api.patience import change_deadline
from mesh.errors import UsageError

LIFE_MS_MAX = 10 * 366 * 24 * 3600 * 1000
"""Ten years: longer than any token should live, and a time that a calendar can show."""

CREATE = schema(("name", "scopes", "expires_ms"), name="string", scopes="string[]", expires_ms="integer")


async def list_tokens(call: Call) -> Response:
    tokens = sorted(call.services.ledger.state.tokens.values(), key=lambda token: token.created_ms)
    return document(
        {
            "tokens": [
                {
                    "id": token.token_id,
                    "name": token.name,
                    "scopes": list(token.scopes),
                    "created": when(token.created_ms),
                    "expires": when(token.expires_ms),
                }
                for token in tokens
            ]
        }
    )


async def create_token(call: Call) -> Response:
    wanted = await read_json(call.request, CREATE)
    unknown = [scope for scope in wanted["scopes"] if scope not in SCOPES]
    if unknown or not wanted["scopes"]:
        raise UsageError("a token has one or more scopes", why=f"they are {', '.join(SCOPES)}")
    if not 1 <= len(wanted["name"]) <= 63 or not wanted["name"].isprintable():
        raise UsageError("a token's name has 1 to 63 printable characters")
    if not 0 < wanted["expires_ms"] <= LIFE_MS_MAX:
        raise UsageError("a token expires in the future, and within ten years")
    text, token_id, secret_hash = make_token(call.services.identity.certificate)
    now = wall_ms()
    token = ApiToken(
        token_id, wanted["name"], secret_hash, tuple(sorted(set(wanted["scopes"]))), now, now + wanted["expires_ms"]
    )
    await call.services.ledger.propose(PutApiToken(token), deadline=change_deadline(call.services))
    return document({"id": token_id, "token": text})


async def revoke_token(call: Call) -> Response:
    await call.services.ledger.propose(RevokeApiToken(call.path("id")), deadline=change_deadline(call.services))
    return document({"id": call.path("id")})


OPERATIONS = (
    Operation("GET", "/v1/tokens", "admin", "API tokens, without their secrets", list_tokens),
    Operation("POST", "/v1/tokens", "admin", "make an API token; it is shown once", create_token, CREATE),
    Operation("DELETE", "/v1/tokens/{id}", "admin", "refuse a token from now on", revoke_token),
)
