"""Packing length mixes: ours against the rules of Megatron and Energon, TRL, ms-swift and nanoVLM, and the bound.

`python -m benchmarks.packing [--items 10000 100000 1000000] [--rounds 5] [--vectors 10000]`: fill and CPU seconds of
each rule on each mix and capacity, contenders in turns (one that takes over 2 s has a single turn, which is compared
with each of ours); then what blocks of 10,000 lose
against the whole set, rows of several capacities, and packs dealt to ranks against chance. The peers' rules are written
anew from their sources (`benchmarks._packers`): ms-swift's calls `binpacking`, which is measured itself where it is
installed.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from benchmarks import _options, _packers
from benchmarks._interleaved import Row, summary
from benchmarks._lengths import CAPACITIES, MIXES, lengths, parts
from benchmarks.claims import Claim, beside, figure, write
from mmdata.pack import (
    Imbalance,
    balance,
    even_out,
    imbalance,
    lower_bound,
    pack,
    pack_best_fit,
    pack_vectors,
    vector_bound,
)
from mmdata.stream.group import WINDOW as AHEAD
from mmdata.stream.spread import spread

WINDOW = 1000
"""What ms-swift and TRL pack at a time by default."""
SLOW = 10_000
"""Rules that look at every bin for every item pack no more than this in one go."""
Rule = Callable[[npt.NDArray[np.int64], list[int], int], int]


def rules(items: int) -> dict[str, Rule]:
    """Names and functions (lengths, the same as a list, capacity) -> bins."""

    def peer(rule: Callable[[list[int], int], list[list[int]]]) -> Rule:
        return lambda _, listed, capacity: len(rule(listed, capacity))

    def in_windows(rule: Callable[[list[int], int], list[list[int]]]) -> Rule:
        return lambda _, listed, capacity: len(_packers.windowed(rule, listed, capacity, WINDOW))

    result: dict[str, Rule] = {
        "ours": lambda array, _, capacity: len(pack(array, capacity)),
        "ours, list in, lists out": lambda _, listed, capacity: len(pack_best_fit(listed, capacity)),
        "ours, best_fit_decreasing": lambda array, _, capacity: len(pack(array, capacity, "best_fit_decreasing")),
        "ours, thorough": lambda array, _, capacity: len(pack(array, capacity, "thorough")),
        "ours, blocks of 10,000": lambda array, _, capacity: len(pack(array, capacity, window=10_000)),
        "ours, next_fit": lambda array, _, capacity: len(pack(array, capacity, "next_fit")),
    }
    if items <= 200_000:
        result["greedy_knapsack (Megatron, Energon)"] = peer(_packers.greedy_knapsack)
        result["bfd (TRL)"] = peer(_packers.trl_bfd)
        result["ms-swift, 1,000 at a time"] = in_windows(swift())
        result["nanoVLM, 1,000 at a time"] = in_windows(_packers.nanovlm)
    if items <= SLOW:
        result["ms-swift"] = peer(swift())
        result["nanoVLM"] = peer(_packers.nanovlm)
    return result


def swift() -> Callable[[list[int], int], list[list[int]]]:
    """ms-swift's rule: the package that it calls, or ours of the same rule."""
    try:
        import binpacking
    except ImportError:
        return _packers.ms_swift

    def rule(listed: list[int], capacity: int) -> list[list[int]]:
        bins = binpacking.to_constant_volume(list(enumerate(listed)), capacity, weight_pos=1)
        return [[i for i, _ in members] for members in bins]

    return rule


