"""AST and CLAP as towers: transformers' numbers with weights from a folder, packed as alone, runs that freeze, stop, go
on and are exported."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from examples.learn import sounds
from mmdata import build
from mmdata.collate import PackedCollator
from mmdata.errors import SpecError
from mmdata.types import Media
from mmtrain import checkpoint, export, sft
from mmtrain.components import aliases
from mmtrain.models import family_of
from mmtrain.models.native_build import native_config
from mmtrain.models.spec import NativeSpec
from mmtrain.models.towers import spectrograms
from mmtrain.objective import losses
from mmtrain.weighting import step_weights
from tests.families.processors import Medium, packed
from tests.mmtrain.test_grounding import words
from tests.mmtrain.test_hearing import model_of

hf: Any = transformers
AST = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
AST |= {"max_length": 64, "num_mel_bins": 32}
CLAP: dict[str, Any] = {"window_size": 4, "num_mel_bins": 16, "spec_size": 64, "hidden_size": 16, "depths": [1, 1]}
CLAP |= {"num_attention_heads": [1, 2], "patch_embeds_hidden_size": 8, "num_hidden_layers": 2}
TEXT = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
KINDS = ("ast", "clap", "clap_fused", "clap_tower", "clap_projected")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models as others save them: whole, as a classifier, and the audio side of CLAP alone or with its projection;
    a spectrogram is 0.64 s for AST and a second for CLAP."""
    folder = tmp_path_factory.mktemp("towers")
    torch.manual_seed(0)
    hf.ASTForAudioClassification(hf.ASTConfig(**AST)).save_pretrained(folder / "ast")
    hf.ASTFeatureExtractor(num_mel_bins=32, max_length=64, mean=-3.0, std=2.0).save_pretrained(folder / "ast")
    for kind, cls in {
        "clap": hf.ClapModel,
        "clap_fused": hf.ClapModel,
        "clap_tower": hf.ClapAudioModel,
        "clap_projected": hf.ClapAudioModelWithProjection,
    }.items():
        audio = hf.ClapAudioConfig(**CLAP, enable_fusion=kind == "clap_fused")
        config = hf.ClapConfig(text_config=TEXT, audio_config=audio.to_dict(), projection_dim=8)
        model: Any = cls(config if cls is hf.ClapModel else audio)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d) and module.running_mean is not None:
                module.running_mean.normal_()
                module.state_dict()["running_var"].uniform_(0.5, 2)
        model.save_pretrained(folder / kind)
        told = {"truncation": "fusion" if kind == "clap_fused" else "rand_trunc"}
        hf.ClapFeatureExtractor(feature_size=16, max_length_s=1, **told).save_pretrained(folder / kind)
    return folder


def rate_of(kind: str) -> int:
    return 16_000 if kind == "ast" else 48_000


def sound(kind: str, seconds: float) -> Medium:
    """A tone that rises, and noise."""
    rate = rate_of(kind)
    at = np.arange(round(seconds * rate)) / rate
    wave = np.sin(2 * np.pi * (300 + 500 * at) * at) + 0.1 * np.random.default_rng(0).normal(size=len(at))
    facts = Media(kind="audio", samples=len(at), sample_rate=rate, channels=1, seconds=seconds)
    return facts, (0.4 * wave).astype(np.float32)


def reference(kind: str, root: Path) -> Any:
    """Their tower with its weights, in evaluation."""
    if kind == "ast":
        return hf.ASTModel.from_pretrained(root / kind).eval()
    if kind in ("clap", "clap_fused"):
        return hf.ClapModel.from_pretrained(root / kind).audio_model.eval()
    if kind == "clap_projected":
        return hf.ClapAudioModelWithProjection.from_pretrained(root / kind).audio_model.eval()
    return hf.ClapAudioModel.from_pretrained(root / kind).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_those_of_transformers(kind: str, root: Path) -> None:
    """From samples to vectors: their extractor and their module on one side, a folder and our view on the other. A
    second is 32 vectors of this CLAP and 10 of this AST; of a sound that is longer, each piece is theirs alone."""
    model, family = model_of({"kind": "hf", "path": str(root / kind)})
    view: Any = family.media["audio"].view
    facts, wave = sound(kind, 1.37)
    plan = view.plan(facts)
    mine = view.realize(wave, plan)
    made, (count,) = model.model.hearing(model.model.audio_tower, mine, torch.tensor([plan.tokens]))
    assert count == plan.tokens == len(made) == {"ast": 14}.get(kind, 44)  # 1.37 * 10, and 1.37 * 32
    extractor = hf.AutoFeatureExtractor.from_pretrained(root / kind)
    theirs, wanted = reference(kind, root), []
    for op in plan.ops:
        given = extractor(wave[op.start : op.stop], sampling_rate=rate_of(kind), return_tensors="pt")
        with torch.no_grad():
            if kind == "ast":
                states = theirs(given["input_values"]).last_hidden_state[0, 2:].reshape(2, 5, 16).mean(0)
            else:
                longer = {"is_longer": torch.tensor([[False]])} if kind == "clap_fused" else {}
                states = theirs(given["input_features"].float(), **longer).last_hidden_state[0].mean(1).T
        wanted.append(states[: op.positions])
    assert torch.allclose(made, torch.cat(wanted), atol=2e-4), (made - torch.cat(wanted)).abs().max()


