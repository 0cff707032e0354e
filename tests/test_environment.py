import getpass
import json
import platform

from medkd.environment import cpu_flags, environment


def test_says_what_a_figure_depends_on():
    here = environment()
    assert here["cores"] >= 1
    assert here["memory_gib"] > 0
    assert here["packages"]["numpy"]


def test_names_neither_host_nor_user():
    text = json.dumps(environment())
    assert platform.node() not in text.split('"')
    assert getpass.getuser() not in text.split('"')


def test_flags_are_the_processors_own():
    from pathlib import Path

    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        assert cpu_flags() <= set(cpuinfo.read_text().split())
