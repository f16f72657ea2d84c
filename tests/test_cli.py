"""The command line."""

import pytest

from multicri_proxy.cli import main

COMMANDS = ("serve", "dump", "dump show", "replay", "jobs", "check")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--help"])
    assert ended.value.code == 0
    assert f"multicri-proxy {command}" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert f"  {command.split(maxsplit=1)[0]} " in capsys.readouterr().out
