"""Personal data in a text: e-mail addresses, telephone, bank, card and national numbers; and secrets.

What counts: something that names or reaches one person, or pays for one. A number counts where its check digits, its
form, or a word before it ("Phone:", "SSN") say what it is; of numbers without a form of their own a word has to.

What does not, though it looks alike, because it belongs to nobody:
- addresses at the domains kept for examples (RFC 2606, RFC 6761: example.com, .test), and placeholders such as
  name@domain.com;
- US numbers 555-0100 to 555-0199 (kept for fiction), and telephone numbers that spell a word (1-800-FLOWERS);
- Social Security numbers that were printed in advertisements (python-stdnum knows them), and 123-45-6789;
- PANs of companies (India); only those of individuals name a person.
Card numbers for tests, such as Stripe's 4242…, do count: nothing about them says that they are, and masking them
costs nothing.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import phonenumbers

from crma.data.quality.identifiers import find_ibans, find_lettered, find_numbered
from crma.data.quality.secrets import find_secrets

__all__ = ["MARKS", "Span", "find_personal", "mask", "redactions"]

MARKS: Mapping[str, str] = {
    "pii_email": "[EMAIL]",
    "pii_phone": "[PHONE]",
    "pii_iban": "[IBAN]",
    "pii_card": "[CARD]",
    "pii_national_number": "[NATIONAL_NUMBER]",
    "secret": "[SECRET]",
}


@dataclass(frozen=True, slots=True)
class Span:
    """One piece of a text. `check` is a name of `findings.CHECKS`, `kind` says what it is ("US SSN", "Visa")."""

    start: int
    end: int
    check: str
    kind: str


# A candidate: where, what, and how sure. Of two that overlap the surer stays, then the longer, then the first.
_Found = tuple[int, int, str, str, int]
_SECRET, _CHECKED, _FORMED, _WORDED = 4, 3, 2, 1

# One search in such a shape of the text says that there is nothing to look for, in a microsecond per 1,000 characters.
_CLASSES = bytes(
    ord("0") if chr(byte).isascii() and chr(byte).isdigit() else ord("A") if 65 <= byte <= 90 else byte
    for byte in range(256)
)
# "?" too: so every character beyond ASCII, no-break spaces and dashes among them, stands in the text's ASCII.
_SEPARATORS = b" -./()+:?\t"


def find_personal(text: str) -> tuple[Span, ...]:
    """All that is personal or secret, in order and without overlaps."""
    ascii_text = text.encode("ascii", "replace")
    shape = ascii_text.translate(_CLASSES, _SEPARATORS)
    found: list[_Found] = [(start, end, "secret", kind, _SECRET) for start, end, kind in find_secrets(text, ascii_text)]
    if "@" in text:
        found += _emails(text)
    if _may_hide(text):
        found += _hidden_emails(text)
    digits, letters = b"0000000" in shape, b"AA00" in shape
    if digits or letters or b"000000A000" in shape:
        # The same places in the text, so one character for one.
        plain = text if text.isascii() else _plain(text)
        if digits:
            found += _ranked(find_numbered(plain))
            found += _phones(plain)
        if letters or digits:
            found += _ranked(find_ibans(plain))
        found += _ranked(find_lettered(plain, shape))
    if not found:
        return ()
    return _without_overlaps(found)


def _ranked(found: Iterable[tuple[int, int, str, str, bool]]) -> Iterator[_Found]:
    for start, end, check, kind, by_form in found:
        yield start, end, check, kind, _CHECKED if by_form else _FORMED


def redactions(text: str, checks: Collection[str] | None = None) -> list[tuple[int, int, str]]:
    """What to put where: the start and end of each span of these checks (None: of all) and its mark, in order."""
    return [
        (span.start, span.end, MARKS[span.check])
        for span in find_personal(text)
        if checks is None or span.check in checks
    ]


def mask(text: str, checks: Collection[str] | None = None) -> str:
    """The text with a mark such as [EMAIL] for every span of these checks (None: of all); none of theirs is left.

    Masking again changes nothing. What stands beside a mark may only then be seen for what it is, so this looks until
    nothing is found; each time something other than marks gets less, so it ends.
    """
    while places := redactions(text, checks):
        pieces, at = [], 0
        for start, end, mark in places:
            pieces += text[at:start], mark
            at = end
        text = "".join((*pieces, text[at:]))
    return text


def _without_overlaps(found: list[_Found]) -> tuple[Span, ...]:
    starts: list[int] = []
    chosen: dict[int, Span] = {}
    for start, end, check, kind, _ in sorted(found, key=lambda f: (-f[4], f[0] - f[1], f[0])):
        place = bisect_left(starts, start)
        before = place > 0 and chosen[starts[place - 1]].end > start
        after = place < len(starts) and starts[place] < end
        if not before and not after:
            starts.insert(place, start)
            chosen[start] = Span(start, end, check, kind)
    return tuple(chosen[start] for start in starts)


_ALIKE = {"\u00a0": " ", "\u202f": " ", "\u2009": " ", "\u2007": " ", "\u2010": "-", "\u2011": "-", "\u2012": "-",
          "\u2013": "-", "\u2212": "-"}  # fmt: skip


def _plain(text: str) -> str:
    for character, plain in _ALIKE.items():
        text = text.replace(character, plain)
    return text


# --- e-mail ---

_LATIN = "A-Za-zÀ-ÖØ-öø-ɏ"
_DOMAIN = re.compile(
    rf"@(?<=[{_LATIN}0-9_%+-]@)((?:[{_LATIN}0-9-]{{1,63}}\.){{1,8}}(?:xn--[a-z0-9]{{2,30}}|[A-Za-z]{{2,24}}))"
)
_LOCAL = re.compile(rf"[{_LATIN}0-9_.+%'-]*\Z")
_IN_URL = re.compile(r"://[^\s/]*\Z")

# Country domains, and of the others those with the most addresses. A name that is none of them is an attribute in code
# (A@B.reshape), a file, or a slip of the pen.
_TLD_NAMES = """
    ac ad ae af ag ai al am ao ar as at au aw ax az ba bb bd be bf bg bh bi bj bm bn bo br bs bt bw by bz ca cc cd cf
    cg ch ci ck cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec ee eg er es et eu fi fj fk fm fo fr ga gd ge gf gg
    gh gi gl gm gn gp gq gr gt gu gw gy hk hn hr ht hu id ie il im in io iq ir is it je jm jo jp ke kg kh ki km kn kp kr
    kw ky kz la lb lc li lk lr ls lt lu lv ly ma mc md me mg mh mk ml mm mn mo mp mq mr ms mt mu mv mw mx my mz na nc ne
    nf ng ni nl no np nr nu nz om pa pe pf pg ph pk pl pm pn pr ps pt pw py qa re ro rs ru rw sa sb sc sd se sg sh si sk
    sl sm sn so sr ss st su sv sx sy sz tc td tf tg th tj tk tl tm tn to tr tt tv tw tz ua ug uk us uy uz va vc ve vg vi
    vn vu wf ws ye yt za zm zw com org net edu gov mil int info biz name pro aero coop museum jobs mobi travel asia cat
    tel post xxx app dev page blog cloud online site website store shop tech space digital agency email group team work
    works world life live today news media press science academy university school college education health healthcare
    care clinic hospital dental doctor vet pharmacy foundation charity ngo ong church club community social network
    systems solutions services software company business consulting expert legal law lawyer attorney finance
    financial bank capital fund insurance tax accountants money credit trade market marketing studio design art photo
    photography video film music events tours restaurant cafe hotel house homes estate properties construction
    engineering energy eco green global international center institute berlin hamburg koeln koln bayern wien swiss paris
    london nyc vegas amsterdam brussels madrid scot wales cymru bzh eus gal quebec africa tokyo moscow xyz top icu vip
    fun games host hosting support help guide tips zone city town land one me plus best run fit yoga bike auto cars
    technology training support productions ventures partners associates directory gmbh ltd llc inc ink wiki link
    click mail chat kiwi ninja guru rocks social email earth mba nrw ruhr tirol saarland hiphop fyi
