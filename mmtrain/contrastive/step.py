"""One optimiser step over a global batch of pairs: vectors, their loss, and its gradient back through the towers.

Where a rank's share is one forward pass, that is all. Where it is several, vectors are made first, without what a
gradient needs; the loss and its gradient for vectors follow; then each pass is made again, and its vectors' gradient
goes back. Memory is that of one pass, and the gradient that of the whole batch (GradCache: Gao et al. 2021, arXiv
2101.06983).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mmdata import rng
from mmdata.stream.loader import Batch
from mmdata.types import World
from mmtrain import optim
from mmtrain.contrastive import negatives, objective
from mmtrain.contrastive.exchange import counts, gathered
from mmtrain.contrastive.labels import same
from mmtrain.contrastive.losses import patch_word
from mmtrain.contrastive.momentum import PART as MOMENTUM
from mmtrain.contrastive.momentum import Momentum
from mmtrain.contrastive.objective import Known, LossSpec, Whole
from mmtrain.contrastive.pairs import Pairs, masked, read
from mmtrain.contrastive.spec import ContrastiveSpec
from mmtrain.contrastive.spread import Spread, measured
from mmtrain.contrastive.towers import DualEncoder, Vectors
from mmtrain.distributed import add_gradients, sums
from mmtrain.job import Job
from mmtrain.precision import LossScale, autocast
from mmtrain.step import Step, finish

SPREAD = "spread"
"""Its name among a job's parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a backward pass found, all ranks together."""

    loss: float
    """Of whole pictures and texts."""
    terms: dict[str, float]
    """`region` and `words`, where they are compared."""
    pairs: int


def train_step(job: Job, batches: list[Batch]) -> Step:
    """Take step `job.step` with this rank's batches of it; the caller counts it. A step with fewer than two pairs moves
    nothing. Raises RunError as `mmtrain.step.train_step` does, and for a run that has collapsed and is to stop then."""
    spec: Any = job.spec
    model: DualEncoder = job.model
    image_id = int(job.tokenizer.convert_tokens_to_ids("<image>"))  # type: ignore[arg-type]
    progress = job.step / spec.steps
    share = 0.0 if progress >= spec.masking.until else spec.masking.share
    pairs = [masked(read(batch, image_id), share, seed=spec.seed, step=job.step) for batch in batches]
    job.monitor.start()
    each = counts(sum(map(len, pairs)), job.world)
    if sum(each) < 2:
        job.gate.empty += 1
        return Step(loss=0.0, grad_norm=0.0, weight=0.0, moved=False)
    momentum = job.parts.get(MOMENTUM)
    assert momentum is None or isinstance(momentum, Momentum)
    scale = job.parts.get("loss_scale")
    factor = scale.scale if isinstance(scale, LossScale) else 1.0
    job.optim.zero_grad(set_to_none=True)
    known = known_of(spec, pairs, momentum, model.scale.device)
    found, vectors = backward(
        spec,
        model,
        pairs,
        known,
        each,
        job.world,
        queue=None if momentum is None else momentum.queue,
        progress=progress,
        scale=factor,
    )
    job.monitor.lap("compute")
    add_gradients(model.parameters(), job.world)
    if factor != 1:
        optim.scale_gradients(model.parameters(), 1 / factor)
    job.monitor.lap("sync")
    values = {"scale": float(model.scale.detach().exp())}
    if spec.loss.kind == "sigmoid":
        values["bias"] = float(model.bias.detach())
    if momentum is not None:
        values["queued"] = float(momentum.filled)
    if spec.loss.negatives is not None:
        weights = negatives.level_weights(spec.loss.negatives, progress)
        values |= {f"negatives/weight_{level}": weight for level, weight in enumerate(weights)}
    spread = job.parts[SPREAD]
    assert isinstance(spread, Spread)
    if job.step % spread.spec.every == 0:
        seen, shares = measure(spread.spec.samples, pairs, vectors, known, each, job.world, spec.loss)
        values |= {f"{SPREAD}/{name}": value for name, value in seen.items()}
        values |= {f"negatives/share_{level}": share for level, share in enumerate(shares)}
        if (told := spread.judge(seen)) is not None and job.world.rank == 0:
            print(f"step {job.step:5d}  {told}", flush=True)
    norms = optim.gradient_norms(job.optim)
    whole = found.loss + sum(weight * found.terms[name] for name, weight in weights_of(spec).items())
    step = Step(
        loss=found.loss,
        grad_norm=optim.total(norms),
        weight=float(found.pairs),
        norms=norms,
        terms=found.terms,
        values=values,
    )
    step = finish(job, batches, step, whole)
    if step.moved:
        with torch.no_grad():
            model.scale.clamp_(0.0, spec.loss.most)
        if momentum is not None:
            momentum.follow(model)
            momentum.push(ordered(known, pairs, each, job.world))
    return step


