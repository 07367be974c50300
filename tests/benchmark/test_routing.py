"""The router's benchmark on a toy base and made-up files: what it writes, what a kill costs, what it refuses."""

from __future__ import annotations

import json

import pytest

from crma.bench.routing import read_routing
from crma.benchmark import routing
from crma.benchmark.boundary import BOUNDARY
from crma.benchmark.routing import RoutingSet, measure_routing
from crma.benchmark.toy import toy_base
from crma.errors import ConfigError
from crma.route.seen import FeatureKind

WORDS = {"law": "court clause judge verdict appeal", "code": "loop array string integer return"}


@pytest.fixture
def data(tmp_path):
    def write(name, rows):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    for domain, words in WORDS.items():
        rows = [
            {
                "id": f"{domain}-{i}",
                "prompt": f"Please tell me about the {a} and the {b} number {i}",
                "completion": "Yes.",
                "group": f"{domain}-{i // 2}",
                "subdomain": domain,
            }
            for i in range(40)
            for a, b in [(words.split()[i % 5], words.split()[(i * 3 + 1) % 5])]
        ]
        write(f"{domain}.jsonl", rows)
    write("ood/clinc150_oos.jsonl", [{"prompt": f"sing {i}", "near_domains": ["law"] * (i % 2)} for i in range(6)])
    hums = [{"prompt": f"hum {i}", "subdomain": "home"} for i in range(3)]
    near = [{"prompt": "Are you a real person", "subdomain": "small_talk"}, {"prompt": "pay", "subdomain": "banking"}]
    write("ood/clinc150_intents.jsonl", hums + near)
    write("benchmarks/truthfulqa/validation.jsonl", [{"question": "Why?", "category": "Law"}, {"question": "Who?"}])
    for file, column in (
        ("piqa/validation", "goal"),
        ("winogrande/validation", "sentence"),
        ("boolq/validation", "question"),
        ("hellaswag/validation_1000", "ctx"),
        ("gsm8k/test", "question"),
        ("svamp/test", "context"),
        ("copa/test", "query"),
    ):
        write(f"benchmarks/{file}.jsonl", [{column: f"a {column} of {i}"} for i in range(2)])
    write("benchmarks/mmlu/test.jsonl", [{"question": q, "subject": q} for q in ("philosophy", "anatomy")])
    (tmp_path / "data/benchmarks/wikitext2_raw").mkdir(parents=True)
    (tmp_path / "data/benchmarks/wikitext2_raw/wiki.test.raw").write_text(f" = Ships = \n \n {'a ship ' * 20}\n")
    write("cl_benchmark/dbpedia/test.jsonl", [{"prompt": "what topic"}])
    write("cl_benchmark/MNLI/test.jsonl", [{"prompt": "so and so"}])
    return tmp_path / "data"


@pytest.fixture
def run(data, tmp_path, monkeypatch):
    sources = {domain: (f"{domain}.jsonl", domain) for domain in WORDS}
    made = {"far": RoutingSet(sources=sources, train=12, validation=8, test=10, seeds=(0,), grows=True, strangers=True)}
    monkeypatch.setattr(routing, "SETS", made)
    monkeypatch.setattr(routing, "_SPEED_DOMAINS", 40)

    def call(**more):
        return measure_routing(
            data, tmp_path / "r", tmp_path / "w", **{"names": ("far",), "base": str(toy_base()), **more}
        )

    return call


def test_a_receipt_tells_of_every_query(run, tmp_path):
    (path,) = run()
    (receipt,) = read_routing(tmp_path / "r")
    assert path.name == "far-seed0.json"
    assert receipt.rows == {d: {"train": 12, "validation": 8, "test": 10} for d in WORDS}
    own = receipt.group("test")
    assert own is not None
    assert [r for (r,) in own.right] == ["law"] * 10 + ["code"] * 10
    assert set(own.tfidf) == set(WORDS)
    assert len(receipt.documents["law"]) == 10
    assert max(receipt.documents["law"]) < 9  # two rows a document
    assert all((m >= 0) == (r is not None) for m, r in zip(own.margin, own.routed, strict=True))
    assert [[d for d, *_ in s.right] for s in receipt.steps] == [["law"], ["law", "code"]]
    clinc, truthful = receipt.group("clinc"), receipt.group("truthfulqa")
    assert clinc is not None
    assert truthful is not None
    assert (len(clinc.routed), len(truthful.routed)) == (3, 1)  # none near a domain, none of its categories
    intents = receipt.group("clinc intents")
    assert intents is not None
    assert len(intents.routed) == 3  # none that repeats a background prompt, none of banking
    unlearnt = receipt.group("without law")
    assert unlearnt is not None
    assert receipt.unlearnt == (unlearnt, receipt.group("without code"))
    assert unlearnt.right == ((None,),) * 10 + (("code",),) * 3
    assert set(unlearnt.nearest) == set(unlearnt.tfidf) == {"code"}
    assert [len(part) for part in unlearnt.parted()] == [3, 10]
    boundary = receipt.group("boundary")
    assert boundary is not None
    assert boundary.kinds == tuple(c.kind for c in BOUNDARY)
    assert all(x > 0 for x in receipt.speed.values())
    # Eight validation rows, two a document but where the last one is cut.
    assert all(count in (4, 5) and stated == 1 / (count + 1) for stated, count in receipt.guarantees.values())
    assert all(
        (m >= 0) == (r in (None, d)) or r != d for m, r, (d,) in zip(own.own_margin, own.routed, own.right, strict=True)
    )
    assert sum(n for *_, n in receipt.conversations.values()) == 6 * 300


def test_what_is_there_is_not_made_again_and_features_are_computed_once(run, tmp_path, monkeypatch):
    (path,) = run()
    first = path.read_bytes()
    assert run() == []
    path.unlink()
    speed = []
    real = routing.seen_of
    monkeypatch.setattr(routing, "seen_of", lambda m, t, texts, k: speed.append(len(texts)) or real(m, t, texts, k))
    run()
    assert set(speed) == {1}  # only the clock asks, one text at a time

    def groups(content: bytes):
        return json.loads(content)["groups"]

    assert groups(path.read_bytes()) == groups(first)


def test_a_receipt_of_another_base_or_router_is_not_taken_for_this_one(run):
    run()
    with pytest.raises(ConfigError, match="another base or kind of router"):
        run(base="elsewhere")
    with pytest.raises(ConfigError, match="another base or kind of router"):
        run(kind=FeatureKind(depth=0.5))


def test_an_unknown_set_is_refused(run):
    with pytest.raises(ConfigError, match="no such set"):
        run(names=("nearby",))
