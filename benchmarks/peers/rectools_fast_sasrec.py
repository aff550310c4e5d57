"""Times the training steps of RecTools' left-to-right network (`rectools.fast_transformers`).

Run by `training_speed.py` in an environment that has RecTools. That package has the network and the batches, but no
trainer for plain item ids, so the loop is the shortest one: full softmax, Adam. Argument and output are those of
`rectools_bert4rec.py`.
"""

import itertools

import pandas as pd
import torch
from rectools.fast_transformers import FlatSASRecNet, SequenceBatchDataset, build_sequences
from timed_steps import print_speed, read_settings, train

settings = read_settings()
torch.manual_seed(1)
# The log is in time order for each user, and has no timestamps.
log = pd.read_csv(settings["log"], sep=" ", names=["user", "item"])
ids = [torch.tensor(pd.factorize(log[column])[0]) for column in ("user", "item")]
x, y, items, _ = build_sequences(*ids, torch.arange(len(log)), settings["max_seq_length"])
net = FlatSASRecNet(
    len(items),
    settings["hidden_size"],
    settings["num_layers"],
    settings["num_heads"],
    settings["max_seq_length"],
    settings["dropout"],
)
batches = torch.utils.data.DataLoader(SequenceBatchDataset(x, y), settings["batch_size"], shuffle=True, drop_last=True)
optimizer = torch.optim.Adam(net.parameters(), lr=0.001)


def loss_of(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The mean loss of a batch. Class 0 is the first item; padding has item 0, so class -1, which is ignored."""
    return torch.nn.functional.cross_entropy(net(batch).flatten(0, 1), batch["y"].flatten() - 1, ignore_index=-1)


endless = itertools.chain.from_iterable(itertools.repeat(batches))
print_speed(train(endless, loss_of, optimizer, settings["steps"]), settings)
