"""GradNorm against autograd of its own loss, and through the command: measured right, resumed with equal weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mmdata.errors import SpecError
from mmdata.types import World
from mmtrain import sft
from mmtrain.balance.gradnorm import FLOOR, GradNorm, pull, shared_layer
from tests.mmtrain.balance.conftest import arguments, twice
from tests.mmtrain.test_sft import same_weights, trace

TOLD = ["balance={kind: gradnorm, tasks: [caption, text], alpha: 0.5}"]


def test_the_pull_is_the_gradient_of_gradnorms_loss() -> None:
    """Two tasks, a shared matrix: autograd through the norms of the gradients, as the paper writes it down."""
    torch.manual_seed(1)
    shared, x = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4)
    weights = torch.tensor([0.7, 1.3], requires_grad=True)
    first, alpha = {"a": 9.0, "b": 2.0}, 1.5
    tasks = torch.stack([((x @ shared.T) ** 2).mean(), (x @ shared.T - 1).abs().mean()])
    norms = torch.stack(
        [
            torch.autograd.grad(w * loss, shared, create_graph=True)[0].norm()
            for w, loss in zip(weights, tasks, strict=True)
        ]
    )
    ratios = tasks.detach() / torch.tensor(list(first.values()))
    target = (norms.mean() * (ratios / ratios.mean()) ** alpha).detach()
    (gradient,) = torch.autograd.grad((norms - target).abs().sum(), weights)
    names = dict(zip(("a", "b"), range(2), strict=True))
    found = pull(
        {name: float(weights[at]) for name, at in names.items()},
        {name: float(norms[at]) for name, at in names.items()},
        {name: float(tasks[at]) for name, at in names.items()},
        first,
        alpha,
    )
    assert list(found.values()) == pytest.approx(gradient.tolist(), rel=1e-5)
    assert any(abs(each) > 0.1 for each in found.values())


def test_layers_are_found_or_refused() -> None:
    trained = ["language.layers.0.w", "language.layers.10.w", "language.layers.9.w", "head.weight"]
    assert shared_layer(trained, None) == ["language.layers.10.w"]
    assert shared_layer(trained, r"language\.layers\.\d\.w") == ["language.layers.0.w", "language.layers.9.w"]
    with pytest.raises(SpecError, match=r"balance\.layer: audio.* matches nothing"):
        shared_layer(trained, "audio.*")
    with pytest.raises(SpecError, match="no layer of the language model"):
        shared_layer(["head.weight"], None)


def test_a_run_is_measured_right_and_goes_on_with_equal_weights(
    tasks: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Norms are those of the tasks' own backward passes; log, weights and the model are the same after a kill."""
    seen: list[tuple[dict[str, float], dict[str, float]]] = []
    real = GradNorm.learn

    def learn(self: GradNorm, losses: Any, world: World) -> None:
        assert self._gradients is not None
        whole = torch.cat([p.grad.flatten() for p in self.layer.values() if p.grad is not None])
        torch.testing.assert_close(self._gradients.sum(0), whole, atol=1e-6, rtol=1e-4)
        seen.append((self.weights(), dict(losses)))
        real(self, losses, world)

    monkeypatch.setattr(GradNorm, "learn", learn)
    output = tmp_path / "run"
    again = twice(arguments(tasks, output, *TOLD, "packs_per_forward=1", "optim.clip=null"), output, 3)
    lines = trace(output)
    assert [[line["weight/caption"], line["weight/text"]] for line in lines] == [
        [each["caption"], each["text"]] for each, _ in seen[:6]
    ]
    assert lines[0]["weight/caption"] == lines[0]["weight/text"] == 1
    assert all(line["weight/caption"] + line["weight/text"] == pytest.approx(2, abs=1e-6) for line in lines)
    assert lines[-1]["weight/caption"] != 1
    assert min(min(each.values()) for each, _ in seen) >= FLOOR
    line = lines[2]
    balanced = sum(line[f"weight/{task}"] * line[f"loss/{task}"] for task in ("caption", "text"))
    assert line["loss"] == pytest.approx(balanced, rel=1e-5)
    assert trace(again) == lines
    assert same_weights(again, output)


def test_shards_are_refused(tasks: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sft.main(arguments(tasks, tmp_path / "run", *TOLD, "distributed.mode=fsdp")) == 2
    assert "gradnorm measures gradients of whole weights; set distributed.mode: ddp" in capsys.readouterr().err
