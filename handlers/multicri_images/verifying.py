"""Runs cosign, with credentials in a file that is gone afterwards: a program of its own."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from multicri_images.building import PASSED_ON, PATH
from multicri_proxy.api.children import end_with_who_asks

LONGEST_OUTPUT = 4096


def verify(words: list[str], docker_config: str, ca_file: str, timeout_s: float) -> dict[str, Any]:
    """The exit status, and the end of what was said."""
    path = os.pathsep.join(filter(None, (os.environ.get("PATH", ""), PATH)))
    program = shutil.which(words[0], path=path)
    if program is None:
        return {"status": -1, "words": f"{words[0]} is not on this node: install it, or set images.signatures: off"}
    with TemporaryDirectory(prefix="multicri-cosign-") as home:
        if docker_config:
            config = Path(home) / "config.json"
            config.touch(mode=0o600)
            config.write_text(docker_config)
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        environment |= {"PATH": path, "HOME": home, "DOCKER_CONFIG": home}
        if ca_file:
            environment["SSL_CERT_FILE"] = ca_file
        try:
            done = subprocess.run(
                [program, *words[1:]],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"status": -1, "words": f"{words[0]} did not end within {timeout_s:g} s"}
        said = done.stderr[-LONGEST_OUTPUT:].decode("utf-8", "replace")
        return {"status": done.returncode, "words": " / ".join(said.split("\n")).strip(" /")}


def main(question: IO[bytes], answer: IO[str]) -> None:
    """The program."""
    asked = json.loads(question.readline())
    threading.Thread(target=end_with_who_asks, args=(question,), daemon=True).start()
    answer.write(json.dumps(verify(**asked)) + "\n")


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout)
