"""`python -m mmtrain` lists the commands."""

from __future__ import annotations

import sys

COMMANDS = {
    "sft": "supervised fine-tuning on packed samples: python -m mmtrain.sft --config FILE",
    "export": "a run's model as a Hugging Face folder: python -m mmtrain.export RUN --output FOLDER",
    "evaluate": "losses, answers, speed and size of a run or an exported model: python -m mmtrain.evaluate RUN",
    "replay": "one step of a run again, alone: python -m mmtrain.replay RUN --step N",
}


def main() -> int:
    """Print the commands; any argument but a request for help is an error."""
    print("usage: python -m mmtrain.COMMAND [--help]\n")
    for name, about in COMMANDS.items():
        print(f"  {name:8} {about}")
    wrong = [argument for argument in sys.argv[1:] if argument not in ("-h", "--help")]
    if wrong:
        print(f"\nmmtrain: no command {wrong[0]!r} here; run it as python -m mmtrain.COMMAND", file=sys.stderr)
    return 2 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
