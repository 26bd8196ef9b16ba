"""What the wheel holds: the Python package. The C library is for `cmake --install`."""

from importlib import metadata


def test_the_wheel_holds_the_package_alone():
    files = metadata.files("edgekern")
    assert files
    tops = {file.parts[0] for file in files if file.parts[0] != ".."}  # what goes up is the command, bin/edgekern
    assert {top for top in tops if not top.endswith(".dist-info")} == {"edgekern", "edgekern_cli"}
    kinds = {file.suffix for file in files if file.parts[0] in ("edgekern", "edgekern_cli")}
    assert kinds - {".pyc"} == {".py", ".so", ".typed", ".toml", ".html", ".css"}  # recipes, and the report's page
