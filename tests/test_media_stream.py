"""Images, videos, sounds and conversations through every door: built, verified, planned, streamed, collated."""

from __future__ import annotations

import io
import json
import wave
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmdata import StreamingDataset, StreamLoader, open_dataset
from mmdata.collate import PackedCollator, model_inputs
from mmdata.decode.audio import decode as decode_audio
from mmdata.decode.image import decode as decode_image
from mmdata.decode.video import decode_frames
from mmdata.families import Family, get_family
from mmdata.families._family import plan_media
from mmdata.types import Media, Packed
from mmdata.verify import verify_dataset
from tests.building import build, ledger, picture, write_spec
from tests.decode.clips import clip
from tests.families.processors import tokenizer

NAMED = {
    "image_token": "<|IMAGE|>",
    "video_token": "<|VIDEO|>",
    "audio_token": "<|AUDIO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
    "im_start": "<|im_start|>",
    "im_end": "<|im_end|>",
    "native_image": "<image>",
    "native_video": "<video>",
    "native_audio": "<audio>",
}


def tone(seconds: float, rate: int) -> bytes:
    samples = (np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate) * 20_000).astype("<i2")
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return out.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve lines: pictures, clips, tones, two pictures at once, text alone; one clip is cut, one tone is empty."""
    root = tmp_path_factory.mktemp("media")
    lines: list[dict[str, Any]] = []

    def line(text: str, **media: Any) -> None:
        said = [{"role": "user", "content": text}, {"role": "assistant", "content": f"It is number {len(lines)}."}]
        lines.append({**media, "messages": said})

    for number in range(4):
        picture(number, (90 + 40 * number, 120)).save(root / f"{number}.jpg")
        line("What is this?", image=f"{number}.jpg")
    for number, (frames, rate) in enumerate([(12, 5), (31, 10)]):
        (root / f"{number}.mp4").write_bytes(clip(frames=frames, rate=Fraction(rate)))
        line("What moves?", video=f"{number}.mp4")
    for number, (seconds, rate) in enumerate([(1.0, 16_000), (2.3, 44_100)]):
        (root / f"{number}.wav").write_bytes(tone(seconds, rate))
        line("What sounds?", audio=f"{number}.wav")
    line("Which is larger?", image=["0.jpg", "3.jpg"])
    line("Nothing to see.")
    (root / "cut.mp4").write_bytes(clip(frames=31, rate=Fraction(10))[:3000])
    line("What moves?", video="cut.mp4")
    (root / "empty.wav").write_bytes(b"")
    line("What sounds?", audio="empty.wav")
    (root / "lines.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    source = {"kind": "jsonl", "path": "lines.jsonl", "columns": {"image": "image", "video": "video", "audio": "audio"}}
    spec = write_spec(root / "spec.yaml", source, [{"kind": "probe"}])
    build(spec)
    return root / "out"


def family(name: str) -> Family:
    words = tokenizer(**NAMED)
    small = {"min_pixels": 56 * 56, "max_pixels": 140 * 140}
    if name == "native":
        return get_family(name, tokenizer=words, video={"max_pixels": 64 * 64})
    return get_family(name, tokenizer=words, image=small, video=small)


def test_the_dataset_knows_every_fact(folder: Path) -> None:
    states = [row.state for row in ledger(folder)]
    assert states == ["ok"] * 10 + ["failed_permanent"] * 2
    assert not verify_dataset(folder).problems
    samples = list(open_dataset(folder))
    video = samples[5].media[0]
    assert (video.kind, video.frames, video.fps, video.verified) == ("video", 31, 10.0, "full")
    assert video.packets is not None
    audio = samples[7].media[0]
    assert (audio.samples, audio.sample_rate, audio.channels) == (int(2.3 * 44_100), 44_100, 1)


@pytest.mark.parametrize("name", ["qwen2_5_omni", "native"])
def test_packs_hold_what_the_views_make_of_the_bytes(folder: Path, name: str) -> None:
    taken = family(name)
    stream = StreamingDataset(folder, family=taken, template="chatml", max_length=2048, seed=3)
    packs = list(stream)
    assert not stream.bad
    dataset = open_dataset(folder)
    keys = [key for pack in packs for key in pack.keys]
    assert sorted(keys) == sorted(dataset.keys())
    expected: dict[str, list[np.ndarray]] = {}
    for key in keys:
        sample = dataset[key]
        for medium, plan in zip(sample.media, plan_media(taken, sample.media), strict=True):
            rule = taken.media[medium.kind]
            array = rule.view.realize(source(medium, plan), plan).numpy()
            expected.setdefault(rule.key, []).append(array)
    for key, arrays in expected.items():
        found = np.concatenate([pack.media[key].reshape(-1) for pack in packs if key in pack.media])
        if taken.media["audio"].join == "pad" and key == "input_features":
            assert found.size >= sum(array.size for array in arrays)
            continue
        assert np.array_equal(found, np.concatenate([array.reshape(-1) for array in arrays])), key
    for pack in packs:
        trained = taken.tokenizer.decode(pack.labels[pack.labels >= 0])  # type: ignore[attr-defined]
        assert trained.count("It is number") == len(pack.keys)
        assert "What" not in trained
        check_slots(pack, taken)
    batch = model_inputs(PackedCollator()(packs[0]))
    assert batch["position_ids"].shape[0] == (4 if name == "qwen2_5_omni" else 1)


def source(medium: Media, plan: Any) -> Any:
    assert medium.data is not None
    if medium.kind == "image":
        return decode_image(medium.data, max_pixels=10**8)
    if medium.kind == "video":
        return decode_frames(medium.data, plan.frames).pixels
    return decode_audio(medium.data)


def check_slots(pack: Packed, taken: Family) -> None:
    for slot in pack.slots:
        ids = pack.input_ids[slot.start : slot.start + slot.length]
        assert (ids == taken.placeholder_id(taken.media[slot.kind])).sum() == slot.tokens
        assert (pack.labels[slot.start : slot.start + slot.length] == -100).all()


def test_a_loader_resumes_in_the_middle(folder: Path) -> None:
    def loader() -> StreamLoader:
        stream = StreamingDataset(folder, family=family("qwen2_5_omni"), template="chatml", max_length=600, epochs=2)
        return StreamLoader(stream, PackedCollator())

    whole = [batch["keys"] for batch in loader()]
    first = loader()
    taken = iter(first)
    seen = [next(taken)["keys"] for _ in range(3)]
    state = first.state_dict()
    second = loader()
    second.load_state_dict(state)
    assert seen + [batch["keys"] for batch in second] == whole


def test_a_changed_clip_is_masked_in_its_place(folder: Path, tmp_path: Path) -> None:
    """Facts that the bytes do not bear out: the pack keeps its shape and trains nothing of that sample."""
    from dataclasses import replace

    from mmdata.stream.reader import read_pack
    from mmdata.types import Item, Pack

    taken = family("qwen2_5_omni")
    stream = StreamingDataset(folder, family=taken, template="chatml", max_length=2048)
    item: Item = next(
        item for pack in stream.block().packs for item in pack.items if item.media and item.media[0].kind == "video"
    )
    far = replace(item.media[0], frames=tuple(index + 1000 for index in item.media[0].frames))
    pack = Pack(epoch=0, block=0, number=0, items=(replace(item, media=(far,)),))
    packed = read_pack(pack, stream.datasets, taken, stream.templates, stream.spec)
    assert [reason for _, reason in packed.masked] == ["frame_out_of_range"]
    assert (packed.labels == -100).all()
    assert packed.media["pixel_values_videos"].shape == far.shape
    assert torch.isfinite(torch.from_numpy(packed.media["pixel_values_videos"])).all()
