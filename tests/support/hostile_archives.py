"""Zip archives and streams of torch.save whose structures lie; the archives are put together field by field."""

import dataclasses
import struct
import zlib

import hostile_pickles as pickles
from hostile import LEGACY_BEGIN, archive, hostile, legacy

EMPTY = pickles.BEGIN + b"}."
STORAGE = struct.pack("<4f", 1, 2, 3, 4)
SAVED = pickles.BEGIN + b"}" + pickles.text("w") + pickles.tensor() + b"s."


@dataclasses.dataclass
class Record:
    """A record with what its two headers say; None means the truth."""

    name: bytes
    content: bytes
    method: int = 0
    flags: int = 0
    size: int = None
    stored: int = None
    offset: int = None
    local_name: bytes = None
    local_method: int = None
    extra: bytes = b""
    local_extra: bytes = b""
    central_name: bytes = None

    def local(self):
        name = self.local_name or self.name
        method = self.method if self.local_method is None else self.local_method
        sizes = (len(self.content), len(self.content))
        return struct.pack("<4s5H3I2H", b"PK\3\4", 20, self.flags, method, 0, 0x21, zlib.crc32(self.content), *sizes, len(name), len(self.local_extra)) + name + self.local_extra + self.content

    def central(self, at):
        name = self.name if self.central_name is None else self.central_name
        stored = len(self.content) if self.stored is None else self.stored
        size = len(self.content) if self.size is None else self.size
        at = at if self.offset is None else self.offset
        return struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, self.flags, self.method, 0, 0x21, zlib.crc32(self.content), stored, size, len(name), len(self.extra), 0, 0, 0, 0, at) + name + self.extra


def end(entries, size, offset, comment=b""):
    return struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, entries, entries, size, offset, len(comment)) + comment


def end64(entries, size, offset, at=None, where=0):
    """The zip64 end record and its locator, which says that the record lies at `at`."""
    record = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, entries, entries, size, offset)
    return record + struct.pack("<4sIQI", b"PK\6\7", 0, where if at is None else at, 1)


def standard(pickle=SAVED):
    return [Record(b"a/data.pkl", pickle), Record(b"a/data/0", STORAGE), Record(b"a/version", b"3\n")]


def packed(records, prefix=b"", make_end=end, more=b""):
    """An archive of the records as they are, whatever they say."""
    body, places = bytearray(prefix), []
    for record in records:
        places.append(len(body))
        body += record.local()
    directory = b"".join(record.central(at) for record, at in zip(records, places))
    return bytes(body) + directory + make_end(len(records), len(directory), len(body)) + more


def changed(number, **values):
    """The standard archive, in one record of which something is wrong."""
    records = standard()
    records[number] = dataclasses.replace(records[number], **values)
    return packed(records)


def zip64_values(size, stored=None, offset=None):
    """An extra field that widens what is all ones."""
    wide = [value for value in (size, stored, offset) if value is not None]
    return struct.pack(f"<HH{len(wide)}Q", 1, 8 * len(wide), *wide)


