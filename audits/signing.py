"""Who stands behind a report: a PAdES signature in the PDF, and a signed in-toto statement about the model's digest.

The PDF is signed by an incremental update, so the report as it was typeset is the beginning of the signed file, byte
for byte; what the update may change is listed in `_only_signed`. The statement has the predicate type test-result v0.1
in a DSSE envelope (v1); the certificate rides along in the envelope, since DSSE names a key and does not carry it.
Needs the extra `sign` (pyHanko, cryptography), which is imported only here.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import io
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlearnkit.audits.ledger.entries import shown
from unlearnkit.result import AuditResult, UsageError
from unlearnkit.store import read_file

if TYPE_CHECKING:
    from asn1crypto import x509 as asn1_x509
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

FIELD = "Signature"
# What pyHanko and asn1crypto raise, beside errors of their own, on a signature that was cut, overwritten or forged.
DAMAGE = (ArithmeticError, AttributeError, LookupError, NotImplementedError, TypeError, ValueError)
PAYLOAD = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"
# The predicate knows three words. Undecided and invalid audits are no pass, so they count as failed there.
RESULTS = {"PASS": "PASSED", "CONSISTENT": "PASSED"}
LISTS = {"PASS": "passedTests", "LEAK_BELOW_TOLERANCE": "warnedTests"}

logging.getLogger("pyhanko").addHandler(logging.NullHandler())  # what it reports, we say in sentences of our own


@dataclass(frozen=True)
class Identity:
    """A private key and its certificate, with further certificates of its chain."""

    key: PrivateKey
    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...] = ()


@dataclass(frozen=True)
class Signed:
    """Whether a signature holds, and who made it, in a sentence."""

    passed: bool
    sentence: str


def needs_extra() -> None:
    """Say how to install what signing needs, if it is missing."""
    try:
        import cryptography  # noqa: F401
        import pyhanko  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"signatures need the extra 'sign' ({error.name} is missing): pip install 'unlearnkit[sign]'"
        ) from error


def is_encrypted(key: Path) -> bool:
    """Whether a key file asks for a passphrase."""
    needs_extra()
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = read_file(key)
    try:
        load_pem_private_key(data, None)
    except TypeError:
        return True
    except ValueError:
        return False
    return False


def read_identity(key: Path, certificate: Path, *, passphrase: bytes | None = None, now: datetime) -> Identity:
    """Read a PEM key and a PEM certificate (its chain may follow); refuses a pair that cannot sign at this time."""
    needs_extra()
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = read_file(key)
    protected = is_encrypted(key)
    if protected and passphrase is None:
        raise UsageError(f"{key}: is protected by a passphrase; name a file that holds it with --passphrase-file")
    try:
        private = load_pem_private_key(data, passphrase if protected else None)
    except ValueError as error:
        reason = "the passphrase is wrong" if protected else "is no private key in PEM form"
        raise UsageError(f"{key}: {reason}") from error
    if not isinstance(private, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
        raise UsageError(f"{key}: must be an RSA, elliptic curve or Ed25519 key, got {type(private).__name__}")
    text = read_file(certificate)
    try:
        found = x509.load_pem_x509_certificates(text)
    except ValueError as error:
        raise UsageError(f"{certificate}: is no certificate in PEM form") from error
    own = [one for one in found if one.public_key() == private.public_key()]
    if not own:
        raise UsageError(f"{certificate}: the certificate of {_name(found[0])} belongs to another key than {key}")
    if fault := _out_of_date(own[0], now):
        raise UsageError(f"{certificate}: the certificate of {_name(own[0])} {fault}; sign with one that is valid")
    return Identity(private, own[0], tuple(one for one in found if one is not own[0]))


def sign_pdf(pdf: bytes, identity: Identity) -> bytes:
    """The same PDF with a PAdES signature appended; no page of it is touched."""
    needs_extra()
    from asn1crypto import keys
    from cryptography.hazmat.primitives.asymmetric import ed25519
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter
    from pyhanko.sign.fields import SigSeedSubFilter
    from pyhanko.sign.signers import PdfSignatureMetadata, PdfSigner, SimpleSigner
    from pyhanko_certvalidator.registry import SimpleCertificateStore

    if is_signed(pdf):
        raise UsageError("the report is signed already; sign the file that unlearnkit report wrote")
    store = SimpleCertificateStore()
    store.register_multiple([_asn1(one) for one in identity.chain])
    der = identity.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    signer = SimpleSigner(
        signing_cert=_asn1(identity.certificate), signing_key=keys.PrivateKeyInfo.load(der), cert_registry=store
    )
    hashed = "sha512" if isinstance(identity.key, ed25519.Ed25519PrivateKey) else "sha256"  # RFC 8419 fixes the former
    meta = PdfSignatureMetadata(field_name=FIELD, subfilter=SigSeedSubFilter.PADES, md_algorithm=hashed)
    signed: bytes = PdfSigner(meta, signer).sign_pdf(IncrementalPdfFileWriter(io.BytesIO(pdf))).getvalue()
    return signed


def is_signed(pdf: bytes) -> bool:
    """Whether a PDF has a form, as every signed one has and no report that was only typeset."""
    from pypdf import PdfReader

    return "/AcroForm" in PdfReader(io.BytesIO(pdf)).root_object


def check_pdf(pdf: bytes, *, typeset: bytes | None, trust: Path | None = None) -> Signed:
    """Check the signature of a report. `typeset`: the same report before it was signed, if it could be made again."""
    needs_extra()
    from pyhanko.pdf_utils.misc import PdfError
    from pyhanko.pdf_utils.reader import PdfFileReader
    from pyhanko.sign.general import UnacceptableSignerError
    from pyhanko.sign.validation import validate_pdf_signature
    from pyhanko.sign.validation.errors import SignatureValidationError
    from pyhanko.sign.validation.status import SignatureCoverageLevel
    from pyhanko_certvalidator import ValidationContext

    broken = "the file was changed after it was signed"
    try:
        reader = PdfFileReader(io.BytesIO(pdf))
        found = reader.embedded_signatures
        if len(found) != 1:
            return Signed(False, f"{len(found)} signatures are in the file, and one is expected")
        one = found[0]
        certificate, who = one.signer_cert, _who(one.signer_cert)
        context = ValidationContext(trust_roots=[certificate], allow_fetching=False)
        status = validate_pdf_signature(one, signer_validation_context=context)
        change = "" if typeset is None else _only_signed(reader, pdf, typeset)
    except (PdfError, SignatureValidationError, UnacceptableSignerError, *DAMAGE) as error:
        return Signed(False, f"{broken}, or its signature is damaged ({type(error).__name__}: {error})")
    if not (status.intact and status.valid):
        return Signed(False, f"{broken} by {who}")
    if status.coverage != SignatureCoverageLevel.ENTIRE_FILE:
        return Signed(False, f"{broken} by {who}: something was appended")
    if change:
        return Signed(False, f"signing changed more than it may: {change}")
    when = one.self_reported_timestamp
    if when is None:
        return Signed(False, f"the signature of {who} does not say when it was made")
    others = [cert for cert in one.other_embedded_certs if cert is not None]
    return _judged(certificate, others, when, trust, f"signed by {who} on {when.astimezone(UTC):%Y-%m-%d, %H:%M} UTC")


def _only_signed(reader: Any, pdf: bytes, typeset: bytes) -> str:
    """What the update that signed did besides signing; empty if nothing.

    It may add objects, and replace four: the catalog (which gains the form), the document information, the metadata
    and one page, which gains the invisible field. pyHanko's own comparison of revisions expects a form before signing.
    """
    if not pdf.startswith(typeset) or reader.xrefs.total_revisions != 2:
        return "the report before signing is not the one that was typeset"
    before, root = reader.get_historical_resolver(0), reader.root
    for name, what in (("/Root", "catalog"), ("/Info", "info")):  # others by the same name would be another document
        if reader.trailer_view.raw_get(name).reference != _named(typeset, name):
            return f"the {what} was changed"
    info = reader.trailer_view.raw_get("/Info").reference.idnum
    metadata = root.raw_get("/Metadata").reference.idnum
    old = {ref.idnum for ref in reader.xrefs.explicit_refs_in_revision(0)}
    for ref in reader.xrefs.explicit_refs_in_revision(1):
        if ref.idnum == metadata or ref.idnum not in old:
            continue
        was, now = before.get_object(ref), reader.get_object(ref)
        kind = "/Info" if ref.idnum == info else str(now.get("/Type")) if isinstance(now, dict) else ""
        gained = _GAINED.get(kind)
        if gained is None:
            return f"object {ref.idnum} was replaced"
        if {*now, *gained} != {*was, *gained} or any(_bytes(was, key) != _bytes(now, key) for key in {*was} - gained):
            return f"the {kind.removeprefix('/').lower()} was changed"
        if kind == "/Page" and ("/Annots" in was or any(_drawn(_plain(note)) for note in _plain(now["/Annots"]))):
            return "something was drawn over a page"
    return "" if {*root["/AcroForm"]} <= {"/Fields", "/SigFlags"} else "the form does more than sign"


def _named(pdf: bytes, name: str) -> Any:
    """The object that the trailer names."""
    from pyhanko.pdf_utils.reader import PdfFileReader

    return PdfFileReader(io.BytesIO(pdf)).trailer_view.raw_get(name).reference


_GAINED: dict[str, set[str]] = {  # what signing adds to an object, or sets anew
    "/Catalog": {"/AcroForm", "/Extensions", "/Version"},
    "/Page": {"/Annots"},
    "/Info": {"/ModDate", "/Producer"},
}


def _plain(value: Any) -> Any:
    """An object itself, where a PDF names it by reference."""
    return value.get_object() if hasattr(value, "get_object") else value


def _drawn(note: Any) -> bool:
    """Whether an annotation is more than a signature field without size, look and action."""
    return note.get("/FT") != "/Sig" or any(map(float, note["/Rect"])) or not {"/AP", "/A", "/AA"}.isdisjoint(note)


def _bytes(value: Any, key: str) -> bytes:
    out = io.BytesIO()
    value.raw_get(key).write_to_stream(out, None)
    return out.getvalue()


def statement(result: AuditResult, *, audit: bytes, pdf: bytes) -> dict[str, Any]:
    """The in-toto statement: this model, these tests, this result; with the hashes of the result and of the report."""
    tests: dict[str, list[str]] = {"passedTests": [], "warnedTests": [], "failedTests": []}
    for test in result.tests:
        tests[LISTS.get(test.state, "failedTests")].append(test.name)
    configuration = [
        {"name": "audit.json", "digest": _digest(audit), "annotations": {"verdict": result.verdict.word}},
        {"name": result.evidence.file, "digest": {"sha256": result.evidence.sha256}},
        {"name": "report.pdf", "digest": _digest(pdf)},
    ]
    return {
        "_type": STATEMENT,
        "subject": [{"name": "audited model", "digest": {"sha256": result.model.audited_sha256}}],
        "predicateType": PREDICATE,
        "predicate": {
            "result": RESULTS.get(result.verdict.word, "FAILED"),
            "configuration": configuration,
            **tests,
        },
    }


def _digest(data: bytes) -> dict[str, str]:
    return {"sha256": hashlib.sha256(data).hexdigest()}


def envelope(body: dict[str, Any], identity: Identity) -> bytes:
    """A statement signed as DSSE: the file's text."""
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
    from cryptography.hazmat.primitives.serialization import Encoding

    payload = json.dumps(body, sort_keys=True, ensure_ascii=False).encode()
    message, key = _encoded(payload), identity.key
    if isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(message, padding.PKCS1v15(), _sha256())
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        signature = key.sign(message, ec.ECDSA(_sha256()))
    else:
        signature = key.sign(message)
    entry = {
        "keyid": _keyid(identity.certificate),
        "sig": base64.b64encode(signature).decode(),
        "certificate": "".join(
            one.public_bytes(Encoding.PEM).decode() for one in (identity.certificate, *identity.chain)
        ),
    }
    body = {"payloadType": PAYLOAD, "payload": base64.b64encode(payload).decode(), "signatures": [entry]}
    return f"{json.dumps(body, indent=1)}\n".encode()


