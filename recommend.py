"""Recommends items to every user of a log, or of a data directory, and writes them as Parquet or JSON lines.

python recommend.py --export_dir=exports/ml-1m --input=ml-1m.txt --output=recommendations/ml-1m
python recommend.py --model_dir=models/ml-1m --data_dir=data/ml-1m --output=recommendations/ml-1m

Each row has user_id, item_ids (best first), scores and model_version. `_SUCCESS` is written last. A run that was
stopped goes on when the same command is run again.
"""

from bert4rec_tf.commands.entry_point import start

if __name__ == "__main__":
    start("recommend")
