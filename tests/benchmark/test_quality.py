"""The benchmark of the data check, on made-up rows and a toy: what is counted, what is resumed, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crma.bench.quality import Count, read_quality
from crma.benchmark.dirty import SHARES, dirtied, measure_training, plan
from crma.benchmark.planting import Line
from crma.benchmark.quality import count_told, measure_planted
from crma.benchmark.quality_model import measure_model
from crma.benchmark.scale import measure_scale, write_rows
from crma.benchmark.streams import Sizes
from crma.benchmark.toy import toy_base
from crma.errors import ConfigError, DataError
from crma.types import Example

from .rows_to_plant import write_data

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def test_counts_by_hand() -> None:
    def line(kind: str, **more: frozenset[str]) -> Line:
        return Line(raw=b"", kind=kind, **more)  # pyright: ignore[reportArgumentType]

    email = frozenset({"pii_email"})
    lines = [
        line("pii_email", planted=email),
        line("pii_email", planted=email),
        line("clean"),
        line("decoy/mention", decoy=email),
        line("decoy/mention", decoy=email),
        line("secret/URL", planted=frozenset({"secret"}), allowed=email),
    ]
    told = {"pii_email": frozenset({1, 3, 4, 6}), "language": frozenset({3})}
    checks, kinds, false = count_told(lines, told, {"secret": 2})
    assert checks == {
        "secret": Count(planted=1, found=0, false=2),
        "pii_email": Count(planted=2, found=1, false=1, decoys=2, tempted=1),
    }
    assert kinds == {"pii_email": (2, 1), "decoy/mention": (2, 1), "secret/URL": (1, 0)}
    assert false == {"pii_email": {"clean": 1}, "secret": {"another file": 2}}


def test_planted_defects_are_counted_and_seeds_added(data: Path, tmp_path: Path) -> None:
    base = str(toy_base())

    def measure(*seeds: int, each: int = 6) -> Path | None:
        where = {"seeds": seeds, "base": base, "each": each, "clean_each": 220}
        return measure_planted(data, tmp_path / "r", tmp_path / "w", **where)  # pyright: ignore[reportArgumentType]

    assert measure(0) == tmp_path / "r" / "planted.json"
    assert measure(0) is None
    assert measure(0, 1) is not None
    planted = read_quality(tmp_path / "r").planted
    assert planted is not None
    assert [seed.seed for seed in planted.seeds] == [0, 1]
    assert planted.machine["packages"]
    for seed in planted.seeds:
        assert seed.cleaning.restored
        assert seed.cleaning.rows == seed.rows == seed.cleaning.kept + seed.cleaning.edited + seed.cleaning.dropped
        assert seed.checks["schema"] == Count(planted=6, found=6)
        assert seed.checks["formula"] == Count(planted=6, found=6, decoys=6)
        copies = seed.checks["duplicate"].planted
        assert seed.checks["duplicate"].found == copies >= 6
        assert "duplicate" not in seed.cleaning.left
        assert len(seed.edits) + copies - 6 == 6 * 6 + 3 * 3  # some that were edited differ in case and spacing alone
    with pytest.raises(ConfigError, match="another base or size"):
        measure(0, each=5)


def test_a_large_file_is_the_same_each_time_and_holds_what_it_says(data: Path, tmp_path: Path) -> None:
    told = [write_rows(tmp_path / name, data, 2000, seed=0) for name in ("a", "b")]
    lines = (tmp_path / "a").read_bytes().splitlines()
    assert (tmp_path / "b").read_bytes().splitlines() == lines
    assert told[0] == told[1]
    assert len(lines) - len(set(lines)) == told[0]["duplicate"] > 20
    assert sum(told[0].values()) < 150


@pytest.mark.slow
def test_a_large_file_is_checked_in_a_process_of_its_own(data: Path, tmp_path: Path) -> None:
    path = measure_scale(data, tmp_path / "r", tmp_path / "w", 150, base=str(toy_base()))
    assert path is not None
    scale = read_quality(path).scale
    assert scale is not None
    assert scale.rows == 150
    assert scale.whole_seconds > scale.seconds > 0
    assert scale.peak_mb is not None
    assert scale.peak_mb > 50
    assert measure_scale(data, tmp_path / "r", tmp_path / "w", 150, base=str(toy_base())) is None


def test_defects_stand_in_as_many_rows_as_are_stated() -> None:
    rows = [
        Example.of(
            f"What is it, number {i}?", f"It is thing {i} of all. " + f"Its word{i} is as good as name{i} or so. " * 3
        )
        for i in range(160)
    ]
    made = dirtied(rows, 0)
    assert made == dirtied(rows, 0) != dirtied(rows, 1)
    assert len(made) == 160
    clean = {(row.prompt, row.completion) for row in rows}
    as_they_were = [row for row in made if (row.prompt, row.completion) in clean]
    assert len(as_they_were) - len(set(as_they_were)) == round(SHARES["exact duplicates of four rows"] * 160)
    assert sum(row.completion == "N/A" for row in made) == 8
    assert sum("\xc2" in row.completion or "\xe2" in row.completion for row in made) == 16
    assert len(made) - len(as_they_were) == sum(round(s * 160) for n, s in SHARES.items() if not n.startswith("exact"))
    with pytest.raises(ConfigError, match="too few rows"):
        dirtied(rows[:6], 0)


def test_training_on_three_versions_goes_on_where_it_stopped(data: Path, tmp_path: Path) -> None:
    how = plan()
    how = replace(
        how,
        sizes=Sizes(train=40, validation=4, test=6, max_tokens=500),
        learn=how.learn.model_copy(update={"max_length": 500, "epochs": 0.5}),
        matched_rank=2,
    )

    def measure(**more: object) -> Path | None:
        where = {"seeds": (0,), "base": str(toy_base()), "how": how} | more
        return measure_training(data, tmp_path / "r", tmp_path / "w", **where)  # pyright: ignore[reportArgumentType]

    path = measure()
    assert path is not None
    training = read_quality(path).training
    assert training is not None
    rows = {run.version: run.rows for run in training.runs}
    assert rows["clean"] == rows["dirty"] == 40
    assert rows["base"] == 0
    assert 20 < rows["cleaned"] == rows["cleaned-steps"] < 40
    tokens = {run.version: run.tokens for run in training.runs}
    assert tokens["base"] == 0
    assert tokens["cleaned"] < tokens["cleaned-steps"]
    assert len({run.tokens_of_rows for run in training.runs}) == 1
    assert training.cleaned[0]["duplicate"] == 6
    before = path.read_bytes()
    assert measure() is None
    # As if it had been killed before the last one.
    last = training.runs[-1]
    path.write_text(training.model_copy(update={"runs": training.runs[:-1]}).model_dump_json())
    assert measure() == path
    again = read_quality(path).training
    assert again is not None
    assert again.runs[:-1] == training.runs[:-1]
    assert again.runs[-1].losses == last.losses
    assert len(path.read_bytes()) == pytest.approx(len(before), abs=200)
    with pytest.raises(ConfigError, match="other settings"):
        measure(how=replace(how, matched_rank=3))


def test_checks_that_ask_a_model_are_counted_and_seeds_added(data: Path, tmp_path: Path) -> None:
    def measure(*seeds: int, base: str = str(toy_base()), **more: object) -> Path | None:
        how = {"each": 10, "asked": 20, "domains": ("medical",), "seeds": seeds, "base": base}
        how["sizes"] = Sizes(train=20, validation=8, test=12, max_tokens=4096)
        return measure_model(data, tmp_path / "r", tmp_path / "w", **how | more)  # pyright: ignore[reportArgumentType]

    assert measure(0) == tmp_path / "r" / "model.json"
    assert measure(0) is None
    assert measure(0, 1) is not None
    receipt = read_quality(tmp_path / "r").model
    assert receipt is not None
    assert [c.seed for c in receipt.cases] == [0] * 7 + [1] * 7
    for case in receipt.cases:
        if case.check == "overlap":
            count = case.count
            assert (case.rows, count.planted + count.decoys, count.false) == (20, 20, 0)
            assert count.planted == round(20 * float(case.case.rstrip("%")) / 100)
        else:
            assert (case.rows, case.count.planted, case.case) == (12, 2, "medical")
            assert case.auroc is not None
            assert 0 <= case.auroc <= 1
    assert [c.check for c in receipt.cases if c.auroc_loss is not None] == ["hard", "hard"]
    with pytest.raises(ConfigError, match="another base"):
        measure(2, base="another")
    with pytest.raises(DataError, match="too few rows for a file of this overlap"):
        measure(2, asked=60)
    with pytest.raises(DataError, match="too few clean rows"):
        measure(2, each=1000)


def test_what_is_exchanged_and_what_copies_itself_is_told_by_a_base_that_knows(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scores(_base: object, _served: object, rows: list[tuple[int, Example]], _length: int) -> object:
        """An answer gains by its question where both are of one row of the source; copies of itself are certain."""
        source = {
            p["completion"]: p["prompt"]
            for p in map(json.loads, (data / "domains/science.jsonl").read_text().splitlines())
        }
        given = [0.05 if e.prompt.startswith(("Count from", "Write this line")) else 2.0 for _, e in rows]
        gain = [-0.1 if source.get(e.completion, e.prompt) != e.prompt else 0.5 for _, e in rows]
        return [n for n, _ in rows], np.array(given), np.array(given) + np.array(gain)

    monkeypatch.setattr("crma.probe.row_scores", scores)
    how = {"each": 20, "asked": 20, "sizes": Sizes(train=20, validation=8, test=12, max_tokens=4096)}
    measure_model(data, tmp_path, tmp_path, seeds=(0,), base=str(toy_base()), domains=("science",), **how)  # pyright: ignore[reportArgumentType]
    receipt = read_quality(tmp_path).model
    assert receipt is not None
    hard, easy = (next(c for c in receipt.cases if c.check == check) for check in ("hard", "easy"))
    assert (hard.count, hard.auroc, hard.auroc_loss) == (Count(planted=4, found=4), 1.0, 0.5)
    assert (easy.count, easy.auroc) == (Count(planted=4, found=4), 1.0)
