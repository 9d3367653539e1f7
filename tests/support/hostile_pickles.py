"""Pickles that call, import, recurse, blow up or end too soon; written opcode by opcode, for no pickler would."""

import struct

from hostile import hostile

BEGIN, STOP = b"\x80\x02", b"."
CALL = "touch EXECUTED"
RUN = "open('EXECUTED', 'w')"


def text(value):
    raw = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    return b"X" + struct.pack("<I", len(raw)) + raw


def name(module, symbol):
    return f"c{module}\n{symbol}\n".encode()


def number(value):
    return b"J" + struct.pack("<i", value)


def pair(key, value):
    return text(key) + value


def model(value):
    """What a training run would have saved, with the value among the tensors."""
    return BEGIN + b"}(" + pair("model", b"}(" + pair("w", value) + b"u") + pair("args", b"}(" + pair("hidden_size", value) + b"u") + b"u" + STOP


def call(module, symbol, *arguments):
    """REDUCE of a global."""
    return name(module, symbol) + b"(" + b"".join(arguments) + b"tR"


def register_calls():
    """What Python would run: here it is data, which no model needs, so that it is refused for what is missing."""

    def inert(title, value, *words):
        hostile("pickle", title, model(value), *words, shown=True)

    def refused(title, value, *words):
        hostile("pickle", title, model(value), *words)

    inert("os system", call("os", "system", text(CALL)))
    inert("posix system at the top", call("posix", "system", text(CALL)))
    inert("eval", call("builtins", "eval", text(RUN)))
    inert("exec of python 2", call("__builtin__", "exec", text(RUN)))
    inert("subprocess", call("subprocess", "Popen", b"](" + text("sh") + text("-c") + text(CALL) + b"e"))
    inert("stack global", text("os") + text("system") + b"\x93" + text(CALL) + b"\x85R")
    inert("new object", name("subprocess", "Popen") + b"(" + text(CALL) + b"N" * 7 + b"\x88t\x81")
    inert("getattr chain", call("builtins", "getattr", call("builtins", "getattr", call("builtins", "__import__", text("os")), text("system")), text("__call__")))
    inert("import", call("importlib", "import_module", text("antigravity")))
    inert("state of a class", name("argparse", "Namespace") + b")\x81}(" + pair("__setstate__", name("os", "system")) + b"ub" + text(CALL) + b"b")
    inert("dict of a class", name("types", "SimpleNamespace") + b")R}(" + pair("__dict__", call("os", "system", text(CALL))) + b"ub")
    inert("partial", call("functools", "partial", name("os", "system"), text(CALL)))
    inert("nested name", text("os") + text("system.__call__") + b"\x93" + text(CALL) + b"\x85R")
    inert("code object", call("types", "CodeType", *[number(1)] * 6, text("d\0S\0")))
    inert("compressed bytes", call("_codecs", "decode", b"U\x08BZh91AY&", text("bz2")))
    inert("tensor made by a call", call("torch._tensor", "_rebuild_from_type_v2", name("os", "system"), name("torch", "Tensor"), text(CALL) + b"\x85", b"}"))
    inert("parameter of a call", call("torch._utils", "_rebuild_parameter", call("os", "system", text(CALL)), b"\x88", b"}"))
    inert("name with an escape", call("os\x1b]0;owned\x07", "sys\x1b[2Jtem", text(CALL)))
    inert("name that is not utf-8", b"c\xff\xfe\n\xc3(\n" + b")R")
    refused("keyword arguments", name("os", "system") + b")}(" + pair("command", text(CALL)) + b"u\x92", "keyword")
    refused("instance", b"(S'" + CALL.encode() + b"'\nios\nsystem\n", "0x69")
    refused("object", b"(" + name("os", "system") + text(CALL) + b"o", "0x6f")
    for size, code in ((1, b"\x82"), (2, b"\x83"), (4, b"\x84")):
        refused(f"extension of {size} bytes", code + b"\1".ljust(size, b"\0"), hex(code[0]))
    refused("persistent text", b"Pstorage\n", "0x50")
    refused("buffer of protocol 5", b"\x97", "0x97")


