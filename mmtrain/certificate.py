"""The packing certificate: whether a loaded model treats the samples of a packed row as if each were alone.

Models differ in how they learn of borders, and a model that does not is not wrong in any way one could see: its loss
is a number like any other. So every run begins by asking the model itself, on its own data: the same samples packed
and alone must give the same loss, the same gradients, and no change in one may move another, nor the loss of one reach
another's gradients, by a single bit. And alone, what predicts a token must not see it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers

from mmdata.collate import model_inputs
from mmdata.errors import SpecError
from mmdata.labels import IGNORE
from mmdata.types import Packed
from mmtrain import attention, masks
from mmtrain.losses import cross_entropy_sum
from mmtrain.precision import compute_dtype
from mmtrain.random_state import random_state, set_random_state

Strategy = Literal["varlen", "masks", "single"]
"""How a model is told of borders: by a varlen kernel, by dense masks of T x T values, or not at all, single samples."""
STRATEGIES: tuple[Strategy, ...] = ("varlen", "masks")
"""Those that pack, in the order in which they are tried."""

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 5e-3}
"""Largest relative difference of loss and gradients. In half precision the order of sums alone makes most of it
(8e-5 to 1.3e-3 of the loss, axolotl#3817); what tells there is that no bit of another sample moves."""
GRADIENTS = 5e-4
"""The least that gradients are allowed: those of deep pretrained models lie where rounding shows. With SmolLM2-135M and
DINOv2-small packing moves them in float32 by 1e-7 of the largest on one thread and by 8e-5 on two, in float64 by 7e-15,
and the loss by 5e-8: it is the order of sums. What tells is that no bit of another segment's gradient is there."""

WINDOW = 4
"""Tokens that a sliding window has, at most, while a model is asked: most are longer than samples, and a strategy that
loses one (some models put it into their masks alone, of which a kernel takes none) would do the same as they."""
VERSION = 6
"""Of the checks: a certificate that was made by others is not one."""
BORDERS = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx")
Collate = Callable[[Sequence[Packed]], dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What one strategy did: differences relative to the larger value, and the segments that moved though only others
    were changed, or that others' losses have gradients for. `error` says why the model could not be run so."""

    strategy: Strategy
    loss: float = float("inf")
    gradient: float = float("inf")
    leaks: int = -1
    error: str | None = None

    def holds(self, tolerance: float) -> bool:
        if self.error is not None or self.leaks:
            return False
        return self.loss <= tolerance and self.gradient <= max(tolerance, GRADIENTS)

    def __str__(self) -> str:
        if self.error is not None:
            return f"{self.strategy}: {self.error}"
        leaks = "no leak" if not self.leaks else f"{self.leaks} segments moved by others"
        return f"{self.strategy}: loss {self.loss:.1e}, gradients {self.gradient:.1e}, {leaks}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """The verdict: the first strategy that holds, or `single` where the model must not be given packed rows."""

    model: str
    strategy: Strategy
    checks: tuple[Check, ...]
    reason: str = ""
    """Why a model of such a config mixes samples up, where that is known."""
    shown: tuple[str, ...] = ()
    """The kinds of media that the samples had. Of others it says nothing: what looks both ways within a picture does
    not show in texts."""
    ahead: bool = False
    """Whether a sample alone is predicted from tokens that are yet to be predicted, so that nothing else was asked."""

    def __str__(self) -> str:
        if self.ahead:
            return (
                f"{self.model}: looks ahead, and must not be trained to predict the next token: what predicts it sees "
                "it. In config.json `is_decoder: true` or the like may keep a model to what came before"
            )
        why = f", for {self.reason}" if self.reason else ""
        verdict = f"must not be packed{why}" if self.strategy == "single" else f"packed by {self.strategy}"
        shown = f"shown {', '.join(self.shown or ('text',))}"
        return f"{self.model}: {verdict} ({'; '.join(map(str, self.checks))}; {shown})"

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @staticmethod
    def from_json(text: str) -> Certificate:
        body = json.loads(text)
        checks = tuple(Check(**check) for check in body["checks"])
        return Certificate(**{**body, "checks": checks, "shown": tuple(body["shown"])})


def chosen(samples: Iterable[Packed], kinds: Collection[str], *, count: int, most: int = 64) -> list[Packed]:
    """`count` of the first samples or a few more, among them each of `kinds` of media if the first `most` have it."""
    taken: list[Packed] = []
    missing = set(kinds)
    for sample in itertools.islice(samples, most):
        has = missing & {slot.kind for slot in sample.slots}
        if has or len(taken) < count:
            taken.append(sample)
        missing -= has
        if not missing and len(taken) >= count:
            break
    return taken


def certify(model: Any, samples: Sequence[Packed], collate: Collate) -> Certificate:
    """Try the strategies in order on `samples`, each a Packed of one segment; two at least, with media if the model
    takes any. The model is left in the strategy that holds (else as it was), its gradients and mode as they were.

    Raises SpecError for fewer than two samples, or for samples without anything to train on.
    """
    if len(samples) < 2:
        raise SpecError("the packing check needs two samples that fit into a pack together")
    if not sum(int((pack.labels != -100).sum()) for pack in samples):
        raise SpecError("the packing check needs samples with something to train on")
    before = model.config._attn_implementation
    if before == attention.NAME:  # a model that has its own attention: ours would leave out what it does besides
        adopt(model, "masks")
    was_training = model.training
    kept = {name: p.grad for name, p in model.named_parameters()}
    model.eval()  # dropout would differ between two runs of the same
    tolerance = TOLERANCE[_dtype(model)]
    alone = [collate([pack]) for pack in samples]
    together = collate(list(samples))
    checks: list[Check] = []
    shown = tuple(sorted({slot.kind for sample in samples for slot in sample.slots}))
    try:
        with _narrowed(model):
            singles = [_alone(batch, model) for batch in alone]
            if any(_looks_ahead(model, inputs, labels) for inputs, labels, _ in singles):
                return Certificate(model=type(model).__name__, strategy="single", checks=(), shown=shown, ahead=True)
            expected = _run(model, singles)
            for strategy in STRATEGIES:
                checks.append(_check(model, strategy, together, expected))
                if checks[-1].holds(tolerance):
                    break
                model.set_attn_implementation(before)
    finally:
        for name, parameter in model.named_parameters():
            parameter.grad = kept[name]
        model.train(was_training)
    found: Strategy = checks[-1].strategy if checks[-1].holds(tolerance) else "single"
    reason = known_reason(model.config) if found == "single" else ""
    return Certificate(model=type(model).__name__, strategy=found, checks=tuple(checks), reason=reason, shown=shown)


@contextmanager
def _narrowed(model: Any) -> Iterator[None]:
    """Give a model with a sliding window one of `WINDOW` tokens: in its config, of which masks are made, and in its
    attentions, which tell kernels."""
    text = model.config.get_text_config()
    before = getattr(text, "sliding_window", None)
    if not isinstance(before, int) or before <= WINDOW:
        yield
        return
    holders = [text, *(module for module in model.modules() if getattr(module, "sliding_window", None) == before)]
    try:
        for holder in holders:
            holder.sliding_window = WINDOW
        yield
    finally:
        for holder in holders:
            holder.sliding_window = before


RECURRENT = ("conv", "linear_attention", "mamba", "recurrent", "hybrid")
"""Kinds of layers whose state runs on from token to token."""
KNOWN = {
    "bloom": "its ALiBi positions are counted over the whole row",
    "mamba": "its state runs over borders",
    "mamba2": "its state runs over borders",
    "rwkv": "its state runs over borders",
}
"""Reasons by `model_type`."""


def known_reason(config: Any) -> str:
    """Why a model of this config mixes packed samples up on this machine; "" where that is not known."""
    text = config.get_text_config()
    kinds = sorted({kind for kind in getattr(text, "layer_types", None) or () if kind.startswith(RECURRENT)})
    if kinds:
        return f"its layers of {', '.join(kinds)} run over borders without the CUDA kernels that take `seq_idx`"
    return KNOWN.get(str(text.model_type), "")


def adopt(model: Any, strategy: Strategy) -> None:
    """Set the model up for `prepared` batches of a strategy."""
    if strategy == "varlen" or attention.needed(model):
        attention.register()
        model.set_attn_implementation(attention.NAME)
    elif model.config._attn_implementation == attention.NAME:
        model.set_attn_implementation("sdpa")


def cached(model: Any, folder: Path, kinds: Collection[str] = ()) -> tuple[Path, Certificate | None]:
    """Where the certificate of such a model belongs in `folder`, and the one that is there, if its samples had all
    these `kinds` of media; one that refuses a model for looking ahead is no answer, for other samples may have other
    masks. Such a model: of the same class, config, dtype, kind of device and versions of torch and transformers."""
    first = next(model.parameters())
    config = {name: value for name, value in model.config.to_dict().items() if name != "_name_or_path"}
    what = [
        VERSION,
        type(model).__name__,
        config,
        str(first.dtype),
        str(_dtype(model)),
        first.device.type,
        [name for name, _ in model.named_parameters()],  # adapters are not in the config
        torch.__version__,
        transformers.__version__,
    ]
    digest = hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:16]
    path = folder / f"{type(model).__name__}-{digest}.json"
    try:
        found = Certificate.from_json(path.read_text())
        return path, found if set(kinds) <= set(found.shown) and not found.ahead else None
    except (OSError, ValueError, TypeError, KeyError):
        return path, None


def prepared(batch: dict[str, Any], strategy: Strategy, config: Any, dtype: torch.dtype) -> dict[str, Any]:
    """The inputs of `forward` for a batch: as they are, with dense masks in place of borders, or without any. Raises
    ValueError for a row of several samples where only single ones may be, and for a packed batch of several rows or
    with a mask of its own, which would leak."""
    inputs = model_inputs(batch)
    if "cu_seq_lens_q" in inputs and len(inputs["input_ids"]) != 1:
        raise ValueError(f"{len(inputs['input_ids'])} packed rows in a batch: one is all that models keep apart")
    if "cu_seq_lens_q" in inputs and "attention_mask" in inputs:
        raise ValueError("attention_mask beside cu_seq_lens_q: it would switch the isolation of segments off")
    if "cu_seq_lens_q" not in inputs:  # padded rows, which a mask of two axes keeps from their padding
        return inputs
    if strategy == "varlen":
        return inputs
    borders = inputs["cu_seq_lens_q"]
    for name in BORDERS:
        inputs.pop(name, None)
    if strategy == "single":
        if len(borders) > 2:
            raise ValueError(f"a row of {len(borders) - 1} segments, for a model that must not be packed")
        return inputs
    text = config.get_text_config()
    # Gemma 3: the tokens of one image see each other both ways; PaliGemma: all that is not the answer does. A model
    # that is given its masks makes none of these.
    kind, types = str(config.model_type), inputs.get("token_type_ids")

    def mask(window: int | None) -> torch.Tensor:
        if types is not None and kind.startswith("gemma3"):
            return masks.image_blocks(borders, types[0], sliding_window=window)
        if types is not None and kind == "paligemma":
            return masks.both_ways(borders, types[0] == 0, sliding_window=window)
        return masks.causal(borders, sliding_window=window)

    window = getattr(text, "sliding_window", None)
    kinds = set(getattr(text, "layer_types", None) or ())
    if strange := kinds - {"full_attention", "sliding_attention"}:
        raise ValueError(f"no mask tells layers of {', '.join(sorted(strange))} of borders")
    if kinds > {"full_attention"} or kinds == {"sliding_attention"}:
        both: dict[masks.Kind, torch.Tensor] = {"full_attention": mask(None), "sliding_attention": mask(window)}
        inputs["attention_mask"] = masks.explicit(both, dtype)
    else:
        inputs["attention_mask"] = masks.explicit(mask(window), dtype)
    return inputs


@dataclass(frozen=True, slots=True)
class _Outcome:
    loss: float
    gradients: dict[str, torch.Tensor]


def _run(model: Any, batches: list[tuple[dict[str, Any], torch.Tensor, torch.Tensor]]) -> _Outcome:
    """Token-mean loss over all batches, and its gradients."""
    model.zero_grad(set_to_none=True)
    total = sum(int((labels[1:] != -100).sum()) for _, labels, _ in batches)
    loss = 0.0
    for inputs, labels, weights in batches:
        hidden = model.base_model(**inputs).last_hidden_state[0]
        part = cross_entropy_sum(hidden, model.get_output_embeddings(), labels, weights) / total
        part.backward()
        loss += float(part.detach())
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return _Outcome(loss, gradients)


def _alone(batch: dict[str, Any], model: Any) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor]:
    """A batch of one sample as any trainer would give it: no borders, nothing of ours. A model that needs our attention
    makes no masks of its own under it, and is given them."""
    inputs = {name: value for name, value in model_inputs(batch).items() if name not in BORDERS}
    if attention.needed(model):
        try:
            inputs = prepared(batch, "masks", model.config, _dtype(model))
        except ValueError as error:
            raise SpecError(f"adapters: kind prefix does not fit {type(model).__name__}: {error}") from error
    labels = inputs.pop("labels")[0]
    return inputs, labels, torch.ones_like(labels, dtype=torch.float32)


def _dtype(model: Any) -> torch.dtype:
    """The type that the model computes in here and now."""
    first = next(model.parameters())
    return compute_dtype(first.device, first.dtype)


def _check(model: Any, strategy: Strategy, batch: dict[str, Any], expected: _Outcome) -> Check:
    dtype = _dtype(model)
    try:
        adopt(model, strategy)
        inputs = prepared(batch, strategy, model.config, dtype)
        labels = inputs.pop("labels")[0]
        found = _run(model, [(inputs, labels, torch.ones_like(labels, dtype=torch.float32))])
        if found.gradients.keys() != expected.gradients.keys():
            return Check(strategy=strategy, error="other parameters take part than for single samples")
        return Check(
            strategy=strategy,
            loss=abs(found.loss - expected.loss) / max(abs(expected.loss), 1e-30),
            gradient=_gradient_error(found.gradients, expected.gradients),
            leaks=len(
                _leaks(model, inputs, batch["cu_seq_lens_q"])
                | _gradient_leaks(model, inputs, labels, batch["cu_seq_lens_q"])
            ),
            error=_untrainable(model, inputs),
        )
    except (ValueError, RuntimeError, NotImplementedError, TypeError, KeyError) as error:
        return Check(strategy=strategy, error=f"{type(error).__name__}: {str(error).splitlines()[0][:200]}")


@torch.no_grad()
def _untrainable(model: Any, inputs: dict[str, Any]) -> str | None:
    """Why a model that runs like this in evaluation does not in training, or None: varlen kernels have no dropout.
    Batch statistics and random states are left as they were."""
    chance, modes = random_state(), {module: module.training for module in model.modules()}
    try:
        for module in modes:
            module.training = not isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
        model.base_model(**inputs)
    except ValueError as error:
        return str(error).splitlines()[0][:200]
    finally:
        for module, mode in modes.items():
            module.training = mode
        set_random_state(chance)
    return None


def _gradient_error(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Largest difference, relative to the largest gradient of all."""
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    return max(float((found[name] - expected[name]).abs().max()) for name in expected) / max(largest, 1e-30)


def _segments(cu_seqlens: torch.Tensor) -> list[slice]:
    return [slice(*pair) for pair in itertools.pairwise(cu_seqlens.tolist())]


@torch.no_grad()
def _leaks(model: Any, inputs: dict[str, Any], cu_seqlens: torch.Tensor) -> set[int]:
    """Segments, by their start, whose hidden states change by a bit when the last word of another is another one."""
    vocabulary = model.get_input_embeddings().num_embeddings
    special = {value for name, value in vars(model.config).items() if name.endswith("token_id")}
    special |= {value for name, value in vars(model.config).items() if name.endswith("token_index")}
    ids = inputs["input_ids"][0].tolist()
    before = model.base_model(**inputs).last_hidden_state[0]
    segments = _segments(cu_seqlens)
    moved = set()
    for mine in segments:
        words = [at for at in range(mine.start, mine.stop) if ids[at] not in special]
        if not words:
            continue
        changed = inputs["input_ids"].clone()
        others = (ids[words[-1]] + step for step in range(1, vocabulary))
        changed[0, words[-1]] = next(token % vocabulary for token in others if token % vocabulary not in special)
        after = model.base_model(**{**inputs, "input_ids": changed}).last_hidden_state[0]
        moved |= {other.start for other in segments if other != mine and not torch.equal(after[other], before[other])}
    return moved


def _traced(model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Hidden states [T, C], and the embeddings of words (T values of C, of one axis or several) that they were made
    from, with gradients."""
    embedded: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, given: Any, made: torch.Tensor) -> torch.Tensor:
        embedded.append(made.detach().requires_grad_())
        return embedded[-1].clone()  # which some models write features into

    handle = model.get_input_embeddings().register_forward_hook(keep)
    try:
        hidden = model.base_model(**inputs).last_hidden_state[0]
    finally:
        handle.remove()
    return hidden, [values for values in embedded if values.shape[:-1].numel() == len(hidden)]


def _looks_ahead(model: Any, inputs: dict[str, Any], labels: torch.Tensor) -> bool:
    """Whether the predictions up to the last target of a sample have any gradient of that target's embedding, so that
    another token there changes what it is predicted from. A change itself would also show where experts are given
    other numbers of tokens, and round otherwise."""
    targets = (labels != IGNORE).nonzero().flatten().tolist()
    if not targets or targets[-1] == 0:
        return False
    hidden, rows = _traced(model, inputs)
    if not rows:
        return False
    loss = cross_entropy_sum(
        hidden, model.get_output_embeddings(), labels, torch.ones_like(labels, dtype=torch.float32)
    )
    found = torch.autograd.grad(loss, rows, allow_unused=True)
    return any(each is not None and bool(each.flatten(0, -2)[targets[-1]].count_nonzero()) for each in found)


def _gradient_leaks(model: Any, inputs: dict[str, Any], labels: torch.Tensor, cu_seqlens: torch.Tensor) -> set[int]:
    """Segments, by their start, whose words' embeddings have any gradient of the loss of another: a backward kernel may
    lose the borders that its forward keeps."""
    hidden, rows = _traced(model, inputs)
    segments = _segments(cu_seqlens)
    reached = set()
    for mine in segments:
        own = torch.full_like(labels, IGNORE)
        own[mine] = labels[mine]
        loss = cross_entropy_sum(hidden, model.get_output_embeddings(), own, torch.ones_like(own, dtype=torch.float32))
        for found in torch.autograd.grad(loss, rows, retain_graph=True, allow_unused=True):
            others = [] if found is None else [other for other in segments if other != mine]
            reached |= {other.start for other in others if bool(found.flatten(0, -2)[other].count_nonzero())}
    return reached
