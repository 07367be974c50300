"""Export: each domain as one ordinary LoRA on the plain base, checked against the stack it came from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crma.data.render import end_of_turn_ids, render_prompt
from crma.errors import ConfigError, CrmaError
from crma.generate.engine import generate
from crma.model.adapters import AdapterConfig, peft_config, rank_of, to_file
from crma.served import WEIGHTS, ServedStack
from crma.stack import files
from crma.types import Message

__all__ = ["PROBES", "export_domains"]

_PROBE = "(exported)"  # the name of what is checked in the model; no domain can be called so
TOLERANCE = 1e-4  # of logits, in float32
ANSWER_TOKENS = 16

# Prompts the parity is measured on, beside what the domain's own kept rows ask.
PROBES = (
    "What is the capital of Portugal?",
    "Explain in one sentence what a contract is.",
    "def add(a, b):",
    "List three symptoms of a cold.",
)


def export_domains(
    served: ServedStack, out: str | os.PathLike[str], domains: Sequence[str] | None = None
) -> dict[str, Any]:
    """Write `out`/<domain>/ in PEFT's format for each domain, and `out`/parity.json.

    The backbone the domain is pinned to is folded in (none where it stands alone), the scaling is in B, one rank
    holds for all modules (lora_alpha = rank). Parity: the largest difference of logits between the stack and the
    exported LoRA alone on the base, both in float32, where answers are read: from a prompt's last position through the
    stack's own greedy answer. The largest over all positions stands beside it: on attention sinks (a prompt's first
    token and a few others) the residual of SmolLM2-135M reaches 2.7e4, where one float32 spacing is 2e-3 and moves
    logits by 1e-4 (LOG.md).

    Raises:
        CrmaError: a difference above 1e-4; the folder is left for inspection.
        ConfigError: `out` holds something already, or the model is not held in float32.
    """
    target = Path(out)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ConfigError(
            "the export's folder is not a new or empty one",
            where=str(target),
            got="a folder with files in it" if target.is_dir() else "a file",
            next_step="choose a new folder",
        )
    if next(served.model.parameters()).dtype != torch.float32:
        raise ConfigError(
            "an export is checked in float32",
            expected="a stack opened with precision='float32'",
            got=str(next(served.model.parameters()).dtype),
        )
    manifest = served.stack.manifest
    if not manifest.domains:
        raise ConfigError(
            "the stack has learnt no domain, so there is nothing to export",
            where=str(served.stack.root),
            next_step="learn one first: `crma learn`",
        )
    names = list(dict.fromkeys(domains)) if domains else [d.name for d in manifest.domains]
    report: dict[str, Any] = {
        "base": manifest.base.model_dump(),
        "tolerance": TOLERANCE,
        "measure": "max |logits of the stack - logits of the exported LoRA on the plain base|, float32, from each "
        "prompt's last position through the stack's greedy answer",
        "domains": {},
    }
    for name in names:
        record = manifest.domain(name)
        prompts = [*PROBES, *(e.prompt for e in served.kept_examples(name, "test")[:4])]
        ids = [render_prompt((Message(role="user", content=p),), served.tokenizer)[-256:] for p in prompts]
        with served.serving(name):
            answers = generate(
                served.base.model,
                ids,
                stop_ids=end_of_turn_ids(served.tokenizer),
                pad_id=served.pad_id,
                max_new_tokens=ANSWER_TOKENS,
            )
            starts = [len(i) - 1 for i in ids]
            ids = [i + a for i, a in zip(ids, answers, strict=True)]
            wanted = [_logits(served, i) for i in ids]
        folded = served.folded(name)
        rank = rank_of(folded)
        folder = target / name
        files.make_folder(folder)
        files.write_tensors(folder / WEIGHTS, to_file(folded), {"format": "pt"})
        peft = peft_config(
            rank=rank, alpha=float(rank), targets=served.adapters.targets, base_name=_base_name(manifest.base.name)
        )
        files.write_json(folder / "adapter_config.json", peft)
        served.adapters.load(_PROBE, AdapterConfig(rank=rank, alpha=float(rank)), folded)
        try:
            with served.adapters.using(_PROBE), served.without_backbone():
                got = [_logits(served, i) for i in ids]
            with served.untouched():
                plain = [_logits(served, i) for i in ids]
        finally:
            served.adapters.remove(_PROBE)
        apart = [(g - w).abs().amax(dim=-1)[0] for g, w in zip(got, wanted, strict=True)]  # a position
        difference = max(d[start:].max().item() for d, start in zip(apart, starts, strict=True))
        report["domains"][name] = {
            "rank": rank,
            "snapshot": record.snapshot_pinned,
            "standalone": record.standalone,
            "max_logit_difference": difference,
            "max_logit_difference_of_all_positions": max(d.max().item() for d in apart),
            "max_change_of_the_base": max((w - p).abs().max().item() for w, p in zip(wanted, plain, strict=True)),
            "prompts": len(ids),
            "same_greedy_token": all(torch.equal(g.argmax(-1), w.argmax(-1)) for g, w in zip(got, wanted, strict=True)),
            "bytes": sum(f.stat().st_size for f in folder.iterdir()),
        }
    files.write_json(target / "parity.json", report)
    wrong = {
        n: d["max_logit_difference"] for n, d in report["domains"].items() if d["max_logit_difference"] > TOLERANCE
    }
    if wrong:
        raise CrmaError(
            "an exported LoRA does not answer like the stack",
            where=str(target / "parity.json"),
            expected=f"logits within {TOLERANCE}",
            got=wrong,
            next_step="do not serve it; please report this with parity.json",
        )
    return report


@torch.no_grad()
def _logits(served: ServedStack, ids: list[int]) -> Tensor:
    device = next(served.model.parameters()).device
    return served.model(input_ids=torch.tensor([ids], device=device), use_cache=False).logits.float().cpu()


def _base_name(name: str) -> str:
    """What an engine can resolve: an alias becomes its hub id; a local folder stays what it is called."""
    from crma.model.base import ALIASES

    return ALIASES[name].hub if name in ALIASES else name
