"""The Ray engine: the bytes of a local build from one node, from two, and when one of them is lost on the way."""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmdata.build import build_dataset
from mmdata.engine import mapped
from mmdata.engine.ray import map_unit
from mmdata.errors import SpecError
from mmdata.specfile import load_build
from tests.building import content
from tests.engine.test_shares import fates

without = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: mmdata[ray]")


def test_a_task_makes_the_file_of_its_unit(shared: Path, tmp_path: Path) -> None:
    """What runs on a node, here: from the spec as JSON to bytes that hold the unit; nothing beyond the last row."""
    loaded, _ = load_build(str(shared), [f"output.path={tmp_path}/out"])
    data = loaded.model_dump(mode="json")
    made = map_unit(data, 2, 8, [])
    assert made is not None
    place = mapped.place(tmp_path, 2)
    place.parent.mkdir(parents=True)
    place.write_bytes(made)
    unit = mapped.read(tmp_path, 2)
    assert sorted(unit.rows) == [8, 9, 10, 11]
    assert all(row.drop is not None or row.held for row in unit.rows.values())
    assert map_unit(data, 500, 2000, []) is None
    assert map_unit({**data, "limit": 9}, 2, 8, []) is not None
    assert map_unit({**data, "limit": 8}, 2, 8, []) is None
    last = sorted((shared.parent / "in").glob("*.jpg"))[-2:]
    beside = [path for each in last for path in each.parent.glob(f"{each.stem}.*")]
    place.write_bytes(map_unit(data, 2, 1, [{path.name: path.stat().st_size for path in beside}]) or b"")
    unit = mapped.read(tmp_path, 2)  # of an append: it begins where the rows before it end, and files keep their order
    assert sorted(unit.rows) == [1, 2, 3, 4]
    assert unit.rows[1].record.sample.origin.uri == last[1].name


def test_without_ray_one_line_says_what_to_install(
    shared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(SpecError, match=r"pip install 'mmdata\[ray\]'"):
        build_dataset(shared, [f"output.path={tmp_path}/out", "engine.kind=ray"], quiet=True)


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head without cores for tasks, to which nodes are added."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        yield made
    finally:
        made.shutdown()


@without
@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("lose", [False, True])
def test_nodes_and_the_loss_of_one_change_no_byte(
    cluster: Any,
    shared: Path,
    alone: Path,
    tmp_path: Path,
    lose: bool,
) -> None:
    nodes = [cluster.add_node(num_cpus=1) for _ in range(1 + lose)]
    cluster.wait_for_nodes()
    out = tmp_path / "out"
    told = [f"output.path={out}", "engine.kind=ray", f"engine.address={cluster.address}"]
    failed: list[BaseException] = []

    def run() -> None:
        try:
            build_dataset(shared, told, quiet=True)
        except BaseException as error:
            failed.append(error)

    building = threading.Thread(target=run)
    building.start()
    if lose:
        while len(list((out / ".build" / "units").glob("*.json"))) < 3 and building.is_alive():
            time.sleep(0.05)
        assert building.is_alive()
        cluster.remove_node(nodes[1], allow_graceful=False)
    building.join()
    assert failed == []
    assert content(out) == content(alone)
    assert fates(out) == fates(alone)
    assert list((out / ".build" / "mapped").glob("*.unit")) == []


@without
@pytest.mark.soak
def test_an_address_without_a_cluster_is_one_line(shared: Path, tmp_path: Path) -> None:
    told = [f"output.path={tmp_path}/out", "engine.kind=ray", "engine.address=127.0.0.1:1"]
    with pytest.raises(SpecError, match=r"engine\.address: 127\.0\.0\.1:1: no Ray cluster there"):
        build_dataset(shared, told, quiet=True)
