"""config.json, index and tracker files that lie or never end."""

import json

from hostile import hostile

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "head_dim": 8,
    "hidden_act": "silu",
    "hidden_size": 48,
    "intermediate_size": 112,
    "max_position_embeddings": 64,
    "model_type": "llama",
    "num_attention_heads": 6,
    "num_hidden_layers": 5,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "vocab_size": 211,
}


def with_text(key, text):
    """The configuration with one value as raw text."""
    return json.dumps({**CONFIG, key: "@"}).replace('"@"', text).encode()


def many(count, form, key="x"):
    return lambda: with_text(key, "{" + ",".join(form % i for i in range(count)) + "}")


def register_texts(kind, whole):
    """What is no JSON, or too much of it; whole(text) puts a value in a place where it is read."""

    def refused(title, content, *words):
        hostile(kind, title, content, *words)

    for title, text in {"nothing": b"", "cut off": b'{"a": [1, 2', "a list": b"[]", "a number": b"7", "a text": b'"\x41"', "null": b"null", "two values": b"{}{}", "a nul": b"{}\0", "not utf-8": b'{"\xff": 1}', "an escape": b'{"\x1b[2J": 1}', "utf-16": "{}".encode("utf-16"), "a comment": b"{// \n}"}.items():
        refused(f"text of {title}", text)
    for title, text in {"nan": "NaN", "infinity": "-Infinity", "huge": "1e999", "many digits": "9" * 10_000, "a lone surrogate": '"\\udc00"', "deep": "[" * 200 + "]" * 200}.items():
        refused(f"value {title}", whole(text))
    for brackets in ("[]", "{}"):
        begin = "[" if brackets == "[]" else '{"a":'
        end = brackets[1]
        middle = "1"
        refused(f"depth of 100000 {brackets}", lambda b=begin, m=middle, e=end: whole(b * 100_000 + m + e * 100_000), "deep")
        refused(f"depth of 100000 {brackets} without end", lambda b=begin: whole(b * 100_000), "deep")
    refused("large text", lambda: whole('"' + "a" * 300_000_000 + '"'))
    refused("large list", lambda: whole("[" + "1," * 40_000_000 + "1]"))
    refused("large spaces", lambda: b" " * 300_000_000 + b"{}")
    refused("large zeros", lambda: b"\0" * 300_000_000)


def register_configs():
    register_texts("json", lambda text: with_text("x", text))

    def refused(title, content, *words):
        hostile("json", title, content, *words)

    refused("key twice", json.dumps(CONFIG)[:-1].encode() + b', "hidden_size": 64}', "hidden_size")
    refused("key twice below", with_text("rope_scaling", '{"factor": 2.0, "factor": 3.0}'), "factor")
    for title, key, text in (
        ("model type of a path", "model_type", '"../../../etc/passwd"'),
        ("model type of an escape", "model_type", '"\\u001b[2Jllama\\n"'),
        ("model type of a list", "model_type", "[]"),
        ("model type of null", "model_type", "null"),
        ("layers minus one", "num_hidden_layers", "-1"),
        ("layers most", "num_hidden_layers", "18446744073709551615"),
        ("layers 1e300", "num_hidden_layers", "1e300"),
        ("layers five and a half", "num_hidden_layers", "5.5"),
        ("layers of an escape", "num_hidden_layers", '"\\u001b[2J5"'),
        ("layers many", "num_hidden_layers", "4000000000"),
        ("layers a million", "num_hidden_layers", "1000000"),
        ("hidden 0", "hidden_size", "0"),
        ("hidden most", "hidden_size", "9223372036854775808"),
        ("hidden of a list", "hidden_size", "[48]"),
        ("vocabulary negative", "vocab_size", "-211"),
        ("vocabulary most", "vocab_size", "9223372036854775807"),
        ("heads 0", "num_attention_heads", "0"),
        ("heads most", "num_attention_heads", "9223372036854775807"),
        ("groups 0", "num_key_value_heads", "0"),
        ("groups most", "num_key_value_heads", "9223372036854775807"),
        ("head dimension most", "head_dim", "9223372036854775807"),
        ("ffn of an object", "intermediate_size", "{}"),
        ("activation of a control character", "hidden_act", '"\\u009b2J"'),
        ("epsilon of a text", "rms_norm_eps", '"1e-6"'),
        ("tied of a text", "tie_word_embeddings", '"false"'),
        ("key of an escape", "\u001b[2J\nkey", "1"),
        ("rope of an escape", "rope_scaling", '{"rope_type": "\\u001b]0;owned\\u0007"}'),
    ):
        refused(title, with_text(key, text))
    refused("large config of keys", many(400_000, '"k%d": 1'))
    refused("large config of keys at the top", lambda: json.dumps({**CONFIG, **{f"k{i}": 1 for i in range(400_000)}}).encode())
    refused("large config of one key", lambda: json.dumps({**CONFIG, "k" * 900_000: 1}).encode())


def weights(entries):
    return json.dumps({"metadata": {"total_size": 1}, "weight_map": entries}).encode()


def register_indices():
    register_texts("index", lambda text: b'{"weight_map": {"lm_head.weight": "model-00001-of-00005.safetensors"}, "metadata": ' + text.encode() + b"}")

    def refused(title, content, *words):
        hostile("index", title, content, *words)

    for title, name in {"dotdot": "../model.safetensors", "absolute": "/etc/passwd", "deep dotdot": "a/../../../../dev/zero", "nul": "model\0.safetensors", "newline": "a\nreshard: done", "escape": "\x1b[2J.safetensors", "nothing": "", "dot": ".", "dots": "..", "backslash": "..\\model.safetensors", "number": 7, "list": [], "null": None, "long": "n" * 10_000, "c1": "\u009b2J\u202e.safetensors", "slash": "model-00001-of-00005.safetensors/"}.items():
        refused(f"file {title}", weights({"lm_head.weight": name}))
    refused("file missing", weights({"lm_head.weight": "model-00009-of-00009.safetensors"}), "missing")
    refused("name of an escape", weights({"\x1b[2J\nreshard: done": "../x"}))
    refused("map missing", b'{"metadata": {}}', "weight_map")
    refused("map empty", weights({}))
    for title, value in {"list": b"[]", "text": b'"x"', "null": b"null", "nested": b'{"a": {"b": "c"}}'}.items():
        refused(f"map {title}", b'{"weight_map": ' + value + b"}")
    refused("tensor twice", b'{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', "duplicate")
    refused("large map of missing files", lambda: weights({f"t{i}": f"m{i}.safetensors" for i in range(1_000_000)}))
    refused("large map of one file", lambda: weights({f"model.layers.{i}.mlp.down_proj.weight": "model-00001-of-00005.safetensors" for i in range(1_000_000)}))
    refused("large map of long names", lambda: weights({"n" * 100_000 + str(i): "x" for i in range(1000)}))


def register_trackers():
    for title, text in {"nothing": b"", "dotdot": b"../../../etc", "absolute": b"/etc", "dot": b".", "release with a slash": b"release/..", "minus one": b"-1", "huge": b"99999999999999999999999", "most": b"18446744073709551615", "real": b"1.5", "escape": b"\x1b[2J\x07", "nul": b"\0", "newlines": b"\n" * 1000, "text": b"iter_0000001", "not utf-8": b"\xff\xfe", "c1": "\u009b2J".encode()}.items():
        hostile("tracker", title, text)
    hostile("tracker", "large digits", lambda: b"1" * 1_000_000)
    hostile("tracker", "large zeros", lambda: b"\0" * 300_000_000)


register_configs()
register_indices()
register_trackers()
