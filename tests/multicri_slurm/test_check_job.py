"""What the findings of a trial job say of what a test bed cannot easily lack."""

import pytest
from multicri_slurm.check_job import findings_of_job
from multicri_slurm.verdicts import Verdicts

NODE = {"job": ("7",), "node": ("cn1",), "runtime": ("0",), "runtime-line": ("1.4",), "image-place": ("0",)}


@pytest.mark.parametrize(
    ("found", "line", "mend"),
    [
        ({"refused": ("sbatch: error: no",)}, "bad job sbatch: error: no", "s.job_options_default"),
        (
            {"job": ("7",), "late": ("PENDING Resources",)},
            "doubtful job 7 had not ended after 180 s: PENDING",
            "begins jobs",
        ),
        ({"job": ("7",)}, "bad job 7 has left nothing where it worked: not a word", "change s.mount_path"),
        ({"build": ("1",), "build-line": ("no room",)}, "bad image build no room", "s.build_in: job"),
        ({**NODE, "build": ("1",), "build-line": ("no room",)}, "bad image build no room", "try it on cn1"),
        (
            {
                **NODE,
                "namespaces": ("1",),
                "namespaces-line": ("EPERM",),
                "container": ("1",),
                "container-line": ("no",),
            },
            "bad user namespaces not allowed on cn1: EPERM",
            "user.max_user_namespaces",
        ),
        (
            {**NODE, "namespaces": ("1",), "container": ("0",), "container-line": ("INFO: x", "inside")},
            "doubtful user namespaces not allowed on cn1: no answer; this runtime does without",
            "",
        ),
        (
            {**NODE, "namespaces": ("0",), "container": ("255",), "container-line": ("squashfuse: no /dev/fuse",)},
            "bad container in a job squashfuse: no /dev/fuse",
            "install squashfuse",
        ),
        (
            {**NODE, "runtime": ("127",), "runtime-line": ("no lib",)},
            "bad runtime in a job does not run on cn1: no lib",
            "",
        ),
    ],
)
def test_what_is_wrong_with_a_compute_node_is_named_with_the_mend(
    found: dict[str, tuple[str, ...]], line: str, mend: str
) -> None:
    findings = list(findings_of_job(found, Verdicts("hpc"), "s"))
    told = {f"{one.verdict.value} {one.what} {one.meaning}": one.mend for one in findings}
    [matching] = [text for text in told if text.startswith(line)]
    assert mend in told[matching]
