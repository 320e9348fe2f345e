"""Who a node is: an Ed25519 key, the id hashed from it, and a self-signed certificate that carries it (rule T1).

The certificate's dates mean nothing and its name proves nothing: a link accepts exactly the certificates that the
ledger's active members have, byte for byte. There is no root key, no CA, no expiry, no chain and no CRL.

The key file is the one secret that a node keeps in clear (rule T7), because it has to start again unattended, unless
its owner puts it under a passphrase; every other key at rest is derived from it or sealed to it.
"""

from __future__ import annotations

import base64
import hashlib
import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from nacl.exceptions import BadSignatureError, CryptoError
from nacl.public import SealedBox
from nacl.signing import SigningKey, VerifyKey

from mesh import key_file
from mesh.errors import DamagedError, MissingError, ProtocolError
from mesh.names import NodeId, node_id_of

KEY_FILE = "node.pem"

# RFC 8410 section 7: an Ed25519 private key as PKCS #8 is this prefix and the 32-byte seed; section 4 gives the
# public half. The fixed prefixes spare the daemon 3 MiB of `cryptography.x509`, needed once in a node's life.
_PKCS8_PREFIX = bytes.fromhex("302e020100300506032b657004220420")
_SPKI_PREFIX = bytes.fromhex("302a300506032b6570032100")

_ED25519_OID = bytes.fromhex("06032b6570")

_PEM_KEY_BEGIN = "-----BEGIN PRIVATE KEY-----"
_PEM_KEY_END = "-----END PRIVATE KEY-----"

CERTIFICATE_BYTES_MAX = 1024
"""Ours have about 300; what a joiner may make every member keep is bounded."""


RESTORE = "restore it from a backup; without its key this node is lost: remove it, and join anew from another --home"
"""The key is nowhere else, and what lies in the home is sealed under it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One node's own key and what others know of it."""

    node_id: NodeId
    public_key: bytes
    certificate: bytes  # DER
    pem_path: Path  # certificate and PKCS #8 key, for `ssl.SSLContext.load_cert_chain`
    _signing_key: SigningKey = field(repr=False, compare=False)

    def sign(self, domain: bytes, message: bytes) -> bytes:
        """The Ed25519 signature of this node over a message of that domain (see `verify_signature`)."""
        return self._signing_key.sign(_in_domain(domain, message)).signature

    def derive_key(self, purpose: str) -> bytes:
        """A 32-byte key for this node's own data at rest; the same purpose gives the same key, for ever."""
        return hashlib.blake2b(
            purpose.encode(), key=bytes(self._signing_key), person=b"freecloud-rest", digest_size=32
        ).digest()

    def open_sealed(self, sealed: bytes) -> bytes:
        """What `seal_to` sealed to this node.

        Raises:
            DamagedError: It was sealed to another node, or changed since.
        """
        try:
            return SealedBox(self._signing_key.to_curve25519_private_key()).decrypt(sealed)
        except (CryptoError, ValueError, TypeError) as error:
            raise DamagedError("cannot open what was sealed to this node") from error


def create_identity(folder: Path, passphrase: bytes = b"") -> Identity:
    """A new node: draws the key, makes its certificate, writes both to `folder` before it returns.

    With a passphrase the file is sealed under it, and opens by nothing else.

    Raises:
        FileExistsError: There is a key already; it is never overwritten.
    """
    path = folder / KEY_FILE
    if path.exists():
        raise FileExistsError(f"{path} holds a key already")
    signing_key = SigningKey.generate()
    certificate = _self_signed(bytes(signing_key), node_id_of(bytes(signing_key.verify_key)))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = _to_pem(certificate, bytes(signing_key))
    _write_secret(path, key_file.seal(text, passphrase) if passphrase else text)
    return _identity(signing_key, certificate, key_file.in_memory(text) if passphrase else path)


