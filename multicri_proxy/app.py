"""What the daemon is made of: everything is opened here, in order, and closed in the opposite order."""

import asyncio
import grp
import os
import pwd
import signal
import socket
import stat
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from multicri_proxy.admin import AdminServer
from multicri_proxy.api.adapter import AdapterContext, ImagesContext, ImagesFactory
from multicri_proxy.api.counts import ImageCounts
from multicri_proxy.api.errors import FailedPrecondition, InvalidArgument
from multicri_proxy.api.log import Log, writing_to_stderr
from multicri_proxy.api.tasks import Tasks
from multicri_proxy.calls import Runtime
from multicri_proxy.dump.attach import dump_command
from multicri_proxy.dump.dumper import Dumper
from multicri_proxy.dump.tap import Tap
from multicri_proxy.images.answer import images_command
from multicri_proxy.interposer import Interposer
from multicri_proxy.jobs.answer import jobs_command
from multicri_proxy.ledger import Ledger
from multicri_proxy.local import LocalRuntime
from multicri_proxy.loop import Loop
from multicri_proxy.network.pod_network import PodNetwork
from multicri_proxy.notify import Systemd
from multicri_proxy.plugins import plug_in, plug_ins
from multicri_proxy.reload import Reloadable
from multicri_proxy.remote import RemoteRuntime
from multicri_proxy.routing import DEFAULT, Router
from multicri_proxy.runtime.late import LateAdapter
from multicri_proxy.runtime.service import Runtime as AdapterRuntime
from multicri_proxy.secrets import SealedSecrets
from multicri_proxy.server import Access, Server
from multicri_proxy.settings import Settings
from multicri_proxy.streaming.server import StreamingServer, Tls
from multicri_proxy.tested import refuse_untested

log = Log("app")


def serve(settings: Settings, read: Callable[[], Settings]) -> None:
    """Serve until SIGTERM or SIGINT.

    read: reads all settings anew, for SIGHUP.
    Raises a MulticriError, before anything is served, if the settings do not fit this machine.
    """
    with writing_to_stderr(settings.log_level), asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(_until_stopped(settings, read))


async def _until_stopped(settings: Settings, read: Callable[[], Settings]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    hangup = asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    systemd = Systemd.from_environment(os.environ)
    async with running(settings) as reloadable, Tasks() as tasks:

        async def reload() -> None:
            while await hangup.wait():
                hangup.clear()
                await reloadable.reload(read)

        tasks.start("systemd watchdog", systemd.keep_awake)
        tasks.start("reload settings on SIGHUP", reload)
        systemd.ready(f"serving {settings.socket_path}")
        await stop.wait()
        log.info("stopping")
        systemd.stopping()


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Reloadable]:
    """The whole proxy, from entering to leaving. Gives what of it may be changed meanwhile."""
    async with AsyncExitStack() as stack:
        endpoints = {
            name: await stack.enter_async_context(RemoteRuntime(name, path))
            for name, path in settings.remote_runtime_endpoints.items()
        }
        images_at = {path: endpoints[name] for name, path in settings.remote_runtime_endpoints.items()}
        for name, path in settings.remote_image_endpoints.items():
            if path not in images_at:  # else one socket's images would be listed twice
                images_at[path] = await stack.enter_async_context(RemoteRuntime(name, path))
        if not settings.allow_untested_runtimes:
            for name, endpoint in endpoints.items():
                await refuse_untested(name, endpoint)
        ledger = await stack.enter_async_context(Ledger.open(settings.resources_cache_path / "ledger.db"))
        secrets = SealedSecrets.from_file(key_file(settings, os.environ))
        builders, counts = plug_ins("image_builders"), ImageCounts()
        make_pool: ImagesFactory = plug_in("images", "pool")
        images_context = ImagesContext(
            settings=settings.adapters.get("images", {}),
            store=ledger.space("images"),
            secrets=secrets,
            image_builders=builders,
            counts=counts,
        )
        images = await stack.enter_async_context(make_pool(images_context))
        context = AdapterContext(
            settings=settings.adapters.get(settings.adapter_name, {}),
            store=ledger.space(f"adapter/{settings.adapter_name}"),
            secrets=secrets,
            images=images,
            handlers=settings.handler,
            image_builders=builders,
            counts=counts,
        )
        service = await stack.enter_async_context(
            AdapterRuntime(
                adapter=LateAdapter(
                    settings.adapter_name,
                    partial(plug_in, "adapters", settings.adapter_name),
                    context,
                    is_needed=DEFAULT not in endpoints,
                ),
                images=images,
                ledger=ledger,
                handlers=settings.handler,
                is_alone=DEFAULT not in endpoints,
                pod_ip=settings.pod_ip or _node_ip(),
                streaming=_streaming(settings),
                network=PodNetwork(
                    ledger.space("network"),
                    enabled=settings.enable_pod_network,
                    conf_dir=settings.network_conf_dir,
                    bin_dir=settings.network_bin_dir,
                ),
                directory=settings.resources_cache_path,
                counts=counts,
            )
        )
        interposer = Interposer(
            router=Router(handlers=settings.handler, endpoints=frozenset(endpoints), ours=service),
            endpoints=endpoints,
            images={name: images_at[path] for name, path in settings.remote_image_endpoints.items()},
            adapter=LocalRuntime(settings.handler[0], service),
        )
        dumper = Dumper()
        reloadable = await stack.enter_async_context(Reloadable(settings, dumper))
        commands = {
            "dump": dump_command(dumper, interposer, lambda: reloadable.redact_names),
            "jobs": jobs_command(service.jobs),
            "images": images_command(images, service),
        }
        await stack.enter_async_context(AdminServer(_admin_socket(settings), commands))
        runtime = _observed(settings, Tap(interposer, dumper), service, dumper, stack)
        server = Server(runtime, settings.socket_path, access=_access(settings), drain_s=settings.drain_s)
        await stack.enter_async_context(server)
        yield reloadable


