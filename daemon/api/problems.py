"""An error as an RFC 9457 problem document; nowhere else does the API make one."""

from __future__ import annotations

from typing import Any

from mesh.errors import HTTP_STATUS, FreecloudError, ManifestError

MEDIA_TYPE = "application/problem+json"

STATUS_OF_CODE = {"token": 401, "method": 405, "limit.body": 413}
"""Where HTTP has a finer word than the error's kind."""


def problem(error: FreecloudError) -> dict[str, Any]:
    """The document; `code` and `kind` are what a program looks at, the rest is for people."""
    document: dict[str, Any] = {
        "type": f"urn:freecloud:{error.stable_code}",
        "title": error.what,
        "status": STATUS_OF_CODE.get(error.stable_code, HTTP_STATUS[error.kind]),
        "detail": error.why,
        "hint": error.hint,
        "code": error.stable_code,
        "kind": error.kind.value,
    }
    if isinstance(error, ManifestError):
        document |= {"line": error.line, "column": error.column}
    return document
