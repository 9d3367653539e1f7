"""The maps and leaves that inspect shows, against what torch and the file names say.

usage: inspect_test.py RESHARD MPIEXEC DATA [CASE...]
A case is a folder of DATA/deepspeed, DATA/merak or DATA/megatron, "files" or "headers"; all without one.
"""

import argparse
import enum
import json
import os
import pathlib
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import types

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import checkpoints as files
import maps
import numpy
import safetensors.torch
import torch
from programs import Checks, Reshard

# What inspect cannot tell by itself, by case.
FLAGS = {"megds-gpt2-blocked": ["--mds-qkv-layout", "blocked"]}
MOST = 100  # bytes of a value that the text shows


def section(text, begin):
    """The text behind a label, with the lines that continue it."""
    lines = text.split(f"\n{begin}", 1)[1].split("\n")
    more = 1
    while more < len(lines) and lines[more].startswith(" " * 12):
        more += 1
    return " ".join(line.strip() for line in lines[:more])


def spelled(patterns):
    return set().union(*(maps.names_in(pattern) for pattern in patterns.split(", ")))


def maps_in(text, expected):
    """What the text says of the same things, in the form of expected_maps; dtypes with the sum over classes."""
    found = {"stages": {}, "ranks": {}, "modules": {}, "dtypes": {}}
    for stage, said, modules in re.findall(r"^  stage (\d+): (.*?)(?: \(modules (\S+)\))?$", text, re.M):
        layers, *parts = said.split(", ")
        copies = {part.removeprefix("copy of ") for part in parts if part.startswith("copy of ")}
        numbers = maps.numbers_in(layers.removeprefix("layers ").removeprefix("no layers"))
        found["stages"][int(stage)] = (numbers, {part for part in parts if not part.startswith("copy of ")}, copies, maps.numbers_in(modules))
    for tp, pp, ep, patterns in re.findall(r"^  tp (\d+), pp (\d+)(?:, ep (\d+))?: (.*)$", text, re.M):
        found["ranks"][int(tp), int(pp), int(ep or 0)] = spelled(patterns)
    for numbers, said in re.findall(r"(\d\S*): ([^:]+?)(?:, (?=\d\S*: )|$)", section(text, "modules ")) if expected["modules"] else ():
        for number in (modules := sorted(maps.numbers_in(numbers))):
            parts = set(said.split(" + ")) - {"buffers"}
            if said.startswith("layers "):
                parts = {f"layers.{sorted(maps.numbers_in(said[7:]))[modules.index(number)]}"}
            copies = {part.removeprefix("copy of ") for part in parts if part.startswith("copy of ")}
            found["modules"][number] = (parts - {f"copy of {part}" for part in copies}, copies)
    for dtype, count, kinds in re.findall(r"(\w+) \(([\d,]+) tensors\): ((?:\w+(?:, )?)+)", section(text, "dtypes ")):
        found["dtypes"][dtype] = (int(count.replace(",", "")), set(re.findall(r"\w+", kinds)))
    return found


def check_text(text, expected):
    seen = maps_in(text, expected)
    dtypes = {}
    for kind, counts in expected["dtypes"].items():
        for dtype, count in counts.items():
            total, kinds = dtypes.get(dtype, (0, set()))
            dtypes[dtype] = (total + count, kinds | {kind})
    wanted = {"stages": expected["stages"], "ranks": expected["ranks"], "modules": {m: v[1:] for m, v in expected["modules"].items()}, "dtypes": dtypes}
    for name in wanted:
        assert seen[name] == wanted[name], f"{name} in the text: {seen[name]}, wanted {wanted[name]}\n{text}"
    for name in ("embedding", "final_norm") if expected["ranks"] else ():
        tps, patterns = re.fullmatch(r"tp (\S+): (.*)", section(text, name.replace("_", " ") + " ")).groups()
        assert maps.numbers_in(tps) == set(expected[name]) and spelled(patterns) == set().union(*expected[name].values()), text
    lines = re.findall(r"^ +(?:\S+ is|copied to) (.+?) in (.+)$", text, re.M)
    shown = {(file, name) for name, patterns in lines for file in spelled(patterns)}
    assert shown == {place for tie in expected["tied"] for place in tie}, text


def plain(value):
    """An argument as JSON has it; None for what torch alone cannot tell."""
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, str)) else None


