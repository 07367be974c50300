"""General ability is measured exactly, sampled by seed, and routed without touching what stays with the base."""

from __future__ import annotations

import importlib.util
import json
import logging
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from toys import FAMILIES, toy_model, toy_tokenizer

from crma.bench.general import TASKS, evaluate_general
from crma.bench.lm_eval_model import Answerer, ModelAnswerer, ServingAnswerer, harness_model
from crma.errors import ConfigError, DataError

needs_harness = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed: pip install -e '.[bench]'"
)

PAIRS = [
    ("The sky is", " blue"),
    ("The sky is", " green, as a rule"),
    ("The sky was", " red"),
    ("Water is ", "wet"),
    ("Water is", "n"),
    ("", "A text by itself"),
    ("<s>opened", " already"),
]


def answerer(family: str = "llama", **options) -> ModelAnswerer:
    model = toy_model(family)
    return ModelAnswerer(model, model.get_output_embeddings(), toy_tokenizer(), **options)


def plainly(model, ids: list[int], scored: int) -> tuple[float, bool]:
    """The last `scored` of `ids` by one forward pass over all of them, with all logits."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, :-1]
    told = logits.log_softmax(-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])][-scored:]
    return float(told.sum()), logits.argmax(-1)[-scored:].tolist() == ids[-scored:]


# --- scoring ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_loglikelihood_is_that_of_one_plain_pass_over_all_logits(family: str):
    ours = answerer(family)
    tokenizer = toy_tokenizer()
    long = ("It rains, and it rains, and it goes on raining.", " So the river rises over its banks.")  # over the window
    for (context, continuation), told in zip([*PAIRS, long], ours.loglikelihood([*PAIRS, long]), strict=True):
        ids = tokenizer((context or "<s>") + continuation).input_ids
        scored = len(tokenizer(" wet" if continuation == "wet" else continuation).input_ids)
        score, greedy = plainly(ours.model, ids, scored)
        assert told[0] == pytest.approx(score, abs=2e-4)
        assert told[1] is greedy


def likeliest(ours: ModelAnswerer, prompt: str, token: str) -> None:
    """Make `token` what the model says after `prompt`."""
    with torch.no_grad():
        first = int(ours.model(torch.tensor([toy_tokenizer()(prompt).input_ids])).logits[0, -1].argmax())
        ours.model.lm_head.weight[toy_tokenizer().convert_tokens_to_ids(token)] = 10 * ours.model.lm_head.weight[first]


def test_greedy_is_told_when_every_token_is_the_likeliest():
    ours = answerer()
    likeliest(ours, "Hm", "!")
    told = ours.loglikelihood([("Hm", "!"), ("Hm", "?"), ("Hm", "!~"), ("Hm", "~!")])
    assert [greedy for _, greedy in told] == [True, False, False, False]


def test_a_budget_cuts_the_batches_and_changes_nothing_else():
    pairs = [(context * k, continuation) for context, continuation in PAIRS for k in (1, 2, 3)]
    wide, narrow = answerer(max_tokens=4096), answerer(max_tokens=8)
    for a, b in zip(wide.loglikelihood(pairs), narrow.loglikelihood(pairs), strict=True):
        assert a[0] == pytest.approx(b[0], abs=2e-4)


def test_only_scored_positions_reach_the_head():
    ours, seen = answerer(), []
    ours.head.register_forward_hook(lambda _module, _args, output: seen.append(output.shape))
    ours.loglikelihood([("A context of some length", " ab"), ("A context of some length", " xyz")])
    assert [shape[0] for shape in seen] == [1, 2 + 3]  # the end of the context, once; then all but each last token


def test_a_long_context_loses_its_left_end_and_an_endless_continuation_is_refused():
    short, whole = answerer(max_length=16), answerer()
    context = "many words stand before the last fifteen bytes"
    cut, full = short.loglikelihood([(context, "!")]), whole.loglikelihood([(context[-16:], "!")])
    assert cut[0][0] == pytest.approx(full[0][0], abs=1e-5)
    assert cut[0][0] != pytest.approx(whole.loglikelihood([(context, "!")])[0][0], abs=1e-5)
    with pytest.raises(DataError, match="cannot be scored"):
        short.loglikelihood([("a", "b" * 17)])


@needs_harness
def test_rolling_windows_are_the_harness_s():
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window  # pyright: ignore[reportMissingImports]

    text = "Forty-one bytes of text, give or take some"
    for length in (7, 16, 512):
        ours = answerer(max_length=length)
        ids = toy_tokenizer()(text).input_ids
        expected = 0.0
        for before, after in map(make_disjoint_window, get_rolling_token_windows(ids, 1, length, 1)):
            expected += plainly(ours.model, [*before, *after], len(after))[0]
        assert ours.rolling([text, text]) == [pytest.approx(expected, abs=1e-3)] * 2


# --- generating ------------------------------------------------------------------------------------------------------


def test_generation_is_greedy_and_ends_at_the_model_s_own_end():
    ours = answerer()
    prompts = ["One prompt", "Another, longer prompt"]
    ids = toy_tokenizer()(prompts[0]).input_ids
    while (said := int(ours.model(torch.tensor([ids])).logits[0, -1].argmax())) not in (2, 4):  # </s>, <|im_end|>
        ids.append(said)
    expected = toy_tokenizer().decode(ids[len(prompts[0]) :], skip_special_tokens=True)
    assert 8 < len(expected) < 24
    assert ours.generate(prompts, [], 24)[0] == expected


def test_generation_ends_before_a_stop_string():
    ours = answerer()
    prompt = "Another, longer prompt"  # which this toy continues without end
    free = ours.generate([prompt], [], 24)[0]
    calls = []
    ours.head.register_forward_hook(lambda *_: calls.append(1))
    assert ours.generate([prompt], ["never said", free[:1]], 200) == [""]
    assert len(calls) == 1  # it stopped, it was not merely cut
    ours.generate([prompt], ["never said"], 24)
    assert len(calls) == 1 + 24


def test_a_special_token_among_the_stops_ends_an_answer():
    ours = answerer()
    likeliest(ours, "Hm", "<s>")  # which nothing but the stops says is an end
    calls = []
    ours.head.register_forward_hook(lambda *_: calls.append(1))
    assert ours.generate(["Hm"], ["<s>"], 8) == [""]
    assert len(calls) == 1


def test_a_prompt_without_room_is_refused():
    with pytest.raises(ConfigError, match="no room"):
        answerer(max_length=16).generate(["a"], [], 16)


# --- serving and routing ---------------------------------------------------------------------------------------------


def served(model, *, log: list | None = None):
    """A domain 'law' that changes the head, as an adapter would change the model."""

    @contextmanager
    def activate(domain: str | None):
        if log is not None:
            log.append(domain)
        kept = model.lm_head.weight.clone()
        if domain is not None:
            model.lm_head.weight.mul_(-1.0)
        try:
            yield
        finally:
            model.lm_head.weight.copy_(kept)

    return activate


def with_domain(**options) -> ModelAnswerer:
    model = toy_model()
    tied = model.get_output_embeddings()
    return ModelAnswerer(model, tied, toy_tokenizer(), activate=served(model, **options))


def test_what_is_served_is_remembered_and_only_there():
    log: list = []
    ours = with_domain(log=log)
    calls = []
    ours.head.register_forward_hook(lambda *_: calls.append(1))
    with ours.serving(None):
        base = ours.loglikelihood(PAIRS)
    with ours.serving("law"):
        law = ours.loglikelihood(PAIRS)
    asked = len(calls)
    with ours.serving(None):
        assert ours.loglikelihood(PAIRS[2:4]) == base[2:4]
    assert len(calls) == asked
    assert all(a[0] != b[0] for a, b in zip(base, law, strict=True))
    ours.loglikelihood(PAIRS)  # outside: the model may be anything by now
    assert len(calls) > asked
    assert log == [None, "law", None]


def test_one_domain_is_served_at_a_time_and_none_without_activate():
    ours = with_domain()
    with ours.serving(None), pytest.raises(ConfigError, match="one domain"), ours.serving("law"):
        pass
    with pytest.raises(ConfigError, match="knows no domains"), answerer().serving("law"):
        pass


# --- through the harness ---------------------------------------------------------------------------------------------


@pytest.fixture
def benchmarks(tmp_path: Path) -> Path:
    """Three tasks of a few rows each, in the schemas of the real files."""
    arc = [
        {
            "question": f"What is {k} and one?",
            "choices": {"text": [str(k), str(k + 1), "a bird"], "label": ["A", "B", "C"]},
            "answerKey": "B",
        }
        for k in range(6)
    ]
    winogrande = [
        {"sentence": f"Ann paid Eve {k} coins because _ owed them.", "option1": "Ann", "option2": "Eve", "answer": "1"}
        for k in range(6)
    ]
    gsm8k = [{"question": f"Add {k} and 2.", "answer": f"{k} + 2 = {k + 2}\n#### {k + 2}"} for k in range(6)]
    for file, rows in (
        ("arc_challenge/test.jsonl", arc),
        ("winogrande/validation.jsonl", winogrande),
        ("gsm8k/test.jsonl", gsm8k),
    ):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


SMALL = ("arc_challenge", "winogrande", "gsm8k")


class Scripted:
    """Knows every answer of the small benchmarks, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def loglikelihood(self, pairs):
        self.asked += [context for context, _ in pairs]
        return [(0.0 if self._right(*pair) else -5.0, True) for pair in pairs]

    def _right(self, context: str, continuation: str) -> bool:
        if "paid" in context:
            return "because Ann" in context
        return continuation == f" {int(context.split()[3]) + 1}"

    def rolling(self, texts):
        return [-2.0 * len(text) for text in texts]

    def generate(self, prompts, stop, max_tokens):
        self.asked += prompts
        last = [int(prompt.rsplit("Add ", 1)[1].split()[0]) for prompt in prompts]
        return [f" It is {k + 2}, no #### {k + 2}" if k % 2 else f" It is {k + 2}" for k in last]


