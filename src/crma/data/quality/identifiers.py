"""Numbers that name one person or account: national and tax numbers, cards, IBANs.

A number counts where its check digits or its form say what it is. Where they hardly do (nine digits in a row, of which
one in ten or eleven has the right check digit), a word has to stand before it: "SSN", "BSN", "Steuer-ID".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from stdnum import iban, luhn, numdb
from stdnum.at import vnr
from stdnum.au import tfn
from stdnum.be import nn
from stdnum.br import cpf
from stdnum.ca import sin
from stdnum.ch import ssn as ahv
from stdnum.cl import rut
from stdnum.cn import ric
from stdnum.cz import rc
from stdnum.de import idnr as steuer_id
from stdnum.dk import cpr
from stdnum.es import dni, nie
from stdnum.fi import hetu
from stdnum.fr import nir
from stdnum.gb import nhs
from stdnum.ie import pps
from stdnum.in_ import aadhaar, pan
from stdnum.it import codicefiscale
from stdnum.kr import rrn
from stdnum.mx import curp
from stdnum.nl import bsn
from stdnum.no import fodselsnummer
from stdnum.pl import pesel
from stdnum.pt import nif
from stdnum.ro import cnp
from stdnum.se import personnummer
from stdnum.tr import tckimlik
from stdnum.us import itin, ssn
from stdnum.za import idnr as za_id

__all__ = ["find_ibans", "find_lettered", "find_numbered"]

# Start, end, check, kind, and whether its check digits or form say it; else a word before it did.
Found = tuple[int, int, str, str, bool]

_WORDS_WITHIN = 40  # characters between the word and the number
_LONGEST_WORDS = 40


@dataclass(frozen=True, slots=True)
class _Rule:
    check: str
    kind: str
    valid: Callable[[str], bool]
    words: re.Pattern[str] | None = None


def _words(some_case: str = "", this_case: str = "") -> re.Pattern[str]:
    """Whole words, none of them a mark ("[CARD]")."""
    alternatives = [f"(?i:{some_case})"] if some_case else []
    return re.compile(rf"(?<![\[\w])(?:{'|'.join([*alternatives, *filter(None, [this_case])])})(?![^\W_])")


# --- what is valid ---


def _safe(valid: Callable[[str], bool]) -> Callable[[str], bool]:
    """stdnum takes dates, places and letters out of a number; of some that are none it does not say so."""

    def is_valid(number: str) -> bool:
        try:
            return valid(number)
        except (ValueError, KeyError, IndexError):
            return False

    return is_valid


def _is_ssn(number: str) -> bool:
    # python-stdnum leaves out what was never given and three from advertisements; 123-45-6789 is on sample forms.
    digits = _digits(number)
    return ssn.is_valid(digits) and digits != "123456789" and len(set(digits)) > 1


def _is_itin(number: str) -> bool:
    return itin.is_valid(_digits(number))


def _is_tfn(number: str) -> bool:
    return tfn.is_valid(_digits(number))


def _is_nir(number: str) -> bool:
    # The first digit is a sex (1, 2; 3, 4, 7 and 8 while it is being registered), the next two pairs a year and month.
    digits = number.replace(" ", "").replace("-", "")
    return (
        digits[:1] in set("123478") and (1 <= int(digits[3:5]) <= 12 or int(digits[3:5]) >= 20) and nir.is_valid(digits)
    )


def _is_rrn(number: str) -> bool:
    return rrn.is_valid(number, allow_future=False)


def _is_person_pan(number: str) -> bool:
    return number[3] == "P" and pan.is_valid(number)  # C is a company, F a firm, T a trust …


def _is_person_ric(number: str) -> bool:
    return "1900" <= number[6:10] <= "2099" and ric.is_valid(number)


def _is_solid_se(number: str) -> bool:
    return personnummer.is_valid(number.replace(" ", ""))


def _digits(number: str) -> str:
    return re.sub("[^0-9]", "", number)


# Prefixes and lengths by ISO/IEC 7812 and the networks' own pages. Maestro has so many prefixes and lengths that only
# its common ones are here.
_ISSUERS: tuple[tuple[str, frozenset[int], tuple[tuple[int, int], ...]], ...] = (
    ("Visa", frozenset({13, 16, 19}), ((4, 4),)),
    ("Mastercard", frozenset({16}), ((51, 55), (2221, 2720))),
    ("American Express", frozenset({15}), ((34, 34), (37, 37))),
    ("Discover", frozenset({16, 19}), ((6011, 6011), (644, 649), (65, 65), (622126, 622925))),
    ("Diners Club", frozenset({14}), ((300, 305), (3095, 3095), (36, 36), (38, 39))),
    ("JCB", frozenset({16, 19}), ((3528, 3589),)),
    ("UnionPay", frozenset({16, 17, 18, 19}), ((62, 62),)),
    ("Mir", frozenset({16, 19}), ((2200, 2204),)),
    ("RuPay", frozenset({16}), ((60, 60), (508, 508), (81, 82))),
    ("Maestro", frozenset({13, 16, 18, 19}), ((5018, 5018), (5020, 5020), (5038, 5038), (6304, 6304), (6759, 6759),
                                                (6761, 6763))),
)  # fmt: skip


def _issuer(number: str) -> str:
    """Whose card this is, "" if it is none."""
    digits = _digits(number)
    for name, lengths, prefixes in _ISSUERS:
        if len(digits) in lengths:
            for low, high in prefixes:
                if low <= int(digits[: len(str(low))]) <= high:
                    return name if len(set(digits)) > 1 and luhn.is_valid(digits) else ""
    return ""


def _is_card(number: str) -> bool:
    return bool(_issuer(number))


# --- the rules ---

_NATIONAL = "pii_national_number"
_SSN = _words(r"ssn|social security(?: (?:number|no|nr|#))?|(?<=my )social|(?<=your )social")
_RUT = _words(r"rut|r\.u\.t\.")
_CNP = _words(r"cnp|cod numeric personal")
_RC = _words(r"r\.? ?č\.?|rodn[ée] č[íi]slo|birth number")
_SVNR = _words(r"svnr|sv-?nr\.?|sozialversicherungsnummer|sv-nummer|versicherungsnummer")
_ITIN = _words(r"itin|individual taxpayer")
_BSN = _words(r"bsn|burgerservicenummer|sofi-?nummer")
# "sin" is a word of English and of Spanish: only in capitals.
_SIN = _words(r"social insurance|num[ée]ro d.assurance sociale", "SIN|NAS")
_TFN = _words(r"tfn|tax file number")
_NIF = _words(r"nif|contribuinte|n[úu]mero de identifica[çc][ãa]o fiscal")
_IDNR = _words(
    r"steuer-?\s?id(?:-?nr\.?|nummer|entifikationsnummer)?|(?:steuerliche )?identifikationsnummer|id-?nr\.?|"
    r"tax id(?:entification)?(?: number)?",
    "TIN",
)
_NN = _words(
    r"rijksregister(?:nummer)?|insz|niss|num[ée]ro (?:de registre )?national|registre national|"
    r"national (?:register )?number"
)
_PESEL = _words(r"pesel")
_CPF = _words(r"cpf|cadastro de pessoas?")
_KIMLIK = _words(r"(?:t\.?c\.? ?)?kimlik(?: no| numaras[ıi])?|tckn")
_NO = _words(r"f[øo]dselsnummer|personnummer|d-nummer|national identity number")
_SE = _words(r"personnummer|samordningsnummer|personal (?:identity )?number")
_DK = _words(r"cpr(?:-?(?:nr|nummer|number)\.?)?|personnummer")
_NHS = _words(r"nhs(?: (?:number|no))?\.?")
_NIR = _words(r"nir|s[ée]curit[ée] sociale|s[ée]cu|insee")
_AHV = _words(r"ahv(?:-?(?:nr|nummer))?\.?|avs|sozialversicherungsnummer")
_AADHAAR = _words(r"aadhaar|aadhar|uidai|आधार", "UID")
_RRN = _words(r"rrn|resident registration|주민등록번호|주민번호")
_ZA = _words(
    r"(?:south african |sa |rsa )?id(?:entity)?(?: (?:number|no|nr|document))\.?|"
    r"(?:south african|sa|rsa) id|id[- ]?nommer"
)
_DNI = _words(r"dni|d\.n\.i\.?|nif|documento nacional")
_PPS = _words(r"ppsn?|personal public service")
_CARD_WORDS = _words(r"(?:credit|debit|bank)?[ -]?cards?|visa|master ?card|amex|kreditkarte|carte|tarjeta|cart[ãa]o")

# What is valid; a word that has to stand before, if any; and how the digits are written, "0" for each. Cards of 13, 14,
# 18 and 19 digits in a row need a word: such numbers are as often stamps of time, articles or ids.
_RULES: tuple[tuple[str, str, Callable[[str], bool], re.Pattern[str] | None, str], ...] = (
    ("pii_card", "card", _is_card, None, "0000 0000 0000 0000|0000-0000-0000-0000|0000000000000000|000000000000000"),
    ("pii_card", "card", _is_card, None, "0000 000000 00000|0000-000000-00000|0000 000000 0000|0000-000000-0000"),
    ("pii_card", "card", _is_card, None, "0000 0000 0000 0000 000|0000-0000-0000-0000-000"),
    ("pii_card", "card", _is_card, _CARD_WORDS, "0000000000000|00000000000000|000000000000000000|0000000000000000000"),
    ("pii_card", "card", _is_card, _CARD_WORDS, "0000 0000 0000 0|0000 0000 00000|0000 000 000 000|0000 0000 0000 00"),
    ("pii_card", "card", _is_card, _CARD_WORDS, "0000.0000.0000.0000"),
    # No check digit, but hardly anything else is grouped so.
    (_NATIONAL, "US SSN", _is_ssn, None, "000-00-0000"),
    (_NATIONAL, "US SSN", _is_ssn, _SSN, "000 00 0000|000000000"),
    (_NATIONAL, "US ITIN", _is_itin, None, "000-00-0000"),
    (_NATIONAL, "US ITIN", _is_itin, _ITIN, "000 00 0000|000000000"),
    (_NATIONAL, "NL BSN", bsn.is_valid, _BSN, "000000000|0000.00.000|000.000.000|000 000 000|0000 00 000|00000000"),
    (_NATIONAL, "CA SIN", sin.is_valid, _SIN, "000000000|000 000 000|000-000-000"),
    (_NATIONAL, "AU TFN", _is_tfn, _TFN, "000000000|000 000 000|000-000-000|00000000|000 000 00"),
    (_NATIONAL, "PT NIF", nif.is_valid, _NIF, "000000000|000 000 000"),
    (_NATIONAL, "DE IdNr", steuer_id.is_valid, _IDNR, "00000000000|00 000 000 000|00 000 000 00 0|00/000/000/000"),
    (_NATIONAL, "BE national number", _safe(nn.is_valid), None, "00.00.00-000.00|00.00.00-000-00|00.00.00 000.00"),
    (_NATIONAL, "BE national number", _safe(nn.is_valid), _NN, "00000000000|000000-000-00|000000 000 00"),
    (_NATIONAL, "PL PESEL", _safe(pesel.is_valid), _PESEL, "00000000000"),
    (_NATIONAL, "BR CPF", cpf.is_valid, None, "000.000.000-00"),
    (_NATIONAL, "BR CPF", cpf.is_valid, _CPF, "00000000000|000000000-00|000 000 000 00"),
    (_NATIONAL, "TR kimlik", tckimlik.is_valid, _KIMLIK, "00000000000"),
    (_NATIONAL, "NO national number", _safe(fodselsnummer.is_valid), _NO, "00000000000|000000 00000|000000-00000"),
    # Of two equal forms only the Swedish has a check digit; the Danish gave its up in 2007.
    (_NATIONAL, "SE personal number", _safe(personnummer.is_valid), None, "000000-0000|00000000-0000"),
    (_NATIONAL, "SE personal number", _safe(_is_solid_se), _SE, "0000000000|000000000000|000000 0000|00000000 0000"),
    (_NATIONAL, "DK CPR", _safe(cpr.is_valid), _DK, "000000-0000|0000000000|000000 0000"),
    (_NATIONAL, "GB NHS number", nhs.is_valid, _NHS, "000 000 0000|0000000000|000-000-0000"),
    (_NATIONAL, "FR NIR", _safe(_is_nir), None, "0 00 00 00 000 000 00|0 00 00 00 000 00000"),
    (_NATIONAL, "FR NIR", _safe(_is_nir), _NIR, "000000000000000|0000000000000 00"),
    (_NATIONAL, "CH AHV", ahv.is_valid, None, "000.0000.0000.00"),
    (_NATIONAL, "CH AHV", ahv.is_valid, _AHV, "0000000000000|000 0000 0000 00"),
    (_NATIONAL, "IN Aadhaar", aadhaar.is_valid, _AADHAAR, "0000 0000 0000|0000-0000-0000|000000000000"),
    # A known place, a date of birth and a check digit: one in ten million numbers of 18 digits has all three.
    (_NATIONAL, "CN resident id", _safe(_is_person_ric), None, "000000000000000000"),
    (_NATIONAL, "KR RRN", _safe(_is_rrn), None, "000000-0000000"),
    (_NATIONAL, "KR RRN", _safe(_is_rrn), _RRN, "0000000000000"),
    (_NATIONAL, "CL RUT", rut.is_valid, _RUT, "00.000.000-0|0.000.000-0|00000000-0"),
    (_NATIONAL, "RO CNP", _safe(cnp.is_valid), _CNP, "0000000000000"),
    (_NATIONAL, "CZ birth number", _safe(rc.is_valid), _RC, "000000/0000|000000/000|0000000000"),
    (_NATIONAL, "AT insurance number", vnr.is_valid, _SVNR, "0000 000000|0000000000|0000-000000"),
    (_NATIONAL, "ZA id", _safe(za_id.is_valid), _ZA, "0000000000000|000000 0000 000|000000 0000 00 0"),
)


def _by_shape() -> Mapping[str, tuple[_Rule, ...]]:
    shapes: dict[str, tuple[_Rule, ...]] = {}
    for check, kind, valid, words, forms in _RULES:
        for form in forms.split("|"):
            shapes[form] = (*shapes.get(form, ()), _Rule(check, kind, valid, words))
    return shapes


_SHAPES = _by_shape()
_LONGEST = max(map(len, _SHAPES))
_MOST_GROUPS = max(len(re.findall("0+", shape)) for shape in _SHAPES)
_ZEROS = str.maketrans("123456789", "000000000")

# --- digits ---

_CHUNK = re.compile(r"[0-9]+(?:[ ./-][0-9]+)*+")
_GROUP = re.compile(r"0+")


def find_numbered(text: str) -> Iterator[Found]:
    """Cards and numbers that are digits alone. Not sorted."""
    for chunk in _CHUNK.finditer(text):
        if chunk.end() - chunk.start() < 8:
            continue
        shape = chunk[0].translate(_ZEROS)
        if "000" not in shape:
            continue
        groups = [group.span() for group in _GROUP.finditer(shape)]
        for first, (start, _) in enumerate(groups):
            for last in range(first, min(first + _MOST_GROUPS, len(groups))):
                end = groups[last][1]
                if end - start > _LONGEST:
                    break
                if (rules := _SHAPES.get(shape[start:end])) is not None:
                    yield from _numbered(text, chunk.start() + start, chunk.start() + end, rules)


def _numbered(text: str, start: int, end: int, rules: tuple[_Rule, ...]) -> Iterator[Found]:
    if not _stands_alone(text, start, end):
        return
    number = text[start:end]
    if len(set(_digits(number))) == 1:  # sums of check digits are right for these
        return
    nearest = -1
    by_word: Found | None = None
    for rule in rules:
        if rule.words is None:
            a_things = rule.check == _NATIONAL and _is_a_things(text, start, end)
            if rule.valid(number) and not a_things and not _is_part_of_a_row(text, start, end):
                kind = rule.kind if rule.check != "pii_card" else _issuer(number)
                yield start, end, rule.check, kind, True
                return
            continue
        at = _last(rule.words, text, start)
        if at > nearest and rule.valid(number):
            nearest = at
            kind = rule.kind if rule.check != "pii_card" else _issuer(number)
            by_word = start, end, rule.check, kind, False
    if by_word is not None:
        yield by_word


def _last(words: re.Pattern[str], text: str, start: int) -> int:
    """Where the nearest of these words before a place ends; -1 if none is near."""
    first = max(0, start - _WORDS_WITHIN - _LONGEST_WORDS)
    ends = [match.end() for match in words.finditer(text, first, start)]
    return ends[-1] if ends and start - ends[-1] <= _WORDS_WITHIN else -1


def _stands_alone(text: str, start: int, end: int) -> bool:
    """Neither a part of a longer number, word, address or path, nor a sum of money."""
    before, far_before = text[start - 1 : start], text[max(0, start - 2) : max(0, start - 1)]
    after, far_after = text[end : end + 1], text[end + 1 : end + 2]
    if before.isalnum() or before in {"_", "$", "€", "£", "¥", "%"} or after.isalnum() or after in {"_", "@", "%"}:
        return False
    if (before in {".", ",", "+", "'"} and far_before.isdigit()) or (before in {"-", "/"} and far_before.isalnum()):
        return False
    return not (
        (after in {".", ",", ":", "'"} and far_after.isdigit()) or (after in {"-", "/", "="} and far_after.isalnum())
    )


# With "no." or the like: "SSN on file: …" is a person's.
_THINGS = re.compile(
    r"(?<![^\W_])(?:part|item|article|art|order|model|serial|ref|reference|invoice|batch|lot|product|catalogue|catalog)"
    r"[ .]{0,2}(?:no|nr|num|number|id|#)[.:#]{0,2}[ ]?\Z",
    re.IGNORECASE,
)
_HOURS = re.compile(r"[0-9]{6}-(?:[01][0-9]|2[0-3])(?:00|15|30|45)")


def _is_a_things(text: str, start: int, end: int) -> bool:
    """A part's number, or a date with an hour: their forms are those of personal numbers."""
    return bool(_THINGS.search(text, max(0, start - 24), start) or _HOURS.fullmatch(text, start, end))


