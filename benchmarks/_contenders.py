"""Loaders that compete in `stream_decoded`, one per process and each in its own environment: photographs of tar shards,
decoded by the same function to 336 x 336 normalised floats, in batches of 16.

`python -m benchmarks._contenders NAME FOLDER prepare` writes what a peer needs besides the tars; `python -m
benchmarks._contenders NAME FOLDER THREADS` then does one pass for every line that it reads, and answers each with one
line of JSON: seconds until the first batch and until the last, pictures a second in all and from the end of the first
quarter on, CPU seconds (children's too), pictures.
"""

from __future__ import annotations

import functools
import glob
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from benchmarks._interleaved import answer

SIDE, BATCH = 336, 16
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def decode(data: bytes) -> torch.Tensor:
    """The decoder of every contender: torchvision's, float32 [3, 336, 336]."""
    image = decode_image(torch.from_numpy(np.frombuffer(bytearray(data), np.uint8)), mode=ImageReadMode.RGB)
    resized = tv.resize(image, [SIDE, SIDE], InterpolationMode.BICUBIC, antialias=True)
    return tv.normalize(tv.to_dtype(resized, torch.float32, scale=True), MEAN, STD)


def tars(folder: str) -> list[str]:
    return sorted(glob.glob(f"{folder}/dataset/shards/*.tar"))


def photographs(folder: str) -> Iterator[tuple[str, bytes]]:
    import tarfile

    for path in tars(folder):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".jpg"):
                    yield member.name, tar.extractfile(member).read()  # type: ignore[union-attr]


def one_thread(_: Any = None) -> None:
    torch.set_num_threads(1)


# webdataset


