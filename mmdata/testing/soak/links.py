"""A web that fails in every known way, built from: every link once in the ledger, under its state and reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from mmdata.testing.accounts import ledger_ends, settle
from mmdata.testing.example import SPEC
from mmdata.testing.faults import WEB
from mmdata.testing.kill import Preloaded, run_with_kills
from mmdata.testing.soak.figures import Tally
from mmdata.testing.specimens import specimen
from mmdata.testing.web import fault_web

CLEAN = 10


def web(folder: Path, tally: Tally, *, slow: bool) -> None:
    """One round: build from the failing web, then, once it has recovered, retry what failed transiently. Without
    `slow`, faults that end only at deadlines are left out."""
    shutil.rmtree(folder, ignore_errors=True)
    kinds = [kind for kind in WEB if slow or not kind.slow]
    files = [specimen("png", 500 + number) for number in range(CLEAN)]
    made = fault_web(folder, files, kinds=kinds, clean=CLEAN, suffix=".png")
    spec = {
        "source": {"kind": "laion", "path": str(made.table)},
        "fetch": SPEC["fetch"],
        "steps": [{"kind": "probe"}],
        "output": {"path": str(folder / "dataset"), "unit_rows": 20},
        "engine": {"workers": 1},
    }
    (folder / "spec.yaml").write_text(json.dumps(spec))
    told = ("--spec", str(folder / "spec.yaml"), "--quiet")
    for healed in (False, True):
        with made.serve(healed=healed) as server:
            run_with_kills(Preloaded(module="mmdata.build", arguments=(*told, *(["--retry", "transient"] * healed))))
            tally.count(requests=len(server.log()))
        account = settle(made.expected(healed=healed), ledger_ends(folder / "dataset"), made.names())
        if not account.exact:
            when = "healed" if healed else "failing"
            failed = {"losses": account.losses, "duplicates": account.duplicates, "undetected": account.wrong}
            tally.problem(f"web, {when}: {account}", **failed)
    tally.count(links=len(made.links))
    tally.done = max(tally.done, len(kinds))
