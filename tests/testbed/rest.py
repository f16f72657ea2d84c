"""How a profile of the adapter says that the bed's cluster is reached by slurmrestd."""

from pathlib import Path

from testbed.bed import Testbed


def rest_settings(bed: Testbed, directory: Path) -> dict[str, object]:
    """Pods of the namespaces alice and bob are these users, those of others alice. directory: for token files."""
    users = {}
    for name in ("alice", "bob"):
        person, file = bed.cluster.user(name), directory / f"{name}.token"
        file.touch(mode=0o600)
        file.write_text(bed.cluster.token(name))
        users[name] = {"user": name, "token_file": str(file), "uid": person.uid, "gid": person.uid}
    return {
        "rest_url": bed.cluster.rest_url,
        "rest_unencrypted": True,
        "shared_directory": str(bed.cluster.user("alice").home.parent / "{user}"),
        "shared_directory_in_cluster": "/home/{user}",
        **users["alice"],
        "users": users,
        "pod_prerun": True,
    }
