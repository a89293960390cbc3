import os
import signal
import subprocess
import sys

import pytest

from biofuse.core.machine import workers_ignore_interrupts

pytestmark = pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signal masks are POSIX")

CHILD = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"


def blocked_in_a_child():
    return subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True).stdout.strip()


def test_processes_started_inside_do_not_see_ctrl_c_and_those_after_it_do():
    with workers_ignore_interrupts():
        assert blocked_in_a_child() == "True"
    assert blocked_in_a_child() == "False"


def test_workers_of_the_search_and_of_decoding_do_not_see_ctrl_c():
    import joblib
    from loky import get_reusable_executor

    with joblib.parallel_config("loky", n_jobs=1), joblib.Parallel(n_jobs=2, return_as="generator") as parallel:
        with workers_ignore_interrupts():
            found = parallel(joblib.delayed(signal.pthread_sigmask)(signal.SIG_BLOCK, []) for _ in range(2))
        assert all(signal.SIGINT in mask for mask in found)
    executor = get_reusable_executor(max_workers=1)
    with workers_ignore_interrupts():
        mask = executor.submit(signal.pthread_sigmask, signal.SIG_BLOCK, []).result()
    assert signal.SIGINT in mask


def test_an_interrupt_inside_is_delivered_at_the_end():
    with pytest.raises(KeyboardInterrupt), workers_ignore_interrupts():
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
