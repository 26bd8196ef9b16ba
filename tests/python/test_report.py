"""`edgekern report`: what the page says of a run, and of several."""

from __future__ import annotations

import html.parser
import json
import re
from dataclasses import replace

import pytest
from report_runs import NO_SENSOR, layers, measured, run, stage, with_energy, write_log, write_run
from test_cli import invoke

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from edgekern.report.page.curves import read_curves
from edgekern.report.page.facts import Point, unbeaten
from edgekern.report.page.layers import shortened
from edgekern.report.page.texts import model_name
from edgekern.report.page.write import write_report

HOSTILE = "<script>alert(1)</script>\"'&$x^2$\x00\ud800\n|`"


class Reader(html.parser.HTMLParser):
    """The text of a page, and its elements."""

    EMPTY = ("meta", "link")

    def __init__(self, text):
        super().__init__()
        self.words, self.elements, self.ids, self.open = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.ids += [value for key, value in attrs if key == "id"]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def read(written):
    page = Reader(written.page.read_text(encoding="utf-8"))
    assert not page.open, "every element is closed"
    assert len(page.ids) == len(set(page.ids))
    return page


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A whole run's report."""
    folder = write_run(tmp_path_factory.mktemp("run"))
    return write_report([folder], folder / "report")


def test_the_first_screen_has_the_figures(full):
    text = read(full).text
    for said in (
        "4.00\N{MULTIPLICATION SIGN}",
        "smaller",
        "faster",
        "21.5 MiB on disk, was 85.8 MiB",
        "98.9 %",
        "of accuracy kept",
    ):
        assert said in text
    assert "6.25 ms a call on 2 threads, was 25.0 ms" in text
    assert f"N{NO_SENSOR[1:]}." in text
    assert "why not is said below" in text


def test_everything_else_is_there_too(full):
    text = read(full).text
    for said in (
        "Latency, 1 thread",
        "Size in memory",
        "sparse",
        "1 h 07 min",
        "abababababab",
        "pruned/model.safetensors",
    ):
        assert said in text
    for said in (
        "lm_head: left alone",
        "All 15 layers as a table",
        "encoder.layer.14.attention.output.dense",
        "Some CPU",
    ):
        assert said in text
    assert "3 others" in text
    assert "has not ended" not in text


def test_every_chart_is_a_png_too(full):
    page = read(full)
    assert sum(tag == "svg" for tag, _ in page.elements) == len(full.charts) == 11
    stems = {name.removesuffix(".png") for name in full.charts}
    assert {"size", "latency", "quality", "frontier-latency", "frontier-size", "layers-bytes", "layers-time"} <= stems
    assert {"layers-error", "training-tuned-loss", "training-tuned-evaluation-accuracy", "training-tuned-rate"} <= stems
    for name in full.charts:
        data = full.page.with_name(name).read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) > 5000
    assert sorted(path.name for path in full.page.parent.iterdir()) == sorted(["index.html", *full.charts])


def test_the_page_needs_nothing_else(full):
    text = full.page.read_text(encoding="utf-8")
    assert not re.findall(r"https?:|//[a-z]|@import|<script|javascript:", text)
    for tag, attributes in read(full).elements:
        assert tag not in ("script", "iframe", "img", "object", "embed")
        for key in ("src", "href"):
            if key in attributes:
                assert attributes[key].startswith(("#", "data:"))
        assert not [key for key in attributes if key.startswith("on")]


