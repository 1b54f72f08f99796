"""Models of every kind through the command: Hugging Face folders and native ones are trained packed, exported, and
loaded again with the same logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
import yaml

from mmdata import StreamingDataset
from mmdata.collate import PackedCollator, model_inputs
from mmdata.families import get_family
from mmtrain import export, models, sft
from mmtrain.models.families import native_family
from tests.building import build, write_spec
from tests.mmtrain.hf_folders import PROCESSORS, write_folder
from tests.mmtrain.tiny_models import ALL, MASKED, UNSAFE, make, words
from tests.test_media_stream import folder as media  # noqa: F401 a fixture: pictures, clips, tones, texts

NATIVE: dict[str, Any] = {
    "kind": "native",
    "vision": {"hidden": 32, "layers": 1, "heads": 4},
    "audio": {"hidden": 32, "layers": 1, "heads": 4},
    "language": {"hidden": 32, "layers": 1, "heads": 4},
    "views": {"image": {"max_pixels": 16_384}, "video": {"max_pixels": 4096}},
}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conversations without media."""
    root = tmp_path_factory.mktemp("texts")
    said = [("How many?", f"There are {number} of them.") for number in range(6)]
    turns = [[{"role": "user", "content": ask}, {"role": "assistant", "content": answer}] for ask, answer in said]
    (root / "lines.jsonl").write_text("".join(json.dumps({"messages": turn}) + "\n" for turn in turns))
    build(write_spec(root / "spec.yaml", {"kind": "jsonl", "path": "lines.jsonl"}, []))
    return root / "out"


def config(tmp: Path, dataset: Path, model: dict[str, Any], **more: Any) -> list[str]:
    """Arguments of the command for a small run."""
    told = {
        "data": {"dataset": str(dataset), "max_length": 500, "epochs": None, **more.pop("data", {})},
        "output": str(tmp / "run"),
        "model": model,
        "tokenizer": {"vocab_size": 400},
        "steps": 2,
        "global_batch": 1,
        "optim": {"lr": 1.0e-3, "warmup_steps": 0},
        **more,
    }
    (tmp / "config.yaml").write_text(yaml.safe_dump(told))
    return ["--config", str(tmp / "config.yaml")]


def first_batch(data: Path, family: Any, template: str = "caption") -> dict[str, Any]:
    stream = StreamingDataset(data, family=family, max_length=2000, template=template)
    batch = model_inputs(PackedCollator()(next(iter(stream))))  # type: ignore[arg-type]
    return {name: value for name, value in batch.items() if name != "labels"}


def logits(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**batch).logits


def exported(tmp: Path, *more: str) -> Path:
    assert export.main([str(tmp / "run"), "--output", str(tmp / "out"), *more]) == 0
    return tmp / "out"