def backward(
    spec: ContrastiveSpec,
    model: DualEncoder,
    pairs: Sequence[Pairs],
    known: Known,
    each: Sequence[int],
    world: World,
    *,
    queue: Known | None = None,
    progress: float = 0.0,
    scale: float = 1.0,
) -> tuple[Found, Vectors]:
    """Leave in the parameters this rank's part of the gradient of the global batch's loss, times `scale`, and answer
    the loss and this rank's vectors. `pairs` are those of each forward pass; `each` says how many each rank has."""
    total = sum(each)
    cached = spec.grad_cache == "always" or (spec.grad_cache == "auto" and len(pairs) > 1)
    with torch.set_grad_enabled(not cached):
        made = [_encode(spec, model, part, progress) for part in pairs]
    vectors = _joined(made)
    held = _leaves(vectors) if cached else vectors
    mine = Whole(pictures=held.pictures, texts=held.texts, scale=model.scale, bias=model.bias, regions=held.regions)
    parts = objective.losses(spec.loss, mine, known, each=each, world=world, queue=queue, progress=progress)
    weights = weights_of(spec)
    loss = parts["main"]
    if "region" in parts:
        loss = loss + weights["region"] * parts["region"]
    words = [0.0]
    if not cached:
        if spec.loss.words is not None:
            local = sum((_words(spec, model, each_) for each_ in made), model.scale.new_zeros(())) / total
            words.append(float(local.detach()))
            loss = loss + weights["words"] * local
        (loss * scale).backward()
    else:
        (loss * scale).backward()
        first = 0
        for part in pairs:
            again = _encode(spec, model, part, progress)
            roots, gradients = [], []
            for name in ("pictures", "texts", "regions"):
                rows, leaf = getattr(again, name), getattr(held, name)
                if rows is not None and len(rows) and rows.requires_grad:  # not those of a tower that is held
                    roots.append(rows)
                    gradients.append(leaf.grad[first : first + len(rows)])
            if spec.loss.words is not None and len(part):
                local = _words(spec, model, again) / total
                words.append(float(local.detach()))
                roots.append(local)
                gradients.append(torch.full_like(local, weights["words"] * scale))
            if roots:
                torch.autograd.backward(roots, gradients)
            first += len(part)
    names = [name for name in weights if name != "words"]
    summed = sums([float(parts["main"].detach()), sum(words), *(float(parts[name].detach()) for name in names)], world)
    terms = dict(zip(names, summed[2:], strict=True)) | ({"words": summed[1]} if spec.loss.words is not None else {})
    return Found(loss=summed[0], terms=terms, pairs=total), vectors


def weights_of(spec: ContrastiveSpec) -> dict[str, float]:
    """What the losses beside the main one weigh, by name."""
    told = {"region": spec.loss.regions, "words": spec.loss.words}
    return {name: each.weight for name, each in told.items() if each is not None}


