"""A new domain that overlaps an old one is told of before it is trained, with the confusion that was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
from quality_rows import hits_of, rows_of

from crma import ContinualModel, LearnConfig
from crma.data.worlds import make_world
from crma.overlap import Overlap, overlaps_of
from crma.probe import OverlapCheck
from crma.route.centroid import Router
from crma.served import ServedStack
from crma.types import Example, Split

DIMENSION = 16


def rows(centre: float, count: int, seed: int) -> np.ndarray:
    place = np.zeros(DIMENSION)
    place[0], place[1] = 4.0, centre
    return (np.random.default_rng(seed).normal(size=(count, DIMENSION)) + place).astype(np.float32)


class Stub:
    """A stack that keeps held-out questions, each its own feature."""

    def __init__(self, kept: dict[str, np.ndarray]) -> None:
        self.kept, self.asked = kept, []

    def kept_examples(self, domain: str, _split: str) -> list[Example]:
        return [Example.of(f"{domain} {i}", "yes") for i in range(len(self.kept.get(domain, ())))]

    def features(self, texts: Sequence[str]) -> np.ndarray:
        self.asked.append(texts[0].split()[0])
        return np.stack([self.kept[t.split()[0]][int(t.split()[1])] for t in texts])


def find(centres: dict[str, float], new: float, kept: bool = True, asked: int = 40) -> tuple[list[Overlap], Stub]:
    router = Router.empty(np.random.default_rng(0).normal(size=(60, DIMENSION)).astype(np.float32))
    for i, (name, centre) in enumerate(centres.items()):
        router = router.with_domain(name, rows(centre, 80, i + 1), rows(centre, 30, i + 20))
    router = router.with_domain("new", rows(new, 80, 90), rows(new, 30, 91))
    stub = Stub({name: rows(centre, 50, i + 40) for i, (name, centre) in enumerate(centres.items())} if kept else {})
    stub.kept["new"] = rows(new, asked, 92)
    questions = tuple(Example.of(f"new {i}", "yes") for i in range(asked))
    return overlaps_of(cast(ServedStack, stub), "new", router, Split(train=(), validation=(), test=questions)), stub


def test_the_same_subject_twice_is_told_with_both_confusions():
    found, _ = find({"old": 0.0, "far": 9.0}, 0.0)
    (overlap,) = found
    assert (overlap.other, overlap.asked, overlap.other_asked) == ("old", 40, 50)
    assert 0.25 <= overlap.lost / overlap.asked <= 0.75  # nothing tells the two apart
    assert 0.25 <= overlap.taken / overlap.other_asked <= 0.75
    assert f"{overlap.lost} of 40" in str(overlap)
    assert "one domain" in str(overlap)


def test_subjects_apart_say_nothing():
    assert find({"old": -9.0, "far": 9.0}, 0.0)[0] == []


def test_only_the_nearest_three_are_looked_at():
    _, stub = find({f"d{i}": float(8 * i) for i in range(6)}, 0.5)
    assert len(stub.asked) <= 1 + 3
    assert "d0" in stub.asked


def test_without_kept_questions_the_other_way_is_left_open():
    (overlap,), _ = find({"old": 0.0}, 0.0, kept=False)
    assert (overlap.taken, overlap.other_asked) == (0, 0)
    assert "of 'old' to its" not in str(overlap)


@pytest.mark.parametrize("asked", [0, 1])
def test_hardly_any_question_says_nothing(asked: int):
    router = Router.empty(np.random.default_rng(0).normal(size=(60, DIMENSION)).astype(np.float32))
    router = router.with_domain("new", rows(0, 9, 1))
    assert overlaps_of(cast(ServedStack, Stub({})), "new", router, Split(train=(), validation=(), test=())) == []
    if asked:
        assert find({"old": 0.0}, 0.0, kept=False, asked=asked)[0] == []


def test_learning_a_subject_again_tells_so_and_learns_it(tmp_path, toy_base):
    model = ContinualModel.create(tmp_path / "stack", base=str(toy_base))
    config = LearnConfig(epochs=1, rank=2, max_length=160)
    told: list[tuple[str, Any]] = []
    assert model.learn("law", make_world("law", entities=4).split, config).overlaps == ()
    again = model.learn(
        "law-2", make_world("law", entities=4, seed=1).split, config, on_event=lambda k, v: told.append((k, v))
    )
    (overlap,) = again.overlaps
    assert (overlap.domain, overlap.other) == ("law-2", "law")
    assert [v["other"] for k, v in told if k == "overlap"] == ["law"]
    assert any(k == "note" and "overlaps 'law'" in v["text"] for k, v in told)


class Knowing(Stub):
    """One that has learnt `old`."""

    def __init__(self, kept: dict[str, np.ndarray]) -> None:
        super().__init__(kept)
        self._router = Router.empty(np.random.default_rng(0).normal(size=(60, DIMENSION)).astype(np.float32))
        self._router = self._router.with_domain("old", rows(0.0, 80, 1), rows(0.0, 30, 20))

    def router(self) -> Router:
        return self._router


def told(of: dict[str, int], centre: float) -> tuple[list[int], OverlapCheck]:
    """Numbers of the rows that are told, of a file with so many rows of `old` and of `new`."""
    stub = Knowing({"old": rows(0.0, 200, 61), "new": rows(centre, 200, 62)})
    prompts = [f"{name} {i}" for name, count in of.items() for i in range(count)]
    check = OverlapCheck(stub)
    assert hits_of(check, []) == []
    hits = hits_of(check, rows_of([(prompt, "yes") for prompt in prompts]))
    assert all("goes to 'old'" in hit.note for hit in hits)
    return [hit.row for hit in hits], check


def test_rows_of_a_neighbour_are_the_old_domains_only_until_they_are_learnt() -> None:
    few, _ = told({"new": 20}, 3.0)  # too few to make a domain of half of them
    assert len(few) >= 2
    assert told({"new": 120}, 3.0)[0] == []
    found, check = told({"old": 60, "new": 60}, 6.0)
    assert 30 <= len(found) <= 60
    assert set(found) <= set(range(60))
    assert check.facts() == {"overlap": {"old": len(found) / 120}}
    again, _ = told({"old": 120}, 3.0)
    assert 30 <= len(again) <= 90  # the same subject again: nothing tells the two halves apart