def load_identity(folder: Path, passphrase: bytes = b"") -> Identity:
    """The identity that `create_identity` wrote to this folder.

    A key in clear that is loaded with a passphrase is under it from then on.

    Raises:
        MissingError: There is none.
        RefusedError: It is under a passphrase, and not under this one.
        DamagedError: The file is not what was written; the certificate and the key must belong together.
    """
    path = folder / KEY_FILE
    try:
        text = path.read_text("ascii")
    except FileNotFoundError:
        raise MissingError(
            f"no node key in {folder}", hint="`freecloud up` or `freecloud join` makes one"
        ) from None
    except UnicodeDecodeError as error:
        raise DamagedError(f"{path} is not a key file", hint=RESTORE) from error
    sealed = key_file.is_sealed(text)
    if sealed:
        text = key_file.unseal(text, passphrase, path)
    certificate, seed = _from_pem(text, path)
    signing_key = SigningKey(seed)
    try:
        own = certificate_public_key(certificate) == bytes(signing_key.verify_key)
        whole = own and _signed_by_itself(certificate, signing_key.verify_key)
    except ProtocolError as error:
        raise DamagedError(f"{path} holds a damaged certificate", why=str(error), hint=RESTORE) from error
    if not own:
        raise DamagedError(f"{path} holds a certificate of another key", hint=RESTORE)
    if not whole:
        # Links accept a certificate byte for byte: one altered bit would make this node a stranger everywhere.
        raise DamagedError(f"{path} holds a damaged certificate", why="its signature does not fit", hint=RESTORE)
    if passphrase and not sealed:
        _write_secret(path, key_file.seal(text, passphrase))
    return _identity(signing_key, certificate, key_file.in_memory(text) if passphrase else path)


