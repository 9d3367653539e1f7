"""Makes the starting corpus of one fuzz target from tests/data.

usage: fuzz_corpus.py TARGET DATA FOLDER
TARGET says what the parser reads: its name contains safetensors, pickle, torch (a whole file), dcp (.metadata) or anything else (JSON).
"""

import pathlib
import sys
import zipfile

# Longer inputs make every run slow and find nothing more.
LARGEST = 100_000


def safetensors_inputs(data):
    """Whole small files, and the headers of all."""
    for path in data.rglob("*.safetensors"):
        content = path.read_bytes()
        yield content if len(content) <= LARGEST else content[: 8 + int.from_bytes(content[:8], "little")]


def torch_inputs(data):
    """Whole files that are small enough."""
    for path in data.rglob("*.pt"):
        if path.stat().st_size <= LARGEST:
            yield path.read_bytes()


def pickle_inputs(data):
    """The pickle in each torch file."""
    for path in data.rglob("*.pt"):
        if not zipfile.is_zipfile(path):
            continue
        with zipfile.ZipFile(path) as archive:
            yield from (archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl"))


def metadata_inputs(data):
    """Every .metadata of a distributed checkpoint that is small enough."""
    yield from (path.read_bytes() for path in data.rglob(".metadata") if path.stat().st_size <= LARGEST)


def json_inputs(data):
    """Every JSON file."""
    yield from (path.read_bytes() for path in data.rglob("*.json"))


def main(target, data, folder):
    kinds = {"safetensors": safetensors_inputs, "pickle": pickle_inputs, "torch": torch_inputs, "zip": torch_inputs,
             "dcp": metadata_inputs}  # fmt: skip
    inputs = next((make for kind, make in kinds.items() if kind in target), json_inputs)
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for count, content in enumerate(inputs(pathlib.Path(data)), 1):
        (folder / f"seed-{count:04}").write_bytes(content)
    print(f"{count} inputs in {folder}")
    return 0 if count else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
