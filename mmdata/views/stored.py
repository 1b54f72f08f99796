"""What a view made of a medium, as bytes that are kept beside it: under which digest, how written, how read again.

Of a plan's operations some only normalise pixels and sort them into patches. They cost little and quadruple the bytes
(or more: Qwen-VL's patches hold a still picture twice), so `uint8` keeps what comes before them, as pictures
[h, w, 3] or [N, h, w, 3], and they run when it is read, over the same values as ever:

    Resize(476, 644), | Normalise, Patchify          AnyRes: Fork((Resize,), (Resize, Pad, Tile)), | Normalise

`float32` keeps the output itself, and is the only exact way for views that compute with fractions before their last
step (log-mel, Pix2Struct). `float16` and `jpeg<quality>` are smaller and lossy.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mmdata.errors import DataError, SpecError
from mmdata.types import Augmented, KeepRows, Media, MediaPlan, Normalise, Op, Patchify, Stored

if TYPE_CHECKING:
    from collections.abc import Hashable

    import torch

    from mmdata.families._family import View

VERSION = 1
"""Of the algorithms below a view's description: grows when the same description and plan come to give other values."""
LOSSY = ("float16", "jpeg")
AXES = ("picture", "row", "column", "channel")
JPEG_SIDE = 65_535


@functools.cache
def _generation() -> dict[str, int]:
    """By backend, the generation of library code whose resizes are alike, bit for bit."""
    import PIL

    # Pillow 13 chooses the order of its two passes by the sizes; it went width first before.
    return {"torchvision": 1, "pil": 2 if int(PIL.__version__.partition(".")[0]) >= 13 else 1}


def exact_format(view: View) -> str:
    """The smallest format from which a view's output comes back bit for bit."""
    return "uint8" if hasattr(view, "dtype") else "float32"


def check_format(view: View, form: str) -> None:
    """Raise SpecError for a view whose output cannot be kept in a format."""
    if (form == "uint8" or form.startswith("jpeg")) and not hasattr(view, "dtype"):
        raise SpecError(f"{form}: view {view.describe()['view']} has fractions before its last step; store float32")
    if form == "float32" and getattr(view, "dtype", form) == "uint8":
        raise SpecError(f"{form}: view {view.describe()['view']} was asked for uint8; store that")


def _split(plan: MediaPlan) -> tuple[tuple[Op, ...], tuple[Op, ...]]:
    """The operations that are kept done, and those that only normalise and cut into patches."""
    at = len(plan.ops)
    while at and isinstance(plan.ops[at - 1], Normalise | Patchify | KeepRows):
        at -= 1
    return plan.ops[:at], plan.ops[at:]


def _of_pixels(form: str) -> bool:
    return form == "uint8" or form.startswith("jpeg")


@functools.lru_cache(maxsize=256)
def _described(view: Hashable, form: str) -> str:
    """What a view and a format are, whatever the medium. Nothing depends on which type the view's output has in the
    end: pixels become either."""
    parameters: dict[str, Any] = view.describe()  # type: ignore[attr-defined]
    generation = _generation().get(str(parameters.get("backend")), 1)
    value = {**parameters, "dtype": None, "form": form, "version": VERSION, "generation": generation}
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def name(view: View, form: str) -> str:
    """8 hex digits for all that one view makes in one format."""
    return hashlib.sha256(_described(view, form).encode()).hexdigest()[:8]  # type: ignore[arg-type]


def digest(view: View, plan: MediaPlan, form: str) -> str:
    """SHA-256 (hex) of all that decides what is kept of a medium besides its bytes: the view's parameters and backend,
    the format, the plan (size and frames of the medium, operations), and the generation of the code."""
    ops = _split(plan)[0] if _of_pixels(form) else plan.ops
    decides = (_described(view, form), plan.kind, plan.size, plan.frames, ops)  # type: ignore[arg-type]
    return hashlib.sha256(repr(decides).encode()).hexdigest()


def match(medium: Media, view: View, plan: MediaPlan, *, lossy: bool = False) -> Stored | None:
    """What is kept of a medium from which exactly that comes which the view would make by the plan now, or None. With
    `lossy` also what comes near it, if there is nothing exact. An augmented medium has nothing."""
    if isinstance(medium, Augmented):
        return None
    wanted = getattr(view, "dtype", "float32")
    for near in (False, True) if lossy else (False,):
        for stored in medium.made:
            fits = stored.format.startswith(LOSSY) is near and (_of_pixels(stored.format) or wanted == "float32")
            if fits and stored.digest == digest(view, plan, stored.format):
                return stored
    return None


