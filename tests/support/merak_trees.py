"""Merak trees as tests make and read them: random GPT-2 models, what Merak's modules hold of one, files by rank."""

import itertools
import json
import os
import pathlib
import re

import checkpoints as files
import torch
from safetensors.torch import save_file

TRACKER = "latest_checkpointed_iteration.txt"
# What gives the keys of a run of era 1 again.
TRACED = ["--merak-buffers", "traced", "--merak-tied-keys", "yes"]


def unit_of(root):
    """The folder of model files below a layout folder."""
    found = {path.parent if path.name == "model_optim.pt" else path.parent.parent for path in pathlib.Path(root).rglob("*model_optim.pt")}
    assert len(found) == 1, f"{root}: model files below {found}"
    return found.pop()


def model_of(path):
    """Name -> tensor of one model file, with or without the wrapper."""
    content = files.read_torch(path)
    return content.get("model", content)


def ranks_of(root):
    """Rank folder ('' without any) -> name -> (dtype, shape, bytes)."""
    unit = unit_of(root)
    found = {}
    for path in sorted(unit.rglob("*model_optim.pt")):
        found[str(path.parent.relative_to(unit))] = {name: files.raw(tensor) for name, tensor in model_of(path).items()}
    return found


def same(seen, wanted, what):
    lines = files.differences(seen, wanted)
    assert not lines, f"{what}: {len(lines)} differences: " + "; ".join(lines[:5])


def same_ranks(seen, wanted, without=()):
    """Two checkpoints of ranks_of are equal, apart from tensors whose names end so in the second."""
    assert seen.keys() == wanted.keys(), f"ranks are {sorted(seen)}, wanted {sorted(wanted)}"
    for rank in wanted:
        kept = {name: value for name, value in wanted[rank].items() if not name.endswith(tuple(without))}
        same(seen[rank], kept, rank)
        assert list(seen[rank]) == list(kept), f"{rank}: order of names differs"


def tree(root):
    """Every file below a folder with its bytes."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(pathlib.Path(root).rglob("*")) if path.is_file()}


def refused(reshard, *arguments, says, ranks=1):
    """The command fails, and its message, one for all ranks, holds each of the words."""
    try:
        reshard.run(*arguments, ranks=ranks)
    except AssertionError as error:
        missing = [word for word in says if word not in str(error)]
        assert not missing, f"message lacks {missing}: {error}"
        assert str(error).startswith(("exit 2", "exit 3", "exit 5")), str(error)[:80]
        assert str(error).count("\nreshard: ") <= 1, f"not one message: {error}"
        return str(error)
    raise AssertionError(f"accepted: {' '.join(map(str, arguments))}")


class Bench:
    """What all checks share."""

    def __init__(self, reshard, checks, data, scratch):
        self.reshard, self.checks, self.data, self.scratch = reshard, checks, pathlib.Path(data), pathlib.Path(scratch)
        self.count = 0

    def place(self, name=""):
        self.count += 1
        return self.scratch / f"{self.count}-{name}"

    def convert(self, source, *flags, ranks=1):
        target = self.place()
        self.reshard.convert(source, target, *flags, ranks=ranks)
        return target

    def report(self, source, *flags):
        """What a conversion prints."""
        return self.reshard.run("convert", source, self.place(), *flags)

    def hf(self, source, *flags):
        return files.huggingface_tensors(self.convert(source, "--to", "hf", *flags))


def make_gpt2(folder, layers=5, hidden=16, heads=4, positions=12, vocab=52, tied=True, inner=None, seed=1):
    """A random GPT-2 as Transformers saves it."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    inner = inner or 4 * hidden
    random = lambda *shape: torch.randn(*shape)
    tensors = {"transformer.wte.weight": random(vocab, hidden), "transformer.wpe.weight": random(positions, hidden)}
    for l in range(layers):
        shapes = {
            "ln_1.weight": (hidden,), "ln_1.bias": (hidden,), "attn.c_attn.weight": (hidden, 3 * hidden), "attn.c_attn.bias": (3 * hidden,),
            "attn.c_proj.weight": (hidden, hidden), "attn.c_proj.bias": (hidden,), "ln_2.weight": (hidden,), "ln_2.bias": (hidden,),
            "mlp.c_fc.weight": (hidden, inner), "mlp.c_fc.bias": (inner,), "mlp.c_proj.weight": (inner, hidden), "mlp.c_proj.bias": (hidden,),
        }
        tensors.update({f"transformer.h.{l}.{name}": random(*shape) for name, shape in shapes.items()})
    tensors.update({"transformer.ln_f.weight": random(hidden), "transformer.ln_f.bias": random(hidden)})
    if not tied:
        tensors["lm_head.weight"] = random(vocab, hidden)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": layers, "n_embd": hidden, "n_head": heads, "n_positions": positions,
        "n_inner": None if inner == 4 * hidden else inner, "vocab_size": vocab, "tie_word_embeddings": tied, "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))
    return tensors