def check_arguments(report, args):
    """Each argument shown is the file's, and the basic sizes are all shown."""
    members = vars(args) if args is not None else {}
    for name, value in report["arguments"].items():
        wanted = plain(members[name])
        assert wanted is None or str(value).lower() == str(wanted).lower(), f"{name} is {value}, wanted {wanted}"
    basic = {"num_layers", "hidden_size", "num_attention_heads", "num_heads", "ffn_hidden_size", "seq_length", "partition_method"}
    missing = {name for name in basic & members.keys() if members[name] is not None} - report["arguments"].keys()
    assert not missing, f"arguments {missing} are not shown"


def check_layout(reshard, root, flags, stored, ranks, args):
    """JSON and text of a checkpoint say what its files hold."""
    expected = maps.expected_maps(stored, ranks)
    report = json.loads(reshard.run("inspect", root, *flags, "--json"))
    seen = maps.normalised(report["maps"])
    for name, wanted in expected.items():
        assert seen[name] == wanted, f"{name}: {seen[name]}, wanted {wanted}"
    stages = {pp for _, pp, _ in ranks.values()} or {0}
    wanted = {"tp": len({tp for tp, _, _ in ranks.values()} or {0}), "pp": len(stages), "ep": len({ep for _, _, ep in ranks.values()} or {0})}
    assert {name: report["parallelism"][name] for name in wanted} == wanted, report["parallelism"]
    check_arguments(report, args)
    text = reshard.run("inspect", root, *flags)
    check_text(text, expected)
    return report, text


def add_optimizer(unit, names):
    """Files of an optimizer that are holes, so large that nobody could have read them; name -> size."""
    sizes = {name: (40 << 30) + number for number, name in enumerate(names)}
    for name, size in sizes.items():
        with open(unit / name, "wb") as file:
            file.truncate(size)
    return sizes


def check_optimizer(report, text, sizes, dp):
    seen = report["maps"]["optimizer"]
    assert {entry["file"]: entry["bytes"] for entry in seen["files"]} == sizes, seen
    assert seen["bytes"] == sum(sizes.values()), seen["bytes"]
    assert report["parallelism"]["dp"] == dp, report["parallelism"]
    if sizes:
        said = re.fullmatch(r"(\d+) files?, (\S+ \S+): (.*)", section(text, "optimizer "))
        assert int(said[1]) == len(sizes) and spelled(said[3]) == set(sizes), said


def check_deepspeed(case, checks, reshard, scratch):
    flags = FLAGS.get(case.name, [])
    for layout in sorted(case.glob("tp*")):
        with checks.case(f"{case.name}/{layout.name}"):
            unit = pathlib.Path(shutil.copytree(layout, scratch / case.name / layout.name)) / (layout / "latest").read_text()
            stored, ranks = maps.deepspeed(unit)
            content = files.read_torch(unit / "mp_rank_00_model_states.pt")
            names = [f"zero_pp_rank_{d}_mp_rank_{m:02d}_optim_states.pt" for d in range(content["dp_world_size"]) for m in range(len(list(unit.glob("mp_rank_*"))))]
            sizes = add_optimizer(unit, names)
            report, text = check_layout(reshard, unit.parent, flags, stored, ranks, content["args"])
            check_optimizer(report, text, sizes, content["dp_world_size"])
    for layout in sorted(case.glob("zero[12]-*")):
        with checks.case(f"{case.name}/{layout.name}"):
            unit = layout / (layout / "latest").read_text()
            file = "mp_rank_00_model_states.pt"
            content = files.read_torch(unit / file)
            stored, _ = maps.huggingface(files.flat_tensors(content["module"], "module"), file)
            flags = ["--config", case / "hf" / "config.json"]
            report, text = check_layout(reshard, layout, flags, stored, {file: (0, 0, 0)}, None)
            sizes = {path.name: path.stat().st_size for path in unit.glob("*optim_states.pt")}
            check_optimizer(report, text, sizes, content["dp_world_size"])


def check_merak(case, checks, reshard, scratch):
    for layout in sorted(case.glob("*tp*")):
        with checks.case(f"{case.name}/{layout.name}"):
            root = pathlib.Path(shutil.copytree(layout, scratch / case.name / layout.name))
            unit = {path.parent if path.parent.name.startswith(("iter", "release")) else path.parent.parent for path in root.rglob("*model_optim.pt")}.pop()
            stored, ranks = maps.merak(unit)
            content = files.read_torch(unit / stored[0].file)
            dp = int((re.search(r"-dp(\d+)", layout.name) or [0, 1])[1])
            names = [f"zero_dp_rank_{d}_mp_rank_{tp:02d}_pp_rank_{pp:03d}_opt_states.pt" for d in range(dp) for tp, pp, _ in ranks.values()]
            sizes = add_optimizer(unit, names if dp > 1 else [])
            report, text = check_layout(reshard, root, [], stored, ranks, content.get("args"))
            check_optimizer(report, text, sizes, dp)


