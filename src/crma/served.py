"""A stack with its base in memory: which adapter and which snapshot are in the model at this moment."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self, cast

import numpy as np
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedTokenizerBase

from crma.data.domains import documents_of
from crma.data.openings import openings
from crma.data.render import Rendered, ensure_chat_template, render_all
from crma.errors import BaseMismatchError
from crma.forgetting import read_router
from crma.model.adapters import AdapterConfig, Adapters, Weights, from_file, rank_of
from crma.model.backbone import BackboneConfig, State, attach_backbone, interpolate
from crma.model.base import Base, Precision, load_base
from crma.model.fold import Factors, absorb, factors, fold, folded_rank, weighted_sum
from crma.route.background import BACKGROUND_PROMPTS
from crma.route.centroid import Router
from crma.route.retyping import retyped_of
from crma.route.seen import FEATURES, FeatureKind, seen_of
from crma.stack.layout import ROWS, BaseReference, Fit
from crma.stack.stack import Stack
from crma.train.config import LearnConfig
from crma.train.objectives import evaluate_rows
from crma.train.processes import forget_cut_forward, shard_base
from crma.types import Example, Message, Score, Split

__all__ = ["UNSAVED", "WEIGHTS", "ServedStack", "kept_rows"]

_FACTORS_KEPT = 8  # snapshots
_FOLDED_KEPT = 4  # domains
_BLEND = "(blend)"  # the name of several domains' LoRA in the model; no domain can be called so
WEIGHTS = "adapter_model.safetensors"  # PEFT's name
UNSAVED = "unsaved"  # what the backbone holds is no snapshot


class ServedStack:
    """What learning, answering and measuring share. Users meet it as ContinualModel."""

    def __init__(self, stack: Stack, base: Base, *, accelerator: Accelerator | None = None) -> None:
        self.stack = stack
        self.model: nn.Module = base.model
        self.tokenizer: PreTrainedTokenizerBase = base.tokenizer
        self.base = base
        ensure_chat_template(self.tokenizer)
        head = base.model.get_output_embeddings()
        assert head is not None
        self.head: nn.Module = head
        config = stack.manifest.backbone
        self.backbone = attach_backbone(base.model, BackboneConfig.stored(config)) if config is not None else None
        # Under `accelerate launch` each process would otherwise take itself for the only one, and write.
        self.accelerator = accelerator or Accelerator()
        shard_base(base.model, self.accelerator, whole=("crma_backbone",) if self.backbone else ())
        self.initial: State | None = self.backbone.state() if self.backbone else None
        self.adapters = Adapters(base.model)
        # Whose numbers the backbone holds: a snapshot, None for those it began with, or numbers of no snapshot.
        self.snapshot_in: str | None = None
        self._content_in: str | None = None  # SHA-256 of its file: an id comes back after a domain was forgotten
        # (domain, split) -> SHA-256 of the file they were read from, and its rows
        self._rows: dict[tuple[str, str], tuple[str, tuple[Rendered, ...]]] = {}
        self._placed: dict[str, str | None] = {}  # SHA-256 of the file that a domain's LoRA in the model was read from
        self._router: tuple[str, Router | None] | None = None  # SHA-256 of its file: what it prepares is worth keeping
        self._folded: dict[str, Weights] = {}  # SHA-256 of its files -> all that a domain adds
        self._factors: dict[str, Factors] = {}  # SHA-256 of a snapshot's file -> what it adds

    # --- opening -----------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        base: str = "smollm2-135m",
        backbone: BackboneConfig | None = BackboneConfig(),  # noqa: B008 - frozen
        precision: Precision = "auto",
        device: str | None = None,
        accelerator: Accelerator | None = None,
    ) -> Self:
        """A new stack at `path`. `backbone` None learns with per-domain LoRAs alone."""
        accelerator = accelerator or Accelerator()
        loaded = load_base(base, precision=precision, device=_device(device, accelerator))
        local = Path(base).expanduser()  # as resolve() takes it; a later command may be called from elsewhere
        reference = BaseReference(
            name=str(local.resolve()) if loaded.source in ("folder", "gguf") else base,
            source=loaded.source,
            weights_sha256=loaded.weights_sha256,
            architecture=loaded.architecture,
            parameters=loaded.parameters,
            precision=precision,
        )
        if accelerator.is_main_process:
            Stack.create(path, base=reference, backbone=backbone.model_dump() if backbone else None)
        accelerator.wait_for_everyone()
        return cls(Stack.open(path), loaded, accelerator=accelerator)

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        base: str | None = None,
        precision: Precision | None = None,
        device: str | None = None,
        accelerator: Accelerator | None = None,
    ) -> Self:
        """Open the stack at `path`; `base` overrides where the base is looked for, not what it must be.

        `precision` None holds the base as it was held when the stack was made.

        Raises:
            BaseMismatchError: the base's weights are not those the stack was taught on.
        """
        stack = Stack.open(path)
        accelerator = accelerator or Accelerator()
        reference = stack.manifest.base
        held = cast(Precision, precision or reference.precision)
        loaded = load_base(base or reference.name, precision=held, device=_device(device, accelerator))
        if loaded.weights_sha256 != reference.weights_sha256:
            raise BaseMismatchError(
                "this is not the base model the stack was taught on",
                where=str(stack.root),
                expected=f"{reference.name}, weights SHA-256 {reference.weights_sha256}",
                got=f"{loaded.name} from {loaded.source}, weights SHA-256 {loaded.weights_sha256}",
                next_step="give the original base with --base; adapters mean nothing on another one",
            )
        return cls(stack, loaded, accelerator=accelerator)

    # --- what is in the model ----------------------------------------------------------------------------------

    @contextmanager
    def serving(self, domain: str | None, *, snapshot: str | None = None, use_backbone: bool = True) -> Iterator[None]:
        """The model as `domain` is answered: its LoRA and the snapshot it is pinned to.

        `snapshot`: another one; the LoRA is then fitted to it, to the head as it was measured when that was made, to
        any other going as little of the way from the one it is pinned to as `follow` allows. One that stands alone is
        served without a backbone, under any but that of its own day.

        Raises:
            UnknownDomainError, StackError: there is no such domain, or snapshot.
        """
        if domain is None:
            with self.untouched():
                yield
            return
        record = self.stack.manifest.domain(domain)
        chosen = snapshot or record.snapshot_pinned
        maker = self.stack.manifest.snapshot(chosen).domain if chosen else domain
        at_head = chosen is not None and chosen == self.stack.manifest.head
        fit = record.floating if at_head and chosen != record.snapshot_pinned else None
        # One that stands alone is the same whatever the backbone is, but where its own day is asked for.
        standalone = record.standalone and fit is None and (at_head or chosen != record.snapshot_learnt)
        if not standalone:
            self.load_snapshot(chosen)
        if chosen == record.snapshot_pinned or standalone:
            self.activate(domain)
        elif chosen == record.snapshot_learnt and fit is None:
            self.place(domain, self.weights_learnt(domain))
        else:
            by = next((d for d in self.stack.manifest.domains if d.name == maker), record)  # it may be forgotten
            fit = fit or Fit(follow=min(LearnConfig(**by.config).follow), rank=self.rank(domain))
            self.place(domain, self.absorbed(domain, fit))
            standalone = fit.standalone
        if use_backbone and not standalone:
            yield
            return
        with self.without_backbone():
            yield

    @contextmanager
    def serving_blend(self, shares: Mapping[str, float], *, use_backbone: bool = True) -> Iterator[None]:
        """The model as several domains together are answered: the base and the sum of share x what each domain adds to
        it, its backbone folded in. One domain is served as always, none is the untouched base."""
        names = [name for name, share in shares.items() if share > 0]
        if len(names) <= 1:
            with self.serving(names[0] if names else None, use_backbone=use_backbone):
                yield
            return
        blended = weighted_sum([(shares[name], self.folded(name)) for name in names])
        rank = rank_of(blended)
        self.adapters.load(_BLEND, AdapterConfig(rank=rank, alpha=float(rank)), blended)
        with self.adapters.using(_BLEND), self.without_backbone():
            yield

    def folded(self, domain: str) -> Weights:
        """All that a domain adds to the base, as one LoRA of scaling 1: its own and the backbone it is pinned to."""
        record, stored = self.stack.manifest.domain(domain), self.stack.manifest.files
        under = None if record.standalone else record.snapshot_pinned
        key = stored[f"{record.adapter}/{WEIGHTS}"].sha256 + (
            stored[self._snapshot_file(under)].sha256 if under else ""
        )
        if key not in self._folded:
            with self.serving(domain):
                shared = None if record.standalone else self.backbone
                found = fold(self.model, shared, self.adapters.weights(domain), self.adapters.configs[domain].scaling)
            while len(self._folded) >= _FOLDED_KEPT:
                self._folded.pop(next(iter(self._folded)))
            self._folded[key] = found
        return self._folded[key]

    @contextmanager
    def without_backbone(self) -> Iterator[None]:
        """The model with the backbone bypassed, while the context is open."""
        if self.backbone is None:
            yield
            return
        with self.backbone.bypass():
            yield

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """The base, bit for bit."""
        with self.without_backbone(), self.adapters.using(None):
            yield

    def activate(self, domain: str) -> None:
        """Make a committed domain's LoRA the active one, reading it where it is not in the model."""
        folder = self.stack.manifest.domain(domain).adapter
        # By content: another process may have learnt, and a folder's name comes back.
        content = self.stack.manifest.files[f"{folder}/{WEIGHTS}"].sha256
        if self._placed.get(domain) != content or domain not in self.adapters.configs:
            self.place(domain, self._stored(folder), content)
        self.adapters.activate(domain)

    def place(self, domain: str, weights: Weights, content: str | None = None) -> None:
        """Make `weights` the active LoRA of a committed domain, in the model only; `content`: SHA-256 of their file."""
        config = LearnConfig(**self.stack.manifest.domain(domain).config).adapter
        self.adapters.load(domain, config.of_rank(rank_of(weights)), weights)
        self._placed[domain] = content
        self.adapters.activate(domain)

    def rank(self, domain: str, *, standalone: bool = False) -> int:
        """Of a committed domain's LoRA beside a backbone, which it was learnt with; or of one that stands alone and can
        hold all that it is served with."""
        record = self.stack.manifest.domain(domain)
        learnt = LearnConfig(**record.config).rank
        if not standalone:
            return learnt
        served = record.rank or learnt
        return served if record.standalone else folded_rank(self.backbone, served)

    def weights_learnt(self, domain: str) -> Weights:
        """A committed domain's LoRA as it was learnt, under `snapshot_learnt`."""
        record = self.stack.manifest.domain(domain)
        return self._stored(record.adapter_learnt or record.adapter)

    def absorbed(self, domain: str, fit: Fit, now: Factors | None = None) -> Weights:
        """A committed domain's LoRA fitted to the backbone as it stands `now` (`crma.model.fold`), `fit.follow` of the
        way from what it is served with to its LoRA as it was learnt under that backbone.

        From what it is served with: where an earlier move helped it, that help is kept.
        """
        record = self.stack.manifest.domain(domain)
        learnt = self.weights_learnt(domain)
        if self.backbone is None or fit.follow == 1.0:
            return learnt
        served = self._stored(record.adapter) if record.adapter_learnt else learnt
        return absorb(
            served,
            LearnConfig(**record.config).adapter.scaling,
            {} if record.standalone else self.factors_of(record.snapshot_pinned),
            now or self.factors_now(),
            follow=fit.follow,
            learnt=learnt if record.adapter_learnt else None,
            rank=fit.rank,
            standalone=fit.standalone,
        )

    def factors_now(self) -> Factors:
        assert self.backbone is not None
        return factors(self.model, self.backbone)

    def factors_of(self, snapshot: str | None) -> Factors:
        """What a snapshot adds to every site (None: the backbone as it began); the backbone is left as it is."""
        # By content: an id may come back after a domain was forgotten. Only a few are kept: each is as large as a
        # snapshot, and most domains are pinned to one of the last.
        key = "" if snapshot is None else self.stack.manifest.files[self._snapshot_file(snapshot)].sha256
        if key not in self._factors:
            assert self.backbone is not None
            state = self.snapshot_state(snapshot) if snapshot else self.initial
            assert state is not None
            before, name = self.backbone.state(), self.snapshot_in
            self.backbone.load(state)
            while len(self._factors) >= _FACTORS_KEPT:
                self._factors.pop(next(iter(self._factors)))
            self._factors[key] = self.factors_now()
            self.backbone.load(before)
            self.snapshot_in = name
        return self._factors[key]

    def _stored(self, folder: str) -> Weights:
        return from_file(self.stack.read_tensors(f"{folder}/{WEIGHTS}"))

    def load_snapshot(self, snapshot: str | None) -> State | None:
        """Put a snapshot's numbers into the backbone (None: those it began with)."""
        if self.backbone is None:
            return None
        state = self.snapshot_state(snapshot) if snapshot else self.initial
        assert state is not None
        content = self.stack.manifest.files[self._snapshot_file(snapshot)].sha256 if snapshot else None
        if (self.snapshot_in, self._content_in) != (snapshot, content):
            self.backbone.load(state)
            self.snapshot_in, self._content_in = snapshot, content
        return state

    def snapshot_state(self, snapshot: str) -> State:
        return self.stack.read_tensors(self._snapshot_file(snapshot))

    def _snapshot_file(self, snapshot: str) -> str:
        return f"{self.stack.manifest.snapshot(snapshot).folder}/backbone.safetensors"

    def settle(self, old: State, proposed: State, share: float) -> State:
        """Load the state `share` of the way from `old` to `proposed`, and return it as it then is.

        The ends are loaded as they are, bit for bit; between them the frames are put back on their manifold.
        """
        assert self.backbone is not None
        self.backbone.load(interpolate(old, proposed, share))
        if 0.0 < share < 1.0:
            self.backbone.retract_()
        self.snapshot_in = UNSAVED
        return self.backbone.state()

    def score_rows(self, rows: Sequence[Rendered], *, shared: bool = False) -> Score:
        """The loss under what is in the model now. `shared`: the processes share the work, and all of them must call
        (under FSDP 2 all of them must call anyway)."""
        accelerator = self.accelerator if shared else None
        return evaluate_rows(self.model, self.head, rows, pad_id=self.pad_id, accelerator=accelerator)

    def kept_examples(self, domain: str, split: str) -> list[Example]:
        return kept_rows(self.stack, domain, split)

    def kept(self, domain: str, split: str) -> tuple[Rendered, ...]:
        """A domain's kept rows; none where it keeps none."""
        record = self.stack.manifest.domain(domain)
        if record.rows_kept is None:
            return ()
        # By content, as LoRAs are: another process may have forgotten the domain and learnt its name anew.
        content = self.stack.manifest.files[f"{record.rows_kept}/{ROWS}"].sha256
        known = self._rows.get((domain, split))
        if known is None or known[0] != content:
            examples = self.kept_examples(domain, split)
            length = LearnConfig(**record.config).max_length
            known = (content, render_all(examples, self.tokenizer, length).rows if examples else ())
            self._rows[domain, split] = known
        return known[1]

    # --- routing -----------------------------------------------------------------------------------------------

    def features(self, texts: Sequence[str], kind: FeatureKind | None = None) -> np.ndarray:
        """What a router reads of `texts`, [N, D]; of the kind that the stack's own router is made of."""
        if kind is None:
            router = self.router()
            kind = router.features if router is not None else FEATURES
        with self.untouched():
            found = seen_of(self.model, self.tokenizer, texts, kind)
        forget_cut_forward(self.model)
        return found

    def router(self) -> Router | None:
        path = self.stack.manifest.router
        if path is None:
            return None
        content = self.stack.manifest.files[f"{path}/router.safetensors"].sha256
        if self._router is None or self._router[0] != content:
            self._router = (content, read_router(self.stack))
        return self._router[1]

    def router_or_empty(self) -> Router:
        return self.router() or Router.empty(self.features(BACKGROUND_PROMPTS, FEATURES), features=FEATURES)

    def router_with(self, domain: str, split: Split) -> Router:
        """The stack's router and `domain`."""
        router = self.router_or_empty()
        prompts = openings(split.train)
        own = self.features(prompts)
        held_out = self.features(openings(split.validation, like=split.train)) if split.validation else None
        documents = documents_of(split.validation or split.train)
        retyped = retyped_of(prompts, own, self.features)
        return router.with_domain(domain, own, held_out, documents=documents, retyped=retyped)

    # --- processes ---------------------------------------------------------------------------------------------

    @property
    def pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return pad if isinstance(pad, int) else 0

    @property
    def is_main(self) -> bool:
        return self.accelerator.is_main_process

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()


def kept_rows(stack: Stack, domain: str, split: str) -> list[Example]:
    """The rows that a domain is judged by, as they stand in its stack; none where they were not kept."""
    record = stack.manifest.domain(domain)
    if record.rows_kept is None:
        return []
    return [
        Example(
            messages=tuple(Message(role=m["role"], content=m["content"]) for m in row["messages"]),
            group=row.get("group"),
        )
        for row in stack.read_lines(f"{record.rows_kept}/{ROWS}")
        if row["split"] == split
    ]


def _device(device: str | None, accelerator: Accelerator) -> str:
    return str(accelerator.device) if device is None else device
