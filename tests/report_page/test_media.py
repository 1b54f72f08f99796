"""Reports of sounds, films, conversations and documents: made by the build, the same after a kill, safe, and in a
browser; spectrograms against the view that models are given."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmdata.decode.audio import decode
from mmdata.report import main
from mmdata.report_page import sounds
from mmdata.report_page.films import chosen, filmstrip
from mmdata.shards.dataset import open_dataset
from mmdata.types import Media
from mmdata.views.mel import log_mel_spectrogram
from tests import report_browser as browser
from tests import report_mixed as mixture
from tests.building import build
from tests.steps.footage import film
from tests.steps.recordings import audio, bursts, tone
from tests.test_report import Reader


@pytest.fixture(scope="module")
def page(dataset: Path) -> bytes:
    return (dataset / "report.html").read_bytes()


@pytest.fixture(scope="module")
def stats(dataset: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((dataset / "stats.json").read_bytes())
    return found


def test_every_form_of_sample_is_shown(page: bytes, stats: dict[str, Any]) -> None:
    forms = {form: held["samples"] for form, held in stats["forms"].items()}
    assert forms == {"image": 5, "conversation": 3, "document": 1, "video": 2, "audio": 3}
    read = Reader(page)
    shown = " ".join("".join(read.text).split())
    for title in ("Pictures", "Conversations", "Documents", "Videos", "Sounds", "Sources", "Tasks", "Tokens"):
        assert title in shown
    assert len([e for e in read.of("audio") if e["src"].startswith("data:audio/mpeg;base64,")]) == 4  # one is in a chat
    assert len([e for e in read.of("svg") if e["aria-label"].startswith("Waveform of audio")]) == 4
    times = [e["alt"].rpartition("at ")[2] for e in read.of("img") if e["alt"].startswith("video of sample clips")]
    assert times[:6] == ["0:00.3", "0:01.0", "0:01.6", "0:02.3", "0:03.0", "0:03.6"]
    assert len(times) == 12


def test_turns_tell_who_speaks_and_what_is_trained(page: bytes) -> None:
    text = page.decode()
    cards = re.search(r'<ul class="cards conversation">(.*?)</ul>\s*(?:<h3|</section)', text, re.S)
    assert cards is not None
    turns = re.findall(r'<div class="turn( trained)?">\s*<p class="role">(\w+)', cards[1])
    assert [role for _, role in turns] == ["system", "user", "assistant"] * 3
    assert all(bool(mark) == (role == "assistant") for mark, role in turns)
    # Media stand in the turn of who sends them, before the question that follows.
    first = cards[1][cards[1].index(">user") :]
    assert first.index("<figure") < first.index('class="said"') < first.index(">assistant")


def test_hostile_texts_names_and_tasks_are_text(page: bytes) -> None:
    read, raw = Reader(page), page.decode()
    shown = "".join(read.text)
    assert {tag for tag, _ in read.elements}.isdisjoint({"script", "iframe", "object", "embed", "link", "base", "form"})
    assert mixture.HOSTILE[:40] in shown
    assert "<i>asr</i>" in shown
    assert "{{ 7*7 }}" in shown
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f]", raw)
    for tag, attributes in read.elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert "src" not in attributes or re.match(r"data:(image/jpeg|audio/mpeg);base64,[\w+/=]+$", attributes["src"])
    assert len(page) < 3_000_000


def test_figures_by_source_task_and_kind(dataset: Path, stats: dict[str, Any]) -> None:
    samples = list(open_dataset(dataset))
    by_source = {row["name"]: row for row in stats["sources"]}
    for name, row in by_source.items():
        own = [sample for sample in samples if sample.meta["source"] == name]
        assert row["kept"].get("samples", 0) == row["ok"] == len(own)
        lasting = sum(medium.seconds or 0 for sample in own for medium in sample.media if medium.kind != "image")
        assert row["kept"].get("seconds", 0) == pytest.approx(lasting, abs=1e-4)
        assert sum(reason["records"] for reason in row["reasons"]) == row["records"] - row["ok"]
    assert by_source["photos"]["duplicate"] == 2
    assert by_source["clips"]["failed_permanent"] == 1
    tasks = {name: held["samples"] for name, held in stats["tasks_sampled"].items()}
    assert tasks == {"photos": 5, "clips": 2, "speech": 3, "vqa": 2, "<i>asr</i>": 1, "pages": 1}
    histograms = stats["histograms"]
    assert histograms["audio_seconds"]["n"] == 4
    assert histograms["video_seconds"]["max"] == pytest.approx(4.0, abs=0.1)
    assert histograms["video_fps"]["quantiles"]["p50"] == pytest.approx(20)
    assert histograms["sample_rate"]["max"] == 44_100
    spoken = [s for s in samples if any(m.kind == "audio" for m in s.media)]
    rates = sorted(
        sum(len(t.text.split()) for t in s.texts) / sum(m.seconds for m in s.media if m.seconds) for s in spoken
    )
    assert histograms["speech_rate_sampled"]["max"] == pytest.approx(rates[-1], rel=1e-4)
    assert histograms["turns"]["quantiles"]["p50"] == 3


def test_media_tokens_are_those_of_the_families(dataset: Path, stats: dict[str, Any]) -> None:
    from mmdata.families import family_views

    samples = [sample for sample in open_dataset(dataset) if sample.media]
    for name, kinds in (("qwen2_5_vl", {"image", "video"}), ("whisper", {"audio"})):
        views, counted = family_views(name), []
        for sample in samples:
            if {medium.kind for medium in sample.media} <= kinds:
                chosen_views = views(sample.media)
                counted.append(sum(v.plan(m).tokens for v, m in zip(chosen_views, sample.media, strict=True)))
        told = stats["media_tokens"][name]
        assert told["histogram"]["n"] == len(counted)
        assert told["histogram"]["mean"] == pytest.approx(np.mean(counted), rel=1e-4)
        assert told["left_out"] == {"media_kind": len(samples) - len(counted)}


def test_lengths_of_whole_samples_with_a_tokenizer(dataset: Path, tmp_path: Path) -> None:
    from mmdata.families import get_family
    from mmdata.stream.dataset import StreamingDataset
    from tests.tokenizer_fixture import small_tokenizer

    small_tokenizer().save_pretrained(str(tmp_path / "small"))
    arguments = ["--family", "llava", "--tokenizer", str(tmp_path / "small"), "--template", "document"]
    assert main([str(dataset), "--output", str(tmp_path / "r.html"), *arguments]) == 0
    family = get_family("llava", tokenizer=small_tokenizer())
    stream = StreamingDataset(str(dataset), family=family, template="document", packing="none")
    planned = [item.tokens for deal in stream.deals() if deal.pack for item in deal.pack.items]
    shown = Reader((tmp_path / "r.html").read_bytes())
    told = next(e["aria-label"] for e in shown.of("svg") if "tokens of llava with small" in e.get("aria-label", ""))
    values, low, high = re.search(r"([\d,]+) values from ([\d,]+) to ([\d,]+)", told).groups()  # type: ignore[union-attr]
    numbers = [int(value.replace(",", "")) for value in (values, low, high)]
    assert numbers == [len(planned), min(planned), max(planned)]
    assert "Whole samples as the tokenizer" in "".join(shown.text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--family", "llava"], "families and a tokenizer belong together"),
        (["--tokenizer", "x"], "families and a tokenizer belong together"),
        (["--by", "key"], "give --against OTHER"),
        (["--against", "x"], "--output FILE"),
        (["--against", "x", "--family", "llava", "--output", "y"], "leave --tokenizer, --family"),
    ],
)
def test_arguments_that_say_nothing_are_refused(
    dataset: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(dataset), *arguments]) == 2
    told = capsys.readouterr().err
    assert message in told


def test_duplicates_stand_beside_what_was_kept(page: bytes) -> None:
    alts = [image["alt"] for image in Reader(page).of("img")]
    left = next(at for at, alt in enumerate(alts) if "left out: exact_dup" in alt)
    assert re.fullmatch(r"Record photos-\d+, kept", alts[left + 1])  # also under keys that are not numbers


def test_a_resumed_build_has_the_same_report(dataset: Path) -> None:
    before = (dataset / "report.html").read_bytes()
    last = sorted((dataset / ".build" / "units").glob("*.json"))[-1]
    for path in (dataset / "manifest.json", dataset / "report.html", last, *dataset.glob(f"*/{last.stem}.*")):
        path.unlink()
    build(dataset.parent / "out.yaml", "--set", "engine.workers=1")
    # Times differ: of the run, and of fetching what was built again.
    times = re.compile(
        rb'<dl class="tiles">.*?</dl>|started [^<]*|<caption>The run</caption>.*?</table>|<h2 id="fetch">.*?</section>',
        re.S,
    )
    assert times.sub(b"", (dataset / "report.html").read_bytes()) == times.sub(b"", before)


@pytest.mark.parametrize("seconds", [0.5, 3.0])
def test_the_spectrogram_is_the_one_that_models_are_given(seconds: float) -> None:
    wave = bursts([(0.1, seconds - 0.1)], seconds, noise=0.01)
    assert np.abs(sounds.log_mel(wave, 80) - log_mel_spectrogram(wave, 80).numpy()).max() < 1e-3


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100])
def test_resampling_keeps_a_tone(rate: int) -> None:
    wave = tone(1.0, -6, 1000.0, rate)
    made = sounds.resampled(wave, rate)
    assert len(made) == 16_000
    assert np.abs(made - tone(1.0, -6, 1000.0, 16_000))[200:-200].max() < 0.01


def test_a_sound_is_seen_and_heard(tmp_path: Path) -> None:
    wave = np.concatenate([tone(6.0, -6, 500.0), np.zeros(8000, np.float32)])
    made = sounds.sound(audio(wave, format="FLAC").data or b"")
    assert made.seconds == pytest.approx(6.5)
    assert made.peak == pytest.approx(0.5, abs=0.01)
    picture = Image.open(io.BytesIO(base64.b64decode(made.spectrogram.uri.split(",", 1)[1])))
    light = np.asarray(picture.convert("L"), int)
    assert picture.size == (320, 80)
    low, rest = light[60:75, :280].max(axis=0), light[:50, :280]
    assert np.median(low) > np.median(rest) + 80  # a line of light at 500 Hz
    assert light[:, 310:].max() < 120  # and then silence
    clip = tmp_path / "clip.mp3"  # by name: from memory libsndfile refuses MP3 on some machines
    clip.write_bytes(base64.b64decode(made.clip.split(",", 1)[1]))
    heard, rate = soundfile.read(clip)
    assert rate == 16_000
    assert len(heard) / rate == pytest.approx(sounds.CLIP_SECONDS, abs=0.1)
    assert sounds.sound(audio(wave, format="FLAC").data or b"") == made


def test_of_a_long_sound_the_beginning_is_decoded() -> None:
    made = sounds.sound(audio(np.zeros(16_000 * 90, np.float32)).data or b"")
    assert made.seconds == sounds.SHOWN_SECONDS
    assert made.why == ""


@pytest.mark.parametrize("data", [b"", b"RIFF" + bytes(40), b"ID3" + bytes(500), b"<html>"])
def test_what_cannot_be_heard_or_seen_says_why(data: bytes) -> None:
    assert sounds.sound(data).why.startswith("no preview")
    assert filmstrip(Media(kind="video", data=data)).why.startswith("no preview")


def test_frames_of_a_filmstrip_are_those_of_its_times() -> None:
    made = film(("black", 20, 0), ("rocket", 20, 0), ("black", 20, 0))
    strip = filmstrip(Media(kind="video", data=made.data, height=96, width=128), 3)
    assert [frame.seconds for frame in strip.frames] == pytest.approx([0.5, 1.5, 2.5])
    light = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(frame.picture.uri.split(",", 1)[1])))).mean()
        for frame in strip.frames
    ]
    assert max(light[0], light[2]) < 5 < 20 < light[1]


def test_far_frames_are_replaced_by_their_key_frame() -> None:
    assert chosen(10_000, np.array([0, 4000]), 2, walk=100) == [0, 4000]
    assert chosen(10_000, np.array([0, 4000]), 2, walk=5000) == [2500, 7500]


def test_clips_and_waves_agree_with_the_decoder() -> None:
    wave = bursts([(0.2, 0.8)], 1.0, noise=0.01)
    data = audio(wave, format="FLAC").data or b""
    path = sounds.outline(decode(data).numpy(), columns=20)
    highs = [float(point.split(" ")[1]) for point in path[1:-1].split("L")[:20]]
    assert highs.index(min(highs)) in range(4, 16)  # the burst
    assert max(highs[:3] + highs[17:]) > 22  # near the middle line of 24


@pytest.mark.skipif(browser.BINARY is None, reason="no Chromium on this machine: apt-get install chromium")
def test_page_in_a_browser(dataset: Path, page: bytes) -> None:
    shots = asyncio.run(browser.shoot(dataset / "report.html", ((390, 844), (1280, 900))))
    for (width, scheme), shot in shots.items():
        facts = shot.facts
        assert width == facts["viewport"] == facts["content"], (width, scheme)
        assert facts["wide"] == facts["clipped"] == facts["requests"] == []
        assert facts["title"] == "out · dataset report"
        assert (facts["scripts"], facts["handlers"], facts["broken"]) == (0, 0, 0)
        assert facts["pictures"] == len(Reader(page).of("img"))
        assert [round(seconds) for seconds in sorted(facts["sounds"])] == [1, 2, 3, 3]  # they can be played
