import pytest

from biofuse.core.machine import SHARE, available_memory, memory_limit


def machine(tmp_path, **files):
    for name, text in files.items():
        path = tmp_path / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


MEMINFO = "MemTotal:       16384 kB\nMemFree:         1024 kB\nMemAvailable:    8192 kB\n"


def test_it_is_what_the_machine_has_available(tmp_path):
    root = machine(tmp_path, proc__meminfo=MEMINFO)
    assert available_memory(root=root) == 8192 * 1024
    assert memory_limit(root=root) == int(SHARE * 8192 * 1024)


@pytest.mark.parametrize(
    ("folder", "most", "used", "cache"),
    [
        ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
        ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ],
)
def test_a_container_may_have_less(tmp_path, folder, most, used, cache):
    root = machine(tmp_path, proc__meminfo=MEMINFO)
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
