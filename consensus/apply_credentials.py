"""Applying entries about API tokens, app secrets and proposers' sessions."""

from __future__ import annotations

from consensus.ledger_entries import OpenSession, PutApiToken, PutSecret, RemoveSecret, Result, RevokeApiToken
from consensus.ledger_facts import SESSIONS_MAX, Context, Facts, conflict, done, missing, refused
from consensus.records import Session

TOKENS_MAX = 1_000
SECRETS_MAX = 1_000
SECRET_BYTES_MAX = 64 * 1024


def open_session(facts: Facts, entry: OpenSession, context: Context) -> Result:
    """A new session; the one that was unused the longest makes room when there are too many."""
    if len(facts.sessions) >= SESSIONS_MAX:
        oldest = min(facts.sessions.values(), key=lambda session: (session.last_index, session.session_id))
        del facts.sessions[oldest.session_id]
    session_id = context.index.to_bytes(8, "big")
    facts.sessions[session_id] = Session(session_id, context.proposer, 0, b"", context.index)
    return done(session_id.hex())


def put_api_token(facts: Facts, entry: PutApiToken, context: Context) -> Result:
    if entry.token.token_id in facts.tokens:
        return conflict("this token exists already", entry.token.token_id)
    if len(facts.tokens) >= TOKENS_MAX:
        return refused("limit.tokens", f"the mesh has {TOKENS_MAX} API tokens", hint="revoke one that is not used")
    facts.tokens[entry.token.token_id] = entry.token
    return done(entry.token.token_id)


def revoke_api_token(facts: Facts, entry: RevokeApiToken, context: Context) -> Result:
    if facts.tokens.pop(entry.token_id, None) is None:
        return missing(f"no API token {entry.token_id}")
    return done()


def put_secret(facts: Facts, entry: PutSecret, context: Context) -> Result:
    secret = entry.secret
    if ("data", secret.generation) not in facts.keys:
        return conflict("the data key was rotated meanwhile", f"generation {secret.generation} is gone")
    if len(secret.ciphertext) > SECRET_BYTES_MAX:
        return refused("limit.secret", f"a secret has at most {SECRET_BYTES_MAX} bytes")
    if secret.name not in facts.secrets and len(facts.secrets) >= SECRETS_MAX:
        return refused("limit.secrets", f"the mesh has {SECRETS_MAX} secrets")
    facts.secrets[secret.name] = secret
    return done(secret.name)


def remove_secret(facts: Facts, entry: RemoveSecret, context: Context) -> Result:
    if facts.secrets.pop(entry.name, None) is None:
        return missing(f"no secret {entry.name}")
    return done()
