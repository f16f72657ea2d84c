"""Calls of containerd's own API, on the same socket: none of them is CRI, so the proxy knows neither shape nor owner.

They show what CRI's methods cannot: metadata that the runtime insists on, and streams that it really gives.
Source: containerd's api/services, version 1.6.
"""

from testbed import Testbed

from differential.calls import Metadata, Sent

NAMESPACE: Metadata = (("containerd-namespace", "k8s.io"),)

EVENTS = "/containerd.services.events.v1.Events/Subscribe"


def text_field(number: int, text: str) -> bytes:
    """A string in protobuf's wire format; both numbers are small enough for one byte each."""
    data = text.encode()
    return bytes([number << 3 | 2, len(data)]) + data


def read_blob(digest: str, metadata: Metadata = NAMESPACE) -> Sent:
    """Content.Read: a stream of the blob's pieces."""
    return Sent(path="/containerd.services.content.v1.Content/Read", request=text_field(1, digest), metadata=metadata)


def native_calls(image: str, digest: str) -> list[Sent]:
    """image, digest: of an image and of a blob that are there."""
    leases, images = "/containerd.services.leases.v1.Leases/List", "/containerd.services.images.v1.Images/Get"
    return [
        Sent(path="/containerd.services.namespaces.v1.Namespaces/List"),
        Sent(path=leases, metadata=NAMESPACE),
        Sent(path=leases),  # a namespace is required
        Sent(path=leases, metadata=(("containerd-namespace", "%/"),)),
        Sent(path="/grpc.health.v1.Health/Check"),
        Sent(path="/grpc.health.v1.Health/Check", request=text_field(1, "näh")),
        Sent(path="/containerd.services.version.v1.Version/Version"),
        Sent(path=images, request=text_field(1, image), metadata=NAMESPACE),
        Sent(path=images, request=text_field(1, "none"), metadata=NAMESPACE),
        read_blob(digest),
        read_blob(digest, metadata=()),
        read_blob("sha256:" + "0" * 64),
        read_blob("no digest"),
    ]


def blobs(bed: Testbed) -> list[str]:
    """The digests of all blobs that containerd has."""
    return [line.split()[0] for line in bed.node.ctr("-n", "k8s.io", "content", "ls").stdout.splitlines()[1:]]
