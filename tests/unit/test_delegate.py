"""Which file a delegate is, and what its failure is told as."""

from pathlib import Path

import pytest

from cni_py.invoke.delegate import find_plugin
from cni_py.invoke.process import run_plugin
from cni_py.model.errors import CniPyError, DelegatedError, PluginError
from cni_py.spec.codes import code_of


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "-x", "a b", "x\n", "x" * 256, "\0"], ids=repr)
def test_a_name_is_no_path(name: str, tmp_path: Path) -> None:
    """CVE-2021-20206: a type with directories in it is refused, as is what no file can be called."""
    with pytest.raises(PluginError, match="invalid plugin name"):
        find_plugin(name, (str(tmp_path),))


def test_the_first_file_on_the_path(tmp_path: Path) -> None:
    """Directories and missing ones are passed over; a path that no file system can have is just not there."""
    (tmp_path / "a/x").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/x").write_text("")
    assert tmp_path / "b/x" == find_plugin("x", ("A" * 5000, str(tmp_path / "a"), "/nowhere", str(tmp_path / "b")))
    with pytest.raises(PluginError, match=r'failed to find plugin "y" in path \[/nowhere\]'):
        find_plugin("y", ("/nowhere",))


SCRIPTS = {
    "its own error": ('echo \'{"code": 123, "msg": "no", "details": "d"}\'; exit 1', DelegatedError, 123, "no"),
    "nothing": ("exit 3", PluginError, 999, "exit status 3"),
    "garbage": ("echo x; exit 1", PluginError, 999, "exit status 1"),
    "an error without a text": ("echo '{\"code\": 7}'; exit 1", PluginError, 999, "exit status 1"),
    "killed": ("kill -9 $$", PluginError, 999, "signal 9"),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_failed_plugin(name: str, tmp_path: Path) -> None:
    """Its own error goes up unchanged, with its code; without one the exit status is told."""
    script, error, code, text = SCRIPTS[name]
    plugin = tmp_path / "plugin"
    plugin.write_text(f"#!/bin/sh\n{script}\n")
    plugin.chmod(0o755)
    with pytest.raises(CniPyError) as caught:
        run_plugin(plugin, {}, b"{}")
    assert type(caught.value) is error
    assert code_of(caught.value) == code
    assert text in caught.value.message


def test_no_program(tmp_path: Path) -> None:
    """A file that cannot be run is named."""
    (tmp_path / "plugin").write_text("x")
    with pytest.raises(PluginError, match=r"cannot run plugin .*Permission denied"):
        run_plugin(tmp_path / "plugin", {}, b"{}")
