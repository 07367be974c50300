"""Keys, tokens and passwords in a text: what whoever reads them can use.

A key is known by what its issuer begins it with, a password by the name before it. Neither is told where the value only
stands for one: `<your key>`, `${KEY}`, `xxxx`, `changeme`, or, in code, a variable or a call.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections import Counter
from collections.abc import Iterator

__all__ = ["find_secrets"]

Found = tuple[int, int, str]  # start, end, kind

# Letters, digits, "-" and "_" become "a". Every key below has 16 of these in a row, and English prose hardly ever has:
# one search for such a run stands for two dozen searches for prefixes.
_WORD_SHAPE = bytes(
    ord("a") if chr(byte).isascii() and (chr(byte).isalnum() or chr(byte) in "-_") else ord(" ") for byte in range(256)
)
_LONG_RUN = b"a" * 16


def find_secrets(text: str, ascii_text: bytes) -> Iterator[Found]:
    """Not sorted, and they may overlap.

    Args:
        ascii_text: the text with "?" for every character beyond ASCII.
    """
    lower = text.lower()
    if _LONG_RUN in ascii_text.translate(_WORD_SHAPE):
        yield from _keys(text, lower)
    if "@" in text and "://" in text:
        yield from _passwords_of_urls(text)
    if _may_assign(lower):
        yield from _assigned(text)
    yield from _told(text, lower)
    yield from _of_commands(text, lower)
    if "bearer " in lower:
        for match in _BEARER.finditer(text):
            if _random(match[1], 3.2) and not _stands_for_one(match[1]):
                yield match.start(1), match.end(1), "bearer token"


# --- keys that are known by their form ---

# The issuers' formats, where they publish them: GitHub "Behind GitHub's new authentication token formats" (2021),
# GitLab "Token overview" (prefixes), Slack "Tokens", Stripe "API keys" (live ones: test keys move no money), AWS IAM
# "Unique identifiers" (AKIA long-term, ASIA temporary); PyPI's are macaroons, whose location, pypi.org, is what stands
# behind "AgEI" in base 64. Lengths are lower bounds with some room, for issuers have changed them before. All are
# bounded above and none begins inside a word, so no text makes them slow.
_BEGINS = r"(?<![A-Za-z0-9_-])"
_FORMS: tuple[tuple[str, str, str], ...] = (
    ("AKIA", "AWS access key", r"AKIA[A-Z0-9]{16}(?![A-Za-z0-9])"),
    ("ASIA", "AWS access key", r"ASIA[A-Z0-9]{16}(?![A-Za-z0-9])"),
    ("gh", "GitHub token", r"gh[pousr]_[A-Za-z0-9]{36,255}(?![A-Za-z0-9])"),
    ("github_pat_", "GitHub token", r"github_pat_[A-Za-z0-9_]{40,255}"),
    ("glpat-", "GitLab token", r"glpat-[A-Za-z0-9_-]{20,64}(?:\.[a-z0-9]{2}\.[a-z0-9]{9,12})?"),
    ("xox", "Slack token", r"xox[abceoprs]-(?:[0-9]-)?[A-Za-z0-9-]{16,250}"),
    ("xapp-", "Slack token", r"xapp-[0-9]-[A-Za-z0-9-]{20,250}"),
    ("hooks.slack", "Slack webhook", r"hooks\.slack\.com/services/T\w{6,20}/B\w{6,20}/[A-Za-z0-9]{16,64}"),
    ("sk-ant-", "Anthropic API key", r"sk-ant-[A-Za-z0-9_-]{32,200}"),
    ("sk-", "OpenAI API key", r"sk-(?:proj|svcacct|admin|None|or-v1)-[A-Za-z0-9_-]{20,250}"),
    ("sk-", "OpenAI API key", r"sk-[A-Za-z0-9]{32,64}(?![A-Za-z0-9_-])"),
    ("AIza", "Google API key", r"AIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])"),
    ("k_live_", "Stripe key", r"[sr]k_live_[A-Za-z0-9]{16,247}"),
    ("hf_", "Hugging Face token", r"hf_[A-Za-z0-9]{30,64}(?![A-Za-z0-9_])"),
    ("npm_", "npm token", r"npm_[A-Za-z0-9]{36}(?![A-Za-z0-9])"),
    ("pypi-AgE", "PyPI token", r"pypi-AgE[A-Za-z0-9_-]{50,250}"),
    ("SK", "Twilio key", r"SK[0-9a-f]{32}(?![A-Za-z0-9])"),
    (":AA", "Telegram bot token", r"(?:bot)?[0-9]{8,10}:AA[A-Za-z0-9_-]{32,34}(?![A-Za-z0-9_-])"),
    (".", "Discord bot token", r"[MNO][A-Za-z0-9_-]{23,27}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,38}(?![A-Za-z0-9_-])"),
    ("SG.", "SendGrid key", r"SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{16,64}"),
)  # fmt: skip
_PATTERNS = tuple((prefix, kind, re.compile(_BEGINS + pattern)) for prefix, kind, pattern in _FORMS)
_JWT = re.compile(_BEGINS + r"(eyJ[A-Za-z0-9_-]{8,2000})\.([A-Za-z0-9_-]{4,8000})\.([A-Za-z0-9_-]{10,2000})")
_AWS_SECRET = re.compile(r"(?<![A-Za-z0-9/+=_-])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=_-])")
_AWS_NAME = re.compile(r"secret[ _-]?(?:access[ _-]?)?key", re.IGNORECASE)
_BEARER = re.compile(r"(?i:bearer) ([A-Za-z0-9._~+/-]{16,2000}=*)")


def _keys(text: str, lower: str) -> Iterator[Found]:
    for prefix, kind, pattern in _PATTERNS:
        if prefix in text:
            for match in pattern.finditer(text):
                # xxxxxxxx is no key; forty random characters of base 62 have 4.7 bits, 32 of hex 3.6.
                if _bits(match[0]) >= 3 and not _stands_for_one(match[0]):
                    yield match.start(), match.end(), kind
    if "eyJ" in text:
        for match in _JWT.finditer(text):
            if _is_jwt_header(match[1]):
                yield match.start(), match.end(), "JWT"
    if "-----BEGIN" in text:
        yield from _private_keys(text)
    if "secret" in lower and (found := _AWS_NAME.search(text)) is not None:
        for match in _AWS_SECRET.finditer(text, found.end()):
            near = _AWS_NAME.search(text, max(0, match.start() - 60), match.start())
            if near and _random(match[0], 3.5) and not _stands_for_one(match[0]):
                yield match.start(), match.end(), "AWS secret key"


def _is_jwt_header(part: str) -> bool:
    try:
        header = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, RecursionError):  # no base 64, no UTF-8, no JSON
        return False
    return isinstance(header, dict) and "alg" in header


_PEM_BEGIN = re.compile(r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_PEM_END = re.compile(r"-----END (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
# What a block that is cut off still has: lines of base 64, ended by line breaks or by "\\n", as in JSON.
_PEM_BODY = re.compile(r"(?:\s|\\[nr])*+(?:[A-Za-z0-9+/=]{16,}+(?:\s|\\[nr])*+)*+(?:[A-Za-z0-9+/]+={1,2})?+")
_PEM_LONGEST = 20_000  # characters; an RSA key of 16,384 bits has some 12,500
_BASE64_RUN = re.compile(r"[A-Za-z0-9+/]{24}")


def _private_keys(text: str) -> Iterator[Found]:
    """Whole blocks; of one that is cut off, what there is. A header alone, or one before "...", is no key."""
    begins = list(_PEM_BEGIN.finditer(text))
    ends = iter(_PEM_END.finditer(text))
    end = next(ends, None)
    for place, begin in enumerate(begins):
        limit = begins[place + 1].start() if place + 1 < len(begins) else len(text)
        while end is not None and end.start() < begin.end():
            end = next(ends, None)
        if end is not None and end.end() <= limit and end.start() - begin.end() <= _PEM_LONGEST:
            until = end.end()
        else:
            body = _PEM_BODY.match(text, begin.end(), limit)
            until = body.end() if body else begin.end()
        if _BASE64_RUN.search(text, begin.end(), until):
            yield begin.start(), until, "private key"


# --- passwords ---

_URL = re.compile(
    r"(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s/:@\"'<>]{0,64}:([^\s/@\"'<>]{3,128})@[A-Za-z0-9\[]"
)


def _passwords_of_urls(text: str) -> Iterator[Found]:
    for match in _URL.finditer(text):
        if not _stands_for_one(match[1]):
            yield match.start(1), match.end(1), "password in a URL"


_PASSWORD_NAMES = r"passw(?:or)?d|passwort|passphrase|passcode|pwd|(?<![A-Za-z])pass"
_KEY_NAMES = (
    r"secret|token|api[_ -]?key|(?:access|auth|private|secret|signing|encryption|account|master|session)[_ -]?key"
)
_ASSIGNED = re.compile(
    # A name may begin in the middle of a word (DB_PASSWORD), but not follow "[": that is a mark of ours.
    rf"(?<!\[)(?:(?P<password>{_PASSWORD_NAMES})|(?P<key>{_KEY_NAMES}))"
    r"[0-9]{0,2}[\"'\]\\]{0,4}"
    r"(?P<to>[ \t]{0,4}(?::[ \t]?[A-Za-z_]{1,12}[ \t]?=|(?::|=){1,3}>?)[ \t]{0,4}"
    r"|[ \t](?:is|was)[ :][ ]?|[ \t](?<=--password[ \t]))"
    r"(?:[fFbBrRuU]{0,2}\\?(?P<quote>[\"'`])(?P<quoted>(?:(?!(?P=quote))[^\n]){4,256})(?P=quote)"
    r"|(?P<bare>[^\s\"'`,;<>(){}\[\]&|]{6,256})(?P<next>[(\[{]?))",
    re.IGNORECASE,
)


_PASS = re.compile(r"pass(?:w|ph|c|[0-9\"'\]\\ \t]{0,10}[:=]|[ \t](?:is|was))")
_KEY = re.compile(r"(?:secret|token|key)[0-9\"'\]\\ \t]{0,10}[:=]")


def _may_assign(lower: str) -> bool:
    """What every match of _ASSIGNED has, at a fifth of its time: "pass" and "key" stand in every other text."""
    if "pwd" in lower or ("pass" in lower and _PASS.search(lower)):
        return True
    return any(word in lower for word in ("secret", "token", "key")) and _KEY.search(lower) is not None


def _assigned(text: str) -> Iterator[Found]:
    at = 0
    while (match := _ASSIGNED.search(text, at)) is not None:
        at = match.end("to")
        group = "bare" if match["quoted"] is None else "quoted"
        value = match[group].rstrip("\\" if group == "quoted" else ".!?:\\")
        is_password = match["password"] is not None
        if group == "bare" and (match["next"] or not _is_bare_value(value, spaced=" = " in match["to"])):
            continue
        if match["to"].strip(" :\t") in {"is", "was"} and not is_password:
            continue
        if (_is_password if is_password else _is_key)(value) and not _stands_for_one(value):
            yield match.start(group), match.start(group) + len(value), "password" if is_password else "key or token"
            at = match.end()


# "the password Okra&Thimble4": nothing between name and value, so the value has to look like nothing else.
_TOLD = re.compile(
    r"(?<![\[\w-])(?:password|passwort|passphrase|passcode|mot de passe|contrase[ñn]a)[ \t]+"
    r"[\"'`]?([^\s\"'`<>()\[\]{}]{8,64})",
    re.IGNORECASE,
)


_TOLD_WORDS = ("passw", "passphrase", "passcode", "mot de passe", "contrase")


def _told(text: str, lower: str) -> Iterator[Found]:
    if any(word in lower for word in _TOLD_WORDS):
        for match in _TOLD.finditer(text):
            value = match[1].rstrip(".,;:!?")
            marks = sum(not c.isalnum() and c not in "-./:," for c in value)
            kinds = sum(re.search(kind, value) is not None for kind in ("[a-z]", "[A-Z]", "[0-9]"))
            # PBKDF2 and Windows10 are shorter.
            if kinds == 3 and (marks or len(value) >= 11) and _bits(value) >= 2.5 and not _stands_for_one(value):
                yield match.start(1), match.start(1) + len(value), "password"


# --- what stands behind a command, an option or a header ---

_QUOTE = r"[\"'\\]{0,2}"
_USER_AND = rf"{_QUOTE}[^\s:\"'/]{{1,64}}:([^\s\"':/]{{6,128}})"
# What the text in lower case has where there is one, what it is, and its form.
_COMMANDS: tuple[tuple[str, str, re.Pattern[str]], ...] = (
    ("sshpass", "password of a command", re.compile(rf"sshpass[ \t]+-p[ \t]*{_QUOTE}([^\s\"']{{6,128}})")),
    (
        "mysql",
        "password of a command",
        re.compile(r"\bmysql(?:dump|admin|import|show)?\b[^\n|;]{0,120}?[ \t]-p[\"']?([^\s\"'-][^\s\"']{5,128})"),
    ),
    (" -u", "password of a command", re.compile(rf"(?<!\w)-u[ \t]{{0,2}}{_USER_AND}")),
    ("--user", "password of a command", re.compile(rf"--user[ \t=]{_USER_AND}")),
    (
        "define(",
        "password",
        re.compile(
            r"define\(\s{0,4}[\"']\w{0,40}(?:PASSWORD|SECRET|_KEY|_SALT|TOKEN)\w{0,40}[\"']\s{0,4},\s{0,4}"
            r"[\"']([^\"'\n]{6,256})[\"']",
            re.IGNORECASE,
        ),
    ),
    (
        "private",
        "private key",
        re.compile(r"(?i:private[-_ ]?key)\b[^\n0-9]{0,12}((?:0x)?[0-9a-fA-F]{64})(?![0-9a-fA-F])"),
    ),
)
_BASIC = re.compile(r"\bBasic[ \t]+([A-Za-z0-9+/]{12,400}={0,2})(?![A-Za-z0-9+/=])")
_WALLET = ("wallet", "phrase", "seed words", "mnemonic", "bip39", "bip-39")
_PHRASE = re.compile(
    r"(?:(?<=[\"'`“‘:])|(?<=: )|^)[ \t]*"
    r"((?:[a-z]{3,8} ){11}(?:(?:[a-z]{3,8} ){3}){0,4}[a-z]{3,8})(?=[ \t]*(?:[\"'`”’.]|$))",
    re.MULTILINE,
)


def _of_commands(text: str, lower: str) -> Iterator[Found]:
    for sign, kind, pattern in _COMMANDS:
        if sign in lower:
            for match in pattern.finditer(text):
                value = match[1]
                if not _stands_for_one(value) and (kind == "private key" or _is_password(value) or _is_key(value)):
                    yield match.start(1), match.end(1), kind
    if "Basic " in text:
        for match in _BASIC.finditer(text):
            if _is_basic(match[1]):
                yield match.start(1), match.end(1), "password in a header"
    if any(word in lower for word in _WALLET):
        for match in _PHRASE.finditer(text):
            if len(set(match[1].split())) >= 11:
                yield match.start(1), match.end(1), "recovery phrase"


def _is_basic(value: str) -> bool:
    """User and password, as RFC 7617 joins them."""
    try:
        user, colon, password = base64.b64decode(value + "=" * (-len(value) % 4)).decode("utf-8").partition(":")
    except ValueError:
        return False
    return bool(colon and user and len(password) >= 4 and password.isprintable()) and not _stands_for_one(password)


_NAME = re.compile(r"[A-Za-z_]\w*")
_DOTTED = re.compile(r"(?:[A-Za-z_]\w*[.:]{1,2})+[A-Za-z_]\w*")


def _is_bare_value(value: str, spaced: bool) -> bool:
    """Whether a value without quotes can be one: in code it is a variable, a path, or an expression."""
    if (
        not value
        or _DOTTED.fullmatch(value)
        or value[0] in "$%@/\\~*-+="
        or "://" in value
        or not re.search("[0-9]", value)
    ):
        return False
    if spaced and _NAME.fullmatch(value):  # `token = token2` in code, as against TOKEN=… in a file of settings
        return len(value) >= 16 and _random(value, 3.5)
    return re.search("[A-Za-z]", value) is not None


def _is_password(value: str) -> bool:
    """Two kinds of characters, as rules for passwords ask for: "Password:" and "username" are labels of a form."""
    if not 6 <= len(value) <= 128 or re.search(r"\s", value):
        return False
    rest = value[1:].lower() if value[0].isupper() and value[1:].islower() else value
    kinds = sum(re.search(kind, rest) is not None for kind in ("[a-z]", "[A-Z]", "[0-9]", r"[^A-Za-z0-9.:,?_\s-]"))
    return kinds >= 2 and _bits(value) >= 2


def _is_key(value: str) -> bool:
    """At least 12 characters that are no words: "en-core-web-2024" is a name."""
    if not 12 <= len(value) <= 256 or re.search(r"\s", value):
        return False
    pieces = [piece for piece in re.split(r"[^A-Za-z0-9]+", value) if piece]
    if all(piece.isdigit() or piece.isalpha() for piece in pieces) and not re.search("[a-z][A-Z]+[a-z]+[A-Z]", value):
        return False
    return _random(value, 3.0)


def _random(value: str, bits: float) -> bool:
    return _bits(value) >= bits and re.search("[0-9]", value) is not None and re.search("[A-Za-z]", value) is not None


def _bits(value: str) -> float:
    """Shannon's entropy of the characters, in bits a character."""
    size = len(value)
    return -sum(count / size * math.log2(count / size) for count in Counter(value).values()) if size else 0.0


