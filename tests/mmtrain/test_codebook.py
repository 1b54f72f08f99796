"""Codes are averages of what they stand for, dead ones come back, and usage counts what is met."""

from __future__ import annotations

import pytest
import torch

from mmtrain.models.tokens.codebook import Codebook, usage


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_averages_are_those_written_out() -> None:
    """Two batches by hand: counts and sums fall by the decay and take in the batch, codes are sums over smoothed
    counts."""
    book = Codebook(3, 2, decay=0.9, revive=0.0).train()
    book.begun.fill_(True)
    codes = torch.tensor([[0.0, 0.0], [1.0, 1.0], [9.0, 9.0]])
    book.codes.copy_(codes)
    book.sums.copy_(codes)
    counts, sums = torch.ones(3), codes.clone()
    for seed in range(2):
        rows = torch.rand(5, 2, generator=draw(seed))
        nearest = torch.cdist(rows, book.codes).argmin(1)
        wanted = book.codes[nearest].clone()
        found = book(rows, draw=draw())
        assert torch.equal(found.ids, nearest)
        assert torch.allclose(found.rows, wanted, atol=1e-6)
        for code in range(3):
            mine = rows[nearest == code]
            counts[code] = 0.9 * counts[code] + 0.1 * len(mine)
            sums[code] = 0.9 * sums[code] + 0.1 * mine.sum(0)
        smoothed = (counts + 1e-5) / (counts.sum() + 3e-5) * counts.sum()
        assert torch.allclose(book.codes, sums / smoothed[:, None], atol=1e-6)


def test_gradients_go_straight_through() -> None:
    book = Codebook(4, 2).train()
    rows = torch.randn(6, 2, requires_grad=True)
    found = book(rows, draw=draw())
    (gradient,) = torch.autograd.grad((found.rows * torch.arange(12.0).view(6, 2)).sum(), rows, retain_graph=True)
    assert torch.equal(gradient, torch.arange(12.0).view(6, 2))
    (gradient,) = torch.autograd.grad(found.commitment, rows)
    assert torch.allclose(gradient, 2 * (rows - found.rows).detach() / 12, atol=1e-6)


def test_dead_codes_are_drawn_from_the_batch() -> None:
    """Codes far away from all vectors come to be vectors of a batch; with revive 0 they stay."""
    for revive, wanted in ((0.5, 1.0), (0.0, 0.125)):
        book = Codebook(8, 2, decay=0.9, revive=revive).train()
        book.begun.fill_(True)
        book.codes.copy_(torch.full((8, 2), 100.0) + torch.arange(8.0)[:, None])
        book.sums.copy_(book.codes)
        for step in range(30):
            book(torch.randn(64, 2, generator=draw(step)), draw=draw(step))
        ids = book.eval().nearest(torch.randn(512, 2, generator=draw(99)))
        assert usage(ids, 8)["used"] == wanted


def test_without_a_generator_nothing_moves() -> None:
    book = Codebook(4, 2).train()
    before = {name: each.clone() for name, each in book.state_dict().items()}
    book(torch.randn(5, 2))
    assert all(torch.equal(before[name], each) for name, each in book.state_dict().items())


def test_the_first_batch_begins_the_codes() -> None:
    rows = torch.randn(3, 2)
    book = Codebook(5, 2).train()
    book._begin(rows, draw())
    assert {tuple(code) for code in book.codes.tolist()} == {tuple(row) for row in rows.tolist()}


@pytest.mark.parametrize(("ids", "used", "perplexity"), [([0] * 9, 0.25, 1.0), ([0, 1, 2, 3], 1.0, 4.0)])
def test_usage(ids: list[int], used: float, perplexity: float) -> None:
    found = usage(torch.tensor(ids), 4)
    assert found["used"] == used
    assert found["perplexity"] == pytest.approx(perplexity)