def test_charts_have_the_colours_of_the_theme(full):
    svgs = re.findall(r"<svg.*?</svg>", full.page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert all("var(--" in svg for svg in svgs)
    for svg in svgs:
        assert not re.findall(r"#(?!000000)[0-9a-f]{6}\b", svg, flags=re.IGNORECASE)


def test_names_are_shown_as_they_are_and_do_nothing(tmp_path):
    point = measured(
        metric=HOSTILE,
        layers=tuple(replace(layer, name=f"{HOSTILE}{i}", form=HOSTILE) for i, layer in enumerate(layers())),
    )
    record = run(
        stage(HOSTILE, measured=replace(point, joules_reason=HOSTILE)),
        stage(
            "tuned" + HOSTILE, "fine_tune", metrics="log", outputs={HOSTILE: HOSTILE}, notes=(HOSTILE,), inputs=HOSTILE
        ),
        stage("last" + HOSTILE, measured=point),
        model=HOSTILE,
        recipe=HOSTILE,
        machine={HOSTILE: HOSTILE, "cpu": HOSTILE, "isa": HOSTILE},
    )
    folder = write_run(tmp_path / "run", record)
    write_log(folder / "log", **{HOSTILE: 1.0})
    page = read(write_report([folder], tmp_path / "report"))
    assert not [tag for tag, _ in page.elements if tag == "script"]
    assert "<script>alert(1)</script>" in page.text
    assert "$x^2$\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}" in page.text


@pytest.mark.parametrize(
    ("record", "said", "missing"),
    [
        (
            run(complete=False),
            ["No model was measured", "No stage has ended", "has not ended"],
            ["Before and after", "Layers"],
        ),
        (
            run(stage("only", measured=measured())),
            ["85.8 MiB", "0.9100", "25.0 ms", "nothing to compare with", "Latency, 1 thread"],
            ["kept", "Frontier", "faster", "the same"],
        ),
        (run(stage("only", measured=measured(layers=()))), ["85.8 MiB"], ["Layers"]),
        (run(stage("only", "prune")), ["No model was measured"], ["Before and after"]),
        (run(stage("a", measured=measured(milliseconds={}))), ["85.8 MiB", "not measured"], ["Latency,"]),
        (
            run(stage("a", measured=measured()), stage("b", measured=measured(milliseconds={4: 1.0}))),
            ["not timed at the same number of threads"],
            ["faster"],
        ),
        (
            run(
                stage("a", measured=measured()),
                stage("b", measured=measured(12.5, metric="perplexity", higher_is_better=False)),
            ),
            ["it began with 0.9100 in accuracy"],
            ["kept", "Frontier"],
        ),
        (
            run(
                *(
                    stage(f"s{i}", measured=measured(q, 1 - i / 2, metric="perplexity", higher_is_better=False))
                    for i, q in enumerate((10.0, 10.5))
                )
            ),
            ["+5.0 %", "perplexity, lower is better", "Frontier of perplexity"],
            ["kept"],
        ),
        (
            run(stage("a", measured=measured(-0.5)), stage("b", measured=measured(0.1))),
            ["0.1000, was -0.5000"],
            ["kept"],
        ),
        (
            run(
                stage("a", measured=with_energy(measured(), t2=3.0)),
                stage("b", measured=with_energy(measured(), t2=1.0)),
            ),
            [
                "3.00\N{MULTIPLICATION SIGN}",
                "less energy",
                "1.00 J a call on 2 threads, was 3.00 J",
                "Energy a call, 2 threads",
            ],
            ["not measured", NO_SENSOR[1:]],
        ),
        (
            run(stage("a", measured=with_energy(measured(), t2=3.0)), stage("b", measured=measured())),
            ["not measured", f"N{NO_SENSOR[1:]}."],
            ["less energy"],
        ),
        (
            run(
                stage("a", measured=with_energy(measured(), t1=3.0)),
                stage("b", measured=with_energy(measured(), t2=1.0)),
            ),
            ["the two were not measured at the same number of threads", "Energy a call, 2 threads"],
            ["below", "less energy"],
        ),
    ],
    ids=[
        "nothing",
        "one model",
        "no layers",
        "no evaluation",
        "untimed",
        "other threads",
        "two metrics",
        "lower",
        "negative",
        "joules",
        "lost sensor",
        "joules at other threads",
    ],
)
def test_what_is_not_there_is_not_shown(record, said, missing, tmp_path):
    text = read(write_report([write_run(tmp_path, record)], tmp_path / "report")).text
    assert [each for each in said if each not in text] == []
    assert [each for each in missing if each in text] == []


def test_worse_is_called_worse(tmp_path):
    record = run(stage("a", measured=measured(0.9, 0.5)), stage("b", measured=measured(0.8, 1.0)))
    page = read(write_report([write_run(tmp_path, record)], tmp_path / "report"))
    assert "2.00\N{MULTIPLICATION SIGN} slower" in page.text
    assert "2.00\N{MULTIPLICATION SIGN} larger" in page.text
    values = [
        attributes["class"].split()
        for _, attributes in page.elements
        if attributes.get("class", "").startswith("value ")
    ]
    assert [("bad" in each) for each in values] == [True, True, True, False]


def test_the_frontier_is_what_nothing_beats():
    points = [
        Point("r", "dense", measured(0.91, 1.0)),
        Point("r", "worse in all", measured(0.90, 1.1)),
        Point("r", "as good", measured(0.91, 1.0)),
        Point("r", "smaller", measured(0.80, 0.5)),
    ]
    assert unbeaten(points, 2) == (True, False, True, True)
    slow = Point("r", "small but slow", measured(0.91, 0.9, milliseconds={2: 99.0}))
    assert unbeaten([points[0], slow], 2) == (True, True)
    assert unbeaten([points[0], slow], None) == (False, True)


def test_files_of_names_that_are_alike(tmp_path):
    """Stages whose names become one file's name, and one that is called as the second of them would be."""
    names = ("a b", "a-b", "A B", "a b loss 2")
    stages = [stage(name, "fine_tune", metrics=f"log{i}") for i, name in enumerate(names)]
    written = write_report([write_run(tmp_path, run(*stages))], tmp_path / "report")
    losses = [name for name in written.charts if "-loss" in name and "evaluation" not in name]
    assert len(losses) == len(set(losses)) >= len(names)
    assert sorted(path.name for path in written.page.parent.iterdir()) == sorted(["index.html", *written.charts])


def test_a_log_that_is_gone_is_said(tmp_path):
    folder = write_run(tmp_path)
    (folder / "tuned/log.jsonl").unlink()
    assert "Its log, tuned/log.jsonl, is not there any more." in read(write_report([folder], tmp_path / "report")).text


def test_an_empty_log_is_said(tmp_path):
    folder = write_run(tmp_path)
    (folder / "tuned/log.jsonl").write_text("")
    assert "It has logged no step." in read(write_report([folder], tmp_path / "report")).text


def test_logs_are_read_as_they_are_written(tmp_path):
    path = tmp_path / "log.jsonl"
    write_log(path, steps=20, logits=2.0)
    with path.open("a") as file:
        file.write('{"step": 21, "loss": NaN, "lr": 0.5}\n{"step": 22, "lo')
    curves = read_curves(path)
    assert list(curves.losses) == ["loss", "logits"]
    assert curves.losses["logits"].values == [2.0 / step for step in range(1, 21)]
    assert curves.evaluations["accuracy"].steps == [10, 20]
    assert curves.rate.steps[-1] == 21
    thin = curves.losses["loss"].thinned(4)
    assert thin.steps == [3.0, 8.0, 13.0, 18.0]
    assert thin.values[0] == pytest.approx(sum(1 / step for step in range(1, 6)) / 5)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nonsense", "line 51 is not JSON"),
        ("[1]", "line 51: expected an object, got list"),
        ('{"loss": 1.0}', "line 51: expected a whole number as step, got null"),
        ('{"step": 9, "evaluation": 1.0}', "line 51: expected evaluation to be an object, got 1.0"),
    ],
)
def test_a_log_that_is_none_is_an_error(line, said, tmp_path):
    write_log(tmp_path / "log", steps=46)
    with (tmp_path / "log").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(ValueError, match=re.escape(said)):
        read_curves(tmp_path / "log")


