"""Drop samples whose media are those of an earlier kept sample, byte for byte or pixel for pixel."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field

from mmdata.registry import register
from mmdata.spec import OrderedState, OrderedStepSpec
from mmdata.steps._kept import Digests, Keys
from mmdata.types import Drop, Media, Sample, Text

if TYPE_CHECKING:
    from mmdata.decode.work import Work

SIZE = 16  # Bytes of a SHA-256 that are kept: among 10^9 samples, two differing ones collide with chance 1.5e-21.


def _distinct(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(value)) < len(value):
        raise ValueError("each may be named once")
    return value


@register("step", "exact_dedup")
class ExactDedup(OrderedStepSpec):
    """Drop a sample whose media equal those of an earlier kept sample. It ends as `duplicate`, reason `exact_dup`,
    with the kept sample's key. Texts are not compared unless `texts` says so: a picture under another caption is a
    duplicate. A sample of several media is a duplicate if all of them are, in the same order; one without media never
    is, but by its texts.

    The first 16 bytes of a SHA-256 are compared. The main process holds about 75 bytes for each kept sample
    (both digests, keys of 9 characters).
    """

    kind: Literal["exact_dedup"] = "exact_dedup"
    of: Annotated[tuple[Literal["bytes", "pixels"], ...], AfterValidator(_distinct)] = Field(
        ("bytes", "pixels"), min_length=1
    )
    """What is compared. `bytes`: the file as it came from the source. `pixels`: the upright RGB picture, which
    finds files that differ in metadata or lossless compression only; it needs an exact decode. (Video and audio are
    always compared by their bytes.)"""

    texts: bool = False
    """Whether texts count too: then a duplicate says the same of the same media. For questions about pictures, of which
    there may be several for one."""

    @property
    def needs_pixels(self) -> bool:
        """Whether exact pixels will be asked for."""
        return "pixels" in self.of

    def signature(self, sample: Sample, work: Work) -> dict[str, bytes]:
        said = [_of_texts(sample)] if self.texts else []
        if not sample.media and not said:
            return {}
        digest = {"bytes": lambda media: _of_bytes(media), "pixels": lambda media: _of_pixels(media, work)}
        return {
            f"exact_{what}": _combined([*said, *(digest[what](media) for media in sample.media)]) for what in self.of
        }

    def state(self) -> OrderedState:
        return _Kept(self.of)


class _Kept:
    def __init__(self, of: tuple[str, ...]) -> None:
        self._keys = Keys()
        self._digests = {what: Digests() for what in of}

    def check(self, key: str, signature: Mapping[str, bytes]) -> Drop | None:
        for what, digests in self._digests.items():
            digest = signature.get(f"exact_{what}")
            position = digests.find(digest) if digest is not None else None
            if position is not None:
                return Drop(reason="exact_dup", detail=f"same {what}", state="duplicate", of=self._keys[position])
        return None

    def keep(self, key: str, signature: Mapping[str, bytes]) -> None:
        digests = {what: signature[f"exact_{what}"] for what in self._digests if f"exact_{what}" in signature}
        if digests:
            position = self._keys.append(key)
            for what, digest in digests.items():
                self._digests[what].add(digest, position)


def _of_bytes(media: Media) -> bytes:
    if media.sha256 is not None:
        return bytes.fromhex(media.sha256)
    if media.data is None:
        raise ValueError(f"media {media.uri} holds no bytes: steps run after fetching")
    return hashlib.sha256(media.data).digest()


def _of_pixels(media: Media, work: Work) -> bytes:
    if media.kind != "image":
        return _of_bytes(media)
    pixels = work.pixels(media)
    digest = hashlib.sha256(b"%d %d %d\n" % pixels.shape)  # The same pixels in other rows are another picture.
    digest.update(pixels.data if pixels.flags.c_contiguous else pixels.tobytes())
    return digest.digest()


def _of_texts(sample: Sample) -> bytes:
    """Of what is said, who says it, and where media stand in between."""
    said = [[part.role, part.text] if isinstance(part, Text) else part.kind for part in sample.parts]
    return hashlib.sha256(json.dumps(said).encode()).digest()


def _combined(digests: list[bytes]) -> bytes:
    whole = digests[0] if len(digests) == 1 else hashlib.sha256(b"".join(digests)).digest()
    return whole[:SIZE]
