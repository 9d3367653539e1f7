"""Hostile .metadata of distributed checkpoints: pickles that say what no writer would, or a little of it very often."""

import pickle
import struct

from hostile import hostile

CLASSES = "torch.distributed.checkpoint.metadata"


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def natural(value):
    return b"J" + struct.pack("<i", value)


def instance(name, fields, module=CLASSES):
    """An object of a class with fields, which are pickled already; None: without any."""
    made = f"c{module}\n{name}\n".encode() + b")\x81"
    if fields is None:
        return made
    return made + b"}(" + b"".join(text(key) + value for key, value in fields.items()) + b"ub"


def size(*numbers):
    return b"ctorch\nSize\n(" + b"".join(map(natural, numbers)) + b"t\x85R"


def chunk(offsets, sizes):
    return instance("ChunkStorageMetadata", {"offsets": size(*offsets), "sizes": size(*sizes)})


PROPERTIES = instance("TensorProperties", None) + b"(ctorch\nbfloat16\nN\x89K\x00\x89tb"
BYTES = instance("BytesStorageMetadata", None)


def tensor(shape, chunks):
    """A described tensor; chunks is what stands between the marks of its list."""
    return instance("TensorStorageMetadata", {"properties": PROPERTIES, "size": size(*shape), "chunks": b"](" + chunks + b"e"})


def item(key, offsets, file="__0_0.distcp", offset=0, length=10):
    place = size(*offsets) if offsets is not None else b"N"
    index = instance("MetadataIndex", {"fqn": text(key), "offset": place, "index": b"N"})
    info = {"relative_path": text(file), "offset": natural(offset), "length": natural(length)}
    return index + instance("_StorageInfo", info, "torch.distributed.checkpoint.filesystem")


def metadata(keys, items):
    """The pickle of a Metadata; keys and items are what stands between the marks of its dicts."""
    fields = {"state_dict_metadata": b"}(" + keys + b"u", "planner_data": b"N", "storage_data": b"}(" + items + b"u"}
    return b"\x80\x02" + instance("Metadata", fields) + b"."


def spiral(count):
    """Chunks of which each can be parted from all that follow, in turn along one dimension and the other."""
    chunks, at = [], [0, 0]
    for number in range(count):
        turn = number % 2
        sizes = [count - at[0], count - at[1]]
        sizes[turn] = 1
        chunks.append(chunk(at, sizes))
        at[turn] += 1
    return b"".join(chunks)


KEY = "decoder.layers.self_attention.linear_qkv.weight"
MANY = 20_000

hostile("metadata", "noise", b"no pickle at all")
hostile("metadata", "another class", b"\x80\x02" + instance("Surprise", {}) + b".", "wanted the Metadata")
hostile("metadata", "a dict", pickle.dumps({"state_dict_metadata": {}}), "wanted the Metadata")
hostile("metadata", "a call of the shell", b"\x80\x02cos\nsystem\n(" + text("touch EXECUTED") + b"tR.", "wanted the Metadata")
hostile("metadata", "no end", metadata(b"", b"")[:-3], "does not end")
hostile("metadata", "a cycle", b"\x80\x02cx\nMetadata\n)\x81q\x00}(" + text("state_dict_metadata") + b"h\x00" + text("storage_data") + b"h\x00ub.", "is no dict")
hostile("metadata", "a file elsewhere", metadata(text(KEY) + tensor((2,), chunk((0,), (2,))), item(KEY, (0,), "../../etc/passwd")), "no plain name")
hostile("metadata", "an escape sequence for a file", metadata(text("b") + BYTES, item("b", None, "\x1b]0;x\x07\u202e")), "missing")
hostile("metadata", "chunks of nothing", metadata(text(KEY) + tensor((4,), chunk((0,), (0,)) + chunk((4,), (0,))), b""), "wanted 4")
hostile("metadata", "a shape of 2 to the 124", metadata(text(KEY) + tensor((2**31 - 1,) * 4, b""), b""), KEY)
hostile("metadata", "64 dimensions", metadata(text(KEY) + tensor((1,) * 64, b""), b""), "64 dimensions")
hostile("metadata", "one item over and over", metadata(text("b") + BYTES, item("b", None) * 20), "has two items")
hostile("metadata", "large nesting", lambda: b"\x80\x02" + b"(" * 100_000 + b"N" + b"t" * 100_000 + b".", "wanted the Metadata")
hostile("metadata", "large list of one chunk", lambda: metadata(text(KEY) + tensor((4,), chunk((0,), (1,)) + b"q\x00" + b"h\x00" * 2_000_000), b""), "parts")
hostile("metadata", "large list of chunks that wind inwards", lambda: metadata(text(KEY) + tensor((MANY, MANY), spiral(MANY)), b""), "no order")
hostile("metadata", "large list of equal chunks", lambda: metadata(text(KEY) + tensor((4, 4), chunk((0, 0), (2, 2)) * MANY), b""), "overlap")
hostile("metadata", "large list of entries without items", lambda: metadata(b"".join(text(f"k{i}") + BYTES for i in range(MANY)), b""), "has no item")
hostile("metadata", "large list of files", lambda: metadata(b"".join(text(f"k{i}") + BYTES for i in range(MANY)), b"".join(item(f"k{i}", None, f"f{i}") for i in range(MANY))), "missing")
hostile("metadata", "large list of one entry's items", lambda: metadata(text("b") + BYTES, item("b", None) * MANY), "has two items")
hostile("metadata", "large text", lambda: b"\x80\x02" + text("x" * 60_000_000) + b".", "wanted the Metadata")
hostile("metadata", "large list of tuples", lambda: b"\x80\x02)q\x00(" + b"h\x00\x85" * 1_000_000 + b"t.")
