"""What is stored on disk: clips, sidecars and the manifest. The pipeline writes, training reads.

- ``manifest.load_manifest(folder)``: what a folder of shards contains, local or at a URI.
- ``index.Index(folder, manifest)``: shards, clips and sources as columns.
- ``clip.read_members(block)``, ``clip.decode_clip(members)``: from stored bytes to arrays.
- ``open_webdataset(folder)``: a ready ``webdataset.WebDataset``, to train something else on clips.
- ``clip.encode_clip(clip)``, ``manifest.seal(document)``: the opposite direction.

A damaged file raises ``corrfractal.common.errors.IntegrityError``; docs/reference/format.md
describes the format for readers without this package. Example, the first clip of a data set::

    from corrfractal.files import storage
    from corrfractal.shards.clip import decode_clip, read_members
    from corrfractal.shards.index import Index
    from corrfractal.shards.manifest import load_manifest
    first = Index("shards", load_manifest("shards")).clips.ref(0)
    block = storage.read_part(f"shards/{first.shard}", first.offset, first.length)
    clip = decode_clip(read_members(block))
    print(clip.key, clip.frames.shape, clip.labels.shape)  # uint8 (T, H, W, 3), (V, T, H, W)
"""

from corrfractal.shards.streaming import open_webdataset

__all__ = ["open_webdataset"]
