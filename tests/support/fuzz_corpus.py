"""Makes the starting corpus of one fuzz target from tests/data, what is hostile there too.

usage: fuzz_corpus.py TARGET DATA FOLDER
"""

import json
import pathlib
import struct
import sys
import zipfile

# Longer inputs make every run slow and find nothing more.
LARGEST = 100_000


def contents(data, *endings):
    """Files that are small enough."""
    for ending in endings:
        for path in sorted(data.rglob(f"*.{ending}")):
            if path.stat().st_size <= LARGEST:
                yield path.read_bytes()


def safetensors_inputs(data):
    """Whole small files, and the headers of all."""
    for path in data.rglob("*.safetensors"):
        content = path.read_bytes()
        yield content if len(content) <= LARGEST else content[: 8 + int.from_bytes(content[:8], "little")]


def torch_inputs(data):
    """Whole files of both kinds."""
    yield from contents(data, "pt", "zip", "legacy")


def pickle_of(path):
    """The pickle in a zip archive of torch, or nothing."""
    if not zipfile.is_zipfile(path):
        return b""
    with zipfile.ZipFile(path) as archive:
        return b"".join(archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl"))


def pickle_inputs(data):
    """The pickle in each torch file, and hostile ones."""
    yield from (pickle for path in data.rglob("*.pt") if (pickle := pickle_of(path)))
    yield from contents(data, "pkl")


def legacy_inputs(data):
    """What follows the three pickles of a stream's header."""
    for content in [*contents(data, "legacy"), (data / "torch" / "legacy.pt").read_bytes()]:
        begin = content.find(b"\x80\x02", content.find(b"type_sizes"))
        if begin > 0:
            yield content[begin:]


def layout_inputs(data):
    """Every pattern, with sizes and a block before it."""
    for number, case in enumerate(json.loads((data / "layouts" / "oracle.json").read_text())):
        yield bytes([number % 7, 3, number % 5, number % 2]) + case["layout"].encode()


def journal_inputs(data):
    """Records of two ranks, as the first bytes of CBOR."""
    for tiles in (b"\x80", b"\x81\x03", b"\x82\x01\x18\x09"):
        record = b"\xa4\x65tiles" + tiles + b"\x64read\x83\x01\x18\xff\x02\x67arrived\x80\x64crcs\x82\x02\x1a\x01\x02\x03\x04"
        yield record * 2
        yield record.ljust(128, b"\0") + b"!" + record


def hdf5_inputs(data):
    """Every HDF5 file."""
    yield from (path.read_bytes() for path in data.rglob("*.h5"))


def metadata_inputs(data):
    """Every .metadata of a distributed checkpoint that is small enough."""
    yield from (path.read_bytes() for path in data.rglob(".metadata") if path.stat().st_size <= LARGEST)


def json_inputs(data):
    """Every JSON file."""
    yield from contents(data, "json")


def folder_inputs(data):
    """The small files of whole checkpoints: see fuzz_folder.cpp."""
    frameworks = [
        ("huggingface/*/hf", ["config.json", "*.index.json", "model-00001*.safetensors", "model-00002*.safetensors"]),
        ("huggingface/*/hf", ["config.json", "pytorch_model.bin"]),
        ("megatron/*/torch-*", ["latest_*.txt", "*/mp_rank_00*/*rng.pt", "*/mp_rank_01*/*rng.pt", "*/hf_config/config.json"]),
        ("deepspeed/*/*", ["latest", "*/mp_rank_00*.pt", "*/layer_01*.pt", "*/hf_config/config.json"]),
        ("merak/*/*", ["latest_*.txt", "*/*/partial_model_optim.pt", "*/hf_config/config.json"]),
    ]
    for number, (where, names) in enumerate(frameworks):
        for root in sorted(path for path in data.glob(where) if path.is_dir()):
            yield bytes([number]) + b"".join(part_of(root, name) for name in names)


def part_of(root, name):
    """One file of a checkpoint with its length: of torch's the pickle, of safetensors' the header."""
    path = next(iter(sorted(root.glob(name))), None)
    content = path.read_bytes() if path else b""
    if name.endswith(".pt"):
        content = pickle_of(path) if path else b""
    elif name.endswith(".safetensors"):
        content = content[8 : 8 + int.from_bytes(content[:8], "little")]
    elif "latest" in name:
        content = b"global_step3" if name == "latest" else b"3"
    return struct.pack("<I", len(content)) + content


def log_inputs(data):
    """Parts of every training log, with frames, checkpoint lines and ends."""
    for path in sorted(data.rglob("*.out")):
        lines = path.read_bytes().splitlines(keepends=True)
        told = [i for i, line in enumerate(lines) if b"checkpoint" in line or b"arguments ---" in line or b"CMD" in line]
        yield from (b"".join(lines[max(0, i - 2) : i + 3]) for i in told)
        yield b"".join(lines[i] for i in told)


INPUTS = {
    "fuzz_dcp": metadata_inputs,
    "fuzz_expression": json_inputs,
    "fuzz_folder": folder_inputs,
    "fuzz_hdf5": hdf5_inputs,
    "fuzz_journal": journal_inputs,
    "fuzz_json": json_inputs,
    "fuzz_layout": layout_inputs,
    "fuzz_pickle": pickle_inputs,
    "fuzz_safetensors": safetensors_inputs,
    "fuzz_torch_file": torch_inputs,
    "fuzz_torch_legacy": legacy_inputs,
    "fuzz_training_log": log_inputs,
    "fuzz_zip": torch_inputs,
}


def main(target, data, folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for content in INPUTS[target](pathlib.Path(data)):
        count += 1
        (folder / f"seed-{count:04}").write_bytes(content)
    print(f"{count} inputs in {folder}")
    return 0 if count else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
