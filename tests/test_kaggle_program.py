"""What the `kaggle` program says, word for word from runs of 2.2.4 and 2.2.5, and what we take it to mean."""

import pytest

from kaggle_runner.errors import KernelError, MissingPackages, Refusal
from kaggle_runner.kaggle.program import (
    Answer,
    find_kaggle,
    read_kernels,
    read_owner,
    read_push,
    read_quota,
    read_state,
    refuse,
)

SUCCESS = ("Kernel version 3 successfully pushed.  Please check progress at "
           "https://www.kaggle.com/code/tester/my-kernel\n")
MISMATCH = ("Your kernel title does not resolve to the specified id. This may result in surprising behavior. We "
            "suggest making your title something that resolves to the specified id. See "
            "https://en.wikipedia.org/wiki/Clean_URL#Slug for more information on how slugs are determined.\n")
UNREACHABLE = ("HTTPConnectionPool(host='api.kaggle.com', port=443): Max retries exceeded with url: /v1/kernels.Kernels"
               "ApiService/SaveKernel (Caused by NameResolutionError(\"Failed to resolve 'api.kaggle.com'\"))\n")


def said(stdout="", stderr="", exit_status=0):
    return Answer(exit_status=exit_status, stdout=stdout, stderr=stderr)


@pytest.mark.parametrize("text", [
    SUCCESS,
    MISMATCH + SUCCESS,
    SUCCESS.replace("/my-kernel", "/my-kernel?scriptVersionId=12"),
    "Kernel version 3 successfully saved without running.  See https://www.kaggle.com/code/tester/my-kernel\n",
])
def test_a_push_that_worked(text):
    pushed = read_push(said(text))
    assert (pushed.ref, pushed.version) == ("tester/my-kernel", 3)


@pytest.mark.parametrize(("answer", "refusal", "message"), [
    (said("Kernel push error: Maximum batch GPU session count of 2 reached.\n"), Refusal.CAPACITY,
     "count of 2 reached. Wait for one to end"),
    (said("Kernel push error: Maximum weekly GPU quota of 30.00 hours reached\n"), Refusal.QUOTA,
     "wait for the next week"),
    (said("Kernel push error: Notebook not found\n"), Refusal.NAME, "must begin with your own account"),
    (said("Kernel push error: Kernel not found\n"), Refusal.NAME, "must begin with your own account"),
    (said("Kernel push error: something new\n"), Refusal.OTHER, "Kaggle says: something new"),
    (said("The following are not valid dataset sources and could not be added to the kernel: ['a/b']\n" + SUCCESS),
     Refusal.SOURCE, r"left out dataset 'a/b' and runs tester/my-kernel without"),
    (said("The following are not valid kernel sources and could not be added to the kernel: ['a', 'b']\n" + SUCCESS),
     Refusal.SOURCE, r"left out kernel 'a', 'b'"),
    (said(stderr="The kernel source must be less than 1 megabytes in size.\n", exit_status=1), Refusal.TOO_LARGE,
     "over 1 MB"),
    (said("Authentication required to call the Kaggle API.\n", exit_status=1), Refusal.ACCESS, "kaggle auth login"),
    (said(stderr=UNREACHABLE, exit_status=1), Refusal.NETWORK, "cannot be reached: HTTPConnectionPool"),
    (said(stderr="An internal server error occurred.\n\nThis is a problem on Kaggle's side\n", exit_status=1),
     Refusal.NETWORK, "cannot be reached: An internal server error occurred"),
    (said(stderr="Traceback (most recent call last):\n  File x\nrequests.exceptions.ProxyError: it is gone\n",
          exit_status=1), Refusal.NETWORK, "cannot be reached: requests.exceptions.ProxyError: it is gone;"),
    (said(stderr="409 Client Error: Conflict for url: x\n", exit_status=1), Refusal.NAME, "choose another title"),
    (said(stderr="Source file not found: k/gone.py\n", exit_status=1), Refusal.OTHER,
     "failed with status 1: Source file not found: k/gone.py"),
    (said("nothing we know\n"), Refusal.OTHER, "failed with status 0: nothing we know"),
])
def test_a_push_that_did_not(answer, refusal, message):
    with pytest.raises(KernelError, match=message) as caught:
        read_push(answer)
    assert (caught.value.refusal, caught.value.exit_status) == (refusal, int(refusal))


