"""A container image without a registry: busybox, and an entrypoint that tells its host name to whoever connects."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shutil
import struct
import tarfile
from pathlib import Path

NAME = "docker.io/local/pod:1"
PORT = 80
"""Where a container of this image answers TCP, with its host name and a line feed."""
_APPLETS = ("hostname", "ip", "nc", "ping", "sh", "sleep", "wget")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_PT_INTERP = 3


def static_busybox() -> Path | None:
    """A busybox that needs no library, if this machine has one."""
    found = shutil.which("busybox")
    return Path(found) if found and not _is_dynamic(Path(found).read_bytes()) else None


def archive(busybox: Path) -> bytes:
    """The image, as `ctr image import` reads it."""
    layer = _tar({"bin/busybox": busybox.read_bytes()} | {f"bin/{each}": None for each in _APPLETS}, folders=["tmp"])
    config = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Entrypoint": ["/bin/nc", "-ll", "-p", str(PORT), "-e", "/bin/hostname"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"]}]
    texts = {"config.json": json.dumps(config).encode(), "manifest.json": json.dumps(manifest).encode()}
    return _tar({"layer.tar": layer} | texts)


def _tar(files: dict[str, bytes | None], folders: list[str] | None = None) -> bytes:
    """Files by name; None is a link to busybox."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name in folders or ():
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777
            tar.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size = 0o755, len(content or b"")
            if content is None:
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry, io.BytesIO(content or b""))
    return made.getvalue()


def _is_dynamic(elf: bytes) -> bool:
    """Whether a 64-bit little-endian ELF file names a dynamic linker; what is no such file does not count as static."""
    if elf[:6] != b"\x7fELF\x02\x01":
        return True
    (headers,) = struct.unpack_from("<Q", elf, 32)
    size, count = struct.unpack_from("<HH", elf, 54)
    return any(struct.unpack_from("<I", elf, headers + size * each)[0] == _PT_INTERP for each in range(count))
