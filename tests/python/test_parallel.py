"""Models on several processes: real ones, over loopback; what they compute, and how they end."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", minversion="2.9")
pytest.importorskip("transformers", minversion="5")

from parallel_outcome import NEEDS, failed, succeeded  # noqa: E402
from parallel_scenarios import BATCH, PROMPT, empty, model_of, sequential  # noqa: E402
from tiny_llama import tiny  # noqa: E402
from torch import nn  # noqa: E402

import edgekern as ek  # noqa: E402
from edgekern import parallel  # noqa: E402
from edgekern.parallel.causal import KINDS  # noqa: E402
from edgekern.parallel.chain import cut  # noqa: E402
from edgekern.parallel.planning import Cost, divide  # noqa: E402

pytestmark = NEEDS
KILLS = int(os.environ.get("EDGEKERN_TEST_KILLS", "1"))
"""Ranks that are killed in the midst of writing; EDGEKERN_TEST_KILLS=20 for many."""


def written(model, ids, count, **options):
    given = {"max_new_tokens": count, "do_sample": False, "eos_token_id": None, "pad_token_id": 1, **options}
    given.setdefault("attention_mask", torch.ones_like(ids))
    with torch.inference_mode():
        return model.generate(ids, **given).tolist()


def logits(model, ids=BATCH):
    with torch.inference_mode():
        return model(ids).logits


# ------------------------------------------------------------------------------------------ pipelines


@pytest.mark.parametrize(("count", "scheme"), [(2, None), (3, "int8")])
def test_a_pipeline_writes_what_one_process_does(ranks, count, scheme):
    results = succeeded(ranks("pipeline", count, {"scheme": scheme}))
    model = model_of(scheme)
    mask = torch.ones_like(BATCH)
    mask[1, :5] = mask[3, :9] = 0
    one, batch = written(model, PROMPT, 12), written(model, BATCH, 6)
    ended = written(model, BATCH, 6, eos_token_id=batch[2][14])
    for found in results:
        assert found["one"] == one
        assert found["batch"] == batch
        assert found["padded"] == written(model, BATCH, 6, attention_mask=mask)
        assert found["ended"] == ended
        assert found["stages"] == results[0]["stages"]
    assert [found["logits"] is None for found in results] == [True] * (count - 1) + [False]
    torch.testing.assert_close(torch.tensor(results[-1]["logits"]), logits(model, PROMPT)[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scheme", [None, "int8", "head"])
def test_ranks_load_their_own_layers(ranks, tmp_path, scheme):
    model = model_of(scheme)
    ek.save(model, tmp_path / "saved")
    results = succeeded(ranks("pipeline", 2, {"checkpoint": str(tmp_path / "saved")}))
    assert [found["one"] for found in results] == [written(model, PROMPT, 12)] * 2
    if scheme is None:
        whole = sum(parameter.nbytes for parameter in model.parameters())
        assert max(found["held"] for found in results) < 0.8 * whole


def test_a_sequential_goes_through_ranks(ranks):
    first, second = succeeded(ranks("chain", 3))[-1]["results"]
    model = sequential()
    torch.manual_seed(1)
    with torch.inference_mode():
        for found, rows in ((first, 9), (second, 2)):
            torch.testing.assert_close(torch.tensor(found), model(torch.randn(rows, 12)))


@pytest.mark.parametrize("kind", KINDS)
def test_stages_of_every_kind_make_the_whole_model(kind):
    """In one process: each stage, with pieces of a prompt and with one token."""
    name = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}[kind]
    options = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1} if kind == "qwen2" else {}
    model = tiny(kind=name, **options)
    chain = cut(model)
    stages = [chain.stage(0, 1), chain.stage(1, 3), chain.stage(3, 5)]
    caches, found = [None] * 3, []
    with torch.inference_mode():
        for start, end in ((0, 17), (17, 39), (39, 40)):
            x = PROMPT[:, start:end]
            for i, stage in enumerate(stages):
                x, caches[i] = stage.run(x, caches[i], logits=0)
            found.append(x)
    torch.testing.assert_close(torch.cat(found, 1), logits(model, PROMPT), rtol=1e-4, atol=1e-5)
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1, 2]


# ------------------------------------------------------------------------------------------ plans


def test_a_plan_follows_speed_and_memory():
    model = nn.Sequential(*(nn.Linear(100, 100, bias=False) for _ in range(8)))
    chain = cut(model)

    costs = [Cost(1.0, 40_000, 2.0)] * 8

    def ends(slow, memory, tokens=0):
        table = [[Cost(cost.seconds * factor, cost.nbytes, cost.cache) for cost in costs] for factor in slow]
        return [stage.last for stage in divide(chain, table, memory, tokens).stages]

    assert ends([1, 1], [None, None]) == [4, 8]
    assert ends([3, 1], [None, None]) == [2, 8]
    assert ends([1, 1], [None, 130_000]) == [6, 8]  # two units, and room to read one
    assert ends([1, 1, 1], [90_000, None, None]) == [1, 5, 8] or ends([1, 1, 1], [90_000, None, None]) == [1, 4, 8]
    assert ends([1, 1], [130_000 + 2 * 2 * 1000, None], 1000) == [2, 8]
    with pytest.raises(parallel.ParallelError, match=r"0\.3 MB of weights and 0\.0 MB of cache.*0\.1 MB, 0\.2 MB"):
        ends([1, 1], [130_000, 200_000])
    with pytest.raises(parallel.ParallelError, match=r"8 units, fewer than the 9 ranks"):
        ends([1] * 9, [None] * 9)


def test_a_plan_is_measured_and_kept(tmp_path):
    model = model_of("int8")
    ek.save(model, tmp_path)
    plan = parallel.plan(model, [parallel.Rank(), parallel.Rank(speed=2.0, memory=10**9)], PROMPT, cache_tokens=10)
    assert parallel.Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    assert plan.units == ("model.embed_tokens", *(f"model.layers.{i}" for i in range(3)), "lm_head")
    assert all(stage.seconds > 0 and stage.nbytes > 0 for stage in plan.stages)
    assert "model.embed_tokens" in str(plan)
    streamed = parallel.measure(empty(), PROMPT, checkpoint=tmp_path)
    assert [cost.nbytes for cost in streamed] == [cost.nbytes for cost in parallel.measure(model, PROMPT)]
    width = 2 * 2 * 8 * 4  # keys and values of two heads of 8 float32
    assert [cost.cache for cost in streamed] == [0, width, width, width, 0]


def test_what_cannot_be_planned_is_told():
    with pytest.raises(ValueError, match=r"expected nn.Sequential, or a causal language model of type llama"):
        parallel.plan(nn.Linear(2, 2), 2, torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"on the meta device and has no values; give checkpoint="):
        parallel.plan(empty(), 2, PROMPT)
    with pytest.raises(TypeError, match=r"data: expected one batch"):
        parallel.plan(sequential(), 2, "words")
    with pytest.raises(ValueError, match=r"speed must be above 0"):
        parallel.Rank(speed=0)
    with pytest.raises(ValueError, match=r"without gaps"):
        parallel.Plan.from_dict({"units": ["a", "b"], "stages": [{"first": 0, "last": 1, "seconds": 1, "nbytes": 1}]})


# ------------------------------------------------------------------------------------------ how ranks end


@pytest.mark.parametrize("turn", range(KILLS))
def test_a_killed_rank_ends_all(ranks, turn):
    count, killed = 2 + turn % 2, turn % (2 + turn % 2)
    scenario = "adds_for_long" if turn % 5 == 3 and count == 2 else "write_for_long"
    found = ranks(scenario, count, kill=killed)
    others = [rank for rank in found if rank["rank"] != killed]
    assert len(others) == count - 1
    failed(others, "RankLostError", "RankFailedError")


def test_a_rank_that_stops_answering_ends_all(ranks):
    failed_soon = ranks("write_for_long", 2, {"silence": 2}, kill=1, signal=int(signal.SIGSTOP))
    failed(failed_soon, "rank 1 has been silent for")


def test_a_rank_that_is_told_to_end_says_so(ranks):
    found = ranks("write_for_long", 2, kill=0, signal=int(signal.SIGTERM))
    failed(found, "RankLostError", "RankFailedError")


def test_a_rank_that_raises_ends_all(ranks):
    one, other = ranks("fails", 2)
    assert "KeyError: 'the tokenizer has no such word'" in other["error"]
    assert "RankFailedError: rank 1 has failed: KeyError" in one["error"]


def test_a_plan_for_another_world_is_refused_by_all(ranks):
    failed(ranks("wrong_plan", 2), "the plan is for 3 ranks, and 2 were started")


def test_worlds_of_two_sizes_are_refused_by_all(ranks):
    failed(ranks("joins", 2, env={"1": {"WORLD_SIZE": "3"}}), "the world size must be the same on all ranks")


def test_ranks_that_do_not_come_are_named(ranks):
    failed(ranks("joins", 3, absent=[1]), "of 3 ranks, 1 did not come within 2 s")
    failed(ranks("joins", 2, absent=[0]), "does not answer within 2 s; is rank 0 started there?")


def test_two_processes_of_one_rank_are_refused(ranks):
    found = ranks("joins", 2, env={"1": {"RANK": "0"}})
    assert any("two processes were started as rank 0" in rank["error"] or "cannot be listened on" in rank["error"]
               for rank in found)  # fmt: skip
    failed(found, "StartError")


def test_outside_of_torchrun_it_says_how_to_start(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(parallel.StartError, match=r"RANK.* not set; start the program with: torchrun"):
        parallel.join()


def test_checkpoints_that_differ_are_refused_by_all(ranks, tmp_path):
    folders = [str(tmp_path / name) for name in ("one", "two", "broken", "smaller")]
    ek.save(model_of("int8"), folders[0])
    ek.save(model_of("int8", seed=1), folders[1])
    ek.save(model_of("int8"), folders[2])
    ek.save(model_of("int8", num_hidden_layers=2), folders[3])
    with open(Path(folders[2], "model.safetensors"), "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x55")
    found = ranks("other_checkpoint", 2, {"checkpoints": folders[:2]})
    failed(found, "RankMismatchError: the checkpoint must be the same on all ranks")
    one, other = found = ranks("other_checkpoint", 2, {"checkpoints": [folders[0], folders[2]]})
    failed(found, "has changed since it was saved (SHA-256 differs)")
    assert "RankFailedError: rank 1 failed while loading" in one["error"]
    assert "\nedgekern.checkpoint.errors.CheckpointCorruptError" in other["error"]
    failed(ranks("other_checkpoint", 2, {"checkpoints": [folders[3]] * 2}), "CheckpointMismatchError")
