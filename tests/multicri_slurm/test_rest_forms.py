"""What slurmrestd is told and tells, as data; and the settings that lead to it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multicri_slurm.job_options import ALLOWED
from multicri_slurm.profiles import read_profiles
from multicri_slurm.rest_answers import jobs_of, recorded_jobs, says_no_such_job, words_of
from multicri_slurm.rest_options import (
    environment_of_script,
    fields_of_options,
    fields_of_script,
    megabytes_of,
    minutes_of,
)
from multicri_slurm.variables import read_variables

from multicri_proxy.api.errors import InvalidArgument, PermissionDenied, Unavailable

REST: dict[str, object] = {
    "rest_url": "https://rest.example.org:6820",
    "shared_directory": "/hpc/{user}",
    "user": "svc",
    "token_file": "/t",
    "uid": 7,
    "gid": 8,
}


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("0:30", 1), ("2:00", 2), ("1:30:00", 90), ("1-0", 1440), ("1-2:3", 1563), ("1-2:3:1", 1564)],
)
def test_a_time_is_rounded_up_to_minutes(text: str, minutes: int) -> None:
    assert minutes_of(text) == minutes


@pytest.mark.parametrize(
    ("text", "megabytes"), [("100", 100), ("100M", 100), ("1g", 1024), ("2T", 2 * 1024**2), ("1K", 1), ("4GB", 4096)]
)
def test_memory_is_rounded_up_to_mebibytes(text: str, megabytes: int) -> None:
    assert megabytes_of(text) == megabytes


def test_a_header_becomes_fields_and_nothing_behind_it_is_heard() -> None:
    text = "#!/bin/bash\n#SBATCH --job-name=n\n#SBATCH --gres=gpu:1,shm\n#SBATCH --no-requeue\n\necho '#SBATCH --x'\n"
    fields = fields_of_script(text, 0)
    assert fields == {"name": "n", "tres_per_node": "gres/gpu:1,gres/shm", "requeue": False}


def test_a_job_is_told_what_sbatch_would_tell_it_of_its_options() -> None:
    options = ("--chdir=/a b", "--ntasks-per-node=2", "--mem=1G", "--ntasks-per-node=4")
    text = "#!/bin/bash\n" + "".join(f"#SBATCH {option}\n" for option in options)
    assert environment_of_script(text) == ["SLURM_SUBMIT_DIR=/a b", "SLURM_NTASKS_PER_NODE=4"]


def test_options_that_mean_the_same_field_and_times_are_told() -> None:
    fields = fields_of_options(
        ["--gres=shm:1", "--gpus-per-node=a100:2", "--begin=now+2hours", "--time=UNLIMITED"], 100
    )
    assert fields["tres_per_node"] == "gres/shm:1,gres/gpu:a100:2"
    assert fields["begin_time"] == {"set": True, "infinite": False, "number": 7300}
    assert fields["time_limit"] == {"set": False, "infinite": True, "number": 0}


@given(name=st.sampled_from(sorted(ALLOWED)), data=st.data())
def test_every_option_that_a_pod_may_use_becomes_json_or_is_refused_by_name(name: str, data: st.DataObject) -> None:
    value = data.draw(st.from_regex(ALLOWED[name].form.pattern, fullmatch=True))
    option = f"--{name}={value}" if value else f"--{name}"
    try:
        assert json.dumps(dict(fields_of_options([option], 0)))
    except InvalidArgument as error:
        assert f"--{name}" in str(error)


def job(job_id: int, user: str, *states: str, code: int = 0, signal: int = 0) -> dict[str, object]:
    number = {"set": bool(signal), "infinite": False, "number": signal}
    return {
        "job_id": job_id,
        "user_name": user,
        "name": 'a "b" ]}',
        "job_state": states,
        "state_reason": "None",
        "nodes": "cn1",
        "account": "lab",
        "exit_code": {"return_code": {"set": True, "number": code}, "signal": {"id": number}},
    }


def test_of_everybodys_jobs_a_users_own_are_told_with_their_flags_before_their_states() -> None:
    jobs = [job(1, "alice", "RUNNING"), job(2, "bob", "RUNNING"), job(3, "alice", "FAILED", "COMPLETING", code=3)]
    for indent in (None, 2):
        told = jobs_of(json.dumps({"meta": {"jobs": 1}, "jobs": jobs, "errors": []}, indent=indent).encode(), "alice")
        assert [(line.job_id, line.state, line.exit_pair) for line in told] == [
            (1, "RUNNING", "0:0"),
            (3, "COMPLETING", "3:0"),
        ]
    assert jobs_of(b'{"jobs": []}', "alice") == []


@pytest.mark.parametrize("body", [b"", b"[]", b'{"jobs": [{', b'{"jobs": [1]}', b'{"jobs": [{"user_name": "alice"}]}'])
def test_a_list_of_jobs_that_cannot_be_read_says_nothing_about_jobs(body: bytes) -> None:
    with pytest.raises(Unavailable, match="cannot be read"):
        jobs_of(body, "alice")


def test_what_slurmdbd_recorded_and_what_slurmrestd_complains_of_are_read() -> None:
    recorded = job(4, "alice") | {"state": {"current": ["CANCELLED"], "reason": "None"}}
    [line] = recorded_jobs(json.dumps({"jobs": [recorded]}).encode())
    assert (line.state, line.nodes, line.cluster_account) == ("CANCELLED", "cn1", "lab")
    [line] = recorded_jobs(json.dumps({"jobs": [recorded | {"kill_request_user": "root"}]}).encode())
    assert line.state == "CANCELLED by root"
    unknown = json.dumps({"errors": [{"error": "Invalid job id specified", "error_number": 2017}]}).encode()
    assert says_no_such_job(unknown)
    assert "Invalid job id" in words_of(unknown)
    assert not says_no_such_job(b'{"errors": []}')


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"rest_url": "http://rest.example.org"}, r"hpc\.rest_url: sends tokens in the clear"),
        ({"rest_url": "https://h/path"}, r"hpc\.rest_url: must be https://host"),
        ({"rest_url": "https://h:99999"}, r"hpc\.rest_url: has no port that there is"),
        ({"rest_url": None, "host": "h"}, r"hpc\.token_file: is for slurmrestd, which is not sshd"),
        ({"host": "h"}, r"hpc\.rest_url: must not be set together with host"),
        ({"user": None, "token_file": "", "uid": None, "gid": None}, r"hpc\.rest_url: pods bring no tokens"),
        ({"token_file": "", "uid": None, "gid": None, "key_file": "/k"}, r"hpc\.rest_url: slurmrestd wants a token"),
        ({"uid": None}, r"hpc\.token_file: must be set together with uid and gid"),
        ({"uid": 0}, r"hpc\.uid"),
        ({"key_file": "/k"}, r"hpc\.token_file: must not be set together with key_file"),
        ({"shared_directory": ""}, r"hpc\.rest_url: files get to the cluster by a directory"),
        ({"image_remote_mount": "/scratch"}, r"hpc\.image_remote_mount: with rest_url it must be below /hpc"),
        ({"shared_directory": "hpc"}, r"hpc\.shared_directory: must be an absolute path"),
        ({"shared_directory_in_cluster": "/a/../b"}, r"hpc\.shared_directory_in_cluster: must have no part"),
    ],
)
def test_a_setting_that_leads_nowhere_is_named_with_the_reason(changed: dict[str, object], reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        read_profiles({"clusters": {"hpc": REST | changed}}, ("multicri",))


def test_a_pod_is_whom_the_settings_say_and_brings_no_credentials_for_ssh() -> None:
    hpc = read_profiles({"clusters": {"hpc": REST}}, ("multicri",)).named("hpc")
    login = hpc.login_for(read_variables({}), "team")
    assert str(login.account) == "svc@rest.example.org:6820"
    assert login.proof is not None
    assert (login.proof.uid, login.proof.gid) == (7, 8)
    assert hpc.login_as(login.account) == login
    with pytest.raises(PermissionDenied, match=r"CLUSTER_PASSWORD: is for SSH, and slurm\.clusters\.hpc is reached by"):
        hpc.login_for(read_variables({"CLUSTER_PASSWORD": b"x"}), "team")
    unix = read_profiles({"clusters": {"hpc": REST | {"rest_url": "unix:/run/s"}}}, ("multicri",)).named("hpc")
    assert str(unix.login_for(read_variables({}), "team").account) == "svc@/run/s:0"