_WORDS = (
    r"pass(?:w(?:or)?d)?|pwd|secret|token|api[_-]?key|key|admin|user(?:name)?|root|login|test|demo|foo(?:bar)?|"
    r"value|string"
)
_PLACEHOLDER = re.compile(
    r"x{4}|\*{3}|\.{3}|…|<|>|\$\{|\$\(|^\$\w+$|\{|%\(|%s|^%\w+%$|your|example|change[_-]?(?:me|it)|placeholder|dummy|"
    r"redacted|insert|replace|^(?:12345|abc123|abcdef|qwerty|\[)|^fake|^sample|todo|\[[A-Z_]+\]|"
    rf"^(?:my|our|the|a|some|new|old|db|super|top|invalid|wrong|correct|s3cr3t)?[_ -]?(?:{_WORDS})"
    rf"(?:[_-]?(?:{_WORDS}|here)){{0,4}}[_-]?\d{{0,3}}!?$|"
    r"^(?:none|null|true|false|undefined|required|optional|hidden|enter|select|missing|n/a)",
    re.IGNORECASE,
)


def _stands_for_one(value: str) -> bool:
    """A placeholder. AWS's documentation has AKIAIOSFODNN7EXAMPLE: such are caught by "example"."""
    return _PLACEHOLDER.search(value) is not None or len(set(value)) <= 2
