"""Similarities of tiny random CLIP and SigLIP models against transformers' own numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from mmdata.steps.embedding_score import EmbeddingScore, _load, similarities
from tests.building import picture
from tests.decode.pictures import save
from tests.steps.given import build, image, record

TEXTS = ["a cat on a mat", "a rocket", "two cats and a rocket on a mat of a cat on a rocket", "mat"]


def checkpoint(folder: Path, kind: str) -> str:
    """A tiny model of random weights, with tokenizer and processor."""
    import transformers as hf
    from tokenizers import ByteLevelBPETokenizer

    learned = ByteLevelBPETokenizer()
    learned.train_from_iterator(TEXTS, vocab_size=290, show_progress=False, special_tokens=["<pad>", "<end>"])
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=learned._tokenizer, pad_token="<pad>", eos_token="<end>", model_max_length=8
    )
    size = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {**size, "vocab_size": 290, "max_position_embeddings": 8, "pad_token_id": 0, "eos_token_id": 1}
    vision = {**size, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    model: Any
    if kind == "clip":
        model = hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))
        shapes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
        processor: Any = hf.CLIPProcessor(hf.CLIPImageProcessor(**shapes), tokenizer)
    else:
        model = hf.SiglipModel(hf.SiglipConfig(text_config=text, vision_config=vision))
        processor = hf.SiglipProcessor(hf.SiglipImageProcessor(size={"height": 32, "width": 32}), tokenizer)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", params=["clip", "siglip"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return checkpoint(tmp_path_factory.mktemp(request.param), request.param)


PIXELS = [np.asarray(picture(number)) for number in range(3)]


def reference(folder: str) -> np.ndarray:
    """The logits of the model itself, one pair at a time, undone to cosines."""
    model, processor = _load(folder, "cpu")
    siglip = model.config.model_type == "siglip"
    rows = []
    for pixels in PIXELS:
        row = []
        for text in TEXTS:
            padding = "max_length" if siglip else False
            inputs = processor(images=pixels, text=text, return_tensors="pt", truncation=True, padding=padding)
            with torch.inference_mode():
                logit = model(**inputs).logits_per_image[0, 0]
            row.append(float((logit - (model.logit_bias if siglip else 0)) / model.logit_scale.exp()))
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("batch", [1, 2, 32])
def test_transformers(folder: str, batch: int) -> None:
    assert similarities(folder, PIXELS, TEXTS, batch=batch) == pytest.approx(reference(folder), abs=1e-5)


def test_a_build(tmp_path: Path, folder: str) -> None:
    truth = reference(folder)
    data = [save(picture(number), "PNG") for number in range(3)]
    records = [record(image(data[0]), TEXTS[0]), record(image(data[1]), TEXTS[1]), record("no picture")]
    records.append(record(image(data[0]), image(data[2]), TEXTS[1], TEXTS[3]))
    expected = [truth[0, 0], truth[1, 1], None, min(max(truth[0, 1], truth[0, 3]), max(truth[2, 1], truth[2, 3]))]
    scores = [value for value in expected if value is not None]
    least = sorted(scores)[1] - 1e-3
    built = build(tmp_path, records, [{"kind": "embedding_score", "checkpoint": folder, "min": float(least)}])
    assert built.reasons == ["" if value is None or value > least else "embedding_score" for value in expected]
    kept = [value for value in expected if value is None or value > least]
    assert built.column("similarity") == [None if value is None else pytest.approx(value, abs=1e-4) for value in kept]


def test_mistakes(tmp_path: Path, folder: str) -> None:
    with pytest.raises(ValidationError, match=r"no config\.json"):
        EmbeddingScore(checkpoint=str(tmp_path))
    with pytest.raises(ValidationError, match="digest"):
        EmbeddingScore(checkpoint=folder, digest="00")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_agrees(folder: str) -> None:
    here = similarities(folder, PIXELS, TEXTS)
    assert similarities(folder, PIXELS, TEXTS, device="cuda") == pytest.approx(here, abs=2e-3)