def test_the_layers_of_an_ast_are_weighted(root: Path) -> None:
    model, family = model_of({"kind": "hf", "path": str(root / "ast"), "states": "weighted", "hz": 5})
    view: Any = family.media["audio"].view
    facts, wave = sound("ast", 0.5)
    plan = view.plan(facts)
    with torch.no_grad():
        model.model.hearing.layer_weights.copy_(shares := torch.tensor([0.3, -1.0, 0.6]))
        mels = view.realize(wave, plan)
        rows, _ = model.model.hearing(model.model.audio_tower, mels, torch.tensor([5]))
        states = torch.stack(reference("ast", root)(mels, output_hidden_states=True).hidden_states)[:, 0, 2:]
    summed = (states * shares.softmax(0)[:, None, None]).sum(0).reshape(2, 5, 16).mean(0)
    assert torch.allclose(rows, summed[:4].reshape(2, 2, 16).mean(1), atol=1e-5)  # 5 a second of 10
    assert plan.tokens == 2


@pytest.mark.parametrize("kind", ["ast", "clap_fused"])
def test_packed_sounds_are_what_they_are_alone(kind: str, root: Path) -> None:
    """Also while they are learned: batch norms see no batch. Of one sound there are three spectrograms."""
    told = {"kind": "hf", "path": str(root / kind), "languages": ["de"], "hz": {"ast": 5}.get(kind, 16)}
    model, family = model_of(told)
    model.config.audio_config.hidden_dropout_prob = 0.0
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.train()
    samples: list[Any] = [
        ["a", sound(kind, 0.6), "word"],
        ["b", sound(kind, 0.3), "and", sound(kind, {"ast": 1.3}.get(kind, 2.2)), "more"],
    ]
    rows = [packed(family, [sample]) for sample in samples]
    batch = PackedCollator()(rows)
    assert batch["input_features"].ndim == 3
    assert len(batch["audio_frames"]) == 3
    before = {name: value.clone() for name, value in model.named_buffers()}
    both, each = losses(model, batch, step_weights(batch, "token"))
    apart = [losses(model, one, step_weights(one, "token")) for one in (PackedCollator()(row) for row in rows)]
    assert float(both) == pytest.approx(float(sum(one for one, _ in apart)), rel=1e-5)
    assert torch.allclose(each, torch.cat([one for _, one in apart]), atol=1e-5)
    torch.autograd.backward(both)
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    named = aliases(model)
    ears = [parameter for name, parameter in model.named_parameters() if named[name].startswith("audio.")]
    assert ears
    assert all(parameter.grad is not None for parameter in ears)


