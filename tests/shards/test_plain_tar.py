"""Headers that are looked at together give the members that are read one by one."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmdata.errors import DataError
from mmdata.shards.access import open_source
from mmdata.shards.foreign_tar import TarPass
from mmdata.shards.plain_tar import HEAD, plain_run

NAMES = st.one_of(
    st.from_regex(r"[a-z0-9/]{1,20}\.[a-z]{1,4}", fullmatch=True),
    st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=130),
)
TYPES = st.sampled_from([tarfile.REGTYPE] * 12 + [tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.CONTTYPE])
MEMBERS = st.lists(st.tuples(NAMES, st.integers(0, 3 * HEAD), TYPES), max_size=12)
FORMS = st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(MEMBERS, FORMS, st.integers(0, 1 << 20), st.integers(1, 255), st.booleans())
def test_members_are_those_of_tarfile(
    tmp_path: Path, members: list[tuple[str, int, bytes]], form: int, at: int, flip: int, damage: bool
) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for number, (name, size, kind) in enumerate(members):
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, size if kind in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE) else 0
            try:
                tar.addfile(info, io.BytesIO(bytes([number]) * info.size))
            except (ValueError, UnicodeError):
                continue  # a name that this form cannot hold
    data = bytearray(out.getvalue())
    if damage:
        data[at % len(data)] ^= flip
    path = tmp_path / "t.tar"
    path.write_bytes(data)
    one_by_one: list[tuple[str, int, int]] = []
    for wanted in (None, lambda name, size: False):
        found, error = [], ""
        try:
            for member in TarPass(open_source(path), wanted=wanted).members():
                found.append((member.name, member.offset, member.size))
                assert member.data in (None, data[member.offset : member.offset + member.size])
        except DataError as raised:
            error = raised.reason
        if wanted is None:
            one_by_one, said = found, error
        assert (found, error) == (one_by_one, said)
    if not damage:
        with tarfile.open(path) as tar:
            listed = [(m.name, m.offset_data, m.size) for m in tar if m.isreg() and not m.name.endswith("/")]
        assert one_by_one == listed
    run = plain_run(open_source(path), 0, 100)
    together = list(zip([name.decode() for name in run.names], run.offsets.tolist(), run.sizes.tolist(), strict=True))
    assert together == one_by_one[: len(together)]
    assert run.heads == [data[offset : offset + min(size, HEAD)] for _, offset, size in together]
    plain = [each for each in members if each[2] == tarfile.REGTYPE and each[0].isascii() and len(each[0]) < 100]
    if not damage and plain == members and all(name.strip("/") == name for name, _, _ in members):
        assert len(together) == len(members)