def check_megatron(case, checks, reshard, scratch):
    for layout in sorted(case.glob("torch-*")):
        with checks.case(f"{case.name}/{layout.name}"):
            unit = files.iteration_folder(layout)
            stored, ranks = maps.megatron(unit)
            args = next(iter(files.megatron_files(layout).values()))["args"]
            report, text = check_layout(reshard, layout, [], stored, ranks, args)
            sizes = {str(path.relative_to(unit)): path.stat().st_size for path in unit.rglob("distrib_optim.pt")}
            check_optimizer(report, text, sizes, report["parallelism"]["dp"])
    with checks.case(f"{case.name}/hf"):
        tensors = safetensors.torch.load_file(case / "hf" / "model.safetensors")
        check_layout(reshard, case / "hf", [], *maps.huggingface(tensors, "model.safetensors"), None)


class Colour(enum.Enum):
    red, blue = 1, "b"


class Thing:
    def __init__(self, tensor):
        self.answer, self.tensor, self.deep = 42, tensor, [1, [2, 3], {"x": (4, 5)}]


def sample_object(tensor):
    """Everything that a pickle of a checkpoint may hold, in classes that no other program has."""
    module = types.ModuleType("strange")
    sys.modules["strange"] = module
    for known in (Colour, Thing):
        known.__module__, module.__dict__[known.__name__] = "strange", known
    values = {"none": None, "yes": True, "big": 2**70, "real": 1e-05, "nan": float("nan"), "text": "é" * 90, "raw": b"\0\xff", "empty": {}, "list": [], 7: "seven", (1, "a"): 2}
    return {
        "model": {"w": tensor, "parts": [tensor, {"deep": tensor}]},
        "args": argparse.Namespace(hidden_size=8, betas=(0.9, 0.95), names=["a", "b"], nested=[(1, 2), [3]], dtype=torch.bfloat16),
        "thing": Thing(tensor),
        "colour": Colour.red,
        "values": values,
    }


def value_text(value):
    """A value that is one leaf, as the text has it; nothing for a tree."""
    if isinstance(value, (list, tuple)) and all(isinstance(item, (bool, int, float, str, type(None))) for item in value):
        value = list(value)
    elif isinstance(value, dict) and not value:
        value = {}  # of any class
    elif isinstance(value, bytes):
        return value.hex()[:MOST]
    elif isinstance(value, torch.dtype) or isinstance(value, float) and value != value or isinstance(value, int) and abs(value) >> 63 > 0:
        return str(value)
    elif not isinstance(value, (bool, int, float, str, type(None))):
        return None
    said = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return said.decode() if len(said) <= MOST else said[:MOST].decode(errors="ignore") + "..."


def is_opaque(value):
    """Whether torch's object does not tell what the pickle has below it."""
    return isinstance(value, (enum.Enum, numpy.ndarray)) or not vars(value)


def class_of(value):
    """What the pickle names to make an object: its class, for an array the function that numpy makes it with."""
    maker = value.__reduce__()[0] if isinstance(value, numpy.ndarray) else type(value)
    return f"{maker.__module__}.{maker.__qualname__}".replace("numpy._core", "numpy.core")


def leaves(value, name=""):
    """Every line that the text has for a value: tensors, values, and objects by their class."""
    if isinstance(value, torch.Tensor):
        yield f"{name}  {maps.DTYPES[value.dtype]} {list(value.shape)}"
    elif (said := value_text(value)) is not None:
        yield f"{name} = {said}"
    else:
        if isinstance(value, enum.Enum) or not isinstance(value, (dict, list, tuple)):
            yield f"{name} : {class_of(value)}"
            if is_opaque(value):
                return
            value = vars(value)
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            key = "(" + ",".join(map(str, key)) + ")" if isinstance(key, tuple) else str(key)
            yield from leaves(item, f"{name}.{key}" if name else key)


def check_leaves(reshard, path, container, value):
    """The text has exactly the leaves that torch sees; those below an opaque object apart."""
    text = reshard.run("inspect", path)
    first, header, *lines = text.splitlines()
    assert first.startswith("no checkpoint that can be converted: ") and header.startswith(f"{path.name} ({container}, "), text
    wanted = set(leaves(value))
    classes = [line.split(" : ")[0] for line in wanted if " : " in line]
    opaque = [name for name in classes if not any(line.startswith(f"{name}.") for line in wanted)]
    below = {line for line in lines if any(re.match(rf"  {re.escape(name)}( =|\.)", line) for name in opaque)}
    seen = {line.removeprefix("  ").replace("numpy._core", "numpy.core") for line in lines if line not in below}
    assert seen == wanted, f"not shown: {sorted(wanted - seen)[:5]}, not there: {sorted(seen - wanted)[:5]}"
    report = json.loads(reshard.run("inspect", path, "--json"))
    assert report["format"] is None and report["failure"] and report["files"][0]["container"] == container, report
    tensors = {f"{item['name']}  {item['dtype']} {item['shape']}" for item in report["tensors"]}
    assert tensors == {line for line in wanted if re.search(r"  [A-Z0-9]+ \[", line)}, tensors


