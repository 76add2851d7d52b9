"""An append-only file of records that survives whatever happens to it, byte by byte.

    \\x1e 000029 7436bcbf {"do":"forget","id":["pods","c1","eth0"]} \\n     (without the blanks)
     |    |      |        '- JSON in ASCII: it can contain neither \\x1e nor \\n
     |    |      '- CRC-32 of length and JSON
     |    '- length of the JSON, hexadecimal
     '- ASCII's record separator: where reading goes on after damage

A record is one `write`: a killed process leaves all of it or, if it was killed between two pages, or the machine or the
disk gave up, a piece that is stepped over. What is damaged is reported; every other record is read, whether it comes
before or after.
"""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from cni.directory import Directory, read_all
from cni.failure import Code, Failure
from netplane.closing import Closing
from netplane.errors import Problem

NAME, NEW = "journal", "journal.new"
_SEPARATOR, _END = b"\x1e", b"\n"
_HEAD = len(_SEPARATOR) + 6 + 8
_LONGEST = 0xFFFFFF
_LARGEST_FILE = 1 << 30
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


@dataclass(frozen=True, slots=True)
class Contents:
    """What a journal holds: its records, oldest first, and what could not be read. `size` is the file's, in bytes."""

    records: tuple[dict[str, object], ...] = ()
    problems: tuple[Problem, ...] = ()
    size: int = 0


def line(record: Mapping[str, object]) -> bytes:
    """A record as the file has it. Raises Failure(INTERNAL) if it is longer than 16 MiB."""
    text = _encode(record).encode()
    if len(text) > _LONGEST:
        raise Failure(Code.INTERNAL, f"a record of {len(text)} bytes is too long for the journal")
    return _head(text) + text + _END


def parse(data: bytes, where: str = NAME) -> Contents:
    """The undamaged records of a file's bytes, and one problem for each damaged stretch. Never raises."""
    records: list[dict[str, object]] = []
    problems: list[Problem] = []
    at, bad = 0, -1
    while at < len(data):
        text = _text_at(data, at)
        if text is None:
            bad = at if bad < 0 else bad
            found = data.find(_SEPARATOR, at + 1)
            at = len(data) if found < 0 else found
            continue
        if bad >= 0:
            problems.append(_damage(where, bad, at))
            bad = -1
        if (record := _record(text)) is None:
            problems.append(Problem(where, f"byte {at}", "is whole, but not a JSON object; skipped"))
        else:
            records.append(record)
        at += _HEAD + len(text) + len(_END)
    if bad >= 0:
        problems.append(_damage(where, bad, len(data)))
    return Contents(tuple(records), tuple(problems), len(data))


def read(directory: Directory) -> Contents:
    """The journal of a folder; empty if there is none. Needs no lock. Raises Failure(IO_FAILURE)."""
    where = str(directory.path / NAME)
    try:
        fd = directory.open(NAME, os.O_RDONLY)
        try:
            data = read_all(fd, _LARGEST_FILE)
        finally:
            os.close(fd)
    except FileNotFoundError:
        return Contents()
    except OSError as error:
        raise Failure(Code.IO_FAILURE, f"cannot read {where}", error.strerror or "") from error
    return parse(data, where)


class Journal(Closing):
    """The journal of a folder, open for appending. There must be one writer at a time: see `store`."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        try:
            directory.remove(NEW)  # of a compaction that did not end
            self._file = directory.open(NAME, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            self.size = os.fstat(self._file).st_size
            if self.size == 0:
                directory.sync()
        except OSError as error:
            raise _failure("open", self._where, error) from error

    @property
    def _where(self) -> str:
        return str(self._directory.path / NAME)

    def append(self, record: Mapping[str, object], *, durable: bool = False) -> int:
        """Write a record: now it survives our end, if `durable` a power failure too. Returns its length in bytes.

        Raises Failure: TRY_AGAIN_LATER if the disk is full, else IO_FAILURE. Then the file is as it was, or has a
        piece at its end that readers step over.
        """
        written = line(record)
        try:
            if (count := os.write(self._file, written)) != len(written):
                raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} after {count} bytes")
            if durable:
                os.fdatasync(self._file)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._file, self.size)
            self.size = os.fstat(self._file).st_size
            raise _failure("write to", self._where, error) from error
        self.size += len(written)
        return len(written)

    def compact(self, records: Iterable[Mapping[str, object]]) -> None:
        """Replace everything by `records`, at once: readers, and whoever comes after a crash, see one or the other.

        Raises Failure like `append`; the journal is then the old one.
        """
        data = b"".join(map(line, records))
        fd = -1
        try:
            self._directory.remove(NEW)
            fd = self._directory.open(NEW, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL)
            _write_all(fd, data)
            os.fsync(fd)
            self._directory.rename(NEW, NAME)
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            with suppress(OSError):
                self._directory.remove(NEW)
            raise _failure("compact", self._where, error) from error
        os.close(self._file)
        self._file, self.size = fd, len(data)
        with suppress(OSError):  # then a power failure may bring back the old one: it says the same
            self._directory.sync()

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)


def _head(text: bytes) -> bytes:
    length = b"%06x" % len(text)
    return b"\x1e%b%08x" % (length, zlib.crc32(text, zlib.crc32(length)))


def _text_at(data: bytes, at: int) -> bytes | None:
    """The JSON of the record that begins at `at`; None if none does, or if a single bit of it is wrong."""
    try:
        length = int(data[at + 1 : at + 7], 16)
    except ValueError:
        return None
    end = at + _HEAD + length
    if length < 0 or data[end : end + 1] != _END:
        return None
    text = data[at + _HEAD : end]
    # Compared as bytes: `int` reads "00002A", "+0002a" and " 0002a" too, and nobody wrote that.
    return text if data[at : at + _HEAD] == _head(text) else None


def _record(text: bytes) -> dict[str, object] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _damage(where: str, start: int, end: int) -> Problem:
    return Problem(where, f"bytes {start} to {end}", "damaged (a crash, a full disk or a bad one); skipped")


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _failure(doing: str, where: str, error: OSError) -> Failure:
    code = Code.TRY_AGAIN_LATER if error.errno in _FULL else Code.IO_FAILURE
    return Failure(code, f"cannot {doing} {where}", error.strerror or str(error))
