"""Folders of DeepSpeed as tests read and change them."""

import enum
import pathlib
import sys
import types

import checkpoints as files
import torch

# What BigScience's args hold of its enum, beside megatron-core's modules.
POSITIONS = enum.Enum("PositionEmbeddingType", "rotary absolute alibi", module="megatron.enums")
sys.modules["megatron.enums"] = types.SimpleNamespace(PositionEmbeddingType=POSITIONS)


def unit_of(root):
    """The folder that `latest` names."""
    return pathlib.Path(root, pathlib.Path(root, "latest").read_text())


def layer_files(root):
    """File name -> {name: tensor} of every layer file."""
    return {path.name: files.read_torch(path) for path in sorted(unit_of(root).glob("layer_*"))}


def model_states(root):
    """The content of every mp_rank file, in the order of ranks."""
    return [files.read_torch(path) for path in sorted(unit_of(root).glob("mp_rank_*"), key=lambda path: (len(path.name), path.name))]


def check_same(seen, wanted):
    """Raises with the first differences of two Hugging Face folders."""
    lines = files.differences(files.huggingface_tensors(seen), files.huggingface_tensors(wanted))
    assert not lines, f"{len(lines)} differences: " + "; ".join(lines[:5])


# Changes of a unit's files, to be made on a copy.


def edit(change, pattern="mp_rank_*", **how):
    """Loads the files, changes their content and saves them again."""

    def apply(unit):
        for path in sorted(unit.glob(pattern)):
            content = torch.load(path, weights_only=False)
            change(content)
            torch.save(content, path, **how)

    return apply


def rename(pattern, change):
    """Gives the files other names, the last first."""

    def apply(unit):
        for path in sorted(unit.glob(pattern), reverse=True):
            path.rename(path.with_name(change(path.name)))

    return apply


def optimizer(ranks, name="bf16_zero_pp_rank_{0}_mp_rank_{1:02d}_optim_states.pt"):
    """Optimizer files of (data-parallel rank, model-parallel rank), empty: they are never opened."""
    return lambda unit: [(unit / name.format(*rank)).write_bytes(b"") for rank in ranks]
