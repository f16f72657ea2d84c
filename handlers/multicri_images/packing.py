"""Makes a squashfs file of the directory that Charliecloud made of an image, for Apptainer and ch-run alike.

Apptainer applies what an image says of its environment, and the variables that a container is given, from scripts in
the image; those that it writes into its own files are missing here. It wants some directories to mount to.

Source: Apptainer 1.4's action script, as it was seen: it reads ``/.singularity.d/env/*.sh`` in turn, and with
``99-base.sh`` the variables of ``--env-file``.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

DIRECTORIES = ("dev", "etc", "home", "proc", "root", "sys", "tmp", "var/tmp", ".singularity.d/env")
LARGEST_CONFIG_BYTES = 1024 * 1024
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


def pack(image: Path, target: Path) -> None:
    """Beside the target comes ``config.json``, the image's own configuration."""
    config = _config(image)
    env = config.get("Env")
    for path in DIRECTORIES:
        _make(image, path)
    _write(
        image,
        "10-docker2singularity.sh",
        environment_script([word for word in env if isinstance(word, str)] if isinstance(env, list) else []),
    )
    _write(image, "99-base.sh", b"#!/bin/sh\n")
    target.with_name("config.json").write_text(json.dumps({"config": config}))
    options = ("-noappend", "-all-root", "-no-xattrs", "-no-progress", "-quiet")
    subprocess.run(["mksquashfs", str(image), str(target), *options], check=True)  # noqa: S607


def environment_script(variables: list[str]) -> bytes:
    """What sets an image's variables, those that are set already but PATH left alone: as Apptainer's own do."""
    lines = ["#!/bin/sh"]
    for variable in variables:
        name, _, value = variable.partition("=")
        if not _NAME.fullmatch(name) or name == "HOME" or "\0" in value:
            continue
        unless = "" if name == "PATH" else f'[ -n "${{{name}+x}}" ] || '
        lines.append(f"{unless}export {name}={shlex.quote(value)}")
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")


def _config(image: Path) -> dict[str, object]:
    """As ch-image keeps it; its file is no link, being made last."""
    path = image / "ch" / "config.pulled.json"
    if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST_CONFIG_BYTES:
        return {}
    whole = json.loads(path.read_bytes())
    config = whole.get("config") if isinstance(whole, dict) else None
    return config if isinstance(config, dict) else {}


def _make(image: Path, path: str) -> None:
    """A directory of the image, unless something else is in its place: no link is followed."""
    at = os.open(image, _DIRECTORY)
    try:
        for part in path.split("/"):
            with suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=at)
            try:
                inner = os.open(part, _DIRECTORY, dir_fd=at)
            except OSError:
                return
            os.close(at)
            at = inner
    finally:
        os.close(at)


def _write(image: Path, name: str, content: bytes) -> None:
    at = os.open(image, _DIRECTORY)
    for part in (".singularity.d", "env"):
        inner = os.open(part, _DIRECTORY, dir_fd=at)
        os.close(at)
        at = inner
    with os.fdopen(os.open(name, _WRITE, 0o755, dir_fd=at), "wb") as file:
        file.write(content)
    os.close(at)


if __name__ == "__main__":
    pack(Path(sys.argv[1]), Path(sys.argv[2]))