"""
_TLDS = frozenset(_TLD_NAMES.split())

_NOBODYS_DOMAINS = frozenset({"domain", "yourdomain", "mydomain", "yourcompany", "mycompany", "yoursite", "somedomain"})
_NOBODYS_TLDS = frozenset({"example", "test", "invalid", "localhost", "local"})
_PLACE_NAMES = _NOBODYS_DOMAINS | {
    "company",
    "email",
    "mail",
    "site",
    "website",
    "host",
    "server",
    "provider",
    "foo",
    "bar",
}
_NOBODYS_WORDS = """
    name user username you your yourname your.name your-name your_name email youremail your.email e-mail mail me my
    myemail someone somebody anyone abc xyz foo bar first.last firstname.lastname first_last firstname lastname
"""
_NOBODYS_NAMES = frozenset(_NOBODYS_WORDS.split())


def _emails(text: str) -> Iterator[_Found]:
    for match in _DOMAIN.finditer(text):
        at, end = match.start(), match.end()
        labels = match[1].split(".")
        if text[end : end + 1].isalnum() or text[end : end + 1] in {"-", "_"}:
            labels = labels[:-1]  # "a@b.co.x1"
        while len(labels) > 1 and not _is_tld(labels[-1]):
            labels.pop()  # "write to a@b.com.Then"
        if len(labels) < 2 or any(label[0] == "-" or label[-1] == "-" for label in labels):
            continue
        domain = ".".join(labels)
        end = at + 1 + len(domain)
        before = text[max(0, at - 80) : at]
        local = _LOCAL.search(before)
        name = local[0].lstrip("'.-+%") if local else ""
        if not 0 < len(name) <= 64 or ".." in name or not any(character.isalnum() for character in name):
            continue
        # `A@B.to(device)` is a product of matrices, git@host:path and user@ in an address are no mail boxes.
        if text[end : end + 1] == "(" or (name.lower() == "git") or _IN_URL.search(before[: len(before) - len(name)]):
            continue
        if not _is_nobodys(name.lower(), [label.lower() for label in labels]):
            yield at - len(name), end, "pii_email", "e-mail", _FORMED


# Written so that no program finds them: "ann [at] posteo (dot) de", "ann dot lee at posteo dot de", "ann @ posteo.de",
# and "ann%40posteo.de" in an address. Few texts have a sign of it.
_HIDDEN_AT = re.compile(r"[ ]?[\[({][ ]?(?:at|AT)[ ]?[\])}][ ]?|[ ]at[ ]|[ ]@[ ]?|@[ ]|%40")
_DOT = r"(?:[ ]?[\[({][ ]?(?:dot|DOT)[ ]?[\])}][ ]?|[ ]dot[ ]|\.)"
_A_DOT = re.compile(_DOT)
_HIDDEN_NAME = re.compile(rf"(?<![\w.@%+-])[A-Za-z0-9_+-]{{1,40}}(?:{_DOT}[A-Za-z0-9_+-]{{1,40}}){{0,3}}\Z")
_HIDDEN_DOMAIN = re.compile(rf"[A-Za-z0-9-]{{1,40}}(?:{_DOT}[A-Za-z0-9-]{{1,40}}){{1,4}}(?![\w@-])")


_HIDING = ("%40", " dot ", "(at)", "[at]", "{at}", "(AT)", "[AT]", " at )", " at ]")


def _may_hide(text: str) -> bool:
    """What every hidden address has a sign of, and few texts: half a microsecond a sign and 1,000 characters."""
    if "@" in text and (" @" in text or "@ " in text):
        return True
    return any(sign in text for sign in _HIDING)


def _hidden_emails(text: str) -> Iterator[_Found]:
    for at in _HIDDEN_AT.finditer(text):
        domain = _HIDDEN_DOMAIN.match(text, at.end())
        # "I was at example.com" is a sentence: words have to stand for both signs.
        if domain is None or (at[0] == " at " and "dot" not in domain[0].lower()):
            continue
        first = max(0, at.start() - 90)
        name = _HIDDEN_NAME.search(text[first : at.start()])
        if name is None or ("@" in at[0] and len(name[0]) < 3):  # "@" for "at", between words
            continue
        labels, end = [label.lower() for label in _A_DOT.split(domain[0])], domain.end()
        while len(labels) > 1 and labels[-1] not in _TLDS:  # "ann [at] posteo.de.Then"
            *_, dot = _A_DOT.finditer(text, at.end(), end)
            labels, end = labels[:-1], dot.start()
        if len(labels) > 1 and not _is_nobodys(".".join(_A_DOT.split(name[0])).lower(), labels):
            yield first + name.start(), end, "pii_email", "e-mail, hidden", _FORMED


def _is_tld(label: str) -> bool:
    return label.lower() in _TLDS or label.startswith("xn--") or label.lower() in _NOBODYS_TLDS


def _is_nobodys(name: str, labels: list[str]) -> bool:
    return (
        labels[-1] in _NOBODYS_TLDS
        or "example" in labels
        or labels[0] in _NOBODYS_DOMAINS
        or (name in _NOBODYS_NAMES and labels[0] in _PLACE_NAMES)
    )


# --- telephone ---

_STARTS = r"(?<![\w+])(?<![0-9][.,/-])(?<![$€£¥#=][(])(?<![$€£¥#=])"
_ENDS = r"(?![0-9])(?![-./,]?[A-Za-z0-9_%@])"
_ABROAD = re.compile(r"(?<![\w)+])\+ ?\(?[0-9](?:[ .()/-]{0,3}[0-9]){6,16}(?![0-9A-Za-z_])")
_US = re.compile(
    rf"{_STARTS}(?:1[ .-]?)?(?:\([2-9][0-9]{{2}}\) ?|[2-9][0-9]{{2}}-)[2-9][0-9]{{2}}[-. ][0-9]{{4}}{_ENDS}"
)
_ANY = re.compile(rf"{_STARTS}\(?[0-9](?:[ .()/-]{{0,3}}[0-9]){{6,14}}(?![0-9A-Za-z_@%]|[,.:/-][0-9])")
_PHONE_WORDS_WITHIN = 30  # characters between the word and the number
_LONGEST_PHONE_WORD = 15
_PHONE_WORDS = re.compile(
    r"(?<![\[\w])(?:(?P<noun>tel|tlf|telephone|(?:tele)?fax|(?:tele|cell|smart)?phone|mobile|"
    r"cell(?= ?(?:no|nr|number|:|#))|whatsapp|hotline|helpline|switchboard|telefon\w{0,7}|telefoon\w{0,7}|"
    r"t[ée]l[ée]phone|t[ée]l|t[ée]l[ée]fono|"
    r"telefone|m[óo]vil|celular|cellulare|handy|mobil|mobilnummer|rufnummer|land ?line|direct (?:line|dial)|zap|"
    r"reach(?:ed|able)?(?= (?:him|her|me|us|them|you|at|on|under))|тел|телефон|звонить|ph(?=[.:]))|"
    r"(?P<verb>call(?:ing)?|dial|ring|sms|text|message(?= (?:him|her|me|us|on|to))))(?![^\W_])",
    re.IGNORECASE,
)
_NOT_A_PHONE = re.compile(
    r"(?:1[5-9]|20)[0-9]{2}[-/ ](?:1[5-9]|20)[0-9]{2}\Z|"  # years from to
    r"(?:1[89]|20)[0-9]{2}([-/.])[01]?[0-9]\1[0-3]?[0-9]|[0-3]?[0-9]([-/.])[0-3]?[0-9]\2(?:1[89]|20)[0-9]{2}"  # dates
)
# National numbers by how many digits they have. With a trunk 0 a number is tried in the first, else in the second:
# no country's plan may take numbers that are not dialled so there.
_WITH_TRUNK = (
    "GB", "DE", "FR", "IT", "NL", "BE", "CH", "AT", "AU", "JP", "ZA", "SE", "IN", "FI", "IE", "NZ", "KR", "CN",
    "EG", "KE", "NG", "RO", "TR", "UA", "IL", "AE",
)  # fmt: skip
_WITHOUT_TRUNK: Mapping[int, tuple[str, ...]] = {
    8: ("NO", "DK", "SG"),
    9: ("ES", "PT", "PL"),
    10: ("US", "IN", "MX", "IT"),
    11: ("US", "CN", "BR"),
}


# Of mobile telephones, as they are written where nothing else is: no word has to stand before them.
_MOBILES = re.compile(
    rf"{_STARTS}(?:(?P<GB>07[0-9]{{3}} (?:[0-9]{{6}}|[0-9]{{3}} [0-9]{{3}}))|(?P<KR>010-[0-9]{{4}}-[0-9]{{4}})"
    r"|(?P<RU>8 \(9[0-9]{2}\) [0-9]{3}-[0-9]{2}-[0-9]{2})|(?P<BR>\([1-9][0-9]\) 9[0-9]{4}-[0-9]{4})"
    r"|(?P<FR>0[67](?: [0-9]{2}){4}|0[67](?:\.[0-9]{2}){4})|(?P<AU>04[0-9]{2} [0-9]{3} [0-9]{3})"
    rf"|(?P<ZA>0[678][0-9] [0-9]{{3}} [0-9]{{4}})){_ENDS}"
)


def _phones(text: str) -> Iterator[_Found]:
    for match in _MOBILES.finditer(text):
        if match.lastgroup and _region(match[0], match.lastgroup) is not None:
            yield match.start(), match.end(), "pii_phone", f"{match.lastgroup} phone", _FORMED
    if "+" in text:
        for match in _ABROAD.finditer(text):
            for number in _shortened(match[0]):
                if (region := _region(number, None)) is not None:
                    yield match.start(), match.start() + len(number), "pii_phone", f"{region} phone", _FORMED
                    break
    for match in _US.finditer(text):
        if _region(match[0], "US") is not None:
            yield match.start(), match.end(), "pii_phone", "US phone", _FORMED
    for match in _ANY.finditer(text):
        start = match.start()
        first = max(0, start - _PHONE_WORDS_WITHIN - _LONGEST_PHONE_WORD)
        *_, word = None, *_PHONE_WORDS.finditer(text, first, start)
        if word is None or start - word.end() > _PHONE_WORDS_WITHIN or _NOT_A_PHONE.match(match[0]):
            continue
        for number in _shortened(match[0]):
            if kind := _by_word(number, noun=word["noun"] is not None):
                yield start, start + len(number), "pii_phone", kind, _WORDED
                break


def _shortened(number: str) -> Iterator[str]:
    """A number as it stands, and without its last one, two and three groups: digits may follow it."""
    yield number
    for _ in range(3):
        cut = number.rfind(" ")
        if cut <= 0:
            return
        number = number[:cut].rstrip(" .()/-")
        yield number


def _by_word(number: str, noun: bool) -> str:
    """The kind of a number behind a word such as "Phone"; "" if it is none. Behind a verb fewer are."""
    digits = "".join(character for character in number if character.isdigit())
    if digits in "01234567890123456789":  # as in code that asks what is a digit
        return ""
    if digits.startswith("00"):
        region = _region("+" + digits[2:], None)
        return f"{region} phone" if region else ""
    if digits.startswith("0"):
        return "phone" if any(_region(digits, region) for region in _WITH_TRUNK) else ""
    if len(digits) == 7:  # a local number, without its area
        is_local = noun and len(number) == 8 and number[3] in "-. " and number[0] not in "01"
        return "phone" if is_local and digits[:5] != "55501" else ""
    regions = _WITHOUT_TRUNK.get(len(digits), ())
    return next((f"{region} phone" for region in regions if (noun or region == "US") and _region(digits, region)), "")


@lru_cache(maxsize=4096)  # the same numbers stand in many rows, and one takes some 20 microseconds
def _region(number: str, region: str | None) -> str | None:
    """The country of a valid number (or its code, where it has none, as with satellites), else None."""
    try:
        parsed = phonenumbers.parse(number, region)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(parsed) or _is_fiction(parsed):
        return None
    return phonenumbers.region_code_for_number(parsed) or f"+{parsed.country_code}"


def _is_fiction(number: phonenumbers.PhoneNumber) -> bool:
    """555-0100 to 555-0199 of any area: the North American Numbering Plan keeps them for this."""
    return number.country_code == 1 and (number.national_number or 0) // 100 % 100000 == 55501
