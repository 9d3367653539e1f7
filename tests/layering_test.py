"""The rules between folders (DESIGN section 3) that linking alone does not catch.

usage: layering_test.py REPOSITORY
"""

import pathlib
import re
import sys

# A folder includes only itself and what stands to its left; aten, a module of its own that is
# loaded at run time, takes its one function's type from core.
ORDER = ("core", "families", "formats", "logs", "mpi", "submit", "app")
MODULE = "aten"
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"", re.DOTALL)
# A parallel HDF5's header brings mpi.h along.
HDF5 = ("hdf5.h", "formats/container/hdf5_library.hpp", "formats/container/hdf5_dataset.hpp",
        "formats/container/hdf5_writer.hpp")
LIBTORCH = ("ATen/", "torch/", "c10/", "caffe2/")
# Beyond the habit of about 400 lines a file is named; beyond this it fails.
LONG, TOO_LONG = 400, 600


def lines_of(root, folders):
    """Every C++ file below the folders: its path relative to root and its text."""
    for folder in folders:
        for path in sorted((root / folder).rglob("*.[hc]pp")):
            yield path.relative_to(root), path.read_text()


def faults_of_source(path, text):
    """What a file below src/ includes or calls against the rules."""
    folder = path.parts[1]
    code = COMMENT.sub("", text)
    if folder == MODULE:
        for name in INCLUDE.findall(text):
            if name.split("/")[0] in ORDER and name != "core/cast_module.hpp":
                yield f"{path}: includes {name}"
        return
    if folder not in ORDER:
        yield f"{path}: folder {folder} is not one of {', '.join(ORDER)}"
        return
    for name in INCLUDE.findall(text):
        top = name.split("/")[0]
        if top in ORDER and ORDER.index(top) > ORDER.index(folder):
            yield f"{path}: includes {name}, but {folder} stands to the left of {top}"
        if name == "mpi.h" and folder != "mpi":
            yield f"{path}: includes mpi.h outside src/mpi"
        if name in HDF5 and not path.name.startswith("hdf5_"):
            yield f"{path}: includes {name} outside hdf5_* files"
        if name.startswith(LIBTORCH):
            yield f"{path}: includes {name} outside src/{MODULE}"
        if name.startswith(".."):
            yield f"{path}: includes {name}; paths begin at src/"
    if path.name == "main.cpp":  # the one place that names the world
        code = code.replace("MPI_COMM_WORLD", "")
    if folder != "mpi" and (call := re.search(r"\bMPI_\w+", code)):
        yield f"{path}: {call.group()} outside src/mpi"
    if path.suffix == ".hpp" and "#pragma once" not in text:
        yield f"{path}: has no #pragma once"


def faults_of_test(path, text):
    """Tests use MPI only where mpiexec starts them."""
    if path.parts[1] in ("unit", "fuzz") and re.search(r"\bMPI_\w+", COMMENT.sub("", text)):
        yield f"{path}: MPI in a test that runs in one process"


def main(repository):
    root = pathlib.Path(repository)
    sources, tests = list(lines_of(root, ["src"])), list(lines_of(root, ["tests"]))
    faults = [fault for path, text in sources for fault in faults_of_source(path, text)]
    faults += [fault for path, text in tests for fault in faults_of_test(path, text)]
    for path, text in sources + tests:
        length = text.count("\n")
        if length > LONG:
            print(f"long: {path}: {length} lines")
        if length > TOO_LONG:
            faults.append(f"{path}: {length} lines, at most {TOO_LONG}")
    print(f"{len(sources)} sources, {len(tests)} tests, {len(faults)} faults", *faults, sep="\n")
    return 0 if sources and not faults else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
