"""Which messages a method takes and gives, as far as we know CRI."""

from dataclasses import dataclass

from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from multicri_proxy.cri.v1 import runtime_pb2 as cri


@dataclass(frozen=True, slots=True, kw_only=True)
class Types:
    """A method's messages."""

    request: type[Message]
    reply: type[Message]


_TYPES = {
    f"/{service.full_name}/{method.name}": Types(
        request=GetMessageClass(method.input_type), reply=GetMessageClass(method.output_type)
    )
    for service in cri.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


def types_of(path: str) -> Types | None:
    """None if the method is not CRI's. v1alpha2 has v1's wire form."""
    return _TYPES.get(path.replace("/runtime.v1alpha2.", "/runtime.v1.", 1))


def decoded(kind: type[Message], data: bytes) -> Message | None:
    """None if the bytes are no such message."""
    try:
        return kind.FromString(data)
    except DecodeError:
        return None