@needs_harness
def test_an_answerer_that_knows_everything_scores_one(benchmarks: Path):
    scripted = Scripted()
    result = evaluate_general(scripted, benchmarks, tasks=SMALL, shots={"gsm8k": 2})
    tasks = result["tasks"]
    assert tasks["arc_challenge"]["metrics"]["acc"] == {"value": 1.0, "stderr": 0.0, "higher_is_better": True}
    assert tasks["winogrande"]["items"]["acc"] == [1.0] * 6
    gsm8k = tasks["gsm8k"]
    assert gsm8k["n"] == gsm8k["available"] == 4  # two are shown as examples, and never asked
    assert gsm8k["metrics"]["exact_match,flexible-extract"]["value"] == 1.0
    strict = gsm8k["items"]["exact_match,strict-match"]
    assert strict == [float(row % 2) for row in gsm8k["rows"]]
    prompts = [prompt for prompt in scripted.asked if "Add" in prompt]
    examples = {prompt.rsplit("Question:", 1)[0] for prompt in prompts}
    assert len(examples) == 1
    assert examples.pop().count("####") == 2
    assert json.loads(json.dumps(result)) == result


@needs_harness
def test_rows_are_drawn_by_seed_and_a_smaller_draw_is_part_of_a_larger(benchmarks: Path):
    def rows(limit: int | None, seed: int) -> list[int]:
        result = evaluate_general(Scripted(), benchmarks, tasks=["arc_challenge"], limit=limit, seed=seed)
        return result["tasks"]["arc_challenge"]["rows"]

    few, more = rows(2, 0), rows(4, 0)
    assert set(few) < set(more)
    assert more == sorted(more)
    assert rows(None, 0) == list(range(6))
    draws = {tuple(rows(3, seed)) for seed in range(6)}
    assert len(draws) > 2
    assert any(draw != (0, 1, 2) for draw in draws)


