"""Signatures: who signed is said, and every way in which a signed report can be wrong has its sentence."""

from __future__ import annotations

import base64
import functools
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from audit_samples import evidence, plan, result_of

from unlearnkit.audits import cli, controls
from unlearnkit.audits.designs import Tolerances
from unlearnkit.audits.verify import Verified, verify_file
from unlearnkit.reports.pdf import attachments, render
from unlearnkit.result import AuditResult, UsageError

pytest.importorskip("pyhanko", reason="the extra 'sign' is not installed")

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from pyhanko.pdf_utils import generic
from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter

from unlearnkit.audits import signing

NOW = datetime.now(UTC)
DAY = timedelta(days=1)


def named(name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example Health AG"),
        ]
    )


@functools.cache
def private(seed: int = 1) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(seed, ec.SECP256R1())


@functools.cache  # a signature by this kind of key is another one each time
def certified(
    key: Any,
    name: str = "Ada Privacy",
    *,
    issuer: tuple[str, Any] | None = None,
    ends: datetime = NOW + 30 * DAY,
    begins: datetime = NOW - 30 * DAY,
    authority: bool = False,
) -> x509.Certificate:
    by, by_key = issuer or (name, key)
    built = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(by))
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    return built.sign(by_key, None if isinstance(by_key, ed25519.Ed25519PrivateKey) else hashes.SHA256())


def pem(key: Any, passphrase: bytes | None = None) -> bytes:
    protection = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection))


def files(
    folder: Path, key: Any, *certificates: x509.Certificate, passphrase: bytes | None = None
) -> tuple[Path, Path]:
    (folder / "key.pem").write_bytes(pem(key, passphrase))
    chain = b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)
    (folder / "certificate.pem").write_bytes(chain)
    return folder / "key.pem", folder / "certificate.pem"