def fill_and_time(items: int, rounds: int, mix: str, capacity: int) -> tuple[list[Claim], dict[str, list[Row]]]:
    array = lengths(mix, items, capacity)
    listed = array.tolist()
    total = int(array.sum())
    bound = lower_bound(array, capacity)
    print(f"\n{mix}, {items:,} items, rows of {capacity:,}: bound {bound:,} ({total / bound / capacity:.4f})")
    contenders = rules(items)
    found: dict[str, list[Row]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, rule in contenders.items():
            if number and found[name][0]["cpu"] > 2:
                found[name].append(found[name][0])
                continue
            gc.collect()  # else one pays for looking through the lists that the one before has left
            start = time.process_time()
            bins = rule(array, listed, capacity)
            found[name].append({"cpu": time.process_time() - start, "bins": bins})
    fill = {name: total / rows[0]["bins"] / capacity for name, rows in found.items()}
    ours = summary(found["ours"], "cpu")[0]
    for name, rows in found.items():
        spent = summary(rows, "cpu")[0]
        print(f"  {name:36} {rows[0]['bins']:8,} bins  {fill[name]:.4f}  {spent:8.3f} s  {spent / ours:7.1f}x ours")
    what = f"packing {items:,} of {mix} into {capacity:,}"
    peers = [name for name in found if not name.startswith("ours")]
    others = [found[name][0]["bins"] for name in (*peers, "ours, best_fit_decreasing")]
    least = found["ours"][0]["bins"] / min(others)
    head = (mix, capacity) == ("llava576", 8192)
    best = "the fewest of best-fit decreasing" + (" and 4 projects" if peers else "")
    claims = [
        figure(
            f"{what}: rows", "ours", [least], "of", goal=1.0, at_most=True, beside=best, headline=head and bool(peers)
        ),
        figure(f"{what}: fill", "ours", [fill["ours"]], "", beside=f"bound {total / bound / capacity:.4f}"),
    ]
    if items == 100_000:
        knapsack, swift_ = "greedy_knapsack (Megatron, Energon)", "ms-swift, 1,000 at a time"
        claims += [
            beside(what, found, "ours", knapsack, by="cpu", goal=8.0, headline=head),
            beside(what, found, "ours", swift_, by="cpu", goal=15.0, headline=head),
            beside(what, found, "ours", "bfd (TRL)", by="cpu"),
        ]
    if items == 1_000_000:
        seconds = [row["cpu"] for row in found["ours"]]
        claims.append(figure(what, "ours", seconds, "s CPU", goal=0.3, at_most=True, headline=head))
    if (mix, capacity, items) == ("anyres729", 8192, 10_000):
        claims.append(figure(f"{what}: fill", "ours, thorough", [fill["ours, thorough"]], "", goal=0.965))
    return claims, found


def several_capacities(items: int) -> None:
    print(f"\nSeveral capacities, {items:,} items: tokens and media of llava576 (rows of 8,192 tokens and 8 images)")
    text, images, size = parts("llava576", items)
    sizes = np.stack([np.minimum(text + images * size, 8192), images], 1)
    for name, limits in (("tokens bind", [8192, 1000]), ("both bind", [8192, 8])):
        start = time.process_time()
        bins = len(pack_vectors(sizes, limits))
        spent = time.process_time() - start
        bound = max(vector_bound(sizes, limits), lower_bound(sizes[:, 0], 8192))
        print(f"  {name:12} {bins:,} bins, bound {bound:,}: {bound / bins:.4f}  {spent:.3f} s")


def blocks(capacities: list[int], items: int = 100_000, block: int = 10_000) -> list[Claim]:
    claims = []
    print(f"\nBlocks of {block:,} against the whole set of {items:,} by best-fit decreasing: rows more, and fill")
    for mix in MIXES:
        for capacity in capacities:
            array = lengths(mix, items, capacity)
            whole = len(pack(array, capacity, "best_fit_decreasing"))
            parts_ = len(pack(array, capacity, window=block))
            total = int(array.sum())
            print(
                f"  {mix:10} {capacity:6,}: {parts_:,} and {whole:,}, {parts_ / whole - 1:+.3%}; "
                f"{total / parts_ / capacity:.4f} and {total / whole / capacity:.4f} filled"
            )
            claims.append(
                figure(
                    f"packing {items:,} of {mix} into {capacity:,} in blocks of {block:,}: more rows",
                    "ours",
                    [100 * (parts_ / whole - 1)],
                    "%",
                    goal=0.2,
                    at_most=True,
                    beside="the whole set at once",
                )
            )
    return claims


def dealing(steps: int, seeds: int, ranks: int = 8, capacity: int = 8192) -> list[Claim]:
    """70 of 100 samples with images; cost = tokens + sum of squared lengths / capacity + patches / 2. `in turn` deals
    packs in an order of chance; `by cost` balances each step; `spread` also spreads media over packs when packing and
    packs over steps, as the planner does."""
    claims = []
    for mix in MIXES:
        print(f"\nDealing {mix}, {ranks} ranks: max/mean of (total, vision) cost: mean of steps, worst step")
        for per_rank in (1, 4, 8):
            found: dict[str, list[tuple[Imbalance, float]]] = {"in turn": [], "by cost": [], "spread": []}
            for seed in range(seeds):
                tokens, vision = _mixed(mix, 10_000, seed, capacity)
                plain = pack(tokens, capacity)
                even = even_out(plain, tokens, vision, capacity)
                chance = np.random.default_rng(seed).permutation(len(plain))
                for name, bins in (("in turn", plain), ("by cost", plain), ("spread", even)):
                    counts = np.stack([bins.loads(tokens), bins.loads(tokens**2), bins.loads(vision)], 1)[chance]
                    counts = counts[spread(counts, AHEAD)] if name == "spread" else counts
                    total = counts[:, 0] + counts[:, 1] / capacity + counts[:, 2] / 2
                    found[name] += _dealt(np.stack([total, counts[:, 2]], 1), ranks, per_rank, name, steps)
            for name, each in found.items():
                step = np.array([one.step for one, _ in each])
                micro = np.array([one.micro.mean(0) for one, _ in each])
                spent = float(np.mean([seconds for _, seconds in each]))
                print(
                    f"  {per_rank} packs a rank, {name:8} step {_pair(step.mean(0))}, worst {_pair(step.max(0))} of "
                    f"{len(step)}; micro-step {_pair(micro.mean(0))}  {spent * 1000:.2f} ms a step"
                )
                if per_rank == 4 and name != "by cost":
                    goal = 1.05 if name == "spread" else None
                    for at, cost in enumerate(("total", "vision")):
                        what = f"most over mean {cost} cost of {ranks} ranks, {per_rank} packs each, {mix}"
                        more = {"goal": goal, "at_most": True, "headline": bool(goal) and mix == "llava576"}
                        claims.append(figure(what, name, step[:, at].tolist(), "times", **more))
    return claims


def _mixed(mix: str, count: int, seed: int, capacity: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Tokens and vision tokens of `count` samples in an order of chance, 70 of 100 with images."""
    text, media, size = parts(mix, 4 * count, seed)
    having, without = np.flatnonzero(media), np.flatnonzero(media == 0)
    chosen = np.concatenate([having[: count * 7 // 10], without[: count - count * 7 // 10]])
    chosen = np.random.default_rng(seed).permutation(chosen)
    vision = (media * size)[chosen]
    return np.minimum(text[chosen] + vision, capacity), np.minimum(vision, capacity)


def _dealt(
    costs: npt.NDArray[np.float64], ranks: int, per_rank: int, name: str, steps: int
) -> list[tuple[Imbalance, float]]:
    count = ranks * per_rank
    result = []
    for at in range(0, len(costs) - count + 1, count)[:steps]:
        step = costs[at : at + count]
        start = time.process_time()
        deal = np.arange(count).reshape(ranks, per_rank) if name == "in turn" else balance(step, ranks)
        result.append((imbalance(step, deal), time.process_time() - start))
    return result


def _pair(values: npt.NDArray[np.float64]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def main() -> None:
    parser = _options.parser(__doc__)
    parser.add_argument("--items", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--capacities", type=int, nargs="+", default=list(CAPACITIES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vectors", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = _options.parse(parser, capacities=[8192], rounds=3, steps=40, seeds=1)
    claims: list[Claim] = []
    figures: dict[str, dict[str, list[Row]]] = {}
    for items in arguments.items:
        for mix in MIXES:
            for capacity in arguments.capacities:
                more, figures[f"{mix}, {items}, {capacity}"] = fill_and_time(items, arguments.rounds, mix, capacity)
                claims += more
    several_capacities(arguments.vectors)
    claims += blocks(arguments.capacities)
    claims += dealing(arguments.steps, arguments.seeds)
    write("packing", claims, figures=figures, to=arguments.json)


if __name__ == "__main__":
    main()
