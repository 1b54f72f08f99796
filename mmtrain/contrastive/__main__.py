"""`python -m mmtrain.contrastive`."""

from __future__ import annotations

import sys

from mmtrain.contrastive import main

if __name__ == "__main__":
    sys.exit(main())
