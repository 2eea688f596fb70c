"""Who issues a report and in which language: organization, contact, logo and every fixed text, from a small TOML file.

The tables in `languages/` hold the furniture of the pages: headings, notes, glossary, the verdict's words. What the
judge computed (numbers, names and sentences) stands in the result, and is printed from it in every language alike.
A report carries its letterhead as an attachment, so that it can be typeset again.
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unlearnkit.result import UsageError, nearest
from unlearnkit.store import read_file

LETTERHEAD = "letterhead.json"  # the name of the attachment
FOLDER = Path(__file__).with_name("languages")
LANGUAGES = tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))
LARGEST_LOGO = 1_000_000  # bytes: it stands in every report
_KEYS = ("organization", "contact", "logo", "language", "words")

Words = dict[str, Any]


@functools.cache
def language(name: str) -> Words:
    """A table that comes with unlearnkit; not to be changed."""
    return tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Letterhead:
    """Empty: the organization of the result, English. `words` replace texts of `language`, under the same keys."""

    organization: str = ""
    contact: str = ""
    logo: bytes = b""  # PNG, JPEG or SVG; empty: none
    language: str = "en"  # one of LANGUAGES
    words: Words = field(default_factory=dict)

    def table(self) -> Words:
        """Every fixed text: the language with this organization's own words in it."""
        return _merged(language(self.language), self.words)

    def to_json(self) -> bytes:
        """What is attached to the report."""
        body = {name: getattr(self, name) for name in ("organization", "contact", "language", "words")}
        text = json.dumps({**body, "logo": base64.b64encode(self.logo).decode()}, sort_keys=True, ensure_ascii=False)
        return f"{text}\n".encode()

    @classmethod
    def from_json(cls, text: bytes, *, what: str = LETTERHEAD) -> Letterhead:
        """Read an attachment; whatever does not fit is a UsageError."""
        try:
            body = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{what}: not readable as JSON ({error})") from error
        if not isinstance(body, dict) or sorted(body) != sorted(_KEYS):
            raise UsageError(f"{what}: must hold {', '.join(_KEYS)}")
        encoded = body.pop("logo")
        try:
            logo = base64.b64decode(encoded, validate=True)
        except (TypeError, ValueError, binascii.Error) as error:
            raise UsageError(f"{what}: logo must be base64") from error
        return _letterhead(body, logo, what)


def read_letterhead(path: Path) -> Letterhead:
    """Read a TOML file; the logo, and a language of one's own, are files that it names relative to its folder."""
    body = _toml(path)
    for name in body:
        if name not in _KEYS:
            hint = nearest(name, _KEYS) or f"; known are {', '.join(_KEYS)}"
            raise UsageError(f"{path}: {name}: unknown key{hint}")
    logo = body.pop("logo", "")
    spoken = body.get("language", "en")
    if isinstance(spoken, str) and spoken.endswith(".toml"):
        own = _toml(path.parent / spoken)
        _complete(own, language("en"), str(path.parent / spoken))
        body |= {"language": "en", "words": _laid_over(own, body.get("words", {}))}
    if not isinstance(logo, str):
        raise UsageError(f"{path}: logo: must name a file, got {logo!r}")
    return _letterhead(body, read_file(path.parent / logo) if logo else b"", str(path))


def speaking(letterhead: Letterhead, name: str) -> Letterhead:
    """The same organization in one of LANGUAGES. Own words were written for the language that they replace, and
    are left out where another one is asked for."""
    if name not in LANGUAGES:
        raise UsageError(f"--language: must be one of {', '.join(LANGUAGES)}, got {name!r}{nearest(name, LANGUAGES)}")
    if name == letterhead.table()["lang"]:
        return letterhead
    return replace(letterhead, language=name, words={})


def logo_kind(logo: bytes) -> str:
    """`png`, `jpg` or `svg` by its content, or nothing."""
    if logo.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if logo.startswith(b"\xff\xd8\xff"):
        return "jpg"
    return "svg" if b"<svg" in logo[:1000] else ""


def _letterhead(body: Words, logo: bytes, what: str) -> Letterhead:
    for name in ("organization", "contact", "language"):
        if not isinstance(body.get(name, ""), str):
            raise UsageError(f"{what}: {name}: must be a text, got {body[name]!r}")
    spoken, words = body.get("language", "en"), body.get("words", {})
    if spoken not in LANGUAGES:
        hint = nearest(spoken, LANGUAGES)
        raise UsageError(
            f"{what}: language: must be one of {', '.join(LANGUAGES)} or name a .toml file, got {spoken!r}{hint}"
        )
    if len(logo) > LARGEST_LOGO:
        raise UsageError(f"{what}: logo: has {len(logo):,} bytes, at most {LARGEST_LOGO:,} are accepted")
    if logo and not logo_kind(logo):
        raise UsageError(f"{what}: logo: must be a PNG, JPEG or SVG file")
    _fits(words, language(spoken), f"{what}: words")
    return Letterhead(body.get("organization", ""), body.get("contact", ""), logo, spoken, words)


def _toml(path: Path) -> Words:
    data = read_file(path)
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not text; it must be a TOML file in UTF-8") from error
    except (ValueError, RecursionError) as error:  # beside mistakes: thousands of brackets, or of digits
        raise UsageError(f"{path}: not valid TOML: {error}") from error


def _fits(own: Any, base: Any, where: str) -> None:
    """Refuse words that the pages could not print: each must have the shape of the one that it replaces."""
    if isinstance(base, dict):
        if not isinstance(own, dict):
            raise UsageError(f"{where}: must be a section, got {own!r}")
        for key, value in own.items():
            if key not in base:
                raise UsageError(f"{where}.{key}: unknown key{nearest(key, base)}")
            _fits(value, base[key], f"{where}.{key}")
    elif isinstance(base, list):
        if not isinstance(own, list) or not own:
            raise UsageError(f"{where}: must be a list, got {own!r}")
        # How many texts stand around the numbers of a sentence is fixed; a list of sentences may be longer.
        fixed = isinstance(base[0], str) and not where.endswith(("-out-list", ".fields"))
        if fixed and len(own) != len(base):
            raise UsageError(f"{where}: must be a list of {len(base)} texts, got {len(own)}")
        for index, value in enumerate(own):
            _fits(value, base[0], f"{where}[{index}]")
            if isinstance(base[0], dict):
                _complete(value, base[0], f"{where}[{index}]")
    elif type(own) is not type(base):
        raise UsageError(f"{where}: must be {'true or false' if isinstance(base, bool) else 'a text'}, got {own!r}")


def _complete(own: Words, base: Words, where: str) -> None:
    """Refuse a table that lacks a key."""
    for key, value in base.items():
        if key not in own:
            raise UsageError(f"{where}: {key} is missing; a language has every key of en.toml")
        if isinstance(value, dict) and isinstance(own[key], dict):
            _complete(own[key], value, f"{where}: {key}")


def _laid_over(base: Words, own: Any) -> Any:
    """`own` before `base`, key by key; what is no table is left for `_fits` to refuse."""
    if not isinstance(own, dict):
        return own
    below = {k: _laid_over(base[k], v) if isinstance(base.get(k), dict) else v for k, v in own.items()}
    return {**base, **below}


def _merged(base: Words, own: Words) -> Words:
    merged: Words = _laid_over(base, own)
    return merged