@torch.no_grad()
def known_of(spec: ContrastiveSpec, pairs: Sequence[Pairs], momentum: Momentum | None, device: torch.device) -> Known:
    """What is known of this rank's pairs besides their vectors."""
    digests = torch.cat([part.digests for part in pairs]).to(device)
    by_words = spec.loss.negatives is not None and spec.loss.negatives.likeness == "words"
    bags = torch.cat([part.bags for part in pairs]).to(device) if by_words else None
    if momentum is None:
        return Known(digests=digests, bags=bags)
    with autocast(device, spec.precision):
        made = [momentum.model(part) for part in pairs]
    joined = _joined(made)
    return Known(digests=digests, bags=bags, pictures=joined.pictures, texts=joined.texts)


@torch.no_grad()
def ordered(known: Known, pairs: Sequence[Pairs], each: Sequence[int], world: World) -> Known:
    """The rows of all ranks, in an order that does not depend on which rank had them: that of their keys' checksums."""
    at = order(pairs, each, world, known.digests.device)
    return objective.changed(known, lambda rows: gathered(rows, each, world)[at])


def order(pairs: Sequence[Pairs], each: Sequence[int], world: World, device: torch.device) -> torch.Tensor:
    """Of the rows of all ranks, int64: by the checksum of their keys."""
    keys = [zlib.crc32(key.encode()) for part in pairs for key in part.keys]
    return gathered(torch.tensor(keys, dtype=torch.int64, device=device), each, world).sort(stable=True).indices


@torch.no_grad()
def measure(
    samples: int,
    pairs: Sequence[Pairs],
    vectors: Vectors,
    known: Known,
    each: Sequence[int],
    world: World,
    spec: LossSpec,
) -> tuple[dict[str, float], list[float]]:
    """Of so many pairs of the global batch: `spread.measured`, and which share of the candidates that belong to others
    is on each level, where they are weighed by levels. A call of all ranks."""
    at = order(pairs, each, world, vectors.pictures.device)[:samples]
    pictures = gathered(vectors.pictures.detach(), each, world)[at]
    texts = gathered(vectors.texts.detach(), each, world)[at]
    told = objective.changed(known, lambda rows: gathered(rows, each, world)[at])
    together = same(told.digests, told.digests, 0, spec.labels)
    shares: list[float] = []
    if spec.negatives is not None and not together.all():
        near = objective.near(spec.negatives, texts, told, texts, told)
        found = negatives.levels(spec.negatives, near)[~together]
        shares = (torch.bincount(found, minlength=len(spec.negatives.begin)) / len(found)).tolist()
    return measured(pictures, texts, together), shares


def _encode(spec: ContrastiveSpec, model: DualEncoder, pairs: Pairs, progress: float) -> Vectors:
    """The vectors of a pass; whatever is drawn in it is drawn again when it is made again."""
    torch.manual_seed(int(rng.generator("contrastive", spec.seed, str(progress), *pairs.keys).integers(2**63)))
    cells = 0 if spec.loss.regions is None else spec.loss.regions.cells
    with autocast(model.scale.device, spec.precision):
        made: Vectors = model(pairs, cells=cells, words=spec.loss.words is not None)
    return made


def _words(spec: ContrastiveSpec, model: DualEncoder, vectors: Vectors) -> torch.Tensor:
    """The sum of each pair's loss of its words."""
    zero = model.scale.new_zeros(())
    scale = model.scale.exp()
    return sum((patch_word(*told, scale) for told in zip(vectors.patches, vectors.words, strict=True)), zero)


def _joined(made: Sequence[Vectors]) -> Vectors:
    regions = [each.regions for each in made]
    return Vectors(
        pictures=torch.cat([each.pictures for each in made]),
        texts=torch.cat([each.texts for each in made]),
        regions=torch.cat([rows for rows in regions if rows is not None]) if regions[0] is not None else None,
    )


def _leaves(vectors: Vectors) -> Vectors:
    regions = vectors.regions
    return Vectors(
        pictures=vectors.pictures.detach().requires_grad_(),
        texts=vectors.texts.detach().requires_grad_(),
        regions=None if regions is None else regions.detach().requires_grad_(),
    )
