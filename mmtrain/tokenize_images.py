"""Tokens of pictures: python -m mmtrain.tokenize_images train|encode|generate.

`train --config FILE` trains a tokeniser on a dataset's pictures; `encode FOLDER` writes a dataset's pictures as words,
for `mmdata.build` and `mmtrain.sft`; `generate RUN` has the model that learned them draw.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from transformers.utils import logging as transformers_logging

from mmdata import pointer, specfile, unread
from mmdata.errors import SpecError
from mmdata.shards.dataset import open_dataset
from mmdata.stream.dataset import StreamingDataset
from mmtrain import models
from mmtrain.evaluate import opened, streams_of
from mmtrain.models import tokens
from mmtrain.picture_tokens import generate, latents
from mmtrain.picture_tokens.encode import TASKS, encode
from mmtrain.picture_tokens.spec import TokenizeSpec
from mmtrain.picture_tokens.train import train
from mmtrain.precision import device_of


@unread.goes_on
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; answers its exit code: 0, 1 for what failed, 2 for what is wrong with what was asked."""
    options = _parser().parse_args(arguments)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        return {"train": _train, "encode": _encode, "generate": _generate}[options.what](options)
    except pointer.ENDINGS as error:
        return pointer.failed("mmtrain.tokenize_images", error, again="the same command goes on")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mmtrain.tokenize_images", description=(__doc__ or "").split("\n")[0]
    )
    what = parser.add_subparsers(
        dest="what", required=True, metavar="train|encode|generate", help="what to do; --help behind it tells more"
    )
    one = what.add_parser("train", help="train a tokeniser")
    one.add_argument("--config", required=True, metavar="FILE", help="a YAML file, or the name of a shipped one")
    one.add_argument("--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help="e.g. steps=100")
    one.add_argument("--resume", choices=("auto", "never"), default="auto", help="default: auto")
    two = what.add_parser("encode", help="a dataset's pictures as words")
    two.add_argument("tokeniser", type=Path, metavar="FOLDER", help="of a trained tokeniser of codes")
    two.add_argument("--dataset", required=True, metavar="DATASET", help="pictures with texts")
    two.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="default: both")
    two.add_argument("--output", required=True, type=Path, metavar="FILE.jsonl", help="for `source: {kind: jsonl}`")
    three = what.add_parser("generate", help="pictures of a run or an exported model")
    three.add_argument("model", type=Path, metavar="RUN|FOLDER", help="folder of a run, or of an exported model")
    three.add_argument("--tokeniser", type=Path, metavar="FOLDER", help="that made its words; latents need none")
    three.add_argument("--data", required=True, metavar="DATASET|STREAM.yaml", help="whose samples ask for pictures")
    three.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="for pictures and pictures.jsonl")
    three.add_argument("--count", type=int, default=16, metavar="N", help="pictures; default: 16")
    three.add_argument(
        "--temperature", type=float, default=1.0, metavar="T", help="0 takes the likeliest codes, no noise"
    )
    three.add_argument("--seed", type=int, default=0, metavar="S", help="of what is drawn; default: 0")
    three.add_argument("--checkpoint", default="latest", metavar="STEP|latest|best", help="default: latest")
    return parser


def _train(options: argparse.Namespace) -> int:
    spec, _ = specfile.load(TokenizeSpec, options.config, options.set)
    worth = train(spec, resume=options.resume == "auto")
    print("worth  " + "  ".join(f"{name} {value:.4f}" for name, value in worth.items()))
    if spec.tokeniser.kind == "vq":
        print(f"next   python -m mmtrain.tokenize_images encode {spec.output} --dataset DATASET --output FILE.jsonl")
    return 0


def _encode(options: argparse.Namespace) -> int:
    tokeniser = _of_codes(options.tokeniser)
    count = encode(open_dataset(options.dataset), tokeniser, options.tasks, options.output, device_of("auto"))
    print(f"wrote  {count:,} lines to {options.output}; a picture is {tokeniser.spec.side**2} codes")
    print(f"next   python -m mmdata.build --spec FILE, then train with tokenizer.picture_codes: {tokeniser.spec.codes}")
    return 0


def _generate(options: argparse.Namespace) -> int:
    device = device_of("auto")
    given = streams_of([f"asked={options.data}"], None)["asked"]
    restored = opened(options.model, options.checkpoint, [], given)
    told = restored.spec.data.model_copy(update={"dataset": None, "datasets": ()})
    data = streams_of([f"asked={options.data}"], told)["asked"]
    family = models.family_of(restored.spec.model, restored.tokenizer)
    stream = StreamingDataset(data, family=family)
    options.output.mkdir(parents=True, exist_ok=True)
    how = {"temperature": options.temperature, "seed": options.seed, "device": device}
    model, tokenizer = restored.model, restored.tokenizer
    lines: list[dict[str, str]] = []
    found: Iterable[generate.Drawn | latents.Drawn]
    if options.tokeniser is None:
        found = latents.drawn(model, tokenizer, stream, options.count, **how)
    else:
        tokeniser = _of_codes(options.tokeniser).to(device)
        found = generate.drawn(model, tokenizer, tokeniser, stream, options.count, **how)
    for each in found:
        name = f"{len(lines):05d}.png"
        each.picture.save(options.output / name)
        lines.append({"picture": name, "key": each.key, "prompt": each.prompt, "wanted": each.wanted})
    (options.output / "pictures.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(f"drew   {len(lines)} pictures in {options.output}")
    return 0


def _of_codes(folder: Path) -> tokens.Vq:
    found = tokens.load(folder)
    if not isinstance(found, tokens.Vq):
        raise SpecError(f"{folder}: a tokeniser of kind {found.spec.kind} has no codes; train one of kind vq")
    return found


if __name__ == "__main__":
    sys.exit(main())
