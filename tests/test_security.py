"""What data from strangers must not be able to do (docs/threat_model.md): run code, leave its folder, name files of
this machine, take all memory."""

from __future__ import annotations

import ast
import io
import json
import pickle
import struct
import tarfile
from pathlib import Path

import crc32c
import pyarrow as pa
import pytest

from mmdata.engine import mapped
from mmdata.errors import DataError
from mmdata.fetch.address import is_public
from mmdata.index import index_tars
from mmdata.shards.dataset import open_dataset
from mmdata.sources._paths import names_local, within
from tests.building import build, folder_of_pictures, ledger, picture, write_spec

ROOT = Path(__file__).parents[1]


def _pickled(module: str, name: str, *arguments: str) -> bytes:
    """Protocol 4: `module.name(*arguments)` when it is loaded, names with dots in them as they are."""
    code = pickle.PROTO + b"\x04"
    for text in (module, name):
        data = text.encode()
        code += pickle.SHORT_BINUNICODE + bytes([len(data)]) + data
    code += pickle.STACK_GLOBAL + pickle.MARK
    for text in arguments:
        data = text.encode()
        code += pickle.SHORT_BINUNICODE + bytes([len(data)]) + data
    return code + pickle.TUPLE + pickle.REDUCE + pickle.STOP


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("posix", "system"),
        ("builtins", "eval"),
        ("mmdata.engine.local", "os.system"),  # what one of our modules imports, by a dotted name
        ("mmdata.engine.local", "asyncio.subprocess.subprocess.Popen"),  # a class, at that
        ("mmdata.engine.spool", "os._wrap_close"),
        ("mmdata.engine.local", "Path"),  # a class that one of our modules imports
        ("numpy", "load"),
        ("numpy", "ndarray.tofile"),
    ],
)
def test_a_unit_handed_over_by_another_machine_runs_nothing(tmp_path: Path, module: str, name: str) -> None:
    (tmp_path / mapped.FOLDER).mkdir(parents=True)
    packed = _pickled(module, name, f"touch {tmp_path}/owned")
    file = mapped.MAGIC + struct.pack("<QI", len(packed), crc32c.crc32c(packed)) + packed
    mapped.place(tmp_path, 0).write_bytes(file)
    with pytest.raises(DataError, match="unit_damaged"):
        mapped.read(tmp_path, 0)
    assert not (tmp_path / "owned").exists()


def test_arrow_extension_types_run_nothing(tmp_path: Path) -> None:
    """Old releases of pyarrow unpickled a type that a file named."""
    evil = _pickled("posix", "system", f"touch {tmp_path}/owned")
    field = pa.field(
        "image",
        pa.binary(),
        metadata={"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": evil},
    )
    table = pa.Table.from_arrays(
        [pa.array([b"x"]), pa.array(["a cat"])], schema=pa.schema([field, pa.field("text", pa.string())])
    )
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    pa.parquet.write_table(table, tmp_path / "b.parquet")
    for name in ("a.arrow", "b.parquet"):
        index_tars([str(tmp_path / name)], tmp_path / name.replace(".", "_"), quiet=True)
    assert not (tmp_path / "owned").exists()


