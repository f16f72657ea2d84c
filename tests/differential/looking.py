"""Calls that change nothing, as hypothesis draws them: every method, good and bad ids, filters, and broken bytes."""

from google.protobuf.message import Message
from hypothesis import strategies as st

from differential.calls import Sent
from differential.standing import LABEL, Standing
from multicri_proxy.cri.v1 import runtime_pb2 as cri
from multicri_proxy.methods import METHODS, V1, V1ALPHA2

RUNTIME, IMAGE = "RuntimeService", "ImageService"

Requests = st.SearchStrategy[tuple[str, str, Message]]
"""Service, method, request."""

versions = st.sampled_from([V1, V1, V1, V1ALPHA2])

metadata_keys = st.from_regex(r"x-[a-z0-9_.-]{1,20}", fullmatch=True).filter(lambda key: not key.endswith("-bin"))
metadata = st.lists(
    st.one_of(
        st.tuples(metadata_keys, st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=40)),
        st.tuples(metadata_keys.map(lambda key: f"{key}-bin"), st.binary(max_size=40)),
    ),
    max_size=3,
).map(tuple)
timeouts_s = st.sampled_from([10.0, 30.0, 3600.0])


def ids(real: tuple[str, ...]) -> st.SearchStrategy[str]:
    """Ids that are there, beginnings of them, and ids that are not."""
    return st.one_of(
        st.sampled_from(real),
        st.sampled_from(real).flatmap(lambda found: st.integers(1, 63).map(lambda length: found[:length])),
        st.sampled_from(["", "f" * 64, "no such", "../..", "%s%n", "näh", "\0", "x" * 5000]),
        st.text(max_size=70).filter(_encodable),
    )


def _encodable(text: str) -> bool:
    return not any(0xD800 <= ord(character) < 0xE000 for character in text)


labels = st.dictionaries(
    st.sampled_from([LABEL, "tier", "name", "nobody's"]),
    st.sampled_from(["standing", "front", "running", "exited", ""]),
    max_size=2,
)
states = st.integers(min_value=-1, max_value=5)


def requests(standing: Standing) -> Requests:
    """Any call that only looks, well-formed."""
    sandboxes, containers = ids(standing.sandboxes), ids(standing.containers)
    images = st.sampled_from([standing.image, "busybox", "registry.test/none:1", "", "sha256:" + "0" * 64, ":", "näh"])
    spec = st.builds(
        lambda image, handler: cri.ImageSpec(image=image, runtime_handler=handler),
        images,
        st.sampled_from(["", "", "runc", "unheard of"]),
    )
    booleans = st.booleans()
    sandbox_filters = st.builds(
        lambda found, state, selector: cri.PodSandboxFilter(
            id=found,
            state=None if state < 0 else cri.PodSandboxStateValue(state=state),
            label_selector=selector,
        ),
        st.one_of(st.just(""), sandboxes),
        states,
        labels,
    )
    container_filters = st.builds(
        lambda found, sandbox, state, selector: cri.ContainerFilter(
            id=found,
            pod_sandbox_id=sandbox,
            state=None if state < 0 else cri.ContainerStateValue(state=state),
            label_selector=selector,
        ),
        st.one_of(st.just(""), containers),
        st.one_of(st.just(""), sandboxes),
        states,
        labels,
    )
    stats_filters = st.builds(
        lambda found, sandbox, selector: cri.ContainerStatsFilter(
            id=found, pod_sandbox_id=sandbox, label_selector=selector
        ),
        st.one_of(st.just(""), containers),
        st.one_of(st.just(""), sandboxes),
        labels,
    )
    pod_stats_filters = st.builds(
        lambda found, selector: cri.PodSandboxStatsFilter(id=found, label_selector=selector),
        st.one_of(st.just(""), sandboxes),
        labels,
    )
    commands = st.sampled_from([["echo", "hi"], ["sh", "-c", "echo err >&2; exit 7"], ["no-such-program"], []])
    runtime: list[st.SearchStrategy[tuple[str, Message]]] = [
        st.tuples(st.just("Version"), st.builds(lambda text: cri.VersionRequest(version=text), st.text(max_size=9))),
        st.tuples(st.just("Status"), st.builds(lambda verbose: cri.StatusRequest(verbose=verbose), booleans)),
        st.tuples(st.just("RuntimeConfig"), st.just(cri.RuntimeConfigRequest())),
        st.tuples(
            st.just("PodSandboxStatus"),
            st.builds(lambda i, v: cri.PodSandboxStatusRequest(pod_sandbox_id=i, verbose=v), sandboxes, booleans),
        ),
        st.tuples(
            st.just("ContainerStatus"),
            st.builds(lambda i, v: cri.ContainerStatusRequest(container_id=i, verbose=v), containers, booleans),
        ),
        *(
            st.tuples(st.just(name), st.builds(lambda f: cri.ListPodSandboxRequest(filter=f), sandbox_filters))
            for name in ("ListPodSandbox", "StreamPodSandboxes")
        ),
        *(
            st.tuples(st.just(name), st.builds(lambda f: cri.ListContainersRequest(filter=f), container_filters))
            for name in ("ListContainers", "StreamContainers")
        ),
        *(
            st.tuples(st.just(name), st.builds(lambda f: cri.ListContainerStatsRequest(filter=f), stats_filters))
            for name in ("ListContainerStats", "StreamContainerStats")
        ),
        st.tuples(
            st.just("ListPodSandboxStats"),
            st.builds(lambda f: cri.ListPodSandboxStatsRequest(filter=f), pod_stats_filters),
        ),
        st.tuples(
            st.just("ContainerStats"), st.builds(lambda i: cri.ContainerStatsRequest(container_id=i), containers)
        ),
        st.tuples(
            st.just("PodSandboxStats"), st.builds(lambda i: cri.PodSandboxStatsRequest(pod_sandbox_id=i), sandboxes)
        ),
        st.tuples(st.just("ListMetricDescriptors"), st.just(cri.ListMetricDescriptorsRequest())),
        st.tuples(st.just("GetContainerEvents"), st.just(cri.GetEventsRequest())),
        st.tuples(
            st.just("ReopenContainerLog"),
            st.builds(lambda i: cri.ReopenContainerLogRequest(container_id=i), containers),
        ),
        st.tuples(
            st.just("ExecSync"),
            st.builds(lambda i, c: cri.ExecSyncRequest(container_id=i, cmd=c, timeout=20), containers, commands),
        ),
        st.tuples(
            st.just("Exec"),
            st.builds(lambda i, c: cri.ExecRequest(container_id=i, cmd=c, stdout=True), containers, commands),
        ),
        st.tuples(st.just("Attach"), st.builds(lambda i: cri.AttachRequest(container_id=i, stdout=True), containers)),
        st.tuples(
            st.just("PortForward"), st.builds(lambda i: cri.PortForwardRequest(pod_sandbox_id=i, port=[80]), sandboxes)
        ),
    ]
    image: list[st.SearchStrategy[tuple[str, Message]]] = [
        st.tuples(
            st.just("ImageStatus"), st.builds(lambda s, v: cri.ImageStatusRequest(image=s, verbose=v), spec, booleans)
        ),
        *(
            st.tuples(st.just(name), st.builds(lambda s: cri.ListImagesRequest(filter=cri.ImageFilter(image=s)), spec))
            for name in ("ListImages", "StreamImages")
        ),
        st.tuples(st.just("ImageFsInfo"), st.just(cri.ImageFsInfoRequest())),
    ]
    return st.one_of(
        *(request.map(lambda found: (RUNTIME, *found)) for request in runtime),
        *(request.map(lambda found: (IMAGE, *found)) for request in image),
    )


