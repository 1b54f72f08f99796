"""Store what a family's views make of each medium beside it, so that later epochs need not make it again."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from mmdata.errors import DataError, SpecError
from mmdata.registry import register
from mmdata.spec import InputPath, StepSpec
from mmdata.types import Drop, Media, MediaKind, MediaPlan, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work
    from mmdata.families import Views
    from mmdata.families._family import View

KINDS: tuple[MediaKind, ...] = ("image", "video", "audio")
SAMPLE_RATE = 16_000


@register("step", "materialize")
class Materialize(StepSpec):
    """Do what a stream of `family` would do to every medium in every epoch, once, and keep the result in the shard:
    `<key>.<part>.<8 hex digits>.arrow`, which `pyarrow.ipc.read_tensor` reads. A stream reads it in place of the
    medium wherever its family's view and the plan it makes are those of this step, and otherwise the medium itself.

    A medium that the family does not take, that its view refuses or whose result is larger than `max_bytes` is left as
    it is, bytes included. Stands after all other steps, but others of its kind; sizes must be known (`probe`).
    """

    last: ClassVar[bool] = True
    needs_pixels: ClassVar[bool] = True

    kind: Literal["materialize"] = "materialize"
    family: str
    """The model family whose views are used; their parameters as in a stream:"""
    image: dict[str, Any] | None = None
    """Parameters of the view of images."""
    video: dict[str, Any] | None = None
    """Parameters of the view of videos."""
    audio: dict[str, Any] | None = None
    """Parameters of the view of audio."""
    checkpoint: InputPath | None = None
    """Folder of a checkpoint whose processor decides what is not given."""
    store: Literal["tensor", "jpeg"] = "tensor"
    """`jpeg` writes the resized pictures, tiles and frames as JPEG (an Arrow stream of them): an eighth of the bytes or
    less, and LOSSY. A stream uses it only when told to (`materialized: lossy`). Audio is always a tensor."""
    dtype: Literal["uint8", "float32", "float16"] | None = None
    """`uint8` keeps pixels before they are normalised and cut into patches, which the stream then does: bit for bit
    the same in a quarter of the bytes. `float32` keeps the finished array. `float16` is LOSSY, and used as `jpeg` is.
    Default: `uint8` where the view can, else (audio) `float32`."""
    quality: int = Field(95, ge=1, le=100)
    """Of the JPEGs."""
    keep_original: bool = True
    """Whether the medium's own bytes are kept. Without them a stream that asks for anything else, or augments, leaves
    the sample out and counts it `materialized_other`."""
    max_bytes: int = Field(1 << 28, ge=1)
    """Largest result, as float32, that is made of one medium; it bounds the memory of a worker."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Materialize:
        if self.store == "jpeg" and self.dtype is not None:
            raise ValueError("store: jpeg has no dtype; leave it out")
        try:
            for kind in KINDS:
                try:
                    (view,) = self._views([Media(kind=kind)])
                except DataError:
                    continue  # the family takes no such media
                self._format(kind, view)
        except SpecError as error:
            raise ValueError(str(error)) from error
        return self

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        try:
            views = iter(self._views(sample.media))
        except DataError:
            work.note("not_materialized")
            return sample
        parts = [self._with_made(part, next(views), work) if isinstance(part, Media) else part for part in sample.parts]
        return replace(sample, parts=tuple(parts))

    @property
    def _views(self) -> Views:
        given = [self.image, self.video, self.audio]
        return _views(self.family, self.checkpoint, json.dumps(given, default=str))

    def _format(self, kind: MediaKind, view: View) -> str:
        """How the output of a view is kept. Raises SpecError where it cannot be."""
        from mmdata.views import stored

        if self.store == "jpeg" and kind != "audio":
            form = f"jpeg{self.quality}"
        else:
            form = self.dtype or stored.exact_format(view)
        stored.check_format(view, form)
        return form

    def _with_made(self, medium: Media, view: View, work: Work) -> Media:
        from mmdata.views import stored

        try:
            plan = view.plan(medium)
        except DataError as error:
            if error.reason == "no_facts":
                raise
            work.note("not_materialized")
            return medium
        if stored.size(plan) > self.max_bytes:
            work.note("not_materialized")
            return medium
        form = self._format(medium.kind, view)
        try:
            made = stored.make(_source(medium, plan, work), view, plan, form, alone=not self.keep_original)
        except DataError as error:
            if error.reason != "not_storable":
                raise
            work.note("not_materialized")
            return medium
        others = tuple(other for other in medium.made if other.name != made.name)
        return replace(medium, made=(*others, made))


@functools.lru_cache(maxsize=16)
def _views(family: str, checkpoint: str | None, given: str) -> Views:
    from mmdata.families import family_views

    image, video, audio = json.loads(given)
    return family_views(family, image=image, video=video, audio=audio, checkpoint=checkpoint)


def _source(medium: Media, plan: MediaPlan, work: Work) -> Any:
    """What `View.realize` takes: pixels, the planned frames, or a waveform, of the size that the facts say."""
    assert medium.data is not None, medium
    if medium.kind == "audio":
        from mmdata.decode import audio

        return audio.decode(medium.data, sample_rate=SAMPLE_RATE)
    if medium.kind == "video":
        from mmdata.decode.video import decode_frames

        source: Any = decode_frames(medium, plan.frames, max_pixels=work.max_pixels).pixels
        size = tuple(source.shape[-2:])
    else:
        source = work.pixels(medium)
        size = source.shape[:2]
    if size != plan.size:
        raise DataError("facts_mismatch", f"decoded to {size}, the facts say {plan.size}")
    return source