_ROW_BEFORE = re.compile(r"[0-9]{4} \Z")
_ROW_AFTER = re.compile(r" [0-9]{4}(?![0-9])")


def _is_part_of_a_row(text: str, start: int, end: int) -> bool:
    """Four groups of four among more such groups are a row of a table; one in ten has the right check digit."""
    return text[start + 4 : start + 5] == " " and (
        _ROW_BEFORE.search(text, max(0, start - 5), start) is not None or _ROW_AFTER.match(text, end) is not None
    )


# --- digits and letters ---

# Each with a form that has to be in the text's shape, without separators, before its expression is tried.
_LETTERED: tuple[tuple[bytes, re.Pattern[str], _Rule], ...] = tuple(
    (
        shape,
        re.compile(rf"(?<![A-Za-z0-9_])(?<![A-Za-z0-9][-/.]){pattern}(?![A-Za-z0-9_]|[-/.][A-Za-z0-9])"),
        _Rule(_NATIONAL, kind, valid, words),
    )
    for shape, pattern, kind, valid, words in (
        # HMRC's manual NIM39110: which letters a prefix may have, and that the last is A to D. No check digit.
        (
            b"AA000000A",
            r"(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]",
            "GB NINO",
            lambda _: True,
            None,
        ),
        (
            b"AAAAAA00A00A000A",
            r"[A-Z]{3} ?[A-Z]{3} ?[0-9]{2}[A-EHLMPRST][0-9]{2} ?[A-Z][0-9]{3} ?[A-Z]",
            "IT codice fiscale",
            _safe(codicefiscale.is_valid),
            None,
        ),
        (b"AAAAA0000A", r"[A-Z]{3}P[A-Z][0-9]{4}[A-Z]", "IN PAN", _is_person_pan, None),
        (b"AAAA000000AAAAAA", r"[A-Z]{4}[0-9]{6}[HM][A-Z]{5}[0-9A-Z][0-9]", "MX CURP", _safe(curp.is_valid), None),
        (b"A0000000A", r"[XYZ][ -]?[0-9]{7}[ -]?[A-Z]", "ES NIE", _safe(nie.is_valid), None),
        # 20240131Z is as well a date in UTC: one letter in 23 is right by chance.
        (b"00000000A", r"[0-9]{8}[ -]?[A-Z]", "ES DNI", _safe(dni.is_valid), _DNI),
        (b"0000000A", r"[0-9]{7} ?[A-W][ABHWTX]?", "IE PPS", _safe(pps.is_valid), _PPS),
        (b"00000000000000000A", r"[0-9]{17}X", "CN resident id", _safe(_is_person_ric), None),
        (b"00000000", r"[12] ?[0-9]{2} ?[01][0-9] ?2[AB] ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}", "FR NIR",
            _safe(nir.is_valid), None),
        (b"000000", r"[0-3][0-9][01][0-9]{3}[-+A-FU-Y][0-9]{3}[0-9A-FHJ-NPR-Y]", "FI hetu", _safe(hetu.is_valid), None),
    )
)  # fmt: skip


