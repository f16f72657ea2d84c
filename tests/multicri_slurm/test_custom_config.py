"""JOB_CUSTOM_CONFIG."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multicri_slurm.custom_config import custom_options
from multicri_slurm.job_options import ALLOWED, BY_LETTER, BY_VARIABLE, REFUSED

from multicri_proxy.api.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("", ()),
        ("#SBATCH --time=10", ("--time=10",)),
        ("#SBATCH -t 1-02:03:04 -A lab --mem 4G # comment", ("--time=1-02:03:04", "--account=lab", "--mem=4G")),
        ("--exclusive", ("--exclusive",)),
        ("--exclusive=user --nice", ("--exclusive=user", "--nice")),
        ("-n4 -c=2", ("--ntasks=4", "--cpus-per-task=2")),
        ("SBATCH_TIMELIMIT=10\nexport SBATCH_ACCOUNT='lab'", ("--time=10", "--account=lab")),
        ("SBATCH_EXCLUSIVE=1", ("--exclusive",)),
        ("SBATCH_OVERCOMMIT=", ("--overcommit",)),
        ("#!/bin/bash\n# a comment\n\n  --qos=high\r\n", ("--qos=high",)),
        ("--constraint='a100&nvme|v100*2'", ("--constraint=a100&nvme|v100*2",)),
        ("-w cn[1-3,5]", ("--nodelist=cn[1-3,5]",)),
        ("--begin=now+1hour", ("--begin=now+1hour",)),
        ("--switches=2@10:00", ("--switches=2@10:00",)),
    ],
)
def test_every_form_becomes_clean_options(text: str, options: tuple[str, ...]) -> None:
    assert custom_options(text) == options


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("--output=/etc/passwd", "--output is not allowed: the job's output is read from files of its own"),
        ("-o x", "-o is not allowed"),
        ("--chdir=/", "--chdir is not allowed"),
        ("-D /", "-D is not allowed"),
        ("--job-name=x", "--job-name is not allowed"),
        ("--wrap=id", "--wrap is not allowed"),
        ("--array=1-9", "--array is not allowed"),
        ("--dependency=afterok:1", "--dependency is not allowed"),
        ("--export=ALL", "--export is not allowed"),
        ("--requeue", "--requeue is not allowed"),
        ("--signal=9", "--signal is not allowed"),
        ("SBATCH_OUTPUT=x", "SBATCH_OUTPUT is not allowed"),
        ("SBATCH_NOTHING=x", "SBATCH_NOTHING is not an input variable"),
        ("--tim=1", "--tim is not among"),
        ("--time", "--time needs a value"),
        ("--time=", "--time: '' must be minutes, [hours:]minutes:seconds or days-hours"),
        ("--time=ten", "--time: 'ten' must be minutes"),
        ("--exclusive=all", "--exclusive: 'all'"),
        ("--contiguous=1", "--contiguous takes no value"),
        ("--account='a b'", "--account: 'a b' must be a name"),
        ("--account='a", "cannot be read"),
        ("rm -rf /", "'rm' is not an option"),
        ("#SBATCHx", "after #SBATCH there must be a space"),
        ("-", "is not an option"),
        ("--", "is not an option"),
        ("SBATCH_TIMELIMIT=1 2", "more than one word"),
        ("\n\n--bad", "line 3"),
    ],
)
def test_what_is_refused_is_named_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        custom_options(text)
    assert reason in str(caught.value)


def test_an_admin_may_allow_more_options_but_not_those_that_are_ours() -> None:
    assert custom_options("--site-thing=a,b --other", ["site-thing", "other"]) == ("--site-thing=a,b", "--other")
    with pytest.raises(InvalidArgument, match="site-thing"):
        custom_options("--site-thing='a b'", ["site-thing"])


def test_the_tables_fit_together() -> None:
    assert not ALLOWED.keys() & REFUSED.keys()
    for name in (*BY_LETTER.values(), *BY_VARIABLE.values()):
        assert name in ALLOWED or name in REFUSED
    for option in ALLOWED.values():
        for bad in ("\n", "a\n", "a b", "a#b", "a'b", 'a"b', "a\\b", "$x", "`x`", "%x"):
            assert not option.takes(bad)


_LINES = st.lists(
    st.one_of(
        st.text(max_size=40),
        st.builds(
            lambda mark, name, equals, value: f"{mark}--{name}{equals}{value}",
            st.sampled_from(["", "#SBATCH ", " "]),
            st.sampled_from([*ALLOWED, *REFUSED]),
            st.sampled_from(["", "=", " "]),
            st.text(max_size=20),
        ),
        st.builds(lambda name, value: f"{name}={value}", st.sampled_from([*BY_VARIABLE]), st.text(max_size=20)),
    ),
    max_size=3,
)


@given(_LINES)
def test_no_text_yields_an_unlisted_option_or_a_second_line(lines: list[str]) -> None:
    try:
        options = custom_options("\n".join(lines))
    except InvalidArgument:
        return
    for option in options:
        match = re.fullmatch(r"--([a-z-]+)(=[!-~]+)?", option, re.ASCII)
        assert match is not None
        assert match[1] in ALLOWED
        assert not set(option) & set("#'\"\\`$%;<>")
