"""Damage to characters, answers that are none, and the shape of rows: told where it is, silent where it is not."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quality_rows import hits_of, prose, rows_of, told

from crma.data.quality.answers import AnswerCheck, BoilerplateCheck
from crma.data.quality.damage import DamageCheck, mend_control, mend_encoding, mend_markup
from crma.data.quality.shape import FormulaCheck, LanguageCheck, OutlierCheck, histogram

# --- damage ---


@pytest.mark.parametrize("codec", ["latin-1", "cp1252"])
@pytest.mark.parametrize("text", ["Le café est fermé", "Über größere Straßen", "señal", "naïve façade"])
def test_mojibake_is_told_and_undone(codec: str, text: str) -> None:
    broken = text.encode().decode(codec, errors="ignore")
    assert told(DamageCheck(), [("a question", broken)]) == {"encoding": [0]}
    assert mend_encoding(broken) == text


def test_quotes_and_dashes_read_as_windows_are_undone() -> None:
    broken = "“quoted” – and it’s so".encode().decode("cp1252", errors="ignore")
    assert told(DamageCheck(), [(broken, "answer")]) == {"encoding": [0]}


@pytest.mark.parametrize(
    "text", ["Crème brûlée – “déjà vu”…", "Größe: 3 µm ± 0.1 °C", "日本語のテキスト", "Привет, мир", "€ 5, £ 3"]
)
def test_sound_text_beyond_ascii_is_left_alone(text: str) -> None:
    assert told(DamageCheck(), [(text, text)]) == {}
    assert mend_encoding(text) == text


def test_lost_characters_are_told_but_cannot_be_had_back() -> None:
    found = hits_of(DamageCheck(), rows_of([("q", "caf\ufffd")]))
    assert [(hit.check, hit.at) for hit in found] == [("encoding", 5)]
    assert mend_encoding("caf\ufffd") == "caf\ufffd"


@pytest.mark.parametrize("character", ["\x00", "\x1b", "\u200b", "\ufeff", "\u202e", "\xad", "\x07"])
def test_characters_that_nobody_sees(character: str) -> None:
    assert told(DamageCheck(), [("a question", f"an{character}swer")]) == {"control": [0]}
    assert mend_control(f"an{character}swer") == "answer"


@pytest.mark.parametrize("text", ["tab\tand\nline", "👩\u200d🔬 a scientist", "می\u200cخواهم", "\u200fשלום"])
def test_characters_that_scripts_need_stay(text: str) -> None:
    assert told(DamageCheck(), [(text, text)]) == {}
    assert mend_control(text) == text


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        ("<p>First.</p><p>Second.</p>", "First.\nSecond."),
        ("salt &amp; pepper", "salt & pepper"),
        ('See <a href="x.y">here</a> now', "See here now"),
        ("a&nbsp;b&#39;s", "a b's"),
        ("one<br>two<br/>three", "one\ntwo\nthree"),
    ],
)
def test_remains_of_pages(broken: str, mended: str) -> None:
    assert told(DamageCheck(), [("what is it", broken)]) == {"markup": [0]}
    assert mend_markup(broken) == mended


@pytest.mark.parametrize(
    "text",
    [
        "if a < b && c > d: pass",
        "Use the HTML tag <b>bold</b> and <i>italic</i>.",
        "```\n<p>a</p><p>b</p>\n```",
        "<div class='x'>\n<script>let a = 1;\n</script></div>",
        "x <b and y> a",
        "AT&T and R&D",
    ],
)
def test_what_is_meant_is_no_remains(text: str) -> None:
    assert told(DamageCheck(), [("what is it", text)]) == {}
    assert mend_markup(text) == text


@given(st.text())
def test_mending_is_done_once(text: str) -> None:
    for mend in (mend_encoding, mend_control):
        once = mend(text)
        assert mend(once) == once


# --- answers ---


@pytest.mark.parametrize(
    "answer", ["N/A", "n/a.", "...", "…", "TODO", "null", "[deleted]", "---", "What is gout, really?"]
)
def test_answers_that_say_nothing(answer: str) -> None:
    assert told(AnswerCheck(), [("What is gout, really?", answer)]) == {"empty_answer": [0]}


@pytest.mark.parametrize("answer", ["No", "None", "Unknown", "5", "x = 1", "+", "是", "42 %", "NaOH", "C"])
def test_short_answers_are_answers(answer: str) -> None:
    assert told(AnswerCheck(), [("Which is it of these?", answer)]) == {}


@pytest.mark.parametrize(
    "answer",
    [
        "As an AI language model, I have no opinions.",
        "I'm sorry, but I cannot help with that request.",
        "I’m sorry, I can’t assist with that.",
        "I am unable to provide medical advice.",
        "Unfortunately, I cannot browse the internet.",
        "I don't have access to real-time data.",
        "My knowledge cutoff is 2021.",
    ],
)
def test_refusals(answer: str) -> None:
    assert told(AnswerCheck(), [("question", answer)]) == {"refusal": [0]}


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry for your loss.",
        "The court cannot answer moot questions.",
        "Patients who cannot swallow receive a tube.",
        "A language model assigns probabilities to words.",
        "They were afraid and could not help it.",
    ],
)
def test_ordinary_words_are_no_refusals(answer: str) -> None:
    assert told(AnswerCheck(), [("question", answer)]) == {}


def test_answers_that_repeat_themselves() -> None:
    loop = "the result of the process is the result of the process and " * 8 + "so on."
    assert told(AnswerCheck(), [("question", loop), ("question", prose(1, 80))]) == {"repetition": [0]}


def test_answers_that_break_off_where_others_do_not() -> None:
    rows = [(f"question {i}", prose(i)) for i in range(30)]
    rows += [
        ("q", prose(50)[:-1]),
        ("q", "It was known to the authorities of that time and"),
        ("q", "```python\nx = 1"),
    ]
    assert told(AnswerCheck(), rows) == {"truncated_answer": [30, 31, 32]}


def test_where_no_answer_has_a_full_stop_only_sure_ones_break_off() -> None:
    rows = [(f"question {i}", prose(i).replace(".", "")) for i in range(30)]
    rows += [("q", "It was known to the authorities of that time and")]
    assert told(AnswerCheck(), rows) == {"truncated_answer": [30]}


def test_code_may_end_as_it_likes() -> None:
    rows = [(f"question {i}", prose(i)) for i in range(30)]
    assert told(AnswerCheck(), [*rows, ("q", "def f(x, y, z):\n    total = x + y + z\n    return total")]) == {}


def test_a_phrase_in_many_answers() -> None:
    rows = [(f"question {i}", f"{prose(i)} I hope this helps you today!") for i in range(20)]
    rows += [(f"question {i}", prose(i)) for i in range(20, 100)]
    found = hits_of(BoilerplateCheck(), rows_of(rows))
    assert [hit.row for hit in found] == list(range(20))
    assert "i hope this helps you today" in found[0].note
    assert told(BoilerplateCheck(), rows[1:]) == {}  # nineteen


# --- shape ---


def test_rows_unlike_the_others() -> None:
    rows = [(f"question {i} about it", prose(i)) for i in range(80)]
    rows += [("q " * 3000, prose(1)), ("question 9 about it", "7"), ("question", "1234 | 33 | 44 | 55 | 91 " * 9)]
    assert told(OutlierCheck(), rows) == {"outlier": [80, 81, 82]}
    assert told(OutlierCheck(), rows[40:]) == {}  # too few to say what is usual


def test_rows_in_another_language() -> None:
    german = (
        "Was ist das für ein Gerät?",
        "Das ist ein Gerät, mit dem man die Geschwindigkeit des Windes misst; es steht auf vielen Dächern der Stadt.",
    )
    english = [
        (
            f"What is device {i}?",
            f"It is device {i}, and with it the speed of the wind that blows over the roofs of the city is measured.",
        )
        for i in range(20)
    ]
    check = LanguageCheck()
    assert [(hit.check, hit.row) for hit in hits_of(check, rows_of([*english, german]))] == [("language", 20)]
    assert check.facts() == {"languages": {"en": 20, "de": 1}}
    assert told(LanguageCheck(), [*english[:3], *[german] * 3]) == {}  # two languages, both meant


def test_numbers_and_code_are_in_no_language() -> None:
    check = LanguageCheck()
    assert hits_of(check, rows_of([("1 2 3 4 5 6", "7 8 9 10 11 12 13 14"), ("x", "a = b + c; d = e")])) == []
    assert check.facts() == {}


@pytest.mark.parametrize(
    ("cell", "runs"),
    [
        ("=1+1", True),
        ("== heading ==", False),
        ("-2+3+cmd|' /C calc'!A0", True),
        ("-18 °C at night", False),
        ("=SUM(A1)", True),
        ("@import x", True),
        ("-5", False),
        ("- item", False),
        ("+cmd|x", True),
        ("=> so it is", False),
        ("=<b", False),
        ("= 1", True),
    ],
)
def test_cells_that_a_spreadsheet_would_run(cell: str, runs: bool) -> None:
    rows = rows_of([("question", cell)])
    assert [hit.check for hit in hits_of(FormulaCheck(frozenset({0})), rows)] == ["formula"] * runs
    assert hits_of(FormulaCheck(frozenset()), rows) == []


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=50))
def test_a_histogram_counts_every_value_once(values: list[int]) -> None:
    import numpy as np

    found = histogram(np.array(values))
    assert sum(found["counts"]) == len(values)
    assert found["edges"] == sorted(set(found["edges"]))
    assert len(found["edges"]) == len(found["counts"]) + 1
    assert found["max"] == max(values)


# --- what the blind test taught -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        *("No response provided.", "[insert answer here]", "<answer>", "(no answer)", "to be added", "See above.", "-"),
        *("?", "Lorem ipsum dolor sit amet, consectetur adipiscing elit.", "{{ response }}"),
    ],
)
def test_places_that_nobody_filled(answer: str) -> None:
    assert told(AnswerCheck(), [("How do I export my contacts?", answer)]) == {"empty_answer": [0]}


@pytest.mark.parametrize("answer", ["…", "...", "--", "??"])
def test_a_pause_is_no_sign_that_was_asked_for(answer: str) -> None:
    assert told(AnswerCheck(), [("Which character ends it?", answer)]) == {"empty_answer": [0]}


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Which operator subtracts?", "-"),
        ("Which punctuation mark ends a question?", "?"),
        ("Give me filler text for a page.", "Lorem ipsum dolor sit amet."),
        ("What is (x)?", "(x + 1)"),
        ("Name a response curve.", "[0, 1]"),
    ],
)
def test_what_only_looks_empty(question: str, answer: str) -> None:
    assert told(AnswerCheck(), [(question, answer)]) == {}


@pytest.mark.parametrize(
    "answer",
    [
        "I must decline to answer, since this goes against my guidelines.",
        "My apologies, but I'm not able to fulfil this request.",
        "I'm sorry, but I'm not comfortable translating profanity.",
        "It would not be appropriate for me to take sides.",
        "I'm a text-based AI and see nothing.",
        "No. I am ChatGPT, and I do not dream.",
    ],
)
def test_ways_to_refuse(answer: str) -> None:
    assert told(AnswerCheck(), [("Describe it.", answer)]) == {"refusal": [0]}


@pytest.mark.parametrize(
    "answer",
    [
        'Say thank you and add: "I can\'t help with that this week, but on Monday."',
        "As an AI researcher you would start with a survey of the field.",
        "I am sorry for your loss. Here is what to do first: call the registrar.",
        "He had to decline the offer, since it was against the company's policy.",
    ],
)
def test_answers_about_refusing(answer: str) -> None:
    assert told(AnswerCheck(), [("What then?", answer)]) == {}


@pytest.mark.parametrize(
    "answer",
    [
        "Bus 17 goes there. " + "17 " * 12,
        "From there you see " + "the lake, the forest, " * 5 + "and the village.",
        "It is Ulaanbaatar. " * 6,
        "\n".join(f"{i}. It {('lowers stress', 'improves sleep')[i % 2]}." for i in range(1, 11)),
        "It filters the blood. " + "ha" * 40,
        "Choose a subject and write. " + " ".join(f"word{i}" for i in range(80)) + " Be patient, be kind." * 5,
    ],
)
def test_loops_are_told_wherever_they_stand(answer: str) -> None:
    assert told(AnswerCheck(), [("What is it?", answer)])["repetition"] == [0]


@pytest.mark.parametrize(
    "answer",
    [
        "Row, row, row your boat, gently down the stream. Merrily, merrily, merrily, merrily, life is but a dream.",
        "1. Add 100 g of flour.\n2. Add 100 g of sugar.\n3. Add 100 g of butter.\n4. Add 100 g of eggs.\n5. Bake.",
        "| a | 0 |\n| b | 0 |\n| c | 0 |\n| d | 0 |\n| e | 0 |\n| f | 0 |",
        "Zzzzzzzz, said the bee, and aaaaargh, said the boy.",
        "def moves(x, y):\n    return [(x + 1, y), (x + 1, y), (x + 1, y), (x + 1, y), (x + 1, y), (x + 1, y)]",
    ],
)
def test_refrains_and_lists_are_no_loops(answer: str) -> None:
    assert told(AnswerCheck(), [("What is it?", answer)]) == {}


SOUND = [(f"Question {i}?", prose(i, 30)) for i in range(30)]


@pytest.mark.parametrize(
    "answer",
    [
        "Take with you: two base layers, a fleece and good socks.\nDocuments:",
        "1. Take short showers.\n2. Fill the washing machine.\n3. Repair the taps.\n4.",
        "def median(values):\n    s = sorted(values)\n    n = len(s)\n    return (s[n // 2 - 1] +",
    ],
)
def test_more_ways_to_break_off(answer: str) -> None:
    assert told(AnswerCheck(), [*SOUND, ("List them.", answer)]) == {"truncated_answer": [30]}


@pytest.mark.parametrize(
    "answer",
    [
        "You trained for it, you earned it, now go and enjoy it! 🏆",
        "I look forward to your reply and thank you for it.\n\nYours faithfully,\nRosalind Achterberg",
        "The solutions of a quadratic equation with real roots are given by x = (−b ± √d) / 2a",
        "The opening hours are these, the whole year round:\n- Monday to Friday nine to five\n- Saturday ten to two",
        "Honey Above the Rooftops: How the Bees Came to Town Again",
    ],
)
def test_ends_that_need_no_full_stop(answer: str) -> None:
    assert told(AnswerCheck(), [*SOUND, ("Write it.", answer)]) == {}


@pytest.mark.parametrize(
    "text",
    ["un\u200ctil", "be\u200dlow", "jogging,\u200e leg swings", "hours,\u2063 yes", "well.\U000e0041\U000e0042 Beech"],
)
def test_invisible_where_the_script_does_not_need_it(text: str) -> None:
    assert told(DamageCheck(), [("q", text)]) == {"control": [0]}
    assert told(DamageCheck(), [("q", mend_control(text))]) == {}


@pytest.mark.parametrize(
    "text", ["می\u200cخواهم \u200e(1)", "🏴\U000e0067\U000e0062\U000e0077\U000e006c\U000e0073\U000e007f"]
)
def test_invisible_where_it_is_needed(text: str) -> None:
    assert told(DamageCheck(), [("q", text)]) == {}
    assert mend_control(text) == text


@pytest.mark.parametrize(
    ("codec", "text"), [("mac-roman", "Ménière’s"), ("cp437", "at 7 – and don’t"), ("cp437", "“café”")]
)
def test_mojibake_of_other_machines(codec: str, text: str) -> None:
    broken = text.encode().decode(codec)
    assert told(DamageCheck(), [("What is Ménière's disease?", broken)]) == {"encoding": [0]}
    assert mend_encoding(broken) == text


def test_drawings_and_greek_are_no_mojibake() -> None:
    for text in ("├── src\n│   └── main.py\n┬─┴", "Γεια σου, Γιώργο", "Γ is gamma"):
        assert mend_encoding(text) == text


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        ("by a will,<o:p></o:p> or by marriage.", "by a will, or by marriage."),
        ('wait. <script>track("x");</script>', "wait."),
        ('<img src="a.jpg" alt="rose"> The window', "The window"),
        ("a commission. <!-- wp:more --> Ask", "a commission.  Ask"),
        ("&lt;p&gt;How many?&lt;/p&gt;", "How many?"),
    ],
)
def test_more_remains_of_web_pages(broken: str, mended: str) -> None:
    assert told(DamageCheck(), [("q", broken)]) == {"markup": [0]}
    assert mend_markup(broken) == mended


@pytest.mark.parametrize(
    "text",
    [
        "如何保存新鲜的香菜？把香菜的根部泡在水里，叶子用袋子盖好，放进冰箱，可以保存一个星期左右。",
        "Bruk sammenkrøllet aluminiumsfolie og eddik, gni forsiktig, tørk godt og smør kjedet med olje til slutt.",
        "Bersihkan debu dengan sikat lembut, oleskan semir tipis-tipis, lalu simpan sepatu di tempat yang kering.",
    ],
)
def test_a_language_that_may_be_one_of_two_is_still_another(text: str) -> None:
    english = [
        ("What is it?", f"That is the house and the garden of the man that they are with, number {i}.")
        for i in range(9)
    ]
    assert told(LanguageCheck(), [*english, (text, text)]) == {"language": [9]}


@pytest.mark.parametrize("piece", ["<script>", "<!--", "<style>x", "&lt;p ", "<a href", '<img src="'])
def test_what_never_ends_costs_no_time(piece: str) -> None:
    """One search for an end that is not there, not one for each beginning: a lazy pattern took half a minute here."""
    text = "<p>a</p> " + piece * 40_000
    began = time.perf_counter()
    mend_markup(text)
    assert time.perf_counter() - began < 5


def test_scripts_and_comments_go_with_what_is_in_them() -> None:
    text = "One <!-- a --> two <STYLE>p { }</style >three<script src='x'>let a</script> four <!-- five"
    assert mend_markup(text) == "One  two three four <!-- five"
