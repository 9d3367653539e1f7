"""HDF5 files that reshard writes, as h5py, h5dump and reshard read them; foreign and harmful ones.

usage: hdf5_test.py RESHARD MPIEXEC DATA [CASE...]   families in tests/data, or: foreign, refused, megatron
"""

import collections
import filecmp
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import checkpoints as files
import h5py
import numpy
import torch
from cases import TO_MEGATRON, huggingface_cases, megatron_cases
from programs import Checks, Reshard
from safetensors.torch import load_file

NAMES = ("hf", "canonical")
PRIME = 2**61 - 1
NUMPY = {"F32": numpy.float32, "F16": numpy.float16, "I64": numpy.int64, "BOOL": numpy.uint8}


def floats(dataset):
    """What any reader sees of a dataset, as float32: h5py converts BF16, which numpy lacks."""
    return dataset.astype(numpy.float32)[()] if dataset.shape else numpy.float32(dataset[()])


def stored(folder):
    """Name -> tensor of a Hugging Face folder."""
    tensors = {}
    for file in folder.glob("*.safetensors"):
        tensors.update(load_file(file))
    return tensors


def roles(dataset):
    return [role.decode() for role in dataset.attrs["roles"]]


def digests_of(path):
    """Role -> the sum of its digests over all datasets."""
    sums = collections.defaultdict(lambda: [0, 0])
    with h5py.File(path) as file:
        for dataset in file["tensors"].values():
            for role, text in zip(roles(dataset), dataset.attrs["digests"], strict=True):
                for half in (0, 1):
                    sums[role][half] = (sums[role][half] + int(text[16 * half : 16 * half + 16], 16)) % PRIME
    return dict(sums)


def same_files(a, b):
    """Raises unless two folders hold the same files, byte for byte; manifests tell of the sources."""
    assert sorted(os.listdir(a)) == sorted(os.listdir(b)), (os.listdir(a), os.listdir(b))
    names = sorted(set(os.listdir(a)) - {"manifest.json"})
    _, *differing = filecmp.cmpfiles(a, b, names, shallow=False)
    assert not any(differing), f"{a} and {b} differ in {differing}"


def check_written(path, source, names):
    """h5py reads every value, HDF5's own tools read the structure."""
    tensors, seen = stored(source), set()
    with h5py.File(path) as file:
        attributes = dict(file.attrs)
        assert attributes["format"] == b"reshard-h5" and attributes["format_version"] == 1, attributes
        assert attributes["names"].decode() == names and json.loads(attributes["hyperparameters"])["layers"] > 0
        config = json.loads((path.parent / "config.json").read_text())
        assert json.loads(file["metadata/config.json"][()].tobytes()) == config
        for inner in file["metadata"]:
            assert inner == "config.json" or file["metadata"][inner][()].tobytes() == (source / inner).read_bytes()
        total = 0
        for name, dataset in file["tensors"].items():
            assert dataset.chunks is None and dataset.attrs["dtype"].decode() in (*NUMPY, "BF16"), name
            seen.update(roles(dataset))
            total += dataset.size
            if names == "hf":
                wanted = tensors.pop(name).to(torch.float32).numpy()
                assert numpy.array_equal(floats(dataset), wanted, equal_nan=True), name
    if names == "hf":
        assert not [name for name in tensors if "rotary" not in name and "attn.bias" not in name], f"missing: {list(tensors)}"
    else:
        assert total == sum(tensor.numel() for tensor in tensors.values())
    listed = subprocess.run(["h5ls", "-r", path], capture_output=True, text=True, check=True).stdout
    assert "/metadata/config.json" in listed and listed.count("Dataset {") > len(seen) / 8, listed
    header = subprocess.run(["h5dump", "-H", path], capture_output=True, text=True, check=True).stdout
    assert 'GROUP "tensors"' in header and header.count('ATTRIBUTE "digests"') == listed.count("/tensors/"), header


def check_case(case, reshard, folder, ranks):
    """One family: to HDF5 with both kinds of names and back."""
    source = case / "hf"
    reshard.convert(source, folder / "direct", "--to", "hf")
    for names in NAMES:
        target = folder / names
        reshard.convert(source, target, "--to", "hdf5", "--hdf5-names", names)
        check_written(target / "model.h5", source, names)
        reshard.convert(source, folder / "again", "--to", "hdf5", "--hdf5-names", names, ranks=ranks)
        same_files(target, folder / "again")
        shutil.rmtree(folder / "again")
        reshard.convert(target, folder / "back", "--to", "hf", ranks=2)
        same_files(folder / "direct", folder / "back")
        shutil.rmtree(folder / "back")
    found = [digests_of(folder / names / "model.h5") for names in NAMES]
    assert found[0] == found[1] and len(found[0]) > 10, "digests depend on the names"
    seen = files.huggingface_tensors(folder / "direct")
    assert not files.differences(seen, {name: files.huggingface_tensors(source)[name] for name in seen})