def find_lettered(text: str, shape: bytes) -> Iterator[Found]:
    """National numbers with letters in them. Not sorted.

    Args:
        shape: the text without separators, "A" for every capital letter and "0" for every digit.
    """
    for form, pattern, rule in _LETTERED:
        if form not in shape:
            continue
        for match in pattern.finditer(text):
            if (rule.words is None or _last(rule.words, text, match.start()) >= 0) and rule.valid(match[0]):
                yield match.start(), match.end(), rule.check, rule.kind, rule.words is None


# --- IBAN ---

_IBAN_HEAD = re.compile(r"(?<![A-Za-z0-9_])[A-Z]{2} ?[0-9]{2}(?=[ -]?[A-Z0-9]{3})")
_IBAN_LOWER = re.compile(r"(?<![A-Za-z0-9_])[a-z]{2}[0-9]{2}[a-z0-9]{11,30}(?![A-Za-z0-9_])")
_IBAN_MARK = re.compile(r"[ -]?([A-Z0-9])")


def find_ibans(text: str) -> Iterator[Found]:
    """As they are printed, in groups, or without spaces; of the length of their country."""
    for match in _IBAN_LOWER.finditer(text):
        number = match[0].upper()
        if len(number) == _iban_lengths().get(number[:2]) and iban.is_valid(number, check_country=False):
            yield match.start(), match.end(), "pii_iban", f"IBAN {number[:2]}", True
    for head in _IBAN_HEAD.finditer(text):
        length = _iban_lengths().get(head[0][:2])
        if length is None:
            continue
        marks, at = [head[0].replace(" ", "")], head.end()
        for _ in range(length - 4):
            if (mark := _IBAN_MARK.match(text, at)) is None:
                break
            marks.append(mark[1])
            at = mark.end()
        number = "".join(marks)
        # Without the countries' own rules: they are slow to load, and what breaks them is still somebody's by its form.
        if len(number) == length and not text[at : at + 1].isalnum() and iban.is_valid(number, check_country=False):
            yield head.start(), at, "pii_iban", f"IBAN {number[:2]}", True


@cache
def _iban_lengths() -> Mapping[str, int]:
    """By country, out of python-stdnum's copy of SWIFT's registry."""
    lengths: dict[str, int] = {}
    registry = numdb.get("iban")
    for first in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        for second in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
            for prefix, facts in registry.info(first + second):
                if prefix == first + second and "bban" in facts:
                    lengths[prefix] = 4 + sum(int(size) for size in re.findall(r"(\d+)!", facts["bban"]))
    return lengths
