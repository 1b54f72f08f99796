"""A web of one's own files: every fault has its link, and servers answer as its end says. The soak builds from one."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mmdata.testing import FaultWeb, fault_web, settle, specimen
from mmdata.testing.faults import WEB


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> FaultWeb:
    return fault_web(tmp_path_factory.mktemp("web"), [specimen("png", n) for n in range(3)], clean=6)


def test_every_kind_has_a_link_and_an_end(web: FaultWeb) -> None:
    kinds = [link.kind for link in web.links]
    assert len(WEB) >= 40
    assert sorted(kinds) == sorted([kind.kind for kind in WEB] + ["clean"] * 6)
    assert kinds[0] == "clean"
    assert kinds[-1] != "clean"
    assert len({link.url for link in web.links}) == len(kinds)
    assert pq.read_table(web.table).column("URL").to_pylist() == [link.url for link in web.links]
    by_kind = {link.kind: link for link in web.links}
    assert by_kind["http_404"].now == by_kind["http_404"].healed == ("failed_permanent", "http_404")
    assert by_kind["http_503"].now == ("failed_transient", "http_503")
    assert by_kind["http_503"].healed == ("ok", "")


def test_servers_fail_and_heal_as_it_says(web: FaultWeb) -> None:
    def ask(kind: str) -> tuple[int, bytes]:
        url = next(link.url for link in web.links if link.kind == kind)
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, b""

    with web.serve():
        assert ask("clean")[1] == specimen("png", 0)
        assert [ask(kind)[0] for kind in ("http_404", "http_503", "redirected", "late_500")] == [404, 503, 200, 500]
    with web.serve(healed=True):
        assert [ask(kind)[0] for kind in ("http_404", "http_503")] == [404, 200]


def test_accounts_tell_what_is_lost(web: FaultWeb) -> None:
    ends = [(number, end) for number, (end,) in web.expected(healed=True).items()]
    assert settle(web.expected(healed=True), ends).exact
    now = settle(web.expected(), ends, web.names())
    assert (now.records, now.losses, now.duplicates) == (len(web.links), 0, 0)
    assert now.wrong == sum(link.now != link.healed for link in web.links)
    assert "http_500): ok, not failed_transient http_500" in str(now)
    assert settle(web.expected(healed=True), ends[:-2]).losses == 2
    assert settle({}, ends[:1]).problems == ("0: was not expected at all",)


def test_no_files_make_no_web(tmp_path: Path) -> None:
    for files in ([], [b"too short"]):
        with pytest.raises(ValueError, match="one at least, and each of 4,000 bytes or more"):
            fault_web(tmp_path / "web", files)