def check_megatron_between(case, reshard, folder):
    """hf -> hdf5 -> megatron -> hdf5: the same datasets and digests."""
    flags = TO_MEGATRON[case.name]
    for names in NAMES:
        first, second, between = folder / f"first-{names}", folder / f"second-{names}", folder / f"between-{names}"
        reshard.convert(case / "hf", first, "--to", "hdf5", "--hdf5-names", names, ranks=2)
        reshard.convert(first, between, "--to", "megatron", *flags, ranks=3)
        reshard.convert(between, second, "--to", "hdf5", "--hdf5-names", names, ranks=2)
        with h5py.File(first / "model.h5") as a, h5py.File(second / "model.h5") as b:
            assert list(a["tensors"]) == [name for name in b["tensors"] if ".padding." not in name]
            for name in a["tensors"]:
                x, y = a["tensors"][name], b["tensors"][name]
                assert (x.shape, x.dtype, dict(x.attrs)["dtype"]) == (y.shape, y.dtype, dict(y.attrs)["dtype"]), name
                assert numpy.array_equal(x[()], y[()], equal_nan=True), name
        padded = digests_of(second / "model.h5")
        assert digests_of(first / "model.h5") == {role: padded[role] for role in padded if ".padding." not in role}


def check_training_state(case, reshard, folder):
    """A Megatron run keeps iteration and vocabulary padding through a file of canonical names."""
    layout = next(case.glob("torch-tp2-pp2"))
    iteration = files.iteration_folder(layout).name
    reshard.convert(layout, folder / "h5", "--to", "hdf5", "--hdf5-names", "canonical", ranks=4)
    with h5py.File(folder / "h5" / "model.h5") as file:
        assert json.loads(file.attrs["training"])["iteration"] == int(iteration.removeprefix("iter_")), file.attrs["training"]
        assert any(".padding." in name for name in file["tensors"]), list(file["tensors"])
    flags = ["--to", "megatron", "--tp", "2", "--pp", "2", "--transformer-impl", "local", "--vocab-multiple", "8"]
    reshard.convert(folder / "h5", folder / "back", *flags, ranks=3)
    wanted, seen = files.megatron_files(layout), files.megatron_files(folder / "back")
    assert files.iteration_folder(folder / "back").name == iteration and seen.keys() == wanted.keys()
    for rank, content in wanted.items():
        for chunk, tensors in files.model_chunks(content).items():
            got = files.model_chunks(seen[rank])[chunk]
            assert not files.differences(*({n: files.raw(t) for n, t in some.items()} for some in (got, tensors))), rank
    reshard.convert(folder / "h5", folder / "release", "--to", "hdf5", "--for-release")
    with h5py.File(folder / "release" / "model.h5") as file:
        assert json.loads(file.attrs["training"]) == {}, file.attrs["training"]


def check_at_all_ranks(reshard, folder):
    """The same bytes at 1, 2, 3, 4 and 7 ranks, of a model with more tiles than ranks; no digests without verification."""
    reshard.run("sample", folder / "source", "--family", "llama", "--to", "megatron", "--tp", "2", "--pp", "2", "--parameters", "2e7")
    for names in NAMES:
        flags = ["--to", "hdf5", "--hdf5-names", names]
        for ranks in (1, 2, 3, 4, 7):
            reshard.convert(folder / "source", folder / f"{names}-{ranks}", *flags, "--memory", "4MiB", ranks=ranks)
            same_files(folder / f"{names}-1", folder / f"{names}-{ranks}")
        reshard.convert(folder / "source", folder / f"{names}-plain", *flags, "--no-verify")
        with h5py.File(folder / f"{names}-1" / "model.h5") as a, h5py.File(folder / f"{names}-plain" / "model.h5") as b:
            for name in a["tensors"]:
                assert a["tensors"][name].id.get_offset() == b["tensors"][name].id.get_offset()
                assert {text.strip() for text in b["tensors"][name].attrs["digests"]} == {b"not computed"}
                digests = a["tensors"][name].attrs["digests"]  # of zeros it is 0
                assert all(len(text) == 32 and (int(text, 16) or ".padding." in name) for text in digests), digests
    folder.joinpath("alone").mkdir()
    shutil.copy(folder / "hf-1" / "model.h5", folder / "alone")
    reshard.run("compare", folder / "alone", folder / "source")
    reshard.run("compare", folder / "alone" / "model.h5", folder / "canonical-1", ranks=2)


