"""Train a tokeniser: steps that depend on seed and number alone, exact checkpoints, and what it is worth."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from mmdata import rng
from mmdata.errors import SpecError
from mmdata.shards.dataset import Dataset, open_dataset
from mmdata.shards.storage import fsync_folder, write_atomic
from mmtrain.models import tokens
from mmtrain.models.tokens.codebook import usage
from mmtrain.models.tokens.convolutions import Discriminator
from mmtrain.models.tokens.terms import Perceptual, deceiving, judged
from mmtrain.picture_tokens.spec import TokenizeSpec, pictures
from mmtrain.precision import device_of

CHECKPOINT = "checkpoint"
CONSOLE_LINES = 10
MEASURED = 256
"""Pictures that the end is measured on, at most."""


@dataclass(slots=True, kw_only=True)
class Training:
    """What a run holds in its hands."""

    spec: TokenizeSpec
    dataset: Dataset
    device: torch.device
    tokeniser: tokens.Vq | tokens.Kl
    optim: torch.optim.Optimizer
    perceptual: Perceptual | None
    judge: Discriminator | None
    judge_optim: torch.optim.Optimizer | None
    step: int = 0

    @property
    def parts(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        found: dict[str, Any] = {"tokeniser": self.tokeniser, "optim": self.optim}
        return found if self.judge is None else {**found, "judge": self.judge, "judge_optim": self.judge_optim}


def train(spec: TokenizeSpec, *, resume: bool = True) -> dict[str, float]:
    """Train to the last step, from the checkpoint in the output folder if there is one; write the tokeniser there, and
    answer what it is worth on held-out pictures: `psnr` in dB, and of codes `used` and `perplexity`. Raises SpecError
    for a folder of another spec."""
    folder, job = Path(spec.output), begin(spec)
    bound = spec.model_dump(mode="json", exclude={"every", "device", "heldout", "output"})
    bound["digest"] = job.dataset.manifest.root_digest
    put_back(folder / CHECKPOINT)
    if (folder / CHECKPOINT).is_dir() and resume:
        load(folder / CHECKPOINT, job, bound)
        print(f"resume from step {job.step} of {spec.steps}")
    folder.mkdir(parents=True, exist_ok=True)
    mode = "a" if job.step else "w"
    kept = _lines(folder / "metrics.jsonl")[: job.step]  # what a kill has cut off lies behind
    write_atomic(folder / "metrics.jsonl", "".join(kept).encode())
    with (folder / "metrics.jsonl").open("a" if mode == "a" else "w") as log:
        while job.step < spec.steps:
            values = advance(job)
            log.write(json.dumps({"step": job.step, **values}) + "\n")
            if job.step % max(1, spec.steps // CONSOLE_LINES) == 0:
                print(f"step {job.step:5}  " + "  ".join(f"{name} {value:.4f}" for name, value in values.items()))
            job.step += 1
            if job.step % spec.every == 0 or job.step == spec.steps:
                log.flush()
                save(folder / CHECKPOINT, job, bound)
    if isinstance(job.tokeniser, tokens.Kl):
        measure_scale(job)
    found = measure(job, open_dataset(spec.heldout) if spec.heldout is not None else job.dataset)
    tokens.save(folder, job.tokeniser)
    write_atomic(folder / "worth.json", json.dumps(found, indent=1).encode())
    return found


def begin(spec: TokenizeSpec) -> Training:
    """A run before its first step; weights by the seed."""
    device = device_of(spec.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        tokeniser = tokens.make(spec.tokeniser)
        judge = None if spec.adversarial is None else Discriminator()
        perceptual = None if spec.perceptual is None else Perceptual(spec.perceptual)
    tokeniser = tokeniser.to(device)
    judge = judge if judge is None else judge.to(device)
    betas = (0.9, 0.99)
    optim = torch.optim.Adam(tokeniser.parameters(), lr=spec.lr, betas=betas)
    judging = None
    if judge is not None and spec.adversarial is not None:
        judging = torch.optim.Adam(judge.parameters(), lr=spec.adversarial.lr, betas=(0.5, 0.9))
    return Training(
        spec=spec,
        dataset=open_dataset(spec.dataset),
        device=device,
        tokeniser=tokeniser,
        optim=optim,
        perceptual=perceptual if perceptual is None else perceptual.to(device),
        judge=judge,
        judge_optim=judging,
    )


def advance(job: Training) -> dict[str, float]:
    """Take one step; what it was worth."""
    spec = job.spec
    draw = rng.generator("tokenize", spec.seed, job.step)
    chosen = draw.integers(len(job.dataset), size=spec.batch)
    pixels = pictures(job.dataset, [int(at) for at in chosen], spec.tokeniser.size).to(job.device)
    noise = torch.Generator().manual_seed(int(draw.integers(2**62)))
    job.tokeniser.train()
    made, beside, ids = job.tokeniser(pixels, noise)
    distance = (1 - spec.l1) * F.mse_loss(made, pixels) + spec.l1 * F.l1_loss(made, pixels)
    loss, values = distance + beside, {"pixels": float(distance.detach())}
    if job.perceptual is not None and spec.perceptual is not None:
        seen = job.perceptual(made, pixels)
        values["perceptual"] = float(seen.detach())
        loss = loss + spec.perceptual.weight * seen
    judging = spec.adversarial is not None and job.step >= spec.adversarial.start
    if judging and job.judge is not None and spec.adversarial is not None:
        loss = loss + spec.adversarial.weight * deceiving(job.judge(made))
    for group in job.optim.param_groups:
        group["lr"] = spec.lr * (0.1 + 0.45 * (1 + math.cos(math.pi * job.step / spec.steps)))
    job.optim.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(job.tokeniser.parameters(), 1.0)
    job.optim.step()
    if judging and job.judge is not None and job.judge_optim is not None:
        verdict = judged(job.judge(pixels), job.judge(made.detach()))
        job.judge_optim.zero_grad(set_to_none=True)
        verdict.backward()
        job.judge_optim.step()
        values["judge"] = float(verdict.detach())
    if isinstance(job.tokeniser, tokens.Vq):
        values |= usage(ids, job.tokeniser.spec.codes)
    return values


def psnr(made: torch.Tensor, wanted: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pixels in [-1, 1], of their mean squared difference over all pictures.

    >>> round(psnr(torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.2)), 3)
    20.0
    """
    return 10 * math.log10(4 / max(float((made - wanted).double().square().mean()), 1e-12))


