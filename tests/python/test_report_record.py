"""run.json: written and read back, and what is refused."""

from __future__ import annotations

import json

import pytest
from report_runs import full_run, measured, run, stage, with_energy, write_run

from edgekern.compress.record_file import RecordError, read_record, write_record


@pytest.mark.parametrize(
    "record",
    [full_run(), run(), run(stage("a", measured=with_energy(measured(-1.5), t1=0.5, t2=0.25)), complete=False)],
    ids=["full", "no stage", "joules"],
)
def test_what_is_written_is_read_back(record, tmp_path):
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_keys_with_defaults_may_be_missing(tmp_path):
    write_record(tmp_path, run(stage("a")))
    data = json.loads((tmp_path / "run.json").read_text())
    del data["stages"][0]["notes"], data["complete"]
    (tmp_path / "run.json").write_text(json.dumps(data))
    assert read_record(tmp_path) == run(stage("a"), complete=False)


def test_no_record(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no run\.json; expected the folder"):
        read_record(tmp_path)


def test_infinite_numbers_are_not_written(tmp_path):
    before = write_run(tmp_path) / "run.json"
    text = before.read_text()
    with pytest.raises(ValueError, match="JSON"):
        write_record(tmp_path, run(stage("a", seconds=float("inf"))))
    assert before.read_text() == text


def changed(*keys, to):
    """The file's data with one value changed."""

    def change(data):
        inside = data
        for key in keys[:-1]:
            inside = inside[key]
        if to is None:
            del inside[keys[-1]]
        else:
            inside[keys[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed("format", to=2), "has the format 2, this edgekern reads 1"),
        (changed("format", to=None), 'has no "format"'),
        (changed("model", to=None), "the file has no 'model'"),
        (changed("author", to="x"), "the file has an unknown key 'author'; known are model, recipe"),
        (changed("complete", to=1), "complete: expected true or false, got 1"),
        (changed("stages", to={}), "stages: expected a list, got {}"),
        (changed("stages", 1, "seconds", to="long"), r"stages\[1\].seconds: expected a finite number, got \"long\""),
        (changed("stages", 1, "seconds", to=float("nan")), r"stages\[1\].seconds: expected a finite number, got NaN"),
        (changed("stages", 1, "seconds", to=-1), r"stages\[1\].seconds: expected 0 or more, got -1"),
        (changed("stages", 1, "name", to="dense"), r"stages\[1\].name: 'dense' is the name of an earlier stage too"),
        (
            changed("stages", 2, "metrics", to="../log"),
            r"stages\[2\]: expected paths inside of the folder, got \"../log\"",
        ),
        (changed("stages", 2, "metrics", to="/etc/passwd"), "expected paths inside of the folder"),
        (changed("stages", 1, "outputs", to={"C:\\x": "ab"}), "expected paths inside of the folder"),
        (changed("stages", 0, "measured", "bytes_on_disk", to=True), "measured.bytes_on_disk: expected a whole number"),
        (changed("stages", 0, "measured", "milliseconds", to={"two": 1.0}), "expected numbers of threads as keys"),
        (
            changed("stages", 0, "measured", "layers", 3, "form", to=8),
            r"measured.layers\[3\].form: expected text, got 8",
        ),
    ],
)
def test_what_is_wrong_is_named(change, said, tmp_path):
    path = write_run(tmp_path) / "run.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(RecordError, match=said) as caught:
        read_record(tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff", "[" * 100_000])
def test_what_is_no_record_at_all(text, tmp_path):
    (tmp_path / "run.json").write_text(text, encoding="latin-1")
    with pytest.raises(RecordError, match=r"run\.json"):
        read_record(tmp_path)