@pytest.fixture(autouse=True, scope="module")
def _few_shuffles() -> Iterator[None]:
    """What the shuffles are for is tested with the controls."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(controls, "SHUFFLES", 40)
        yield


@functools.cache
def audited() -> tuple[AuditResult, bytes]:
    return result_of(
        evidence(1, oracles=19, requested=20, twins=20, canaries=20, leak_canaries=2.0, outputs=True),
        plan(tolerances=Tolerances(auc=0.15)),
    )


@functools.cache
def typeset() -> bytes:
    return render(*audited())


def identity(seed: int = 1, **certificate: Any) -> signing.Identity:
    return signing.Identity(private(seed), certified(private(seed), **certificate))


@functools.cache
def signed() -> bytes:
    return signing.sign_pdf(typeset(), identity())


def said(checked: Verified, name: str = "signature") -> tuple[bool, str]:
    [found] = [check for check in checked.checks if check.name == name]
    return found.passed, found.sentence


def check(pdf: bytes, **more: Any) -> signing.Signed:
    return signing.check_pdf(pdf, typeset=typeset(), **more)


def test_the_command_line_signs_and_verify_says_who_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["unlearnkit", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return int(str(ended.value.code)), out, err

    (tmp_path / "report.pdf").write_bytes(typeset())
    key, certificate = files(tmp_path, private(), certified(private()), passphrase=b"open sesame")
    (tmp_path / "passphrase").write_text("open sesame\n")
    names = ["--key", str(key), "--certificate", str(certificate)]
    code, _, err = run("sign", str(tmp_path / "report.pdf"), *names)
    assert code == 2
    assert "is protected by a passphrase; name a file that holds it with --passphrase-file" in err
    names += ["--passphrase-file", str(tmp_path / "passphrase")]
    code, out, err = run("sign", str(tmp_path / "report.pdf"), *names, "--statement")
    assert (code, err) == (0, "")
    report, statement = tmp_path / "report.signed.pdf", tmp_path / "report.signed.intoto.json"
    assert out == f"signed: {report}\nstatement: {statement}\n"
    assert report.read_bytes().startswith(typeset())
    assert attachments(report) == attachments(typeset())
    code, out, _ = run("verify", str(report), "--trust", str(certificate))
    assert code == 0
    assert re.search(r"ok  signature: signed by Ada Privacy \(Example Health AG\) on 20.*, trusted through ", out)
    assert re.search(r"ok  statement: report\.signed\.intoto\.json: signed by Ada Privacy \(Example Health AG\)", out)
    assert "Not checked: the request" in out
    code, _, err = run("sign", str(report), *names)
    assert (code, err) == (2, f"unlearnkit: {report}: is signed already; sign the file that unlearnkit report wrote\n")
    with pytest.raises(UsageError, match="the report is signed already"):
        signing.sign_pdf(report.read_bytes(), identity())
    code, _, err = run("sign", str(tmp_path / "report.pdf"), *names, "-o", str(tmp_path / "x.txt"))
    assert (code, err[-51:]) == (2, "x.txt: the name of a signed report must end in .pdf\n"[-51:])
    (tmp_path / "forged.pdf").write_bytes(typeset() + b"% more\n")
    code, _, err = run("sign", str(tmp_path / "forged.pdf"), *names)
    assert code == 2
    assert "forged.pdf: does not verify, so it is not signed: pages: typeset again" in err


@pytest.mark.parametrize("make", [lambda: rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate])
def test_other_keys_sign_as_well(make: Callable[[], Any]) -> None:
    key = make()
    who = signing.Identity(key, certified(key, "Bo"))
    assert check(signing.sign_pdf(typeset(), who)).passed
    body = signing.statement(audited()[0], audit=b"a", pdf=b"b")
    assert signing.check_statement(signing.envelope(body, who), body, now=NOW).passed


@pytest.mark.skipif(not shutil.which("qpdf"), reason="qpdf is not installed")
def test_a_signed_report_is_still_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "signed.pdf"
    path.write_bytes(signed())
    done = subprocess.run(["qpdf", "--check", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    update = signed()[len(typeset()) :]
    assert b'pdfaid:part="3"' in update  # the metadata that the update writes still claim the archival standard
    assert b'pdfaid:conformance="A"' in update
    assert b'pdfuaid:part="1"' in update


def test_who_signed_stands_there_and_whether_that_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "report.pdf"
    path.write_bytes(signed())
    checked = verify_file(path)
    assert checked.passed
    assert checked.signed
    passed, sentence = said(checked)
    assert passed
    assert re.fullmatch(
        r"signed by Ada Privacy \(Example Health AG\) on \d{4}-\d\d-\d\d, \d\d:\d\d UTC \(certificate "
        r"sha256 [0-9a-f]{64}\); whose it is was not checked: name a root with --trust",
        sentence,
    )
    root = certified(private(2), "Root", authority=True)
    (tmp_path / "root.pem").write_bytes(root.public_bytes(serialization.Encoding.PEM))
    distrusted = check(signed(), trust=tmp_path / "root.pem")
    assert not distrusted.passed
    assert "and the certificate does not lead to " in distrusted.sentence
    own = certified(private(), issuer=("Root", private(2)))
    path.write_bytes(signing.sign_pdf(typeset(), signing.Identity(private(), own, (root,))))
    passed, sentence = said(verify_file(path, trust=tmp_path / "root.pem"))
    assert passed
    assert sentence.endswith(f"trusted through {tmp_path / 'root.pem'}")
    (tmp_path / "root.pem").write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"root\.pem: is no certificate in PEM form"):
        check(signed(), trust=tmp_path / "root.pem")
    with pytest.raises(UsageError, match=r"none\.pem: no such file"):
        verify_file(path, trust=tmp_path / "none.pem")


def test_a_name_in_a_certificate_is_text() -> None:
    pdf = signing.sign_pdf(typeset(), identity(name="Ada\x1b[2J\nok  signature: trusted"))
    assert "signed by Ada\\x1b[2J\\nok  signature: trusted (Example Health AG) on" in check(pdf).sentence


def test_the_certificate_must_have_been_valid_when_it_signed() -> None:
    late = signing.sign_pdf(typeset(), identity(ends=NOW - DAY))
    assert check(late) == signing.Signed(False, check(late).sentence)
    assert check(late).sentence.endswith(f"and the certificate expired on {NOW - DAY:%Y-%m-%d}")
    early = signing.sign_pdf(typeset(), identity(begins=NOW + DAY))
    assert check(early).sentence.endswith(f"and the certificate is not valid before {NOW + DAY:%Y-%m-%d}")


def test_what_is_changed_after_signing_is_noticed() -> None:
    data = signed()
    assert check(data).passed
    place = data.index(b"/Contents", len(typeset())) - 20
    for where in (1000, len(typeset()) // 2, len(typeset()) + 40, place):
        changed = bytearray(data)
        changed[where] ^= 1
        assert not check(bytes(changed)).passed, where
    assert check(data + b"% more\n").sentence == (
        "the file was changed after it was signed by Ada Privacy (Example Health AG): something was appended"
    )
    hole = data.index(b"/Contents <", len(typeset())) + 60  # within the signature itself
    broken = data[:hole] + b"00000000" + data[hole + 8 :]
    assert "the file was changed after it was signed" in check(broken).sentence
    assert not check(data[: len(typeset()) + 3000]).passed


def resigned(change: Callable[[IncrementalPdfFileWriter], None]) -> bytes:
    """Signed by somebody who changes the report in the same update."""

    class Changing(IncrementalPdfFileWriter):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            change(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyhanko.pdf_utils.incremental_writer.IncrementalPdfFileWriter", Changing)
        return signing.sign_pdf(typeset(), identity())


def cover(writer: IncrementalPdfFileWriter) -> None:
    page = writer.root["/Pages"]
    while "/Kids" in page:
        page = page["/Kids"][0]
    page["/Contents"] = writer.add_object(generic.StreamObject(stream_data=b"0 0 600 900 re f"))
    writer.update_container(page)


def rename(writer: IncrementalPdfFileWriter) -> None:
    info = writer.trailer_view["/Info"]
    info["/Title"] = generic.TextStringObject("All is well")
    writer.update_container(info)


def stamp(writer: IncrementalPdfFileWriter) -> None:
    page = writer.root["/Pages"]
    while "/Kids" in page:
        page = page["/Kids"][0]
    box = generic.ArrayObject([generic.NumberObject(edge) for edge in (0, 0, 600, 900)])
    note = generic.DictionaryObject(
        {generic.NameObject("/Subtype"): generic.NameObject("/Square"), generic.NameObject("/Rect"): box}
    )
    page["/Annots"] = generic.ArrayObject([writer.add_object(note)])
    writer.update_container(page)


def act(writer: IncrementalPdfFileWriter) -> None:
    writer.root["/OpenAction"] = generic.DictionaryObject({generic.NameObject("/S"): generic.NameObject("/JavaScript")})
    writer.update_root()


def replace_root(writer: IncrementalPdfFileWriter) -> None:
    """A catalog of one's own beside the old one, which stays as it is."""
    root = generic.DictionaryObject(writer.root)
    root["/OpenAction"] = generic.DictionaryObject({generic.NameObject("/S"): generic.NameObject("/JavaScript")})
    writer._root = writer.add_object(root)


