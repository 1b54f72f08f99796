"""Speech manifests and folders as a source: segments by sample, transcripts, what has no recording, no command run."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from mmdata.errors import SpecError
from mmdata.sources.audio import Audio
from mmdata.types import Clip
from tests.sources.run import built, records, states

RATE = 16_000


def sound(path: Path, seconds: float, number: int = 0) -> np.ndarray:
    wave = np.round(9000 * np.sin(np.arange(int(RATE * seconds)) / (5 + number))).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, RATE, subtype="PCM_16")
    return wave


def lines(path: Path, *values: Any) -> Path:
    path.write_text("\n".join(value if isinstance(value, str) else json.dumps(value) for value in values))
    return path


def reasons(found: list[Any]) -> list[str]:
    return [record.drop.reason if record.drop else "" for record in found]


def test_nemos_manifest_is_built_segment_by_segment(tmp_path: Path) -> None:
    wave = sound(tmp_path / "wavs" / "a.wav", 1.0)
    path = lines(
        tmp_path / "manifest.json",
        {"audio_filepath": "wavs/a.wav", "duration": 1.0, "text": "the whole", "lang": "en"},
        {"audio_filepath": "wavs/a.wav", "offset": 0.25, "duration": 0.5, "text": "a part"},
        {"audio_filepath": "wavs/a.wav", "offset": 7, "duration": 0.5, "text": "beyond"},
        {"audio_filepath": "../a.wav", "duration": 1.0},
        {"audio_filepath": "wavs/none.wav", "duration": 1.0, "text": "x"},
        {"duration": 1.0},
        {"audio_filepath": "wavs/a.wav", "offset": "x", "text": "y"},
    )
    source = {"kind": "audio", "path": str(path)}
    dataset, rows = built(tmp_path / "out", source)
    assert states(rows) == [
        *("ok", "ok", "failed_permanent:clip_beyond_end", "failed_permanent:path_escape", "failed_permanent:not_found"),
        *("failed_permanent:bad_record", "failed_permanent:bad_record"),
    ]
    assert "source.root" in rows[3].detail
    assert dataset[0].media[0].data == (tmp_path / "wavs" / "a.wav").read_bytes()
    assert (dataset[0].texts[0].text, dataset[0].meta["lang"]) == ("the whole", "en")
    part, rate = soundfile.read(io.BytesIO(dataset[1].media[0].data or b""), dtype="int16")
    assert rate == RATE
    assert np.array_equal(part, wave[4000:12000])
    assert dataset[1].media[0].samples == 8000
    assert len(records(source)) == 7


def test_segments_beyond_the_end_do_not_keep_their_words(tmp_path: Path) -> None:
    wave = sound(tmp_path / "a.wav", 1.0)
    spans = ((0.5, 1.0), (0.5, 1.2), (0.8, 1.3), (0.0, 9.0), (0.9, -1))
    rows = [f"s{at} r {start} {stop}" for at, (start, stop) in enumerate(spans)]
    lines(tmp_path / "segments", *rows)
    lines(tmp_path / "wav.scp", "r a.wav")
    lines(tmp_path / "text", *(f"s{at} words" for at in range(len(spans))))
    dataset, found = built(tmp_path / "out", {"kind": "audio", "path": str(tmp_path)})
    assert states(found) == ["ok", "ok", *["failed_permanent:clip_beyond_end"] * 2, "ok"]
    assert found[3].detail.startswith("the sound ends at 1 s, and the clip 8 s later")
    assert [sample.media[0].samples for sample in dataset] == [8000, 8000, 1600]
    part, _ = soundfile.read(io.BytesIO(dataset[1].media[0].data or b""), dtype="int16")
    assert np.array_equal(part, wave[8000:])


def cut(**more: Any) -> dict[str, Any]:
    recording = {"id": "r", "sources": [{"type": "file", "channels": [0], "source": "a.wav"}], "duration": 2.0}
    return {"id": "c", "start": 0, "duration": 2.0, "recording": recording, "type": "MonoCut", **more}


def test_lhotses_cuts(tmp_path: Path) -> None:
    said = [
        {"id": "s2", "start": 1.0, "duration": 0.5, "text": "second", "speaker": "b"},
        {"id": "s1", "start": 0.25, "duration": 0.5, "text": "first", "speaker": "a", "language": "en"},
    ]
    command = cut()
    command["recording"]["sources"][0] = {"type": "command", "source": "rm -rf /"}
    path = lines(
        tmp_path / "cuts.jsonl",
        cut(supervisions=said),
        cut(start=0.5, duration=1.0, supervisions=said[:1]),
        command,
        {"id": "m", "tracks": [], "type": "MixedCut"},
    )
    source = {"kind": "audio", "path": str(path)}
    found = records(source)
    assert reasons(found) == ["", "", "command", "bad_record"]
    assert [record.sample.media[0].excerpt for record in found[:2]] == [None, Clip(start=0.5, stop=1.5)]
    assert found[0].sample.texts[0].text == "first second"
    assert found[0].sample.meta == {"id": "c", "recording": "r", "speaker": ["a", "b"], "language": "en"}
    each = records({**source, "supervisions": True})
    assert [(record.sample.media[0].excerpt, record.sample.texts[0].text) for record in each[:3]] == [
        (Clip(start=0.25, stop=0.75), "first"),
        (Clip(start=1.0, stop=1.5), "second"),
        (Clip(start=1.5, stop=2.0), "second"),
    ]


def test_nemo_counts_from_the_beginning_where_it_says_no_offset(tmp_path: Path) -> None:
    wave = sound(tmp_path / "a.wav", 1.0)
    soundfile.write(tmp_path / "b.ogg", wave, RATE)
    path = lines(
        tmp_path / "manifest.jsonl",
        *({"audio_filepath": "a.wav", "duration": seconds} for seconds in (0.5, 0.95, 3, 0, None)),
        *({"audio_filepath": "b.ogg", "duration": seconds} for seconds in (0.5, 1.02)),
        {"audio_filepath": "manifest.jsonl", "duration": 1},
    )
    dataset, rows = built(tmp_path / "out", {"kind": "audio", "path": str(path)})
    assert states(rows) == [*["ok"] * 7, "failed_permanent:not_audio"]
    own, packed = (tmp_path / "a.wav").read_bytes(), (tmp_path / "b.ogg").read_bytes()
    data = [sample.media[0].data or b"" for sample in dataset]
    assert [item == own for item in data[1:5]] == [True] * 4
    assert np.array_equal(soundfile.read(io.BytesIO(data[0]), dtype="int16")[0], wave[:8000])
    assert soundfile.info(io.BytesIO(data[5])).frames == 8000
    assert data[6] == packed


def test_of_lhotses_cuts_the_channel_is_heard(tmp_path: Path) -> None:
    left, right = sound(tmp_path / "l.wav", 2.0), sound(tmp_path / "r.wav", 2.0, 3)
    soundfile.write(tmp_path / "both.wav", np.stack([left, right], 1), RATE, subtype="PCM_16")
    both = [{"type": "file", "channels": [4, 7], "source": "both.wav"}]
    two = [{"type": "file", "channels": [n], "source": name} for n, name in enumerate(("l.wav", "r.wav"))]

    def of(sources: list[Any], channel: Any, **more: Any) -> dict[str, Any]:
        recording = {"id": "r", "sources": sources, "duration": 2.0, **more.pop("recording", {})}
        return cut(recording=recording, channel=channel, **more)

    said = [{"id": n, "start": 0, "duration": 1.0, "channel": n} for n in (4, 7)]
    path = lines(
        tmp_path / "cuts.jsonl",
        of(both, 4, start=0.5, duration=1.0),
        of(both, 7),
        of(two, 0),
        of(two, 1, start=0.5, duration=1.0),
        of(both, [4, 7], type="MultiCut", supervisions=said),
        of(both, 4, recording={"transforms": [{"name": "Resample", "kwargs": {"sampling_rate": 8000}}]}),
        of(both, 5),
        of(two, [0, 1], type="MultiCut"),
        of(two, None),
        of(two, "left"),
        of(two, 0, recording={"transforms": 7}),
        of(two, 0, recording={"transforms": [{"name": "Speed", "kwargs": {"factor": 1.1}}]}),
    )
    source = {"kind": "audio", "path": str(path)}
    dataset, rows = built(tmp_path / "out", source)
    assert states(rows) == [*["ok"] * 6, *["failed_permanent:bad_record"] * 6]
    waves = [soundfile.read(io.BytesIO(sample.media[0].data or b""), dtype="int16")[0] for sample in dataset]
    expected = [left[8000:24000], right, left, right[8000:24000], np.stack([left, right], 1), left]
    assert all(np.array_equal(*pair) for pair in zip(waves, expected, strict=True))
    assert [dataset[at].media[0].data == (tmp_path / name).read_bytes() for at, name in ((2, "l.wav"), (4, "both.wav"))]
    each = [record.sample.media[0] for record in records({**source, "supervisions": True}) if record.sample.media]
    assert [media.excerpt for media in each] == [Clip(start=0, stop=1, channel=0), Clip(start=0, stop=1, channel=1)]


@pytest.mark.parametrize("each", [False, True])
def test_cuts_of_odd_types_cost_themselves_alone(tmp_path: Path, each: bool) -> None:
    said = {"id": "s", "start": 0.25, "duration": 0.5, "text": 5, "speaker": ["a", "b"]}
    good = cut(supervisions=[said, said])
    bad = [{"supervisions": 7}, {"custom": "x"}, {"start": 10**400}, {"supervisions": [{**said, "start": 10**400}]}]
    path = lines(tmp_path / "cuts.jsonl", good, *(cut(**more) for more in bad), good)
    found = records({"kind": "audio", "path": str(path), "supervisions": each})
    kept = 2 if each else 1
    assert reasons(found) == [*[""] * kept, *["bad_record"] * len(bad), *[""] * kept]
    assert found[0].sample.texts[0].text == ("5" if each else "5 5")
    assert found[0].sample.meta["speaker"] == ["a", "b"]


def test_kaldis_lists_are_parted_by_white_space_and_ended_by_line_feeds(tmp_path: Path) -> None:
    (tmp_path / "wav.scp").write_bytes(b"a\tx.wav\r\nb   y.wav\n\n")
    (tmp_path / "text").write_text("a one\ttwo\nb\tthree\u2028four \x0cfive\n")
    found = records({"kind": "audio", "path": str(tmp_path)})
    assert reasons(found) == ["", ""]
    assert [record.sample.media[0].uri for record in found] == [str(tmp_path / "x.wav"), str(tmp_path / "y.wav")]
    assert [record.sample.texts[0].text for record in found] == ["one\ttwo", "three\u2028four \x0cfive"]


def test_kaldis_folder(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    sound(folder / "a.wav", 1.0)
    lines(folder / "wav.scp", "rec1 a.wav", "rec2 sph2pipe -f wav x.sph |")
    lines(
        folder / "segments",
        "u1 rec1 0.1 0.4",
        "u2 rec1 0.5 -1",
        "u3 rec2 0 1",
        "u4 rec9 0 1",
        "u5 rec1 1",
        "u6 rec1 2 1",
    )
    lines(folder / "text", "u1 hello world", "u2 to the end", "u7 nobody said it")
    lines(folder / "utt2spk", "u1 anna", "u2 ben")
    found = records({"kind": "audio", "path": str(folder)})
    assert reasons(found) == ["", "", "command", "no_recording", "bad_record", "bad_clip", "no_recording"]
    assert [record.sample.media[0].excerpt for record in found[:2]] == [Clip(start=0.1, stop=0.4), Clip(start=0.5)]
    assert [record.sample.texts[0].text for record in found[:2]] == ["hello world", "to the end"]
    assert found[0].sample.meta == {"id": "u1", "speaker": "anna"}
    (folder / "segments").unlink()
    assert reasons(records({"kind": "audio", "path": str(folder)}))[:2] == ["", "command"]


def test_librispeechs_folders(tmp_path: Path) -> None:
    for number in range(2):
        sound(tmp_path / "dev" / "84" / "121123" / f"84-121123-000{number}.flac", 0.2, number)
    lines(
        tmp_path / "dev" / "84" / "121123" / "84-121123.trans.txt", *(f"84-121123-000{n} WORDS {n}" for n in range(3))
    )
    found = records({"kind": "audio", "path": str(tmp_path / "dev")})
    assert reasons(found) == ["", "", "no_recording"]
    assert found[1].sample.texts[0].text == "WORDS 1"
    assert found[1].sample.meta == {"id": "84-121123-0001", "speaker": "84", "chapter": "121123"}
    assert (found[1].sample.media[0].uri or "").endswith("dev/84/121123/84-121123-0001.flac")


def test_what_is_none_of_them_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpecError, match=r"neither wav\.scp \(Kaldi\) nor"):
        Audio(path=str(tmp_path / "empty")).open()
    with pytest.raises(SpecError, match=r"source\.form: .* they have audio, text"):
        Audio(path=str(lines(tmp_path / "x.jsonl", {"audio": "a", "text": "b"}))).open()
