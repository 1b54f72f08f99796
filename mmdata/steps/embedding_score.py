"""Score how well pictures and texts go together, by a CLIP or SigLIP checkpoint."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from mmdata.registry import register
from mmdata.spec import InputPath, StepSpec
from mmdata.steps._columns import with_columns
from mmdata.steps._pictures import Pixels, images
from mmdata.steps._texts import Roles, chosen
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work

PLACES = 4


@register("step", "embedding_score")
class EmbeddingScore(StepSpec):
    """Write the cosine similarity of a sample's pictures and texts as a column, by any local CLIP-like checkpoint that
    `transformers` loads (CLIP, SigLIP, SigLIP 2, ...): of each picture the text that fits it best, and of the pictures
    the one that fits worst. Drop samples below `min`, as `embedding_score`. Longer texts are cut to what the model
    takes. (Scores that a table has already need no model: `where` with an expression on their column.)

    A sample's pictures and texts are run in batches; each worker loads the model once, before its first sample.
    """

    needs_pixels: ClassVar[bool] = True

    kind: Literal["embedding_score"] = "embedding_score"
    checkpoint: InputPath
    """Folder of the checkpoint: model, processor and tokenizer."""
    min: float = Field(-1.0, ge=-1, le=1)
    """Least similarity. LAION used 0.28 to 0.3 with CLIP ViT-B/32; SigLIP's are lower."""
    column: str = "similarity"
    roles: Roles = ()
    """The texts that count, by role. Default: all."""
    device: str = "cpu"
    """Where the model runs: `cpu`, `cuda`, `cuda:1`. Part of what a build is bound to, since last digits differ."""
    batch: int = Field(32, ge=1)
    """Most pictures, and most texts, that are run at once."""
    digest: str | None = None
    """SHA-256 over the checkpoint's files. Filled in: a build is bound to the model."""

    @model_validator(mode="after")
    def _bound(self) -> Self:
        found = _digest(self.checkpoint)
        if self.digest not in (None, found):
            raise ValueError(f"digest: {self.checkpoint} has {found}, not {self.digest}")
        object.__setattr__(self, "digest", found)
        return self

    def prepare(self) -> None:
        _load(self.checkpoint, self.device)

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        pictures = [work.pixels(media) for media in images(sample)]
        texts = [text for text in chosen(sample, self.roles) if text.strip()]
        if not pictures or not texts:
            return with_columns(sample, {self.column: None})
        scores = similarities(self.checkpoint, pictures, texts, device=self.device, batch=self.batch)
        value = round(float(scores.max(axis=1).min()), PLACES)
        if value < self.min:
            return Drop(reason=self.kind, detail=f"{value:g} below {self.min:g}")
        return with_columns(sample, {self.column: value})


def similarities(
    checkpoint: str, pictures: list[Pixels], texts: list[str], *, device: str = "cpu", batch: int = 32
) -> np.ndarray:
    """Cosines of pictures (RGB u8[H, W, 3]) and texts: float32 [pictures, texts]. In float32, whatever the batches."""
    import torch

    model, processor = _load(checkpoint, device)
    seen, read = [], []
    padding: dict[str, Any] = {"padding": "max_length"} if "siglip" in model.config.model_type else {"padding": True}
    with torch.inference_mode():
        for at in range(0, max(len(pictures), len(texts)), batch):
            # Both towers run at every call; of the shorter list the last batch is run again and not used.
            some, words = pictures[at : at + batch] or pictures[-1:], texts[at : at + batch] or texts[-1:]
            inputs = processor(images=some, text=words, return_tensors="pt", truncation=True, **padding).to(device)
            found = model(**inputs)
            seen += [found.image_embeds] if at < len(pictures) else []
            read += [found.text_embeds] if at < len(texts) else []
        left, right = (torch.nn.functional.normalize(torch.cat(one), dim=-1) for one in (seen, read))
        scores: np.ndarray = (left @ right.T).float().cpu().numpy()
    return scores


@lru_cache(maxsize=2)
def _load(checkpoint: str, device: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModel, AutoProcessor

    if device == "cpu":
        torch.set_num_threads(1)  # There is a worker for every core.
    model = (
        AutoModel.from_pretrained(checkpoint, dtype=torch.float32, local_files_only=True, trust_remote_code=False)
        .to(device)
        .eval()
    )
    return model, AutoProcessor.from_pretrained(checkpoint, local_files_only=True, trust_remote_code=False)  # type: ignore[no-untyped-call]


@lru_cache(maxsize=8)
def _digest(checkpoint: str) -> str:
    """Raises ValueError for a folder that holds no checkpoint."""
    files = sorted(
        path for path in Path(checkpoint).glob("*") if path.suffix in (".json", ".safetensors", ".bin", ".txt")
    )
    if not any(path.name == "config.json" for path in files):
        raise ValueError(f"checkpoint: {checkpoint}: no config.json; give the folder of a CLIP or SigLIP checkpoint")
    whole = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            whole.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\0".encode())
    return whole.hexdigest()
