"""The program loads libtorch_cpu and libc10 from one folder, the one it was built with.

With two libtorches on one machine, libtorch_cpu of one with libc10 of the other aborts at start.

usage: libtorch_test.py RESHARD FOLDER
"""

import pathlib
import re
import subprocess
import sys


def output_of(*command):
    """What a command prints; it must succeed."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main(binary, folder):
    faults = []
    wanted = pathlib.Path(folder).resolve()
    loaded = dict(re.findall(r"^\s*(\S+) => (\S+)", output_of("ldd", binary), re.MULTILINE))
    for stem in ("libtorch_cpu.so", "libc10.so"):
        places = [pathlib.Path(path) for name, path in loaded.items() if name.startswith(stem)]
        print(f"{stem}: {', '.join(map(str, places)) or 'not loaded'}")
        if [path.parent.resolve() for path in places] != [wanted]:
            faults.append(f"{stem} comes from {[str(path) for path in places]}, wanted one in {wanted}")
    paths = re.findall(r"\((?:RUNPATH|RPATH)\).*\[(.*)\]", output_of("readelf", "-d", binary))
    print(f"run path: {paths}")
    first = paths[0].split(":")[0] if paths else None
    if first is None or pathlib.Path(first).resolve() != wanted:
        faults.append(f"the run path begins with {first}, wanted {wanted}")
    print(output_of(binary, "--version").strip())
    print(*faults, sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