def check_statement(text: bytes, expected: dict[str, Any], *, now: datetime, trust: Path | None = None) -> Signed:
    """Check that an envelope holds this statement and that its signature is that of the certificate within it."""
    needs_extra()
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

    try:
        body = json.loads(text)
        [entry] = body["signatures"]
        payload = base64.b64decode(body["payload"], validate=True)
        signature = base64.b64decode(entry["sig"], validate=True)
        certificates = x509.load_pem_x509_certificates(entry["certificate"].encode())
        said = json.loads(payload)
        kind = body["payloadType"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error) as error:
        return Signed(False, f"is no signed statement of unlearnkit ({type(error).__name__}: {error})")
    key, who = certificates[0].public_key(), _who(_asn1(certificates[0]))
    message = _encoded(payload)
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, message, padding.PKCS1v15(), _sha256())
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, message, ec.ECDSA(_sha256()))
        elif isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, message)
        else:
            return Signed(False, f"the key of {who} must be RSA, elliptic curve or Ed25519")
    except InvalidSignature:
        return Signed(False, f"it was changed after {who} signed it")
    if kind != PAYLOAD or said != expected:
        where = next((n for n in expected if not isinstance(said, dict) or said.get(n) != expected[n]), "payloadType")
        return Signed(False, f"{who} signed it for another report: its {where} is not what this report says")
    others = [_asn1(one) for one in certificates[1:]]
    return _judged(_asn1(certificates[0]), others, now, trust, f"signed by {who}")


