"""Where a hostile file lies in a checkpoint, and folders of which something else than a file's content is hostile.

usage: hostile_folders.py KIND NAME NUMBER FOLDER DATA      makes the folder of one file, for a process that has to stay small
"""

import dataclasses
import json
import os
import pathlib
import shutil
import socket
import struct
import sys

import hostile
from hostile_json import CONFIG

INPUT, IO = 3, 4
ITERATION = "latest_checkpointed_iteration.txt"
FOLDERS = []
HF = "huggingface/llama/hf"
MEGATRON = "megatron/gpt2-legacy/torch-tp1-pp1"
DEEPSPEED = "deepspeed/megds-bloom/tp1-pp1-dp1"
MERAK = "merak/gpt2/era1-tp2-pp2/2026-11-23_ckpt"
NOBODY = 65534


# Files in their places.


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path.name


def in_huggingface(folder, content):
    put(folder / "config.json", json.dumps(CONFIG).encode())
    return put(folder / "pytorch_model.bin", content)


def in_megatron(folder, content):
    put(folder / ITERATION, b"1")
    return put(folder / "iter_0000001" / "mp_rank_00" / "model_optim_rng.pt", content)


def in_deepspeed(folder, content):
    put(folder / "latest", b"global_step1")
    return put(folder / "global_step1" / "mp_rank_00_model_states.pt", content)


def in_merak(folder, content):
    put(folder / ITERATION, b"1")
    return put(folder / "iter_0000001" / "mp_rank_00_pp_rank_000" / "partial_model_optim.pt", content)


def in_dist(folder, content):
    put(folder / ITERATION, b"1")
    put(folder / "iter_0000001" / "metadata.json", b'{"sharded_backend": "torch_dist"}')
    put(folder / "iter_0000001" / "__0_0.distcp", bytes(100))
    return put(folder / "iter_0000001" / ".metadata", content)


def in_fixture(folder, data, fixture, name, content):
    shutil.copytree(data / fixture, folder, copy_function=shutil.copyfile)
    return put(folder / name, content)


