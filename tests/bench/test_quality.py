"""Counts of the data check worked by hand, and the tables and numbers that come of its receipts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toy_receipts import toy_suite

from crma.bench.headline import headline
from crma.bench.numbers import check_document, fill_document
from crma.bench.quality import (
    Blind,
    BlindRound,
    Cleaning,
    Count,
    ModelCase,
    OfModel,
    Planted,
    PlantedSeed,
    Quality,
    Scale,
    Training,
    TrainingRun,
    below,
    pooled,
    quality_numbers,
    read_quality,
    relative_difference,
)
from crma.bench.quality_tables import quality_tables
from crma.bench.receipt import write_receipt
from crma.bench.report import results_markdown
from crma.bench.result_tables import result_tables
from crma.errors import DataError


def seed_of(seed: int, **more: object) -> PlantedSeed:
    return PlantedSeed(
        **{  # pyright: ignore[reportArgumentType]
            "seed": seed,
            "rows": 100,
            "data": {"train.jsonl": "0" * 64},
            "seconds": 1.5,
            "checks": {
                "duplicate": Count(planted=4, found=3, false=1, decoys=5, tempted=1),
                "refusal": Count(planted=2, found=1),
            },
            "kinds": {"duplicate": (4, 3), "refusal": (2, 1), "control/U+0000": (6, 6), "decoy/date": (5, 1)},
            "edits": (
                ("5% of the words", 0.9, True),
                ("5% of the words", 0.85, False),
                ("20% of the words", 0.6, False),
            ),
            "false": {"duplicate": {"clean": 1}},
            "cleaning": Cleaning(
                rows=100,
                kept=90,
                edited=4,
                dropped=6,
                by_check={"duplicate": 6},
                restored=True,
                left={"duplicate": 1, "refusal": 2},
            ),
            **more,
        }
    )


def planted(*seeds: PlantedSeed) -> Planted:
    return Planted(command="crma bench quality", packages={"ftfy": "6.3"}, base="toy", each=4, seeds=seeds)


def run(version: str, seed: int, losses: tuple[float, ...], **more: object) -> TrainingRun:
    return TrainingRun(
        **{  # pyright: ignore[reportArgumentType]
            "version": version,
            "seed": seed,
            "rows": 10,
            "tokens": 100,
            "data": "0" * 64,
            "seconds": 1.0,
            "losses": losses,
            "tokens_of_rows": (1, 3, 4),
            "documents": (0, 0, 1),
            **more,
        }
    )


def training(*runs: TrainingRun) -> Training:
    return Training(
        command="crma bench quality --train",
        packages={"ftfy": "6.3"},
        base={"name": "toy"},
        domain="medical",
        config={},
        test={0: "0" * 64},
        shares={"mojibake": 0.1},
        cleaned={0: {"encoding": 1}},
        runs=runs,
    )


SCALE = Scale(
    command="crma bench quality --scale 2000",
    packages={"ftfy": "6.3"},
    seed=0,
    rows=2000,
    bytes=2_000_000,
    data={},
    planted={"duplicate": 40},
    told={"duplicate": 41, "language": 2},
    seconds=4.0,
    cpu_seconds=3.0,
    whole_seconds=9.0,
    peak_mb=512.0,
)


def every() -> Quality:
    runs = [run(v, 0, (x, x, x)) for v, x in (("base", 4.0), ("clean", 2.0), ("dirty", 2.2), ("cleaned", 2.05))]
    return Quality(planted=planted(seed_of(0), seed_of(1)), scale=SCALE, training=training(*runs))


def test_precision_and_recall_by_hand() -> None:
    count = Count(planted=4, found=3, false=1, decoys=5, tempted=1)
    assert (count.precision, count.recall) == (3 / 5, 3 / 4)
    assert (Count().precision, Count(decoys=3).recall, Count(planted=2).recall) == (None, None, 0.0)
    found = pooled(planted(seed_of(0), seed_of(1)))
    assert found["duplicate"] == Count(planted=8, found=6, false=2, decoys=10, tempted=2)
    assert below({"a": Count(planted=20, found=19), "b": Count(planted=20, found=18), "c": Count()}) == ["b"]


def test_differences_of_losses_by_hand() -> None:
    """clean: (1·2 + 3·2 + 4·2) / 8 = 2; dirty: 2.2, 2 and 2.5: (2.2 + 6 + 10) / 8 = 2.275, that is 13.75 % more."""
    found = training(run("clean", 0, (2.0, 2.0, 2.0)), run("dirty", 0, (2.2, 2.0, 2.5)))
    difference = relative_difference(found, "dirty", "clean")
    assert difference is not None
    assert difference.estimate == pytest.approx(13.75)
    # Two documents: of the first alone 100 · (0.2 / 4) / 2 = 2.5 %, of the second 25 %.
    assert difference.low == pytest.approx(2.5)
    assert difference.high == pytest.approx(25.0)
    back = relative_difference(found, "clean", "dirty")
    assert back is not None
    assert back.estimate == pytest.approx(100 * (2 - 2.275) / 2.275)
    assert relative_difference(found, "cleaned", "clean") is None
    other = training(run("clean", 0, (2.0, 2.0, 2.0)), run("dirty", 0, (2.0, 2.0, 2.0), tokens_of_rows=(1, 3, 5)))
    with pytest.raises(DataError, match="other rows"):
        relative_difference(other, "dirty", "clean")


def test_the_numbers_of_the_headline() -> None:
    found = quality_numbers(every())
    assert (found["precision"], found["recall"]) == (6 / 10, 6 / 8)  # refusals are a matter of degree
    assert found["mechanical_below"] == ["duplicate"]
    assert (found["rows_per_second"], found["peak_gb"]) == (500.0, 0.5)
    assert found["dirty_loss_pct"]["mean"] == pytest.approx(10.0)
    assert found["cleaned_loss_pct"]["mean"] == pytest.approx(2.5)
    assert headline([], quality=every())["quality"] == found
    assert headline([])["quality"]["recall"] is None


def test_the_tables() -> None:
    tables = quality_tables(every())
    assert "| duplicate | 8 | 6 | 2 | 2 of 10 | 60.0% [31.3, 83.2] | 75.0% [40.9, 92.9] |" in tables["quality/checks"]
    assert "| refusal * | 4 | 2 | 0 | - | 100.0% [34.2, 100.0] | 50.0% [15.0, 85.0] |" in tables["quality/checks"]
    assert "| 5% of the words | 4 | 0.875 | 0.850 | 2 of 4 | - |" in tables["quality/edits"]
    assert "| all of similarity 0.5 to 0.7 | 2 | 0.600 | 0.600 | - | 0 of 2 |" in tables["quality/edits"]
    assert "| duplicate | 8 | 2 missed |" in tables["quality/kinds"]
    assert "| decoy/date | 10 | 2 told |" in tables["quality/kinds"]
    assert "| clean | - | 2 told as duplicate |" in tables["quality/kinds"]
    assert "control" not in tables["quality/kinds"]
    assert "| 0 | 100 | 90 | 4 | 6 | yes, byte by byte | duplicate 1 | refusal 2 |" in tables["quality/cleaning"]
    assert "| time of the check | 4.0 s, 500 rows/s |" in tables["quality/scale"]
    assert "| rows with defects | 10 | 100 | 2.2000 | +10.00 % [+10.00, +10.00] | - | 1 |" in tables["quality/training"]
    assert quality_tables(Quality()) == {}
    assert list(quality_tables(Quality(scale=SCALE))) == ["quality/scale"]


def test_the_document_holds_them_and_is_checked(tmp_path: Path) -> None:
    quality = every()
    text = results_markdown(toy_suite(), "figures", (), quality)
    for name in quality_tables(quality):
        assert text.count(f"<!-- results:{name} -->") == 1, name
    assert "below 95 % in one of the two: duplicate" in text
    assert "## The data check" not in results_markdown(toy_suite(), "figures")
    assert "quality/checks" not in result_tables(toy_suite())
    document = tmp_path / "README.md"
    document.write_text("recall <!-- n:quality.recall:.2f -->?<!-- /n -->\n", encoding="utf-8")
    assert fill_document(document, toy_suite(), (), quality) == 1
    assert document.read_text() == "recall <!-- n:quality.recall:.2f -->0.75<!-- /n -->\n"
    assert check_document(document, toy_suite(), (), quality) == ()
    (found,) = check_document(document, toy_suite())
    assert "some are missing" in found.expected


def test_receipts_are_read_back(tmp_path: Path) -> None:
    quality = every()
    for name, part in (("planted", quality.planted), ("scale", quality.scale), ("training", quality.training)):
        assert part is not None
        write_receipt(tmp_path / f"{name}.json", part.model_dump(mode="json", exclude={"made", "machine"}))
    read = read_quality(tmp_path)
    assert len(read) == 3
    assert quality_tables(read)["quality/training"] == quality_tables(quality)["quality/training"]
    assert read.planted is not None
    assert quality.planted is not None
    assert read.planted.seeds == quality.planted.seeds
    (tmp_path / "two.json").write_bytes((tmp_path / "scale.json").read_bytes())
    with pytest.raises(DataError, match="two receipts"):
        read_quality(tmp_path)
    (tmp_path / "two.json").write_text(json.dumps({"kind": "quality-scale", "rows": 3}))
    (tmp_path / "scale.json").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        read_quality(tmp_path)


# --- the blind test -------------------------------------------------------------------------------------------------


def round_of(*, blind: bool, found: int) -> BlindRound:
    return BlindRound(
        made="2026-11-23T07:00:00+00:00",
        blind=blind,
        files=("a.jsonl",),
        checks={
            "secret": Count(planted=10, found=found, false=1, decoys=4, tempted=1),
            "refusal": Count(planted=4, found=2),
        },
        missed={"secret": ("a | key", "a\ntoken")},
        tempted={"secret": ("a hash",)},
        false={"secret": ("clean: 0123456789ab",)},
    )


def blind_of(*rounds: BlindRound) -> Quality:
    return Quality(blind=Blind(command="c", packages={}, base="b", data={"a.jsonl": "0" * 64}, rows=18, rounds=rounds))


def test_the_blind_tests_numbers_are_those_of_its_first_round() -> None:
    numbers = quality_numbers(blind_of(round_of(blind=True, found=8), round_of(blind=False, found=10)))["blind"]
    assert numbers["precision"] == pytest.approx(8 / 10)
    assert numbers["recall"] == pytest.approx(0.8)
    assert (numbers["precision_others"], numbers["recall_others"]) == (1.0, 0.5)
    assert numbers["mechanical_below"] == ["secret"]
    assert numbers["later"] == {"precision": None, "recall": None}
    rounds = [round_of(blind=True, found=8), round_of(blind=False, found=10), round_of(blind=True, found=9)]
    assert quality_numbers(blind_of(*rounds))["blind"]["later"]["recall"] == pytest.approx(11 / 14)
    assert quality_numbers(Quality())["blind"] is None


def test_the_blind_tests_tables() -> None:
    once = quality_tables(blind_of(round_of(blind=True, found=8)))
    assert "mending" not in once["quality/blind"]
    both = quality_tables(blind_of(round_of(blind=True, found=8), round_of(blind=False, found=10)))
    assert "| 10 of 10, 2 told falsely |" in both["quality/blind"]  # the first round stands beside it
    assert "| secret | 10 | 8 | 1 | 1 of 4 |" in both["quality/blind"]
    errors = both["quality/blind-errors"]
    assert "a / key; a token" in errors
    assert "a clean row" in errors
    assert "0123456789ab" not in errors


def test_the_table_of_checks_that_ask_a_model() -> None:
    def case(seed: int, check: str, name: str, planted: int, found: int, **more: object) -> ModelCase:
        count = Count(planted=planted, found=found, false=1, decoys=0, tempted=0)
        about = {"seed": seed, "check": check, "case": name, "rows": 50, "count": count, **more}
        return ModelCase(**about)  # pyright: ignore[reportArgumentType]

    cases = [case(s, "hard", "law", 10, 6 + s, auroc=0.9 + s / 100, auroc_loss=0.7) for s in (0, 1)]
    cases += [case(0, "overlap", "0%", 0, 0)]
    made = quality_tables(Quality(model=OfModel(command="c", packages={}, base={"name": "toy"}, cases=tuple(cases))))
    assert list(made) == ["quality/model"]
    assert "| hard | law | 13 of 20 | 2 of 80 | 0.905 (0.700) | 2 |" in made["quality/model"]
    assert "| overlap | 0% | - | 1 of 50 | - | 1 |" in made["quality/model"]