@torch.no_grad()
def measure(job: Training, dataset: Dataset) -> dict[str, float]:
    """What a tokeniser is worth on the first pictures of a dataset."""
    job.tokeniser.eval()
    made, wanted, ids = [], [], []
    for pixels in _batches(job, dataset):
        encoded = job.tokeniser.encode(pixels)
        made.append(job.tokeniser.decode(encoded).cpu())
        wanted.append(pixels.cpu())
        ids.append(encoded.cpu())
    found = {"psnr": psnr(torch.cat(made), torch.cat(wanted))}
    if isinstance(job.tokeniser, tokens.Vq):
        found |= usage(torch.cat(ids), job.tokeniser.spec.codes)
    return found


@torch.no_grad()
def measure_scale(job: Training) -> None:
    """Tell a continuous tokeniser the standard deviation of its latents."""
    assert isinstance(job.tokeniser, tokens.Kl)
    job.tokeniser.eval()
    values = [job.tokeniser.moments(pixels)[0].flatten() for pixels in _batches(job, job.dataset)]
    job.tokeniser.scale.copy_(torch.cat(values).std())


def _batches(job: Training, dataset: Dataset) -> Iterator[torch.Tensor]:
    count = min(MEASURED, len(dataset))
    for start in range(0, count, job.spec.batch):
        positions = range(start, min(start + job.spec.batch, count))
        yield pictures(dataset, positions, job.spec.tokeniser.size).to(job.device)


def save(folder: Path, job: Training, bound: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all, in place of the one before."""
    temporary, old = folder.with_name(f".{folder.name}.tmp"), _old(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, part in job.parts.items():
        tensors = part.state_dict() if isinstance(part, nn.Module) else _flat(part.state_dict())
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, temporary / f"{name}.safetensors")
    (temporary / "state.json").write_text(json.dumps({"step": job.step, "spec": bound}))
    fsync_folder(temporary)
    shutil.rmtree(old, ignore_errors=True)
    if folder.is_dir():
        folder.rename(old)
    temporary.rename(folder)
    fsync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def put_back(folder: Path) -> None:
    """Give a checkpoint its name again that was killed while another took its place."""
    if not folder.is_dir() and _old(folder).is_dir():
        _old(folder).rename(folder)


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def load(folder: Path, job: Training, bound: dict[str, Any]) -> None:
    """Go on from a checkpoint. Raises SpecError for one of another spec or dataset."""
    state = json.loads((folder / "state.json").read_text())
    if other := sorted(key for key in bound if state["spec"].get(key) != bound[key]):
        raise SpecError(
            f"{other[0]}: {folder.parent} was begun with {state['spec'].get(other[0])!r}, now it is "
            f"{bound[other[0]]!r}; give another output, or --resume never"
        )
    for name, part in job.parts.items():
        tensors = load_file(folder / f"{name}.safetensors")
        if isinstance(part, nn.Module):
            part.load_state_dict(tensors)
        else:
            part.load_state_dict(_unflat(tensors, part.state_dict()))
    job.step = state["step"]


def _flat(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {f"{at}.{name}": torch.as_tensor(v) for at, each in state["state"].items() for name, v in each.items()}


def _unflat(tensors: dict[str, torch.Tensor], like: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        at, name = key.split(".", 1)
        state.setdefault(int(at), {})[name] = tensor
    return {"state": state, "param_groups": like["param_groups"]}


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines(keepends=True) if path.is_file() else []