def place_in(folder, data, kind, content, number):
    """Puts a file of a kind where reshard looks for it; the number chooses among the frameworks. Returns the file's name."""
    frameworks = [in_huggingface, in_megatron, in_deepspeed, in_merak]
    if kind == "metadata":
        return in_dist(folder, content)
    if kind == "safetensors":
        put(folder / "config.json", json.dumps(CONFIG).encode())
        return put(folder / "model.safetensors", content)
    if kind in ("json", "index"):
        return in_fixture(folder, data, HF, "config.json" if kind == "json" else "model.safetensors.index.json", content)
    if kind == "tracker":
        fixture, name = [(MEGATRON, ITERATION), (DEEPSPEED, "latest"), (MERAK, ITERATION)][number % 3]
        return in_fixture(folder, data, fixture, name, content)
    if kind == "pickle":
        content = (hostile.archive, hostile.legacy)[number // len(frameworks) % 2](content)
    return frameworks[number % len(frameworks)](folder, content)


# Folders.


@dataclasses.dataclass
class Folder:
    name: str
    damage: callable
    fixture: str
    code: int
    words: tuple
    shown: bool
    copied: bool = False  # what is hostile is only read when it is written again


def folder(code, *words, fixture=HF, shown=False, name=None):
    """Registers a function that damages the copy of a fixture; it may return what is different: source, user, or skip."""

    def register(function):
        FOLDERS.append(Folder(name or function.__name__.replace("_", " "), function, fixture, code, words, shown))
        return function

    return register


def system_file():
    """A file of the kernel's that says it is longer than what can be read of it."""
    for path in ("/sys/kernel/mm/transparent_hugepage/enabled", "/sys/devices/system/cpu/online", "/sys/kernel/uevent_seqnum"):
        try:
            if os.stat(path).st_size > len(pathlib.Path(path).read_bytes()):
                return path
        except OSError:
            continue
    return None


SYSTEM_FILE = system_file()


def make_socket(path):
    """A name of at most 100 bytes is what the kernel takes for a socket."""
    here = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


def unreadable(path):
    path.write_bytes(b"{}")
    path.chmod(0)
    return {"user": NOBODY} if os.getuid() == 0 else {}


def short(path):
    if SYSTEM_FILE is None:
        return {"skip": "no such file here"}
    path.symlink_to(SYSTEM_FILE)
    return {}


THINGS = {
    "fifo": (INPUT, lambda path: os.mkfifo(path)),
    "socket": (INPUT, make_socket),
    "link to itself": (INPUT, lambda path: path.symlink_to(path.name)),
    "link to zeros without end": (INPUT, lambda path: path.symlink_to("/dev/zero")),
    "link to a terminal": (INPUT, lambda path: path.symlink_to("/dev/tty")),
    "link to a folder": (INPUT, lambda path: path.symlink_to("/proc/self/task")),
    "folder": (INPUT, lambda path: path.mkdir()),
    "link to nothing": (INPUT, lambda path: path.symlink_to("gone")),
    "unreadable file": (IO, unreadable),
    "file that ends early": (IO, short),
}


def register_things():
    """Each file that is opened, replaced by each thing that is none."""
    roles = {
        "config.json": HF,
        "model.safetensors.index.json": HF,
        "model-00003-of-00005.safetensors": HF,
        "tokenizer.json": HF,
        ITERATION: MEGATRON,
        "iter_*/mp_rank_00/model_optim_rng.pt": MEGATRON,
        "iter_*/mp_rank_00": MEGATRON,
        "latest": DEEPSPEED,
        "global_step*/mp_rank_00_model_states.pt": DEEPSPEED,
        "global_step*/layer_03-model_00-model_states.pt": DEEPSPEED,
        f"{ITERATION} ": MERAK,
        "iter_*/mp_rank_00_pp_rank_000/partial_model_optim.pt": MERAK,
        "iter_*/hf_config/config.json": MERAK,
    }
    # What is refused by another rule before it is read.
    codes = {("file that ends early", "model-00003-of-00005.safetensors"): INPUT, ("file that ends early", "iter_*/mp_rank_00"): INPUT, ("unreadable file", "iter_*/mp_rank_00"): INPUT}
    for role, fixture in roles.items():
        for title, (code, make) in THINGS.items():
            def damage(place, role=role.strip(), make=make):
                folder = next(iter(place.glob(role.split("/")[0]))) if "/" in role else place
                path = folder / "/".join(role.split("/")[1:]) if "/" in role else place / role
                path.parent.mkdir(exist_ok=True)
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
                return make(path)

            copied = role == "tokenizer.json" and code == IO
            FOLDERS.append(Folder(f"{title} as {role}", damage, fixture, codes.get((title, role), code), (), True, copied))


@folder(INPUT, shown=True)
def config_that_is_a_terabyte(place):
    os.truncate(place / "config.json", 1 << 40)


@folder(INPUT, "model-00003-of-00005.safetensors", shown=True)
def weights_that_are_a_terabyte(place):
    (place / "model-00003-of-00005.safetensors").write_bytes(b"")
    os.truncate(place / "model-00003-of-00005.safetensors", 1 << 43)


@folder(INPUT, "header", shown=True)
def header_of_a_terabyte(place):
    (place / "model-00003-of-00005.safetensors").write_bytes(struct.pack("<Q", 1 << 40))
    os.truncate(place / "model-00003-of-00005.safetensors", 1 << 43)


@folder(INPUT, "tokenizer.json", shown=True)
def tokenizer_that_is_a_terabyte(place):
    (place / "tokenizer.json").write_bytes(b"")
    os.truncate(place / "tokenizer.json", 1 << 40)


@folder(INPUT, "model_optim_rng.pt", fixture=MEGATRON)
def torch_file_that_is_a_terabyte(place):
    path = next(place.glob("iter_*/mp_rank_00/model_optim_rng.pt"))
    os.truncate(path, 1 << 43)


@folder(INPUT, "links")
def links_in_a_circle(place):
    shutil.rmtree(place)
    place.mkdir()
    (place / "a").symlink_to("b")
    (place / "b").symlink_to("a")
    (place / "iter_0000001").symlink_to(".")
    return {}


@folder(INPUT)
def path_that_is_a_link_to_itself(place):
    shutil.rmtree(place)
    place.symlink_to(place.name)


@folder(INPUT)
def path_that_is_a_fifo(place):
    shutil.rmtree(place)
    os.mkfifo(place)


@folder(INPUT)
def path_that_is_a_fifo_called_safetensors(place):
    os.mkfifo(place / "model.safetensors")
    return {"source": place / "model.safetensors"}


@folder(INPUT)
def path_that_is_a_device(place):
    return {"source": "/dev/zero"}


@folder(INPUT)
def path_below_a_file(place):
    return {"source": place / "config.json" / "model.safetensors"}


@folder(INPUT)
def path_of_an_escape(place):
    return {"source": place / "\x1b[2J\nreshard: done"}


@folder(INPUT)
def path_that_is_too_long(place):
    return {"source": place / ("n" * 5000)}


@folder(INPUT, "no checkpoint")
def names_of_escapes(place):
    shutil.rmtree(place)
    place.mkdir()
    for name in ("\x1b[2J\nreshard: done.safetensors", "\x1b]0;owned\x07.pt", "a\rb.bin", "\u009b2J\u202e.pt", b"\xff\xfe.pt".decode(errors="surrogateescape")):
        (place / name).write_bytes(b"x")


@folder(INPUT, "\\x1b", shown=True)
def shards_of_escapes(place):
    index = json.loads((place / "model.safetensors.index.json").read_text())
    bad = "\x1b[2J\x1b]0;owned\x07\r.safetensors"
    (place / "model-00002-of-00005.safetensors").rename(place / bad)
    os.truncate(place / bad, 1000)
    index["weight_map"] = {k: bad if v.startswith("model-00002") else v for k, v in index["weight_map"].items()}
    (place / "model.safetensors.index.json").write_text(json.dumps(index))


@folder(INPUT, fixture=MEGATRON)
def a_hundred_thousand_files(place):
    unit = next(place.glob("iter_*"))
    shutil.rmtree(unit / "mp_rank_00")
    (unit / "mp_rank_00").mkdir()
    here = os.open(unit / "mp_rank_00", os.O_RDONLY)
    for i in range(100_000):
        os.mknod(f"{i}.pt", dir_fd=here)
    os.close(here)


@folder(INPUT, shown=True)
def a_hundred_thousand_shards(place):
    (place / "model-00003-of-00005.safetensors").write_bytes(b"x")
    here = os.open(place, os.O_RDONLY)
    for i in range(100_000):
        os.mknod(f"model-{i}.safetensors", dir_fd=here)
    os.close(here)


def numbered(name, fixture, pattern):
    """A file whose name's number is beyond reason."""
    for number in (2**64 - 1, 2**63, 10**9, 10**30):
        def damage(place, number=number):
            path = next(place.glob(pattern))
            path.rename(path.with_name(name % number))

        FOLDERS.append(Folder(f"{name % number} in {fixture}", damage, fixture, INPUT, (), True))


numbered("layer_%d-model_00-model_states.pt", DEEPSPEED, "global_step*/layer_01-model_00-model_states.pt")
numbered("layer_01-model_%d-model_states.pt", DEEPSPEED, "global_step*/layer_01-model_00-model_states.pt")
numbered("mp_rank_%d_model_states.pt", DEEPSPEED, "global_step*/mp_rank_00_model_states.pt")
numbered("zero_pp_rank_%d_mp_rank_00_optim_states.pt", DEEPSPEED, "global_step*/mp_rank_00_model_states.pt")
numbered("mp_rank_%d_pp_rank_000", MERAK, "iter_*/mp_rank_*")
numbered("mp_rank_00_pp_rank_%d", MERAK, "iter_*/mp_rank_*")
numbered("mp_rank_%d", MEGATRON, "iter_*/mp_rank_*")
numbered("iter_%d", MEGATRON, "iter_*")
register_things()


if __name__ == "__main__":
    kind, name, number, target, data = sys.argv[1:]
    case = next(case for case in hostile.cases(kind) if case.name == name)
    print(place_in(pathlib.Path(target), pathlib.Path(data), kind, case.make(), int(number)))
