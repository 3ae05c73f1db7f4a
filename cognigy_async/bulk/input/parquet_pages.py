"""Memory that reading a row group of Parquet takes, computed from the headers of its pages.

A few bytes of Parquet may hold gigabytes: a page of equal values, a long text that a dictionary
repeats in each row, a list of a billion zeros. Only the headers of the pages have the real sizes.
They and the footer are structs of Thrift's compact protocol, see parquet.thrift of
apache/parquet-format.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO, TypeAlias

COLUMN_BUFFER = 1 << 16
"""Bytes that are buffered for each column."""
ROOM = 1 << 22
"""Bytes that rows that are read together may take."""
MOST_ROWS = 1024
"""Most rows to read together."""
LARGEST_DICTIONARY = 1 << 24
"""Bytes of a dictionary page that is read to find its longest text."""
PER_ITEM = 20
"""Bytes of an item of a list, with its levels."""
PER_OBJECT = 64
"""Bytes of a value as an object of Python, besides its content."""

# Of parquet.thrift: numbers of fields, types of pages, encodings, and codecs by their numbers.
ROW_GROUPS = 4
COLUMNS, NUMBER_OF_ROWS = 1, 3
METADATA = 3
CODEC, COLUMN_VALUES, COLUMN_SIZE, DATA_OFFSET, DICTIONARY_OFFSET = 4, 5, 7, 9, 11
TYPE, SIZE, COMPRESSED_SIZE, DATA_HEADER, DATA_HEADER_V2 = 1, 2, 3, 5, 8
NUMBER_OF_VALUES, ENCODING, ENCODING_V2 = 1, 2, 4
DICTIONARY_PAGE = 2
PLAIN_DICTIONARY, DELTA_BYTE_ARRAY, RLE_DICTIONARY = 2, 7, 8
CODECS = {1: "snappy", 2: "gzip", 4: "brotli", 6: "zstd", 7: "lz4_raw"}

Struct: TypeAlias = dict[int, Any]
"""A struct of Thrift, by the numbers of its fields; its texts are left out."""


@dataclass(frozen=True, slots=True)
class ReadingCost:
    """Cost of reading some columns of a row group.

    Attributes:
        memory: Bytes that reading rows may take.
        rows: Number of rows to read together.
    """

    memory: int
    rows: int


def footer_size(file: BinaryIO) -> int:
    """Return the bytes of the footer of a file; 0 if it has none."""
    end = file.seek(0, 2)
    file.seek(max(0, end - 8))
    size, magic = int.from_bytes(file.read(4), "little"), file.read(4)
    return size if magic == b"PAR1" and size < end else 0


def row_groups_of(file: BinaryIO) -> list[Struct]:
    """Return the row groups that the footer of a file describes.

    pyarrow reads the same footer, but ends the process if some parts of it contradict each other.

    Raises:
        ValueError: The footer cannot be read.
    """
    with _damage_named():
        end = file.seek(-8, 2)
        size = int.from_bytes(file.read(4), "little")
        file.seek(max(0, end - size))
        groups: list[Struct] = _struct(BytesIO(file.read(size)))[ROW_GROUPS]
        return groups


def reading_cost(file: BinaryIO, row_group: Struct, columns: Mapping[int, Any]) -> ReadingCost:
    """Return the cost of reading columns of a row group.

    Args:
        columns: Columns of the schema as in pyarrow, without those inside of others, by number.

    Raises:
        ValueError: The header of a page cannot be read.
    """
    memory, row, rows = 0, 1, MOST_ROWS
    position = file.tell()
    with _damage_named():
        for number, column in columns.items():
            has_texts = column.physical_type == "BYTE_ARRAY"
            chunk = row_group[COLUMNS][number][METADATA]
            pages = _Pages(file, chunk, has_texts)
            memory += min(COLUMN_BUFFER, chunk[COLUMN_SIZE])
            memory += pages.largest + 2 * pages.dictionary
            # Bytes of a value. Those that come one by one from a page are counted with the page.
            value = PER_ITEM + max(column.length, pages.longest)
            if column.max_repetition_level:
                memory += pages.values * value + pages.one_by_one
                row += pages.values * value // max(1, row_group[NUMBER_OF_ROWS])
            else:
                row += PER_OBJECT + value
                memory += PER_OBJECT + value
                # Rows that are no more than the values of a page lie in at most two pages.
                rows = min(rows, pages.fewest_values)
                memory += pages.largest if has_texts else 0
    file.seek(position)
    return ReadingCost(memory, max(1, min(rows, ROOM // row)))


@contextmanager
def _damage_named() -> Iterator[None]:
    """Raise ValueError for the errors of a footer or a header without the parts that it needs."""
    try:
        yield
    except (LookupError, TypeError, RecursionError) as error:
        raise ValueError("its footer or the header of a page is damaged") from error


class _Pages:
    """Sizes of the pages of a column of a row group.

    Attributes:
        largest: Bytes of the largest data page, without compression.
        dictionary: Bytes of the dictionary page.
        longest: Bytes of the longest text that a few bytes of a page may stand for.
        one_by_one: Bytes of the data pages whose texts do not stand for longer ones.
        values: Number of values, nulls included.
        fewest_values: Number of values of the shortest of these data pages, besides the last.
    """

    def __init__(self, file: BinaryIO, chunk: Struct, has_texts: bool) -> None:
        self.largest = self.dictionary = self.longest = self.one_by_one = self.values = 0
        self.fewest_values = MOST_ROWS
        in_page = MOST_ROWS
        offset = min(chunk[DATA_OFFSET], chunk.get(DICTIONARY_OFFSET) or chunk[DATA_OFFSET])
        end = offset + chunk[COLUMN_SIZE]
        while self.values < chunk[COLUMN_VALUES] and offset < end:
            file.seek(offset)
            header = _struct(file)
            size, compressed = header[SIZE], header[COMPRESSED_SIZE]
            if size < 0 or compressed < 0:
                raise ValueError("the header of a page has a negative size")
            offset = file.tell() + compressed
            if header[TYPE] == DICTIONARY_PAGE:
                self.dictionary = size
                if has_texts:
                    self.longest = _longest_text(file, header, CODECS.get(chunk[CODEC]))
                continue
            self.largest = max(self.largest, size)
            page = header.get(DATA_HEADER) or header[DATA_HEADER_V2]
            self.values += page[NUMBER_OF_VALUES]
            encoding = page[ENCODING if DATA_HEADER in header else ENCODING_V2]
            if has_texts and encoding == DELTA_BYTE_ARRAY:
                self.longest = max(self.longest, size)
            elif has_texts and encoding not in (PLAIN_DICTIONARY, RLE_DICTIONARY):
                self.one_by_one += size
                self.fewest_values = min(self.fewest_values, in_page)
                in_page = page[NUMBER_OF_VALUES]


def _longest_text(file: BinaryIO, header: Struct, codec: str | None) -> int:
    """Return the bytes of the longest text of the dictionary page that follows its header."""
    import pyarrow as arrow

    size: int = header[SIZE]
    if size > LARGEST_DICTIONARY or header[COMPRESSED_SIZE] > LARGEST_DICTIONARY:
        return size
    page = file.read(header[COMPRESSED_SIZE])
    if codec is not None:
        try:
            page = arrow.decompress(page, size, codec, asbytes=True)
        except (arrow.ArrowException, OSError, ValueError):
            return size
    longest = offset = 0
    while offset + 4 <= len(page):
        length = int.from_bytes(page[offset : offset + 4], "little")
        longest = max(longest, length)
        offset += 4 + length
    return longest


def _struct(file: BinaryIO) -> Struct:
    fields: Struct = {}
    number = 0
    while (head := _byte(file)) != 0:
        number = number + (head >> 4) if head >> 4 else _integer(file)
        fields[number] = _value(file, head & 15)
    return fields


def _value(file: BinaryIO, kind: int) -> Any:
    if kind in (1, 2):
        return kind == 1
    if kind == 3:
        return _byte(file)
    if kind in (4, 5, 6):
        return _integer(file)
    if kind == 7:
        return file.seek(8, 1)
    if kind == 8:
        return file.seek(_varint(file), 1)
    if kind == 9:
        head = _byte(file)
        size = head >> 4 if head >> 4 < 15 else _varint(file)
        # An item that is true or false takes a byte.
        kind = 3 if head & 15 < 3 else head & 15
        return [_value(file, kind) for _ in range(size)]
    if kind == 12:
        return _struct(file)
    raise ValueError(f"its footer or the header of a page has a field of the unknown type {kind}")


def _byte(file: BinaryIO) -> int:
    byte = file.read(1)
    if not byte:
        raise ValueError("its footer or the header of a page is cut off")
    return byte[0]


def _varint(file: BinaryIO) -> int:
    number = shift = 0
    while True:
        byte = _byte(file)
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return number
        if shift > 63:
            raise ValueError("its footer or the header of a page has a number that is too long")


def _integer(file: BinaryIO) -> int:
    number = _varint(file)
    return number >> 1 ^ -(number & 1)
