"""What a process can find out about the packages it has, by using them. Each probe runs in a process of its own
(`mmdata.doctor`), since a package that is broken may crash, hang or print what it likes.

A probe answers facts as JSON; what goes wrong in it is the answer too. Nothing is imported here but by a probe.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import io
from collections.abc import Callable
from typing import Any

Facts = dict[str, Any]


def torch() -> Facts:
    """PyTorch, and the GPUs that it can really compute on."""
    import torch as module

    found: Facts = {"version": module.__version__, "built for CUDA": module.version.cuda, "gpus": []}
    for index in range(module.cuda.device_count() if module.cuda.is_available() else 0):
        one = module.ones(1, device=f"cuda:{index}")
        assert float(one + 1) == 2.0, f"GPU {index} computes 1 + 1 = {float(one + 1)}"
        found["gpus"].append(module.cuda.get_device_name(index))
    assert float(module.ones(2) @ module.ones(2)) == 2.0
    return found


def training() -> Facts:
    """What mmtrain stands on, and which kernel packed rows go through on a GPU; on a CPU that is its exact twin."""
    names = ("transformers", "peft", "safetensors", "tokenizers", "torchvision")
    found: Facts = {name: getattr(importlib.import_module(name), "__version__", "?") for name in names}
    kernel = importlib.import_module("mmtrain.attention")._torch_kernel()  # named, not imported: it lives above
    return {**found, "kernel": "flash_attn, if installed" if kernel is None else "torch's varlen_attn"}


def kernels() -> Facts:
    """Whether our own kernels were compiled, which of them this processor runs, and that they count as numpy does."""
    import numpy as np

    from mmdata.native import calls, library, writing

    if library.kernels() is None:
        return {"compiled": False, "wanted": library.wanted(), "older": library.compiled() is not None}
    pixels = np.arange(3 * 16 * 32, dtype=np.uint8).reshape(3, 16, 32)
    floats = np.empty(pixels.shape, np.float32)
    writing.write_planes(pixels, floats, ((1.0, 2.0, 3.0), (4.0, 5.0, 7.0)))
    shift, scale = (np.array(of, np.float32)[:, None, None] for of in ((1, 2, 3), (4, 5, 7)))
    expected = (pixels - shift) / scale
    assert np.array_equal(floats, expected), "the kernels do not count as numpy does"
    return {"compiled": True, "level": library.level(), "called": calls.calls() is not None}


def images() -> Facts:
    """Formats that a picture was written in and read back from, and what failed of the others."""
    from PIL import Image

    from mmdata.decode import image

    picture = Image.new("RGB", (24, 16), (200, 30, 60))
    names = {"jpeg": "JPEG", "png": "PNG", "gif": "GIF", "webp": "WEBP", "tiff": "TIFF", "bmp": "BMP"}
    names |= {"avif": "AVIF", "jp2": "JPEG2000"}
    decoded, failed = [], {}
    for format, name in names.items():
        try:
            file = io.BytesIO()
            picture.save(file, name)
            pixels = image.decode(file.getvalue(), max_pixels=10_000)
            assert pixels.shape == (16, 24, 3), f"decoded to {pixels.shape}"
            decoded.append(format)
        except Exception as error:
            failed[format] = f"{type(error).__name__}: {error}"
    return {"decoded": decoded, "failed": failed}


def video() -> Facts:
    """FFmpeg's libraries as PyAV brings them, the codecs they have, and a clip through the decoder that `auto` is."""
    import av
    import numpy as np

    from mmdata.decode.video import decode_frames, pick_backend

    def has(codec: str) -> bool:
        try:
            return bool(av.codec.Codec(codec, "r"))
        except Exception:  # PyAV has changed what it raises
            return False

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as made:
        stream: Any = made.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for level in range(4):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 60 * level, np.uint8), format="rgb24")
            made.mux(stream.encode(frame))
        made.mux(stream.encode(None))
    frames = decode_frames(file.getvalue(), [0, 3])
    assert tuple(frames.pixels.shape) == (2, 3, 32, 32), tuple(frames.pixels.shape)
    libraries = {name: ".".join(map(str, version)) for name, version in av.library_versions.items()}
    codecs = ("h264", "hevc", "vp9", "av1", "mpeg4", "aac", "mp3", "opus", "flac")
    return {
        "version": av.__version__,
        "libraries": libraries,
        "backend": pick_backend("auto"),
        "codecs": [name for name in codecs if has(name)],
        "missing": [name for name in codecs if not has(name)],
    }