def storage(key=text("0"), elements=number(4), kind=name("torch", "FloatStorage"), word=text("storage")):
    return b"(" + word + kind + key + text("cpu") + elements + b"tQ"


def tensor(stored=None, offset=number(0), size=number(2) + number(2) + b"\x86", stride=number(2) + number(1) + b"\x86", more=b""):
    """A call of _rebuild_tensor_v2 of which one argument is wrong."""
    hooks = name("collections", "OrderedDict") + b")R"
    return call("torch._utils", "_rebuild_tensor_v2", stored or storage(), offset, size, stride, b"\x89", hooks, more)


def long(value):
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def register_tensors():
    def refused(title, value, *words):
        hostile("pickle", f"tensor {title}", model(value), *words)

    refused("without its storage", tensor())
    refused("beyond its storage", tensor(size=number(3) + number(2) + b"\x86"))
    refused("of a huge storage", tensor(storage(elements=long(2**62))))
    refused("of a storage of more bytes than 64 bits tell", tensor(storage(elements=long(2**63 - 1))))
    refused("of a storage of minus one", tensor(storage(elements=number(-1))))
    refused("of a storage of a text", tensor(storage(elements=text("4"))))
    refused("of a storage of 2 to the 200", tensor(storage(elements=long(2**200))))
    refused("of a storage called by a number", tensor(storage(key=number(0))))
    refused("of a storage called dotdot", tensor(storage(key=text("../../data.pkl"))))
    refused("of a storage called by an escape", tensor(storage(key=text("\x1b[2J\n\r0"))))
    refused("of a storage of an unknown class", tensor(storage(kind=name("os", "system"))))
    refused("of a quantized storage", tensor(storage(kind=name("torch", "QInt8Storage"))))
    refused("of a module", tensor(storage(word=text("module"))))
    refused("of a persistent number", tensor(number(0) + b"Q"))
    refused("of no storage", tensor(b"N"))
    refused("at offset minus one", tensor(offset=number(-1)))
    refused("at a huge offset", tensor(offset=long(2**63 - 1)))
    refused("of a product that overflows", tensor(size=(long(2**40) * 2) + b"\x86"))
    refused("of strides that overflow", tensor(stride=(long(2**63 - 1) * 2) + b"\x86"))
    refused("of negative strides", tensor(stride=number(-2) + number(-1) + b"\x86"))
    refused("of strides of another rank", tensor(stride=number(1) + b"\x85"))
    refused("of no shape", tensor(size=b"N"))
    refused("of a shape of texts", tensor(size=text("2") + text("2") + b"\x86"))
    refused("of rank 1000", tensor(size=b"(" + number(1) * 1000 + b"t", stride=b"(" + number(1) * 1000 + b"t"), "dimensions")
    refused("that is conjugated", tensor(more=b"}(" + pair("conj", b"\x88") + b"u"))
    refused("of two sizes", tensor() + b"0" + tensor(storage(elements=number(5))))


def nested(begin, end, depth):
    return BEGIN + begin * depth + end * depth + STOP


