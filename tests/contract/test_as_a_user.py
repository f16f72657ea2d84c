"""The same as an ordinary user: a process of its own, since this one is root."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from contract.adapters import NODE

pytestmark = [pytest.mark.testbed, pytest.mark.timeout(600)]


def test_the_contract_holds_for_an_ordinary_users_adapter(node: dict[str, str]) -> None:
    home = Path(node["certificate"]).with_name("user")
    home.mkdir()
    shutil.chown(home, "nobody")
    become = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]
    tests = Path(__file__).with_name("test_contract.py")
    options = ["-q", "-p", "no:cacheprovider", f"--basetemp={home / 'tmp'}"]
    facts = json.dumps(node | {"directory": str(home / "adapter")})
    done = subprocess.run(
        [*become, sys.executable, "-B", "-m", "pytest", *options, str(tests)],
        cwd=tests.parent.parent.parent,
        env=os.environ | {NODE: facts, "HOME": str(home), "TMPDIR": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
