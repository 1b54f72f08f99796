"""`python -m mmtrain`: the list of commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mmdata import unread
from mmdata.__main__ import dispatch

COMMANDS = {
    "sft": "supervised fine-tuning on packed samples: --config FILE",
    "contrastive": "a picture and a text tower on pairs, as CLIP and SigLIP are: --config FILE",
    "evaluate": "losses, answers, speed and size of a run or an exported model: RUN",
    "certify": "whether a Hugging Face model keeps packed samples apart, and how: MODEL",
    "export": "a run's model as a Hugging Face folder: RUN --output FOLDER",
    "tokenize_images": "tokens of pictures: train --config FILE; encode FOLDER; generate RUN",
    "replay": "steps of a run again: RUN --step N; from a spike to its samples: RUN --spikes; RUN --packs A..B",
}


@unread.stops
def main(argv: Sequence[str] | None = None) -> int:
    return dispatch("mmtrain", "Training on packed multimodal samples.", COMMANDS, argv)


if __name__ == "__main__":
    sys.exit(main())
