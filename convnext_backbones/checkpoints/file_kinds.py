"""How files begin: what one is shows in its first bytes, not in its name."""

LONGEST_BEGINNING = 512  # bytes that kind_of_file looks at
MOST_NAMES = 20_000  # of tensors in a file; V2-H in a detector, with its optimizer's state and EMA, has 3,000

# The first bytes, in small letters and after spaces.
_BEGINNINGS = (
    (b"pk\x03\x04", "zip"),  # what torch.save writes since 1.6
    (b"pk\x05\x06", "zip"),
    (b"<", "web page"),
    (b"{", "JSON"),
    (b"version https://git-lfs", "git-LFS pointer"),
    (b"\x1f\x8b", "gzip"),
    (b"bzh", "bzip2"),
    (b"\xfd7zxz", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"7z\xbc\xaf", "7z"),
    (b"\x93numpy", "numpy"),
    (b"\x89hdf", "HDF5"),
)


def kind_of_file(start: bytes) -> str:
    """Of a file's first LONGEST_BEGINNING bytes; "other" may be a pickle, "" is an empty file.

    One of "zip", "safetensors", "web page", "JSON", "git-LFS pointer", "gzip", "bzip2", "xz", "zstd",
    "7z", "tar", "numpy", "HDF5".
    """
    if not start:
        return ""
    if start[5:9] == b"\0\0\0{":  # below 16 MiB, the length of safetensors' JSON
        return "safetensors"
    text = start.lstrip().lower()
    for beginning, kind in _BEGINNINGS:
        if text.startswith(beginning):
            return kind
    return "tar" if start[257:262] == b"ustar" else "other"