@needs_harness
def test_items_stand_in_the_order_of_rows_and_give_the_stderr(benchmarks: Path):
    class OnlyEven(Scripted):
        def _right(self, context, continuation):
            return super()._right(context, continuation) and int(context.split()[3]) % 2 == 0

    task = evaluate_general(OnlyEven(), benchmarks, tasks=["arc_challenge"], limit=5)["tasks"]["arc_challenge"]
    # Where no choice is preferred the first, which is wrong, is taken.
    assert task["items"]["acc"] == [float(row % 2 == 0) for row in task["rows"]]
    p = task["metrics"]["acc"]["value"]
    assert p == sum(task["items"]["acc"]) / 5
    assert task["metrics"]["acc"]["stderr"] == pytest.approx((p * (1 - p) / 4) ** 0.5)


@needs_harness
def test_a_router_that_always_abstains_gives_the_base_to_the_last_bit(benchmarks: Path):
    base, routed = with_domain(), with_domain()
    options = {"tasks": SMALL, "shots": {"gsm8k": 1}, "limit": 3}
    with base.serving(None):
        alone = evaluate_general(base, benchmarks, **options)
    abstained = evaluate_general(routed, benchmarks, route=lambda texts: [None] * len(texts), **options)
    assert base._known == routed._known  # every score and text, not only what became of them
    for name in SMALL:
        assert abstained["tasks"][name]["items"] == alone["tasks"][name]["items"]
        assert abstained["tasks"][name]["routed_to"] == {"base": 3}


