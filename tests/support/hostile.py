"""Checkpoints that a stranger made to break their reader: the files, by format, and where each of them would lie.

usage: hostile.py FOLDER      writes the small ones, which the repository keeps in tests/data/hostile
"""

import dataclasses
import io
import pathlib
import re
import sys
import zipfile

SMALL = 20_000  # bytes of a file that the repository keeps; larger ones are made when a test runs
CASES = []


@dataclasses.dataclass
class Hostile:
    """One file: its format and name, its bytes, and what reshard may do with it.

    shown: inspect, which shows a harmless file of no format that it knows, may end with 0
    words: what the message of the refusal has to contain, besides the file's name"""

    kind: str
    name: str
    make: callable
    shown: bool = False
    words: tuple = ()

    @property
    def large(self):
        """Whether it is made when a test runs, by a process of its own."""
        return self.name.startswith("large ")

    def __str__(self):
        return f"{self.kind}/{self.name}"


def hostile(kind, name, content, *words, shown=False):
    """Registers a file by its bytes, or by a function that makes large ones."""
    CASES.append(Hostile(kind, name, content if callable(content) else lambda: content, shown, words))


def cases(kind):
    """All of one kind, in the order of their registration."""
    import hostile_archives, hostile_json, hostile_metadata, hostile_pickles, hostile_safetensors  # noqa: E401, F401  they register themselves

    found = [case for case in sys.modules["hostile"].CASES if case.kind == kind]
    assert len({case.name for case in found}) == len(found), f"two of the same name among {kind}"
    return found


KINDS = {"pickle": "pkl", "zip": "zip", "legacy": "legacy", "safetensors": "safetensors", "json": "json", "index": "json", "tracker": "txt", "metadata": "metadata"}


def small_files():
    """(path below tests/data/hostile, bytes) of what the repository keeps."""
    for kind, ending in KINDS.items():
        for case in cases(kind):
            content = b"" if case.large else case.make()
            if not case.large and len(content) <= SMALL:
                yield pathlib.PurePath(kind, f"{re.sub('[^a-z0-9]+', '-', case.name)}.{ending}"), content


def archive(pickle, top="archive", records=()):
    """A file of torch.save's newer kind around a pickle."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as file:
        for name, content in [("data.pkl", pickle), ("byteorder", b"little"), *records, ("version", b"3\n")]:
            file.writestr(zipfile.ZipInfo(f"{top}/{name}", (1980, 1, 1, 0, 0, 0)), content)
    return out.getvalue()


LEGACY_BEGIN = (
    b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03."
    b"\x80\x02}(X\x10\0\0\0protocol_versionM\xe9\x03X\r\0\0\0little_endian\x88X\n\0\0\0type_sizes}(X\x05\0\0\0shortK\x02X\x03\0\0\0intK\x04X\x04\0\0\0longK\x04uu."
)


def legacy(pickle, keys=b"\x80\x02]."):
    """A file of torch.save's older kind around a pickle without tensors."""
    return LEGACY_BEGIN + pickle + keys


def main(folder):
    count = 0
    for path, content in small_files():
        (pathlib.Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
        (pathlib.Path(folder) / path).write_bytes(content)
        count += 1
    print(f"{count} files in {folder}")


if __name__ == "__main__":
    sys.modules["hostile"] = sys.modules["__main__"]
    main(*sys.argv[1:])