def _observed(
    settings: Settings, runtime: Runtime, service: AdapterRuntime, dumper: Dumper, stack: AsyncExitStack
) -> Runtime:
    """The runtime with spans and numbers around it, if an admin wants them."""
    if settings.tracing_endpoint:
        tracing = _extra("tracing")
        provider = stack.enter_context(tracing.exporting(settings.tracing_endpoint))
        runtime = tracing.Traced(runtime, provider)
    if settings.metrics_address:
        metrics = _extra("metrics")
        registry = metrics.CollectorRegistry()
        registry.register(
            metrics.NodeCollector(
                endpoints=settings.remote_runtime_endpoints,
                image_endpoints=settings.remote_image_endpoints,
                containers=metrics.on_loop(service.counts),
                dropped=lambda: dumper.dropped,
            )
        )
        registry.register(
            metrics.ImageCollector(
                service.image_counts,
                images=metrics.on_loop(service.image_count),
                used_bytes=metrics.on_loop(lambda: service.stored().used_bytes),
            )
        )
        stack.enter_context(metrics.serving(settings.metrics_address, registry))
        runtime = metrics.Metered(runtime, registry)
    return runtime


def key_file(settings: Settings, environment: Mapping[str, str]) -> Path:
    """Where the key is, or is to be made. Source: systemd.exec(5), LoadCredential=."""
    if settings.secret_key_file:
        return Path(settings.secret_key_file)
    given = Path(environment.get("CREDENTIALS_DIRECTORY", settings.root_dir)) / "secret.key"
    return given if given.exists() else settings.root_dir / "secret.key"


def _admin_socket(settings: Settings) -> Path:
    """As set, or ``/run/multicri-admin.sock`` for ``/run/multicri.sock``."""
    beside = settings.socket_path.with_name(f"{settings.socket_path.stem}-admin.sock")
    return Path(settings.admin_socket) if settings.admin_socket else beside


def _extra(name: str) -> Any:  # a module that may not be there
    try:
        return import_module(f"multicri_proxy.{name}")
    except ImportError as error:
        raise FailedPrecondition(f"{name} is not installed: pip install 'multicri-proxy[{name}]' ({error})") from error


def _access(settings: Settings) -> Access:
    """The socket's owner and mode, as set or as the default runtime has them."""
    like = Access()
    if DEFAULT in settings.remote_runtime_endpoints:
        with suppress(OSError):
            found = Path(settings.remote_runtime_endpoints[DEFAULT]).stat()
            like = Access(mode=stat.S_IMODE(found.st_mode), uid=found.st_uid, gid=found.st_gid)
    if settings.socket_owner:
        user, group = settings.socket_owner.split(":")
        try:
            like = replace(like, uid=pwd.getpwnam(user).pw_uid, gid=grp.getgrnam(group).gr_gid)
        except KeyError as error:
            raise InvalidArgument(f"socket_owner: {settings.socket_owner!r}: no such user or group") from error
    return replace(like, mode=int(settings.socket_mode, 8)) if settings.socket_mode else like


def _streaming(settings: Settings) -> StreamingServer:
    tls = None
    if settings.stream_tls:
        certificate, key = (
            Path(name) if name else None for name in (settings.stream_tls_cert, settings.stream_tls_key)
        )
        tls = Tls(certificate=certificate, key=key)
    return StreamingServer(address=settings.stream_addr, port=settings.stream_port, tls=tls)


def _node_ip() -> str:
    """The address from which this node would reach others. A datagram socket's connect sends nothing."""
    for family, somewhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((somewhere, 9))
            except OSError:
                continue
            return str(probe.getsockname()[0])
    return "127.0.0.1"