def register_recursion():
    def refused(title, content, *words):
        hostile("pickle", title, content, *words)

    laughs = {
        "list": (b"](" + b"lol" * 0, b"e", b"]"),
        "tuple": (b"(", b"t", b")"),
        "set": (b"\x8f(", b"\x90", b"\x8f"),
        "frozen set": (b"(", b"\x91", b")"),
        "dict values": (b"}(", b"u", b"}"),
        "call": (name("a", "b") + b"(", b"tR", b"N"),
    }
    for title, (begin, end, least) in laughs.items():
        value = BEGIN + least + b"q\0" + b"0"
        for level in range(60):
            inner = b"".join((number(i) if title == "dict values" else b"") + b"h" + bytes([level]) for i in range(20))
            value += begin + inner + end + b"q" + bytes([level + 1]) + b"0"
        refused(f"laughs of {title}", value + b"h\x3c" + STOP, "more than")
    states = (name("a", "b") + b"(h" + bytes([i]) + b"h" + bytes([i]) + b"tRh" + bytes([i]) + b"bq" + bytes([i + 1]) + b"0" for i in range(60))
    refused("laughs of states", BEGIN + b"Nq\0" + b"0" + b"".join(states) + b"h\x3c" + STOP, "more than")

    selves = {
        "list": b"]q\0h\0a",
        "dict": b"}q\0" + text("me") + b"h\0s",
        "dict key": b"}q\0h\0Ns",
        "tuple": b"]q\0h\0\x85a",
        "set": b"\x8fq\0(h\0\x90",
        "state": name("a", "b") + b")Rq\0h\0b",
        "arguments": b"]q\0" + name("a", "b") + b"h\0\x85Ra",
        "ordered dict": name("collections", "OrderedDict") + b")Rq\0" + text("me") + b"h\0s",
        "pairs of an ordered dict": b"]q\0" + name("collections", "OrderedDict") + b"h\0\x85Ra",
        "class": b"]q\0h\0)Ra",
        "shape": b"]q\0h\0a0" + tensor(size=b"h\0", stride=b"h\0"),
        "storage": b"]q\0" + tensor(b"h\0Q"),
    }
    for title, value in selves.items():  # the class of an object and the pairs of a dict are not looked into
        hostile("pickle", f"contains itself: {title}", BEGIN + value + STOP, shown=title in ("class", "pairs of an ordered dict"))
    for title, (begin, end) in {"list": (b"]", b""), "tuple": (b"", b"\x85"), "dict": (b"}" + text("k"), b""), "call": (name("a", "b"), b"\x85R"), "state": (name("a", "b") + b")R", b"b")}.items():
        closing = {"list": b"a" * 99_999, "tuple": b")" + b"\x85" * 100_000, "dict": b"Ns" + b"s" * 99_999, "call": b"N" + end * 100_000, "state": b"N" + end * 100_000}[title]
        refused(f"depth of 100000: {title}", lambda b=begin, c=closing: BEGIN + b * 100_000 + c + STOP, "deep")
    refused("depth of 100000: persistent", lambda: BEGIN + b"N" + b"Q" * 100_000 + STOP)
    hostile("pickle", "depth of 100000: class", lambda: BEGIN + b"N" + b")R" * 100_000 + STOP, shown=True)
    refused("depth of 100000: getattr", lambda: BEGIN + b"N" + b"".join([b"0" + name("builtins", "getattr") + b"q\0N"] + [b"q\1h\0h\1" + text("x") + b"\x86R"] * 100_000) + STOP)
    refused("depth of 190: keys", BEGIN + b"}" + b")" + b"\x85" * 250 + b"Ns" + STOP, "deep")