def test_several_runs_are_compared(tmp_path):
    one, two = (
        write_run(tmp_path / "one"),
        write_run(tmp_path / "two", run(stage("final", measured=measured(0.95, 2.0)))),
    )
    done = invoke("report", str(one), str(two), "--output", str(tmp_path / "both"))
    assert done.exit_code == 0, done.output
    text = Reader((tmp_path / "both/index.html").read_text(encoding="utf-8")).text
    for said in ("2 runs compared", "one: last", "two: final", "All of one", "All of two"):
        assert said in text
    assert "not run on the same machine" not in text
    assert {"frontier-latency.png", "one-size.png", "two-size.png"} <= {
        path.name for path in (tmp_path / "both").iterdir()
    }


@pytest.mark.parametrize(
    ("named", "shown"),
    [
        ("MiniLM", "MiniLM"),
        ("/home/ada/models/all-MiniLM-L6-v2/", "all-MiniLM-L6-v2"),
        (r"C:\Users\ada\MiniLM", "MiniLM"),
        ("../llama-run/model", "llama-run"),
        ("model", "model"),
        ("/hub/models--sentence-transformers--all-MiniLM-L6-v2/snapshots/c9745ed1d9f2", "all-MiniLM-L6-v2"),
        ("/", "/"),
    ],
)
def test_a_model_is_called_by_the_last_part_of_its_path(named, shown):
    assert model_name(named) == shown