def check_config_beside(case, reshard, folder):
    """A config.json beside the file that says other things than the one in it: a warning; other order: none."""
    reshard.convert(case / "hf", folder / "h5", "--to", "hdf5")
    beside = folder / "h5" / "config.json"
    config = json.loads(beside.read_text())
    for number, (changed, warned) in enumerate(((dict(reversed(config.items())), False), ({**config, "bos_token_id": 77}, True))):
        beside.write_text(json.dumps(changed))
        command = [reshard.binary, "convert", folder / "h5", folder / f"hf-{number}", "--to", "hf"]
        said = subprocess.run(command, capture_output=True, text=True, check=True)
        assert ("says other things" in said.stdout + said.stderr) == warned, said


def check_sample(reshard, folder):
    reshard.run("sample", folder / "h5", "--family", "qwen3", "--to", "hdf5", "--dtype", "bf16")
    reshard.run("sample", folder / "hf", "--family", "qwen3", "--to", "hf", "--dtype", "bf16")
    report = json.loads(reshard.run("compare", folder / "h5", folder / "hf", "--json"))
    assert report["equal"] and report["tensors"] > 10, report
    report = json.loads(reshard.run("inspect", folder / "h5", "--json", "--stats"))
    assert report["format"] == "hdf5" and report["family"] == "qwen3" and not report["problems"], report


# Files that others wrote.


def foreign(name, make):
    """Registers a way in which h5py writes a model in fp32; make(file, name, array)."""
    FOREIGN.append((name, make))


FOREIGN = []
foreign("flat names", lambda f, n, a: f.create_dataset(n, data=a))
foreign("nested groups", lambda f, n, a: f.create_dataset(n.replace(".", "/"), data=a))
foreign("chunks", lambda f, n, a: f.create_dataset(n, data=a, chunks=tuple(max(1, d // 3) for d in a.shape)))
foreign("gzip", lambda f, n, a: f.create_dataset(n, data=a, compression="gzip"))
foreign("gzip, shuffle, fletcher32", lambda f, n, a: f.create_dataset(n, data=a, compression=9, shuffle=True, fletcher32=True))
foreign("extendible", lambda f, n, a: f.create_dataset(n, data=a, maxshape=(None,) * a.ndim))


def write_bf16(file, name, array):
    """The upper halves of fp32 numbers, in a type that numpy lacks."""
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)
    kind.set_size(2)
    kind.set_ebias(127)
    dataset = h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create_simple(array.shape))
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, (array.view(numpy.uint32) >> 16).astype(numpy.uint16), kind)


foreign("bf16", write_bf16)


def write_attributes(file, name, array):
    """Attributes of the names that reshard's own files have, with other meanings."""
    number = len(file)
    file.attrs["format"] = [1, 2]
    file.create_dataset(name, data=array).attrs["dtype"] = ["float32", 32, "<f4", "BF16", [1.5, 2]][number % 5]


def write_bf16_as_integers(file, name, array):
    """What h5py's users do for want of bf16: the numbers' bits, and their type as an attribute."""
    dataset = file.create_dataset(name, data=(array.view(numpy.uint32) >> 16).astype(numpy.uint16))
    dataset.attrs["dtype"] = ["bfloat16", "BF16", numpy.bytes_(b"bfloat16")][len(file) % 3]


foreign("attributes of other meanings", write_attributes)
foreign("bf16 as integers", write_bf16_as_integers)


def check_foreign(name, make, case, reshard, folder):
    source = folder / "fp32"
    reshard.convert(case / "hf", source, "--to", "hf", "--dtype", "fp32")
    if name.startswith("bf16"):
        source = folder / "bf16"
        reshard.convert(case / "hf", source, "--to", "hf")
    for version in ("earliest", "v110"):
        target = folder / version
        target.mkdir()
        shutil.copy(source / "config.json", target)
        with h5py.File(target / "weights.hdf5", "w", libver=(version, "v110")) as file:
            for tensor, value in stored(folder / "fp32").items():
                make(file, tensor, value.numpy())
        reshard.run("compare", target, source, ranks=2)
        back = folder / f"{version}-back"
        reshard.convert(target, back, "--to", "hf", ranks=3)
        assert (back / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()


# Files that are refused: exit code 3, one message, quickly.


def edit(path):
    return h5py.File(path, "r+")


REFUSED = []


def refused(*wanted):
    """Registers damage to a folder with a file of our own; the message must have the wanted words."""

    def register(damage):
        REFUSED.append((damage.__name__.replace("_", " "), damage, wanted))
        return damage

    return register


@refused("model.h5", "h5repack -f NONE")
def a_filter_of_a_plugin(folder):
    with edit(folder / "model.h5") as file:
        name = next(iter(file["tensors"]))
        del file["tensors"][name]
        list_ = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        list_.set_chunk((4,))
        list_.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())
        h5py.h5d.create(file["tensors"].id, name.encode(), h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((8,)), list_)
    return {"HDF5_PLUGIN_PATH": str(folder)}


@refused("model.h5", "this group has another name too, or lies within itself")
def a_cycle(folder):
    with h5py.File(folder / "model.h5", "w") as file:
        file.create_group("a/b")
        file["a/b/c"] = file["a"]


@refused("model.h5", "soft link")
def a_soft_link_to_itself(folder):
    with edit(folder / "model.h5") as file:
        file["tensors"]["again"] = h5py.SoftLink("/tensors/again")


@refused("model.h5", "external link")
def an_external_link(folder):
    with edit(folder / "model.h5") as file:
        file["tensors"]["passwd"] = h5py.ExternalLink("/etc/passwd", "/")


@refused("model.h5", "external storage")
def external_storage(folder):
    with edit(folder / "model.h5") as file:
        file["tensors"].create_dataset("x", (4,), "u1", external=[("/etc/passwd", 0, 4)])


@refused("model.h5", "virtual dataset")
def a_virtual_dataset(folder):
    with edit(folder / "model.h5") as file:
        layout = h5py.VirtualLayout((4,), "f4")
        layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4,))
        file["tensors"].create_virtual_dataset("x", layout)


