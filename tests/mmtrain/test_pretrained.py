"""A real little LLaVA through the commands: pretrained parts out of pip packages, photographs, align and then LoRA.

The packages are optional: what needs them is skipped where they are not installed. `SMOL_WHEELS` names a folder of
wheels that are read instead."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf

from examples.llava_smol import dinov2, make, smollm2
from mmdata import build
from mmtrain import evaluate, sft

EXAMPLE = Path(__file__).parents[2] / "examples" / "llava_smol"
WHEELS = Path(os.environ["SMOL_WHEELS"]) if os.environ.get("SMOL_WHEELS") else None


@pytest.fixture(scope="module")
def smol(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What make.py makes."""
    if missing := make.lacking(WHEELS):
        pytest.skip(f"not installed: {' '.join(missing)} (pip install --no-deps, or SMOL_WHEELS=folder of wheels)")
    folder = tmp_path_factory.mktemp("smol")
    told = [] if WHEELS is None else ["--wheels", str(WHEELS)]
    assert make.main([str(folder), *told]) == 0
    return folder


def given(name: str) -> bytes:
    return make.read(make.sources()[name], WHEELS)


def test_missing_packages_are_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of them, with the command that gets them; nothing is written."""
    gone = make.Source(package="no-such-package==1.0", file="a/b.gguf", sha256="0" * 64)
    monkeypatch.setattr(make, "LANGUAGE", gone)
    assert make.main([str(tmp_path / "out"), "--wheels", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "no-such-package==1.0" in said.split(": pip install --no-deps ")[1]
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert make.main([str(tmp_path / "out"), "--wheels", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_another_file_is_refused(tmp_path: Path) -> None:
    """In a wheel, and where it is installed: a package that changed a file is not read on."""
    import zipfile

    with zipfile.ZipFile(tmp_path / "Some_Package-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("some/b.gguf", b"other bytes")
        wheel.writestr("awesome/b.gguf", b"not these: the path ends alike, its folder does not")
    digest = hashlib.sha256(b"other bytes").hexdigest()
    assert make.read(make.Source(package="some-package==1.0", file="some/b.gguf", sha256=digest), tmp_path)
    with pytest.raises(ValueError, match=f"another file than was looked at: its sha256 is {digest[:12]}"):
        make.read(make.Source(package="some-package==1.0", file="some/b.gguf", sha256="0" * 64), tmp_path)
    with pytest.raises(ValueError, match="another file"):
        make.read(make.Source(package="numpy", file="numpy/__init__.py", sha256="0" * 64), None)
    with pytest.raises(make.Missing):
        make.read(make.Source(package="numpy", file="numpy/no_such_file.gguf", sha256="0" * 64), None)


def test_conversations_name_each_photograph() -> None:
    """Each line is one question, its answer, and a picture that make.py writes; what is held out is in no other."""
    learned = [photo for photo in make.photos() if not photo.get("held_out")]
    heldout = [photo for photo in make.photos() if photo.get("held_out")]
    assert len(learned) >= 20
    assert len(heldout) >= 3
    both = [json.loads(line) for line in make.lines(learned) + make.lines(heldout)]
    assert {line["image"] for line in both} == {name for name in make.sources() if name.startswith("photos/")}
    first = [json.loads(line)["image"] for line in make.lines(learned)[: len(learned)]]
    assert len(set(first)) == len(learned)  # so that the first so many of an evaluation are different photographs
    assert all(line["conversations"][0]["value"].startswith("<image>\n") for line in both)
    assert {photo["name"] for photo in learned}.isdisjoint(photo["name"] for photo in heldout)


def test_files_of_other_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="no GGUF file of version 3"):
        smollm2.read(b"GGML" + bytes(100))
    for wrong in (b"not protobuf at all", b"", b"\x3a\x7f"):
        with pytest.raises(ValueError, match=r"no ONNX|ends \d+ bytes behind|unpack|graph"):
            dinov2.tower(dinov2.weights(wrong))


@pytest.mark.soak
def test_the_language_model_is_the_one_in_the_file(smol: Path) -> None:
    """It knows what the capital of France is, and each tensor is what the gguf package makes of it, where that is
    installed."""
    tokenizer = hf.AutoTokenizer.from_pretrained(smol / "smollm2")
    model, told = hf.AutoModelForCausalLM.from_pretrained(smol / "smollm2", output_loading_info=True)
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    said = tokenizer.decode(model.generate(ids, max_new_tokens=4, do_sample=False)[0])
    assert said.startswith("The capital of France is Paris.")
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    ids = model.generate(asked["input_ids"], max_new_tokens=20, do_sample=False)
    assert tokenizer.decode(ids[0]).endswith("assistant\nThe capital of France is Paris.<|im_end|>")
    assert tokenizer.tokenize("in 2025") == ["in", "Ġ", "2", "0", "2", "5"]
    text = "Ünïcode, 漢字 🙂\n\tcode = [1, 2]  # two  blanks"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    package = pytest.importorskip("gguf", reason="the gguf package, to compare with, is not installed")
    file = smol / "model.gguf"
    file.write_bytes(given("smollm2"))
    mine = smollm2.read(file.read_bytes()).tensors
    for tensor in package.GGUFReader(file).tensors:
        assert np.array_equal(mine[tensor.name], package.dequantize(tensor.data, tensor.tensor_type)), tensor.name


@pytest.mark.soak
def test_the_tower_is_the_one_in_the_graph(smol: Path) -> None:
    """No weight is missing or left over; features are those of the graph, where onnx and onnxruntime are installed."""
    tower, told = hf.AutoModel.from_pretrained(smol / "dinov2", output_loading_info=True)
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert isinstance(tower, hf.Dinov2Model)
    assert (tower.config.hidden_size, tower.config.num_hidden_layers, tower.config.image_size) == (384, 12, 518)
    onnx = pytest.importorskip("onnx", reason="onnx and onnxruntime, to compare with, are not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime, to compare with, is not installed")
    graph = onnx.load_from_string(given("dinov2"))
    name = "/backbone/layernorm/Add_1_output_0"
    graph.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    pixels = np.random.default_rng(0).normal(size=(2, 3, 224, 224)).astype(np.float32)
    (expected,) = runtime.InferenceSession(graph.SerializeToString()).run([name], {"input_image": pixels})
    with torch.no_grad():
        found = tower(torch.from_numpy(pixels)).last_hidden_state.numpy()
    assert np.abs(found - expected).max() < 1e-4  # of values up to 8


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_recipe_learns_photographs(smol: Path, tmp_path: Path) -> None:
    """Few steps of both stages, packed: the loss falls in each, only what is to learn moves, and the page shows answers
    beside their photographs."""
    for name in ("align", "instruct", "heldout"):
        told = ["--set", f"source.path={smol / name}.jsonl", "--output", str(smol / "data" / name), "--quiet"]
        assert build.main(["--spec", str(EXAMPLE / "build.yaml"), *told]) == 0
    run = tmp_path / "run"
    changes = [
        f"data.dataset={smol / 'data' / 'instruct'}",
        f"stages.0.data.dataset={smol / 'data' / 'align'}",
        f"evaluation.data.learned.dataset={smol / 'data' / 'instruct'}",
        f"evaluation.data.heldout.dataset={smol / 'data' / 'heldout'}",
        f"model.vision.path={smol / 'dinov2'}",
        f"model.language.path={smol / 'smollm2'}",
        f"output={run}",
        "stages.0.steps=6",
        "stages.1.steps=12",
        "evaluation.every=6",
        "evaluation.batches=1",
        "evaluation.generate=2",
    ]
    assert sft.main(["--config", str(EXAMPLE / "recipe.yaml"), "--set", *changes]) == 0
    found = []
    for stage in ("01-align", "02-instruct"):
        found += [json.loads(line)["learned/loss"] for line in (run / stage / "evaluations.jsonl").open()]
    assert len(found) == 3
    assert found == sorted(found, reverse=True), found  # over the same samples each time, so that no draw shows
    assert (run / "02-instruct" / "adapter").is_dir()
    page = tmp_path / "page.html"
    asked = [str(run / "02-instruct"), "--generate", "4", "--max-new-tokens", "12", "--batches", "1"]
    assert evaluate.main([*asked, "--html", str(page)]) == 0
    shown = page.read_text()
    answers: list[Any] = re.findall(r"data:image/", shown)
    assert len(answers) >= 8  # four of each
    assert "Describe this photo." in shown
    assert "A smiling astronaut in an orange space suit." in shown
