"""Personal data and secrets that are made up but valid, in sentences, and what looks like them and is none.

Check digits are computed here by the published rules, not by the libraries that the checker uses. Nobody's number is
meant: digits are drawn. Keys are drawn too, from each issuer's published form, so that no key stands in this file.
"""

from __future__ import annotations

import base64
import json
import random
import string
from collections.abc import Callable, Mapping

__all__ = ["DECOYS", "PERSONAL", "SECRETS"]

Make = Callable[[random.Random], str]

_FIRST = (
    "anna",
    "bernd",
    "carla",
    "david",
    "elena",
    "frank",
    "greta",
    "hugo",
    "irene",
    "jonas",
    "karin",
    "luis",
    "olga",
)
_LAST = ("keller", "moreau", "rossi", "jansen", "novak", "silva", "schmidt", "dubois", "martin", "weber", "larsen")
_HOSTS = ("gmail.com", "web.de", "orange.fr", "outlook.com", "mail.tum.de", "proton.me", "cs.ox.ac.uk", "firma-nord.de")
_ALNUM = string.ascii_letters + string.digits
_UPPER = string.ascii_uppercase + string.digits


def _digits(draw: random.Random, n: int, *, first: str = string.digits) -> str:
    return draw.choice(first) + "".join(draw.choice(string.digits) for _ in range(n - 1))


def _of(draw: random.Random, n: int, letters: str = _ALNUM) -> str:
    return "".join(draw.choice(letters) for _ in range(n))


def _name(draw: random.Random) -> str:
    return f"{draw.choice(_FIRST).capitalize()} {draw.choice(_LAST).capitalize()}"


