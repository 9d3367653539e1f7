"""safetensors files whose headers lie."""

import json
import struct

from hostile import hostile


def file(header, data=b"", length=None):
    """A file of a header, given as text or as what json writes."""
    raw = header if isinstance(header, bytes) else (header if isinstance(header, str) else json.dumps(header, ensure_ascii=False)).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def tensor(begin, end, dtype="U8", shape=None):
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


def refused(title, content, *words):
    hostile("safetensors", title, content, *words)


def register_lengths():
    for title, length in {"0": 0, "1": 1, "most": 2**64 - 1, "that wraps": 2**64 - 8, "signed": 2**63, "above the limit": 100_000_001, "one too many": 3}.items():
        refused(f"header length {title}", file("{}", length=length))
    refused("nothing", b"")
    refused("7 bytes", b"\2\0\0\0\0\0\0", "7 bytes")
    refused("only a length", b"\2\0\0\0\0\0\0\0")
    refused("bytes behind", file({"a": tensor(0, 4)}, b"12345"), "73 bytes")
    refused("data cut off", file({"a": tensor(0, 4)}, b"123"))


def register_offsets():
    def two(title, a, b, *words, data=b"12345678"):
        refused(f"offsets {title}", file({"a": a, "b": b}, data), *words)

    two("overlapping", tensor(0, 5), tensor(4, 8), "hole or overlap")
    two("equal", tensor(0, 8), tensor(0, 8), "hole or overlap")
    two("inside", tensor(0, 8), tensor(2, 4), "hole or overlap")
    two("with a gap", tensor(0, 3), tensor(4, 8), "hole or overlap")
    two("that do not begin at 0", tensor(1, 4), tensor(4, 8), "hole or overlap")
    two("descending", tensor(0, 4), {"dtype": "U8", "shape": [4], "data_offsets": [8, 4]})
    two("beyond the end", tensor(0, 4), tensor(4, 2**40))
    two("overflowing", tensor(0, 4), tensor(4, 2**64 - 1))
    two("at the end of 64 bits", tensor(0, 4), tensor(2**64 - 4, 2**64 - 1, shape=[3]))
    two("negative", tensor(0, 4), {"dtype": "U8", "shape": [4], "data_offsets": [-4, 8]})
    two("of reals", tensor(0, 4), {"dtype": "U8", "shape": [4], "data_offsets": [4.0, 8.0]})
    two("of texts", tensor(0, 4), {"dtype": "U8", "shape": [4], "data_offsets": ["4", "8"]})
    two("that are one", tensor(0, 4), {"dtype": "U8", "shape": [4], "data_offsets": [4]})
    two("that are three", tensor(0, 4), {"dtype": "U8", "shape": [4], "data_offsets": [4, 8, 8]})
    two("of an object", tensor(0, 4), {"dtype": "U8", "shape": [4], "data_offsets": {"0": 4}})
    two("above 64 bits", tensor(0, 4), {"dtype": "U8", "shape": [4], "data_offsets": [4, 2**64]})


def register_tensors():
    def one(title, *words, **changes):
        refused(title, file({"a": {key: value for key, value in {**tensor(0, 8), **changes}.items() if value is not ...}}, b"12345678"), *words)

    for title in ("bytes", "dict", "tuple", "object", "tensor", "name"):
        hostile("safetensors", f"metadata of a tag {title}", file({"__metadata__": {"!": title}, "a": tensor(0, 8)}, b"12345678"), shown=True)
    one("shape whose product overflows", shape=[2**32, 2**32])
    one("shape whose bits overflow", shape=[2**61], dtype="F64")
    one("shape that overflows behind a zero", shape=[0, 2**63, 2**63])
    one("shape of 1000 dimensions", "numbers", shape=[1] * 1000)
    one("shape negative", shape=[-8])
    one("shape of reals", shape=[8.0])
    one("shape above 64 bits", shape=[2**70])
    one("shape nested", shape=[[8]])
    one("shape null", shape=None)
    one("shape missing", "shape", shape=...)
    one("dtype missing", "dtype", dtype=...)
    one("offsets missing", "data_offsets", data_offsets=...)
    for title, dtype in {"unknown": "Q99", "lower": "u8", "empty": "", "number": 8, "null": None, "list": ["U8"], "escape": "\x1b[2JU8\n", "long": "U" * 10_000, "half a byte": "F4"}.items():
        one(f"dtype {title}", dtype=dtype, **({"shape": [1], "data_offsets": [0, 1]} if title == "half a byte" else {}))
    for title, name in {"escape": "\x1b[2J\x1b]0;owned\x07", "newline": "a\nreshard: done", "c1": "\u009b2J\u202egpj", "dotdot": "../../etc/passwd", "nothing": "", "nul": "a\0b", "of 10000 bytes": "n" * 10_000}.items():
        hostile("safetensors", f"name {title}", file({name: tensor(0, 8)}, b"12345678"), shown=True)
        refused(f"name {title} at a wrong place", file({name: tensor(1, 8)}, b"12345678"))


