"""Explaining a stream: against what the stream itself yields, on one dataset, several, and mixtures."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mmdata import explain
from mmdata.errors import SpecError
from mmdata.families import Family, get_family
from mmdata.stream.dataset import StreamingDataset
from mmdata.stream.spec import StreamSpec
from mmdata.types import World
from tests.dataset_fixture import write_dataset
from tests.tokenizer_fixture import small_tokenizer


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("explain")
    return [write_dataset(root / name, samples=count) for name, count in (("first", 43), ("second", 21))]


@pytest.fixture(scope="module")
def family() -> Family:
    return get_family("llava", tokenizer=small_tokenizer(), image={"size": 28})


def stream(family: Family, spec: dict[str, Any], *, ranks: int = 2, rank: int = 0, batch: int = 4) -> StreamingDataset:
    made = StreamSpec.model_validate({"max_length": 200, "block_samples": 16, **spec})
    return StreamingDataset(made, family=family, world=World(rank=rank, ranks=ranks), global_batch=batch)


def test_a_step_names_the_rows_that_its_packs_come_from(folders: list[Path], family: Family) -> None:
    made = stream(family, {"dataset": str(folders[0])}, rank=1)
    wanted = [deal for deal in made.deals() if deal.step == 1]
    facts = explain.step(stream(family, {"dataset": str(folders[0])}, rank=1), 1)
    assert (facts["step"], facts["rank"], facts["ranks"]) == (1, 1, 2)
    assert len(facts["packs"]) == len(wanted) > 0
    for deal, pack in zip(wanted, facts["packs"], strict=True):
        assert deal.pack is not None
        assert [each["key"] for each in pack["samples"]] == list(deal.pack.keys)
        for each in pack["samples"]:
            sample = made.datasets[0][each["key"]]
            assert sample.origin is not None
            assert each["origin"] == {"uri": sample.origin.uri, "row": sample.origin.row}
    text = "\n".join(explain.lines(facts))
    assert f"{facts['packs'][0]['samples'][0]['key']}  " in text
    assert "from tests row" in text
    with pytest.raises(SpecError, match="the stream ends before step 999"):
        explain.step(made, 999)


POOL = [{"path": 0}, {"path": 1, "repeat": 2}]
MIX = [{"path": 0, "weight": 0.7}, {"path": 1, "weight": 0.3, "epochs": 2}]


def named(folders: list[Path], datasets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**each, "path": str(folders[each["path"]])} for each in datasets]


@pytest.mark.parametrize(
    "spec",
    [
        {"dataset": 0},
        {"dataset": 0, "shuffle": "block"},
        {"dataset": 0, "shuffle": "none"},
        {"datasets": POOL, "shuffle": "shard"},
        {"datasets": MIX},
    ],
)
def test_a_key_is_found_where_it_is_read(
    folders: list[Path], family: Family, monkeypatch: pytest.MonkeyPatch, spec: dict[str, Any]
) -> None:
    """Against every place of the stream, for a key of each dataset."""
    monkeypatch.setattr(explain, "MOST_BLOCKS", 20)
    spec = (
        {**spec, "datasets": named(folders, spec["datasets"])} if "datasets" in spec else {"dataset": str(folders[0])}
    )
    made = stream(family, spec, ranks=1)
    everywhere: dict[tuple[str, int], list[tuple[int, int, int, int]]] = {}
    for deal in made.deals():
        if deal.step > 12 or deal.pack is None:
            break
        for at, item in enumerate(deal.pack.items):
            place = (deal.pack.block, deal.pack.number, at, deal.step)
            everywhere.setdefault((item.key, item.dataset), []).append(place)
    for key in ("000000003", "000000017"):
        places = explain.find(made, key)
        for number, source in enumerate(made.spec.sources):
            found = [
                (each["block"], each["pack"], each["sample"], each["step"])
                for each in places
                if each["dataset"] == source.title and each["step"] <= 12
            ]
            assert sorted(found) == sorted(everywhere.get((key, number), [])), (key, source)
        assert places
        assert len(explain.lines({"key": key, "places": places})) == len(places) + 1
    with pytest.raises(SpecError, match="has no 'nowhere'"):
        explain.find(made, "nowhere")


def test_a_key_that_is_left_out_is_told_with_its_reason(folders: list[Path], family: Family) -> None:
    made = stream(family, {"dataset": str(folders[0]), "max_length": 14}, ranks=1)
    keys = [made.datasets[0].keys_at([at])[0] for at in range(len(made.datasets[0]))]
    found = [place for key in keys for place in explain.find(made, key)]
    left_out = sum((made.block(0, number).left_out for number in range(made.planner.blocks)), Counter[str]())
    assert left_out == Counter(place["reason"] for place in found if place["pack"] is None)
    assert left_out["overlong"]
    gone = next(place for place in found if place["pack"] is None)
    assert explain.lines({"key": "k", "places": [gone]})[1].endswith(f"block {gone['block']}: left out (overlong)")


def test_a_later_epoch_is_searched_without_reading_the_ones_before(folders: list[Path], family: Family) -> None:
    made = stream(family, {"dataset": str(folders[0]), "epochs": 3}, ranks=1)
    (place,) = explain.find(made, "000000005", epoch=2)
    pack = made.planner.block(explain.Position(2, place["block"])).pack(place["pack"])
    assert pack.items[place["sample"]].key == "000000005"


def test_an_overview_counts_what_the_block_holds(folders: list[Path], family: Family) -> None:
    made = stream(family, {"datasets": named(folders, MIX)})
    facts = explain.overview(made)
    block = made.planner.block(explain.Position())
    assert facts["packs"] == len(block.bins)
    assert facts["tokens"] == int(block.tokens.sum())
    given = [block.measured.tokens[block.measured.draws.dataset == number].sum() for number in range(2)]
    assert [each["share"] for each in facts["mixture"]] == pytest.approx([g / sum(given) for g in given])
    assert [each["wanted"] for each in facts["mixture"]] == pytest.approx([0.7, 0.3])
    assert [each["name"] for each in facts["shuffle"]] == ["first", "second"]
    text = "\n".join(explain.lines(facts))
    assert "filled" in text
    assert "(wanted 70.00%)" in text


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    small_tokenizer().save_pretrained(str(folder))
    return folder


def test_the_command(folders: list[Path], tokenizer: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    common = [str(folders[0]), "--family", "llava", "--tokenizer", str(tokenizer), "--image", "size=28"]
    common += ["--max-length", "200"]
    assert explain.main([*common, "--step", "1", "--ranks", "2", "--rank", "1", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["packs"][0]["samples"]
    key = facts["packs"][0]["samples"][0]["key"]
    assert explain.main([*common, "--key", key, "--ranks", "2", "--json"]) == 0
    (place,) = json.loads(capsys.readouterr().out)["places"]
    assert place["step"] == 1
    assert explain.main([*common]) == 0
    assert "quality 1.000" in capsys.readouterr().out
    assert explain.main([*common, "--block", "7"]) == 2
    assert capsys.readouterr().err.startswith("mmdata.explain: block: an epoch has 1 blocks, from 0 (more: ")
    page = tmp_path / "pack.html"
    assert explain.main([*common, "--step", "1", "--html", str(page)]) == 0
    text = page.read_text()
    assert "<h1>Step 1, rank 0 of 1</h1>" in text
    assert "data:image/webp;base64," in text
    assert "http:" not in text
    assert "https:" not in text


def test_mistakes_are_one_line(folders: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert explain.main([str(folders[0]), "--family", "llava"]) == 2
    assert capsys.readouterr().err.startswith("mmdata.explain: tokenizer: a family needs one; give --tokenizer FOLDER")
    assert explain.main([str(folders[0] / "none")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
