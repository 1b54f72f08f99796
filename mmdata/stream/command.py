"""What commands that open a stream are told: a spec or a folder, a family, which rank; and the stream that it makes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from mmdata.errors import SpecError
from mmdata.stream.dataset import StreamingDataset
from mmdata.types import World


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that `opened` reads."""
    parser.add_argument("stream", help="spec of a stream (YAML), or folder of a dataset")
    parser.add_argument("--family", help="model family; without one every sample is a pack of its own")
    parser.add_argument("--tokenizer", help="folder of the tokenizer")
    parser.add_argument("--image", action="append", default=[], metavar="NAME=VALUE", help="setting of the image view")
    parser.add_argument("--template", help="how samples become tokens, for a folder")
    parser.add_argument("--max-length", type=int, help="tokens per pack, for a folder")
    parser.add_argument("--rank", type=int, default=0, help="whose packs (default: 0)")
    parser.add_argument("--ranks", type=int, default=1, help="processes that share the stream (default: 1)")
    parser.add_argument("--global-batch", type=int, help="packs per step of all ranks together (default: one each)")
    parser.add_argument("--run", help="folder of the run, with its anchors, its control log and what it masked")


def opened(options: argparse.Namespace, *, run_folder: str | Path | None = None) -> StreamingDataset:
    """The stream of these arguments; `run_folder` instead of the one that they name. Raises SpecError and DataError as
    StreamingDataset does."""
    family = None
    if options.family:
        from mmdata.families import get_family
        from mmdata.stream.arguments import stream_family

        if options.tokenizer is None:
            raise SpecError("tokenizer: a family needs one; give --tokenizer FOLDER")
        image = dict(_setting(each) for each in options.image)
        # By a plain name the tokenizer's folder is read; then the family is made anew with its views' settings.
        named = stream_family(options.family, options.tokenizer)
        assert named is not None, options.family
        family = get_family(options.family, tokenizer=named.tokenizer, image=image) if image else named
    given = {} if options.stream.endswith((".yaml", ".yml")) else {"max_length": options.max_length}
    if not given and options.max_length is not None:
        raise SpecError("max_length: the spec says it")
    return StreamingDataset(
        options.stream,
        family=family,
        template=options.template,
        world=World(rank=options.rank, ranks=options.ranks),
        global_batch=options.global_batch or options.ranks,
        run_folder=options.run if run_folder is None else run_folder,
        **given,
    )


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise SpecError(f"image: {text!r}; write NAME=VALUE, for example size=336")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
