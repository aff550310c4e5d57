"""Shows what a model recommends, and why, on a page of this machine: search, click, compare, look at test users.

python explore.py --export_dir=exports/ml-1m
python explore.py --server=localhost:8500 --model=ml-1m
python explore.py --export_dir=exports/ml-1m --compare_with=exports/new --data_dir=data/ml-1m
"""

from bert4rec_tf.commands.entry_point import start

if __name__ == "__main__":
    start("explore")
