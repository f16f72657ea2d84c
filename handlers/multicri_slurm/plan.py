"""From what a pod asks for to what is written into its directory in the cluster. Pure.

`plan` checks all that can be checked before a cluster is asked; `files_of` makes the files once the cluster's container
runtime is known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from multicri_proxy.api.adapter import ContainerSpec
from multicri_proxy.api.errors import FailedPrecondition, InvalidArgument, PermissionDenied
from multicri_proxy.api.image import ImageBuilder
from multicri_slurm import terminal
from multicri_slurm.accounts import Login
from multicri_slurm.allocation_script import step_files
from multicri_slurm.annotations import Annotations, read_annotations
from multicri_slurm.custom_config import custom_options
from multicri_slurm.environment import (
    apptainer_env_file,
    charliecloud_env0_file,
    charliecloud_env_file,
    check_sizes,
    home_of,
)
from multicri_slurm.mpi import NO_LAUNCHER, Launcher, Mpi, launcher, read_flags
from multicri_slurm.pod_model import ONE_NODE, check_step, pod_model_of
from multicri_slurm.precedence import asks_for_gpus, settled
from multicri_slurm.prerun import prerun_of
from multicri_slurm.profiles import Profile
from multicri_slurm.records import job_name_of
from multicri_slurm.resources import MIB, resource_options
from multicri_slurm.runtimes import ENV_FILE, Bind, Container, ImageConfig, Kind, Runtime
from multicri_slurm.script import ContainerScript, JobScript, comment_of, render
from multicri_slurm.settings import PodModel, Settings
from multicri_slurm.sites import Site
from multicri_slurm.variables import Variables, read_variables, split

_GPU_VARIABLES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ZE_AFFINITY_MASK")
"""Slurm tells a job in these which GPUs are its own. Source: gres.html."""
_TERMINAL_PROGRAM = Path(terminal.__file__).read_bytes()
_NOTHING: tuple[str, ...] = ()
_KINDS: Mapping[str, Kind] = {
    "apptainer": "apptainer",
    "singularity": "singularity",
    "charliecloud": "charliecloud",
    "charliecloud-squashfs": "charliecloud",
}
_UNPACKER = "unsquashfs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A container that may be staged. command, args: the pod's. mpi: of an MPI job.
    way_back: whether the job is to reach the node's network.

    options: for sbatch, clean; those of the pod's allocation, where its containers share one.
    """

    spec: ContainerSpec
    profile: Profile
    login: Login
    prerun: bytes | None
    env: Mapping[str, bytes]
    command: tuple[str, ...]
    args: tuple[str, ...]
    options: tuple[str, ...]
    mpi: Mpi | None
    way_back: bool = False
    pod_model: PodModel = "job-per-container"


def plan(spec: ContainerSpec, profile: Profile) -> Plan:
    """Raises InvalidArgument naming what is wrong in the pod, PermissionDenied for what the profile forbids."""
    settings = profile.settings
    reserved, env = split(spec.env)
    variables = read_variables(reserved)
    annotations = read_annotations(spec.pod.annotations)
    check_sizes((*spec.command, *spec.args), env)
    if spec.working_dir and (not spec.working_dir.startswith("/") or "\0" in spec.working_dir):
        raise InvalidArgument(f"working_dir {spec.working_dir!r}: must be an absolute path")
    if variables.JOB_SHELL and not (spec.command or spec.args):
        raise InvalidArgument("JOB_SHELL='true': must go with a command or args, which are then a line for /bin/sh")
    shell = settings.job_shell if variables.JOB_SHELL is None else variables.JOB_SHELL
    command, args = _for_a_shell(spec) if shell and (spec.command or spec.args) else (spec.command, spec.args)
    pod_model = pod_model_of(spec.pod, settings)
    resources, fixed = spec.resources, _NOTHING
    if pod_model == "allocation-per-pod":
        check_step(variables, annotations)
        resources, fixed = spec.pod.resources, ONE_NODE
    mpi = _mpi(variables, annotations, settings)
    custom = custom_options(variables.JOB_CUSTOM_CONFIG or "", settings.job_options_allowed)
    chosen = settled(fixed, custom, variables.job_options(), annotations.options(), mpi.job_options() if mpi else ())
    defaults = settings.default_options()
    return Plan(
        spec=spec,
        profile=profile,
        login=profile.login_for(variables, spec.pod.namespace),
        prerun=prerun_of(settings.prerun, variables.CLUSTER_CONFIG or ""),
        env=env,
        command=command,
        args=args,
        options=settled(chosen, resource_options(resources, settled(chosen, defaults)), defaults),
        mpi=mpi,
        way_back=_way_back(annotations, profile),
        pod_model=pod_model,
    )


def _for_a_shell(spec: ContainerSpec) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """multi-cri had a shell read command and args as one line: here it is the container's own."""
    line = " ".join((*spec.command, *spec.args))
    check_sizes((line,), {})
    return ("/bin/sh", "-c"), (line,)


def _mpi(variables: Variables, annotations: Annotations, settings: Settings) -> Mpi | None:
    if variables.MPI_VERSION is None and annotations.mpi is None:
        return None
    return Mpi(
        version=variables.MPI_VERSION or "",
        flags=read_flags(variables.MPI_FLAGS or ""),
        starter=annotations.mpi or (settings.mpi if variables.MPI_FLAGS is None else None) or "",
    )