def check_single_files(data, checks, reshard, scratch):
    value = sample_object(torch.arange(6, dtype=torch.bfloat16).view(2, 3))
    torch.save(value, scratch / "new.pt")
    torch.save(value, scratch / "old.pt", _use_new_zipfile_serialization=False)
    (scratch / "plain.pkl").write_bytes(pickle.dumps(sample_object(None)))
    tensors = {"a.b": torch.zeros(2, 3), "c": torch.zeros((), dtype=torch.int64)}
    safetensors.torch.save_file(tensors, scratch / "lone.safetensors", {"note": "mine"})
    rank = next(data.glob("deepspeed/megds-llama/tp2*/global_step3/mp_rank_03_*"))
    layer = next(data.glob("deepspeed/megds-llama/tp2*/global_step3/layer_02-model_01-*"))
    optimizer = next(data.glob("deepspeed/zero-llama/zero1-dp2/global_step3/*_rank_1_*optim_states.pt"))
    for path, container, wanted in (
        (scratch / "new.pt", "torch-zip", value),
        (scratch / "old.pt", "torch-legacy", value),
        (scratch / "plain.pkl", "pickle", sample_object(None)),
        (scratch / "lone.safetensors", "safetensors", {**tensors, "metadata": {"note": "mine"}}),
        (data / "torch" / "legacy.pt", "torch-legacy", files.read_torch(data / "torch" / "legacy.pt")),
        *((path, "torch-zip", files.read_torch(path)) for path in (rank, layer, optimizer)),
    ):
        with checks.case(f"files: {path.name}"):
            check_leaves(reshard, path, container, wanted)
    with checks.case("files: a folder with a broken one"):
        (scratch / "broken.pt").write_bytes((scratch / "new.pt").read_bytes()[:-100])
        text = reshard.run("inspect", scratch)
        assert "problem: broken.pt: " in text and "lone.safetensors (" in text and "plain.pkl (" in text, text
        done = subprocess.run([reshard.binary, "inspect", scratch / "broken.pt"], capture_output=True, text=True, timeout=60)
        assert done.returncode == 3 and "broken.pt: zip" in done.stderr, (done.returncode, done.stderr)


def bytes_read(command):
    """What a program read by read calls, by the kernel's count, taken before its end is collected."""
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    counts = dict(line.split(": ") for line in pathlib.Path(f"/proc/{process.pid}/io").read_text().splitlines())
    assert process.wait() == 0, command
    return int(counts["rchar"])


def check_headers(checks, reshard, scratch):
    """Of 19 GB of tensors, one in a hundred bytes at most is read."""
    for name, flags in {"megatron-deepspeed": ["--tp", 4, "--pp", 2], "merak": ["--tp", 2, "--pp", 4], "megatron": ["--tp", 4, "--pp", 2], "hf": []}.items():
        with checks.case(f"headers: {name}"):
            root = scratch / name
            reshard.run("sample", root, "--family", "llama", "--parameters", "1e10", "--to", name, *flags, "--sparse", "--quiet")
            size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
            read = bytes_read([reshard.binary, "inspect", root, "--json"])
            checks.note(f"{read} of {size} bytes")
            assert size > 1 << 34 and read < size / 100, f"{read} of {size} bytes were read"


def main(binary, mpiexec, data, *names):
    checks, reshard, data = Checks(), Reshard(binary, mpiexec), pathlib.Path(data)
    with tempfile.TemporaryDirectory() as scratch:
        place = pathlib.Path(scratch)
        for group, check in {"deepspeed": check_deepspeed, "merak": check_merak, "megatron": check_megatron}.items():
            for case in sorted(path for path in (data / group).iterdir() if path.is_dir()):
                if not names or case.name in names:
                    check(case, checks, reshard, place / group)
        if not names or "files" in names:
            (place / "files").mkdir()
            check_single_files(data, checks, reshard, place / "files")
        if not names or "headers" in names:
            check_headers(checks, reshard, place / "headers")
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
