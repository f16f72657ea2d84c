"""What a job that tries a compute node out has found, what it means, and how to mend it. Pure."""

from collections.abc import Iterator

from multicri_proxy.api.check import Finding
from multicri_slurm.trial_job import TRIAL_S
from multicri_slurm.verdicts import Facts, Verdicts, code_of, line_of, lines_of

_NAMESPACES = (
    "have the cluster's admin let users make them there: sysctl user.max_user_namespaces, "
    "kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns"
)
_FUSE = "have the cluster's admin install squashfuse there and let users open /dev/fuse, or make the runtime setuid"


def findings_of_job(found: Facts, say: Verdicts, section: str) -> Iterator[Finding]:
    """found: what `trial_job.trial_script` says. section: of the settings, for what to change there."""
    if code_of(found, "build") not in {None, 0} and "node" not in found:
        yield say.bad(
            "image build", lines_of(found, "build"), f"try it on the login host, or set {section}.build_in: job"
        )
        return
    if refused := found.get("refused"):
        yield say.bad("job", " / ".join(refused), f"set what it wants in {section}.job_options_default")
        return
    job = found.get("job", ("",))[0]
    if not job:
        yield say.bad("job", f"none could be made: {lines_of(found, 'trial')}", f"look at {section}.image_remote_mount")
        return
    if "node" not in found:
        yield _nothing_said(found, say, section, job)
        return
    node = found["node"][0]
    yield say.good("job", f"{job} ran on {node}")
    yield from _node(found, say, section, node)


def _nothing_said(found: Facts, say: Verdicts, section: str, job: str) -> Finding:
    if late := found.get("late"):
        meaning = f"{job} had not ended after {TRIAL_S} s: {late[0]}"
        return say.doubtful("job", meaning, f"name a partition in {section}.job_options_default that begins jobs soon")
    if code := found.get("prerun"):
        meaning = f"ended with {code[0]} in job {job}: {' / '.join(found.get('said', ()))}"
        return say.bad("prerun", meaning, f"try {section}.prerun in a job")
    meaning = f"{job} has left nothing where it worked: {' / '.join(found.get('said', ())) or 'not a word'}"
    return say.bad("job", meaning, f"let compute nodes write there, or change {section}.mount_path")


def _node(found: Facts, say: Verdicts, section: str, node: str) -> Iterator[Finding]:
    if found.get("runtime") == ("missing",):
        mend = f"install it there, or load it in {section}.prerun"
        yield say.bad("runtime in a job", f"not in PATH on {node}", mend)
    elif code_of(found, "runtime") != 0:
        yield say.bad("runtime in a job", f"does not run on {node}: {lines_of(found, 'runtime')}")
    else:
        yield say.good("runtime in a job", line_of(found, "runtime"))
    if code_of(found, "image-place") != 0:
        mend = f"mount it there, or set {section}.image_remote_mount to what all nodes share"
        yield say.bad("images in a job", f"{node} does not see them: {lines_of(found, 'image-place')}", mend)
    else:
        yield say.good("images in a job", "can be read")
    if code_of(found, "build") not in {None, 0}:
        yield say.bad("image build", lines_of(found, "build"), f"try it on {node}")
    runs = found.get("container-line", ())[-1:] == ("inside",)
    namespaces = code_of(found, "namespaces") in {None, 0}
    if not namespaces:
        meaning = f"not allowed on {node}: {lines_of(found, 'namespaces')}"
        if runs:
            yield say.doubtful("user namespaces", f"{meaning}; this runtime does without")
        else:
            yield say.bad("user namespaces", meaning, _NAMESPACES)
    elif "namespaces" in found:
        yield say.good("user namespaces", "allowed in a job")
    if runs:
        yield say.good("container in a job", "ran")
    elif "container" in found:
        said = lines_of(found, "container")
        mend = _NAMESPACES if not namespaces else _FUSE if "fuse" in said.lower() or "squash" in said.lower() else ""
        yield say.bad("container in a job", said, mend or f"try it in a job on {node}")
