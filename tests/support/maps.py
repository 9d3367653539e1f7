"""What files hold of a model by their names, shapes and bytes: the maps that `reshard inspect` must show.

Nothing here comes from reshard: a checkpoint is read with torch and its names with the patterns below.
"""

import dataclasses
import itertools
import re

import checkpoints as files
import torch

DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64", torch.uint8: "U8", torch.bool: "BOOL"}

# The first pattern that a stored name has -> its class and its part of a layer or of the model; None: no weight.
PARTS = (
    (r"\.attn\.(masked_)?bias$|_tensor_constant|inv_freq", "buffers", None),
    (r"wte|word_embeddings\.weight|tied_modules|embed_tokens", "embedding", "embedding"),
    (r"wpe|position_embeddings", "embedding", "position_embedding"),
    (r"word_embeddings\.norm", "norms", "embedding_norm"),
    (r"lm_head|output_layer|_for_head", "head", "head"),
    (r"ln_f|final_norm|final_layernorm|model\.norm\.|^(weight|bias)$", "norms", "final_norm"),
    (r"[qk]_(layer)?norm", "norms", "attention"),
    (r"ln_1|input_(layer)?norm", "norms", "attention_norm"),
    (r"ln_2|post_attention_(layer)?norm|pre_mlp_layernorm", "norms", "mlp_norm"),
    (r"router|moe\.gate\.", "router", "router"),
    (r"experts", "experts", "experts"),
    (r"attn|attention", "attention", "attention"),
    (r"mlp", "mlp", "mlp"),
)


@dataclasses.dataclass
class Stored:
    """A tensor of a file, who wrote it and what it is by its name."""

    file: str
    name: str
    tensor: torch.Tensor
    tp: int = 0
    pp: int = 0
    ep: int = 0
    module: int | None = None
    layer: int | None = None
    is_copy: bool = False

    def __post_init__(self):
        self.kind, self.part = next((kind, part) for pattern, kind, part in PARTS if re.search(pattern, self.name))

    def rank(self):
        return self.tp, self.pp, self.ep


def _layer_in(name):
    found = re.search(r"(?:\.h|layers)\.(\d+)\.", name)
    return int(found[1]) if found else None


