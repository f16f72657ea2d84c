"""Files in a cluster over SFTP. Errors of SFTP come through as they are: cluster.py says what they mean."""

from __future__ import annotations

import os
import stat

from multicri_slurm.sshlib import asyncssh


class SftpFiles:
    """Files over one SFTP client."""

    def __init__(self, sftp: asyncssh.SFTPClient) -> None:
        self._sftp = sftp

    async def mode_of(self, path: str) -> int | None:
        try:
            return (await self._sftp.lstat(path)).permissions or 0
        except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
            return None

    async def is_directory(self, path: str) -> bool:
        return await self._sftp.isdir(path)

    async def link_target(self, path: str) -> str:
        return str(await self._sftp.readlink(path))

    async def make_directory(self, path: bytes, mode: int) -> None:
        await self._sftp.mkdir(path, asyncssh.SFTPAttrs(permissions=mode))

    async def make_directories(self, path: str) -> None:
        await self._sftp.makedirs(path, exist_ok=True)

    async def make_mount_point(self, path: str, *, directory: bool) -> None:
        try:
            if directory:
                await self._sftp.mkdir(path)
            else:
                async with self._sftp.open(path, "xb"):
                    pass
        except asyncssh.SFTPFailure:  # which is all that is said of a thing that is there
            if await self.mode_of(path) is None:
                raise

    async def write(self, path: bytes, content: bytes, mode: int) -> None:
        async with self._sftp.open(path, "wb", asyncssh.SFTPAttrs(permissions=mode)) as file:
            await file.write(content)

    async def write_piece(self, path: bytes, offset: int, content: bytes) -> None:
        async with self._sftp.open(path, asyncssh.FXF_WRITE | asyncssh.FXF_CREAT, encoding=None) as file:
            await file.write(content, offset)

    async def make_link(self, target: bytes, path: bytes) -> None:
        await self._sftp.symlink(target, path)

    async def rename(self, path: bytes, new: bytes) -> None:
        await self._sftp.posix_rename(path, new)

    async def remove_file(self, path: bytes) -> None:
        if await self._sftp.lexists(path):
            await self._sftp.remove(path)

    async def entries(self, directory: bytes) -> dict[bytes, int]:
        listed = await self._sftp.readdir(directory)
        return {os.fsencode(entry.filename): entry.attrs.permissions or stat.S_IFREG for entry in listed}