@pytest.mark.parametrize(("words", "is_denied"), [
    ("403 Client Error: Permission 'datasets.get' was denied", True),
    ("404 Client Error: Not Found for url: https://api.kaggle.com/v1", True),
    ("ConnectionError: HTTPConnectionPool(host='localhost', port=40404): Max retries exceeded", False),
    ("ProxyError: <urllib3.connection.HTTPConnection object at 0x7f1404404d90>: Connection refused", False),
    ("ProxyError: 404 Not Found from the proxy; Max retries exceeded", False),
])
def test_what_is_not_there_is_told_from_what_cannot_be_reached(words, is_denied):
    assert said(stderr=words, exit_status=1).is_denied is is_denied


def test_the_package_that_the_program_forgets_to_declare_is_named():
    with pytest.raises(MissingPackages, match=r"six not installed; run: pip install 'kaggle_runner\[kaggle\]'"):
        refuse(said(stderr="ModuleNotFoundError: No module named 'six'\n", exit_status=1), "push")


def test_the_program_is_found_on_the_path_and_its_absence_is_said(tmp_path):
    with pytest.raises(MissingPackages, match=r"kaggle, six not installed"):
        find_kaggle({"PATH": str(tmp_path)}, tmp_path / "bin" / "python")
    (tmp_path / "kaggle").write_text("#!/bin/sh\n")
    (tmp_path / "kaggle").chmod(0o755)
    assert find_kaggle({"PATH": str(tmp_path)}, tmp_path / "bin" / "python").program == tmp_path / "kaggle"
    assert find_kaggle({"PATH": ""}, tmp_path / "python").program == tmp_path / "kaggle"


def test_states():
    running = read_state(said('a/b has status "KernelWorkerStatus.RUNNING"\n'))
    assert (running.status, running.has_ended, running.is_waiting) == ("RUNNING", False, False)
    failed = read_state(said('a/b has status "KernelWorkerStatus.ERROR"\nFailure message: "out of disk"\n'))
    assert (failed.has_ended, failed.failure) == (True, "out of disk")
    assert read_state(said('a/b has status "KernelWorkerStatus.QUEUED"\n')).is_waiting
    with pytest.raises(KernelError, match="no such kernel, or not one that this account may see, or wrong credentials"):
        read_state(said(stderr="Cannot access kernel 'a/b' (Permission 'kernels.get' was denied).\n", exit_status=1))


def test_the_quota_is_read_below_a_warning_and_its_absence_is_tolerated():
    rows = '[\n {"resource": "GPU", "used": "1.50h", "remaining": "28.50h", "total": "30.00h", "refreshAt": "x"}\n]\n'
    quota = read_quota(said("Warning: Looks like you're using an outdated `kaggle` version\n" + rows))
    assert (quota.used_h, quota.remaining_h, quota.total_h, quota.refresh) == (1.5, 28.5, 30.0, "x")
    for text in ("", "No quota information available\n", "[]", '[{"resource": "TPU"}]', '[{"resource": "GPU"}]', "[1]"):
        assert read_quota(said(text)) is None


def test_kernels_and_owner():
    table = "ref,title,author,lastRunTime,totalVotes\ntester/a,A,tester,2026-11-22 06:31:24,0\n"
    assert read_kernels(said(table)) == (("tester/a", "2026-11-22 06:31:24"),)
    assert read_kernels(said("Not found\n")) == ()
    assert read_kernels(said(stderr="boom", exit_status=1)) == ()
    assert read_owner(said("Configuration values from x\n- username: tester\n- path: None\n")) == "tester"
    with pytest.raises(KernelError, match="no credentials"):
        read_owner(said("Configuration values from x\n- username: None\n- path: None\n"))