def _grouped(text: str, *sizes: int, by: str = " ") -> str:
    parts, at = [], 0
    for size in sizes or [4] * ((len(text) + 3) // 4):
        parts.append(text[at : at + size])
        at += size
    return by.join(parts)


# --- numbers with check digits ---


def _luhn(digits: str) -> str:
    """The digit that makes the sum of ISO/IEC 7812-1 a multiple of ten."""
    total = sum(sum(divmod(int(d) * (2 - i % 2), 10)) for i, d in enumerate(reversed(digits)))
    return str(-total % 10)


def _card(draw: random.Random, *, valid: bool = True) -> str:
    prefix, length = draw.choice((("4", 16), ("5" + draw.choice("12345"), 16), ("37", 15), ("6011", 16)))
    body = prefix + _digits(draw, length - 1 - len(prefix))
    check = _luhn(body)
    number = body + (check if valid else str((int(check) + draw.randint(1, 9)) % 10))
    sizes = (4, 6, 5) if length == 15 else (4, 4, 4, 4)
    return draw.choice((number, _grouped(number, *sizes), _grouped(number, *sizes, by="-")))


def _account(draw: random.Random, country: str) -> str:
    """A BBAN; the countries whose account numbers carry check digits of their own get these."""
    if country == "BE":
        body = draw.choice(("001", "063", "210", "310", "734")) + _digits(draw, 7)  # banks that are there
        return body + f"{int(body) % 97 or 97:02d}"
    if country == "FR":
        bank, branch, account = _digits(draw, 5), _digits(draw, 5), _digits(draw, 11)
        return bank + branch + account + f"{97 - (89 * int(bank) + 15 * int(branch) + 3 * int(account)) % 97:02d}"
    if country == "ES":

        def check(body: str) -> str:
            rest = 11 - sum(int(d) * 2**i % 11 for i, d in enumerate(body)) % 11
            return {10: "1", 11: "0"}.get(rest, str(rest))

        bank, account = _digits(draw, 8), _digits(draw, 10)
        return bank + check("00" + bank) + check(account) + account
    banks = {"GB": ("NWBK", "BARC", "MIDL"), "NL": ("ABNA", "INGB", "RABO")}
    lengths = {"DE": 18, "AT": 16, "CH": 17, "GB": 14, "NL": 10}
    return (draw.choice(banks[country]) if country in banks else "") + _digits(draw, lengths[country])


def _iban(draw: random.Random, *, valid: bool = True) -> str:
    country = draw.choice(("DE", "AT", "CH", "GB", "NL", "BE", "FR", "ES"))
    body = _account(draw, country)
    number = int("".join(str(int(c, 36)) for c in f"{body}{country}00"))
    check = 98 - number % 97  # ISO 13616
    if not valid:
        check = (check + draw.randint(1, 90)) % 97
    return draw.choice((str, _grouped))(f"{country}{check:02d}{body}")


def _weighted(body: str, weights: list[int], modulus: int) -> int:
    return sum(int(d) * w for d, w in zip(body, weights, strict=True)) % modulus


def _ssn(draw: random.Random) -> str:
    area = draw.choice([n for n in range(1, 900) if n != 666])
    number = f"{area:03d}-{draw.randint(1, 99):02d}-{draw.randint(1, 9999):04d}"
    return f"{draw.choice(('Social security number', 'SSN', 'US social security no.'))}: {number}"


def _nino(draw: random.Random) -> str:
    start = draw.choice("ABCEHJKLMPRSTWXY") + draw.choice("ABCEHJKLMPRSTWXYZ")
    start = "AB" if start in {"BG", "GB", "KN", "NK", "NT", "TN", "ZZ"} else start
    return f"National Insurance number: {start} {_grouped(_digits(draw, 6), 2, 2, 2)} {draw.choice('ABCD')}"


def _german_tax(draw: random.Random) -> str:
    """Eleven digits: of the first ten one stands there twice, one not at all; ISO 7064 modulo 11, 10."""
    ten = draw.sample(string.digits, 9)
    ten.insert(draw.randrange(2, 10), ten[0])
    if ten[0] == "0":
        swap = next(d for d in ten if d != "0")
        ten = [swap if d == "0" else "0" if d == swap else d for d in ten]
    product = 10
    for d in ten:
        total = (int(d) + product) % 10 or 10
        product = 2 * total % 11
    return f"Steuer-ID {''.join(ten)}{(11 - product) % 10}"


def _bsn(draw: random.Random) -> str:
    while True:
        body = _digits(draw, 8, first="123456789")
        last = _weighted(body, [9, 8, 7, 6, 5, 4, 3, 2], 11)
        if last < 10:
            return f"BSN {body}{last}"


def _dni(draw: random.Random) -> str:
    number = _digits(draw, 8)
    return f"DNI {number}{'TRWAGMYFPDXBNJZSQVHLCKE'[int(number) % 23]}"


def _nir(draw: random.Random) -> str:
    body = (
        f"{draw.choice('12')}{draw.randint(40, 99)}{draw.randint(1, 12):02d}"
        f"{draw.randint(10, 19)}{draw.randint(1, 900):03d}{draw.randint(1, 900):03d}"
    )
    return f"numéro de sécurité sociale {_grouped(body, 1, 2, 2, 2, 3, 3)} {97 - int(body) % 97:02d}"


def _pesel(draw: random.Random) -> str:
    body = f"{draw.randint(40, 99)}{draw.randint(1, 12):02d}{draw.randint(1, 28):02d}{_digits(draw, 4)}"
    return f"PESEL {body}{-_weighted(body, [1, 3, 7, 9, 1, 3, 7, 9, 1, 3], 10) % 10}"


def _cpf(draw: random.Random) -> str:
    body = _digits(draw, 9)
    for n in (10, 11):
        rest = 11 - _weighted(body, list(range(n, 1, -1)), 11)
        body += str(rest if rest < 10 else 0)
    return f"CPF {body[:3]}.{body[3:6]}.{body[6:9]}-{body[9:]}"


# --- mail and telephone ---


def _email(draw: random.Random) -> str:
    first, last = draw.choice(_FIRST), draw.choice(_LAST)
    local = draw.choice(
        (f"{first}.{last}", f"{first[0]}{last}{draw.randint(1, 99)}", f"{last}+news", f"{first}_{last}")
    )
    address = f"{local}@{draw.choice(_HOSTS)}"
    return draw.choice((address, address, address.upper(), f"<{address}>", f"mailto:{address}"))


def _phone(draw: random.Random) -> str:
    """Numbers of ranges that are in use, written as people there do; without a + only with a word before them."""
    n = _digits
    return draw.choice(
        (
            lambda: f"+49 30 {n(draw, 8, first='23456789')}",
            lambda: f"+49 (0)89 {n(draw, 4, first='23456789')}-{n(draw, 4)}",
            lambda: f"+49 171 {n(draw, 7)}",
            lambda: f"+44 20 7{n(draw, 3)} {n(draw, 4)}",
            lambda: f"+44 7400 {n(draw, 6)}",
            lambda: f"+33 1 42 {_grouped(n(draw, 6), 2, 2, 2)}",
            lambda: f"+34 91{n(draw, 1, first='1234')} {_grouped(n(draw, 6), 3, 3)}",
            lambda: f"+1 212 {n(draw, 3, first='3456789')} {n(draw, 4)}",
            lambda: f"(415) {n(draw, 3, first='3456789')}-{n(draw, 4)}",
            lambda: f"617-{n(draw, 3, first='3456789')}-{n(draw, 4)}",
            lambda: f"+41 44 {n(draw, 3, first='23456789')} {_grouped(n(draw, 4), 2, 2)}",
            lambda: f"+31 20 {n(draw, 3, first='2345678')} {n(draw, 4)}",
            lambda: f"0041 44 {n(draw, 3, first='23456789')} {_grouped(n(draw, 4), 2, 2)}",
        )
    )()


def _said(kind: Make, *sentences: str) -> Make:
    def make(draw: random.Random) -> str:
        return draw.choice(sentences).format(x=kind(draw), name=_name(draw))

    return make


PERSONAL: Mapping[str, Make] = {
    "pii_email": _said(
        _email,
        "You can write to {name} at {x} for more.",
        "Contact: {name}, {x}.",
        "The form was sent by {x} in the morning.",
        "If this does not help, mail {x} and ask for {name}.",
    ),
    "pii_phone": _said(
        _phone,
        "Call {name} at {x} for an appointment.",
        "Phone: {x}.",
        "Tel. {x}, ask for {name}.",
        "{name} can be reached by telephone under {x} on weekdays.",
    ),
    "pii_iban": _said(
        _iban,
        "Please transfer the amount to {x} by Friday.",
        "IBAN: {x}, account of {name}.",
        "The account of {name} is {x}.",
    ),
    "pii_card": _said(
        _card,
        "Charge it to my card {x}, please.",
        "The payment of {name} was made with card number {x}.",
        "Visa or Mastercard: {x}.",
    ),
}
NATIONAL: Mapping[str, Make] = {
    "US social security": _ssn,
    "UK national insurance": _nino,
    "German tax": _german_tax,
    "Dutch BSN": _bsn,
    "Spanish DNI": _dni,
    "French NIR": _nir,
    "Polish PESEL": _pesel,
    "Brazilian CPF": _cpf,
}
_NATIONAL_SAID = ("{name}, {x}, asked for it.", "The file of {name} says {x}.", "{x} ({name}).")
PERSONAL = {
    **PERSONAL,
    **{f"pii_national_number/{k}": _said(make, *_NATIONAL_SAID) for k, make in NATIONAL.items()},
}


# --- secrets ---


def _jwt(draw: random.Random) -> str:
    def part(content: Mapping[str, object]) -> str:
        return base64.urlsafe_b64encode(json.dumps(dict(content)).encode()).decode().rstrip("=")

    head, body = {"alg": "HS256", "typ": "JWT"}, {"sub": _digits(draw, 10), "name": _name(draw), "iat": 1516239022}
    return f"Authorization: Bearer {part(head)}.{part(body)}.{_of(draw, 43, _ALNUM + '-_')}"


def _pem(draw: random.Random) -> str:
    kind = draw.choice(("RSA ", "EC ", "OPENSSH ", ""))
    lines = "\n".join(_of(draw, 64, _ALNUM + "+/") for _ in range(6))
    return f"-----BEGIN {kind}PRIVATE KEY-----\n{lines}\n-----END {kind}PRIVATE KEY-----"


def _password(draw: random.Random) -> str:
    word = draw.choice(_LAST).capitalize() + draw.choice("!#$%&*") + _digits(draw, 4) + draw.choice("xyzXYZ")
    return draw.choice(
        (
            f'password = "{word}"',
            f"DB_PASSWORD={word}",
            f'"password": "{word}"',
            f"passwd: {word}",
            f"The password is {word}",
            f"My password: {word}",
        )
    )


def _url(draw: random.Random) -> str:
    scheme = draw.choice(("postgres", "mysql", "https", "redis", "mongodb+srv"))
    return f"{scheme}://{draw.choice(_LAST)}:{_of(draw, 14)}@db{draw.randint(1, 9)}.{draw.choice(_LAST)}.net/main"


SECRETS: Mapping[str, Make] = {
    "AWS key id": lambda d: f"AWS_ACCESS_KEY_ID={'AK' + 'IA'}{_of(d, 16, string.ascii_uppercase + '234567')}",
    "AWS secret": lambda d: f"aws_secret_access_key = {_of(d, 40, _ALNUM + '+/')}",
    "GitHub": lambda d: "use the token ghp_" + _of(d, 36),
    "GitHub, fine-grained": lambda d: f"github_pat_{_of(d, 22)}_{_of(d, 59)}",
    "GitLab": lambda d: "glpat-" + _of(d, 20, _ALNUM + "-_"),
    "Slack": lambda d: f"xoxb-{_digits(d, 12, first='123456789')}-{_digits(d, 13, first='123456789')}-{_of(d, 24)}",
    "Stripe": lambda d: "sk_" + "live_" + _of(d, 24),
    "OpenAI": lambda d: f"OPENAI_API_KEY=sk-proj-{_of(d, 48)}",
    "OpenAI, older": lambda d: f"sk-{_of(d, 20)}{'T3Blbk' + 'FJ'}{_of(d, 20)}",
    "Anthropic": lambda d: f"sk-ant-api03-{_of(d, 93, _ALNUM + '-_')}AA",
    "Google": lambda d: "AI" + "za" + _of(d, 35, _ALNUM + "-_"),
    "Hugging Face": lambda d: "hf_" + _of(d, 34, string.ascii_letters),
    "npm": lambda d: "npm_" + _of(d, 36),
    "PyPI": lambda d: "pypi-AgEIcHlwaS5vcmc" + _of(d, 100, _ALNUM + "-_"),
    "SendGrid": lambda d: f"SG.{_of(d, 22)}.{_of(d, 43, _ALNUM + '-_')}",
    "assigned key": lambda d: f'api_key = "{_of(d, 32)}"',
    "JWT": _jwt,
    "PEM": _pem,
    "password": _password,
    "URL with password": _url,
}


# --- what is none ---


def _date(draw: random.Random) -> str:
    y, m, d = draw.randint(1950, 2029), draw.randint(1, 12), draw.randint(1, 28)
    return draw.choice((f"{y}-{m:02d}-{d:02d}", f"{d:02d}.{m:02d}.{y}", f"{m}/{d}/{y}", f"{y}{m:02d}{d:02d}"))


def _isbn(draw: random.Random) -> str:
    body = "978" + _digits(draw, 9)
    check = -_weighted(body, [1, 3] * 6, 10) % 10
    return f"ISBN {body[:3]}-{body[3]}-{body[4:7]}-{body[7:]}-{check}"


def _price(draw: random.Random) -> str:
    return f"$ {draw.randint(1, 99)},{_digits(draw, 3)},{_digits(draw, 3)}.{_digits(draw, 2)}"


def _row(draw: random.Random) -> str:
    return " | ".join(f"{draw.randint(1, 999)},{_digits(draw, 3)}" for _ in range(5))


# what they resemble -> kind -> sentence
DECOYS: Mapping[str, Make] = {
    "card with a wrong check digit": lambda d: f"The serial number of the device is {_card(d, valid=False)}.",
    "IBAN with wrong check digits": lambda d: f"A made-up account such as {_iban(d, valid=False)} is refused.",
    "ISBN": lambda d: f"It is described in the handbook ({_isbn(d)}).",
    "date": lambda d: f"It was measured on {_date(d)} and again on {_date(d)}.",
    "version": lambda d: (
        f"This holds since version {d.randint(1, 20)}.{d.randint(0, 40)}.{d.randint(0, 200)}.{_digits(d, 4)}."
    ),
    "order number": lambda d: f"Order no. {_digits(d, 9, first='123456789')} was shipped in May.",
    "arXiv": lambda d: f"See arXiv:{d.randint(10, 25)}{d.randint(1, 12):02d}.{_digits(d, 5)} for the proof.",
    "DOI": lambda d: (
        f"doi:10.{_digits(d, 4, first='123456789')}/j.{_of(d, 6, string.ascii_lowercase)}.2019.{_digits(d, 6)}"
    ),
    "coordinates": lambda d: f"It lies at {d.uniform(-80, 80):.6f}, {d.uniform(-170, 170):.6f}.",
    "timestamp": lambda d: f"The entry of {_date(d)} carries the time stamp {d.randint(10**9, 2 * 10**9)}.",
    "git SHA": lambda d: f"It was mended in commit {_of(d, 40, '0123456789abcdef')}.",
    "MD5": lambda d: f"The checksum of the file is {_of(d, 32, '0123456789abcdef')}.",
    "UUID": lambda d: f"Its id is {'-'.join(_of(d, n, '0123456789abcdef') for n in (8, 4, 4, 4, 12))}.",
    "password asked for": lambda d: d.choice(
        (
            'password = input("Password: ")',
            'password = os.environ["DB_PASSWORD"]',
            "password = getpass.getpass()",
            "The password is too short.",
            "api_key = YOUR_API_KEY",
        )
    ),
    "example address": lambda d: f"Write to {d.choice(_FIRST)}@example.{d.choice(('com', 'org', 'net'))}, say.",
    "decorator": lambda d: (
        f"@{d.choice(('app.route', 'pytest.fixture', 'staticmethod', 'functools.wraps'))} comes first."
    ),
    "mention": lambda d: f"As @{d.choice(_FIRST)}_{d.choice(_LAST)} said, it depends.",
    "price": lambda d: f"The total came to {_price(d)} in that year.",
    "table row": lambda d: f"Revenue | {_row(d)}",
    "share": lambda d: f"In {d.randint(1000, 9999)} of {d.randint(10**6, 10**7)} cases, {d.uniform(0, 100):.4f} %.",
}