def register_zips():
    def refused(title, content, *words):
        hostile("zip", title, content, *words)

    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    deflated = bomb.compress(b"\0" * 10_000_000) + bomb.flush()
    refused("bomb", changed(0, content=deflated, method=8, size=10_000_000), "compressed")
    refused("bomb in the local header", changed(1, local_method=8), "compressed")
    refused("bomb that calls itself stored", changed(0, size=2**32 - 2), "takes")
    refused("encrypted", changed(0, flags=1), "encrypted")
    refused("two records of one name", packed([*standard(), Record(b"a/data.pkl", EMPTY)]), "twice")
    refused("two records at one place", packed([standard()[0], dataclasses.replace(standard()[1], offset=0, local_name=None), standard()[2]]), "another record")
    overlapping = [Record(b"a/data.pkl", SAVED + Record(b"a/data/0", STORAGE).local()), Record(b"a/data/0", b"", size=16, stored=16, offset=40 + len(SAVED)), standard()[2]]
    refused("a record inside another", packed([overlapping[0], standard()[2]])[: -22] + b"", "no end record")
    inner = Record(b"a/data/0", STORAGE)
    outer = Record(b"a/data.pkl", SAVED + inner.local())
    quine = packed([outer, dataclasses.replace(inner, offset=len(outer.local()) - len(inner.local()))])
    refused("overlapping records", quine, "overlap")
    for title, name in {"dotdot": b"../../etc/passwd", "absolute": b"/etc/passwd", "nul": b"a/da\0ta/1", "newline": b"a/x\nreshard: done", "escape": b"a/\x1b[2J\x1b]0;owned\x07", "not utf-8": b"a/\xff\xfe", "of 60000 bytes": b"a/" + b"n" * 15_000, "nothing": b"", "slash": b"/", "c1": "a/\u009b2J\u202e".encode()}.items():
        refused(f"name {title}", packed([*standard(pickles.BEGIN + b"K\1."), Record(name, b"x", local_name=b"a/other")]))
        hostile("zip", f"first name {title}", packed([Record(name, b"x"), *standard()]), shown=True)
    refused("two end records", packed(standard(), more=end(3, 100, 0)))
    refused("an end record in the comment", packed(standard(), make_end=lambda n, size, at: end(n, size, at, end(n, size, at))), "does not end at the end record")
    refused("bytes before", packed(standard(), prefix=b"#!/bin/sh\ntouch EXECUTED\nexit\n"), "neither")
    refused("bytes before that look like a record", packed(standard(), prefix=b"PK\3\4" + b"\0" * 26), "does not begin")
    refused("bytes behind", packed(standard(), more=b"x"), "no end record")
    refused("bytes before the directory", packed(standard(), make_end=lambda n, size, at: end(n, size - 1, at)), "does not end")
    refused("a directory cut off", packed(standard(), make_end=lambda n, size, at: b"" + end(n + 1, size, at)))
    refused("fewer entries than there are", packed(standard(), make_end=lambda n, size, at: end(n - 1, size, at)), "more entries")
    refused("65535 entries", packed(standard(), make_end=lambda n, size, at: end(65535, size, at)), "65535 entries")
    refused("no record", packed([]))
    for title, make in {
        "zip64 record elsewhere": lambda n, size, at: end64(n, size, at, at=2**63) + end(n, size, at),
        "zip64 record at 2 to the 64": lambda n, size, at: end64(n, size, at, at=2**64 - 1) + end(n, size, at),
        "zip64 record that disagrees": lambda n, size, at: end64(n, size, at + 1, where=at + size) + end(n, size, at),
        "zip64 directory of 2 to the 63": lambda n, size, at: end64(n, 2**63, at, where=at + size) + end(n, 2**32 - 1, 2**32 - 1),
        "zip64 directory beyond the file": lambda n, size, at: end64(n, size, 2**63, where=at + size) + end(n, size, 2**32 - 1),
        "zip64 of 2 to the 60 entries": lambda n, size, at: end64(2**60, size, at, where=at + size) + end(65535, size, at),
        "zip64 directory that wraps": lambda n, size, at: end64(n, 2**64 - 1, 2, where=at + size) + end(n, 2**32 - 1, 2**32 - 1),
    }.items():
        refused(title, packed(standard(), make_end=make))
    ones = 2**32 - 1
    refused("zip64 size absurd", changed(1, size=ones, stored=ones, extra=zip64_values(2**63, 2**63)))
    refused("zip64 size that wraps", changed(1, size=ones, stored=ones, extra=zip64_values(2**64 - 1, 2**64 - 1)))
    refused("zip64 offset absurd", changed(1, offset=ones, extra=zip64_values(2**63)))
    refused("zip64 offset that wraps", changed(1, offset=ones, extra=zip64_values(2**64 - 8)))
    refused("zip64 field missing", changed(1, size=ones, stored=ones))
    refused("zip64 field too short", changed(1, size=ones, stored=ones, extra=zip64_values(16)), "cut off")
    refused("extra field too long", changed(1, extra=b"\1\0\xff\xff"), "cut off")
    refused("local name another", changed(1, local_name=b"a/data/1"), "another record")
    refused("local extra beyond the file", changed(2, local_extra=b"x" * 30).replace(b"\x1e\0a/version", b"\xff\xffa/version", 1))
    refused("record beyond the file", changed(2, offset=2**31))
    refused("record that runs into the directory", changed(2, size=200, stored=200), "runs into")
    refused("record of another size than its storage", changed(1, content=STORAGE[:-4]), "needs")
    whole = packed(standard())
    directory = whole.index(b"PK\1\2")
    for title, at in {"signature": 3, "local header": 20, "pickle": 60, "data": whole.index(STORAGE) + 5, "directory": directory + 10, "between entries": directory + 56, "end record": len(whole) - 10, "last byte": len(whole) - 1}.items():
        refused(f"cut off in the {title}", whole[:at])
    register_records(refused)
    register_large_zips(refused)