def _member(
    name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, link
    return info, data


def _hostile_tar(path: Path) -> Path:
    image = io.BytesIO()
    picture(1).save(image, "JPEG")
    data = image.getvalue()
    members = [
        _member("good.jpg", data),
        _member("good.txt", b"a field"),
        _member("../../../../tmp/escaped.jpg", data),
        _member("/etc/absolute.jpg", data),
        _member("link.jpg", kind=tarfile.SYMTYPE, link="/etc/passwd"),
        _member("hard.txt", kind=tarfile.LNKTYPE, link="good.txt"),
        _member("device.jpg", kind=tarfile.CHRTYPE),
        _member("pipe.jpg", kind=tarfile.FIFOTYPE),
        _member("folder.jpg/", kind=tarfile.DIRTYPE),
        _member("back\\slash.jpg", data),
        _member("k" * 300 + ".jpg", data),
        _member("last.jpg", data),
    ]
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as made:
        for info, body in members:
            made.addfile(info, io.BytesIO(body))
    return path


def test_a_hostile_tar_leaves_its_folder_in_no_way(tmp_path: Path) -> None:
    hostile = _hostile_tar(tmp_path / "hostile.tar")
    manifest = index_tars([str(hostile)], tmp_path / "adopted", quiet=True)
    dataset = open_dataset(tmp_path / "adopted")
    keys = dataset.keys()
    assert keys[0].rpartition("/")[2] == "good"
    assert all(".." not in key.split("/") and not key.startswith("/") and len(key) < 210 for key in keys)
    assert b"root:" not in b"".join(part.data or b"" for sample in dataset for part in sample.media)
    assert manifest.samples >= 2
    spec = write_spec(tmp_path / "spec.yaml", {"kind": "webdataset", "path": "hostile.tar"}, [{"kind": "probe"}])
    build(spec)
    names = [json.loads(json.dumps(row.key)) for row in ledger(tmp_path / "out")]
    assert all(name.isdigit() for name in names), "our own keys name our files"
    inside = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*")}
    assert inside == {"adopted", "out", "hostile.tar", "spec.yaml"}
    assert not Path("/tmp/escaped.jpg").exists()


@pytest.mark.parametrize(
    "records",
    [
        {"size": "9" * 5000},
        {"size": "²"},
        {"size": "-1"},
        {"size": str(1 << 62)},
        {"path": "a\0b.jpg"},
        {"GNU.sparse.major": "1"},
    ],
    ids=["long", "no digit", "negative", "huge", "zero byte", "sparse"],
)
def test_extended_headers_lie_in_vain(tmp_path: Path, records: dict[str, str]) -> None:
    info, data = _member("a.jpg", b"x" * 10)
    info.pax_headers = records
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as made:
        made.addfile(info, io.BytesIO(data))
    manifest = index_tars([str(tmp_path / "a.tar")], tmp_path / "out", quiet=True)
    assert manifest.samples + sum(manifest.counts.values()) >= 1, "it ends, and says what it found"


def test_a_chain_of_urls_names_no_file_of_ours(tmp_path: Path) -> None:
    for uri in (
        "file:///etc/passwd", "FILE:///etc/passwd", "local:///etc/passwd", "simplecache::file:///etc/passwd",
        "simplecache::/etc/passwd", "zip://x.txt::/tmp/a.zip", "zip://x::file:///a.zip",
    ):  # fmt: skip
        assert names_local(uri), uri
    with pytest.raises(DataError, match="path_escape"):
        within("/data", "zip://a.jpg::/etc/secrets.zip")
    for uri in ("https://a.org/b::c", "s3://bucket/a.jpg", "simplecache::https://a.org/b.jpg"):
        assert not names_local(uri), uri
    folder_of_pictures(tmp_path / "mine", 1)
    secret = tmp_path / "mine" / "0000.jpg"
    rows = [f"file://{secret}", f"simplecache::file://{secret}", f"filecache::{secret}", str(secret)]
    (tmp_path / "table.csv").write_text("URL,TEXT\n" + "".join(f"{row},t\n" for row in rows))
    spec = write_spec(
        tmp_path / "spec.yaml", {"kind": "laion", "path": "table.csv"}, [], fetch={"allow_private": True, "retries": 0}
    )
    build(spec)
    assert {row.reason for row in ledger(tmp_path / "out")} <= {"bad_scheme", "bad_url"}


@pytest.mark.parametrize(
    "host",
    ["2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1", "127.0.0.1.", "[::1]", "[::ffff:7f00:1]",
     "[::127.0.0.1]", "[64:ff9b::7f00:1]", "１２７.0.0.1", "127。0。0。1", "localhost", "a.localhost",
     "169.254.169.254", "[fe80::1%25lo]", "0", "0.0.0.0", "user@127.0.0.1", "8.8.8.8@127.0.0.1", "127.0.0.1\\@8.8.8.8"],
)  # fmt: skip
def test_no_spelling_of_loopback_is_fetched(host: str) -> None:
    import asyncio

    from mmdata.fetch.address import Resolver
    from mmdata.fetch.failure import FetchError
    from mmdata.fetch.url import origin_of, parse_url

    async def judged() -> None:
        judge = Resolver(allow_private=False, seconds=5.0, threads=1)
        try:
            await judge.check(origin_of(parse_url(f"http://{host}/x"))[1])
        finally:
            await judge.close()

    with pytest.raises(FetchError) as refused:
        asyncio.run(judged())
    assert refused.value.reason in ("private_address", "bad_url", "dns_not_found")
    assert not is_public("127.0.0.1")


@pytest.mark.parametrize(
    "data",
    [
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nc=IN IP4 127.0.0.1\r\nm=video 5004 RTP/AVP 96\r\n",
        b"<?xml version='1.0'?><MPD><Period><AdaptationSet/></Period></MPD>",
        b"http://127.0.0.1:1/x.mp4",
    ],
    ids=["hls", "concat", "sdp", "dash", "a url"],
)
def test_a_playlist_is_no_medium(data: bytes) -> None:
    from mmdata.decode import audio, video

    with pytest.raises(DataError):
        video.read_facts(data)
    with pytest.raises(DataError):
        audio.decode(data)


# Calls through which data could run code, and the few places that may make them, each with its reason.
ALLOWED = {
    ("mmdata/engine/channel.py", "pickle.loads"),  # between a build and its own workers, by an inherited socket
    ("mmtrain/preference/reference.py", "np.load"),  # a run's own tables of numbers, with allow_pickle=False
    ("mmdata/stream/handover.py", "pickle.loads"),  # between a loader and its own processes, likewise
    ("mmdata/stream/workers.py", "pickle.loads"),  # of what was pickled in the same line
}
FORBIDDEN = {
    "pickle.load", "pickle.loads", "torch.load", "np.load", "numpy.load", "joblib.load", "dill.loads", "marshal.loads",
    "shelve.open", "yaml.unsafe_load", "yaml.full_load", "eval", "exec", "os.system", "os.popen",
    "tarfile.open", "zipfile.ZipFile", "shutil.unpack_archive",
}  # fmt: skip


def _called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def test_nothing_that_data_reaches_can_run_code() -> None:
    """By the source: no pickle but between our own processes, no code of models, no shell, no unpacking to a disk."""
    found = set()
    for path in [*(ROOT / "mmdata").rglob("*.py"), *(ROOT / "mmtrain").rglob("*.py")]:
        name = path.relative_to(ROOT).as_posix()
        if name.startswith("mmdata/testing/"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called, words = _called(node), {word.arg: ast.unparse(word.value) for word in node.keywords}
            if called in FORBIDDEN and (name, called) not in ALLOWED:
                found.add(f"{name}:{node.lineno}: {called}")
            if called == "yaml.load" and words.get("Loader") != "_Loader":
                found.add(f"{name}:{node.lineno}: yaml.load with {words}")
            if words.get("shell") == "True" or words.get("trust_remote_code", "False") != "False":
                found.add(f"{name}:{node.lineno}: {called} with {words}")
            if called.startswith("Auto") and called.endswith(".from_pretrained") and "trust_remote_code" not in words:
                found.add(f"{name}:{node.lineno}: {called} may ask at the terminal whether to run a model's code")
            if called.endswith("Environment") and "jinja2" in called and words.get("autoescape") != "True":
                found.add(f"{name}:{node.lineno}: {called} does not escape")
    assert found == set()


def test_no_template_marks_data_as_safe() -> None:
    pages = [*(ROOT / "mmdata").rglob("*.jinja"), *(ROOT / "mmtrain").rglob("*.jinja")]
    assert len(pages) >= 2
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert "|safe" not in text.replace(" ", ""), page
        assert "autoescape false" not in text, page
