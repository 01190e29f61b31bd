"""One pass over the packets of a video track: counts, times and key frames, without decoding.

Times are integers in the time base of the track until they are converted to seconds. *Presentation
time* (pts) is when a frame is shown, *decoding time* (dts) when it must be decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True)
class PacketSummary:
    """What the packets of a track say.

    Attributes:
        count: packets with data.
        trimmed: packets that an edit list discards.
        without_time: whether a packet has no presentation time.
        keys: packets marked as key frames.
        before_key: packets before the first key frame, in order of decoding.
        leading: whether pictures after the first key frame in order of decoding precede it in time.
        first: presentation time of the first frame shown.
        last: presentation time of the last frame shown.
        end: presentation time at which the last frame shown ends.
        decode_times: decoding times of the packets that have one.
    """

    count: int = 0
    trimmed: int = 0
    without_time: bool = False
    keys: int = 0
    before_key: int = 0
    leading: bool = False
    first: int | None = None
    last: int | None = None
    end: int | None = None
    decode_times: list[int] = field(default_factory=list)

    @property
    def span(self) -> int:
        """From the start of the first frame to the end of the last; 0 if unknown."""
        return 0 if self.first is None or self.end is None else self.end - self.first

    @property
    def late_key(self) -> bool:
        """Whether the track does not begin with a key frame, but has one later.

        A track without any key frame is passed to the decoder as it is: it may refresh the picture
        line by line.
        """
        return self.keys > 0 and self.before_key > 0

    @property
    def shown(self) -> int:
        """Packets that are neither trimmed nor before the first key frame."""
        return self.count - self.trimmed - (self.before_key if self.late_key else 0)

    def decode_seconds(self, time_base: float) -> tuple[float, ...] | None:
        """Decoding times in seconds, ascending; None if a packet has none."""
        if len(self.decode_times) != self.count:
            return None
        return tuple(time * time_base for time in sorted(self.decode_times))


def summarize_packets(container: Any, stream: Any) -> PacketSummary:
    """Demux a track of a PyAV container once."""
    summary = PacketSummary()
    key_pts: int | None = None
    may_lead = True
    for packet in container.demux(stream):
        if not packet.size:  # PyAV ends each track with an empty packet
            continue
        pts = packet.pts
        if packet.dts is not None:
            summary.decode_times.append(packet.dts)
        summary.count += 1
        summary.keys += packet.is_keyframe
        summary.before_key += summary.keys == 0
        summary.trimmed += packet.is_discard
        if pts is None:
            summary.without_time = True
            continue

        # Leading pictures end with the first packet that follows the key frame in time.
        if key_pts is None:
            key_pts = pts if packet.is_keyframe else None
        elif may_lead:
            may_lead = pts < key_pts
            summary.leading = summary.leading or may_lead

        if packet.is_discard:
            continue
        summary.first = pts if summary.first is None else min(summary.first, pts)
        if summary.last is None or pts > summary.last:
            summary.last = pts
            summary.end = pts + (packet.duration or 0)
    return summary


def skip_undecodable(
    packets: Iterator[Any], *, late_key: bool, drops_leading: bool
) -> Iterator[Any]:
    """Packets from the first key frame on, without pictures that a player does not show.

    A file cut by stream copy may begin in the middle of a group of pictures, or with a key frame
    whose leading pictures refer to frames that were cut away. Decoders drop those silently, except
    that of H.264, which reports them as damage.

    Args:
        packets: of one track, in order of decoding.
        late_key: packets precede the first key frame.
        drops_leading: leading pictures follow the first key frame and must be dropped here.
    """
    key_pts: int | None = None
    started = not late_key
    leading = drops_leading
    for packet in packets:
        if not started and packet.size:
            started = packet.is_keyframe
            if not started:
                continue
        if leading and packet.pts is not None:
            key_pts = packet.pts if key_pts is None else key_pts
            if packet.pts < key_pts:
                continue
            leading = packet.pts == key_pts
        yield packet
