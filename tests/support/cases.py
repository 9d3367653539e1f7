"""The cases in tests/data and the flags that describe their layouts."""

import pathlib
import re

# Stages that are not even: what the folder's name does not say.
STAGE_LAYERS = {"gpt2/torch-tp2-pp3": "1,3,2"}

# Hugging Face cases that Megatron's arguments can hold, with a layout to try; 5 layers, 6 heads, 2 groups.
TO_MEGATRON = {
    "gpt2": ["--tp", "2", "--pp", "2", "--stage-layers", "3,2"],
    "llama": ["--tp", "2", "--pp", "2", "--stage-layers", "2,3"],
    "llama-attn-bias": ["--tp", "2", "--pp", "1"],
    "mistral": ["--tp", "1", "--pp", "5"],
    "qwen2": ["--tp", "2", "--pp", "2", "--stage-layers", "3,2"],
    "qwen3": ["--tp", "1", "--pp", "2", "--stage-layers", "2,3"],
    "phi3": ["--tp", "2", "--pp", "1"],
    "mixtral": ["--tp", "2", "--pp", "1", "--ep", "2", "--etp", "2"],
    "qwen3_moe": ["--tp", "1", "--pp", "2", "--stage-layers", "2,3", "--ep", "3", "--etp", "1"],
}


def _cases(data, group, names):
    folders = sorted(path for path in pathlib.Path(data, group).iterdir() if path.is_dir())
    return [folder for folder in folders if not names or folder.name in names]


def huggingface_cases(data, names=()):
    """Folders with hf/ and logits.safetensors, one a family; all, or those named."""
    return _cases(data, "huggingface", names)


def megatron_cases(data, names=()):
    """Folders with hf/, logits.safetensors and torch-* layouts; all, or those named."""
    return _cases(data, "megatron", names)


def degrees(folder):
    """The parallel degrees in the name of a torch-* folder, those that are 1 included."""
    found = dict(re.findall(r"-(tp|pp|vpp|ep)(\d+)", folder.name))
    return {name: int(found.get(name, 1)) for name in ("tp", "pp", "vpp", "ep")}


def layout_flags(folder):
    """The convert flags that give the layout and names of a torch-* folder of tests/data/megatron."""
    flags = ["--transformer-impl", "local"]
    for name, degree in degrees(folder).items():
        flags += [f"--{name}", str(degree)] if degree > 1 or name in ("tp", "pp") else []
    if layers := STAGE_LAYERS.get(f"{folder.parent.name}/{folder.name}"):
        flags += ["--stage-layers", layers]
    if folder.parent.name.endswith("-legacy"):
        flags += ["--megatron-names", "legacy"]
    return flags