def replace_info(writer: IncrementalPdfFileWriter) -> None:
    writer.set_info(generic.DictionaryObject({generic.NameObject("/Title"): generic.TextStringObject("All is well")}))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (replace_root, "the catalog was changed"),
        (replace_info, "the info was changed"),
        (cover, "the page was changed"),
        (rename, "the info was changed"),
        (stamp, "something was drawn over a page"),
        (act, "the catalog was changed"),
    ],
)
def test_a_signer_cannot_change_the_report_while_signing(
    change: Callable[[IncrementalPdfFileWriter], None], sentence: str
) -> None:
    assert check(resigned(change)).sentence == f"signing changed more than it may: {sentence}"


def test_a_signature_on_another_report_is_none_on_this_one() -> None:
    other = signing.check_pdf(signed(), typeset=typeset()[:-1] + b" ")
    assert other.sentence == (
        "signing changed more than it may: the report before signing is not the one that was typeset"
    )


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (lambda f: (f / "key.pem").unlink(), "key.pem: cannot be read (No such file or directory)"),
        (lambda f: (f / "certificate.pem").unlink(), "certificate.pem: cannot be read (No such file or directory)"),
        (lambda f: (f / "key.pem").write_bytes(b"x"), "key.pem: is no private key in PEM form"),
        (lambda f: (f / "certificate.pem").write_bytes(b"x"), "certificate.pem: is no certificate in PEM form"),
        (lambda f: (f / "key.pem").write_bytes(pem(private(3))), "belongs to another key than "),
        (lambda f: (f / "key.pem").write_bytes(pem(private(), b"secret")), "key.pem: the passphrase is wrong"),
        (
            lambda f: (f / "key.pem").write_bytes(pem(dsa.generate_private_key(1024))),
            "key.pem: must be an RSA, elliptic curve or Ed25519 key, got DSAPrivateKey",
        ),
    ],
)
def test_keys_and_certificates_that_do_not_sign(tmp_path: Path, break_it: Callable[[Path], Any], sentence: str) -> None:
    key, certificate = files(tmp_path, private(), certified(private()))
    assert signing.read_identity(key, certificate, now=NOW).certificate == certified(private())
    break_it(tmp_path)
    with pytest.raises(UsageError, match=re.escape(sentence)):
        signing.read_identity(key, certificate, passphrase=b"guess", now=NOW)