def test_a_page_holds_no_paths(tmp_path):
    """Neither that of the model, nor those of the runs; nor do the pictures."""
    model = str(tmp_path / "private" / "minilm")
    one, two = (write_run(tmp_path / name / "out", run(stage("a", measured=measured()), model=model)) for name in "ab")
    for written in (write_report([one], tmp_path / "alone"), write_report([one, two], tmp_path / "both")):
        text = read(written).text
        assert "minilm" in text
        for file in written.page.parent.iterdir():
            data = file.read_bytes()
            assert b"private" not in data
            assert bytes(tmp_path.parent) not in data
    assert "a/out" in text
    assert "b/out" in text


def test_machines_that_differ_are_said(tmp_path):
    one = write_run(tmp_path / "one", run(stage("a", measured=measured())))
    two = write_run(tmp_path / "two", run(stage("a", measured=measured()), machine={"cpu": "Another CPU"}))
    assert "not run on the same machine" in read(write_report([one, two], tmp_path / "both")).text


def test_the_command_writes_beside_the_run(tmp_path):
    folder = write_run(tmp_path / "out", run(stage("only", measured=measured())))
    done = invoke("report", str(folder))
    assert done.exit_code == 0, done.output
    assert f"Written to {folder / 'report'}: index.html, size.png, latency.png, quality.png" in done.stdout
    assert (folder / "report/index.html").exists()


def test_what_the_command_refuses(tmp_path):
    folder = write_run(tmp_path / "out")
    for arguments, said in (
        ((str(tmp_path),), "holds no run.json"),
        ((str(folder), str(tmp_path)), "--output: expected a folder"),
        ((str(folder), str(folder), "--output", str(tmp_path / "both")), "expected each once"),
    ):
        with pytest.raises((ValueError, OSError), match=re.escape(said)):
            invoke("report", *arguments)
    (folder / "run.json").write_text(json.dumps({"format": 1}))
    with pytest.raises(ValueError, match="the file has no 'model'"):
        invoke("report", str(folder))


def test_the_same_run_gives_the_same_page(full, tmp_path):
    again = write_report([full.page.parents[1]], tmp_path)
    assert again.page.read_bytes() == full.page.read_bytes()


def test_many_models_have_names_that_fit(tmp_path):
    """Twenty points at one place: their names are written apart."""
    record = run(*(stage(f"model number {i}", measured=measured(0.9 + i / 10000)) for i in range(20)))
    page = read(write_report([write_run(tmp_path, record)], tmp_path / "report"))
    assert "model number 19" in page.text


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["encoder.layer.0.query", "encoder.layer.1.query"], ["…0.query", "…1.query"]),
        (["encoder.0", "head"], ["encoder.0", "head"]),
        (["a.b", "a"], ["a.b", "a"]),
        (["a.b.c"], ["a.b.c"]),
        ([], []),
    ],
)
def test_names_of_layers_are_told_apart(names, shown):
    assert shortened(names) == shown