def _way_back(annotations: Annotations, profile: Profile) -> bool:
    if annotations.way_back == "true" and profile.settings.rest_url is not None:
        raise InvalidArgument(
            f"annotation slurm.multicri.io/way-back: it leads over SSH, and {profile.section} is reached by REST: "
            "leave it out"
        )
    if annotations.way_back == "true" and not profile.settings.way_back:
        raise PermissionDenied(
            f"annotation slurm.multicri.io/way-back: {profile.section}.way_back allows no destinations"
        )
    return annotations.way_back == "true"


def launcher_of(the_plan: Plan, site: Site) -> Launcher:
    """What starts the ranks. Raises FailedPrecondition if the cluster has not what an MPI job wants."""
    return launcher(the_plan.mpi, site.mpi_types, the_plan.options) if the_plan.mpi is not None else NO_LAUNCHER


def programs_of(builders: Sequence[ImageBuilder]) -> frozenset[str]:
    return frozenset(program for builder in builders for program in (*builder.programs, _UNPACKER))


def _needed(builder: ImageBuilder, settings: Settings) -> tuple[str, ...]:
    """What the cluster must have; of an image that the node builds, only what runs it, or makes a directory of it."""
    if settings.build_in_cluster:
        return builder.programs
    return builder.programs[:1] if builder.suffix else (builder.programs[0], _UNPACKER)


def wanted_builders(builders: Sequence[ImageBuilder], settings: Settings) -> list[ImageBuilder]:
    return [b for b in builders if b.name in _KINDS and settings.image_builder in {"auto", b.name}]


def has_runtime(site: Site, builders: Sequence[ImageBuilder], settings: Settings) -> bool:
    return any(site.programs.issuperset(_needed(b, settings)) for b in wanted_builders(builders, settings))


def runtime_of(site: Site, builders: Sequence[ImageBuilder], settings: Settings) -> tuple[ImageBuilder, Runtime]:
    """The first builder that the settings allow and the login host has, with the runtime that goes with it.

    Raises FailedPrecondition if there is none.
    """
    wanted = wanted_builders(builders, settings)
    for builder in wanted:
        if site.programs.issuperset(_needed(builder, settings)):
            runtime = Runtime(kind=_KINDS[builder.name], options=site.ch_run_options)
            if builder.suffix and runtime.kind == "charliecloud" and not runtime.takes_squashfs:
                raise FailedPrecondition(
                    "image_builder: charliecloud-squashfs: ch-run on the login host cannot mount SquashFS files, or is "
                    "older than 0.34: set image_builder: charliecloud, or have it built with libsquashfuse"
                )
            return builder, runtime
    needed = " or ".join("+".join(_needed(b, settings)) for b in wanted) or "no image builder"
    raise FailedPrecondition(f"the cluster has no container runtime: looked for {needed} in PATH of the login host")


def env_file_of(the_plan: Plan, runtime: Runtime) -> bytes:
    """Raises InvalidArgument for what the cluster's runtime cannot carry."""
    if runtime.kind != "charliecloud":
        home_of(the_plan.env)
        return apptainer_env_file(the_plan.env)
    if runtime.carries_newlines:
        return charliecloud_env0_file(the_plan.env)
    return charliecloud_env_file(the_plan.env)


def _gpu_variables(the_plan: Plan) -> tuple[str, ...]:
    """Ranks have the environment of their task anyway, in which Slurm may tell each another GPU."""
    if the_plan.mpi is not None or not asks_for_gpus(the_plan.options):
        return ()
    return tuple(name for name in _GPU_VARIABLES if name not in the_plan.env)


def files_of(
    the_plan: Plan,
    *,
    site: Site,
    directory: str,
    image_path: str,
    runtime: Runtime,
    config: ImageConfig | None,
    binds: tuple[Bind, ...] = (),
    results_path: str = "",
) -> dict[str, tuple[bytes, int]]:
    """The files of a container's directory: name, content, mode.

    results_path: where a pod that names no working directory works, if it has a volume for results.
    """
    spec = the_plan.spec
    script = ContainerScript(
        directory=directory,
        launcher=launcher_of(the_plan, site),
        has_prerun=the_plan.prerun is not None,
        passed=_gpu_variables(the_plan),
        stdin=spec.stdin,
        stdin_once=spec.stdin_once,
        tty=spec.tty,
        measured=None if site.measures else "step" if the_plan.pod_model == "allocation-per-pod" else "job",
        container=Container(
            runtime=runtime,
            image=image_path,
            command=the_plan.command,
            args=the_plan.args,
            working_dir=spec.working_dir or results_path,
            home=home_of(the_plan.env) if runtime.kind != "charliecloud" else None,
            config=config,
            gpu=asks_for_gpus(the_plan.options),
            mpi=the_plan.mpi is not None,
            binds=binds,
        ),
    )
    files = {ENV_FILE: (env_file_of(the_plan, runtime), 0o600)}
    if spec.tty:
        files["terminal.py"] = (_TERMINAL_PROGRAM, 0o600)
    if the_plan.prerun is not None:
        files["prerun.sh"] = (the_plan.prerun + b"\n", 0o600)
    if the_plan.pod_model == "allocation-per-pod":
        memory_bytes = spec.resources.memory_bytes
        memory_mib = -(-memory_bytes // MIB) if memory_bytes is not None else None
        texts = step_files(spec.name, memory_mib, script)
        return files | {name: (text.encode(), 0o600) for name, text in texts.items()}
    job = JobScript(
        job_name=job_name_of(spec.id),
        comment=comment_of(spec.pod.namespace, spec.pod.name, spec.name),
        options=the_plan.options,
        script=script,
    )
    return files | {"job.sh": (render(job).encode(), 0o600)}
