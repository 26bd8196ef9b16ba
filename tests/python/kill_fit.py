"""Trains in child processes that are killed at random moments, until one comes to its end; run by test_train_kill.py.

python kill_fit.py FOLDER ROUNDS SEED
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from forked import finished, start
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from edgekern import AGP, EarlyStop, FitConfig, Prune
from edgekern.train import PruneGradually, fit

STEPS = 60
CONFIG = FitConfig(
    steps=STEPS,
    optimizer={"name": "adamw", "lr": 0.01, "amsgrad": True},
    scheduler={"name": "warmup_cosine", "warmup": 0.1},
    accumulate=2,
    clip=1.0,
    evaluate_every=7,
    early_stop=EarlyStop(100, restore_best=True),
    checkpoint_every=3,
)


def train(folder: Path) -> None:
    """A training with everything that has to be remembered."""
    torch.manual_seed(1)
    x = torch.randn(90, 12)
    y = (x[:, :4].argmax(1) + (x[:, 4] > 0)) % 4
    model = nn.Sequential(nn.Linear(12, 32), nn.BatchNorm1d(32), nn.Dropout(0.2), nn.ReLU(), nn.Linear(32, 4))

    def loss(model, batch):
        time.sleep(0.002)
        noise = random.random() * torch.rand(()) * 0.1  # of two generators that a loss may use
        return nn.functional.cross_entropy(model(batch[0]), batch[1]) * (1 + noise)

    def evaluate(model):
        return nn.functional.cross_entropy(model(x), y).item()

    batches = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True, drop_last=True)
    fit(
        model,
        batches,
        loss,
        CONFIG,
        callbacks=[PruneGradually(Prune(0.6), AGP(5, 40, every=5))],
        evaluate=evaluate,
        checkpoint=folder / "fit.pt",
        log=folder / "log.jsonl",
        progress=False,
    )
    torch.save(model.state_dict(), folder / "weights.pt")


def lines(path: Path) -> int:
    """Lines of a file; 0 when there is none yet."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_somewhere(child: int, log: Path, choose: random.Random) -> None:
    """Kills a child a random moment after a random one of the steps it has left; or soon after it was started."""
    before = lines(log)
    wanted = before + choose.randrange(0, max(1, STEPS - 10 - before))
    while lines(log) < wanted and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.0005)
    time.sleep(choose.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)


def main() -> None:
    """Prints how often there was a kill, for each round."""
    root, rounds, choose = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    torch.set_num_threads(1)
    whole = root / "whole"
    whole.mkdir()
    finished(start(train, whole))
    for number in range(rounds):
        folder = root / f"round{number}"
        folder.mkdir()
        kills, ended = 0, False
        while not ended:
            child = start(train, folder)
            if kills < 4:
                kill_somewhere(child, folder / "log.jsonl", choose)
            ended = finished(child)
            kills += not ended
        print(kills, flush=True)


if __name__ == "__main__":
    main()