def expected_gpt2(tensors, layers, tp, bounds, era=1, cut=True):
    """(tp rank, stage) -> name -> tensor that Merak's modules hold, by the formulas of its converter's result."""
    prefix, found = "module." if era == 1 else "", {}
    # Era 2 (layer_split) has the two embeddings in one module.
    module_of = (lambda l: 2 + l) if era == 1 else (lambda l: 1 + l)
    hidden = tensors["transformer.wte.weight"].shape[1]
    rows = -(-tensors["transformer.wte.weight"].shape[0] // (128 * tp)) * 128 * tp if cut and tensors["transformer.wte.weight"].shape[0] % tp else None
    for r, s in itertools.product(range(tp), range(len(bounds) - 1)):
        mine = found[r, s] = {}

        def put(module, name, tensor):
            if bounds[s] <= module < bounds[s + 1]:
                mine[f"{prefix}{module}.{name}"] = tensor

        def vocabulary(tensor):
            if rows:
                tensor = torch.cat([tensor, tensor[-1:].expand(rows - tensor.shape[0], -1)])
            return tensor.chunk(tp)[r] if cut else tensor

        put(0, "transformer.wte.weight", vocabulary(tensors["transformer.wte.weight"]))
        put(1 if era == 1 else 0, "transformer.wpe.weight", tensors["transformer.wpe.weight"])
        for name, tensor in tensors.items():
            match = re.fullmatch(r"transformer\.h\.(\d+)\.(.*)\.(weight|bias)", name)
            if not match:
                continue
            module, layer, kind = module_of(int(match[1])), match[2], match[3]
            if tp > 1 and layer in ("attn.c_attn", "mlp.c_fc"):
                parts = tensor.T if kind == "weight" else tensor
                pieces = parts.split(hidden) if layer == "attn.c_attn" else [parts]
                tensor, layer = torch.cat([piece.chunk(tp)[r] for piece in pieces]), f"{layer}.col_linear"
            elif tp > 1 and layer in ("attn.c_proj", "mlp.c_proj"):
                tensor, layer = (tensor.T.chunk(tp, dim=1)[r] if kind == "weight" else tensor), f"{layer}.row_linear"
            put(module, f"transformer.h.{match[1]}.{layer}.{kind}", tensor)
        last = module_of(layers)
        for name in ("transformer.ln_f.weight", "transformer.ln_f.bias"):
            put(last, name, tensors[name])
        put(last, "lm_head.weight", tensors["lm_head.weight"] if "lm_head.weight" in tensors else vocabulary(tensors["transformer.wte.weight"]))
    return found


def check_expected(target, tensors, layers, tp, bounds, era, cut):
    """A written tree holds exactly the formulas' tensors (and in era 1 the masks)."""
    pp, ranks = len(bounds) - 1, ranks_of(target)
    for (r, s), wanted in expected_gpt2(tensors, layers, tp, bounds, era, cut).items():
        name = "." if tp == pp == 1 else f"mp_rank_{r:02d}" + (f"_pp_rank_{s:03d}" if pp > 1 else "")
        seen = {key: value for key, value in ranks[name].items() if not key.endswith((".attn.bias", ".attn.masked_bias"))}
        same(seen, {key: files.raw(tensor) for key, tensor in wanted.items()}, f"tp {r} stage {s}")
    assert len(ranks) == tp * pp