def written(folder: Path, name: str, told: dict[str, Any]) -> str:
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(told))
    return str(folder / f"{name}.yaml")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight clips of two seconds."""
    folder = tmp_path_factory.mktemp("clips")
    sounds.make_sounds(folder, "train", 1, 8)
    spec = Path(sounds.__file__).parent / "build.yaml"
    told = ["--set", f"source.path={folder}/train.jsonl", "--output", f"{folder}/data", "--quiet"]
    assert build.main(["--spec", str(spec), *told]) == 0
    return folder / "data"


@pytest.mark.parametrize("kind", ["ast", pytest.param("clap_fused", marks=pytest.mark.soak)])
def test_a_run_freezes_goes_on_and_is_exported(kind: str, root: Path, clips: Path, tmp_path: Path) -> None:
    """The frozen tower comes out as it went in, bit for bit; a run that lost its second half and goes on has the
    weights of one that did not; the export loads without the tower's folder, and its sounds are the same."""
    told = {
        "data": {"dataset": str(clips), "template": "basic", "max_length": 700, "epochs": None},
        "output": str(tmp_path / "whole"),
        "steps": 4,
        "global_batch": 1,
        "tokenizer": {"vocab_size": 300},
        "model": {
            "kind": "native",
            "vision": None,
            "audio": {"kind": "hf", "path": str(root / kind)},
            "language": {"hidden": 16, "layers": 1, "heads": 2},
        },
        "parameters": [{"match": r"audio\..*", "train": False}],
        "checkpoint": {"every": 2},
    }
    assert sft.main(["--config", written(tmp_path, "run", told)]) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped", symlinks=True)
    for later in checkpoint.found(tmp_path / "stopped")[1:]:
        shutil.rmtree(later)
    told["output"] = str(tmp_path / "stopped")
    assert sft.main(["--config", written(tmp_path, "again", told)]) == 0
    ends = [load_file(checkpoint.found(tmp_path / name)[-1] / "model.safetensors") for name in ("whole", "stopped")]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    weights = reference(kind, root).state_dict()
    kept = {name: value for name, value in ends[0].items() if name.startswith("model.audio_tower.")}
    assert kept
    assert all(torch.equal(value, weights[name.removeprefix("model.audio_tower.")]) for name, value in kept.items())
    assert export.main([str(tmp_path / "whole"), "--output", str(tmp_path / "model")]) == 0
    model: Any = AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    assert all(torch.equal(value, ends[0][name]) for name, value in model.state_dict().items() if name in ends[0])
    assert isinstance(model.model.audio_tower, spectrograms.tower_class(model.config.audio_config))
    first = NativeSpec.model_validate(told["model"])
    again = NativeSpec.model_validate({"kind": "native", "path": str(tmp_path / "model")})
    views = [family_of(each, words()).media["audio"].view for each in (first, again)]
    assert views[0].describe() == views[1].describe()


@pytest.mark.parametrize(
    ("kind", "audio", "views", "message"),
    [
        ("ast", {"hz": 25}, {}, "10 / 25 is no whole number; 10, 5, 2.5"),
        ("clap", {"hz": 3}, {}, "32 / 3 is no whole number"),
        ("clap", {"states": "weighted"}, {}, "makes its layers narrower"),
        ("clap", {"prosody": True}, {}, "takes spectrograms of one size"),
        ("ast", {}, {"bins": 64}, "the tower's config says it"),
        ("ast", {}, {"padded": 48_000}, "unexpected keyword argument 'padded'"),
        ("clap", {}, {"clip": 480_000}, "1001 frames, and the tower takes 256"),
        ("clap", {}, {"long": "cut"}, "chunk, trim or refuse"),
    ],
)
def test_what_does_not_fit_is_said(
    kind: str, audio: dict[str, Any], views: dict[str, Any], message: str, root: Path
) -> None:
    told = {"kind": "native", "vision": None, "audio": {"kind": "hf", "path": str(root / kind), **audio}}
    with pytest.raises(SpecError, match=message):
        family_of(NativeSpec.model_validate({**told, "views": {"audio": views}}), words())


def test_a_head_that_turns_sounds_around_is_refused(root: Path) -> None:
    """What it would roll in a row of spectrograms are frequencies."""
    filmed = {"vision": {"hidden": 16, "layers": 1, "heads": 2}, "video": {"kind": "frames"}, "heads": {"offset": {}}}
    for kind in ("ast", "clap"):
        audio = {"kind": "hf", "path": str(root / kind)}
        with pytest.raises(
            SpecError, match=r"model\.heads\.offset: it turns sounds around, and a .* takes spectrograms"
        ):
            native_config(NativeSpec.model_validate({"kind": "native", "audio": audio, **filmed}))


def test_an_extractor_of_another_size_is_refused(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "ast", tmp_path / "ast")
    hf.ASTFeatureExtractor(num_mel_bins=32, max_length=100).save_pretrained(tmp_path / "ast")
    with pytest.raises(SpecError, match="extractor's max_length is not the 64"):
        model_of({"kind": "hf", "path": str(tmp_path / "ast")})
