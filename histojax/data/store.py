"""The tile store: encoded tiles in ArrayRecord shards, or places of tiles on slides, and one index beside them.

    store/
      store.json                  format, kind (pixels or coordinates), plan (what made it); written first
      tiles/NAME.arrayrecord      a shard a slide, or a chunk of a folder: group_size 1, uncompressed; each record is
                                  one JPEG or PNG file. A store of coordinates has none
      parts/NAME.arrow            the rows of that shard and what is known of its slide; written after the shard: it
                                  says that the part is done
      index.arrow                 the rows of all parts: part, slide, x, y, label, group, bytes, and tissue (share) and
                                  name where they say something; written last
      slides.csv                  a row a slide; the paths in it may be corrected by hand
      tiles.csv                   the index for people, where it is wanted
      skipped.csv                 name,reason of tiles and slides that could not be read, if any

    start_store(out, plan)        then for every part, in any process and order:
    write_part(out, name, tiles, facts)  unless part_done(out, name); and at last
    finish_store(out, names)      open_store(out) is a Source

Shard and rows appear under their names only when whole, so a killed writer, run again, goes on after the last finished
part. The same parts give the same bytes in all files, whatever happened on the way; no time stands in them.
"""

from histojax.data.store_copy import write_store
from histojax.data.store_merge import Written, finish_store
from histojax.data.store_parts import (
    COORDINATES,
    FORMAT,
    PIXELS,
    Tile,
    part_done,
    part_facts,
    parts_done,
    start_store,
    write_part,
)
from histojax.data.store_source import Index, StoredTiles, open_store

__all__ = [
    "COORDINATES",
    "FORMAT",
    "PIXELS",
    "Index",
    "StoredTiles",
    "Tile",
    "Written",
    "finish_store",
    "open_store",
    "part_done",
    "part_facts",
    "parts_done",
    "start_store",
    "write_part",
    "write_store",
]