def register_lengths():
    def refused(title, value, *words):
        hostile("pickle", title, BEGIN + value, *words)

    for width, codes in {4: {b"X": "text", b"B": "bytes", b"T": "string", b"\x8b": "long"}, 8: {b"\x8d": "text of 8", b"\x8e": "bytes of 8", b"\x96": "bytearray of 8", b"\x95": "frame"}}.items():
        for code, title in codes.items():
            for value in (2 ** (8 * width) - 1, 2 ** (8 * width - 1) - 1, 2 ** (8 * width - 1)):
                refused(f"length {value:x}: {title}", code + value.to_bytes(width, "little") + b"abc.")
    refused("long of 255 bytes", b"\x8a\xff" + b"\x7f" * 255 + STOP, "too many")
    refused("decimal of 20000 digits", b"L" + b"9" * 19_000 + b"L\n.", "digits")
    refused("decimal that is none", b"I1e9\n.")
    refused("float that is none", b"F\x1b[31m\n.")
    refused("string without quotes", b"Sx\n.")
    refused("line without end", b"V" + b"a" * 1000)
    refused("global without a name", b"cos\n")
    refused("memo that is not set", b"h\7.", "memo 7")
    refused("memo of 2 to the 32", b"j\xff\xff\xff\xff.", "4294967295")
    refused("memo of minus one", b"Np-1\n.")
    refused("memo of a huge number", b"Np" + b"9" * 40 + b"\n.")
    refused("memo without a value", b"q\0.")
    refused("protocol 6", b"\x80\6N.", "protocol")
    refused("nothing", b"")
    refused("only the end", STOP)
    refused("two values", b"NN.", "left on the stack")
    refused("a mark left", b"N(.")
    wrong = {"tuple": b"t", "tuple of 3": b"NN\x87", "list": b"l", "append": b"]a", "appends": b"e", "dict": b"(Nd", "item": b"}Ns", "items": b"}(Nu", "call": b"NR", "call of a list": b"N]R", "state": b"NNb", "pop": b"0", "pop mark": b"1", "twice": b"2", "persistent": b"Q", "set": b"](N\x90", "key of a list": b"]NNs", "append to a dict": b"}Na", "name of a number": b"NN\x93", "new object": b"N\x81"}
    for title, value in wrong.items():
        refused(f"stack without {title}", value + STOP)


def register_large():
    """Small opcodes in great number; what they fill has to be counted, each in its own way."""

    def refused(title, make, *words):
        hostile("pickle", f"large {title}", make, *words)

    many = 12_000_000
    refused("decimal of a million digits", lambda: BEGIN + b"I" + b"9" * 1_000_000 + b"\n.", "digits")
    refused("list of numbers", lambda: BEGIN + b"](" + b"K\1" * many + b"e.")
    refused("list of one value", lambda: BEGIN + b"](" + b"N" * (4 * many) + b"e.")
    refused("stack", lambda: BEGIN + b"N" + b"2" * (5 * many) + STOP)
    refused("stack of marks", lambda: BEGIN + b"(" * (5 * many) + STOP)
    refused("memo", lambda: BEGIN + b"N" + b"\x94" * (5 * many) + STOP)
    refused("memo of far numbers", lambda: BEGIN + b"N" + b"".join(b"r" + struct.pack("<I", i * 400) for i in range(many // 2)) + STOP)
    refused("lists", lambda: BEGIN + b"](" + b"]" * (3 * many) + b"e.")
    refused("objects", lambda: BEGIN + b"](" + b"N)R" * many + b"e.")
    refused("tuples", lambda: BEGIN + b"](" + b"N\x85" * many + b"e.")
    refused("names", lambda: BEGIN + b"](" + b"ca\nb\n" * (many // 2) + b"e.")
    refused("marked and popped", lambda: BEGIN + b"N" + b"(1" * (2 * many) + STOP)
    refused("dict", lambda: BEGIN + b"}(" + b"".join(b"J" + struct.pack("<i", i) + b"N" for i in range(many // 4)) + b"u.")
    refused("dict of texts", lambda: BEGIN + b"}(" + b"".join(b"\x8c\7%07dN" % i for i in range(many // 10)) + b"u.")
    refused("text told often", lambda: BEGIN + text("a" * 100_000) + b"q\0](" + b"h\0" * 100_000 + b"e.")
    refused("key told often", lambda: BEGIN + b"](" + (b"}" + text("k" * 50_000) + b"q\0Ns") + b"}h\0Ns" * 100_000 + b"e.")
    refused("class told often", lambda: BEGIN + name("a", "b" * 50_000) + b"q\0](" + b"h\0)R" * 100_000 + b"e.")
    refused("storage told often", lambda: BEGIN + storage(key=text("0" * 50_000)) + b"q\0](" + tensor(b"h\0") * 20_000 + b"e.")
    refused("text", lambda: BEGIN + b"\x8d" + struct.pack("<Q", 150_000_000) + b"a" * 150_000_000 + STOP)
    refused("zeros", lambda: b"\0" * 400_000_000)


for register in (register_calls, register_tensors, register_recursion, register_lengths, register_large):
    register()
