"""The system user that a server runs as where the stack is started by root, and the way to its files."""

import errno
import os
import pwd
import struct
import subprocess
from pathlib import Path

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from fracture_ml.core.errors import StackError

# The binary form of a POSIX access control list (linux/posix_acl_xattr.h): version, then (tag, permissions, id) each.
_ACL = "system.posix_acl_access"
_OWNER, _USER, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
_NO_ID = 0xFFFFFFFF


def ensure_system_user(name: str) -> None:
    """Create the user, without a home or a login, where there is none. Raises: StackError."""
    try:
        # Another stack may hold the list of users, or create the same one meanwhile.
        for attempt in Retrying(
            retry=retry_if_exception_type(subprocess.CalledProcessError),
            wait=wait_fixed(0.2),
            stop=stop_after_delay(5),
            reraise=True,
        ):
            with attempt:
                if not _is_known(name):
                    subprocess.run(_creating(name), check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        raise StackError(
            f"Postgres does not run as root and the system user {name!r} cannot be created: "
            f"run `{' '.join(_creating(name))}`, or start as a normal user."
        ) from None


def _is_known(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _creating(name: str) -> list[str]:
    return ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", name]


def let_pass(user: str, path: Path) -> None:
    """Let one user, and nobody else, pass through the folders above `path`: an access control entry `user:x`.

    Folders that everybody may pass through are left as they are. Raises: StackError.
    """
    uid = pwd.getpwnam(user).pw_uid
    for folder in path.resolve().parents:
        mode = folder.stat().st_mode
        if mode & 0o001 or folder.stat().st_uid == uid:
            continue
        try:
            _grant_search(folder, uid)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.EROFS):
                raise
            raise StackError(
                f"Postgres runs as the user {user!r}, who cannot pass through {folder}: run `chmod o+x {folder}`, "
                "put the repository elsewhere, or start as a normal user."
            ) from None


def _grant_search(folder: Path, uid: int) -> None:
    mode = folder.stat().st_mode
    try:
        stored = os.getxattr(folder, _ACL)[4:]
        entries = {(tag, entry_id): bits for tag, bits, entry_id in struct.iter_unpack("<HHI", stored)}
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
        owner, group, other = mode >> 6 & 7, mode >> 3 & 7, mode & 7
        entries = {(_OWNER, _NO_ID): owner, (_GROUP, _NO_ID): group, (_OTHER, _NO_ID): other}
    entries[_USER, uid] = entries.get((_USER, uid), 0) | 1
    entries[_MASK, _NO_ID] = entries.get((_MASK, _NO_ID), entries[_GROUP, _NO_ID]) | 1
    packed = b"".join(struct.pack("<HHI", tag, bits, entry_id) for (tag, entry_id), bits in sorted(entries.items()))
    os.setxattr(folder, _ACL, struct.pack("<I", 2) + packed)