def verify_signature(public_key: bytes, domain: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the owner of this key signed the message in that domain; malformed keys and signatures are a no."""
    try:
        VerifyKey(public_key).verify(_in_domain(domain, message), signature)
    except (BadSignatureError, ValueError, TypeError):
        return False
    return True


def seal_to(public_key: bytes, plaintext: bytes) -> bytes:
    """Seals to the owner of an Ed25519 key (an X25519 sealed box); only `Identity.open_sealed` opens it."""
    try:
        return SealedBox(VerifyKey(public_key).to_curve25519_public_key()).encrypt(plaintext)
    except (ValueError, TypeError, CryptoError, RuntimeError) as error:
        raise ProtocolError("cannot seal to this key", why="it is no Ed25519 key") from error


def certificate_public_key(certificate: bytes) -> bytes:
    """The Ed25519 key inside a DER certificate, found by walking its structure (RFC 5280 section 4.1).

    Only what leads to the key is read; signature, names and dates mean nothing to us (rule T1).

    Raises:
        ProtocolError: It is no certificate of an Ed25519 key, or larger than `CERTIFICATE_BYTES_MAX`.
    """
    if len(certificate) > CERTIFICATE_BYTES_MAX:
        raise ProtocolError("certificate too large", why=f"the limit is {CERTIFICATE_BYTES_MAX} bytes")
    outer, rest = _der_element(certificate, 0x30)
    if rest:
        raise ProtocolError("not a certificate", why="bytes after its end")
    inner, _ = _der_element(outer, 0x30)
    for tag in (0xA0, 0x02, 0x30, 0x30, 0x30, 0x30):  # version, serial, algorithm, issuer, validity, subject
        _, inner = _der_element(inner, tag)
    length = len(_SPKI_PREFIX) + 32
    if inner[: len(_SPKI_PREFIX)] != _SPKI_PREFIX or len(inner) < length:
        raise ProtocolError("not a certificate of an Ed25519 key")
    return inner[len(_SPKI_PREFIX) : length]


def check_certificate(certificate: bytes, public_key: bytes) -> None:
    """Whether every member could put this certificate into its trust store, and know its owner by it.

    One that OpenSSL cannot read would keep each of them from building that store: so it is read here, before it is
    anybody's.

    Raises:
        ProtocolError: It is of another key, was altered, or cannot be read.
    """
    if certificate_public_key(certificate) != public_key:
        raise ProtocolError("the certificate is of another key")
    if not _signed_by_itself(certificate, VerifyKey(public_key)):
        raise ProtocolError("the certificate is damaged", why="its signature does not fit")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=certificate)
    except (ssl.SSLError, ValueError) as error:
        raise ProtocolError("the certificate is damaged", why="TLS cannot read it") from error


def _signed_by_itself(certificate: bytes, key: VerifyKey) -> bool:
    """Whether the signature fits what it is over, which notices any altered bit."""
    outer, _ = _der_element(certificate, 0x30)
    _, rest = _der_element(outer, 0x30)
    signed = outer[: len(outer) - len(rest)]
    algorithm, rest = _der_element(rest, 0x30)
    signature, rest = _der_element(rest, 0x03)
    if rest or algorithm != _ED25519_OID or signature[:1] != b"\0":
        return False
    try:
        key.verify(signed, signature[1:])
    except (BadSignatureError, ValueError):
        return False
    return True


def _der_element(encoded: bytes, tag: int) -> tuple[bytes, bytes]:
    """Content of the first element, which must have this tag, and what follows it; lengths below 64 KiB only."""
    if len(encoded) < 2 or encoded[0] != tag:
        raise ProtocolError("not a certificate", why="unexpected structure")
    length, start = encoded[1], 2
    if length & 0x80:
        size = length & 0x7F
        if size not in (1, 2) or len(encoded) < 2 + size:
            raise ProtocolError("not a certificate", why="unexpected length")
        length, start = int.from_bytes(encoded[2 : 2 + size], "big"), 2 + size
    if len(encoded) < start + length:
        raise ProtocolError("not a certificate", why="it ends too early")
    return encoded[start : start + length], encoded[start + length :]


def _in_domain(domain: bytes, message: bytes) -> bytes:
    """Length first, so that no message of one domain can be read as a message of another."""
    if not 0 < len(domain) < 256:
        raise AssertionError("a signing domain has 1 to 255 bytes")
    return bytes([len(domain)]) + domain + message


def _identity(signing_key: SigningKey, certificate: bytes, path: Path) -> Identity:
    public_key = bytes(signing_key.verify_key)
    return Identity(node_id_of(public_key), public_key, certificate, path, signing_key)


def _self_signed(seed: bytes, node_id: NodeId) -> bytes:
    """A certificate for the TLS layer to show the key in; its dates are as wide as X.509 can say."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding

    key = Ed25519PrivateKey.from_private_bytes(seed)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, str(node_id))])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, algorithm=None)
        .public_bytes(Encoding.DER)
    )


def _to_pem(certificate: bytes, seed: bytes) -> str:
    key = base64.b64encode(_PKCS8_PREFIX + seed).decode()
    return f"{ssl.DER_cert_to_PEM_cert(certificate)}{_PEM_KEY_BEGIN}\n{key}\n{_PEM_KEY_END}\n"


def _from_pem(text: str, path: Path) -> tuple[bytes, bytes]:
    certificate_text, begin, rest = text.partition(_PEM_KEY_BEGIN)
    key_text, end, _ = rest.partition(_PEM_KEY_END)
    try:
        if not begin or not end:
            raise ValueError("no private key")
        certificate = ssl.PEM_cert_to_DER_cert(certificate_text.strip())
        key = base64.b64decode("".join(key_text.split()), validate=True)
        if key[: len(_PKCS8_PREFIX)] != _PKCS8_PREFIX or len(key) != len(_PKCS8_PREFIX) + 32:
            raise ValueError("not an Ed25519 key")
        if text != _to_pem(certificate, key[len(_PKCS8_PREFIX) :]):
            raise ValueError("it is not as it was written")  # OpenSSL reads it too, and less forgivingly
    except ValueError as error:
        raise DamagedError(
            f"{path} is not a key file", why=str(error), hint=RESTORE
        ) from error
    return certificate, key[len(_PKCS8_PREFIX) :]


def _write_secret(path: Path, text: str) -> None:
    """Temp file with mode 0600, fsync, rename, fsync of the folder (fault D10): the whole file or none."""
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
