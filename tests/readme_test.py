"""What the README says exists: its links, the steps of ./dev, the commands and flags of the program, the exit codes.

usage: readme_test.py REPOSITORY RESHARD
"""

import pathlib
import re
import subprocess
import sys


def help_of(binary, *command):
    """The help text of a command of the program."""
    return subprocess.run([binary, *command, "--help"], capture_output=True, text=True, check=True).stdout


def faults_in(root, binary, readme):
    """Each thing that the README names and that does not exist."""
    dev = (root / "dev").read_text()
    for link in re.findall(r"\]\(([^)#:]+)\)", readme):
        if not (root / link).exists():
            yield f"link to {link}: no such file"
    for step in set(re.findall(r"\./dev ([a-z]+)", readme)):
        if not re.search(rf"^\s*{step}\)", dev, re.MULTILINE):
            yield f"./dev {step}: no such step"
    known = help_of(binary)
    for command in set(re.findall(r"\breshard ([a-z]+) ", "\n".join(re.findall(r"^ {4}.*", readme, re.MULTILINE)))):
        if not re.search(rf"^\s*{command}\b", known, re.MULTILINE):
            yield f"reshard {command}: no such command"
    older = set(re.findall(r'Alias\{"(--\w+)"', (root / "src/app/aliases.cpp").read_text()))
    for line in re.findall(r"^ {4}.*\breshard [a-z]+ .*", readme, re.MULTILINE):
        command = re.search(r"\breshard ([a-z]+) ", line).group(1)
        for flag in re.findall(r" (--[a-z_-]+)", line.split("reshard ", 1)[1]):
            if flag not in older and flag not in help_of(binary, command):
                yield f"reshard {command} {flag}: no such flag"
    header = (root / "src/core/error.hpp").read_text()
    codes = set(re.findall(r"^  \w+ = (\d+),", header, re.MULTILINE)) | {"0"}
    told = set(re.findall(r"^\| (\d+) \|", readme, re.MULTILINE))
    if codes != told:
        yield f"exit codes in the README are {sorted(told)}, in error.hpp {sorted(codes)}"


def main(repository, binary):
    root = pathlib.Path(repository)
    faults = list(faults_in(root, binary, (root / "README.md").read_text()))
    print(f"{len(faults)} faults", *faults, sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