def _judged(
    certificate: asn1_x509.Certificate,
    others: Sequence[asn1_x509.Certificate],
    when: datetime,
    trust: Path | None,
    sentence: str,
) -> Signed:
    """Whether a certificate was good at that time, and trusted where somebody says whom to trust."""
    from cryptography import x509

    if fault := _out_of_date(x509.load_der_x509_certificate(certificate.dump()), when):
        return Signed(False, f"{sentence}, and the certificate {fault}")
    print_ = hashlib.sha256(certificate.dump()).hexdigest()
    if trust is None:
        return Signed(
            True, f"{sentence} (certificate sha256 {print_}); whose it is was not checked: name a root with --trust"
        )
    if fault := _untrusted(certificate, others, when, trust):
        return Signed(False, f"{sentence}, and the certificate does not lead to {trust} ({fault})")
    return Signed(True, f"{sentence} (certificate sha256 {print_}), trusted through {trust}")


def _untrusted(
    certificate: asn1_x509.Certificate, others: Sequence[asn1_x509.Certificate], when: datetime, trust: Path
) -> str:
    from cryptography import x509
    from pyhanko_certvalidator import CertificateValidator, ValidationContext
    from pyhanko_certvalidator.errors import InvalidCertificateError, PathBuildingError, PathValidationError

    text = read_file(trust)
    try:
        roots = [_asn1(one) for one in x509.load_pem_x509_certificates(text)]
    except ValueError as error:
        raise UsageError(f"{trust}: is no certificate in PEM form") from error
    context = ValidationContext(trust_roots=roots, other_certs=list(others), moment=when, allow_fetching=False)
    try:
        asyncio.run(CertificateValidator(certificate, validation_context=context).async_validate_usage(set()))
    except (InvalidCertificateError, PathBuildingError, PathValidationError) as error:
        return str(error)
    return ""