def register_records(refused):
    """Archives in order whose records are not what torch would have saved."""
    refused("record outside the folder", packed([*standard(), Record(b"b/data/1", b"x")]), "outside")
    refused("record in no folder", packed([Record(b"data.pkl", SAVED), Record(b"data/0", STORAGE)]))
    refused("script", packed([*standard(), Record(b"a/constants.pkl", EMPTY)]), "TorchScript")
    refused("no pickle", packed(standard()[1:]), "data.pkl")
    refused("no version", packed(standard()[:2]), "version")
    for title, content in {"0": b"0", "11": b"11", "huge": b"9" * 60, "text": b"\x1b[31mthree", "long": b"3" * 1000}.items():
        refused(f"version {title}", packed([*standard()[:2], Record(b"a/version", content)]))
    refused("byte order big", packed([*standard(), Record(b"a/byteorder", b"big")]), "big")
    refused("byte order of an escape", packed([*standard(), Record(b"a/byteorder", b"\x1b[2Jbig")]))
    refused("pickle empty", packed(standard(b"")), "data.pkl")
    refused("two tensors of one name", packed(standard(pickles.BEGIN + b"}(" + pickles.text("a.b") + pickles.tensor() + pickles.text("a") + b"}" + pickles.text("b") + pickles.tensor() + b"su.")), "two tensors")


def register_large_zips(refused):
    def many(count, name):
        return lambda: packed([*standard(), *(Record(name % i, b"") for i in range(count))], make_end=lambda n, size, at: end64(n, size, at, where=at + size) + end(65535, size, at))

    refused("large number of records", many(400_000, b"a/%d"))
    refused("large names", many(3_000, b"a/" + b"n" * 60_000 + b"%d"))
    refused("large directory of nothing", lambda: b"PK\3\4" + b"\0" * 300_000_000 + end64(1, 300_000_000, 4, where=300_000_004) + end(1, 300_000_000, 4))
    refused("large file of end records", lambda: b"PK\3\4" + b"PK\5\6" * 10_000_000)


def register_streams():
    def refused(title, content, *words):
        hostile("legacy", title, content, *words)

    keys = pickles.BEGIN + b"](" + pickles.text("0") + b"e."
    data = struct.pack("<q", 4) + STORAGE
    whole = LEGACY_BEGIN + SAVED + keys + data
    for title, at in {"magic number": 16, "header": 60, "object": len(LEGACY_BEGIN) + 30, "keys": len(LEGACY_BEGIN + SAVED) + 5, "count": len(whole) - 20, "data": len(whole) - 1}.items():
        refused(f"cut off in the {title}", whole[:at])
    refused("bytes behind", whole + b"x", "follow")
    refused("storage twice", LEGACY_BEGIN + SAVED + pickles.BEGIN + b"](" + pickles.text("0") * 2 + b"e." + data * 2, "twice")
    refused("storage that is not used", LEGACY_BEGIN + SAVED + pickles.BEGIN + b"](" + pickles.text("0") + pickles.text("\x1b[2J") + b"e." + data * 2, "not in the pickle")
    refused("storage that is not listed", LEGACY_BEGIN + SAVED + pickles.BEGIN + b"].", "not in the file")
    for title, count in {"minus one": -1, "least": -(2**63), "most": 2**63 - 1, "5": 5}.items():
        refused(f"count {title}", LEGACY_BEGIN + SAVED + keys + struct.pack("<q", count) + STORAGE, "elements")
    refused("keys that are no list", LEGACY_BEGIN + SAVED + pickles.BEGIN + b"}." + data, "list")
    refused("keys of numbers", LEGACY_BEGIN + SAVED + pickles.BEGIN + b"]K\0a." + data)
    refused("keys of themselves", LEGACY_BEGIN + SAVED + pickles.BEGIN + b"]q\0h\0a." + data)
    refused("big endian", LEGACY_BEGIN.replace(b"little_endian\x88", b"little_endian\x89") + EMPTY + pickles.BEGIN + b"].", "big")
    refused("protocol 1002", LEGACY_BEGIN.replace(b"M\xe9\3.", b"M\xea\3.") + EMPTY + pickles.BEGIN + b"].", "1002")
    refused("system of a list", LEGACY_BEGIN[: LEGACY_BEGIN.index(b"}")] + b"]." + EMPTY + pickles.BEGIN + b"].")
    refused("large object", lambda: LEGACY_BEGIN + b"\x80\2" + b"N0" * 100_000_000)
    refused("large keys", lambda: LEGACY_BEGIN + EMPTY + b"\x80\2](" + b"K\1" * 12_000_000 + b"e.")
    refused("tar of before", b"\0" * 257 + b"ustar\0" + b"\0" * 500, "tar")
    refused("shell script", b"#!/bin/sh\ntouch EXECUTED\n", "neither")
    refused("nothing", b"")


register_zips()
register_streams()
WRAPPERS = {"zip": archive, "legacy": legacy}
