"""The frames of an Arrow IPC stream, read with bounds: what a cut or hostile file can make us do is limited here.

Source: the Arrow columnar format, "Encapsulated message format", ``Message.fbs`` and ``Schema.fbs``.
"""

import struct
from typing import BinaryIO, NamedTuple

from branchmon.traces.schema import MAX_BATCH_BYTES, MAX_BATCH_ROWS, MAX_METADATA_BYTES

CONTINUATION = b"\xff\xff\xff\xff"
END_OF_STREAM = CONTINUATION + b"\0\0\0\0"

SCHEMA = 1
RECORD_BATCH = 3


class Damage(Exception):
    """The stream is not what Arrow defines, at :attr:`offset`; what came before is good."""

    def __init__(self, offset: int, why: str) -> None:
        super().__init__(f"{why}, at byte {offset}")
        self.offset = offset
        self.why = why


class Frame(NamedTuple):
    """One message of the stream, complete.

    :ivar type: of the message: :data:`SCHEMA`, :data:`RECORD_BATCH`, or another.
    :ivar data: prefix, metadata and body, as in the file.
    """

    offset: int
    type: int
    data: bytes


def read_frame(file: BinaryIO, offset: int, end: int) -> Frame | None:
    """The next message of `file`, which stands at `offset` and has `end` bytes; None at the end-of-stream mark.

    :raises Damage: the stream stops within the message or before the end-of-stream mark, or there is no message.
    """
    prefix = file.read(8)
    if not prefix:
        raise Damage(offset, "the stream stops without an end mark")
    if len(prefix) < 8:
        raise Damage(offset, "the stream stops within a message")
    if prefix[:4] != CONTINUATION:
        raise Damage(offset, "no message where one should begin")
    (length,) = struct.unpack("<i", prefix[4:])
    if length == 0:
        return None
    if not 8 <= length <= MAX_METADATA_BYTES:
        raise Damage(offset, f"a message of impossible length {length}")
    metadata = file.read(length) if offset + 8 + length <= end else b""
    if len(metadata) < length:
        raise Damage(offset, "the stream stops within a message")
    try:
        kind, body = _message(metadata)
    except (struct.error, IndexError) as error:
        raise Damage(offset, "a message that does not parse") from error
    if not 0 <= body <= MAX_BATCH_BYTES:
        raise Damage(offset, f"a message body of impossible length {body}")
    data = file.read(body) if offset + 8 + length + body <= end else b""
    if len(data) < body:
        raise Damage(offset, "the stream stops within a message")
    if kind == RECORD_BATCH:
        try:
            _check_batch(metadata, data)
        except (struct.error, IndexError, ValueError) as error:
            raise Damage(offset, f"a batch that cannot be: {error}") from error
    return Frame(offset, kind, prefix + metadata + data)


# ---- the little of flatbuffers that this needs -----------------------------------------------------------------------


def _u32(data: bytes, at: int) -> int:
    if at < 0:
        raise IndexError(at)
    return int(struct.unpack_from("<I", data, at)[0])


def _i64(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<q", data, at)[0])


def _field(data: bytes, table: int, number: int) -> int:
    """Where field `number` of the table stands; 0 if it is not there."""
    (back,) = struct.unpack_from("<i", data, table)
    vtable = table - back
    if vtable < 0:
        raise IndexError(vtable)
    size, _ = struct.unpack_from("<HH", data, vtable)
    slot = 4 + 2 * number
    if slot + 2 > size:
        return 0
    (offset,) = struct.unpack_from("<H", data, vtable + slot)
    return table + offset if offset else 0


def _message(metadata: bytes) -> tuple[int, int]:
    """Type and body length of a Message."""
    table = _u32(metadata, 0)
    kind_at, body_at = _field(metadata, table, 1), _field(metadata, table, 3)
    return metadata[kind_at] if kind_at else 0, _i64(metadata, body_at) if body_at else 0


def _check_batch(metadata: bytes, body: bytes) -> None:
    """Refuse a RecordBatch that would unpack to more than our limits; pyarrow would try."""
    header_at = _field(metadata, _u32(metadata, 0), 2)
    batch = header_at + _u32(metadata, header_at)
    length_at, buffers_at, compression_at = (_field(metadata, batch, number) for number in (0, 2, 3))
    rows = _i64(metadata, length_at) if length_at else 0
    if not 0 <= rows <= MAX_BATCH_ROWS:
        raise ValueError(f"{rows} rows")
    if not buffers_at or not compression_at:
        return
    vector = buffers_at + _u32(metadata, buffers_at)
    total = 0
    for i in range(_u32(metadata, vector)):
        offset, length = struct.unpack_from("<qq", metadata, vector + 4 + 16 * i)
        if length == 0:
            continue
        if offset < 0 or length < 8 or offset + length > len(body):
            raise ValueError("a column outside the batch")
        unpacked = _i64(body, offset)
        total += length if unpacked == -1 else unpacked
        if unpacked < -1 or total > MAX_BATCH_BYTES:
            raise ValueError(f"columns of {total} bytes")
