"""Bring videos into one container, codec and size."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.steps._films import clip, every, times, with_facts
from mmdata.types import Drop, Media, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work


@register("step", "video_encode")
class VideoEncode(StepSpec):
    """Write videos as MP4. `remux` moves the packets of the first picture and sound track as they are into the new
    container, decoding nothing; where MP4 cannot hold a codec the sample ends as `failed_permanent: remux`. `encode`
    encodes anew: H.264 4:2:0 and AAC, upright, at most `longest` pixels and `max_fps` frames a second."""

    kind: Literal["video_encode"] = "video_encode"
    mode: Literal["remux", "encode"] = "remux"
    longest: int | None = Field(None, ge=16)
    """For `encode`: the longer side, in pixels, of larger videos."""
    max_fps: float | None = Field(None, gt=0)
    """For `encode`: frames are left out of faster videos."""
    crf: int = Field(20, ge=0, le=51)
    """For `encode`: quality of x264, 0 the best."""

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        parts = [
            self._written(part) if isinstance(part, Media) and part.kind == "video" else part for part in sample.parts
        ]
        return replace(sample, parts=tuple(parts))

    def _written(self, media: Media) -> Media:
        media = with_facts(media)
        if self.mode == "remux":
            return media if media.format == "mp4" else _remuxed(media)
        frames = every(media, self.max_fps) if self.max_fps and (media.fps or 0) > self.max_fps else None
        return clip(media, 0, len(times(media)), frames=frames, longest=self.longest, crf=self.crf)


def _remuxed(media: Media) -> Media:
    import av

    from mmdata.decode import demux
    from mmdata.errors import DataError

    assert media.data is not None, media
    out = io.BytesIO()
    try:
        with demux.opened(media.data) as (source, _), av.open(out, "w", format="mp4") as target:
            target.flags |= 0x400  # AVFMT_FLAG_BITEXACT: no version or date in the file
            tracks: dict[int, Any] = {}
            for stream in (*source.streams.video[:1], *source.streams.audio[:1]):
                tracks[stream.index] = target.add_stream_from_template(stream)
            latest: dict[int, int] = {}
            for packet in source.demux(*[source.streams[index] for index in tracks]):
                if packet.size:
                    index, dts = packet.stream.index, packet.dts
                    # MP4 takes no two packets of one time: such follow each other by a tick.
                    if dts is not None and dts <= latest.get(index, dts - 1):
                        packet.dts = dts = latest[index] + 1
                        packet.pts = None if packet.pts is None else max(packet.pts, dts)
                    if dts is not None:
                        latest[index] = dts
                    packet.stream = tracks[index]
                    target.mux(packet)
    except (av.FFmpegError, ValueError) as error:
        raise DataError("remux", f"{media.format}: {error}") from error
    made = Media(kind="video", data=out.getvalue(), uri=media.uri, role=media.role, sha256=media.sha256)
    return replace(with_facts(made), marks=media.marks)