QUICK = ("llava", "gemma3", "qwen3_vl", "qwen2_5_omni", "llama")
"""In the default suite; the others take as long and are as the first is."""
TURNS: dict[str, Any] = {"template": "chatml"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK else pytest.mark.soak)
        for name in [*PROCESSORS, "llama", "mixtral"]
        if name not in UNSAFE
    ],
)
def test_a_folder_is_trained_and_exported(
    name: str,
    media: Path,  # noqa: F811
    texts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Pictures, clips, sounds and texts, as far as the family takes them, packed as its certificate says."""
    source = write_folder(tmp_path / "source", name)
    data = media if ALL[name].kinds else texts
    assert sft.main(config(tmp_path, data, {"kind": "hf", "path": str(source)}, data=dict(TURNS))) == 0
    shown = capsys.readouterr().out
    assert f"{type(make(name)).__name__}: packed by {'masks' if name in MASKED else 'varlen'} (" in shown
    assert f"shown {', '.join(sorted(ALL[name].kinds)) or 'text'})" in shown
    assert f"model  {type(make(name)).__name__}" in shown
    out = exported(tmp_path)
    trained, _ = export.open_model(tmp_path / "run", export.chosen(tmp_path / "run", "latest"))
    auto = hf.AutoModelForMultimodalLM if ALL[name].kinds else hf.AutoModelForCausalLM
    again = auto.from_pretrained(out, local_files_only=True, dtype=torch.float32)
    assert type(again) is type(make(name))
    tokenizer = hf.AutoTokenizer.from_pretrained(out, local_files_only=True)
    if not ALL[name].kinds:
        batch: dict[str, Any] = {"input_ids": torch.arange(4, 14)[None]}
    else:
        # The folder's own files decide the numbers: they were exported too.
        family = get_family(ALL[name].family or name, tokenizer=tokenizer, checkpoint=out)
        assert set(family.media) == set(ALL[name].kinds)
        batch = first_batch(media, family, **TURNS)
        assert any(key.startswith(("pixel_values", "input_features")) for key in batch)
    found = logits(again, batch)
    assert torch.equal(found, logits(trained, batch))
    assert not torch.equal(found, logits(make(name), batch)), "nothing was trained"


def test_what_must_not_be_packed_is_refused_and_trained_otherwise(
    media: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """LFM2-VL: the reason and the remedy in one line, and the remedy works; with attention alone it is packed."""
    source = write_folder(tmp_path / "source", "lfm2_vl")
    model = {"kind": "hf", "path": str(source)}
    assert sft.main(config(tmp_path, media, model, data=dict(TURNS))) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "must not be packed, for its layers of conv run over borders" in line
    assert "set data.packing: none, or collate: padded" in line
    assert sft.main(config(tmp_path, media, model, data={**TURNS, "packing": "none"})) == 0
    assert "must not be packed" in capsys.readouterr().out
    assert exported(tmp_path).is_dir()


@pytest.mark.soak
def test_the_thinker_of_a_whole_omni_model(
    media: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A folder as published, whose weights are `thinker.…`: its thinker is trained, and exported as one."""
    thinker = make("qwen2_5_omni")
    source = write_folder(tmp_path / "source", "qwen2_5_omni")
    whole = hf.Qwen2_5OmniForConditionalGeneration(
        hf.Qwen2_5OmniConfig(thinker_config=thinker.config.to_dict(), enable_audio_output=False)
    )
    whole.thinker.load_state_dict(thinker.state_dict())
    whole.save_pretrained(source)
    assert json.loads((source / "config.json").read_text())["model_type"] == "qwen2_5_omni"
    told = config(tmp_path, media, {"kind": "hf", "path": str(source)}, data=dict(TURNS), steps=1)
    assert sft.main([*told, "--set", "optim.lr=1e-30"]) == 0
    assert "Qwen2_5OmniThinkerForConditionalGeneration: packed by varlen" in capsys.readouterr().out
    again = hf.AutoModelForMultimodalLM.from_pretrained(exported(tmp_path), dtype=torch.float32)
    assert type(again) is type(thinker)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in thinker.state_dict().items())


