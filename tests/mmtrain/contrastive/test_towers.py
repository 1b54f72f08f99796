"""The dual encoder against transformers' Siglip2Model of the same weights, packed against padded; pairs alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mmtrain.components import aliases
from mmtrain.contrastive.build import build
from mmtrain.contrastive.pairs import Pairs, masked
from mmtrain.contrastive.siglip2 import original as exported
from mmtrain.contrastive.siglip2 import renamed, sizes
from mmtrain.contrastive.spec import ContrastiveSpec
from mmtrain.contrastive.towers import DualEncoder, TextSpec, VisionSpec

GRIDS = [(3, 5), (4, 4), (1, 7)]


def original() -> Any:
    from transformers import Siglip2Config, Siglip2Model

    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    text = {**shape, "vocab_size": 50, "max_position_embeddings": 8, "projection_size": 32, "pad_token_id": 1}
    config = Siglip2Config(vision_config={**shape, "patch_size": 4, "num_patches": 16}, text_config=text)
    model: Any = Siglip2Model(config)
    return model.eval()


def pairs_of(grids: list[tuple[int, int]], width: int, words: int = 50, *, most: int = 8) -> Pairs:
    draw = torch.Generator().manual_seed(1)
    texts = [torch.randint(2, words, (2 + number % most,), generator=draw) for number in range(len(grids))]
    total = sum(rows * columns for rows, columns in grids)
    patches = torch.randn(total, width, generator=draw)
    return Pairs(patches=patches, grids=grids, texts=texts, keys=[f"{number:03d}" for number in range(len(grids))])


def small(**text: Any) -> DualEncoder:
    torch.manual_seed(2)
    return DualEncoder(
        VisionSpec(hidden=32, patch=4, table=4),
        TextSpec(hidden=16, heads=2, context=8, **text),
        projection=24,
        vocabulary=50,
        pad_id=0,
    )


def test_it_is_siglip2_packed() -> None:
    """Same vectors, same loss, same gradients; theirs are padded and masked, ours lie in one row."""
    theirs = original()
    *specs, vocabulary, pad_id = sizes(theirs.config, max_patches=16)
    ours: Any = DualEncoder(*specs, projection=None, vocabulary=vocabulary, pad_id=pad_id)  # type: ignore[arg-type]
    ours.load_state_dict(renamed(theirs.state_dict()))
    pairs = pairs_of(GRIDS, 3 * 4**2)
    padded = torch.zeros(3, 16, 48)
    mask = torch.zeros(3, 16, dtype=torch.long)
    ids = torch.full((3, 8), 1)
    for row, (part, (rows, columns), text) in enumerate(
        zip(torch.split(pairs.patches, [a * b for a, b in GRIDS]), GRIDS, pairs.texts, strict=True)
    ):
        padded[row, : rows * columns], mask[row, : rows * columns] = part, 1
        ids[row, : len(text)] = text
    found = theirs(
        input_ids=ids,
        pixel_values=padded,
        pixel_attention_mask=mask,
        spatial_shapes=torch.tensor(GRIDS),
        return_loss=True,
    )
    vectors = ours(pairs)
    torch.testing.assert_close(vectors.pictures, found.image_embeds, rtol=0, atol=1e-5)
    torch.testing.assert_close(vectors.texts, found.text_embeds, rtol=0, atol=1e-5)
    from mmtrain.contrastive.losses import pairwise

    loss = pairwise(vectors.pictures @ vectors.texts.T * ours.scale.exp() + ours.bias)
    assert float(loss) == pytest.approx(float(found.loss), abs=1e-5)
    back = exported(ours).state_dict()
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(back[name], value) for name, value in theirs.state_dict().items())
    loss.backward()  # type: ignore[no-untyped-call]
    found.loss.backward()
    expected = renamed({name: p.grad for name, p in theirs.named_parameters()})
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pool", ["last", "mean"])
def test_each_pair_is_alone_in_its_row(pool: str) -> None:
    """What a pair becomes does not depend on what else is in the row; regions, patches and words neither."""
    model = small(causal=True, pool=pool).eval()
    pairs = pairs_of(GRIDS, 48)
    whole = model(pairs, cells=2, words=True)
    first = 0
    for at, (rows, columns) in enumerate(GRIDS):
        patches = pairs.patches[first : first + rows * columns]
        first += rows * columns
        alone = model(
            replace(pairs, patches=patches, grids=[GRIDS[at]], texts=[pairs.texts[at]], keys=[pairs.keys[at]]),
            cells=2,
            words=True,
        )
        torch.testing.assert_close(alone.pictures[0], whole.pictures[at])
        torch.testing.assert_close(alone.texts[0], whole.texts[at])
        torch.testing.assert_close(alone.regions[0], whole.regions[at])
        torch.testing.assert_close(alone.patches[0], whole.patches[at])
        torch.testing.assert_close(alone.words[0], whole.words[at])
    assert torch.allclose(whole.pictures.norm(dim=-1), torch.ones(3))


def test_a_causal_text_does_not_see_what_follows() -> None:
    model = small(causal=True).eval()
    text = torch.tensor([5, 6, 7, 8])
    other = torch.tensor([5, 6, 7, 9])
    one, two = (model.texts([each], words=True)[1][0] for each in (text, other))
    torch.testing.assert_close(one[:3], two[:3])
    assert not torch.allclose(one[3], two[3])


def test_regions_are_means_of_cells() -> None:
    """A picture of 4 x 4 patches in 2 x 2 cells, and one so narrow that cells have none: these get the mean of all."""
    model = small().eval()
    pairs = pairs_of([(4, 4), (1, 2)], 48)
    found = model(pairs, cells=2, words=True)
    grid = found.patches[0].view(4, 4, -1)
    for cell, (rows, columns) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2)]):
        mean = grid[rows : rows + 2, columns : columns + 2].flatten(0, 1).mean(0)
        torch.testing.assert_close(found.regions[0, cell], torch.nn.functional.normalize(mean, dim=0))
    narrow = torch.nn.functional.normalize(found.patches[1].mean(0), dim=0)
    torch.testing.assert_close(found.regions[1, 2], narrow)


def test_flip_looks_at_the_same_part_whoever_asks() -> None:
    """So many patches of each picture, by sample and step; what it looks at is what it would see of these alone."""
    pairs = pairs_of([(4, 4), (2, 3)], 48)
    half = masked(pairs, 0.5, seed=0, step=3)
    assert half.kept is not None
    assert [len(kept) for kept in half.kept] == [8, 3]
    alone = masked(replace(pairs, grids=pairs.grids[1:], keys=pairs.keys[1:]), 0.5, seed=0, step=3)
    assert alone.kept is not None
    assert torch.equal(alone.kept[0], half.kept[1])
    other = masked(pairs, 0.5, seed=0, step=4)
    assert other.kept is not None
    assert not torch.equal(other.kept[0], half.kept[0])
    model = small().eval()
    features, borders = model.vision(half.patches, half.grids, half.kept)
    assert borders.lengths == (8, 3)
    changed = pairs.patches.clone()
    left_out = sorted(set(range(16)) - set(half.kept[0].tolist()))
    changed[left_out] = 9.0
    again, _ = model.vision(changed, half.grids, half.kept)
    torch.testing.assert_close(features, again)


def test_long_texts_keep_their_end_and_no_pair_is_nothing() -> None:
    model = small().eval()
    text = torch.arange(2, 22)
    torch.testing.assert_close(model.texts([text])[0], model.texts([torch.cat([text[:7], text[-1:]])])[0])
    nothing = model(Pairs(patches=torch.zeros(0, 0), grids=[], texts=[], keys=[]), cells=2, words=True)
    assert nothing.pictures.shape == nothing.texts.shape == (0, 24)
    assert nothing.pictures.requires_grad
    assert nothing.texts.requires_grad


def test_rules_know_its_parts() -> None:
    parts = {alias.split(".")[0] for alias in aliases(small()).values()}
    assert parts == {"vision", "language", "connector"}


def test_texts_are_filled_up_as_their_tokenizer_does(tmp_path: Path) -> None:
    """The config of SigLIP 2 says nothing of padding, for which transformers takes 1; its tokenizer's is 0."""
    original().save_pretrained(tmp_path)
    model = {"kind": "siglip2", "path": str(tmp_path), "max_patches": 16}
    spec = ContrastiveSpec.model_validate(
        {"data": {"dataset": "somewhere"}, "output": "run", "model": model}, context={"check_paths": False}
    )

    class Tokenizer:
        pad_token_id = 0

        def __len__(self) -> int:
            return 50

    made = build(spec, Tokenizer())
    ids = torch.randint(2, 50, (5,), generator=torch.Generator().manual_seed(0))
    theirs = original().text_model(input_ids=torch.nn.functional.pad(ids, (0, 3), value=0)[None]).pooler_output
    wanted = torch.nn.functional.normalize(theirs, dim=-1)
    torch.testing.assert_close(made.texts([ids])[0], wanted, rtol=0, atol=1e-5)
