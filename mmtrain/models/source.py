"""Where a part's files lie: a local folder, or a repository of the hub in the local cache."""

from __future__ import annotations

import shutil
from pathlib import Path

from mmdata.errors import SpecError
from mmtrain.models.spec import SourceSpec

PROCESSOR_FILES = (
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "chat_template.jinja",
    "chat_template.json",
)
"""What tells how media become a model's inputs, and conversations its texts; an exported model takes them along."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt")


def folder_of(spec: SourceSpec, key: str) -> Path:
    """The local folder of a source, fetched from the hub if need be. Raises SpecError, naming `key`, where there is
    none or it holds no model."""
    folder = Path(spec.path) if Path(spec.path).is_absolute() or Path(spec.path).is_dir() else _fetched(spec, key)
    if not folder.is_dir():
        raise SpecError(f"{key}.path: no such folder: {folder}")
    if not (folder / "config.json").is_file():
        raise SpecError(f"{key}.path: {folder} has no config.json; give the folder of a Hugging Face model")
    return folder


def _fetched(spec: SourceSpec, key: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                spec.path,
                revision=spec.revision,
                local_files_only=spec.local_files_only,
                ignore_patterns=["*.bin", "*.pth", "*.h5", "*.msgpack", "*.onnx", "*.gguf", "original/*"],
            )
        )
    except HFValidationError as error:
        raise SpecError(
            f"{key}.path: there is no folder {spec.path!r}, and an id on the hub would be `org/name`"
        ) from error
    except GatedRepoError as error:
        raise SpecError(
            f"{key}.path: {spec.path!r} on the hub asks for consent to its terms; give it there, then `hf auth login`"
        ) from error
    except LocalEntryNotFoundError as error:
        raise SpecError(
            f"{key}.path: there is no folder {spec.path!r}, it is not in the hub's cache on this machine, and the hub "
            f"{_silent(spec)}; `hf download {spec.path} --local-dir FOLDER` where it can be reached, and give FOLDER"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        why = str(error).strip().splitlines()[0]
        raise SpecError(f"{key}.path: there is no folder {spec.path!r}, nor could the hub give it: {why}") from error


def _silent(spec: SourceSpec) -> str:
    """Why the hub was not heard."""
    from huggingface_hub import constants

    if spec.local_files_only:
        return "is not asked (`local_files_only`)"
    return "is not asked (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else "cannot be reached"


def has_tokenizer(folder: Path) -> bool:
    """Whether a tokenizer lies in the folder."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def copy_processor(source: Path, target: Path) -> list[str]:
    """Copy the processor's files that there are; answers their names."""
    found = [name for name in PROCESSOR_FILES if (source / name).is_file()]
    for name in found:
        shutil.copyfile(source / name, target / name)
    return found