def test_native_is_trained_and_exported(
    media: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Pictures, clips, sounds and texts in the same packs."""
    assert sft.main(config(tmp_path, media, NATIVE, data={"template": "chatml"})) == 0
    assert "NativeForConditionalGeneration: packed by varlen" in capsys.readouterr().out
    out = exported(tmp_path)
    again = hf.AutoModelForImageTextToText.from_pretrained(out, local_files_only=True)
    trained, _ = export.open_model(tmp_path / "run", export.chosen(tmp_path / "run", "latest"))
    assert again.state_dict().keys() == trained.state_dict().keys()
    assert all(
        torch.equal(a, b) for a, b in zip(again.state_dict().values(), trained.state_dict().values(), strict=True)
    )
    tokenizer = hf.AutoTokenizer.from_pretrained(out, local_files_only=True)
    family = native_family(again.config, tokenizer, {}, out)
    batch = first_batch(media, family, "chatml")
    assert {"pixel_values", "image_grid_thw", "input_features", "audio_frames"} <= set(batch)
    assert torch.equal(logits(again, batch), logits(trained, batch))
    # It goes on from there: what was exported is a model to begin with.
    (tmp_path / "more").mkdir()
    told = config(tmp_path / "more", media, {"kind": "native", "path": str(out)}, data={"template": "chatml"}, steps=1)
    assert sft.main(told) == 0


def test_adapters_are_merged_or_kept(folder: Path, tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", "llava")
    lora = [{"kind": "lora", "rank": 2, "match": r"language\..*"}]
    told = config(tmp_path, folder, {"kind": "hf", "path": str(source)}, adapters=lora)
    assert sft.main(told) == 0
    out = exported(tmp_path)
    batch = first_batch(folder, get_family("llava", tokenizer=words(), checkpoint=source))
    trained, _ = export.open_model(tmp_path / "run", export.chosen(tmp_path / "run", "latest"))
    merged = hf.LlavaForConditionalGeneration.from_pretrained(out)
    expected = logits(trained, batch)
    assert (logits(merged, batch) - expected).abs().max() < 1e-5
    base = logits(make("llava"), batch)
    assert (expected - base).abs().max() > 1e-5
    kept = tmp_path / "kept"
    assert export.main([str(tmp_path / "run"), "--output", str(kept), "--adapters", "keep"]) == 0
    from mmtrain import adapters

    model = hf.LlavaForConditionalGeneration.from_pretrained(kept)
    assert torch.equal(logits(model, batch), base)
    adapters.attach(model, kept / "adapters")
    assert torch.equal(logits(model, batch), expected)


def test_another_tokenizer_gives_the_model_rows_for_its_tokens(folder: Path, tmp_path: Path) -> None:
    """A tokenizer without media tokens gets them, and the model rows for them: the mean of all others."""
    source = write_folder(tmp_path / "source", "llava")
    plain = hf.PreTrainedTokenizerFast(tokenizer_object=words().backend_tokenizer, bos_token="<s>", eos_token="</s>")
    told = json.loads(plain.backend_tokenizer.to_str())
    told["added_tokens"] = [token for token in told["added_tokens"] if token["content"] in ("<s>", "</s>", "<pad>")]
    kept = {token: at for token, at in told["model"]["vocab"].items() if token != "<image>"}
    told["model"]["vocab"] = {token: at for at, token in enumerate(kept)}
    told["model"]["merges"] = []
    bare = hf.PreTrainedTokenizerFast(
        tokenizer_object=__import__("tokenizers").Tokenizer.from_str(json.dumps(told)),
        bos_token="<s>",
        eos_token="</s>",
    )
    bare.add_tokens([f"word{at}" for at in range(len(words()) - len(bare) + 1)])
    bare.save_pretrained(tmp_path / "bare")
    spec = {"path": str(tmp_path / "bare")}
    assert sft.main([*config(tmp_path, folder, {"kind": "hf", "path": str(source)}, tokenizer=spec, steps=1)]) == 0
    run, _ = export.open_model(tmp_path / "run", export.chosen(tmp_path / "run", "latest"))
    tokenizer = hf.AutoTokenizer.from_pretrained(tmp_path / "run" / "tokenizer")
    assert run.get_input_embeddings().num_embeddings == len(tokenizer) > len(words())
    assert run.config.image_token_id == tokenizer.convert_tokens_to_ids("<image>")
    from mmtrain.spec import TrainSpec

    model_spec = TrainSpec.model_validate_json((tmp_path / "run" / "spec.json").read_text()).model
    fresh = models.build(model_spec, tokenizer, seed=0)
    table, old = fresh.get_input_embeddings().weight, make("llava").get_input_embeddings().weight
    assert torch.equal(table[: len(old)], old)
    assert torch.allclose(table[len(old) :], old.mean(0).expand(len(tokenizer) - len(old), -1), atol=1e-6)


PLACES = ("SOURCE", "UNKNOWN", "EMPTY", "WEIGHTLESS", "SOFTCAP", "OWN_CODE", "NARROW_HEAD", "SHORT_TABLE", "ODD_SIZES")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"kind": "hf", "path": "./nowhere"}, "model.path: no such folder"),
        ({"kind": "hf", "path": "SOURCE", "views": {"image": {"sise": 3}}}, "did you mean 'size'"),
        ({"kind": "hf", "path": "UNKNOWN"}, "known are gemma3, idefics3"),
        ({"kind": "hf", "path": "EMPTY"}, "no config.json"),
        ({"kind": "hf", "path": "OWN_CODE"}, "brings code of its own (`auto_map` in its config.json), which is not"),
        ({"kind": "hf", "path": "nobody/nothing", "local_files_only": True}, "`hf download nobody/nothing --local-dir"),
        ({"kind": "hf", "path": "models/of/mine"}, "there is no folder 'models/of/mine', and an id on the hub"),
        ({"kind": "hf", "path": "WEIGHTLESS"}, "random: true"),
        ({"kind": "hf", "path": "SOFTCAP"}, "final_logit_softcapping"),
        ({"kind": "hf", "path": "NARROW_HEAD"}, "ElectraForCausalLM has no hidden states that its head alone"),
        (
            {"kind": "hf", "path": "ODD_SIZES", "random": True},
            "hidden size is not divisible by the number of attention heads",
        ),
        ({"kind": "hf", "path": "SHORT_TABLE"}, "GPT2Model has a table of 40 positions; set data.max_length: 40"),
        (
            {"kind": "native", "vision": {"hidden": 16}, "language": {"kind": "hf", "path": "SHORT_TABLE"}},
            "GPT2Model has a table of 40 positions; set data.max_length: 40",
        ),
        ({"kind": "native", "vision": None, "audio": None}, "both null"),
        ({"kind": "native", "vision": {"merge": 2, "drop": 0.5}}, "set merge: 1"),
        ({"kind": "native", "audio": {"kind": "hf", "path": "SOURCE"}}, "encoders of whisper"),
        ({"kind": "native", "language": {"kind": "hf", "path": "UNKNOWN"}}, "no causal language model"),
        ({"kind": "hg"}, "no such kind"),
    ],
)
def test_mistakes_are_told_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: dict[str, Any], message: str
) -> None:
    places = {name: tmp_path / name.lower() for name in PLACES}
    text = json.dumps(model)
    wanted = [name for name in places if f'"{name}"' in text]
    for name in wanted:
        text = text.replace(f'"{name}"', json.dumps(str(places[name])))
        places[name].mkdir()
        match name:
            case "SOURCE" | "WEIGHTLESS":
                write_folder(places[name], "llava")
                if name == "WEIGHTLESS":
                    (places[name] / "model.safetensors").unlink()
            case "OWN_CODE":
                body = {"model_type": "internvl_chat", "auto_map": {"AutoConfig": "configuration_own.OwnConfig"}}
                (places[name] / "config.json").write_text(json.dumps(body))
            case "UNKNOWN":
                hf.ViTConfig().save_pretrained(places[name])
            case "SOFTCAP":
                small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
                sizes = {**small, "num_key_value_heads": 1, "head_dim": 8, "vocab_size": len(words())}
                hf.Gemma2ForCausalLM(hf.Gemma2Config(**sizes)).save_pretrained(places[name])
                words().save_pretrained(places[name])
            case "NARROW_HEAD":
                small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
                narrow = hf.ElectraConfig(**small, embedding_size=8, vocab_size=len(words()), is_decoder=True)
                hf.ElectraForCausalLM(narrow).save_pretrained(places[name])
                words().save_pretrained(places[name])
            case "SHORT_TABLE":
                short = hf.GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=40, vocab_size=len(words()))
                hf.GPT2LMHeadModel(short).save_pretrained(places[name])
                words().save_pretrained(places[name])
            case "ODD_SIZES":
                odd = {"hidden_size": 33, "num_attention_heads": 8, "num_hidden_layers": 1, "vocab_size": len(words())}
                (places[name] / "config.json").write_text(json.dumps({"model_type": "gpt_neox", **odd}))
                words().save_pretrained(places[name])
    assert sft.main(config(tmp_path, folder, json.loads(text))) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


def test_the_tokenizers_own_chat_template_is_the_default(
    folder: Path,
    media: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    source = write_folder(tmp_path / "source", "llava", chat=True)
    for data, template in ((folder, "caption"), (media, "chat")):
        again = tmp_path / template
        again.mkdir()
        assert sft.main(config(again, data, {"kind": "hf", "path": str(source)}, steps=1)) == 0
        assert json.loads((again / "run" / "spec.json").read_text())["data"]["template"] == template
    out = exported(again)
    assert hf.AutoTokenizer.from_pretrained(out).chat_template is not None


def test_random_needs_no_weights(folder: Path, tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", "llava")
    (source / "model.safetensors").unlink()
    assert sft.main(config(tmp_path, folder, {"kind": "hf", "path": str(source), "random": True}, steps=1)) == 0


def test_an_export_goes_to_a_new_folder(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main([str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "has no checkpoint" in capsys.readouterr().err
    tiny = {"vision": {"hidden": 16}, "language": {"hidden": 16}}
    assert sft.main(config(tmp_path, folder, tiny, steps=1)) == 0
    assert export.main([str(tmp_path / "run"), "--output", str(tmp_path)]) == 2
    assert "holds other files" in capsys.readouterr().err
    assert export.main([str(tmp_path / "run"), "--output", str(tmp_path / "out"), "--checkpoint", "7"]) == 2
    assert "has steps 1, latest" in capsys.readouterr().err
    assert exported(tmp_path, "--checkpoint", "1").is_dir()
    assert not list(tmp_path.glob(".out*"))


def test_a_model_with_dropout_in_its_attention_is_trained(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """GPT-2 as its config comes; packed by masks, for there it can be drawn."""
    shape: dict[str, Any] = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": len(words())}
    hf.GPT2LMHeadModel(hf.GPT2Config(**shape)).save_pretrained(tmp_path / "source")
    words().save_pretrained(tmp_path / "source")
    told = config(tmp_path, texts, {"kind": "hf", "path": str(tmp_path / "source")}, data={"template": "chatml"})
    assert sft.main(told) == 0
    assert "packed by masks (varlen: varlen kernels have no dropout; `attn_pdrop: 0`" in capsys.readouterr().out


def test_answers_end_where_the_template_ends_them(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not where the model's own config says alone, which is a base model's: it would never stop."""
    source = write_folder(tmp_path / "source", "llama")
    tokenizer = hf.AutoTokenizer.from_pretrained(source)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_end|>"]}, replace_extra_special_tokens=False)
    tokenizer.save_pretrained(source)
    own = json.loads((source / "generation_config.json").read_text())
    (source / "generation_config.json").write_text(json.dumps({**own, "eos_token_id": [2, 7], "top_k": 5}))
    ends = [2, 7, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    asked = []
    generate = hf.LlamaForCausalLM.generate

    def recorded(model: Any, *given: Any, **told: Any) -> Any:
        asked.append(told["eos_token_id"])
        return generate(model, *given, **told)

    monkeypatch.setattr(hf.LlamaForCausalLM, "generate", recorded)
    evaluation = {"data": {"x": {"dataset": str(texts)}}, "generate": 1, "max_new_tokens": 2}
    told = config(tmp_path, texts, {"kind": "hf", "path": str(source)}, data=dict(TURNS), evaluation=evaluation)
    assert sft.main(told) == 0
    assert asked == [ends]
    found = json.loads((exported(tmp_path) / "generation_config.json").read_text())
    assert (found["eos_token_id"], found["top_k"]) == (ends, 5)