def audio() -> Facts:
    """Formats that a sound was written in and read back from, and what failed of the others."""
    import av
    import numpy as np

    from mmdata.decode import audio as sounds

    wave = (np.sin(np.arange(1600) / 9) * 9000).astype(np.int16)
    decoded, failed = [], {}
    for name, codec in {
        "wav": "pcm_s16le",
        "flac": "flac",
        "ogg": "libopus",
        "mp3": "libmp3lame",
        "mp4": "aac",
    }.items():
        try:
            file = io.BytesIO()
            with av.open(file, "w", format=name) as made:
                stream: Any = made.add_stream(codec, rate=48_000 if name == "ogg" else 16_000, layout="mono")
                frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
                frame.sample_rate = stream.rate
                resampler = av.AudioResampler(format=stream.format, layout="mono", rate=stream.rate)
                for piece in [*resampler.resample(frame), *resampler.resample(None)]:
                    made.mux(stream.encode(piece))
                made.mux(stream.encode(None))
            heard = sounds.decode(file.getvalue(), sample_rate=None)
            assert 1200 < len(heard) < 4000, f"{len(heard)} samples of 1600"
            decoded.append(name)
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}"
    return {"decoded": decoded, "failed": failed}


def dali() -> Facts:
    """NVIDIA DALI, by a picture through its CPU graph."""
    import nvidia.dali as module
    from PIL import Image

    from mmdata.decode.dali import Picture, realize_images
    from mmdata.types import Resize

    file = io.BytesIO()
    Image.new("RGB", (24, 16), (200, 30, 60)).save(file, "JPEG")
    ops = (Resize(height=8, width=12, filter="bicubic"),)
    picture = Picture(data=file.getvalue(), ops=ops, on_cpu=lambda _: _unexpected())
    (made,) = realize_images([picture], max_pixels=10_000)
    if isinstance(made, Exception):
        raise made
    return {"version": module.__version__, "made": list(made.shape)}


def _unexpected() -> Any:
    raise AssertionError("DALI left a plain JPEG to the CPU")


def stores() -> Facts:
    """Places that a dataset may lie in or be pushed to, and what is missing of the others."""
    import fsspec

    open_ones, missing = [], {}
    for protocol in ("file", "http", "s3", "gs", "abfs", "hf"):
        try:
            fsspec.get_filesystem_class(protocol)
            open_ones.append(protocol)
        except ImportError as error:
            missing[protocol] = str(error)
    return {"version": fsspec.__version__, "open": open_ones, "missing": missing}


def tables() -> Facts:
    """Arrow, by a table through Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": [1, 2]}), sink)
    assert pq.read_table(pa.BufferReader(sink.getvalue())).to_pydict() == {"a": [1, 2]}
    return {"version": pa.__version__}


def package(name: str) -> Facts:
    """Any other package: that it can be imported."""
    module = importlib.import_module(name)
    return {"version": str(getattr(module, "__version__", ""))}


PROBES: dict[str, Callable[[], Facts]] = {
    probe.__name__: probe for probe in (torch, tables, images, video, audio, stores, training, kernels, dali)
}


def ask(name: str) -> dict[str, Any]:
    """The answer of a probe, or of a package: `found`; or `error`, and `missing` where a module is not there."""
    try:
        return {"found": PROBES[name]() if name in PROBES else package(name)}
    except BaseException as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return {"error": text[:400], "missing": error.name if isinstance(error, ModuleNotFoundError) else None}
