"""The command: a tokeniser trained, killed and resumed to the bit, its pictures as words in packed rows both ways, and
pictures that a model writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from examples.learn import make
from mmdata import build
from mmdata.errors import SpecError
from mmdata.shards.dataset import open_dataset
from mmtrain import sft, tokenize_images
from mmtrain import tokenizer as tokenizers
from mmtrain.models import tokens
from mmtrain.models.tokens.terms import deceiving, judged
from mmtrain.picture_tokens import train as training
from mmtrain.picture_tokens import words
from mmtrain.picture_tokens.generate import Alphabet
from mmtrain.picture_tokens.spec import TokenizeSpec
from mmtrain.tokenizer import TokenizerSpec
from tests.mmtrain.tiny_models import vision

LEARN = Path(__file__).parents[2] / "examples" / "learn"
SMALL = {"size": 16, "stride": 4, "channels": 8, "blocks": 0}
VQ = {"kind": "vq", **SMALL, "codes": 12, "width": 4}
KL = {"kind": "kl", **SMALL, "width": 4}


def built(source: Path, output: Path, spec: str = "build.yaml") -> Path:
    told = ["--set", f"source.path={source}", "--output", str(output), "--quiet"]
    assert build.main(["--spec", str(LEARN / spec), *told]) == 0
    return output


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shapes as a dataset, a tokeniser of them, and them as words, as a dataset."""
    root = tmp_path_factory.mktemp("tokens")
    make.main([str(root), "--only", "shapes", "--train", "24", "--heldout", "4"])
    built(root / "shapes" / "train.jsonl", root / "pictures")
    config = root / "vq.yaml"
    config.write_text(json.dumps(told(root, VQ, steps=6)))
    assert tokenize_images.main(["train", "--config", str(config)]) == 0
    line = ["encode", str(root / "run"), "--dataset", str(root / "pictures"), "--output", str(root / "words.jsonl")]
    assert tokenize_images.main(line) == 0
    built(root / "words.jsonl", root / "words", "words_build.yaml")
    return root


def told(root: Path, tokeniser: dict[str, Any], output: str = "run", **more: Any) -> dict[str, Any]:
    dataset = str(root / "pictures")
    return {"dataset": dataset, "tokeniser": tokeniser, "output": str(root / output), "batch": 4, "every": 2, **more}


