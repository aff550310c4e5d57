"""Times the training steps of RecBole's BERT4Rec, or its recommendations to all users.

Run by `training_speed.py` and `recommend_speed.py` in an environment that has RecBole. Its only argument is a JSON
object of settings (see these scripts); the last line that it prints is one, too.
"""

import pathlib
import tempfile

import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.sequential_recommender import BERT4Rec
from recbole.utils import init_seed
from recbole.utils.case_study import full_sort_topk
from timed_steps import print_speed, print_users_per_second, read_settings, train

settings = read_settings()
work = pathlib.Path(tempfile.mkdtemp())
(work / "log").mkdir()
log = pathlib.Path(settings["log"]).read_text(encoding="utf-8").split("\n")[:-1]
with (work / "log/log.inter").open("w", encoding="utf-8") as out:
    out.write("user_id:token\titem_id:token\ttimestamp:float\n")
    out.writelines(f"{line.replace(' ', chr(9))}\t{number}\n" for number, line in enumerate(log))
config = Config(
    model="BERT4Rec",
    dataset="log",
    config_dict={
        "data_path": str(work),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "MAX_ITEM_LIST_LENGTH": settings["max_seq_length"],
        "train_batch_size": settings["batch_size"],
        "hidden_size": settings["hidden_size"],
        "inner_size": 4 * settings["hidden_size"],
        "n_layers": settings["num_layers"],
        "n_heads": settings["num_heads"],
        "mask_ratio": settings["masking_rate"],
        "hidden_dropout_prob": settings["dropout"],
        "attn_dropout_prob": settings["dropout"],
        "train_neg_sample_args": None,
        "loss_type": "CE",
        "use_gpu": False,
        "show_progress": False,
        "seed": 1,
    },
)
init_seed(1, reproducibility=False)
dataset = create_dataset(config)
train_data, _, test_data = data_preparation(config, dataset)
model = BERT4Rec(config, train_data.dataset)
optimizer = torch.optim.Adam(model.parameters(), lr=config["learning_rate"])
# The steps of recbole.trainer.Trainer on one device.
ends = train(train_data, model.calculate_loss, optimizer, settings["steps"])


def recommend() -> None:
    """All users, some at a time: at once, their scores of all items would be in memory together."""
    users = test_data.dataset.inter_feat[test_data.dataset.uid_field].unique().numpy()
    for first in range(0, len(users), settings["users_at_once"]):
        full_sort_topk(users[first : first + settings["users_at_once"]], model, test_data, settings["top_k"])


if "top_k" in settings:
    print_users_per_second(recommend, dataset.user_num - 1)  # the first id is padding
else:
    print_speed(ends, settings)