def size(plan: MediaPlan) -> int:
    """The most bytes that any format takes of a plan's output, known before anything is decoded."""
    return 4 * int(np.prod(plan.shape, dtype=np.int64))


def make(source: Any, view: View, plan: MediaPlan, form: str, *, alone: bool = False) -> Stored:
    """What is kept of a medium: `source` is what `view.realize` takes. Raises as it does, and DataError
    `not_storable` for pictures that are too long for a JPEG."""
    if _of_pixels(form):
        pixels = replace(view, dtype="uint8")  # type: ignore[type-var]
        made = pixels.realize(source, replace(plan, ops=_split(plan)[0]))
        pictures = np.ascontiguousarray(made.movedim(-3, -1).numpy())
        data = (
            _jpegs(pictures, int(form.removeprefix("jpeg")))
            if form != "uint8"
            else _tensor(pictures, AXES[-pictures.ndim :])
        )
    else:
        data = _tensor(view.realize(source, plan).numpy().astype(form))
    return Stored(digest=digest(view, plan, form), name=name(view, form), format=form, alone=alone, data=data)


def restore(data: bytes, stored: Stored, view: View, plan: MediaPlan) -> np.ndarray:
    """The array of `plan.shape` that the view would make, from bytes that `make` wrote; possibly read-only.

    Raises DataError `stored_damaged` for bytes that hold anything else.
    """
    import torch

    from mmdata.views.pixels import apply

    if stored.format.startswith("jpeg"):
        array = _read_jpegs(data)
    else:
        array = _read_tensor(data)
    try:
        if _of_pixels(stored.format):
            pixels = torch.from_numpy(array.copy()).movedim(-1, -3)
            dtype: torch.dtype = getattr(torch, view.dtype)  # type: ignore[attr-defined]
            array = apply(pixels, _split(plan)[1], dtype=dtype).numpy()
        else:
            array = array.astype(np.float32, copy=False)
    except (ValueError, RuntimeError) as error:
        raise DataError("stored_damaged", f"{stored.format} {list(array.shape)}: {error}") from error
    if array.shape != plan.shape:
        raise DataError("stored_damaged", f"{stored.format}: {list(array.shape)}, planned are {list(plan.shape)}")
    return array


def _tensor(array: np.ndarray, axes: Sequence[str] | None = None) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    pa.ipc.write_tensor(pa.Tensor.from_numpy(np.ascontiguousarray(array), dim_names=axes), sink)
    return bytes(sink.getvalue())


def _read_tensor(data: bytes) -> np.ndarray:
    import pyarrow as pa

    try:
        array: np.ndarray = pa.ipc.read_tensor(pa.BufferReader(data)).to_numpy()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError("stored_damaged", f"no Arrow tensor: {error}") from error
    return array


def _jpegs(pictures: np.ndarray, quality: int) -> bytes:
    """[h, w, 3] or [N, h, w, 3] as an Arrow IPC stream of one column, `jpeg`, one row per picture; the metadata say
    how many axes there were."""
    import pyarrow as pa

    from mmdata.decode.image import encode

    each = pictures[None] if pictures.ndim == 3 else pictures
    if max(each.shape[1:3]) > JPEG_SIDE:
        raise DataError("not_storable", f"pictures of {each.shape[1]} x {each.shape[2]}; a JPEG has up to {JPEG_SIDE}")
    rows = pa.array([encode(picture, "jpeg", quality) for picture in each], pa.binary())
    schema = pa.schema([pa.field("jpeg", pa.binary(), nullable=False)], {"axes": str(pictures.ndim)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.record_batch([rows], schema=schema))
    return bytes(sink.getvalue())


def _read_jpegs(data: bytes) -> np.ndarray:
    import pyarrow as pa

    from mmdata.decode.image import MAX_PIXELS, decode

    try:
        table = pa.ipc.open_stream(data).read_all()
        rows: Sequence[bytes] = table["jpeg"].to_pylist()
        single = (table.schema.metadata or {}).get(b"axes") == b"3"
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise DataError("stored_damaged", f"no Arrow stream of pictures: {error}") from error
    pictures = [decode(row, max_pixels=MAX_PIXELS) for row in rows]
    if not pictures or len({picture.shape for picture in pictures}) > 1:
        raise DataError("stored_damaged", f"{len(pictures)} pictures of several sizes, or none")
    return pictures[0] if single else np.stack(pictures)