def _wds_sample(sample: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {"pixels": decode(next(value for key, value in sample.items() if key.endswith("jpg")))}


def webdataset(folder: str, threads: int) -> Iterable[Any]:
    import webdataset as wds

    data = wds.WebDataset(tars(folder), shardshuffle=False, empty_check=False).map(_wds_sample)
    return wds.WebLoader(data, num_workers=threads, batch_size=BATCH)


# MosaicML Streaming


def prepare_mosaicml(folder: str) -> None:
    from streaming import MDSWriter

    with MDSWriter(out=f"{folder}/mds", columns={"jpg": "bytes"}, size_limit=64 << 20) as writer:
        for _, data in photographs(folder):
            writer.write({"jpg": data})


def mosaicml(folder: str, threads: int) -> Iterable[Any]:
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory
    from torch.utils.data import DataLoader

    class Photographs(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, at: int) -> torch.Tensor:
            return decode(super().__getitem__(at)["jpg"])

    clean_stale_shared_memory()
    data = Photographs(local=f"{folder}/mds", remote=None, shuffle=False, batch_size=BATCH)
    return DataLoader(data, batch_size=BATCH, num_workers=threads)


# litData


def _jpeg(path: str) -> dict[str, bytes]:
    return {"jpg": Path(path).read_bytes()}


def prepare_litdata(folder: str) -> None:
    from litdata import optimize

    optimize(_jpeg, sorted(glob.glob(f"{folder}/photos/*.jpg")), f"{folder}/litdata", chunk_bytes="64MB", num_workers=1)


def litdata(folder: str, threads: int) -> Iterable[Any]:
    from litdata import StreamingDataLoader, StreamingDataset

    class Photographs(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, at: Any) -> torch.Tensor:
            return decode(super().__getitem__(at)["jpg"])

    return StreamingDataLoader(Photographs(f"{folder}/litdata", shuffle=False), batch_size=BATCH, num_workers=threads)


# SPDL


def spdl(folder: str, threads: int) -> Iterable[Any]:
    import spdl.io
    from spdl.pipeline import PipelineBuilder

    def members() -> Iterator[bytes]:
        for path in tars(folder):
            with open(path, "rb") as file:
                for name, data in spdl.io.iter_tarfile(file):
                    if name.endswith(".jpg"):
                        yield data

    builder = PipelineBuilder().add_source(members()).pipe(decode, concurrency=threads).aggregate(BATCH)
    pipeline = builder.pipe(torch.stack).add_sink(4).build(num_threads=threads)

    def batches() -> Iterator[Any]:
        with pipeline.auto_stop():
            yield from pipeline.get_iterator(timeout=60)

    return batches()


# Hugging Face datasets


def _hf_sample(row: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {"pixels": decode(row["jpg"]["bytes"])}


def datasets(folder: str, threads: int) -> Iterable[Any]:
    import datasets as hf
    from torch.utils.data import DataLoader

    hf.disable_progress_bars()
    data = hf.load_dataset("webdataset", data_files=tars(folder), split="train", streaming=True)
    (column,) = [name for name in data.features if name.endswith("jpg")]
    data = data.select_columns([column])
    data = (data if column == "jpg" else data.rename_column(column, "jpg")).cast_column("jpg", hf.Image(decode=False))
    return DataLoader(data.map(_hf_sample, remove_columns=["jpg"]), batch_size=BATCH, num_workers=threads)


# Energon


def prepare_energon(folder: str) -> None:
    from megatron.energon.flavors import BaseWebdatasetFactory

    root = Path(folder) / "energon"
    root.mkdir(exist_ok=True)
    for path in tars(folder):
        (root / Path(path).name).symlink_to(path)
    names = [Path(path).name for path in tars(folder)]
    BaseWebdatasetFactory.prepare_dataset(root, names, split_parts_ratio=[("train", 1.0)], shuffle_seed=None, workers=1)
    (root / ".nv-meta" / "dataset.yaml").write_text(
        "__module__: megatron.energon\n__class__: CrudeWebdataset\nsubflavors: {}\nparallel_shard_iters: 1\n"
    )


def energon(folder: str, threads: int) -> Iterable[Any]:
    from megatron.energon import Cooker, DefaultTaskEncoder, WorkerConfig, get_loader, get_train_dataset, stateless
    from megatron.energon.flavors import ImageSample

    @stateless  # it refuses others
    def cook(sample: dict[str, Any]) -> Any:
        data = next(value for key, value in sample.items() if key.endswith("jpg"))
        return ImageSample(
            **{
                key: sample[key]
                for key in ("__key__", "__restore_key__", "__subflavors__", "__sources__")
                if key in sample
            },
            image=decode(data),
        )

    class Encoder(DefaultTaskEncoder):  # type: ignore[misc, type-arg]
        cookers: ClassVar[list[Any]] = [Cooker(cook)]
        decoder = None

    config = WorkerConfig(rank=0, world_size=1, num_workers=threads)
    data = get_train_dataset(
        f"{folder}/energon",
        worker_config=config,
        batch_size=BATCH,
        shuffle_buffer_size=None,
        max_samples_per_sequence=None,
        shuffle_over_epochs_multiplier=None,
        repeat=False,
        task_encoder=Encoder(),
    )
    return (batch.image for batch in get_loader(data))


# Ours, and what bounds all


def _bytes(sample: Any) -> torch.Tensor:
    return decode(sample.media[0].data)


def ours(folder: str, threads: int) -> Iterable[Any]:
    """The stream's pipeline around the same decoder."""
    from mmdata import StreamingDataset, StreamLoader

    data = StreamingDataset(f"{folder}/dataset", shuffle="none", yields="raw")
    return StreamLoader(data, torch.stack, transform=_bytes, batch_size=BATCH, threads=threads, ahead=4)


def own(folder: str, threads: int, fidelity: Any = "exact") -> Iterable[Any]:
    """The stream with its own decode path."""
    from mmdata import StreamingDataset, StreamLoader
    from mmdata.stream.viewed import Viewed, stack
    from mmdata.views.fixed import Fixed

    data = StreamingDataset(f"{folder}/dataset", shuffle="none", yields="raw")
    viewed = Viewed(Fixed(size=SIDE, mode="squash"), decode=fidelity)
    return StreamLoader(data, stack, transform=viewed, batch_size=BATCH, threads=threads, ahead=4)


def bare(folder: str, threads: int) -> Iterable[Any]:
    """The same decoder over bytes in memory, results dropped into batches: what no loader can beat."""
    from concurrent.futures import ThreadPoolExecutor

    held = _held(folder)

    def batches() -> Iterator[Any]:
        with ThreadPoolExecutor(threads, initializer=one_thread) as pool:
            several: list[torch.Tensor] = []
            for pixels in pool.map(decode, held):
                several.append(pixels)
                if len(several) == BATCH:
                    yield several
                    several = []
        if several:
            yield several

    return batches()


@functools.cache
def _held(folder: str) -> list[bytes]:
    return [data for _, data in photographs(folder)]


LOADERS: dict[str, Any] = {
    "webdataset": webdataset,
    "energon": energon,
    "mosaicml-streaming": mosaicml,
    "litdata": litdata,
    "spdl": spdl,
    "datasets": datasets,
    "mmdata, same decoder": ours,
    "mmdata, own decoder": own,
    "mmdata, guarded decoder": functools.partial(own, fidelity="guarded"),
    "bare loop": bare,
}
PREPARE: dict[str, Any] = {
    "mosaicml-streaming": prepare_mosaicml,
    "litdata": prepare_litdata,
    "energon": prepare_energon,
}


def cpu() -> float:
    used = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        found = resource.getrusage(who)
        used += found.ru_utime + found.ru_stime
    return used


def measure(name: str, folder: str, threads: int, count: int) -> dict[str, float]:
    """One pass."""
    used, began = cpu(), time.perf_counter()
    times: list[tuple[int, float]] = []
    pictures, check = 0, 0.0
    for batch in LOADERS[name](folder, threads):
        pixels = batch["pixels"] if isinstance(batch, dict) and "pixels" in batch else batch
        pixels = pixels["pixel_values"] if isinstance(pixels, dict) else pixels
        pictures += len(pixels)
        check += float(pixels[0][0, 0, 0])
        times.append((pictures, time.perf_counter() - began))
    end = time.perf_counter() - began
    quarter = next((n, t) for n, t in times if n >= count / 4)
    import gc

    gc.collect()  # workers are joined, and their CPU time counts
    return {
        "pictures": pictures,
        "first": times[0][1],
        "seconds": end,
        "rate": pictures / end,
        "steady_rate": (pictures - quarter[0]) / (times[-1][1] - quarter[1]),
        "cpu_ms": 1e3 * (cpu() - used) / pictures,
    }


def main() -> None:
    name, folder, how = sys.argv[1:4]
    if how == "prepare":
        PREPARE[name](folder)
        return
    one_thread()
    answer(lambda line: measure(name, folder, int(how), int(line)))


if __name__ == "__main__":
    main()