def deepspeed(step):
    """(stored tensors, file -> rank) of a pipeline's step folder; stages by the modules of each mp_rank file's param_shapes."""
    tp = 1 + max(int(re.search(r"-model_(\d+)", path.name)[1]) for path in step.glob("layer_*"))
    ranks, last = {}, {}
    for path in sorted(step.glob("mp_rank_*")):
        mp = int(re.search(r"mp_rank_(\d+)", path.name)[1])
        ranks[path.name] = (mp % tp, mp // tp, 0)
        names = [name for group in files.read_torch(path)["param_shapes"] for name in group]
        last[mp // tp] = max(int(name.split(".")[0]) for name in names if name[0].isdigit())
    contents = {path.name: files.read_torch(path) for path in sorted(step.glob("layer_*"))}
    stored, layers = [], {}
    for file, content in contents.items():
        module, rank = map(int, re.match(r"layer_(\d+)-model_(\d+)", file).groups())
        stage = min(stage for stage in last if module <= last[stage])
        ranks[file] = (rank, stage, 0)
        layer = layers.setdefault(module, len(layers)) if "input_layernorm.weight" in content else None
        for name, tensor in files.flat_tensors(content).items():
            stored.append(Stored(file, name, tensor, rank, stage, 0, module, layer))
    return stored, ranks


def merak(unit):
    """The same of a folder of Merak: modules are the first numbers of names, layers the models' own."""
    stored, ranks = [], {}
    for path in sorted(unit.rglob("*model_optim.pt")):
        file = str(path.relative_to(unit))
        tp, pp = (re.search(rf"{word}_rank_(\d+)", file) for word in ("mp", "pp"))
        ranks[file] = (int(tp[1]) if tp else 0, int(pp[1]) if pp else 0, 0)
        for name, tensor in files.flat_tensors(files.read_torch(path)["model"]).items():
            module = re.match(r"(?:module\.)?(\d+)\.", name)
            stored.append(Stored(file, name, tensor, *ranks[file], int(module[1]) if module else None, _layer_in(name)))
    return stored, ranks


def megatron(unit):
    """The same of a folder of Megatron: layers are counted through the chunks, in the order of chunk and stage."""
    chunks, ranks = {}, {}
    for path in sorted(unit.glob("mp_rank_*/model_optim_rng.pt")):
        content, file = files.read_torch(path), str(path.relative_to(unit))
        numbers = [int(number) for number in path.parent.name.removeprefix("mp_rank_").split("_")]
        has_stages = content["args"].pipeline_model_parallel_size > 1
        ranks[file] = (numbers[0], numbers[1] if has_stages else 0, numbers[-1] if len(numbers) > 1 + has_stages else 0)
        for number, (chunk, tensors) in enumerate(sorted(files.model_chunks(content).items())):
            chunks.setdefault((number, ranks[file][1]), []).append((file, chunk, tensors))
    stored, first = [], 0
    for place, parts in sorted(chunks.items()):
        count = 0
        for file, chunk, tensors in parts:
            for name, tensor in tensors.items():
                layer = _layer_in(name)
                count = max(count, 0 if layer is None else layer + 1)
                stored.append(Stored(file, f"{chunk}.{name}", tensor, *ranks[file], None, None if layer is None else first + layer))
        first += count
    return stored, ranks


def huggingface(tensors, file):
    """The same of one file without ranks."""
    return [Stored(file, name, tensor, layer=_layer_in(name)) for name, tensor in tensors.items()], {}


def find_ties(stored):
    """Embeddings and heads of a (tp, ep) column with the same bytes, the first stage's and a module's own first; marks the copies."""
    groups = {}
    for item in stored:
        if item.part in ("embedding", "head"):
            groups.setdefault((item.tp, item.ep, files.raw(item.tensor)), []).append(item)
    ties = []
    for group in groups.values():
        group.sort(key=lambda item: (item.pp, item.module is None, item.module))
        for item in group[1:]:
            item.is_copy, item.kind, item.part = True, "embedding", "embedding"
        if len(group) > 1:
            ties.append([(item.file, item.name) for item in group])
    return sorted(ties)


def _shares(stored, key):
    """key -> (parts held, parts held as copies); a whole layer is "layers.3", a part of one "layers.3.mlp"."""
    weights = [item for item in stored if item.part is not None]
    sizes = {layer: len([i for i in weights if i.layer == layer and (i.tp, i.ep) == (0, 0)]) for layer in {i.layer for i in weights}}
    shares = {}
    for number in {key(item) for item in stored} - {None}:
        mine = [item for item in weights if key(item) == number]
        held = set()
        for item in mine:
            alike = [i for i in mine if i.layer == item.layer and (i.tp, i.ep) == (0, 0)]
            is_whole = item.layer is not None and len(alike) == sizes[item.layer]
            place = "" if item.layer is None else f"layers.{item.layer}"
            name = place if is_whole else f"{place}.{item.part}".strip(".")
            held.add((name, item.is_copy))
        shares[number] = ({name for name, copy in held if not copy}, {name for name, copy in held if copy})
    return shares


def _files_by_tp(stored, part):
    own = [item for item in stored if item.part == part and not item.is_copy]
    return {tp: {item.file for item in own if item.tp == tp} for tp in {item.tp for item in own}}


def expected_maps(stored, ranks):
    """The maps as sets and dicts; `normalised` brings those of inspect --json into the same form."""
    ties = find_ties(stored)
    shares = _shares(stored, lambda item: item.pp)
    stages = {}
    for stage, (held, copies) in shares.items():
        mine = [item for item in stored if item.pp == stage]
        layers = {item.layer for item in mine if item.part} - {None}
        modules = {item.module for item in mine} - {None}
        stages[stage] = (layers, {name for name in held if not name.startswith("layers.")}, copies, modules)
    modules = {}
    for module, share in _shares(stored, lambda item: item.module).items():
        modules[module] = ({item.pp for item in stored if item.module == module}.pop(), *share)
    dtypes = {}
    for item in stored:
        counts = dtypes.setdefault(item.kind, {})
        counts[DTYPES[item.tensor.dtype]] = counts.get(DTYPES[item.tensor.dtype], 0) + 1
    return {
        "stages": stages,
        "ranks": {rank: {file for file in ranks if ranks[file] == rank} for rank in ranks.values()},
        "embedding": _files_by_tp(stored, "embedding"),
        "final_norm": _files_by_tp(stored, "final_norm"),
        "modules": modules,
        "tied": ties,
        "dtypes": dtypes,
    }


def normalised(maps):
    """The maps of inspect --json in the form of expected_maps."""
    return {
        "stages": {s["stage"]: (set(s["layers"]), set(s["holds"]), set(s["copies"]), set(s["modules"])) for s in maps["stages"]},
        "ranks": {(r["tp"], r["pp"], r.get("ep", 0)): set(r["files"]) for r in maps["ranks"]},
        "embedding": {entry["tp"]: set(entry["files"]) for entry in maps["embedding"]},
        "final_norm": {entry["tp"]: set(entry["files"]) for entry in maps["final_norm"]},
        "modules": {m["module"]: (m["stage"], set(m["holds"]), set(m["copies"])) for m in maps["modules"]},
        "tied": sorted([(tensor["file"], tensor["name"]) for tensor in tie["tensors"]] for tie in maps["tied"]),
        "dtypes": maps["dtypes"],
    }


def numbers_in(text):
    """The numbers of "0..2,5"."""
    found = set()
    for part in text.split(",") if text else ():
        first, _, last = part.partition("..")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def names_in(pattern):
    """The names that "layer_{01,03..05}-model_{00,01}" stands for."""
    choices = []
    for fixed, braces in re.findall(r"([^{]*)(?:\{([^}]*)\})?", pattern):
        parts = [part.partition("..") for part in braces.split(",")] if braces else []
        spelled = [f"{number:0{len(first)}d}" for first, _, last in parts for number in range(int(first), int(last or first) + 1)]
        choices.append([fixed + number for number in spelled] or [fixed])
    return {"".join(choice) for choice in itertools.product(*choices)}
