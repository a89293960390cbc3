import signal
import subprocess
import sys

import pytest

from biofuse.core import machine
from biofuse.core.machine import SEARCH_SHARE, available_memory, memory_limit, workers_ignore_interrupts

# --- memory


@pytest.fixture
def root(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 16384 kB\nMemFree: 1024 kB\nMemAvailable: 8192 kB\n")
    return tmp_path


def test_it_is_what_the_machine_has_available(root):
    assert available_memory(root=root) == 8192 * 1024
    assert memory_limit(root=root) == int(SEARCH_SHARE * 8192 * 1024)


@pytest.mark.parametrize(
    ("folder", "most", "used", "cache"),
    [
        ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
        ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ],
)
def test_a_container_may_have_less(root, folder, most, used, cache):
    group = root / folder
    group.mkdir(parents=True)
    (group / most).write_text("5000000\n")
    (group / used).write_text("3000000\n")
    assert available_memory(root=root) == 2_000_000
    (group / "memory.stat").write_text(f"anon 2500000\n{cache} 400000\n")
    assert available_memory(root=root) == 2_400_000  # what files keep makes room
    (group / used).write_text("6000000\n")
    assert available_memory(root=root) == 0
    for unlimited in ("max", str(2**63 - 4096)):
        (group / most).write_text(unlimited)
        assert available_memory(root=root) == 8192 * 1024


def test_elsewhere_than_on_linux_it_is_what_the_system_says(tmp_path):
    assert available_memory(root=tmp_path) > 2**20


def test_this_machine_has_some():
    assert 2**26 < available_memory() < 2**50


# --- the allocator


@pytest.fixture
def glibc(monkeypatch):
    """Stand in for the C library; what was asked of it."""
    calls = []

    class Library:
        def mallopt(self, option, value):
            calls.append((option, value))

        def malloc_trim(self, _):
            calls.append("trim")

    monkeypatch.setattr(machine.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda _: Library())
    for users in ("_KEEPING", "_SHARING"):  # an actor of Ray that another test has made here wants it for ever
        monkeypatch.setattr(machine, users, set())
    for name in list(machine.os.environ):
        if name.startswith(("MALLOC_", "GLIBC_TUNABLES")):
            monkeypatch.delenv(name)
    return calls


@pytest.mark.parametrize("set_by_user", [False, True])
def test_freed_memory_is_kept_only_meanwhile_and_not_against_the_users_will(set_by_user, glibc, monkeypatch):
    if set_by_user:
        monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    with machine.keep_freed_memory():
        with machine.keep_freed_memory():
            inside = len(glibc)
        assert len(glibc) == inside  # the outer one still wants it
    if set_by_user:
        assert glibc == []
    else:
        assert dict(glibc[:3]) == machine.MEANWHILE
        assert dict(glibc[-5:-1]) == machine.AFTERWARDS
        assert glibc[-1] == "trim"


def test_an_arena_is_shared_for_as_long_as_a_command_lasts(glibc, monkeypatch):
    with machine.share_arena():
        with machine.keep_freed_memory():
            pass
        assert [value for option, value in glibc[:-1] if option == machine.ARENA_MAX] == [1, 1]
        assert len(glibc) == 1 + len(machine.MEANWHILE) + len(machine.AFTERWARDS)  # all but the arenas, and "trim"
    assert glibc[-1] == (machine.ARENA_MAX, machine.AFTERWARDS[machine.ARENA_MAX])
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    before = list(glibc)
    with machine.share_arena():
        assert glibc == before


# --- interrupts

posix = pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signal masks are POSIX")

CHILD = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"


def blocked_in_a_child():
    return subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True).stdout.strip()


@posix
def test_processes_started_inside_do_not_see_ctrl_c_and_those_after_it_do():
    with workers_ignore_interrupts():
        assert blocked_in_a_child() == "True"
    assert blocked_in_a_child() == "False"


@posix
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


@posix
def test_an_interrupt_inside_is_delivered_at_the_end(default_interrupts):
    with pytest.raises(KeyboardInterrupt), workers_ignore_interrupts():
        signal.raise_signal(signal.SIGINT)  # in this thread: any other may take what is sent to the process, and later
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
