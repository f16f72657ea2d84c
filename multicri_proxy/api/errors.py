"""The project's own errors, one for each thing that a caller can do about it.

``multicri_proxy.local`` is the one place that turns them into gRPC status codes.
"""


class MulticriError(Exception):
    """Anything that we refuse or cannot do, said so that its reader can act on it."""


class InvalidArgument(MulticriError):
    """What was asked for is wrong: names the field and the form that it wants."""


class NotFound(MulticriError):
    """No such sandbox, container or image."""


class AlreadyExists(MulticriError):
    """Another sandbox or container has this name."""


class FailedPrecondition(MulticriError):
    """Right in itself, but not in the state that the object is in."""


class PermissionDenied(MulticriError):
    """The cluster, or the admin's settings, refuse this account or host."""


class ResourceExhausted(MulticriError):
    """A limit is reached: size, count, quota."""


class Unavailable(MulticriError):
    """Something outside is silent: try again later. Says nothing about what it would have answered."""


class Unimplemented(MulticriError):
    """CRI has this, the adapter has not."""
