"""What an image that ch-image made says of itself, in ``/ch/config.pulled.json``."""

import json

from multicri_charliecloud import inside
from multicri_proxy.api.errors import FailedPrecondition
from multicri_proxy.api.image import ImageConfig

LARGEST_BYTES = 1024 * 1024


def read_image_config(image: str) -> ImageConfig:
    """image: its directory. Raises FailedPrecondition if it cannot be understood."""
    text = inside.read(image, "/ch/config.pulled.json", LARGEST_BYTES)
    return config_of(text or b"{}")


def stop_signal_in(image: str) -> str:
    """What the image wants to be asked to end by; empty if it does not say."""
    try:
        whole = json.loads(inside.read(image, "/ch/config.pulled.json", LARGEST_BYTES) or b"{}")
        return _word((whole.get("config", whole) or {}).get("StopSignal"))
    except (ValueError, TypeError, AttributeError) as error:
        raise FailedPrecondition(f"the image's configuration cannot be read: {error}") from error


def config_of(text: bytes) -> ImageConfig:
    """text: an OCI image's configuration, or the part of it that says how to run it."""
    try:
        whole = json.loads(text)
        config = whole.get("config", whole) or {}
        return ImageConfig(
            entrypoint=_words(config.get("Entrypoint")),
            cmd=_words(config.get("Cmd")),
            env=_words(config.get("Env")),
            working_dir=_word(config.get("WorkingDir")),
            user=_word(config.get("User")),
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise FailedPrecondition(f"the image's configuration cannot be read: {error}") from error


def _words(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise TypeError("an entrypoint, a command or an environment is no list")
    return tuple(_word(word) for word in value)


def _word(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or "\0" in value:
        raise TypeError("a word of it is no text")
    return value