@refused("model.h5", "deeper than 32")
def deep_groups(folder):
    with h5py.File(folder / "model.h5", "w") as file:
        file.create_group("/".join(["g"] * 2000))


@refused("model.h5", "attribute format", "16777217 bytes")
def a_huge_attribute(folder):
    with edit(folder / "model.h5") as file:
        file.attrs["format"] = numpy.bytes_(b"x" * ((16 << 20) + 1))


@refused("model.h5", "truncated")
def a_cut_file(folder):
    os.truncate(folder / "model.h5", 100_000)


@refused("model.h5", "chunks in a file of")
def a_dataset_of_an_exabyte(folder):
    with edit(folder / "model.h5") as file:
        file["tensors"].create_dataset("x", (2**30, 2**28), "f4", chunks=(1, 1))


@refused("model.h5", "was never written")
def a_dataset_without_data(folder):
    with edit(folder / "model.h5") as file:
        file["tensors"].create_dataset("x", (2**40,), "f4")


@refused("model.h5", "big-endian numbers of 4 bytes")
def big_endian_numbers(folder):
    with edit(folder / "model.h5") as file:
        file["tensors"].create_dataset("x", data=numpy.arange(3, dtype=">f4"))


def replace_numbers(folder, numbers):
    """A file of the same names whose numbers are `numbers(array)`."""
    with edit(folder / "model.h5") as file:
        arrays = {name: dataset[()].astype(numpy.float32) for name, dataset in file["tensors"].items()}
    with h5py.File(folder / "model.h5", "w") as file:
        for name, array in arrays.items():
            file[name] = numbers(array)


@refused(" in model.h5 and ", " more are U16, wanted floating point numbers")
def weights_of_integers(folder):
    replace_numbers(folder, lambda array: (array.view(numpy.uint32) >> 16).astype(numpy.uint16))


@refused(" in model.h5 and ", " more are C64, wanted floating point numbers")
def weights_of_complex_numbers(folder):
    replace_numbers(folder, lambda array: array.astype(numpy.complex64))


@refused("model.h5", "has a user block of 1024 bytes", "h5unjam")
def a_user_block(folder):
    with h5py.File(folder / "model.h5", "w", userblock_size=1024) as file:
        file["x"] = numpy.zeros(3, "f4")


@refused("model.h5", "holds texts")
def strings_of_any_length(folder):
    with edit(folder / "model.h5") as file:
        file["tensors"].create_dataset("x", data=["a", "b"], dtype=h5py.string_dtype())


@refused("committed type")
def a_committed_type(folder):
    with h5py.File(folder / "model.h5", "w") as file:
        file["t"] = numpy.dtype("f4")


