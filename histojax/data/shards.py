"""Reading single records of many ArrayRecord shards with few open files."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

MOST_OPEN = 128  # of them in a process; opening one takes a tenth of a millisecond


class Shards:
    """Records by (shard, place in it), read by any thread of any process; a copy in another process opens its own."""

    def __init__(self, paths: Sequence[str], counts: Sequence[int]):
        self.paths, self.counts = paths, counts
        self._open: OrderedDict[int, Any] = OrderedDict()  # the one used last is last
        self._lock = threading.Lock()

    def load(self, shard: int, place: int) -> bytes:
        """The bytes of a record; raises OSError if the shard is not whole."""
        return self._reader(shard).read([place])[0]

    def _reader(self, shard: int) -> Any:
        with self._lock:
            if shard in self._open:
                self._open.move_to_end(shard)
                return self._open[shard]
        reader = _opened(self.paths[shard], self.counts[shard])
        with self._lock:
            self._open[shard] = reader
            if len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)  # closed when the last thread that reads from it lets it go
        return reader

    def __getstate__(self) -> dict:
        return dict(paths=self.paths, counts=self.counts)

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)  # type: ignore[misc]


def _opened(path: str, count: int) -> Any:
    from array_record.python.array_record_module import ArrayRecordReader

    with open(path, "rb"):  # the reader below takes a missing file for an empty one
        pass
    reader = ArrayRecordReader(path, "readahead_buffer_size:0", file_reader_buffer_size=32768)
    if reader.num_records() != count:
        raise OSError(f"this shard holds {reader.num_records()} tiles, expected {count}: copy the store again")
    return reader
