"""Searches for settings that give a better validation NDCG@10, by Optuna. The test split is not read.

python search.py --data_dir=data/log --study_dir=searches/log --time_limit_minutes=60
python train.py --data_dir=data/log --model_dir=models/log --config=searches/log/best.json
"""

from bert4rec_tf.commands.entry_point import start

if __name__ == "__main__":
    start("search")