@refused("model.h5", "tensors that the model does not have: more")
def a_tensor_too_many(folder):
    with edit(folder / "model.h5") as file:
        file["tensors"]["more"] = numpy.zeros(3, "f4")


@refused("model.h5", "missing 1 tensors")
def a_tensor_too_few(folder):
    with edit(folder / "model.h5") as file:
        del file["tensors"]["model.norm.weight"]


@refused("model.norm.weight", "shape", "wanted")
def a_tensor_of_another_shape(folder):
    with edit(folder / "model.h5") as file:
        del file["tensors"]["model.norm.weight"]
        file["tensors"]["model.norm.weight"] = numpy.zeros(3, "f4")


@refused("attribute training", "not a JSON object")
def training_state_that_is_no_object(folder):
    with edit(folder / "model.h5") as file:
        file.attrs["training"] = numpy.bytes_(b"[1")


@refused("format_version 2", "reads 1")
def a_later_version(folder):
    with edit(folder / "model.h5") as file:
        file.attrs["format_version"] = 2


@refused("2 HDF5 files")
def two_files(folder):
    (folder / "model.h5").rename(folder / "a.h5")
    shutil.copy(folder / "a.h5", folder / "b.hdf5")


@refused("has no config.json in it or beside it")
def no_config(folder):
    (folder / "config.json").unlink()
    with edit(folder / "model.h5") as file:
        del file["metadata"]


@refused("model.h5", "checksum")
def a_damaged_chunk(folder):
    with edit(folder / "model.h5") as file:
        name = "model.norm.weight"
        values = file["tensors"][name][()]
        del file["tensors"][name]
        dataset = file["tensors"].create_dataset(name, data=values, fletcher32=True)
        place = dataset.id.get_chunk_info(0).byte_offset
    with open(folder / "model.h5", "r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))


def check_refused(damage, wanted, source, reshard, folder):
    shutil.copytree(source, folder / "source")
    environment = damage(folder / "source") or {}
    command = [reshard.binary, "convert", folder / "source", folder / "target", "--to", "hf", "--from", "hdf5", "--quiet"]
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment})
    assert done.returncode == 3, f"exit {done.returncode}: {done.stderr}"
    assert ("\n" + done.stderr).count("\nreshard: ") == 1, done.stderr
    missing = [word for word in wanted if word not in done.stderr]
    assert not missing, f"message lacks {missing}: {done.stderr}"
    assert os.listdir(folder) == ["source"], os.listdir(folder)
    return time.monotonic() - start


def check_library(reshard, checks):
    """The program has the parallel library and no other flavour of it."""
    with checks.case("the library of MPI"):
        loaded = subprocess.run(["ldd", reshard.binary], capture_output=True, text=True, check=True).stdout
        assert "libhdf5_openmpi" in loaded and "libhdf5_serial" not in loaded, loaded


def main(binary, mpiexec, data, *words):
    reshard, checks = Reshard(binary, mpiexec), Checks()
    llama = pathlib.Path(data) / "huggingface" / "llama"

    def run(name, work, *arguments):
        with tempfile.TemporaryDirectory() as temporary, checks.case(name):
            work(*arguments, reshard, pathlib.Path(temporary))

    for number, case in enumerate(huggingface_cases(data, words or ("bloom", "deepseek_v3", "gpt2", "gpt_oss", "mixtral", "qwen3"))):
        run(case.name, lambda *a: check_case(*a, ranks=(2, 3, 4, 7)[number % 4]), case)
    for case in huggingface_cases(data, words or ("llama", "gpt2", "qwen3_moe")):
        run(f"{case.name} by megatron", check_megatron_between, case)
    if not words or "megatron" in words:
        check_library(reshard, checks)
        run("megatron's training state", check_training_state, megatron_cases(data, ("llama-gqa",))[0])
        run("at all ranks", check_at_all_ranks)
        run("config.json beside", check_config_beside, llama)
        run("a sample", check_sample)
    for name, make in FOREIGN if not words or "foreign" in words else []:
        run(f"of h5py: {name}", lambda *a: check_foreign(name, make, *a), llama)
    if not words or "refused" in words:
        with tempfile.TemporaryDirectory() as temporary:
            own = pathlib.Path(temporary) / "own"
            reshard.convert(llama / "hf", own, "--to", "hdf5")
            for name, damage, wanted in REFUSED:
                run(f"refused: {name}", lambda *a: check_refused(damage, wanted, own, *a))
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