def _encoded(payload: bytes) -> bytes:
    """Pre-authentication encoding (DSSE protocol v1): type and body with their lengths."""
    kind = PAYLOAD.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _sha256() -> Any:
    from cryptography.hazmat.primitives.hashes import SHA256

    return SHA256()


def _keyid(certificate: x509.Certificate) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(
        certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()


def _asn1(certificate: x509.Certificate) -> asn1_x509.Certificate:
    from asn1crypto import x509 as asn1_x509
    from cryptography.hazmat.primitives.serialization import Encoding

    return asn1_x509.Certificate.load(certificate.public_bytes(Encoding.DER))


def _name(certificate: x509.Certificate) -> str:
    return _who(_asn1(certificate))


def _who(certificate: asn1_x509.Certificate) -> str:
    """`Ada Privacy (Example Health AG)`, as the certificate says: somebody else's text, on one line."""
    names = certificate.subject.native
    name, organization = names.get("common_name"), names.get("organization_name")
    if name and organization:
        return shown(f"{name} ({organization})")
    return shown(str(name or organization or certificate.subject.human_friendly or "nobody named"))


def _out_of_date(certificate: x509.Certificate, when: datetime) -> str:
    """`expired on …` or `is not valid before …`, or nothing."""
    if when > certificate.not_valid_after_utc:
        return f"expired on {certificate.not_valid_after_utc:%Y-%m-%d}"
    if when < certificate.not_valid_before_utc:
        return f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d}"
    return ""
