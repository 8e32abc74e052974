"""Whose the node's folder is: what root writes there, the user of the service cannot read."""

from __future__ import annotations

import os

from med_transfer.errors import UsageError
from med_transfer.hospital.config import NodeConfig


def require_not_root_for_another(node: NodeConfig) -> None:
    """Refuse to work as root in a folder that belongs to another user, who could not read the new files.

    Raises:
        UsageError: root runs this, and the folder is another user's.
    """
    place = next((path for path in (node.queue_file, node.folder) if path.exists()), None)
    if place is None or os.name != "posix" or os.geteuid() != 0 or place.stat().st_uid == 0:
        return
    user = _user_name(place.stat().st_uid)
    raise UsageError(
        f"belongs to the user {user}, who could not read what root writes",
        where=node.folder,
        expected="the command run by that user",
        action=f"Put before it: sudo -u {user}",
    )


def _user_name(number: int) -> str:
    import pwd  # not on Windows

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # a user of a container, whom this machine does not know
        return f"#{number}"
