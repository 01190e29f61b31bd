"""A folder of shards as a ready ``webdataset.WebDataset``, for training something else on them.

Training of this package reads by index instead (``training/data``): a stream cannot be resumed at a
sample, and its order depends on the number of workers.

``webdataset`` imports torch, so it is imported by the call only.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from corrfractal.common.errors import CallError, IntegrityError
from corrfractal.files import storage

from .clip import decode_clip
from .manifest import URLS, ShardName, load_manifest

if TYPE_CHECKING:
    import webdataset

# Bytes that one request to an object store fetches
BLOCK_SIZE = 8 << 20


def open_webdataset(
    shards: str | Path,
    *,
    views: tuple[int, ...] | None = None,
    frames: tuple[int, ...] | None = None,
    shuffle: int = 0,
    seed: int | None = None,
    **options: Any,
) -> webdataset.WebDataset:
    """Open a folder of shards as a stream of clips.

    A sample is a dictionary: ``frames`` uint8 (T, H, W, 3) RGB, ``labels`` uint8 (V, T, H, W) with
    ids 0..15, ``key`` and ``meta`` (the fields of ``KEY.json``, see docs/reference/format.md);
    ``webdataset`` adds ``__key__``. Members are decoded as JPEG, PNG and JSON only; nothing is
    unpickled.

    Args:
        shards: the folder, a local path or a URI that fsspec supports. Drivers read credentials
            from the environment.
        views: label views to decode, in the order of the result; None: all.
        frames: frames to decode, likewise.
        shuffle: clips in the shuffle buffer, which also turns on shuffling of the shards; 0: stored
            order.
        seed: of the shuffle; each pass over the data in one process has its own order. None: a
            random seed. A ``DataLoader`` starts its workers again for every pass, and with them
            the order, unless it has ``persistent_workers=True``.
        options: further arguments of ``webdataset.WebDataset``. ``nodesplitter`` and
            ``workersplitter`` divide the shards; the defaults divide them among the workers of a
            ``DataLoader`` and refuse more than one node, so multi-node jobs pass
            ``nodesplitter=webdataset.split_by_node``.

    Returns:
        The data set; its methods apply, for example ``.to_tuple("frames", "labels").batched(8)``.

    Raises:
        NotFoundError: there are no finished shards.
        IntegrityError: the manifest or the list of shards is damaged; during iteration, a clip.
        ValueError: ``views`` or ``frames`` is empty, or ``shuffle`` is negative.
        CallError: the URI holds a password, or a cache of ``webdataset`` is configured.
    """
    import webdataset
    from webdataset.cache import StreamingOpen
    from webdataset.handlers import reraise_exception

    for name, indices in (("views", views), ("frames", frames)):
        if indices is not None and not indices:
            raise ValueError(f"{name} must name at least one, got {indices!r}")
    if shuffle < 0:
        raise ValueError(f"shuffle must be 0 or more, got {shuffle}")
    locations = shard_locations(shards)
    if seed is None:
        seed = random.randrange(1 << 31)

    # 1. The stages of webdataset: list, split, shuffle, open, expand, group.
    # Fewer shards than workers leave a worker without clips, which is no error.
    resampled = options.get("resampled", False)
    arguments: dict[str, Any] = {
        "shardshuffle": len(locations) if shuffle and not resampled else False,
        # Its default shuffle repeats the same order of shards in every pass.
        "detshuffle": True,
        "seed": seed,
        "empty_check": False,
    }
    data = webdataset.WebDataset(locations, **{**arguments, **options})

    # 2. Open shards through this project's storage: webdataset itself starts a shell command for
    #    every URL that is no local path.
    openers = [
        position for position, stage in enumerate(data.pipeline) if isinstance(stage, StreamingOpen)
    ]
    if len(openers) != 1:
        raise CallError(
            "webdataset's cache (cache_dir, WDS_CACHE) fetches through shell commands: leave it out"
        )
    handler = options.get("handler", reraise_exception)
    data.pipeline[openers[0]] = ShardOpener(handler)

    # 3. Shuffle before decoding: the buffer holds compressed clips.
    if shuffle:
        data = data.compose(webdataset.detshuffle(shuffle, seed=seed))
    return data.map(SampleDecoder(frames=frames, views=views), handler=handler)


def shard_locations(shards: str | Path) -> list[str]:
    """Paths or URIs of the tars of a folder, in stored order, from ``urls.txt``.

    Raises:
        NotFoundError: there are no finished shards.
        IntegrityError: the manifest or the list is damaged, or there is no clip.
    """
    manifest = load_manifest(shards)
    location = storage.join(shards, URLS)
    try:
        names = storage.read(location).decode().splitlines()
        # A name such as "pipe:..." or "../x" from a foreign folder must not be opened.
        TypeAdapter(list[ShardName]).validate_python(names)
    except (FileNotFoundError, UnicodeDecodeError, ValidationError) as exc:
        raise IntegrityError(
            f"{location} is missing or damaged: run `corrfractal precompute` again"
        ) from exc
    if not manifest.statistics.samples or not names:
        raise IntegrityError(f"{shards} holds no clip")
    return [storage.join(shards, name) for name in names]


# The stages are classes and not closures, since loaders that spawn workers pickle them.


@dataclass(frozen=True)
class ShardOpener:
    """The stage that opens shards: ``url`` -> ``url`` and ``stream``.

    A stream is closed when the next one is asked for.

    Attributes:
        handler: of ``webdataset``: whether to continue after an error, or raises it.
    """

    handler: Callable[[Exception], bool]

    def __call__(self, sources: Iterable[dict[str, str]]) -> Iterator[dict[str, Any]]:
        for source in sources:
            location = source["url"]
            try:
                with storage.open_file(location, block_size=BLOCK_SIZE) as stream:
                    yield {"url": location, "stream": stream}
            except OSError as exc:
                if not self.handler(exc):
                    break


@dataclass(frozen=True)
class SampleDecoder:
    """The stage that decodes: a sample of ``webdataset`` -> the fields of a ``Clip``."""

    frames: tuple[int, ...] | None
    views: tuple[int, ...] | None

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        key = sample["__key__"]
        members = {
            f"{key}.{name}": contents
            for name, contents in sample.items()
            if not name.startswith("__")
        }
        try:
            clip = decode_clip(members, frames=self.frames, views=self.views)
        except IntegrityError as exc:
            raise IntegrityError(f"{sample['__url__']}, clip {key}: {exc}") from exc
        return {"key": clip.key, "frames": clip.frames, "labels": clip.labels, "meta": clip.meta}