def calls(standing: Standing) -> st.SearchStrategy[Sent]:
    return st.builds(
        lambda version, request, given, timeout_s: Sent(
            path=f"/{version}.{request[0]}/{request[1]}",
            request=request[2].SerializeToString(),
            metadata=given,
            timeout_s=timeout_s,
        ),
        versions,
        requests(standing),
        metadata,
        timeouts_s,
    )


def broken_calls(standing: Standing) -> st.SearchStrategy[Sent]:
    """Calls that only look, with bytes cut off, put in or changed; and any bytes at all, for every method there is."""

    def broken(sent: Sent, how: str, place: float, byte: int) -> Sent:
        at = int(place * len(sent.request))
        rest = at if how == "put in" else at + 1
        request = sent.request[:at] + (b"" if how == "cut" else bytes([byte]) + sent.request[rest:])
        return Sent(path=sent.path, request=request, metadata=sent.metadata)

    damaged = st.builds(
        broken,
        calls(standing),
        st.sampled_from(["cut", "put in", "changed"]),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 255),
    )
    arbitrary = st.builds(
        lambda path, request: Sent(path=path, request=request), st.sampled_from(sorted(METHODS)), st.binary(max_size=60)
    )
    return st.one_of(damaged, arbitrary)


unknown_calls = st.builds(
    lambda path, request, given: Sent(path=path, request=request, metadata=given),
    st.one_of(
        st.builds(
            "/{}.{}/{}".format,
            st.sampled_from([V1, V1ALPHA2, "runtime.v1beta1", "runtime.v2", "containerd.services.version.v1"]),
            st.sampled_from([RUNTIME, IMAGE, "Version", "näh"]).filter(str.isascii),
            st.from_regex(r"[A-Za-z][A-Za-z0-9]{0,20}", fullmatch=True),
        ),
        st.from_regex(r"/[a-zA-Z0-9._-]{0,20}(/[a-zA-Z0-9._-]{0,20}){0,3}", fullmatch=True),
    ).filter(lambda path: path not in METHODS),
    st.binary(max_size=200),
    metadata,
)
"""Methods that nobody knows, or that we do not."""