def register_json():
    for title, text in {
        "a list": "[]",
        "a number": "1",
        "null": "null",
        "nothing": "",
        "spaces": " " * 1000,
        "cut off": '{"a":{"dtype":"U8","shape":[8],',
        "of two values": "{}{}",
        "with a comma": '{"a":1,}',
        "with a comment": "{/* */}",
        "of a tensor that is a list": '{"a":[]}',
        "of a tensor that is a text": '{"a":"b"}',
        "with NaN": '{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,8]}}',
        "with a huge number": '{"a":{"dtype":"U8","shape":[1e999],"data_offsets":[0,8]}}',
        "with many digits": '{"a":{"dtype":"U8","shape":[' + "9" * 10_000 + '],"data_offsets":[0,8]}}',
        "with a lone surrogate": '{"\\ud800":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}',
        "with a control character": '{"a\x01":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}',
        "with a name twice": '{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}',
        "with an empty tensor twice": '{"e":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"e":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}',
        "with a dtype twice": '{"a":{"dtype":"U8","dtype":"I8","shape":[8],"data_offsets":[0,8]}}',
        "of metadata that is a list": '{"__metadata__":[]}',
        "of metadata with a number": '{"__metadata__":{"a":1}}',
        "of metadata in metadata": '{"__metadata__":{"a":{}}}',
        "of metadata twice": '{"__metadata__":{},"__metadata__":{}}',
        "with a key twice in metadata": '{"__metadata__":{"a":"1","a":"2"}}',
        "of depth 1000": '{"a":{"x":' + "[" * 1000 + "]" * 1000 + "}}",
    }.items():
        refused(f"header {title}", file(text, b"12345678"))
    refused("header that is not utf-8", file(b'{"\xff\xfe":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}', b"12345678"))
    refused("header with a nul", file(b"{}\0\0", b""))
    refused("header with a byte order mark", file(b"\xef\xbb\xbf{}", b""))


def register_large():
    def large(title, make, *words, shown=False):
        hostile("safetensors", f"large header {title}", make, *words, shown=shown)

    def entries(count, form):
        return lambda: file(b"{" + b",".join(form % (i,) for i in range(count)) + b"}")

    most = 100_000_000
    large("of depth 100000", lambda: file('{"a":{"x":' + "[" * 100_000))
    large("of objects of depth 100000", lambda: file('{"a":' * 100_000))
    large("of spaces", lambda: file(b"{" + b" " * (most - 2) + b"}", b"x"))
    large("of one name", lambda: file(b'{"' + b"n" * (most - 100) + b'":1}'))
    large("of one escaped name", lambda: file(b'{"' + b"\\u0041" * (most // 6 - 100) + b'":1}'))
    large("of one number", lambda: file(b'{"a":{"dtype":"U8","shape":[' + b"9" * (most - 100) + b"]}}"))
    large("of one value", lambda: file(b'{"a":{"x":"' + b"v" * (most - 100) + b'"}}'))
    large("of a million tensors of rank 1000", lambda: file(b"{" + (b'"a":{"dtype":"U8","shape":[' + b"1," * 999 + b'1],"data_offsets":[0,1]},') * 48_000 + b'"z":1}'))
    large("of empty tensors", entries(1_400_000, b'"%07d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'), "tensors")
    large("of half tensors", entries(6_000_000, b'"%07d":{}'), "tensors")
    large("of dimensions", entries(400_000, b'"%06d":{"dtype":"U8","shape":[' + b"0," * 63 + b'0],"data_offsets":[0,0]}'), "tensors")
    large("of unknown keys", lambda: file(b'{"a":{' + b",".join(b'"%d":1' % i for i in range(9_000_000)) + b"}}"))
    large("of metadata", lambda: file(b'{"__metadata__":{' + b",".join(b'"%07d":"v"' % i for i in range(3_000_000)) + b"}}"))
    large("of one long metadata", lambda: file(b'{"__metadata__":{"a":"' + b"v" * (most - 100) + b'"}}', b"x"))
    large("of many tensors", entries(120_000, b'"%07d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'), shown=True)
    large("of nothing", lambda: file(b"\0" * most))


for register in (register_lengths, register_offsets, register_tensors, register_json, register_large):
    register()
