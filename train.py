"""Trains BERT4Rec on a data directory.

python train.py --data_dir=data/ml-1m --model_dir=models/ml-1m
"""

from bert4rec_tf.commands.entry_point import start

if __name__ == "__main__":
    start("train")