def stop_at_three(spec: TokenizeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is interrupted before its fourth step."""
    real = training.advance

    def until(job: training.Training) -> dict[str, float]:
        if job.step == 3:
            raise KeyboardInterrupt
        return real(job)

    monkeypatch.setattr(training, "advance", until)
    with pytest.raises(KeyboardInterrupt):
        training.train(spec)
    monkeypatch.setattr(training, "advance", real)


@pytest.mark.parametrize("tokeniser", [VQ, KL], ids=["vq", "kl"])
def test_it_goes_on_as_if_it_had_never_stopped(
    world: Path, tokeniser: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between two checkpoints: codebook, averages, noise, judge and all come to the same bits."""
    kind, judge = tokeniser["kind"], {"weight": 0.1, "start": 1}
    whole = TokenizeSpec(**told(world, tokeniser, f"{kind}_whole", steps=5, adversarial=judge))
    training.train(whole)
    spec = TokenizeSpec(**told(world, tokeniser, f"{kind}_cut", steps=5, adversarial=judge))
    stop_at_three(spec, monkeypatch)
    training.train(spec)
    one, other = (tokens.load(world / f"{kind}_{end}").state_dict() for end in ("whole", "cut"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    logs = [(world / f"{kind}_{end}" / "metrics.jsonl").read_text() for end in ("whole", "cut")]
    assert logs[0] == logs[1]
    assert logs[0].count("\n") == 5
    with pytest.raises(SpecError, match=r"seed: .* was begun with 0, now it is 1"):
        training.train(spec.model_copy(update={"seed": 1}))


def test_a_kill_that_cuts_the_log_or_the_checkpoint_costs_nothing(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A buffer that reached the file in part, and a checkpoint that was to be replaced and was not yet."""
    spec = TokenizeSpec(**told(world, VQ, "torn", steps=5))
    real, folder = training.advance, world / "torn"
    stop_at_three(spec, monkeypatch)
    with (folder / "metrics.jsonl").open("a") as log:
        log.write('{"step": 3, "pix')
    (folder / "checkpoint").rename(folder / ".checkpoint.old")
    begun: list[int] = []
    monkeypatch.setattr(training, "advance", lambda job: begun.append(job.step) or real(job))
    training.train(spec)
    assert begun == [2, 3, 4]
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2, 3, 4]
    assert not (folder / ".checkpoint.old").exists()


@torch.no_grad()
def test_codes_are_the_way_there_and_back(world: Path) -> None:
    """What is encoded and decoded is what the tokeniser makes of a picture at once; ids of no codes are refused."""
    vq = tokens.load(world / "run")
    assert isinstance(vq, tokens.Vq)
    pixels = torch.rand(2, 3, 16, 16) * 2 - 1
    ids = vq.encode(pixels)
    assert ids.shape == (2, 4, 4)
    assert torch.allclose(vq.decode(ids), vq(pixels)[0].clamp(-1, 1), atol=1e-5)
    with pytest.raises(ValueError, match="there are 12 codes"):
        vq.decode(ids + 12)
    kl = tokens.make(tokens.read(KL)).eval()
    kl.scale.fill_(2.0)
    latents = kl.encode(pixels)
    assert latents.shape == (2, 4, 4, 4)
    assert torch.allclose(kl.decode(latents), kl(pixels)[0].clamp(-1, 1), atol=1e-5)


def test_pictures_are_words_of_packed_rows(world: Path) -> None:
    """Both ways: what is drawn is trained and what is shown is not; a code is one token, and a text cannot spell a
    special one."""
    vq = tokens.load(world / "run")
    source = open_dataset(world / "pictures")
    lines = [json.loads(line) for line in (world / "words.jsonl").open()]
    assert [line["task"] for line in lines[:4]] == ["draw", "name"] * 2
    assert len(lines) == 2 * len(source)
    codes = words.read(lines[0]["conversations"][1]["value"])[0]
    assert codes == words.read(lines[1]["conversations"][0]["value"])[0]
    assert len(codes) == 16
    assert max(codes) < vq.spec.codes
    spec = TokenizerSpec(vocab_size=300, picture_codes=12)
    tokenizer: Any = tokenizers.make(open_dataset(world / "words"), spec)
    ids = tokenizer(words.written(codes), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert len(ids) == 18
    assert tokenizer.decode(ids) == words.written(codes)
    assert tokenizer.pad_token_id not in tokenizer("<pad>", split_special_tokens=True)["input_ids"]
    assert not any("code" in word for word in tokenizer.get_vocab() if not word.startswith("<|"))


def test_a_model_that_learned_them_draws(world: Path) -> None:
    """Through the commands: two steps of training on words of pictures, then pictures of the run, the same again."""
    size = {"hidden": 16, "layers": 1, "heads": 2}
    config = {
        "data": {"dataset": str(world / "words"), "template": "basic", "max_length": 64, "epochs": None},
        "tokenizer": {"vocab_size": 300, "picture_codes": 12},
        "model": {"kind": "native", "audio": None, "vision": size, "language": size},
        "output": str(world / "learned"),
        "steps": 2,
        "global_batch": 2,
    }
    (world / "sft.yaml").write_text(json.dumps(config))
    assert sft.main(["--config", str(world / "sft.yaml")]) == 0
    told = ["--tokeniser", str(world / "run"), "--data", str(world / "words"), "--count", "2"]
    for name in ("one", "two"):
        line = ["generate", str(world / "learned"), *told, "--output", str(world / name)]
        assert tokenize_images.main(line) == 0
    found = [json.loads(line) for line in (world / "one" / "pictures.jsonl").open()]
    assert len(found) == 2
    for line in found:
        assert f"Draw {line['wanted']}" in line["prompt"]
        assert Image.open(world / "one" / line["picture"]).size == (16, 16)
        assert (world / "one" / line["picture"]).read_bytes() == (world / "two" / line["picture"]).read_bytes()
    bare = tokenizers.make(open_dataset(world / "words"), TokenizerSpec(vocab_size=300))
    with pytest.raises(SpecError, match=r"set tokenizer\.picture_codes: 12"):
        Alphabet.of(bare, 12)


def test_features_of_a_tower_and_a_judge(world: Path, tmp_path: Path) -> None:
    """The optional terms: features of a frozen tower move the tokeniser and stay as they are, and are nothing between
    a picture and itself."""
    import transformers as hf

    hf.CLIPVisionModel(hf.CLIPVisionConfig(**vision(image_size=28))).save_pretrained(tmp_path / "clip")
    spec = TokenizeSpec(**told(world, VQ, "seen", steps=1, perceptual={"path": str(tmp_path / "clip"), "weight": 1.0}))
    job = training.begin(spec)
    assert job.perceptual is not None
    pixels = torch.rand(2, 3, 16, 16)
    assert float(job.perceptual(pixels, pixels)) == 0.0
    before = {name: each.clone() for name, each in job.perceptual.state_dict().items()}
    values = training.advance(job)
    assert values["perceptual"] > 0
    assert all(torch.equal(before[name], each) for name, each in job.perceptual.state_dict().items())
    real, made = torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 1.0])
    assert float(judged(real, made)) == pytest.approx(0.25 + 0.5)
    assert float(deceiving(made)) == 1.0


def test_what_is_wrong_is_told(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for tokeniser, message in (({**VQ, "stride": 3}, "no power of two"), ({**VQ, "size": 18}, "no multiple")):
        (world / "wrong.yaml").write_text(json.dumps(told(world, tokeniser)))
        assert tokenize_images.main(["train", "--config", str(world / "wrong.yaml")]) == 2
        assert message in capsys.readouterr().err
    line = ["encode", str(world / "pictures"), "--dataset", str(world / "pictures"), "--output", str(world / "x.jsonl")]
    assert tokenize_images.main(line) == 2
    assert "holds no tokeniser" in capsys.readouterr().err