def test_an_expired_certificate_does_not_sign(tmp_path: Path) -> None:
    key, certificate = files(tmp_path, private(), certified(private(), ends=NOW - DAY))
    who = "the certificate of Ada Privacy (Example Health AG)"
    with pytest.raises(UsageError, match=re.escape(f"{who} expired on {NOW - DAY:%Y-%m-%d}; sign with one that is")):
        signing.read_identity(key, certificate, now=NOW)
    files(tmp_path, private(), certified(private(), begins=NOW + DAY))
    with pytest.raises(UsageError, match=f"is not valid before {NOW + DAY:%Y-%m-%d}"):
        signing.read_identity(key, certificate, now=NOW)


def test_the_statement_is_in_toto_in_dsse() -> None:
    result, _ = audited()
    body = signing.statement(result, audit=b"the result", pdf=b"the report")
    assert body["subject"] == [{"name": "audited model", "digest": {"sha256": result.model.audited_sha256}}]
    predicate = body["predicate"]
    assert predicate["result"] == "FAILED"
    states = {test.name: test.state for test in result.tests}
    assert sorted(predicate["passedTests"] + predicate["warnedTests"] + predicate["failedTests"]) == sorted(states)
    assert all(states[name] == "PASS" for name in predicate["passedTests"])
    text = json.loads(signing.envelope(body, identity()))
    payload = base64.b64decode(text["payload"])
    assert json.loads(payload) == body
    kind = text["payloadType"].encode()
    message = b"DSSEv1 " + str(len(kind)).encode() + b" " + kind + b" " + str(len(payload)).encode() + b" " + payload
    private().public_key().verify(  # by an arithmetic of its own
        base64.b64decode(text["signatures"][0]["sig"]), message, ec.ECDSA(hashes.SHA256())
    )


def test_statements_that_are_refused(tmp_path: Path) -> None:
    body = signing.statement(audited()[0], audit=b"a", pdf=b"b")
    good = signing.envelope(body, identity())
    assert signing.check_statement(good, body, now=NOW).passed

    def refused(text: bytes, expected: dict[str, Any] = body, **more: Any) -> str:
        found = signing.check_statement(text, expected, **{"now": NOW, **more})
        assert not found.passed
        return found.sentence

    other = signing.statement(audited()[0], audit=b"a", pdf=b"c")
    assert refused(good, other) == (
        "Ada Privacy (Example Health AG) signed it for another report: its predicate is not what this report says"
    )
    forged = json.loads(good)
    forged["payload"] = base64.b64encode(json.dumps(other).encode()).decode()
    assert (
        refused(json.dumps(forged).encode(), other) == "it was changed after Ada Privacy (Example Health AG) signed it"
    )
    assert "and the certificate expired on " in refused(signing.envelope(body, identity(ends=NOW - DAY)))
    for text in (b"", b"[]", b"{}", b'{"signatures": []}', b"\xff", good[:-40], good.replace(b"BEGIN", b"BEGUN")):
        assert refused(text).startswith("is no signed statement of unlearnkit (")
    (tmp_path / "report.pdf").write_bytes(signed())
    (tmp_path / "report.intoto.json").write_bytes(good)  # of another report
    passed, sentence = said(verify_file(tmp_path / "report.pdf"), "statement")
    assert not passed
    assert "signed it for another report" in sentence
    with pytest.raises(UsageError, match=r"none\.json: no such file"):
        verify_file(tmp_path / "report.pdf", statement=tmp_path / "none.json")
    (tmp_path / "audit.json").write_text(audited()[0].to_json())
    (tmp_path / audited()[0].evidence.file).write_bytes(audited()[1])
    with pytest.raises(UsageError, match="a statement is about a signed report; name the PDF, not "):
        verify_file(tmp_path / "audit.json", statement=tmp_path / "report.intoto.json")


def test_without_the_extra_nothing_is_taken_on_trust(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "report.pdf").write_bytes(signed())
    monkeypatch.setitem(__import__("sys").modules, "pyhanko", None)
    sentence = r"signatures need the extra 'sign' \(pyhanko is missing\): pip install 'unlearnkit\[sign\]'"
    with pytest.raises(UsageError, match=sentence):
        verify_file(tmp_path / "report.pdf")
    assert not signing.is_signed(typeset())  # and what is not signed is verified without it


def test_a_signed_file_keeps_one_field_without_look() -> None:
    from pypdf import PdfReader

    root = PdfReader(io.BytesIO(signed())).root_object
    [field] = [one.get_object() for one in root["/AcroForm"]["/Fields"]]
    assert field["/FT"] == "/Sig"
    assert [float(edge) for edge in field["/Rect"]] == [0, 0, 0, 0]
    assert field["/V"]["/SubFilter"] == "/ETSI.CAdES.detached"