@needs_harness
def test_each_question_is_answered_as_its_router_says_and_the_router_sees_only_questions(benchmarks: Path):
    ours, shown = with_domain(), []

    def route(texts):
        shown.extend(texts)
        return ["law" if "3" in text else None for text in texts]

    with ours.serving(None):
        base = evaluate_general(ours, benchmarks, tasks=SMALL[:2])
    with ours.serving("law"):
        law = evaluate_general(ours, benchmarks, tasks=SMALL[:2])
    routed = evaluate_general(ours, benchmarks, tasks=SMALL[:2], route=route)
    assert shown == [f"What is {k} and one?" for k in range(6)] + [
        f"Ann paid Eve {k} coins because _ owed them." for k in range(6)
    ]
    for name in SMALL[:2]:
        task = routed["tasks"][name]
        assert task["routes"] == [None, None, None, "law", None, None]
        for metric, items in task["items"].items():
            own, other = base["tasks"][name]["items"][metric], law["tasks"][name]["items"][metric]
            assert items == [*own[:3], other[3], *own[4:]]


@needs_harness
def test_routing_needs_an_answerer_that_serves():
    assert isinstance(Scripted(), Answerer)
    assert not isinstance(Scripted(), ServingAnswerer)
    with pytest.raises(ConfigError, match="serves domains"):
        harness_model(Scripted(), route=lambda texts: [None] * len(texts))


@needs_harness
def test_unknown_tasks_and_missing_files_are_named_before_anything_runs(tmp_path: Path):
    with pytest.raises(ConfigError, match="unknown tasks"):
        evaluate_general(Scripted(), tmp_path, tasks=["chess"])
    with pytest.raises(DataError, match=r"dev\.jsonl"):
        evaluate_general(Scripted(), tmp_path, tasks=["mmlu"])


@needs_harness
def test_nothing_is_said_and_the_loggers_are_as_before(benchmarks: Path, capfd: pytest.CaptureFixture[str]):
    level = logging.getLogger("lm_eval").level
    evaluate_general(Scripted(), benchmarks, tasks=["winogrande"])
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("lm_eval").level == level


def test_a_hellaswag_context_is_cut_where_a_sentence_breaks_off():
    prepare = TASKS["hellaswag"].prepare
    broken = prepare({"ctx": "A man sits on a roof. he"})
    assert (broken["ctx_a"], broken["ctx_b"]) == ("A man sits on a roof.", "he")
    whole = prepare({"ctx": "Double the recipe. Write it down."})
    assert (whole["ctx_a"], whole["ctx_b"]) == ("Double the recipe. Write it down.", "")
    lone = prepare({"ctx": "no sentence ends here"})
    assert (lone["ctx_a"], lone["ctx_b"]) == ("no sentence ends here", "")


@needs_harness
@pytest.mark.slow
def test_the_real_files_go_through_the_harness(shared_data: Path):
    folder = shared_data / "benchmarks"
    if not folder.is_dir():
        pytest.skip("no benchmarks in the real data")
    model = toy_model()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(0.01)  # near uniform: no answer's probability underflows to 0
    ours = ModelAnswerer(model, model.get_output_embeddings(), toy_tokenizer(), max_length=512)
    tasks = [name for name in TASKS if name != "wikitext"]
    result = evaluate_general(ours, folder, tasks=tasks, limit=4, shots={"gsm8k": 0, "mmlu": 1})
    for name, task in result["tasks"].items():
        assert task["n"] == 4, name
        assert task["rows"] != [0, 1, 2, 3], name
        assert len(task["rows_sha256"]) == len(task["file_sha256"]) == 64
        for metric in task["metrics"].values():
            assert 0.0 <= metric["value"] <= 1.0
